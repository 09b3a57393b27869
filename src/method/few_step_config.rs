//! The few-step methods of latents as a recipe has them: their settings, what they cost, and what contradicts itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::refresh::{Refresh, round};
use crate::error::{Error, Result, whole_within, within};
use crate::process::gaussian::{Denoising, Path, Prediction};

/// A few-step student of latents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatentDistillConfig {
    /// The denoiser of latents of this recipe to learn from; the student starts with its weights.
    pub teacher: String,
    /// How: { progressive = ... } | { consistency = ... } | { continuous = ... } | { shortcut = ... } | { mean_flow = ... } |
    /// { matching = ... }
    pub method: FewStep,
}

/// How a few-step student is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FewStep {
    Progressive(Progressive),
    Consistency(Consistency),
    Continuous(Continuous),
    Shortcut(Shortcut),
    MeanFlow(MeanFlow),
    Matching(Matching),
}

/// Halving of the steps, round by round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Progressive {
    /// Steps of the first round's teacher, halved each round.
    pub steps: usize,
    /// Number of rounds; training steps are shared evenly.
    pub rounds: usize,
    /// raw | ema: which weights become the next teacher.
    #[serde(default)]
    pub refresh: Refresh,
}

/// Consistency in discrete time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    /// Times of the grid in the beginning.
    #[serde(default = "ten")]
    pub first_grid: usize,
    /// Times of the grid in the end; it doubles in between.
    #[serde(default = "grid")]
    pub last_grid: usize,
    /// true: the step towards the data is the teacher's (distillation); false: the same noise at a smaller time (training).
    #[serde(default = "yes")]
    pub distill: bool,
    /// raw | ema: the weights that the nearer point is read with, the student's own (iCT) or their average (needs `train.ema`).
    #[serde(default)]
    pub target: Refresh,
}

/// Consistency in continuous time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Continuous {
    /// true: the path's direction is the teacher's; false: that of the data and its noise.
    #[serde(default = "yes")]
    pub distill: bool,
    /// Share of the training over which the unstable part of the tangent is faded in.
    #[serde(default = "tenth")]
    pub warmup: f64,
    /// Mean of ln tan(phi), phi the angle of the time.
    #[serde(default = "zero")]
    pub mean: f64,
    /// Standard deviation of ln tan(phi).
    #[serde(default = "wide")]
    pub deviation: f64,
}

/// Steps of any size by self-consistency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shortcut {
    /// The smallest step that is learnt by two halves is 2 / finest; its halves are taken by the velocity itself.
    #[serde(default = "finest")]
    pub finest: usize,
    /// Share of the sequences that learn two half steps; the others learn the velocity.
    #[serde(default = "quarter")]
    pub share: f64,
}

/// The mean velocity by its own identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeanFlow {
    /// Share of the sequences with s < t; the others learn the velocity.
    #[serde(default = "half")]
    pub share: f64,
    /// true: the path's direction is the teacher's; false: that of the data and its noise.
    #[serde(default)]
    pub distill: bool,
}

/// Matching of distributions with a critic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Matching {
    /// Steps that the student will take; each is trained on what its own earlier ones leave.
    pub steps: usize,
    /// Steps of the critic for each of the student's.
    #[serde(default = "two")]
    pub critic_steps: usize,
    /// Learning rate of the critic.
    pub critic_lr: f64,
}

fn ten() -> usize {
    10
}
fn grid() -> usize {
    160
}
fn finest() -> usize {
    64
}
fn two() -> usize {
    2
}
fn yes() -> bool {
    true
}
fn zero() -> f64 {
    0.0
}
fn wide() -> f64 {
    1.4
}
fn tenth() -> f64 {
    0.1
}
fn quarter() -> f64 {
    0.25
}
fn half() -> f64 {
    0.5
}

