//! What is asked of a model's texts, and the texts that are ready to be drawn: the same for a model of ours and a public checkpoint.
//!
//! L length.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::model::draw::Filter;
use crate::model::{Denoise, Transformer};
use crate::sample::family::{EntropyStop, STOP_WINDOW};
use crate::sample::{DecodeConfig, Process, SampleSpec, Samples, beam, mbr};

/// The longest text that is written.
pub const LONGEST: usize = 1 << 20;

/// What is asked of a model's texts.
#[derive(Debug, Clone)]
pub struct Request {
    /// Denoising steps.
    pub steps: Option<usize>,
    /// How the steps are walked, where not in the model's own way.
    pub decode: Option<DecodeConfig>,
    pub seed: u64,
    /// Texts that are drawn together at most.
    pub batch: usize,
    /// What each text begins with, or a text with gaps.
    pub prompt: Option<String>,
    pub infill: Option<String>,
    pub filter: Filter,
    /// The temperature where it was given: some samplers have another default than 1, and some have none.
    pub temperature: Option<f64>,
    /// Candidates that are drawn for each text; the one most similar to the others is kept.
    pub mbr: Option<usize>,
    /// Whether the canvas of every step is kept.
    pub trace: bool,
    /// Tokens of a text, the prompt among them.
    pub length: Option<usize>,
    /// A published sampler, and what it is told; of public checkpoints alone.
    pub sampler: Option<String>,
    pub block: Option<usize>,
    pub threshold: Option<f64>,
    pub eta: Option<f64>,
    /// A text ends where its last tokens have less unigram entropy than this, in nats, and how many tokens those are.
    pub stop_entropy: Option<f64>,
    pub stop_window: Option<usize>,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            steps: None,
            decode: None,
            seed: 0,
            batch: 16,
            prompt: None,
            infill: None,
            filter: Filter::default(),
            temperature: None,
            mbr: None,
            trace: false,
            length: None,
            sampler: None,
            block: None,
            threshold: None,
            eta: None,
            stop_entropy: None,
            stop_window: None,
        }
    }
}

impl Request {
    /// Checks what no model can do.
    ///
    /// # Errors
    /// No step or too many, a temperature that is not a finite number of at least 0, settings that contradict each other (usage).
    pub fn validate(&self) -> Result<()> {
        if let Some(k) = self.steps.filter(|k| *k == 0 || *k > 1 << 20) {
            return Err(Error::usage(format!("`--steps {k}` must be between 1 and {}", 1 << 20)));
        }
        let temperature = self.filter.temperature;
        if !temperature.is_finite() || temperature < 0.0 {
            return Err(Error::usage(format!("`--temperature {temperature}` is not a finite number from 0")));
        }
        match &self.decode {
            Some(decode) => decode.validate("--decode"),
            None => Ok(()),
        }
    }

    /// Candidates of each text.
    pub fn candidates(&self) -> usize {
        self.mbr.unwrap_or(1)
    }

    /// When a text is ended because it repeats itself.
    pub fn stop(&self) -> Option<EntropyStop> {
        let window = self.stop_window.unwrap_or(STOP_WINDOW);
        self.stop_entropy.map(|nats| EntropyStop { nats, window })
    }

    /// How texts are drawn in so many steps around what is pinned.
    pub fn spec(&self, steps: usize, pinned: Vec<Option<u32>>) -> SampleSpec {
        let (filter, trace) = (self.filter, self.trace);
        SampleSpec { filter, pinned, trace, ..SampleSpec::new(steps, self.seed, self.batch.max(1)) }
    }

    /// What draws the texts of these numbers with all their candidates, and how many that are.
    pub fn part(&self, spec: &SampleSpec, texts: Range<usize>) -> (SampleSpec, usize) {
        let candidates = self.candidates();
        (SampleSpec { first: texts.start * candidates, ..spec.clone() }, texts.len() * candidates)
    }

    /// The texts among what was drawn, where candidates are compared by the part of them that `text` gives.
    pub fn chosen(&self, drawn: Samples, text: &dyn Fn(&[u32]) -> Vec<u32>) -> Samples {
        match self.mbr {
            Some(candidates) => mbr::choose(drawn, candidates, text),
            None => drawn,
        }
    }

    /// The steps that were asked for; else `usual`, or as few more as give each block the same number and at least one. A
    /// model that writes token by token takes one a token.
    ///
    /// # Errors
    /// Another number of steps than the length, of a model that writes token by token (usage).
    pub fn steps_of(&self, process: &Process, usual: usize, over_blocks: bool) -> Result<usize> {
        let by_token = process.cached && !over_blocks;
        match self.steps {
            Some(k) if by_token && k != process.length => Err(Error::usage(format!(
                "`--steps {k}`: an autoregressive model takes one step a token ({})",
                process.length
            ))
            .hint(format!("leave `--steps` out, or write `--steps {}`", process.length))),
            Some(k) => Ok(k),
            None if by_token => Ok(process.length),
            None => {
                let blocks = process.order.blocks(process.length);
                if process.order.pattern.is_some_and(|p| !p.follows_steps()) {
                    return Ok(blocks);
                }
                let text = process.order.text;
                if text > 0 {
                    // A word takes one step, and a block among words as many as the usual.
                    let among = process.length.div_ceil(text + process.order.block);
                    return Ok(blocks - among + among * usual.min(process.order.block));
                }
                Ok(blocks * usual.min(process.length).div_ceil(blocks))
            }
        }
    }
}

/// The bytes of a text's ids, and the texts of these numbers.
pub(super) type Decode<'a> = Box<dyn Fn(&[u32]) -> Vec<u8> + 'a>;
pub(super) type Draw<'a> = Box<dyn Fn(Range<usize>) -> Result<Samples> + 'a>;

/// Texts that are ready to be drawn.
pub struct Drawing<'a> {
    /// The model's name, or its family's.
    pub name: String,
    /// In how many steps, and by which sampler.
    pub how: String,
    pub(super) decode: Decode<'a>,
    pub(super) draw: Draw<'a>,
}

impl Drawing<'_> {
    /// The texts of these numbers.
    ///
    /// # Errors
    /// What is asked for cannot be computed.
    pub fn draw(&self, texts: Range<usize>) -> Result<Samples> {
        (self.draw)(texts)
    }

    /// The bytes of a text, without what is in front of it or behind its end.
    pub fn bytes(&self, ids: &[u32]) -> Vec<u8> {
        (self.decode)(ids)
    }

    /// The text itself; bytes that are not UTF-8 are replaced.
    pub fn text(&self, ids: &[u32]) -> String {
        String::from_utf8_lossy(&self.bytes(ids)).into_owned()
    }
}

/// A search for the most probable texts: how wide it is, and what a longer text is worth.
#[derive(Debug, Clone, Copy)]
pub struct Beams {
    pub width: usize,
    pub length_penalty: f64,
}

/// The most probable continuations of what is pinned, which ends with one of `ends`.
pub(super) fn beams(
    model: &Transformer,
    process: &Process,
    pinned: &[Option<u32>],
    beams: Beams,
    ends: &[u32],
) -> Result<Vec<beam::Hypothesis>> {
    let prompt: Vec<u32> = pinned.iter().map_while(|p| *p).collect();
    if pinned.iter().skip(prompt.len()).any(Option::is_some) {
        return Err(Error::usage("beam search continues a prompt; it cannot fill a gap").hint("use `--prompt`"));
    }
    let search = beam::Search { ends, ..beam::Search::new(beams.width, beams.length_penalty) };
    beam::search(model as &dyn Denoise, process, &prompt, &search)
}
