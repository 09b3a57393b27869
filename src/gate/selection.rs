//! Which models, steps and metrics of a baseline are judged.

use super::compare::has;
use super::{GateConfig, unknown_model};
use crate::error::{Error, Result};
use crate::eval::results::{Metric, ModelResult, Results, Role};

/// What is judged of the results.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// These models. None: the students, or all where the baseline has no student, and those that a rule names.
    pub models: Vec<String>,
    /// Every model.
    pub all: bool,
    /// Rows of these steps; none: all.
    pub steps: Vec<usize>,
    /// These metrics; none: all that have a rule.
    pub metrics: Vec<Metric>,
}

impl Selection {
    /// All that the rules cover.
    pub fn everything() -> Self {
        Selection { all: true, ..Selection::default() }
    }

    pub(super) fn row(&self, steps: usize) -> bool {
        self.steps.is_empty() || self.steps.contains(&steps)
    }

    pub(super) fn metric(&self, metric: Metric) -> bool {
        self.metrics.is_empty() || self.metrics.contains(&metric)
    }

    /// The models of the baseline that are judged.
    ///
    /// # Errors
    /// A model, steps or a metric that the baseline lacks (usage).
    pub(super) fn models<'r>(&self, baseline: &'r Results, config: &GateConfig) -> Result<Vec<&'r ModelResult>> {
        let with_rows = || baseline.models.iter().filter(|m| !m.rows.is_empty());
        let names = || with_rows().map(|m| m.name.as_str());
        if let Some(name) = self.models.iter().find(|name| !names().any(|known| known == *name)) {
            return Err(unknown_model("`--model`: the baseline has", name, names()));
        }
        if let Some(steps) = self.steps.iter().find(|steps| !with_rows().any(|m| m.row(**steps).is_some())) {
            let mut known: Vec<usize> = with_rows().flat_map(|m| m.rows.iter().map(|r| r.steps)).collect();
            known.sort_unstable();
            known.dedup();
            let known: Vec<String> = known.iter().map(usize::to_string).collect();
            return Err(Error::usage(format!("`--steps`: the baseline has no row with {steps} steps"))
                .hint(format!("it has {}", known.join(", "))));
        }
        let lacks = |metric: &&Metric| !with_rows().flat_map(|m| &m.rows).any(|row| has(baseline, row, **metric));
        if let Some(metric) = self.metrics.iter().find(lacks) {
            let key = metric.key(&baseline.data.nll_name);
            return Err(Error::usage(format!("`--metric`: the baseline has no `{key}`")));
        }
        let student = |m: &&ModelResult| m.role == Role::Student;
        let any = with_rows().any(|m| student(&m));
        let ruled = |m: &ModelResult| config.rules.iter().any(|r| r.model.as_deref() == Some(&m.name));
        let wanted = |m: &&ModelResult| match self.models.is_empty() {
            false => self.models.contains(&m.name),
            true => self.all || !any || student(m) || ruled(m),
        };
        Ok(with_rows().filter(wanted).collect())
    }
}
