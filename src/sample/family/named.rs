//! The published samplers by name: whose each is, and its plan with the settings that it was published with.
//!
//! L length, K steps.

use super::{Confidence, Count, Ending, EntropyStop, Plan, Remask, Reveal, Rule, STOP_WINDOW, Transition};
use crate::error::{Error, Result, nearest};
use crate::model::config::Visibility;
use crate::model::family::{Description, Family, Prediction};
use crate::process::Schedule;

/// A published sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// MDLM's ancestral sampler, which SDTT's students have too.
    Mdlm,
    /// The same, keeping the prediction while the canvas does not change.
    MdlmCache,
    MdlmAnalytic,
    RemdmCap,
    RemdmRescale,
    RemdmConf,
    RemdmLoop,
    SeddEuler,
    SeddAnalytic,
    /// DUO's ancestral sampler to the end.
    Duo,
    /// The same with the most probable tokens at the end.
    DuoGreedy,
    /// Low-confidence remasking.
    Llada,
    /// Random remasking.
    LladaRandom,
    /// Fast-dLLM: everything above a confidence.
    FastDllm,
    /// Fast-dLLM: as many as a factor allows.
    FastDllmFactor,
    Dream,
    DreamMargin,
    DreamEntropy,
    DreamOrigin,
    Dllm,
    /// First hitting.
    Bd3lm,
}

/// What the caller chose; what is absent is as published.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Settings {
    /// Steps K over the whole text.
    pub steps: Option<usize>,
    /// Positions of a block, for the samplers that go block by block.
    pub block: Option<usize>,
    pub temperature: Option<f64>,
    /// The confidence, or the factor, of Fast-dLLM.
    pub threshold: Option<f64>,
    /// How readily ReMDM masks again.
    pub eta: Option<f64>,
    /// ReMDM's nucleus.
    pub top_p: Option<f64>,
    /// BD3-LM: end a text whose last tokens have less entropy than this, in nats (published: 4); absent: never.
    pub stop_entropy: Option<f64>,
    /// How many tokens those are.
    pub stop_window: Option<usize>,
}

use Sampler::*;

/// All of them with their names on the command line, in the order in which messages list them.
const NAMES: [(Sampler, &str); 21] = [
    (Mdlm, "mdlm"),
    (MdlmCache, "mdlm_cache"),
    (MdlmAnalytic, "mdlm_analytic"),
    (RemdmCap, "remdm_cap"),
    (RemdmRescale, "remdm_rescale"),
    (RemdmConf, "remdm_conf"),
    (RemdmLoop, "remdm_loop"),
    (SeddEuler, "sedd_euler"),
    (SeddAnalytic, "sedd_analytic"),
    (Duo, "duo"),
    (DuoGreedy, "duo_greedy"),
    (Llada, "llada"),
    (LladaRandom, "llada_random"),
    (FastDllm, "fast_dllm"),
    (FastDllmFactor, "fast_dllm_factor"),
    (Dream, "dream"),
    (DreamMargin, "dream_margin"),
    (DreamEntropy, "dream_entropy"),
    (DreamOrigin, "dream_origin"),
    (Dllm, "dllm"),
    (Bd3lm, "bd3lm"),
];

