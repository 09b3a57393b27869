//! What a run would refuse after its trainings, found before them: rules of the gate that no row of the evaluation can meet,
//! and what only the prepared data can say.

use std::path::Path;

use super::{ModelConfig, Network, ORACLE, Recipe};
use crate::data::{Data, DataConfig};
use crate::error::{Error, Result, nearest};
use crate::eval;
use crate::eval::metric::Of;
use crate::eval::results::{DataKind, Role};
use crate::gate::GateRule;
use crate::method::Vectors;
use crate::process::Order;
use crate::process::d3pm::Matrices;
use crate::sample::decode::walkable;
use crate::sample::{DecodeConfig, Process};

/// The name of a row's model in results, and the step counts of its rows.
type Rows = (String, Vec<usize>);

impl Recipe {
    /// Checks the gate's rules: their limits, and that each names rows and metrics that the evaluation will have.
    pub(super) fn check_gate(&self) -> Result<()> {
        self.gate.check()?;
        if self.gate.rules.is_empty() {
            return Err(Error::usage("`gate.rules` is empty, and the gate would have nothing to judge")
                .hint("leave `gate.rules` out to use the default rules"));
        }
        let rows = self.rows();
        for (i, rule) in self.gate.rules.iter().enumerate() {
            self.check_rule(&format!("gate.rules[{i}]"), rule, &rows)?;
        }
        Ok(())
    }

    fn check_rule(&self, key: &str, rule: &GateRule, rows: &[Rows]) -> Result<()> {
        if let Some(name) = &rule.model
            && !rows.iter().any(|(shown, _)| shown == name)
        {
            let names = || rows.iter().map(|(shown, _)| shown.as_str());
            let error = Error::usage(format!("`{key}.model`: no row of the report is called `{name}`"));
            return Err(match nearest(name, names()) {
                Some(near) => error.hint(format!("`{key}.model = \"{near}\"`")),
                None => error.hint(format!("rows are `{}`", names().collect::<Vec<_>>().join("`, `"))),
            });
        }
        let covered = || rows.iter().filter(|(shown, _)| rule.model.as_ref().is_none_or(|name| name == shown));
        for k in rule.steps.iter().flatten() {
            if !covered().any(|(_, steps)| steps.contains(k)) {
                let mut there: Vec<usize> = covered().flat_map(|(_, steps)| steps.iter().copied()).collect();
                there.sort_unstable();
                there.dedup();
                return Err(Error::usage(format!("`{key}.steps`: no row of the report has {k} steps"))
                    .hint(format!("`{key}.steps = {there:?}` are all of them")));
            }
        }
        let (metric, timed) = (rule.metric, self.eval.speed_repeats > 0);
        let default = *rule == GateRule::of(metric);
        let kind = match self.data {
            DataConfig::Story(_) => DataKind::Story,
            DataConfig::Pictures(_) => DataKind::Pictures,
            DataConfig::Pairs(_) => DataKind::Pairs,
            DataConfig::Text(_) => DataKind::Text,
        };
        let (measured, why) = match metric.facts().of {
            Of::Samples => (true, ""),
            Of::Kind(of) => (
                kind == of,
                match of {
                    DataKind::Story => "only stories are valid or not",
                    DataKind::Pictures => "only captions with pictures have it",
                    DataKind::Pairs => "only sentences with attributes have it",
                    DataKind::Text | DataKind::Own => "only a text has a training text to be copied",
                },
            ),
            Of::Time => {
                (timed && covered().any(|(shown, _)| shown != ORACLE), "`eval.speed_repeats = 0` measures no time")
            }
            Of::Sampler => (self.eval.sampler.texts > 0, "`eval.sampler.texts = 0` measures none"),
            Of::SecondJudge => (self.eval.second_judge.is_some(), "the recipe names no `eval.second_judge`"),
        };
        match measured || default {
            true => Ok(()),
            false => Err(Error::usage(format!("`{key}` is about a metric that the rows it covers will not have"))
                .cause(why)
                .hint("delete the rule, or give it another metric")),
        }
    }

