//! Checks of orders with fixed phases, and of models that start as another one: what a network reads, what a teacher sees, whose
//! phases are parts of whose.

use super::check::contradiction;
use super::{ModelConfig, Network, Recipe};
use crate::error::{Error, Result, within};
use crate::method::{Objective, SdttConfig, shared};
use crate::model::TransformerConfig;
use crate::model::config::Visibility;
use crate::process::Order;

impl Recipe {
    /// Checks that shared uniforms are recovered from a model of finer phases, and read.
    pub(super) fn check_shared(&self, name: &str, model: &ModelConfig, network: &TransformerConfig) -> Result<()> {
        let at = format!("model.{name}.objective.elbo.shared");
        let net = format!("model.{name}.network.uniforms");
        let Some(shared) = model.objective.shared() else {
            return match network.uniforms {
                true => Err(Error::usage(format!("`{}.uniforms = true` needs `{at}`", self.network_place(name)))
                    .cause("nothing else tells the network uniforms while it trains")
                    .hint(format!("give it one, `{at} = {{ finer = .. }}`, or leave `uniforms` out"))),
                false => Ok(()),
            };
        };
        if !model.objective.corruption().absorbs() {
            return Err(contradiction(&at, "..", &format!("model.{name}.objective.elbo.corruption"), "\"absorb\""));
        }
        if !network.uniforms {
            let error = Error::usage(format!("`{at}` needs `{net} = true`"))
                .cause("the network reads the uniforms that it learns to follow");
            return Err(match &model.network {
                Some(_) => error.hint(format!("`{net} = true`")),
                None => error.hint(format!(
                    "give it a table `[model.{name}.network]` of its own: that of `{}` with `uniforms = true`",
                    self.network_place(name)
                )),
            });
        }
        let finer = self.model(&shared.finer)?;
        let theirs = match self.network(&shared.finer)? {
            Network::Given(network) => Some(network),
            Network::From(_) => None,
        };
        let of = format!("`model.{}`, the finer model of `{at}`,", shared.finer);
        if !matches!(finer.objective, Objective::Elbo { .. } | Objective::Sdtt(_)) || theirs.is_some_and(|n| n.uniforms)
        {
            return Err(Error::usage(format!("{of} is not a masked model whose predictions stand by themselves"))
                .cause("its predictions behind each of its phases are what the uniforms are recovered from")
                .hint("name a model that is trained by `objective.elbo` or `objective.sdtt`, without uniforms"));
        }
        let length = self.length().unwrap_or(1 << 10);
        if !finer.order.only_phased() || finer.order.follows_steps() {
            return Err(Error::usage(format!("{of} has no fixed phases: its order is {}", finer.order.shown()))
                .hint("name a model in `strided` phases, more than this one has"));
        }
        let theirs: Vec<Order> = finer.order.all(length);
        let nests = |order: Order| order.pattern.is_some() && shared::finer(order, &theirs, length).is_some();
        match model.order.all(length).into_iter().all(nests) {
            true => Ok(()),
            false => Err(Error::usage(format!(
                "the phases of `model.{name}.order = {}` are not made of several whole ones of `model.{}.order = {}`",
                model.order.shown(),
                shared.finer,
                finer.order.shown()
            ))
            .cause("a step reveals phases of the finer model that follow each other there")
            .hint("name a model in finer phases: of sixteen, two at a time are `{ phases = [0, 0, 1, 1, .., 7, 7] }`")),
        }
    }

