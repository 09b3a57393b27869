//! Discrete consistency distillation (Sahoo et al. 2025, DUO): a student at time t says what its teacher says at s.
//!
//! Both read the winners of the *same* Gaussian noise (process/duality.rs), at t and at s = t - dt; times are uniform in the range
//! of gamma, and each network is told the time of uniform noise that its alpha belongs to. The loss is the divergence of the
//! student at (z_t, t) from the teacher at (z_s, s), over all positions.
//!
//! Rounds: dt = 2^round/levels, or (round + 1)/levels under linear growth; at the border of a round the student becomes the
//! teacher. The divergence that the published code calls `kl-bwd`, its default, is KL(student || teacher), here `reverse_kl`;
//! `kl-fwd` is `forward_kl`. B batch, L length.

use burn::optim::GradientsParams;
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contract::{Batch, Facts, Ground, Kept, Made, Method, Nets, Parts, Site, Training, contradiction};
use super::refresh::Refresh;
use super::rounds::Teacher;
use super::{diffusion, refresh};
use crate::error::{Error, Result, whole_within, within};
use crate::loss::{self, Divergence, RowLoss, Target};
use crate::model::{Noised, Teach, Transformer, TransformerConfig};
use crate::process::d3pm::Matrix;
use crate::process::duality::{Duality, Ends};
use crate::process::{Corruption, Schedule};
use crate::rng::{Generators, Stream};

/// How the step grows from round to round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Growth {
    /// 1, 2, 4, ... levels.
    #[default]
    Double,
    /// 1, 2, 3, ... levels.
    Linear,
}

/// The configuration of the objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DcdConfig {
    /// The model of this recipe to learn from; the student starts from its weights.
    pub teacher: String,
    /// Levels of time: the first round's dt is 1 / levels.
    #[serde(default = "default_levels")]
    pub levels: usize,
    /// Number of rounds; training steps are shared evenly.
    #[serde(default = "default_rounds")]
    pub rounds: usize,
    /// Where the Gaussian process begins, near text; default: where alpha is 0.999.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gamma_min: Option<f64>,
    /// Where it ends, in noise; default: where alpha is 0.02.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gamma_max: Option<f64>,
    /// raw | ema
    #[serde(default)]
    pub refresh: Refresh,
    /// forward_kl | reverse_kl | jensen_shannon | total_variation | log_mse
    #[serde(default = "default_divergence")]
    pub divergence: Divergence,
    /// double | linear
    #[serde(default)]
    pub growth: Growth,
    /// log_linear | cosine: must be the teacher's.
    #[serde(default)]
    pub schedule: Schedule,
}

fn default_levels() -> usize {
    512
}
fn default_rounds() -> usize {
    5
}
fn default_divergence() -> Divergence {
    Divergence::ReverseKl
}

impl DcdConfig {
    /// The ends of the Gaussian process. Over few tokens alpha falls slowly in gamma, and most of a range down to 0 would be
    /// noise alone.
    pub fn ends(&self) -> Ends {
        Ends { low: self.gamma_min, high: self.gamma_max, last: 0.02 }
    }

    /// The round that training step `step` of `total` belongs to.
    pub fn round(&self, step: usize, total: usize) -> usize {
        refresh::round(step, total, self.rounds)
    }

    /// How far the teacher of `round` is ahead.
    pub fn dt(&self, round: usize) -> f64 {
        let levels = match self.growth {
            Growth::Double => 2f64.powi(round as i32),
            Growth::Linear => (round + 1) as f64,
        };
        levels / self.levels as f64
    }
}

/// The rows of one step on x0 [B, L] with the teacher `dt` ahead: all positions, weight 1 / (B L).
///
/// One uniform draw per batch places the times, stratified over the range.
pub fn rows(
    config: &DcdConfig,
    teacher: &dyn Teach,
    duality: &Duality,
    x0: &[u32],
    length: usize,
    dt: f64,
    rng: Generators,
) -> RowLoss {
    let n = x0.len();
    let (student, ahead) = inputs(config, duality, x0, length, teacher.vocab(), dt, rng);
    let rows: Vec<usize> = (0..n).collect();
    let target = Target::Teacher(teacher.head(), teacher.features_at(&ahead, &rows), config.divergence);
    RowLoss { input: student, weights: vec![1.0 / n as f64; n], target, rows, alpha: None }
}