    /// The rows that the report will have.
    fn rows(&self) -> Vec<Rows> {
        let mut rows = Vec::new();
        for (name, model) in &self.model {
            if matches!(self.role(name, model), Role::Judge | Role::Codec | Role::Classifier) {
                continue;
            }
            for (label, decode) in Self::decodings(model) {
                let shown = if label.is_empty() { name.clone() } else { format!("{name}: {label}") };
                rows.push((shown, self.row_steps(name, model, &decode)));
            }
        }
        if matches!(self.data, DataConfig::Story(_)) && self.eval.oracle {
            rows.push((ORACLE.to_string(), self.eval.steps.clone()));
        }
        rows
    }

    /// The step counts that a model is sampled in.
    fn row_steps(&self, name: &str, model: &ModelConfig, decode: &DecodeConfig) -> Vec<usize> {
        let (length, wanted) = (self.length().unwrap_or(1), self.eval.steps.as_slice());
        let within = |levels: usize, mut steps: Vec<usize>| {
            steps.retain(|k| *k <= levels);
            if steps.is_empty() { vec![levels] } else { steps }
        };
        let facts = model.objective.facts();
        match facts.vectors {
            _ if facts.causal() => return vec![length],
            Vectors::Embeddings(config) => return within(config.levels, wanted.to_vec()),
            Vectors::Latents(_) | Vectors::FewStep(_) => {
                let count = match self.network(name) {
                    Ok(Network::Given(network)) => network.vectors.as_ref().map_or(1, |v| v.count),
                    _ => 1,
                };
                let order = model.order.order(count);
                let steps: Vec<usize> = wanted.iter().copied().filter(|k| order.grid(count, *k).is_ok()).collect();
                return if steps.is_empty() { vec![order.blocks(count)] } else { steps };
            }
            _ => {}
        }
        let process = decode.process(Process::new(Order::parallel(length), length));
        let steps = walkable(&process, wanted);
        match facts.chain {
            Some(chain) => within(chain.levels, steps),
            None => steps,
        }
    }

    /// Checks what the prepared data and the files beside the recipe say of it; relative paths are looked up from `base`.
    ///
    /// Gives what is not as it was meant, but can be done.
    ///
    /// # Errors
    /// What an evaluation or a later training would refuse (usage).
    pub fn check_with(&self, data: &Data, base: &Path) -> Result<Vec<String>> {
        self.check_given(data)?;
        self.eval.context.as_ref().map(|path| eval::context::load(&base.join(path))).transpose()?;
        self.eval.flexibility.as_ref().map_or(Ok(()), |config| config.fits(data.length()))?;
        for (name, model) in &self.model {
            if let Some(chain) = model.objective.facts().chain {
                let named = |e: Error| Error { message: format!("`model.{name}.objective.d3pm`: {}", e.message), ..e };
                Matrices::fits(chain.matrix, data.vocab(), chain.levels).map_err(named)?;
            }
        }
        let mut notes = Vec::new();
        if let Some(there) = data.sequences() {
            for (name, model) in self.model.iter().filter(|(_, m)| m.train.steps > 0 && m.train.batch > there) {
                notes.push(format!(
                    "`model.{name}.train.batch = {}` is more than the {there} sequences of the training text: a step has \
                     the same ones several times",
                    model.train.batch
                ));
            }
        }
        if let Some(there) = data.held_out_there().filter(|there| *there < self.eval.held_out) {
            notes.push(format!(
                "`eval.held_out = {}`: there are {there} held-out sequences, and all are used",
                self.eval.held_out
            ));
        }
        if self.eval.batch > self.eval.samples {
            notes.push(format!(
                "`eval.batch = {}` is more than `eval.samples`: {} samples are drawn together",
                self.eval.batch,
                self.eval.drawn_together()
            ));
        }
        Ok(notes)
    }
}
