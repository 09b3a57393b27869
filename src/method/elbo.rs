//! The continuous-time negative ELBO (MDLM eq. 10, BD3-LM eq. 8): masked diffusion in any order, or uniform noise.
//!
//! The rows are those of masked.rs and uniform.rs. Over blocks a part of the noise may be left out (clip.rs); in fixed phases groups
//! may count by their joint probability (alpha.rs), and positions may share the uniforms that pick their tokens (shared.rs).

use burn::optim::GradientsParams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::alpha::AlphaConfig;
use super::clip::{self, Clip};
use super::contract::{Batch, Beside, Facts, Ground, Kept, Method, Nets, Parts, Site, Training, contradiction};
use super::masked::{NoiseRange, elbo_within};
use super::shared::{self, SharedConfig};
use super::{diffusion, uniform};
use crate::error::Result;
use crate::loss::{RowLoss, backward};
use crate::model::{Transformer, TransformerConfig};
use crate::process::duality::{Duality, Ends};
use crate::process::{Corruption, Order, Schedule};
use crate::rng::StepRng;
use crate::term;

/// The configuration of the objective.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ElboConfig {
    /// The noise on tokens; default: absorb, the mask.
    #[serde(default, skip_serializing_if = "Corruption::absorbs")]
    pub corruption: Corruption,
    /// log_linear | cosine
    #[serde(default)]
    pub schedule: Schedule,
    /// The times that a model over blocks is trained on; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<Clip>,
    /// Groups of positions that are revealed together count the more the likelier they are as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<AlphaConfig>,
    /// The positions of a step share the uniforms that pick their tokens, recovered from a model of finer phases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedConfig>,
}

impl Method for ElboConfig {
    fn facts(&self) -> Facts<'_> {
        Facts {
            passes: if self.shared.is_some() { 2.0 } else { 1.0 },
            teacher: self.shared.as_ref().map(|c| (c.finer.as_str(), "elbo.shared.finer")),
            corruption: self.corruption,
            schedule: self.schedule,
            ends: (self.corruption == Corruption::GaussianArgmax).then_some(Ends::WHOLE),
            beside: Beside::Always,
            shared: self.shared.is_some(),
            ..Facts::of_tokens("elbo", "nelbo")
        }
    }

    fn check(&self, _at: &Site) -> Result<()> {
        Ok(())
    }

    fn fits(&self, at: &Site, network: &TransformerConfig) -> Result<()> {
        if let Some(shared) = &self.shared {
            shared::fits(shared, at, network)?;
        }
        if let Some(alpha) = &self.alpha {
            alpha.validate(&at.at("alpha"))?;
            if !at.order.phased() {
                return Err(contradiction(&at.at("alpha"), "..", &at.key("order"), "{ strided = 8 }")
                    .cause("groups are of positions that are always revealed together"));
            }
        }
        if let Some(clip) = &self.clip {
            if !self.corruption.absorbs() {
                return Err(contradiction(&at.at("clip"), "..", &at.at("corruption"), "\"absorb\""));
            }
            clip.validate(&at.at("clip"), &at.key("order"), at.order, self.schedule)?;
        }
        if !self.corruption.absorbs() {
            let has = format!("\"{}\"", self.corruption.name());
            diffusion::fits_noise(at, network, &at.at("corruption"), &has)?;
        }
        diffusion::fits(at, network)
    }

    fn begin<'a>(&'a self, ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        let finer = match (&self.shared, ground.parents.teacher) {
            (Some(_), None) => return Err(ground.lacks("the model of finer phases")),
            (Some(_), Some(finer)) => Some(finer),
            (None, _) => None,
        };
        let ends = self.facts().ends;
        let duality = ends.map(|ends| Duality::at_hand(ground.vocab, ends, ground.dir)).transpose()?;
        let range = self.first_range();
        Ok(Box::new(Elbo { config: self, ground: *ground, finer, duality, range }))
    }
}

impl ElboConfig {
    fn first_range(&self) -> NoiseRange {
        self.clip.as_ref().map_or(NoiseRange::WHOLE, Clip::start)
    }
}

struct Elbo<'a> {
    config: &'a ElboConfig,
    ground: Ground<'a>,
    finer: Option<&'a Transformer>,
    duality: Option<Duality>,
    /// Times that are trained on, as the last search left them.
    range: NoiseRange,
}

impl Elbo<'_> {
    fn rows(&self, batch: &Batch) -> Result<RowLoss> {
        let (config, length) = (self.config, batch.length);
        if !config.corruption.absorbs() {
            let (vocab, duality) = (self.ground.vocab, self.duality.as_ref());
            return Ok(uniform::elbo(&batch.x0, length, vocab, config.schedule, duality, batch.draws()));
        }
        let loss = match self.finer {
            Some(finer) => self.shared(finer, batch)?,
            None => {
                let (mask, range) = (self.ground.mask, self.range);
                elbo_within(&batch.x0, length, mask, batch.order, config.schedule, range, batch.draws())
            }
        };
        let alpha = config.alpha.as_ref().and_then(|alpha| alpha.of(&loss, &batch.order));
        Ok(RowLoss { alpha, ..loss })
    }

    fn shared(&self, finer: &Transformer, batch: &Batch) -> Result<RowLoss> {
        let theirs: &[Order] = self.ground.parents.orders;
        let Some(fine) = shared::finer(batch.order, theirs, batch.length) else {
            return Err(self.ground.lacks("a model of finer phases, each of its own phases some of those"));
        };
        let (x0, order, schedule) = (&batch.x0, batch.order, self.config.schedule);
        shared::rows(finer, fine, order, x0, batch.length, schedule, batch.generators())
    }
}

/// The first part of the data that a search reads: no training comes so far.
const SEARCHED: u64 = 1 << 62;

impl Training for Elbo<'_> {
    fn step(&self, nets: &Nets, batch: &Batch) -> Result<(f64, GradientsParams)> {
        Ok(backward(nets.model, &self.rows(batch)?))
    }

    /// Searches the range of noise anew where that is due, with the weights that are evaluated.
    fn due(&mut self, nets: &Nets) -> Result<()> {
        use burn::module::Module;
        let Some(Clip::Search(search)) = &self.config.clip else { return Ok(()) };
        if nets.step == 0 || !nets.step.is_multiple_of(search.every) {
            return Ok(());
        }
        let model = (nets.average)().unwrap_or_else(|| nets.model.valid());
        let part = (nets.step / search.every * search.batches) as u64;
        let batches: Vec<Vec<u32>> = (part..part + search.batches as u64).map(|i| (nets.draw)(SEARCHED + i)).collect();
        let (length, rng) = (self.ground.length, StepRng::new(self.ground.seed));
        let range = clip::search(&model, &batches, length, self.ground.orders[0], rng, part);
        if range != self.range {
            let (name, step) = (self.ground.name, nets.step);
            term::note(&format!("{name}: step {step}, noise from {:.2} to {:.2}", range.low, range.high));
        }
        self.range = range;
        Ok(())
    }

    fn round(&self) -> Option<usize> {
        self.finer.map(|_| 0)
    }

    fn save(&self) -> Kept {
        Kept { range: Some(self.range).filter(|r| *r != self.config.first_range()), ..Kept::default() }
    }

    fn load(&mut self, from: &Parts) -> Result<()> {
        self.range = from.range.unwrap_or_else(|| self.config.first_range());
        Ok(())
    }
}
