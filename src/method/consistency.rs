//! Consistency without a teacher (Amin et al. 2026, arXiv 2605.00161): a network at time t says what the average of its own
//! weights says at s < t, where z_s comes from z_t by the exact bridge q(z_s | z_t, x) of clean text x.
//!
//! ```text
//! loss = mean D( f(z_t, t) , sg f_EMA(z_s, s) ) + max_step mean -ln f(z_t, t)[x] + likelihood ELBO(z_t)
//! ```
//!
//! * The first term asks for one prediction along the whole path. A constant satisfies it, so it needs the others.
//! * The second is the longest step that there is, from t to 0, where the right answer is x. The paper names such a term
//!   without which samples lose their entropy; this form of it, over the positions that lost their token, is ours. On those a
//!   noisy token says nothing of x, so its optimum is the one that the bound has (method/uniform.rs).
//! * The third is the bound of method/masked.rs or method/uniform.rs on the same z_t.
//!
//! Under absorbing noise rows are the masked positions; one that the bridge reveals has x itself as its answer at s, and counts
//! by the cross-entropy. Under uniform noise all positions are rows. B batch, L length.

use burn::optim::GradientsParams;
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contract::{Batch, Facts, Ground, Method, Nets, Site, Training, contradiction};
use super::diffusion;
use super::uniform::{self, EDGE, Level};
use crate::error::{Error, Result, within};
use crate::loss::{self, Divergence, RowLoss, Target};
use crate::model::{Noised, Teach, Transformer, TransformerConfig};
use crate::process::corruption::{self, Alphabet, Times};
use crate::process::{Corruption, Schedule};
use crate::rng::{Generators, Stream};

/// The configuration of the objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyConfig {
    /// The noise on tokens: absorb, the mask, or uniform.
    #[serde(default)]
    pub corruption: Corruption,
    /// forward_kl | reverse_kl | jensen_shannon | total_variation | log_mse
    #[serde(default = "default_divergence")]
    pub divergence: Divergence,
    /// A step goes from t down to between (1 - reach) t and t.
    #[serde(default = "half")]
    pub reach: f64,
    /// Weight of the cross-entropy of the longest step, from t to 0.
    #[serde(default = "half")]
    pub max_step: f64,
    /// Weight of the negative ELBO.
    #[serde(default = "one")]
    pub likelihood: f64,
    /// log_linear | cosine
    #[serde(default)]
    pub schedule: Schedule,
}

fn default_divergence() -> Divergence {
    Divergence::JensenShannon
}
fn half() -> f64 {
    0.5
}
fn one() -> f64 {
    1.0
}

impl ConsistencyConfig {
    /// Checks ranges; `key` is the dotted place of this table in the recipe.
    ///
    /// # Errors
    /// A setting out of range, a corruption without a bridge, or a loss of no parts (usage).
    pub fn validate(&self, key: &str) -> Result<()> {
        within(&format!("{key}.reach"), self.reach, 1e-6..=1.0)?;
        within(&format!("{key}.max_step"), self.max_step, 0.0..=1e6)?;
        within(&format!("{key}.likelihood"), self.likelihood, 0.0..=1e6)?;
        if self.corruption == Corruption::GaussianArgmax {
            return Err(Error::usage(format!("`{key}.corruption = \"gaussian_argmax\"` has no bridge of its own"))
                .cause("the tokens of \"uniform\" are the same, and times are free here")
                .hint(format!("`{key}.corruption = \"uniform\"`")));
        }
        if self.max_step == 0.0 && self.likelihood == 0.0 {
            return Err(Error::usage(format!("`{key}.max_step` and `{key}.likelihood` are both 0"))
                .cause("a network that always says the same is consistent")
                .hint(format!("`{key}.likelihood = 1.0`, or leave one of them at its default")));
        }
        Ok(())
    }
}