/// What the student reads, and what the teacher reads `dt` earlier, both with the same noise.
fn inputs(
    config: &DcdConfig,
    duality: &Duality,
    x0: &[u32],
    length: usize,
    vocab: usize,
    dt: f64,
    rng: Generators,
) -> (Noised, Noised) {
    let (n, batch, vocab) = (x0.len(), x0.len() / length, vocab as u32);
    let offset = rng.at(Stream::Times).random::<f64>();
    let u = |i: usize| 1.0 - (offset + i as f64 / batch as f64).fract();
    // As published: what would begin behind the end begins there.
    let pairs: Vec<[f64; 2]> = (0..batch).map(|i| (u(i) + dt).min(1.0)).map(|t| [t, (t - dt).max(0.0)]).collect();
    let (low, high) = duality.range();
    let gamma = |time: f64| low + (high - low) * time;
    let mut noise = rng.at(Stream::Corrupt);
    let draws: Vec<(f64, u32)> =
        x0.iter().map(|x| (noise.random(), (x + 1 + noise.random_range(0..vocab - 1)) % vocab)).collect();
    let input = |end: usize| {
        let at = |r: usize| gamma(pairs[r / length][end]);
        let z: Vec<u32> = (0..n).map(|r| duality.winner(x0[r], at(r), draws[r].0, draws[r].1)).collect();
        let t: Vec<f64> = (0..n).map(|r| config.schedule.time(duality.alpha(at(r)).0)).collect();
        Noised::tokens(&z, &t, length)
    };
    (input(0), input(1))
}

impl Method for DcdConfig {
    fn facts(&self) -> Facts<'_> {
        Facts {
            made: Made::Student,
            passes: 2.0,
            teacher: Some((&self.teacher, "dcd.teacher")),
            rounds: true,
            steps: Some((1.0 / self.dt(self.rounds)).round().max(1.0) as usize),
            corruption: Corruption::GaussianArgmax,
            schedule: self.schedule,
            ends: Some(self.ends()),
            ..Facts::of_tokens("dcd", "divergence")
        }
    }

    fn check(&self, site: &Site) -> Result<()> {
        let at = |k: &str| site.at(k);
        let teacher = site.models.site(&self.teacher)?;
        let theirs = teacher.method.facts();
        let objective = teacher.key("objective");
        if theirs.corruption.absorbs() {
            return Err(Error::usage(format!(
                "`{}` needs a teacher of uniform noise, but `{objective}` is \"{}\" of absorbing noise",
                at("teacher"),
                theirs.name
            ))
            .hint("train it by `objective.elbo = { corruption = \"uniform\" }`, or distil it by `objective.sdtt`"));
        }
        if theirs.chain.is_some_and(|chain| *chain.matrix != Matrix::Uniform) {
            return Err(Error::usage(format!(
                "`{}` needs a teacher of uniform noise, but `{objective}.d3pm.matrix` is not \"uniform\"",
                at("teacher")
            ))
            .hint("what the student reads is noise that takes any token alike"));
        }
        site.has_schedule_of(&teacher)?;
        site.has_network_of(&teacher)?;
        whole_within(&at("levels"), self.levels, 1..=1 << 20)?;
        whole_within(&at("rounds"), self.rounds, 1..=32)?;
        if self.dt(self.rounds - 1) > 1.0 {
            return Err(Error::usage(format!(
                "`{} = {}` end in a step longer than all `{} = {}`",
                at("rounds"),
                self.rounds,
                at("levels"),
                self.levels
            ))
            .hint(format!("`{} = 1`, or more levels", at("rounds"))));
        }
        site.has_rounds(&at("rounds"), self.rounds)?;
        for (k, gamma) in [("gamma_min", self.gamma_min), ("gamma_max", self.gamma_max)] {
            gamma.map_or(Ok(()), |gamma| within(&at(k), gamma, -40.0..=40.0))?;
        }
        if let (Some(low), Some(high)) = (self.gamma_min, self.gamma_max)
            && low >= high
        {
            return Err(Error::usage(format!(
                "`{} = {low}` is not below `{} = {high}`",
                at("gamma_min"),
                at("gamma_max")
            ))
            .hint("leave both out to take them from the noise schedule"));
        }
        if self.refresh == Refresh::Ema && site.train.ema.is_none() {
            return Err(contradiction(&at("refresh"), "\"ema\"", &site.key("train.ema"), "0.999 or another decay"));
        }
        Ok(())
    }

    fn fits(&self, site: &Site, network: &TransformerConfig) -> Result<()> {
        diffusion::fits_noise(site, network, &site.key("objective"), "\"dcd\"")?;
        diffusion::fits(site, network)
    }

    fn begin<'a>(&'a self, ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        let duality = Duality::at_hand(ground.vocab, self.ends(), ground.dir)?;
        Ok(Box::new(Dcd { config: self, teacher: Teacher::new(ground.parents.teacher), duality }))
    }
}

