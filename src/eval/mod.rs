//! Evaluation: every model at every step count, scored sample by sample, timed, and put into one results file.
//!
//! B batch, L length, K steps, n samples. All text metrics come from the same samples.

pub mod change;
pub mod context;
pub mod control;
pub mod copies;
pub mod flexibility;
pub mod judge;
pub mod matched;
pub mod metric;
pub mod phases;
pub mod pictures;
pub mod quality;
pub mod reconstruction;
pub mod results;
pub mod sampler;
pub mod seeds;
pub mod speed;
pub mod stats;

use std::path::PathBuf;

use burn::prelude::*;
use indexmap::IndexMap;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::pairs::Pairs;
use crate::data::{Data, Dataset, documents};
use crate::error::{Error, Result, number, whole_within};
use crate::fs::sha256_hex;
use crate::method;
use crate::model::{Denoise, Transformer};
use crate::process::Schedule;
use crate::rng::{StepRng, Stream};
use crate::sample::{Decode, Generator, Process, SampleSpec};
pub use control::ControlConfig;
pub use flexibility::FlexibilityConfig;
use metric::Metric;
pub use metric::SECOND_NLL;
use results::{Bound, DataKind, DataSummary, Likelihood, Row, SweepRow};
pub use sampler::SamplerConfig;
use stats::{Estimate, mean_interval};

/// What is evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Samples n of each model at each step count.
    pub samples: usize,
    /// Samples drawn together, also the batch of the throughput.
    pub batch: usize,
    /// Denoising steps K of the diffusion models; an autoregressive model always takes L.
    pub steps: Vec<usize>,
    /// Further sampling temperatures at every step count; with them models are also compared at the data's entropy. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub temperatures: Vec<f64>,
    /// Sampling seed: sample i draws from (seed, i) in every row.
    #[serde(default)]
    pub seed: u64,
    /// Held-out sequences for the likelihood and the reference values of real data.
    #[serde(default = "default_held_out")]
    pub held_out: usize,
    /// The sampler's own likelihood of held-out text, `{ texts = n, partitions = r }`; default: 64 texts, 2 partitions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sampler: SamplerConfig,
    /// Timed repeats of each speed measurement; 0 measures none.
    #[serde(default = "default_repeats")]
    pub speed_repeats: usize,
    /// Text data: the autoregressive model, trained on another seed, under which samples are scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<String>,
    /// Text data: a public autoregressive checkpoint that scores the same samples by characters, with its own tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_judge: Option<String>,
    /// Story data: also sample from the exact oracle.
    #[serde(default = "yes")]
    pub oracle: bool,
    /// Infilling and recovery from wrong words, measured where this table stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flexibility: Option<FlexibilityConfig>,
    /// Generation under conditions of `data.pairs`, measured where this table stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlConfig>,
    /// A context.json of the bench `context`: cost against length, shown beside the models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<PathBuf>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
fn default_held_out() -> usize {
    512
}
fn default_repeats() -> usize {
    5
}
fn yes() -> bool {
    true
}

/// Fewest samples of anything that a mean is given of: one sample has no interval.
const FEWEST: usize = 2;
/// Most denoising steps.
const MOST_STEPS: usize = 1 << 20;

/// Checks that step counts rise from at least 1.
fn step_counts(key: &str, steps: &[usize]) -> Result<()> {
    let rises = steps.windows(2).all(|p| p[0] < p[1]);
    if rises && !steps.is_empty() && steps.iter().all(|k| (1..=MOST_STEPS).contains(k)) {
        return Ok(());
    }
    let mut meant: Vec<usize> = steps.iter().map(|k| (*k).clamp(1, MOST_STEPS)).collect();
    meant.sort_unstable();
    meant.dedup();
    if meant.is_empty() {
        meant = vec![1, 2, 4, 8];
    }
    let shown = |steps: &[usize]| match steps.len() > 20 {
        true => format!("{:?} and {} more", &steps[..20], steps.len() - 20),
        false => format!("{steps:?}"),
    };
    Err(Error::usage(format!(
        "`{key}` must list rising step counts from 1 to {MOST_STEPS}, but it is {}",
        shown(steps)
    ))
    .hint(match meant.len() > 20 {
        true => format!("in rising order, each once, such as `{key} = [1, 2, 4, 8]`"),
        false => format!("`{key} = {meant:?}`"),
    }))
}