impl Sampler {
    /// All of them, in the order in which messages list them.
    pub fn all() -> impl Iterator<Item = Sampler> {
        NAMES.into_iter().map(|(sampler, _)| sampler)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(sampler, _)| *sampler == self).map_or("", |(_, name)| name)
    }

    /// The sampler of this name.
    ///
    /// # Errors
    /// A name that is not known (usage), with the nearest one.
    pub fn named(name: &str) -> Result<Sampler> {
        NAMES.into_iter().find(|(_, n)| *n == name).map(|(sampler, _)| sampler).ok_or_else(|| {
            let error = Error::usage(format!("no sampler `{name}`"));
            match nearest(name, NAMES.iter().map(|(_, n)| *n)) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("the samplers are {}", Self::list(|_| true))),
            }
        })
    }

    fn list(of: impl Fn(Sampler) -> bool) -> String {
        NAMES.iter().filter(|(s, _)| of(*s)).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    }

    /// The one that a family was published with, if it has one that draws a text in other ways than token by token.
    pub fn published(family: Family) -> Option<Sampler> {
        Some(match family {
            Family::Mdlm | Family::Sdtt => Mdlm,
            Family::Duo => Duo,
            Family::Bd3lm => Bd3lm,
            Family::Sedd => SeddAnalytic,
            Family::Llada => Llada,
            Family::Dream => Dream,
            Family::A2d | Family::ModernBert => Dllm,
            Family::Gpt2 | Family::Llama | Family::Qwen2 | Family::Qwen3 => return None,
        })
    }

    /// Whether it draws from models of this kind: their predictions must mean what it takes them for.
    pub fn fits(self, d: &Description) -> bool {
        let blocks = matches!(d.network.visibility, Visibility::Blocks(_));
        match d.family.prediction() {
            Prediction::Subs | Prediction::Logits if d.special.mask.is_none() => false,
            Prediction::Subs if blocks => self == Bd3lm,
            Prediction::Subs => self.transits() && !self.scores() && !self.uniform(),
            Prediction::Score => self.scores(),
            Prediction::Uniform => self.uniform(),
            Prediction::Logits => !self.transits() && self != Bd3lm,
            Prediction::NextToken => false,
        }
    }

    fn transits(self) -> bool {
        self.uniform() || self.scores() || self.remasks() || matches!(self, Mdlm | MdlmCache | MdlmAnalytic)
    }

    fn remasks(self) -> bool {
        matches!(self, RemdmCap | RemdmRescale | RemdmConf | RemdmLoop)
    }

    fn scores(self) -> bool {
        matches!(self, SeddEuler | SeddAnalytic)
    }

    fn uniform(self) -> bool {
        matches!(self, Duo | DuoGreedy)
    }

    /// Whether its steps end when everything is revealed, and not at a number of them.
    fn until_done(self) -> bool {
        matches!(self, FastDllm | FastDllmFactor | Bd3lm)
    }

    /// Whether it writes texts longer than the model, through a sliding window.
    pub fn slides(self) -> bool {
        self == Bd3lm
    }

    fn dream(self) -> bool {
        matches!(self, Dream | DreamMargin | DreamEntropy | DreamOrigin)
    }

    /// The plan for one text of `length` of which the positions before `start` are given.
    ///
    /// # Errors
    /// A model that it does not fit, and settings that it does not have (usage).
    pub fn plan(self, d: &Description, start: usize, length: usize, settings: &Settings) -> Result<Plan> {
        if !self.fits(d) {
            let others = Self::list(|s| s.fits(d));
            return Err(Error::usage(format!("`--sampler {}` does not fit a {} model", self.name(), d.family.name()))
                .hint(match others.is_empty() {
                    true => "leave `--sampler` out: the model writes token by token".to_string(),
                    false => format!("leave it out, or choose among {others}"),
                }));
        }
        self.check(d, start, settings)?;
        let written = length - start;
        let block = match d.network.visibility {
            Visibility::Blocks(size) => size,
            _ => settings.block.unwrap_or(written).clamp(1, written.max(1)),
        };
        if self.transits() {
            let steps = settings.steps.unwrap_or(written.max(1));
            return Ok(Plan::whole(Rule::Transition(self.transition(d, settings)), steps, 1, length));
        }
        let blocks = if self == Bd3lm { 1 } else { written.div_ceil(block).max(1) };
        // One a token where no number is asked for, or as few more as all blocks can share.
        let steps = settings.steps.unwrap_or(written.div_ceil(blocks).max(1) * blocks);
        if steps < blocks || !steps.is_multiple_of(blocks) && !self.until_done() {
            return Err(Error::usage(format!("{steps} steps cannot be shared by {blocks} blocks"))
                .hint(format!("`--steps {}`, or leave `--steps` out", steps.div_ceil(blocks).max(1) * blocks)));
        }
        let window = settings.stop_window.unwrap_or(STOP_WINDOW);
        let plan = Plan {
            entropy: settings.stop_entropy.map(|nats| EntropyStop { nats, window }),
            slides: self.slides(),
            ..Plan::whole(Rule::Reveal(self.reveal(settings)), steps / blocks, 1, length)
        };
        // A model over blocks has its borders where it was trained to have them.
        Ok(if self == Bd3lm { plan.in_blocks(0, length, block) } else { plan.in_blocks(start, written, block) })
    }

    fn check(self, d: &Description, start: usize, settings: &Settings) -> Result<()> {
        let name = self.name();
        let has = |flag: &str, given: bool, known: bool| match given && !known {
            true => {
                Err(Error::usage(format!("`--sampler {name}` has no `{flag}`")).hint(format!("leave `{flag}` out")))
            }
            false => Ok(()),
        };
        has("--steps", settings.steps.is_some(), !self.until_done())?;
        has("--block", settings.block.is_some(), !self.transits() && !self.dream() && self != Bd3lm)?;
        has("--threshold", settings.threshold.is_some(), matches!(self, FastDllm | FastDllmFactor))?;
        has("--eta", settings.eta.is_some(), matches!(self, RemdmCap | RemdmRescale | RemdmLoop))?;
        has("--top-p", settings.top_p.is_some(), self.remasks())?;
        has("--stop-entropy", settings.stop_entropy.is_some(), self == Bd3lm)?;
        has("--temperature", settings.temperature.is_some(), !self.transits())?;
        if start > 0 && (self.remasks() || self.uniform() || (self.scores() && d.special.mask.is_none())) {
            return Err(Error::usage(format!("`--sampler {name}` changes every token, and would change a prompt"))
                .hint("leave the prompt out, or take another sampler"));
        }
        Ok(())
    }

    fn transition(self, d: &Description, settings: &Settings) -> Transition {
        let (scaled, absorb) = (d.scale_by_sigma, d.special.mask.is_some());
        // Nucleus and the loop's settings as in published runs of ReMDM-loop; eta of the others is the same number, for want
        // of one: they choose it by the number of steps.
        let (eta, nucleus) = (settings.eta.unwrap_or(0.02), settings.top_p.unwrap_or(0.9));
        let remasking = |remask| Transition::Remasking { remask, nucleus };
        match self {
            MdlmCache => Transition::CachedAncestral,
            MdlmAnalytic => Transition::Analytic,
            RemdmCap => remasking(Remask::Cap { eta }),
            RemdmRescale => remasking(Remask::Rescale { eta }),
            RemdmConf => remasking(Remask::Confidence),
            RemdmLoop => remasking(Remask::Loop { eta, t_on: 0.55, t_off: 0.05, alpha_on: 0.9 }),
            SeddEuler => Transition::ScoreEuler { scaled, absorb },
            SeddAnalytic => Transition::ScoreAnalytic { scaled, absorb },
            Duo => Transition::Uniform(Ending::Ancestral),
            DuoGreedy => Transition::Uniform(Ending::Greedy),
            _ => Transition::Ancestral,
        }
    }

    fn reveal(self, settings: &Settings) -> Reveal {
        let eps = 1e-3;
        let (confidence, count) = match self {
            LladaRandom => (Confidence::Random, Count::Even),
            FastDllm => (Confidence::Probability, Count::Threshold(settings.threshold.unwrap_or(0.9))),
            FastDllmFactor => (Confidence::Probability, Count::Factor(settings.threshold.unwrap_or(1.0))),
            Dream => (Confidence::Probability, Count::Interpolated { eps }),
            DreamMargin => (Confidence::Margin, Count::Interpolated { eps }),
            DreamEntropy => (Confidence::NegativeEntropy, Count::Interpolated { eps }),
            DreamOrigin => (Confidence::Probability, Count::Independent { eps }),
            Dllm => (Confidence::Probability, Count::Scheduled(Schedule::LogLinear)),
            Bd3lm => {
                let temperature = settings.temperature.unwrap_or(1.0);
                return Reveal { temperature, ..Reveal::first_hitting() };
            }
            _ => (Confidence::Probability, Count::Even),
        };
        // Publicly, these models are read greedily unless a temperature is asked for.
        Reveal { confidence, temperature: settings.temperature.unwrap_or(0.0), ..Reveal::greedy(count) }
    }
}
