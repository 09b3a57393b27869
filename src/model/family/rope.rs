//! Rotary angles as config.json says them: `rope_theta` and `rope_scaling`, or `rope_parameters` of transformers 5, flat or
//! by kind of layer. What is said twice must agree.

use super::keys::Keys;
use crate::error::Result;
use crate::model::config::RopeScaling;

/// The kinds of layers that the network has.
pub const FULL: &str = "full_attention";
pub const SLIDING: &str = "sliding_attention";

/// The angles of one kind of layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: Option<RopeScaling>,
}

/// The angles of a network whose layers all see everything that their mask allows; `kinds`: its configuration class knows
/// kinds of layers, so that angles may be said by kind. (Other classes would pass over them.)
pub fn of_all(keys: &Keys, default: f64, length: usize, kinds: bool) -> Result<Rope> {
    let parameters = match keys.inside("rope_parameters")? {
        Some(inside) if inside.has(FULL) || inside.has(SLIDING) => {
            if !kinds {
                let key = if inside.has(FULL) { FULL } else { SLIDING };
                return Err(inside
                    .wrong(key, "is not known: layers of this family are of one kind")
                    .hint("write what it says directly under `rope_parameters`"));
            }
            let kinds = [FULL, SLIDING];
            if let Some(other) = inside.names().into_iter().find(|name| !kinds.contains(name)) {
                return Err(
                    inside.wrong(other, format!("stands beside `{FULL}`: it is not clear which layers it is of"))
                );
            }
            inside.inside(FULL)?
        }
        flat => flat,
    };
    one(keys, &["rope_theta"], parameters, default, length)
}

/// The angles of ModernBERT's layers: of those that see everything, and of local ones.
pub fn of_two(keys: &Keys, length: usize) -> Result<[Rope; 2]> {
    let parameters = keys.inside("rope_parameters")?;
    if let Some(inside) = &parameters
        && let Some(other) = inside.names().into_iter().find(|name| ![FULL, SLIDING].contains(name))
    {
        return Err(inside.wrong(other, format!("is not known: `{FULL}` and `{SLIDING}` have their own angles")));
    }
    let of = |kind: &str| parameters.as_ref().map_or(Ok(None), |inside| inside.inside(kind));
    let global = one(keys, &["global_rope_theta", "rope_theta"], of(FULL)?, 160_000.0, length)?;
    // Null: as everywhere else.
    let null = keys.has("local_rope_theta") && keys.get("local_rope_theta").is_none();
    let default = if null { global.theta } else { 10_000.0 };
    Ok([global, one(keys, &["local_rope_theta"], of(SLIDING)?, default, length)?])
}

/// The angles said by the keys `thetas`, by `rope_scaling`, and by `parameters`.
fn one(keys: &Keys, thetas: &[&str], parameters: Option<Keys>, default: f64, length: usize) -> Result<Rope> {
    let stretched = keys.inside("rope_scaling")?;
    let objects: Vec<Keys> = parameters.into_iter().chain(stretched).collect();
    let (mut theta, mut scaling) = (Vec::new(), Vec::new());
    for inside in &objects {
        theta.extend(inside.maybe_f64("rope_theta")?.map(|v| (inside.name("rope_theta"), v)));
        let kind = stretching(keys, inside, length)?;
        if ["rope_type", "type"].iter().any(|key| inside.get(key).is_some()) {
            scaling.push((inside.name("rope_type"), kind));
        }
        whole(inside)?;
    }
    for key in thetas {
        let null = keys.has(key) && keys.get(key).is_none();
        if null && *key != "local_rope_theta" {
            return Err(keys
                .wrong(key, "is null, which means nothing there")
                .hint("leave the key out, or give a value"));
        }
        theta.extend(keys.maybe_f64(key)?.map(|v| (keys.name(key), v)));
    }
    whole(keys)?;
    Ok(Rope { theta: keys.agreed(&theta)?.unwrap_or(default), scaling: keys.agreed(&scaling)?.flatten() })
}

/// Refuses angles on a part of each head alone.
fn whole(keys: &Keys) -> Result<()> {
    match keys.maybe_f64("partial_rotary_factor")? {
        Some(part) if part != 1.0 => {
            Err(keys.wrong("partial_rotary_factor", format!("is {part}, and only 1 is supported")))
        }
        _ => Ok(()),
    }
}

/// How `inside` stretches the angles of a model of `length`.
fn stretching(keys: &Keys, inside: &Keys, length: usize) -> Result<Option<RopeScaling>> {
    let (new, old) = (inside.text("rope_type")?, inside.text("type")?);
    let said = [("rope_type", new), ("type", old)];
    let said: Vec<_> = said.into_iter().filter_map(|(key, kind)| Some((inside.name(key), kind?))).collect();
    match inside.agreed(&said)? {
        None if inside.get("factor").is_some() => {
            Err(inside.wrong("rope_type", "is missing, and `factor` has no meaning without it"))
        }
        None | Some("default") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::linear(inside.f64("factor")?))),
        Some("llama3") => {
            let key = "original_max_position_embeddings";
            let mut old = Vec::new();
            for from in [inside, keys] {
                old.extend(from.maybe_f64(key)?.map(|v| (from.name(key), v)));
            }
            let old = keys.agreed(&old)?.unwrap_or(length as f64);
            let [factor, low, high] = ["factor", "low_freq_factor", "high_freq_factor"].map(|key| inside.f64(key));
            Ok(Some(RopeScaling::llama3(factor?, low?, high?, old)))
        }
        Some(other) => {
            let key = if new.is_some() { "rope_type" } else { "type" };
            Err(inside.wrong(key, format!("is \"{other}\", and only default, linear and llama3 are supported")))
        }
    }
}
