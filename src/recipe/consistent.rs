//! The checks of models that are trained under uniform noise or for consistency.

use super::check::contradiction;
use super::{ModelConfig, Recipe};
use crate::error::{Error, Result, whole_within, within};
use crate::method::distill::Refresh;
use crate::method::{DcdConfig, Objective};
use crate::model::TransformerConfig;
use crate::model::config::{TimeInput, VectorsConfig, Visibility};
use crate::process::d3pm::Matrix;
use crate::process::order::OrderConfig;
use crate::sample::DecodeConfig;

impl Recipe {
    /// Checks what does not depend on the network.
    pub(super) fn check_consistency(&self, name: &str, model: &ModelConfig) -> Result<()> {
        let key = |k: &str| format!("model.{name}.{k}");
        let chain = matches!(model.objective, Objective::D3pm(_));
        let uniform = !model.objective.corruption().absorbs() || chain;
        for (i, decode) in model.decode.iter().enumerate() {
            let key = key(&format!("decode[{i}]"));
            match (decode, uniform) {
                (DecodeConfig::GreedyTail(_), false) => {
                    return Err(Error::usage(format!("`{key}` has a greedy tail, which is for uniform noise"))
                        .cause("under masks the last step only reveals what is left")
                        .hint(format!("`model.{name}.decode = [{{ order = \"parallel\" }}]`")));
                }
                (
                    DecodeConfig::Order(order) | DecodeConfig::GreedyTail(order) | DecodeConfig::Mbr { order, .. },
                    true,
                ) if *order == OrderConfig::Parallel => {}
                (_, true) => {
                    return Err(contradiction(
                        &key,
                        &decode.name(),
                        &format!("model.{name}.objective"),
                        "one of absorbing noise",
                    )
                    .cause("uniform noise is sampled at all positions at once")
                    .hint(format!("`model.{name}.decode = [{{ order = \"parallel\" }}]`")));
                }
                (_, false) => {}
            }
        }
        match &model.objective {
            Objective::Consistency(c) => {
                c.validate(&key("objective.consistency"))?;
                match model.train.ema {
                    Some(_) => Ok(()),
                    None => Err(contradiction(
                        &key("objective"),
                        "\"consistency\"",
                        &key("train.ema"),
                        "0.999 or another decay",
                    )
                    .cause("what a network is compared with is the average of its own weights")),
                }
            }
            Objective::Dcd(c) => self.check_dcd(name, model, c),
            Objective::D3pm(c) => {
                let at = key("objective.d3pm");
                c.validate(&at)?;
                if let Some(flexibility) = self.eval.flexibility.as_ref().filter(|f| f.steps > c.levels) {
                    return Err(Error::usage(format!(
                        "`eval.flexibility.steps = {}` are more than `{at}.levels = {}`",
                        flexibility.steps, c.levels
                    ))
                    .cause("a chain takes at most one step a level")
                    .hint(format!("`eval.flexibility.steps = {}`", c.levels)));
                }
                let Matrix::Neighbours { model: other, .. } = &c.matrix else { return Ok(()) };
                let at = format!("{at}.matrix.neighbours.model");
                let found = self.model(other).map_err(|e| Error { message: format!("`{at}`: {}", e.message), ..e })?;
                // Vectors without a codebook and a condition stand for no tokens.
                let wordless = |v: &VectorsConfig| !v.codebook && v.condition == 0;
                let without = found.network.as_ref().is_none_or(|n| n.vectors.as_ref().is_some_and(wordless));
                match other == name || without {
                    true => Err(Error::usage(format!("`{at} = \"{other}\"` has no embedding of its own to look into"))
                        .hint("name a model of the recipe that has a `network` that reads tokens, such as the autoregressive one")),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn check_dcd(&self, name: &str, model: &ModelConfig, c: &DcdConfig) -> Result<()> {
        let key = |k: &str| format!("model.{name}.{k}");
        let at = |k: &str| key(&format!("objective.dcd.{k}"));
        let teacher = self.model(&c.teacher)?;
        if teacher.objective.corruption().absorbs() {
            return Err(Error::usage(format!(
                "`{}` needs a teacher of uniform noise, but `model.{}.objective` is \"{}\" of absorbing noise",
                at("teacher"),
                c.teacher,
                teacher.objective.name()
            ))
            .hint("train it by `objective.elbo = { corruption = \"uniform\" }`, or distil it by `objective.sdtt`"));
        }
        if let Objective::D3pm(theirs) = &teacher.objective
            && theirs.matrix != Matrix::Uniform
        {
            return Err(Error::usage(format!(
                "`{}` needs a teacher of uniform noise, but `model.{}.objective.d3pm.matrix` is not \"uniform\"",
                at("teacher"),
                c.teacher
            ))
            .hint("what the student reads is noise that takes any token alike"));
        }
        if self.schedule(teacher) != c.schedule {
            return Err(Error::usage(format!(
                "`{}` and `model.{}.objective` have different noise schedules",
                at("schedule"),
                c.teacher
            ))
            .hint(format!("`{} = \"{}\"`", at("schedule"), self.schedule(teacher).name())));
        }
        if self.network(name)? != self.network(&c.teacher)? {
            return Err(Error::usage(format!("`{}` differs from `model.{}.network`", key("network"), c.teacher))
                .hint("a student starts from its teacher's weights: leave its `network` out"));
        }
        whole_within(&at("levels"), c.levels, 1..=1 << 20)?;
        whole_within(&at("rounds"), c.rounds, 1..=32)?;
        if c.dt(c.rounds - 1) > 1.0 {
            return Err(Error::usage(format!(
                "`{} = {}` end in a step longer than all `{} = {}`",
                at("rounds"),
                c.rounds,
                at("levels"),
                c.levels
            ))
            .hint(format!("`{} = 1`, or more levels", at("rounds"))));
        }
        self.check_rounds(name, &at("rounds"), c.rounds)?;
        for (k, gamma) in [("gamma_min", c.gamma_min), ("gamma_max", c.gamma_max)] {
            gamma.map_or(Ok(()), |gamma| within(&at(k), gamma, -40.0..=40.0))?;
        }
        if let (Some(low), Some(high)) = (c.gamma_min, c.gamma_max)
            && low >= high
        {
            return Err(Error::usage(format!(
                "`{} = {low}` is not below `{} = {high}`",
                at("gamma_min"),
                at("gamma_max")
            ))
            .hint("leave both out to take them from the noise schedule"));
        }
        if c.refresh == Refresh::Ema && model.train.ema.is_none() {
            return Err(contradiction(&at("refresh"), "\"ema\"", &key("train.ema"), "0.999 or another decay"));
        }
        Ok(())
    }

    /// Checks that a network under uniform noise sees all of it and is told how much there is: no mask says so.
    pub(super) fn check_noise(&self, name: &str, model: &ModelConfig, network: &TransformerConfig) -> Result<()> {
        let key = |k: &str| format!("model.{name}.{k}");
        let corruption = model.objective.corruption();
        let consistent = matches!(model.objective, Objective::Consistency(_) | Objective::D3pm(_));
        if corruption.absorbs() && !consistent {
            return Ok(());
        }
        let (at, has) = match &model.objective {
            Objective::Dcd(_) => (key("objective"), "\"dcd\"".to_string()),
            Objective::D3pm(_) => (key("objective"), "\"d3pm\"".to_string()),
            Objective::Consistency(_) if corruption.absorbs() => (key("objective"), "\"consistency\"".to_string()),
            other => (key(&format!("objective.{}.corruption", other.name())), format!("\"{}\"", corruption.name())),
        };
        if model.order != OrderConfig::Parallel {
            return Err(contradiction(&at, &has, &key("order"), "\"parallel\""));
        }
        let net = self.network_place(name);
        if network.visibility != Visibility::Full {
            return Err(contradiction(&at, &has, &format!("{net}.visibility"), "\"full\""));
        }
        let told = matches!(network.time, TimeInput::Sequence | TimeInput::Position | TimeInput::Sigma);
        if !corruption.absorbs() && !told {
            return Err(contradiction(&at, &has, &format!("{net}.time"), "\"sequence\" or \"sigma\"")
                .cause("without masks nothing else says how much is noise"));
        }
        Ok(())
    }
}
