//! What storing weights in another type costs: the loss before and after on held-out text, or where there is none the
//! divergence of the two models' predictions on random tokens.
//!
//! n sequences of L tokens. All values are paired: the same sequences, masks and times for both models.

use rand::Rng;

use super::stats::{Estimate, mean, mean_interval};
use crate::method::latent::normals;
use crate::model::config::Visibility;
use crate::model::transformer::ends::Given;
use crate::model::{Denoise, Noised, Transformer, params};
use crate::rng::{StepRng, Stream};

/// Random sequences that predictions are compared on.
pub const SEQUENCES: usize = 16;
/// Their length, at most.
pub const LENGTH: usize = 128;
/// Share of masked positions, and the time that goes with it.
const MASKED: f64 = 0.5;

/// The cost of another type of weights.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Mean losses per token of `n` held-out sequences, nats, and the mean of their paired differences.
    HeldOut { before: f64, after: f64, change: Estimate, n: usize },
    /// Mean KL(before || after) of the predictions in each of `n` sequences of random tokens, nats a position.
    Random { divergence: Estimate, n: usize },
    /// Mean squared difference of what the two say of `n` random sequences of vectors of unit variance, and the divergence of
    /// their autoencoders' predictions, where they have them.
    Answers { difference: Estimate, codec: Option<Estimate>, n: usize },
}

impl Change {
    /// From the losses of each sequence under the two models.
    pub fn held_out(before: &[f64], after: &[f64]) -> Change {
        let differences: Vec<f64> = before.iter().zip(after).map(|(b, a)| a - b).collect();
        let change = mean_interval(&differences, 0);
        Change::HeldOut { before: mean(before), after: mean(after), change, n: differences.len() }
    }

    /// From predictions on random tokens, which say how far the weights moved and not what that costs on text.
    ///
    /// Of a denoiser of vectors it is what it says of random vectors, and of an autoencoder what comes back of random tokens.
    pub fn on_random_tokens(before: &Transformer, after: &Transformer) -> Change {
        if before.vectors().is_some() {
            let values = answers(before, after);
            return Change::Answers { difference: mean_interval(&values, 0), codec: None, n: values.len() };
        }
        let values = divergences(before, after);
        Change::Random { divergence: mean_interval(&values, 0), n: values.len() }
    }

    /// The same with what became of the autoencoders beside the two.
    pub fn with_codec(self, codecs: Option<(&Transformer, &Transformer)>) -> Change {
        match (self, codecs) {
            (Change::Answers { difference, n, .. }, Some((before, after))) => {
                let codec = Some(mean_interval(&divergences(before, after), 0));
                Change::Answers { difference, codec, n }
            }
            (change, _) => change,
        }
    }

    /// One line of text.
    pub fn line(&self) -> String {
        match self {
            Change::HeldOut { before, after, change: c, n } => format!(
                "held-out loss {before:.4} -> {after:.4} nats a token, change {:+.5} [{:+.5}, {:+.5}] (n = {n})",
                c.mean, c.low, c.high
            ),
            Change::Answers { difference: d, codec, n } => format!(
                "answers to random vectors: mean squared difference {:.2e} [{:.2e}, {:.2e}] (n = {n}){}",
                d.mean,
                d.low,
                d.high,
                codec.map_or(String::new(), |c| format!(
                    "; what its autoencoder makes of random tokens: KL {:.2e} [{:.2e}, {:.2e}] nats a position",
                    c.mean, c.low, c.high
                ))
            ),
            Change::Random { divergence: d, n } => format!(
                "predictions on random tokens (no data is at hand): KL {:.2e} [{:.2e}, {:.2e}] nats a position (n = {n})",
                d.mean, d.low, d.high
            ),
        }
    }

    /// The same as JSON.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Change::HeldOut { before, after, change, n } => serde_json::json!({ "measured": "held_out_loss",
                "before": before, "after": after, "change": change, "n": n }),
            Change::Answers { difference, codec, n } => {
                serde_json::json!({ "measured": "squared_difference_on_random_vectors", "difference": difference,
                    "codec_kl": codec, "n": n })
            }
            Change::Random { divergence, n } => {
                serde_json::json!({ "measured": "kl_on_random_tokens", "kl": divergence, "n": n })
            }
        }
    }
}