impl EvalConfig {
    /// So many samples, drawn so many at a time, at these numbers of steps, and all else as in a recipe that leaves it out.
    pub fn new(samples: usize, batch: usize, steps: Vec<usize>) -> Self {
        EvalConfig {
            samples,
            batch,
            steps,
            temperatures: Vec::new(),
            seed: 0,
            held_out: default_held_out(),
            sampler: SamplerConfig::default(),
            speed_repeats: default_repeats(),
            judge: None,
            second_judge: None,
            oracle: true,
            flexibility: None,
            control: None,
            context: None,
        }
    }

    /// Whether the model `name` is one of the judges.
    pub fn is_judge(&self, name: &str) -> bool {
        [&self.judge, &self.second_judge].into_iter().any(|judge| judge.as_deref() == Some(name))
    }

    /// Samples that are drawn together: there are no more than all of them.
    pub fn drawn_together(&self) -> usize {
        self.batch.min(self.samples)
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// A setting out of range, and step counts or temperatures that do not rise (usage).
    pub fn validate(&self) -> Result<()> {
        whole_within("eval.samples", self.samples, FEWEST..=1 << 20)?;
        whole_within("eval.held_out", self.held_out, FEWEST..=1 << 20)?;
        whole_within("eval.batch", self.batch, 1..=1 << 20)?;
        whole_within("eval.speed_repeats", self.speed_repeats, 0..=1000)?;
        self.sampler.validate()?;
        step_counts("eval.steps", &self.steps)?;
        for t in &self.temperatures {
            if !((1e-3..=1e3).contains(t) && *t != 1.0) {
                return Err(Error::usage(format!(
                    "`eval.temperatures` lists {}, and must list numbers between 0.001 and 1000 other than 1",
                    number(*t)
                ))
                .hint("temperature 1 is always sampled; list others: `eval.temperatures = [0.7, 0.8, 0.9]`"));
            }
        }
        if self.temperatures.windows(2).any(|p| p[0] >= p[1]) {
            let mut rising = self.temperatures.clone();
            rising.sort_by(f64::total_cmp);
            rising.dedup();
            return Err(Error::usage(format!("`eval.temperatures` must rise, but it is {:?}", self.temperatures))
                .hint(format!("`eval.temperatures = {rising:?}`")));
        }
        self.control.as_ref().map_or(Ok(()), ControlConfig::validate)?;
        self.flexibility.as_ref().map_or(Ok(()), FlexibilityConfig::validate)
    }
}

/// Adds the second judge's score to rows whose sequences are `drawn`.
pub fn add_second(rows: &mut [Row], drawn: &[Vec<Vec<u32>>], judge: &judge::TextJudge) {
    for (row, texts) in rows.iter_mut().zip(drawn) {
        let values = judge.nll(texts);
        row.scores.insert(SECOND_NLL.into(), mean_interval(&values, 0));
        row.samples.insert(SECOND_NLL.into(), values);
    }
}

/// What gives a sample its negative log-likelihood.
pub enum Scorer<'a> {
    /// The story language itself.
    Story(&'a crate::data::story::Story),
    /// The picture task itself.
    Pictures(&'a crate::data::picture::Pictures),
    /// The language of a program's own data, where it is known.
    Exact(&'a dyn Dataset),
    /// A held-out autoregressive model.
    Judge(&'a dyn Denoise),
    /// The same of documents, with their end token: it scores the text up to its end, and not what fills it up.
    Documents(&'a Transformer, u32),
    /// A held-out autoregressive model of sentences behind conditions: it scores the sentence with its end alone.
    Sentences(&'a Transformer, &'a Pairs),
    /// A public autoregressive model with a tokenizer of its own.
    Text(judge::TextJudge<'a>),
}

impl Scorer<'_> {
    /// The score's key in results.
    pub fn name(&self) -> &'static str {
        match self {
            Scorer::Story(_) | Scorer::Pictures(_) | Scorer::Exact(_) => "oracle_nll",
            Scorer::Judge(_) | Scorer::Documents(..) | Scorer::Sentences(..) => "judge_nll",
            Scorer::Text(_) => "judge_nll_per_character",
        }
    }

    /// Mean NLL per token (of a judge with its own tokenizer: per character) of each text, nats.
    pub fn nll(&self, texts: &[Vec<u32>]) -> Vec<f64> {
        match self {
            Scorer::Story(s) => texts.par_iter().map(|t| -s.chain().log_likelihood(t) / t.len() as f64).collect(),
            Scorer::Pictures(p) => texts.par_iter().map(|t| -p.log_likelihood(t) / t.len() as f64).collect(),
            // Data that knows the likelihood of one text knows that of all.
            Scorer::Exact(data) => texts.iter().map(|t| data.nll(t).unwrap_or(f64::NAN)).collect(),
            Scorer::Judge(judge) => ar_nll(*judge, texts),
            Scorer::Documents(judge, end) => ended_nll(judge, texts, *end),
            Scorer::Sentences(judge, pairs) => {
                control::fluency(judge, pairs, &texts.iter().map(|t| pairs.sentence(t)).collect::<Vec<_>>())
            }
            Scorer::Text(judge) => judge.nll(texts),
        }
    }

    /// The positions of a sequence `[L]` that are scored.
    pub fn counted(&self, tokens: &[u32]) -> std::ops::Range<usize> {
        let own = self.scored(tokens);
        let from = (own.as_ptr() as usize - tokens.as_ptr() as usize) / size_of::<u32>();
        from..from + own.len()
    }

    /// What of a sequence `[L]` is scored: all of it; of documents what comes before the end, with it; where it is a sentence
    /// behind a condition, the sentence.
    ///
    /// A condition and padding repeat themselves, and would make samples of equal sentences look alike.
    pub fn scored<'t>(&self, tokens: &'t [u32]) -> &'t [u32] {
        match self {
            Scorer::Sentences(_, pairs) => pairs.sentence(tokens),
            Scorer::Documents(_, end) => documents::ended(tokens, *end),
            Scorer::Text(judge) => judge.data.end().map_or(tokens, |end| documents::ended(tokens, end)),
            _ => tokens,
        }
    }
}

/// Exact NLL per token of each text under an autoregressive network, nats.
pub fn ar_nll(model: &dyn Denoise, texts: &[Vec<u32>]) -> Vec<f64> {
    ar_losses(model, texts).iter().map(|losses| stats::mean(losses)).collect()
}

/// The same of each text up to its first end token: what stands behind is no text.
fn ended_nll(model: &Transformer, texts: &[Vec<u32>], end: u32) -> Vec<f64> {
    let all = ar_losses(model, texts).into_iter().zip(texts);
    all.map(|(losses, text)| stats::mean(&losses[..documents::ended(text, end).len()])).collect()
}

/// The NLL of each token of each text `[L]`, nats.
pub fn ar_losses(model: &dyn Denoise, texts: &[Vec<u32>]) -> Vec<Vec<f64>> {
    let mut out = Vec::with_capacity(texts.len());
    for group in texts.chunks(16) {
        let length = group[0].len();
        let rows = method::ar_nll(&group.concat(), length);
        let (_, losses) = method::evaluate(model, &rows);
        out.extend(losses.chunks(length).map(<[f64]>::to_vec));
    }
    out
}

/// NELBO per token of each text, nats: `draws` stratified times each, the same masks for every model.
pub fn nelbo(model: &dyn Denoise, schedule: Schedule, process: &Process, texts: &[Vec<u32>], draws: usize) -> Vec<f64> {
    let rng = StepRng::new(0);
    texts
        .iter()
        .enumerate()
        .map(|(i, text)| {
            // The batch is one text `draws` times, so its times are stratified over (0, 1].
            let copies = text.repeat(draws);
            let gens = (rng.at(2 * i as u64, Stream::Validation), rng.at(2 * i as u64 + 1, Stream::Validation));
            let rows = match process.corruption.absorbs() {
                _ if let Some(chain) = &process.chain => method::d3pm::rows(chain, 0.0, &copies, text.len(), gens),
                true => method::elbo(&copies, text.len(), model.mask(), process.order, schedule, gens),
                false => method::uniform::elbo(&copies, text.len(), model.vocab(), schedule, None, gens),
            };
            if rows.rows.is_empty() { 0.0 } else { method::evaluate(model, &rows).0 }
        })
        .collect()
}

/// The model's own loss per token of each text, nats, and what it is.
pub fn losses(model: &dyn Denoise, causal: bool, process: &Process, texts: &[Vec<u32>]) -> (Vec<f64>, Bound) {
    match causal {
        true => (ar_nll(model, texts), Bound::Exact),
        false => {
            // Where every position has a step of its own nothing is left to chance, and the bound is the likelihood.
            let (draws, kind) = if process.order.fixed(process.length) { (1, Bound::Exact) } else { (8, Bound::Elbo) };
            (nelbo(model, process.schedule, process, texts, draws), kind)
        }
    }
}

/// The model's own likelihood of held-out text, its kind marked.
pub fn likelihood(model: &dyn Denoise, causal: bool, process: &Process, texts: &[Vec<u32>]) -> Likelihood {
    let (values, kind) = losses(model, causal, process, texts);
    Likelihood { estimate: mean_interval(&values, 0), kind, n: texts.len() }
}

/// The per-sample scores of a set of texts.
fn scores(texts: &[Vec<u32>], scorer: &Scorer) -> IndexMap<String, Vec<f64>> {
    let mut out = IndexMap::new();
    out.insert(scorer.name().to_string(), scorer.nll(texts));
    let scored: Vec<&[u32]> = texts.iter().map(|t| scorer.scored(t)).collect();
    for facts in &metric::TABLE {
        match (facts.metric, scorer) {
            (Metric::Valid, Scorer::Story(s)) => {
                let valid = texts.iter().map(|t| f64::from(u8::from(s.is_valid(t)))).collect();
                out.insert(facts.key.to_string(), valid);
            }
            // All that is known of pictures.
            (Metric::CaptionValid, Scorer::Pictures(p)) => out.extend(pictures::scores(p, texts)),
            _ => out.extend(facts.texts.map(|of| (facts.key.to_string(), of(&scored)))),
        }
    }
    out
}

/// Scores of a set of texts as a whole: what single samples cannot show.
fn between(texts: &[&[u32]]) -> IndexMap<String, f64> {
    IndexMap::from([
        ("unique".to_string(), quality::unique(texts.iter().copied())),
        ("pooled_entropy".to_string(), quality::pooled_entropy(texts.iter().copied())),
        ("self_distinct_2".to_string(), quality::self_distinct_2(texts.iter().copied())),
    ])
}

fn estimates(samples: &IndexMap<String, Vec<f64>>) -> IndexMap<String, Estimate> {
    samples.iter().map(|(key, values)| (key.clone(), mean_interval(values, 0))).collect()
}

/// Sequences of a row that are kept for a report's pictures.
const EXAMPLES: usize = 4;

/// One row: what `generator` draws in `steps` steps, scored, and timed where `config.speed_repeats` asks for it.
///
/// # Errors
/// Too few steps for the process (usage).
pub fn row(
    generator: &Generator,
    steps: usize,
    config: &EvalConfig,
    scorer: &Scorer,
    timed: bool,
) -> Result<(Row, Vec<Vec<u32>>)> {
    let n = config.samples;
    let drawn = generator.sample(&SampleSpec::new(steps, config.seed, config.drawn_together()), n)?;
    let samples = scores(&drawn.tokens, scorer);
    let texts: Vec<&[u32]> = drawn.tokens.iter().map(|t| scorer.scored(t)).collect();
    // By confidence samples are drawn one by one, whatever the batch.
    let one_by_one = matches!(generator, Generator::Tokens(_, p) if matches!(p.decode, Decode::Rule(_)));
    let batch = if one_by_one { 1 } else { config.drawn_together() };
    let speed = match timed && config.speed_repeats > 0 {
        true => Some(speed::measure(generator, steps, batch, config.speed_repeats, config.seed + 1)?),
        false => None,
    };
    let mut corpus = between(&texts);
    if let (Scorer::Pictures(task), Generator::Tokens(model, process)) = (scorer, generator) {
        corpus.insert(pictures::GIVEN.into(), pictures::agreement_given(task, *model, process, steps, config)?);
    }
    let row = Row {
        steps,
        nfe: drawn.nfe.iter().sum::<usize>() as f64 / n as f64,
        positions: drawn.positions.iter().sum::<u64>() as f64 / n as f64,
        layer_positions: Some(drawn.layer_positions.iter().sum::<u64>() as f64 / n as f64),
        decode_positions: (!drawn.decode_positions.is_empty())
            .then(|| drawn.decode_positions.iter().sum::<u64>() as f64 / n as f64),
        steps_per_block: match (generator.steps_per_block(steps)?, generator) {
            // What it took.
            (None, Generator::Tokens(_, process)) => {
                let blocks = process.decode.layout(process).count(process.length);
                Some(drawn.nfe.iter().sum::<usize>() as f64 / (n * blocks) as f64)
            }
            (known, _) => known,
        },
        n,
        seed: config.seed,
        scores: estimates(&samples),
        samples,
        corpus,
        speed,
        sampler_nll: None,
        examples: match scorer {
            Scorer::Pictures(_) => drawn.tokens.iter().take(EXAMPLES).cloned().collect(),
            _ => Vec::new(),
        },
        by_seed: Vec::new(),
    };
    Ok((row, drawn.tokens))
}

/// One row of a temperature sweep: the same samples' seeds, another temperature, scored for quality and variety only.
///
/// # Errors
/// As [`row`].
pub fn sweep_row(
    generator: &Generator,
    steps: usize,
    temperature: f64,
    config: &EvalConfig,
    scorer: &Scorer,
) -> Result<SweepRow> {
    let mut spec = SampleSpec::new(steps, config.seed, config.drawn_together());
    spec.filter.temperature = temperature;
    let texts = generator.sample(&spec, config.samples)?.tokens;
    let samples = IndexMap::from([
        (scorer.name().to_string(), scorer.nll(&texts)),
        ("entropy".to_string(), texts.iter().map(|t| quality::unigram_entropy(scorer.scored(t))).collect()),
    ]);
    let scores = estimates(&samples);
    Ok(SweepRow { steps, temperature, n: config.samples, seed: config.seed, scores, samples })
}

/// What real data scores, and what identifies it.
///
/// # Errors
/// A tokenizer that cannot be written (input); too little memory to look for copies (device).
pub fn data_summary(
    data: &Data,
    scorer: &Scorer,
    second: Option<&judge::TextJudge>,
    held_out: &[Vec<u32>],
) -> Result<DataSummary> {
    let mut all = scores(held_out, scorer);
    if let Some(judge) = second {
        all.insert(SECOND_NLL.into(), judge.nll(held_out));
    }
    let mut corpus = between(&held_out.iter().map(|t| scorer.scored(t)).collect::<Vec<_>>());
    // What real text has in common with the training text, in windows of the same length.
    if let Some(found) = copies::longest(data, &held_out.iter().map(Vec::as_slice).collect::<Vec<_>>())? {
        all.extend(copies::scores(&found));
        corpus.extend(copies::without(&all[scorer.name()], &all[copies::COPIES]));
    }
    let reference = estimates(&all);
    let (kind, entropy_rate) = match data {
        // The rate that samples are compared with is the noisy chain's own, estimated on many texts.
        Data::Story(s) => {
            let mut rng = StepRng::new(17).at(0, Stream::Validation);
            (DataKind::Story, Some(s.chain().mean_nll(20_000, &mut rng).0))
        }
        Data::Pictures(p) => {
            let mut rng = StepRng::new(17).at(0, Stream::Validation);
            let texts: Vec<Vec<u32>> = (0..20_000).map(|_| p.sample(&mut rng)).collect();
            (DataKind::Pictures, Some(stats::mean(&scorer.nll(&texts))))
        }
        Data::Pairs(_) => (DataKind::Pairs, None),
        Data::Text { .. } => (DataKind::Text, None),
    };
    let pictures = match data {
        Data::Pictures(p) => Some(p.config().clone()),
        _ => None,
    };
    Ok(DataSummary {
        kind,
        pictures,
        vocab: data.vocab(),
        length: data.length(),
        sha256: data.sha256(),
        tokenizer_sha256: Some(data.tokenizer_sha256()?),
        entropy: reference["entropy"],
        n_reference: held_out.len(),
        entropy_rate,
        nll_name: scorer.name().to_string(),
        reference,
        corpus,
    })
}

/// The same of a program's own data.
///
/// # Errors
/// A tokenizer that cannot be written (input).
pub fn own_summary(data: &dyn Dataset, scorer: &Scorer, held_out: &[Vec<u32>]) -> Result<DataSummary> {
    let reference = estimates(&scores(held_out, scorer));
    Ok(DataSummary {
        kind: DataKind::Own,
        pictures: None,
        vocab: data.vocab(),
        length: data.length(),
        sha256: data.sha256(),
        tokenizer_sha256: Some(sha256_hex(data.tokenizer().to_json()?.as_bytes())),
        entropy: reference["entropy"],
        n_reference: held_out.len(),
        entropy_rate: None,
        nll_name: scorer.name().to_string(),
        corpus: between(&held_out.iter().map(|t| scorer.scored(t)).collect::<Vec<_>>()),
        reference,
    })
}

/// The floating point type that tensors of a device have, for results.
pub fn device_dtype(device: &Device) -> String {
    let probe: Tensor<1> = Tensor::zeros([1], device);
    format!("{:?}", probe.dtype()).to_lowercase()
}
