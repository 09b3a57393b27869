//! `inspect` of a public checkpoint: its family, what it is made of, what it takes to run, and whether it can be loaded.

use std::path::Path;

use burn::prelude::Device;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::model::TransformerConfig;
use crate::model::config::{Compute, TimeInput, Visibility};
use crate::model::family::{self, Checked, Description, LoadOptions, Prediction, adapters, memory};
use crate::model::transformer::lora::LoraConfig;
use crate::term;
use crate::weights::{self, NonFinite};

/// Positions of a sequence that memory is estimated for, at most.
const ESTIMATE_LENGTH: usize = 1024;

/// Rank and batch that training adapters is estimated for.
const RANK: usize = 16;
const BATCH: usize = 8;

/// Whether the directory's config.json is of someone else's model.
///
/// # Errors
/// As [`family::read_config`].
pub fn is_foreign(dir: &Path) -> Result<bool> {
    let (_, config) = family::read_config(dir)?;
    Ok(config["model_type"] != "fewstep")
}

fn time(d: &Description) -> &'static str {
    match d.network.time {
        TimeInput::None => "none",
        TimeInput::Sequence => "one time a sequence",
        TimeInput::Position => "one time a position",
        TimeInput::Sigma => "total noise sigma",
        TimeInput::ZeroSigma => "none (sigma is always 0)",
    }
}

fn visibility(d: &Description) -> String {
    match d.network.visibility {
        Visibility::Full => "full".into(),
        Visibility::Causal => "causal".into(),
        Visibility::Blocks(size) => format!("blocks of {size}"),
        Visibility::Order => "blocks of its order".into(),
    }
}

/// Prints what the directory holds, and whether it can be loaded; with `against`, how near the model's outputs are to stored
/// ones.
///
/// # Errors
/// A directory that cannot be loaded (input), after all that could be said of it was printed.
pub fn run(dir: &Path, against: Option<&Path>, as_json: bool, device: &Device) -> Result<()> {
    let Checked { description: d, store, tokenizer, non_finite, problem } = family::check(dir)?;
    d.notes.iter().for_each(|note| term::warn(note));
    let length = d.length.min(ESTIMATE_LENGTH);
    let parameters = d.network.parameters(d.vocab, if d.network.learned_positions { d.length } else { 0 });
    let (stored, dtype) = store.floats();
    let (sampling, training) =
        (memory::sampling(&d.network, d.vocab, length, 1), memory::training(&d.network, d.vocab, length, BATCH));
    let adapters = adapter_training(&d, length);
    let error = match (against, &problem) {
        (Some(file), None) => Some(largest_error(dir, file, device)?),
        _ => None,
    };
    let verdict = || problem.clone().map_or(Ok(()), Err);
    if as_json {
        let line = json!({
            "family": d.family.name(), "parameters": parameters as u64, "stored_values": stored, "dtype": dtype.name(),
            "loads": problem.is_none(), "problem": problem.as_ref().map(ToString::to_string), "non_finite": non_finite,
            "notes": d.notes, "ends": d.ends, "files": store.parts.len(),
            "vocabulary": d.vocab, "tokenizer": tokenizer, "mask": d.special.mask, "bos": d.special.bos,
            "eos": d.special.eos, "pad": d.special.pad, "length": d.length, "layers": d.network.layers,
            "width": d.network.dim, "visibility": visibility(&d), "time_conditioning": time(&d),
            "shift": d.network.shift_output, "memory_sampling": sampling as u64, "memory_training": training as u64,
            "memory_adapters": adapters.as_ref().map(|(bytes, _)| *bytes as u64),
            "largest_absolute_error": error,
        });
        term::out_json(line);
        return verdict();
    }
    let id = |id: Option<u32>| id.map_or("none".to_string(), |id| id.to_string());
    let tokens = tokenizer.map_or("not in the directory".into(), |n| format!("{n} tokens"));
    let s = d.special;
    let ends = match d.ends.len() {
        0 => "none".to_string(),
        _ => d.ends.iter().map(u32::to_string).collect::<Vec<_>>().join(" or "),
    };
    let rows = [
        ("family", d.family.name().to_string()),
        (
            "parameters",
            match problem {
                None => parameters.to_string(),
                Some(_) => format!("config.json asks for {parameters}; the files hold {stored} values"),
            },
        ),
        ("dtype", format!("{} in {} file(s)", dtype.name(), store.parts.len())),
        ("shape", format!("{} blocks of width {}, {} heads", d.network.layers, d.network.dim, d.network.heads)),
        ("length", d.length.to_string()),
        ("vocabulary", d.vocab.to_string()),
        ("tokenizer", tokens),
        ("mask id", id(s.mask)),
        ("special ids", format!("bos {}, eos {}, pad {}", id(s.bos), ends, id(s.pad))),
        ("visibility", visibility(&d)),
        ("time conditioning", time(&d).to_string()),
        ("shift", if d.network.shift_output { "row l predicts token l + 1" } else { "none" }.to_string()),
        ("memory, sampling", format!("about {} (batch 1, length {length}, f32)", memory::shown(sampling))),
        (
            "memory, training",
            format!("about {} (batch {BATCH}, length {length}, f32, all weights)", memory::shown(training)),
        ),
    ];
    let adapters = adapters.map(|(_, shown)| ("memory, adapters", shown));
    let checks = [
        ("not finite", format!("{non_finite} values")),
        ("loads", if problem.is_none() { "yes" } else { "no" }.to_string()),
    ];
    for (name, value) in rows.into_iter().chain(adapters).chain(checks) {
        term::out(format!("{name:<18} {value}"));
    }
    if let Some(error) = error {
        term::out(format!("largest absolute error of the logits: {error:.3e}"));
    }
    verdict()
}

