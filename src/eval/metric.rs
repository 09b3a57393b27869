//! The metrics that a report shows and a gate can judge, in one table: key, heading, direction, default limit, and what has it.
//!
//! A new metric is a variant with its row here, and the place where it is computed.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::quality;

/// The second judge's score, nats per character.
pub const SECOND_NLL: &str = "second_judge_nll";
/// The share of samples that copy: 0 or 1 of one.
pub const COPIES: &str = "copies";

/// The kinds of data a study can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKind {
    /// The built-in language, whose likelihood is known exactly.
    Story,
    /// The built-in captions with pictures, whose likelihood is known exactly too.
    Pictures,
    /// Attributes with sentences, scored by a judge model.
    Pairs,
    /// Any text, scored by a judge model.
    Text,
    /// Data of a program that uses the library, scored by itself or by a judge model.
    Own,
}

/// Which way a metric gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Lower,
    Higher,
    /// Neither: near the value of real data, or of the baseline, is best.
    Near,
}

/// What a schema adds to the names of [`Metric::Nll`].
fn with_older_names(schema: &mut Schema) {
    if let Some(Value::Array(names)) = schema.get_mut("oneOf") {
        for older in ["oracle_nll", "judge_nll", "judge_nll_per_character"] {
            names
                .push(serde_json::json!({ "const": older, "type": "string", "description": "Another name of `nll`." }));
        }
    }
}

/// Every metric that a report shows or a gate can judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = with_older_names)]
pub enum Metric {
    /// The sampler's own likelihood of held-out text.
    SamplerNll,
    /// Negative log-likelihood of samples under the judge, or under the language where it is known.
    #[serde(alias = "oracle_nll", alias = "judge_nll", alias = "judge_nll_per_character")]
    Nll,
    /// The same under a second judge, a public checkpoint: nats per character.
    SecondJudgeNll,
    /// Unigram entropy of a sample.
    Entropy,
    /// Share of samples that follow the language's rules.
    Valid,
    /// Share of captions without a fault.
    CaptionValid,
    /// Share of a caption's clauses that its picture agrees with.
    Clauses,
    /// Share of pictures that agree with their captions in everything.
    Agreement,
    /// Share of distinct bigrams among the bigrams of a sample.
    #[serde(rename = "distinct_2")]
    Distinct2,
    /// Share of positions whose 4-gram was already there in the sample.
    Repetition,
    /// How much a sample resembles others: the mean BLEU over pairs.
    SelfBleu,
    /// Share of samples that differ from every earlier one.
    Unique,
    /// Unigram entropy of all samples together.
    PooledEntropy,
    /// Share of samples with 64 characters or more of the training text in them.
    Copies,
    /// Milliseconds for one sample at batch 1.
    Latency,
    /// Tokens per second in a batch.
    Throughput,
}

/// What has a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Every sample.
    Samples,
    /// Samples of this kind of data.
    Kind(DataKind),
    /// Text, where a second judge scores it.
    SecondJudge,
    /// Held-out texts under a sampler.
    Sampler,
    /// A measurement of time.
    Time,
}

/// How far a metric may move to the worse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Slack {
    /// A share of the baseline's value.
    Relative(f64),
    /// In the metric's own unit.
    Absolute(f64),
}

/// A score of each of some texts.
pub type OfTexts = fn(&[&[u32]]) -> Vec<f64>;

/// What is known of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub metric: Metric,
    /// The score key in results.json; the likelihood's is the data's own.
    pub key: &'static str,
    /// Heading with unit and an arrow that points to better.
    pub label: &'static str,
    pub better: Direction,
    /// What a gate allows where a rule says nothing else.
    pub slack: Slack,
    pub of: Of,
    /// It is a share, so that an interval ends at 0 and 1.
    pub share: bool,
    /// It is a column among those of variety, where anything has it.
    pub variety: bool,
    /// What the tokens alone say of each of some texts.
    pub texts: Option<OfTexts>,
}

const fn row(metric: Metric, key: &'static str, label: &'static str, better: Direction, slack: Slack, of: Of) -> Facts {
    Facts { metric, key, label, better, slack, of, share: false, variety: false, texts: None }
}

const fn share(facts: Facts) -> Facts {
    Facts { share: true, ..facts }
}

const fn variety(texts: OfTexts, facts: Facts) -> Facts {
    Facts { variety: true, texts: Some(texts), ..facts }
}