    /// Checks that the model whose weights another one starts with is there, and has as many.
    pub(super) fn check_start(&self, name: &str, model: &ModelConfig) -> Result<()> {
        let key = |k: &str| format!("model.{name}.{k}");
        if let Some(start) = &model.start {
            let at = key("start");
            self.model(start).map_err(|e| Error { message: format!("`{at}`: {}", e.message), ..e })?;
            if start == name {
                return Err(Error::usage(format!("`{at}` names the model itself"))
                    .hint("name the model whose weights it starts with, or leave the key out"));
            }
        }
        if let (Some(start), Objective::LatentDistill(_)) = (&model.start, &model.objective) {
            return Err(Error::usage(format!("`{} = \"{start}\"` is not for a student of latents", key("start")))
                .cause("its critic and its rounds begin as its teacher")
                .hint(format!("leave `{}` out", key("start"))));
        }
        let (Some(own), Some(source)) = (&model.network, Self::source(model)) else { return Ok(()) };
        if model.start.is_none() && !model.order.phased() {
            return Ok(());
        }
        let kept = |network: &TransformerConfig| -> Result<TransformerConfig> {
            let kept = self.lineage(source)?.into_iter().rev().filter_map(|m| m.keep_layers.as_ref());
            Ok(kept.fold(network.clone(), |network, keep| TransformerConfig { layers: keep.len(), ..network }))
        };
        let Ok(Network::Given(theirs)) = self.network(source) else {
            return Err(Error::usage(format!("`{}` stands beside weights of a checkpoint", key("network")))
                .hint("leave the table out: the network is the checkpoint's"));
        };
        let weights = |n: &TransformerConfig| TransformerConfig {
            visibility: Visibility::Full,
            checkpoint: false,
            composed: false,
            compute: Default::default(),
            // What it is told besides starts at nothing.
            uniforms: n.uniforms && theirs.uniforms,
            ..n.clone()
        };
        let theirs = &kept(theirs)?;
        match weights(own) == weights(theirs) {
            true => Ok(()),
            false => Err(Error::usage(format!(
                "`{}` is not that of `model.{source}`, whose weights it starts with",
                key("network")
            ))
            .cause("only `visibility`, `checkpoint`, `composed` and `compute` may differ")
            .hint(format!("leave `[{}]` out, or copy `[{}]`", key("network"), self.network_place(source)))),
        }
    }

    /// Checks what of a distillation a student with fixed phases reads.
    pub(super) fn check_phase_steps(&self, name: &str, model: &ModelConfig, c: &SdttConfig) -> Result<()> {
        let at = |k: &str| format!("model.{name}.objective.sdtt.{k}");
        within(&at("data"), c.data, 0.0..=1.0)?;
        if !model.order.only_phased() {
            return match c.data {
                0.0 => Ok(()),
                _ => Err(contradiction(
                    &at("data"),
                    &c.data.to_string(),
                    &format!("model.{name}.order"),
                    "{ strided = 8 }",
                )
                .cause("the data's tokens are the target where phases are fixed")),
            };
        }
        let theirs = match self.network(&c.teacher)? {
            Network::Given(network) => network.visibility == Visibility::Full && network.vectors.is_none(),
            Network::From(_) => true,
        };
        let teacher = self.model(&c.teacher)?;
        let taught = teacher.order.all(1 << 10);
        let same = c.steps_per_step == 1 && model.order.all(1 << 10).iter().all(|order| taught.contains(order));
        if !theirs && !same {
            return Err(Error::usage(format!("`{}` does not see what its student in phases sees", at("teacher")))
                .cause("it has not learnt to predict behind these phases")
                .hint("name a masked model with `visibility = \"full\"`, or one of the same phases with `steps_per_step = 1`"));
        }
        if c.teacher_steps != 0 {
            return Err(Error::usage(format!("`{} = {}` with fixed phases", at("teacher_steps"), c.teacher_steps))
                .cause("the teacher takes `steps_per_step` steps for each phase")
                .hint(format!("leave `{}` out", at("teacher_steps"))));
        }
        match c.rounds {
            1 => Ok(()),
            rounds => Err(Error::usage(format!("`{} = {rounds}` with fixed phases", at("rounds")))
                .cause("the number of phases stays the same from round to round")
                .hint(format!("`{} = 1`", at("rounds")))),
        }
    }

    /// Checks that fixed phases have a number and a network that reads them.
    pub(super) fn check_phases(&self, name: &str, model: &ModelConfig, network: &TransformerConfig) -> Result<()> {
        if !model.order.phased() {
            return Ok(());
        }
        let (key, shown) = (format!("model.{name}.order"), model.order.shown());
        let net = self.network_place(name);
        if model.order.follows_steps() {
            return Err(Error::usage(format!("`{key} = {shown}` has as many phases as there are steps"))
                .cause("training has no steps of sampling")
                .hint("a number of phases, for instance `{ strided = 8 }`, or a mixture of several"));
        }
        let unread = [
            ("encoder_layers", network.encoder_layers > 0, "0"),
            ("shift", network.shift, "false"),
            ("shift_output", network.shift_output, "false"),
        ];
        if network.local.is_some() {
            return Err(Error::usage(format!("`{key} = {shown}` is not for a network with `{net}.local`"))
                .cause("its windows are of places in the text, and phases are read one after the other")
                .hint("give it an order in blocks"));
        }
        match unread.iter().find(|(_, set, _)| *set) {
            Some((other, _, value)) => Err(Error::usage(format!("`{key} = {shown}` needs `{net}.{other} = {value}`"))
                .cause("each position of a phase describes the token that it reads")
                .hint(format!("`{net}.{other} = {value}`, or an order in `{{ blocks = N }}`"))),
            None => Ok(()),
        }
    }
}