/// The rows of one step on x0 [B, L]; `average` is the network of the averaged weights, `mask` the mask's id.
pub fn rows(
    config: &ConsistencyConfig,
    average: &dyn Teach,
    x0: &[u32],
    length: usize,
    mask: u32,
    rng: Generators,
) -> RowLoss {
    let (n, batch, vocab) = (x0.len(), x0.len() / length, average.vocab());
    let (schedule, absorbs) = (config.schedule, config.corruption.absorbs());
    let mut times = rng.at(Stream::Times);
    let offset = times.random::<f64>();
    let u = |i: usize| 1.0 - (offset + i as f64 / batch as f64).fract();
    let levels: Vec<Level> = (0..batch).map(|i| Level::of_time(schedule, u(i))).collect();
    let t_of = |u: f64| EDGE + (1.0 - 2.0 * EDGE) * u;
    let pairs: Vec<[f64; 2]> =
        (0..batch).map(|i| t_of(u(i))).map(|t| [t, t * (1.0 - config.reach * times.random::<f64>())]).collect();
    let [t, s] = [0, 1].map(|end| (0..n).map(|r| pairs[r / length][end]).collect::<Vec<f64>>());
    let mut noise = rng.at(Stream::Corrupt);
    let lost: Vec<bool> = (0..n).map(|r| noise.random::<f64>() >= levels[r / length].alpha).collect();
    let token = |noise: &mut _| if absorbs { mask } else { corruption::any(vocab, noise) };
    let zt: Vec<u32> = (0..n).map(|r| if lost[r] { token(&mut noise) } else { x0[r] }).collect();
    let alphabet = Alphabet { mask, vocab };
    let zs =
        config.corruption.bridge(&zt, x0, Times { t: &t, s: &s }, schedule, alphabet, &mut rng.at(Stream::Teacher));
    let rows: Vec<usize> = (0..n).filter(|r| !absorbs || lost[*r]).collect();
    let input = Noised::tokens(&zt, &t, length);
    if rows.is_empty() {
        return RowLoss { input, rows, weights: Vec::new(), target: Target::Tokens(Vec::new()), alpha: None };
    }
    let open = |r: usize| absorbs && zs[r] != mask;
    let mean = 1.0 / rows.len() as f64;
    let longest = config.max_step / lost.iter().filter(|l| **l).count().max(1) as f64;
    let weights = |of: &dyn Fn(usize) -> f64| rows.iter().map(|r| of(*r)).collect::<Vec<f64>>();
    let features = average.features_at(&Noised::tokens(&zs, &s, length), &rows);
    let bound = |r: usize| {
        let level = levels[r / length];
        // Of masks the factor is -alpha'/(1 - alpha).
        let factor = if absorbs { level.rate / (1.0 - level.alpha) } else { uniform::factor(level) };
        config.likelihood * factor / n as f64
    };
    let by_token = |r: usize| {
        let answer = if open(r) { mean } else { 0.0 };
        let longest = if lost[r] { longest } else { 0.0 };
        answer + longest + if absorbs { bound(r) } else { 0.0 }
    };
    let ids: Vec<u32> = rows.iter().map(|r| x0[*r]).collect();
    let mut targets = vec![
        (weights(&|r| if open(r) { 0.0 } else { mean }), Target::Teacher(average.head(), features, config.divergence)),
        (weights(&by_token), Target::Tokens(ids)),
    ];
    if !absorbs {
        targets.push((weights(&bound), Target::Uniform(uniform::rows_of(x0, &zt, |r| levels[r / length].alpha))));
    }
    RowLoss { input, weights: vec![1.0; rows.len()], target: Target::Several(targets), rows, alpha: None }
}

impl Method for ConsistencyConfig {
    fn facts(&self) -> Facts<'_> {
        Facts {
            passes: 2.0,
            corruption: self.corruption,
            schedule: self.schedule,
            ..Facts::of_tokens("consistency", "consistency")
        }
    }

    fn check(&self, site: &Site) -> Result<()> {
        self.validate(&site.key("objective.consistency"))?;
        let (objective, ema) = (site.key("objective"), site.key("train.ema"));
        match site.train.ema {
            Some(_) => Ok(()),
            None => Err(contradiction(&objective, "\"consistency\"", &ema, "0.999 or another decay")
                .cause("what a network is compared with is the average of its own weights")),
        }
    }

    fn fits(&self, site: &Site, network: &TransformerConfig) -> Result<()> {
        let own = (site.key("objective"), "\"consistency\"".to_string());
        let noise = (site.at("corruption"), format!("\"{}\"", self.corruption.name()));
        let (key, has) = if self.corruption.absorbs() { own } else { noise };
        diffusion::fits_noise(site, network, &key, &has)?;
        diffusion::fits(site, network)
    }

    fn begin<'a>(&'a self, ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        Ok(Box::new(Averaged { config: self, mask: ground.mask, average: None }))
    }
}

struct Averaged<'a> {
    config: &'a ConsistencyConfig,
    mask: u32,
    /// The network of the averaged weights, as it is in this step.
    average: Option<Transformer>,
}