/// What one text at a time says.
fn each(texts: &[&[u32]], of: fn(&[u32]) -> f64) -> Vec<f64> {
    texts.iter().map(|text| of(text)).collect()
}

use DataKind::{Pictures, Story, Text};
use Direction::{Higher, Lower, Near};
use Of::{Kind, Sampler, Samples, SecondJudge, Time};
use Slack::{Absolute, Relative};

/// All metrics, in the order of a report's columns.
#[rustfmt::skip] // a table
pub const TABLE: [Facts; 16] = [
    row(Metric::SamplerNll, "sampler_nll", "sampler nll ↓", Lower, Relative(0.05), Sampler),
    row(Metric::Nll, "nll", "nll ↓", Lower, Relative(0.05), Samples),
    row(Metric::SecondJudgeNll, SECOND_NLL, "second judge ↓", Lower, Relative(0.05), SecondJudge),
    Facts { texts: Some(|t| each(t, quality::unigram_entropy)), ..row(Metric::Entropy, "entropy", "entropy", Near, Relative(0.02), Samples) },
    share(row(Metric::Valid, "valid", "valid ↑", Higher, Absolute(0.05), Kind(Story))),
    share(row(Metric::CaptionValid, "caption_valid", "caption valid ↑", Higher, Absolute(0.05), Kind(Pictures))),
    share(row(Metric::Clauses, "clauses", "clauses ↑", Higher, Absolute(0.05), Kind(Pictures))),
    share(row(Metric::Agreement, "agreement", "agreement ↑", Higher, Absolute(0.05), Kind(Pictures))),
    share(variety(|t| each(t, quality::distinct_2), row(Metric::Distinct2, "distinct_2", "distinct-2", Near, Relative(0.05), Samples))),
    share(variety(|t| each(t, quality::repetition), row(Metric::Repetition, "repetition", "repetition", Near, Absolute(0.02), Samples))),
    share(variety(quality::self_bleu, row(Metric::SelfBleu, "self_bleu", "self-BLEU", Near, Relative(0.05), Samples))),
    share(variety(quality::firsts, row(Metric::Unique, "unique", "unique ↑", Higher, Absolute(0.05), Samples))),
    variety(quality::pooled_parts, row(Metric::PooledEntropy, "pooled_entropy", "pooled entropy", Near, Relative(0.02), Samples)),
    Facts { variety: true, ..share(row(Metric::Copies, COPIES, "copies ↓", Lower, Absolute(0.1), Kind(Text))) },
    row(Metric::Latency, "latency", "latency ms ↓", Lower, Relative(0.25), Time),
    row(Metric::Throughput, "throughput", "tok/s ↑", Higher, Relative(0.25), Time),
];

impl Metric {
    /// All metrics, in the order of a report's columns.
    pub fn all() -> impl DoubleEndedIterator<Item = Metric> + Clone {
        TABLE.iter().map(|facts| facts.metric)
    }

    /// Its row of the table.
    pub fn facts(self) -> &'static Facts {
        // Each variant has the row of its number, as a test holds.
        &TABLE[self as usize]
    }

    /// The score key in `results.json`; `nll_name` is the data's own name for the likelihood.
    pub fn key(self, nll_name: &str) -> &str {
        if self == Metric::Nll { nll_name } else { self.facts().key }
    }

    /// Heading with unit and an arrow that points to better.
    pub fn label(self) -> &'static str {
        self.facts().label
    }

    /// Which way is better.
    pub fn better(self) -> Direction {
        self.facts().better
    }

    /// True for metrics of time, which depend on the machine.
    pub fn is_speed(self) -> bool {
        self.facts().of == Of::Time
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_metric_has_its_own_key_and_row_and_reads_it_back() {
        let keys: HashSet<_> = Metric::all().map(|m| m.key("oracle_nll")).collect();
        assert_eq!(keys.len(), TABLE.len());
        for metric in Metric::all() {
            assert_eq!(metric.facts().metric, metric, "the rows are in the order of the variants");
            let name = serde_json::to_string(&metric).unwrap();
            assert_eq!(name.trim_matches('"'), metric.key("nll"));
            let key = format!("\"{}\"", metric.key("judge_nll"));
            assert_eq!(serde_json::from_str::<Metric>(&key).unwrap(), metric);
        }
    }
}