impl LatentDistillConfig {
    /// The method's name in results.
    pub fn name(&self) -> &'static str {
        match &self.method {
            FewStep::Progressive(_) => "progressive",
            FewStep::Consistency(c) if c.distill => "consistency_distillation",
            FewStep::Consistency(_) => "consistency_training",
            FewStep::Continuous(_) => "continuous_consistency",
            FewStep::Shortcut(_) => "shortcut",
            FewStep::MeanFlow(_) => "mean_flow",
            FewStep::Matching(_) => "distribution_matching",
        }
    }

    /// The round that training step `step` of `total` belongs to.
    pub fn round(&self, step: usize, total: usize) -> usize {
        match &self.method {
            FewStep::Progressive(p) => round(step, total, p.rounds),
            _ => 0,
        }
    }

    /// Which weights become the next round's teacher.
    pub fn refresh(&self) -> Refresh {
        match &self.method {
            FewStep::Progressive(p) => p.refresh,
            _ => Refresh::Raw,
        }
    }

    /// The steps that a student is meant for.
    pub fn steps(&self) -> usize {
        match &self.method {
            FewStep::Progressive(p) => p.steps.checked_shr(p.rounds.min(64) as u32).unwrap_or(0),
            FewStep::Matching(c) => c.steps,
            _ => 4,
        }
    }

    /// Whether its network is told where a step ends.
    pub fn two_times(&self) -> bool {
        matches!(self.method, FewStep::Shortcut(_) | FewStep::MeanFlow(_))
    }

    /// Passes of networks over the latents of a training sequence, backward ones not counted; `twice` says that the teacher
    /// reads its own estimate. A progressive one does so in its first round only.
    pub fn forwards(&self, twice: bool) -> f64 {
        let asked = |distill: bool| f64::from(u8::from(distill)) * if twice { 2.0 } else { 1.0 };
        match &self.method {
            FewStep::Progressive(p) if twice => 3.0 + 2.0 / p.rounds as f64,
            FewStep::Progressive(_) => 3.0,
            FewStep::Consistency(c) => 2.0 + asked(c.distill),
            FewStep::Continuous(c) => 4.0 + asked(c.distill),
            // Three answers of its own for its share, one for the others.
            FewStep::Shortcut(c) => 1.0 + 2.0 * c.share,
            FewStep::MeanFlow(c) => 3.0 + asked(c.distill),
            // The student's earlier steps, its answer and both scores; and for each step of the critic a sample and its pass.
            FewStep::Matching(c) => {
                let (earlier, critic) = ((c.steps as f64 - 1.0) / 2.0, c.critic_steps as f64);
                let again = if twice { 2.0 + 0.5 * critic } else { 0.0 };
                earlier + 3.0 + critic * (earlier + 2.0) + again
            }
        }
    }

    /// Texts that an autoencoder reads for a training sequence.
    pub fn texts(&self) -> f64 {
        match &self.method {
            FewStep::Matching(c) => 1.0 + c.critic_steps as f64,
            _ => 1.0,
        }
    }

    /// Checks ranges; `key` is the dotted place of the table, and `process` the teacher's.
    ///
    /// # Errors
    /// A teacher that predicts noise or has another path than the method's, or a setting out of range (usage).
    pub fn validate(&self, key: &str, process: Denoising) -> Result<()> {
        if process.predict == Prediction::Noise {
            return Err(Error::usage(format!("`{key}` needs a teacher of `predict = \"v\"` or `\"x0\"`"))
                .cause("predicted noise says nothing of the data at t = 1, where a student begins")
                .hint("train the denoiser of latents with `predict = \"v\"`"));
        }
        let at = |k: &str| format!("{key}.method.{k}");
        let bad = |k: &str, why: &str, hint: String| Err(Error::usage(format!("`{}` {why}", at(k))).hint(hint));
        // A teacher of another path is another training; the hint names its key.
        let teacher = |k: &str, wants: &str| {
            bad(
                k,
                &format!("is written for the teacher's `{wants}`"),
                format!("train the denoiser of latents with `{wants}`"),
            )
        };
        let share = |k: &str, v: f64| within(&at(k), v, 0.0..=1.0);
        match &self.method {
            FewStep::Progressive(p) => {
                whole_within(&at("progressive.rounds"), p.rounds, 1..=20)?;
                whole_within(&at("progressive.steps"), p.steps, 1..=1 << 20)?;
                let halves = 1 << p.rounds;
                match p.steps.is_multiple_of(halves) {
                    true => Ok(()),
                    false => bad(
                        "progressive",
                        &format!("halves {} steps {} times, which leaves no whole step", p.steps, p.rounds),
                        format!("`{} = {}`", at("progressive.steps"), p.steps.next_multiple_of(halves)),
                    ),
                }
            }
            FewStep::Consistency(c) => {
                whole_within(&at("consistency.first_grid"), c.first_grid, 2..=1 << 16)?;
                whole_within(&at("consistency.last_grid"), c.last_grid, c.first_grid..=1 << 16)
            }
            FewStep::Continuous(c) => {
                if process.path != Path::Trigonometric {
                    return teacher("continuous", "path = \"trigonometric\"");
                }
                share("continuous.warmup", c.warmup)?;
                within(&at("continuous.mean"), c.mean, -100.0..=100.0)?;
                within(&at("continuous.deviation"), c.deviation, 1e-6..=100.0)
            }
            FewStep::Shortcut(c) => {
                share("shortcut.share", c.share)?;
                let nearest = c.finest.clamp(2, 1 << 12).next_power_of_two();
                match nearest == c.finest {
                    true => Ok(()),
                    false => bad(
                        "shortcut.finest",
                        &format!("must be a power of two between 2 and 4096, but it is {}", c.finest),
                        format!("`{} = {nearest}`", at("shortcut.finest")),
                    ),
                }
            }
            FewStep::MeanFlow(c) => {
                if process.path != Path::Linear {
                    return teacher("mean_flow", "path = \"linear\"");
                }
                if process.predict != Prediction::V {
                    return teacher("mean_flow", "predict = \"v\"");
                }
                share("mean_flow.share", c.share)
            }
            FewStep::Matching(c) => {
                whole_within(&at("matching.steps"), c.steps, 1..=64)?;
                whole_within(&at("matching.critic_steps"), c.critic_steps, 1..=100)?;
                within(&at("matching.critic_lr"), c.critic_lr, 1e-12..=10.0)
            }
        }
    }
}