/// What training adapters takes on frozen bf16 weights, and how to say so; nothing where the family is not trained.
fn adapter_training(d: &Description, length: usize) -> Option<(u128, String)> {
    let masked = matches!(d.family.prediction(), Prediction::Subs | Prediction::Logits) && d.special.mask.is_some();
    let config = LoraConfig { rank: RANK, alpha: RANK as f64, targets: None };
    let plan = config.plan("lora", &adapters::sites(d)).ok().filter(|_| masked)?;
    let network = TransformerConfig { compute: Compute::Bf16, checkpoint: true, ..d.network.clone() };
    let m = memory::adapter_training(&network, Compute::Bf16, plan.parameters(), d.vocab, [length, BATCH]);
    let parts = format!(
        "weights {}, adapters {}, activations {}, logits {}",
        memory::shown(m.frozen),
        memory::shown(m.adapters),
        memory::shown(m.activations),
        memory::shown(m.logits)
    );
    let total = memory::shown(m.total());
    let text = format!(
        "about {total} (LoRA of rank {RANK} on frozen bf16 weights, batch {BATCH}, length {length}, checkpointed: {parts})"
    );
    Some((m.total(), text))
}

/// The largest |output - stored output| on the inputs stored in `file`: `input_ids`, `timesteps` (total noises), `logits`.
fn largest_error(dir: &Path, file: &Path, device: &Device) -> Result<f64> {
    let place = file.display();
    let stored = weights::read(file, NonFinite::Refuse)?;
    let ints = weights::read_ints(file)?;
    let absent = |name: &str| Error::input(format!("{place} has no tensor `{name}`"));
    let ids = ints.get("input_ids").ok_or_else(|| absent("input_ids"))?;
    let want = stored.tensors.get("logits").ok_or_else(|| absent("logits"))?;
    let options = LoadOptions { length: Some(ids.shape.last().copied().unwrap_or(1)), ..LoadOptions::default() };
    let loaded = family::load(dir, &options, device)?;
    let v = loaded.description.vocab;
    let (b, wide, length) = match (&ids.shape[..], &want.shape[..]) {
        ([b, wide], [b2, length, v2]) if b == b2 && *v2 == v && *b > 0 && *length > 0 => (*b, *wide, *length),
        _ => {
            return Err(Error::input(format!(
                "{place}: `input_ids` {:?} and `logits` {:?} are not [B, L] and [B, L, {v}]",
                ids.shape, want.shape
            )));
        }
    };
    let sigma: Option<Vec<f64>> = match stored.tensors.get("timesteps") {
        Some(t) if t.shape == [b] => Some(t.data.iter().map(|s| f64::from(*s)).collect()),
        Some(t) => return Err(Error::input(format!("{place}: `timesteps` must be [{b}], but is {:?}", t.shape))),
        None => None,
    };
    let ids: Option<Vec<u32>> = ids.data.iter().map(|id| u32::try_from(*id).ok()).collect();
    let ids = ids.ok_or_else(|| Error::input(format!("{place}: `input_ids` must be token ids")))?;
    let got = family::forward(&loaded.description, &loaded.model, &ids, sigma.as_deref(), [wide, length], false)
        .map_err(|e| Error::input(format!("{place}: {}", e.message)))?;
    if got.iter().any(|v| !v.is_finite()) {
        return Err(Error::new(Kind::NonFinite, format!("{}: the logits are not finite numbers", dir.display())));
    }
    Ok(got.iter().zip(&want.data).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max))
}