impl Training for Averaged<'_> {
    fn step(&self, nets: &Nets, batch: &Batch) -> Result<(f64, GradientsParams)> {
        let Some(average) = &self.average else { panic!("the average is taken before each step") };
        let rows = rows(self.config, average, &batch.x0, batch.length, self.mask, batch.generators());
        Ok(loss::backward(nets.model, &rows))
    }

    fn round(&self) -> Option<usize> {
        Some(0)
    }

    fn due(&mut self, nets: &Nets) -> Result<()> {
        use burn::module::Module;
        self.average = Some((nets.average)().unwrap_or_else(|| nets.model.valid()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::{backward, evaluate};
    use crate::model::TransformerConfig;
    use crate::model::config::Visibility;
    use crate::rng::StepRng;
    use burn::prelude::*;

    fn config(text: &str) -> ConsistencyConfig {
        toml::from_str(text).unwrap()
    }

    fn network(device: &Device, seed: u64) -> Transformer {
        // The gates of a network with time are closed before it is trained.
        Transformer::init(&TransformerConfig::new(16, 2, 2, Visibility::Full), 11, 12, seed, device)
    }

    /// Rows of the loss of each target alone, and of all of them.
    #[test]
    fn the_loss_is_the_sum_of_its_terms_and_its_gradient_theirs() {
        let x0: Vec<u32> = (0..120).map(|i| i * 7 % 11).collect();
        let (average, plain) = (network(&Device::flex(), 4), network(&Device::flex(), 3));
        let trained = network(&Device::flex().autodiff(), 3);
        for corruption in ["absorb", "uniform"] {
            let c = config(&format!("corruption = \"{corruption}\""));
            let loss = rows(&c, &average, &x0, 12, 11, StepRng::new(1).of_step(2));
            let Target::Several(all) = &loss.target else { panic!("several targets") };
            assert_eq!(all.len(), if corruption == "absorb" { 2 } else { 3 });
            let parts: f64 = all
                .iter()
                .map(|(w, t)| evaluate(&plain, &RowLoss { weights: w.clone(), target: t.clone(), ..loss.clone() }).0)
                .sum();
            let whole = evaluate(&plain, &loss).0;
            assert!((whole - parts).abs() < 1e-5 * parts.abs(), "{corruption}: {whole} for {parts}");
            let (value, _) = backward(&trained, &loss);
            assert!((value - parts).abs() < 1e-4 * parts.abs(), "{corruption}: {value} for {parts}");
        }
    }

    #[test]
    fn a_step_of_no_length_is_consistent_with_itself_and_a_longer_one_is_not() {
        let x0: Vec<u32> = (0..120).map(|i| i * 7 % 11).collect();
        let model = network(&Device::flex(), 3);
        for corruption in ["absorb", "uniform"] {
            let of = |reach: f64| {
                let c = ConsistencyConfig { reach, ..config(&format!("corruption = \"{corruption}\"")) };
                let loss = rows(&c, &model, &x0, 12, 11, StepRng::new(1).of_step(2));
                let Target::Several(all) = &loss.target else { panic!("several targets") };
                let (weights, target) = all[0].clone();
                evaluate(&model, &RowLoss { weights, target, ..loss }).0
            };
            assert!(of(0.0).abs() < 1e-6, "{corruption}: {}", of(0.0));
            assert!(of(0.9) > 1e-5, "{corruption}: {}", of(0.9));
        }
    }

    #[test]
    fn the_likelihood_term_alone_is_the_masked_bound() {
        let x0: Vec<u32> = (0..120).map(|i| i * 7 % 11).collect();
        let model = network(&Device::flex(), 3);
        let c = config("max_step = 0.0");
        let loss = rows(&c, &model, &x0, 12, 11, StepRng::new(1).of_step(2));
        let Target::Several(all) = &loss.target else { panic!("several targets") };
        let input = &loss.input;
        let mean = 1.0 / loss.rows.len() as f64;
        for (weight, r) in all[1].0.iter().zip(&loss.rows) {
            let want = (1.0 - 2.0 * EDGE) / input.t[*r] / 120.0;
            let rest = weight - want;
            assert!(rest.abs() < 1e-9 || (rest - mean).abs() < 1e-9, "{weight} for {want}");
        }
        assert!(config("max_step = 0.0\nlikelihood = 0.0").validate("x").is_err());
        assert!(config("reach = 0.0").validate("x").is_err());
    }
}
