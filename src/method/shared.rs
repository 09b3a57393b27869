//! Shared uniforms: the positions of a step know which draws will pick their tokens (Parallel Token Prediction, ICLR 2026).
//!
//! A token is drawn by a uniform u through the distribution function of its prediction: x = F^-1(u). A model of finer phases,
//! which reveals the positions of a step one behind the other, gives for each token of a text the uniforms that would have drawn
//! it,
//!
//! ```text
//! u = F(x - 1) + U p(x)      U uniform, F and p given all finer phases before
//! ```
//!
//! which are uniform and independent given what stands before the step, because the finer model is asked behind exactly that.
//! The student reveals several of its phases in one step and is told all their uniforms. It learns the function from these to the
//! tokens by cross-entropy, and is sampled with uniforms drawn anew. What it can reach is the finer model's distribution.
//! (A left-to-right model does not see what lies to the right, so its uniforms are not uniform behind an order's phases.)
//! B batch, L length, V vocabulary, n rows.

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contract::{Network, Site, contradiction};
use super::masked::elbo;
use crate::error::{Error, Result};
use crate::loss::RowLoss;
use crate::model::draw;
use crate::model::{Denoise, Noised, Transformer, TransformerConfig};
use crate::process::{Order, Schedule};
use crate::rng::{Generators, Stream};

/// Where the uniforms come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedConfig {
    /// The model of this recipe whose phases are parts of the student's.
    pub finer: String,
}

/// The finest of the `finer` orders that has more phases than `coarse`, each of them inside one of `coarse` and none before an earlier
/// one of that.
pub fn finer(coarse: Order, finer: &[Order], length: usize) -> Option<Order> {
    let whole = coarse.phases(length, &[])?;
    let nests = |order: &&Order| {
        let Some(parts) = order.phases(length, &[]) else { return false };
        let phase = |rank: usize| whole.phase(parts.place(rank));
        let inside = (0..parts.count()).all(|n| parts.ranks_of(n).all(|r| phase(r) == phase(parts.ranks_of(n).start)));
        parts.count() > whole.count() && inside && (1..length).all(|rank| phase(rank - 1) <= phase(rank))
    };
    finer.iter().filter(nests).max_by_key(|order| order.blocks(length)).copied()
}

/// The uniform that draws `token` from a distribution given by its scores `[V]` (log-probabilities up to a constant); `within` in
/// [0, 1) says where between the token's borders it lies.
pub fn recovered(scores: &[f32], token: u32, within: f64) -> f64 {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let p: Vec<f64> = scores.iter().map(|s| f64::from(s - top).exp()).collect();
    let total: f64 = p.iter().sum();
    let before: f64 = p[..token as usize].iter().sum();
    // Below 1 whatever the rounding.
    ((before + within * p[token as usize]) / total).min(1.0 - f64::EPSILON)
}

/// The rows of one training step on x0 [B, L]: cross-entropy of every token behind the phases before its own and the uniforms of its
/// own phase.
///
/// # Errors
/// Predictions of the finer model that are not a distribution (non-finite).
pub fn rows(
    finer: &Transformer,
    fine: Order,
    coarse: Order,
    x0: &[u32],
    length: usize,
    schedule: Schedule,
    rng: Generators,
) -> Result<RowLoss> {
    let gens = || (rng.at(Stream::Times), rng.at(Stream::Corrupt));
    let asked = elbo(x0, length, finer.mask(), fine, schedule, gens());
    let features = finer.features_at(&asked.input, &asked.rows);
    let mut draws = rng.at(Stream::Shared);
    let within: Vec<f64> = asked.rows.iter().map(|_| draws.random()).collect();
    let of = |row: usize, scores: &[f32]| recovered(scores, x0[asked.rows[row]], within[row]);
    let found = draw::map_rows(finer, features, of)?;
    let mut uniforms = vec![0.0; x0.len()];
    asked.rows.iter().zip(found).for_each(|(at, u)| uniforms[*at] = u);
    let loss = elbo(x0, length, finer.mask(), coarse, schedule, gens());
    Ok(RowLoss { input: Noised { uniforms: Some(uniforms), ..loss.input }, ..loss })
}