struct Dcd<'a> {
    config: &'a DcdConfig,
    teacher: Teacher<'a>,
    duality: Duality,
}

impl Training for Dcd<'_> {
    fn step(&self, nets: &Nets, batch: &Batch) -> Result<(f64, GradientsParams)> {
        let dt = self.config.dt(self.teacher.round());
        let of = (self.teacher.network(), &self.duality);
        let rows = rows(self.config, of.0, of.1, &batch.x0, batch.length, dt, batch.generators());
        Ok(loss::backward(nets.model, &rows))
    }

    fn start(&mut self, model: &Transformer) {
        self.teacher.start(model);
    }

    fn due(&mut self, nets: &Nets) -> Result<()> {
        let round = self.config.round(nets.step, nets.config.steps);
        self.teacher.advance(round, self.config.refresh, nets);
        Ok(())
    }

    fn round(&self) -> Option<usize> {
        Some(self.teacher.round())
    }

    fn save(&self) -> Kept {
        self.teacher.save()
    }

    fn load(&mut self, from: &Parts) -> Result<()> {
        self.teacher.load(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TransformerConfig;
    use crate::model::config::Visibility;
    use crate::rng::StepRng;
    use burn::prelude::*;

    fn config() -> DcdConfig {
        toml::from_str("teacher = \"t\"\nlevels = 8\nrounds = 3").unwrap()
    }

    fn network() -> Transformer {
        // The gates of a network with time are closed before it is trained.
        Transformer::init(&TransformerConfig::new(16, 2, 2, Visibility::Full), 11, 12, 3, &Device::flex())
    }

    #[test]
    fn the_published_settings_are_the_defaults_and_the_step_doubles_or_grows_by_one() {
        let published: DcdConfig = toml::from_str("teacher = \"t\"").unwrap();
        assert_eq!((published.levels, published.rounds, published.refresh), (512, 5, Refresh::Raw));
        assert_eq!(published.dt(4), 16.0 / 512.0);
        assert_eq!(DcdConfig { growth: Growth::Linear, ..published }.dt(4), 5.0 / 512.0);
    }

    #[test]
    fn the_default_is_the_published_kl_of_the_student_from_the_teacher() {
        // Student (0.9, 0.05, 0.05), teacher (1/3, 1/3, 1/3): F.kl_div(teacher, student, log_target), the student's mean.
        let row = |p: [f32; 3]| Tensor::<2>::from_data([p], &Device::flex()).log();
        let value = config().divergence.rows(row([0.9, 0.05, 0.05]), row([1.0 / 3.0; 3]));
        assert!((crate::model::params::floats(value)[0] - 0.704_14).abs() < 1e-3);
    }

    #[test]
    fn the_teacher_reads_the_same_noise_at_an_earlier_time() {
        let (teacher, duality) = (network(), Duality::new(11, config().ends()));
        let x0: Vec<u32> = (0..1200).map(|i| i * 7 % 11).collect();
        let (c, at) = (config(), StepRng::new(3).of_step(5));
        let of = |dt: f64| rows(&c, &teacher, &duality, &x0, 12, dt, at);
        let loss = of(0.25);
        assert_eq!(loss.rows.len(), 1200);
        let lost = loss.input.token_ids().iter().zip(&x0).filter(|(z, x)| z != x).count();
        assert!(lost > 300 && lost < 1100, "{lost}");
        // Without a step a network reads what the teacher reads with one: the same draws, at the end of the step.
        let (mut earlier, mut kept) = (0, 0);
        let (student, ahead) = inputs(&c, &duality, &x0, 12, 11, 0.25, at);
        assert_eq!(student.token_ids(), loss.input.token_ids());
        let tokens = student.token_ids().iter().zip(ahead.token_ids()).zip(&x0);
        for (i, ((z, s), x)) in tokens.enumerate() {
            assert!(student.t[i] > ahead.t[i], "{i}");
            earlier += usize::from(s == x && z != x);
            if s != x {
                assert_eq!(s, z, "{i}: what the teacher has lost the student has lost to the same token");
                kept += 1;
            }
        }
        assert!(earlier > 50 && kept > 50, "{earlier} {kept}");
        // Without a step both read the same, and nothing is to learn.
        assert!(crate::method::evaluate(&teacher, &of(0.0)).0.abs() < 1e-6);
        assert!(crate::method::evaluate(&teacher, &loss).0 > 1e-5);
    }
}