/// The mean squared difference of what two denoisers say of each random sequence of vectors at t = 1/2.
fn answers(before: &Transformer, after: &Transformer) -> Vec<f64> {
    let Some(ends) = before.vectors() else { panic!("a denoiser of vectors") };
    let (shape, rng) = ([1, ends.count, ends.width], StepRng::new(0));
    let one = |i: usize| {
        let x = normals(shape, &mut rng.at(i as u64, Stream::Validation), &before.device());
        let t = vec![MASKED; ends.count];
        let says = |m: &Transformer| m.says(x.clone(), &t, None, &Given::default());
        let squares = params::floats((says(before) - says(after)).square());
        mean(&squares.into_iter().map(f64::from).collect::<Vec<_>>())
    };
    (0..SEQUENCES).map(one).collect()
}

/// KL(before || after) in each random sequence: mean over its masked positions, or over all of them where nothing is masked.
fn divergences(before: &Transformer, after: &Transformer) -> Vec<f64> {
    let config = before.config();
    let (whole_text, mask) = (before.length(), before.mask());
    // An autoencoder reads texts of its own length.
    let length = if before.bottleneck().is_some() { whole_text } else { whole_text.min(LENGTH) };
    let encodes = before.bottleneck().is_some();
    let masked = config.visibility != Visibility::Causal && before.masks() && !encodes;
    // A block network reads one stream with full visibility.
    let whole = |model: &Transformer| {
        let model = model.clone();
        match config.visibility {
            Visibility::Blocks(_) => model.reconfigured(|c| c.visibility = Visibility::Full),
            _ => model,
        }
    };
    let (before, after) = (whole(before), whole(after));
    let rng = StepRng::new(0);
    let mut out = Vec::with_capacity(SEQUENCES);
    for i in 0..SEQUENCES {
        let mut draws = rng.at(i as u64, Stream::Validation);
        let vocab = before.vocab() as u32;
        let mut x: Vec<u32> = (0..length).map(|_| draws.random_range(0..vocab)).collect();
        let hidden: Vec<usize> = (0..length).filter(|_| masked && draws.random::<f64>() < MASKED).collect();
        hidden.iter().for_each(|p| x[*p] = mask);
        let rows = if hidden.is_empty() { (0..length).collect() } else { hidden };
        let input = Noised::tokens(&x, &vec![MASKED; length], length);
        let predict = |m: &Transformer| match m.bottleneck() {
            Some(_) => {
                let features = m.decode(m.encode(&x), Some(&x));
                params::floats(m.predict(features.reshape([length, config.dim])))
            }
            None => params::floats(m.predict(m.features_at(&input, &rows))),
        };
        let (p, q) = (predict(&before), predict(&after));
        let kl = |(p, q): (&[f32], &[f32])| {
            p.iter().zip(q).map(|(p, q)| f64::from(*p).exp() * f64::from(p - q)).sum::<f64>()
        };
        let v = vocab as usize;
        out.push(mean(&p.chunks(v).zip(q.chunks(v)).map(kl).collect::<Vec<_>>()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TransformerConfig;
    use burn::prelude::Device;

    #[test]
    fn a_model_is_at_no_distance_from_itself_and_further_from_a_stranger_than_from_its_neighbour() {
        for visibility in [Visibility::Full, Visibility::Causal] {
            let config = TransformerConfig::new(16, 2, 2, visibility);
            let model = |seed| Transformer::init(&config, 11, 16, seed, &Device::flex());
            let one = model(1);
            let mut named = params::export(&one);
            named.values_mut().flat_map(|t| &mut t.data).for_each(|v| *v *= 1.01);
            let near = params::import(one.clone(), &named, &Device::flex());
            let at = |other: &Transformer| match Change::on_random_tokens(&one, other) {
                Change::Random { divergence, n } => {
                    assert_eq!(n, SEQUENCES);
                    divergence.mean
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(at(&one), 0.0);
            assert!(at(&near) > 0.0 && at(&near) < at(&model(2)), "{} {}", at(&near), at(&model(2)));
        }
    }

    #[test]
    fn losses_are_compared_in_pairs() {
        let (before, after) = ([1.0, 5.0, 3.0], [1.1, 5.1, 3.1]);
        let change = Change::held_out(&before, &after);
        let Change::HeldOut { change: c, n, .. } = &change else { panic!("{change:?}") };
        assert!((c.mean - 0.1).abs() < 1e-12 && c.high - c.low < 1e-9 && *n == 3);
        assert!(change.line().contains("3.0000 -> 3.1000") && change.line().contains("n = 3"), "{}", change.line());
    }
}