/// Checks that shared uniforms are recovered from a model of finer phases, and read.
///
/// # Errors
/// A model without masks, a network that does not read uniforms, or a finer model whose phases do not make up this one's
/// (usage).
pub fn fits(shared: &SharedConfig, site: &Site, network: &TransformerConfig) -> Result<()> {
    let (at, net) = (site.at("shared"), site.key("network.uniforms"));
    if !site.method.facts().corruption.absorbs() {
        return Err(contradiction(&at, "..", &site.at("corruption"), "\"absorb\""));
    }
    if !network.uniforms {
        let error = Error::usage(format!("`{at}` needs `{net} = true`"))
            .cause("the network reads the uniforms that it learns to follow");
        return Err(match site.own {
            Some(_) => error.hint(format!("`{net} = true`")),
            None => error.hint(format!(
                "give it a table `[{}]` of its own: that of `{}` with `uniforms = true`",
                site.key("network"),
                site.network_place
            )),
        });
    }
    let finer = site.models.site(&shared.finer)?;
    let told = matches!(finer.network, Some(Network::Given(network)) if network.uniforms);
    let of = format!("`model.{}`, the finer model of `{at}`,", shared.finer);
    if !matches!(finer.method.facts().key, "elbo" | "sdtt") || told {
        return Err(Error::usage(format!("{of} is not a masked model whose predictions stand by themselves"))
            .cause("its predictions behind each of its phases are what the uniforms are recovered from")
            .hint("name a model that is trained by `objective.elbo` or `objective.sdtt`, without uniforms"));
    }
    let length = site.length.unwrap_or(1 << 10);
    if !finer.order.only_phased() || finer.order.follows_steps() {
        return Err(Error::usage(format!("{of} has no fixed phases: its order is {}", finer.order.shown()))
            .hint("name a model in `strided` phases, more than this one has"));
    }
    let theirs: Vec<Order> = finer.order.all(length);
    let nests = |order: Order| order.pattern.is_some() && self::finer(order, &theirs, length).is_some();
    match site.order.all(length).into_iter().all(nests) {
        true => Ok(()),
        false => Err(Error::usage(format!(
            "the phases of `{} = {}` are not made of several whole ones of `model.{}.order = {}`",
            site.key("order"),
            site.order.shown(),
            shared.finer,
            finer.order.shown()
        ))
        .cause("a step reveals phases of the finer model that follow each other there")
        .hint("name a model in finer phases: of sixteen, two at a time are `{ phases = [0, 0, 1, 1, .., 7, 7] }`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Pattern;
    use crate::process::order::phases::List;
    use crate::rng::StepRng;

    #[test]
    fn phases_nest_where_each_is_a_run_of_finer_ones() {
        let (l, strided) = (32, |k| Order::in_phases(Pattern::Strided(k), 32));
        let pairs = Order::in_phases(Pattern::Listed(List::new(&[0, 0, 1, 1, 2, 2, 3, 3]).unwrap()), l);
        assert_eq!(finer(pairs, &[strided(4), strided(8)], l), Some(strided(8)));
        assert_eq!(finer(strided(4), &[strided(8)], l), None, "every second phase of eight is none of a run");
        assert_eq!(finer(strided(4), &[strided(4)], l), None, "there is nothing to share");
        assert_eq!(
            finer(pairs, &[strided(8), strided(32)], l),
            Some(strided(8)),
            "thirty-two are no runs of four pairs"
        );
        assert_eq!(finer(Order::parallel(l), &[strided(4)], l), None);
    }

    #[test]
    fn a_recovered_uniform_draws_its_token_again_and_is_uniform_where_tokens_come_from_the_distribution() {
        let scores: Vec<f32> = [0.1f64, 0.4, 0.05, 0.45].iter().map(|p| (3.0 * p).ln() as f32).collect();
        let borders = [0.0, 0.1, 0.5, 0.55, 1.0];
        let mut rng = StepRng::new(1).at(0, Stream::Shared);
        let n = 40_000;
        let mut found: Vec<f64> = (0..n)
            .map(|_| {
                let pick = rng.random::<f64>();
                let token = (1..5).find(|i| pick < borders[*i]).unwrap() - 1;
                let u = recovered(&scores, token as u32, rng.random());
                assert!(u >= borders[token] - 1e-6 && u < borders[token + 1] + 1e-6, "{u} for {token}");
                u
            })
            .collect();
        found.sort_by(f64::total_cmp);
        // Kolmogorov's distance, at one in ten thousand.
        let far = found.iter().enumerate().map(|(i, u)| (u - (i as f64 + 0.5) / n as f64).abs()).fold(0.0, f64::max);
        assert!(far < 2.23 / (n as f64).sqrt(), "{far}");
    }
}
