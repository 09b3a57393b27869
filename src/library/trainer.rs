//! Trainings from code: any network and any source of sequences, with nothing written.
//!
//! A study trains with checkpoints, logs and resumption ([`crate::train`]); this is the loop alone. B batch, L length.

use std::path::Path;
use std::time::Instant;

use burn::optim::GradientsParams;

use crate::checkpoint::{self, Extras, ModelCard};
use crate::data::Dataset;
use crate::error::{Error, Kind, Result, whole_within, within};
use crate::fs;
use crate::loss::{RowLoss, backward};
use crate::method::refresh::Refresh;
use crate::method::{
    self, ArConfig, Batch, ElboConfig, Ground, KdConfig, Method, Nets, Objective, Orders, Parents, SdttConfig, Training,
};
use crate::model::family::{Generation, Selection};
use crate::model::{Denoise, Network, Teach, Transformer, params};
use crate::optim::{Decay, Optimizer, TrainConfig, gather};
use crate::process::order::Context;
use crate::process::order::OrderConfig;
use crate::process::{Order, Schedule};
use crate::rng::StepRng;
use crate::sample::Process;

/// How a network is trained, step by step.
///
/// ```no_run
/// use fewstep::prelude::*;
///
/// # fn main() -> fewstep::error::Result<()> {
/// let data = Sequences::new(4, vec![vec![0, 1, 2, 3], vec![3, 2, 1, 0]], vec![vec![0, 1, 2, 3]])?;
/// let network = Transformer::init(&TransformerConfig::new(32, 2, 2, Visibility::Full), 4, 4, 1, &training_device()?);
/// let teacher = Trainer::new(network, &data).steps(300).batch(16).lr(3e-3).elbo()?;
/// # Ok(())
/// # }
/// ```
pub struct Trainer<'a, N> {
    model: N,
    data: &'a dyn Dataset,
    config: TrainConfig,
    order: OrderConfig,
    /// Where the caller gave one.
    schedule: Option<Schedule>,
    seed: u64,
    each: Option<Each<'a>>,
}

/// What is told of every step.
type Each<'a> = Box<dyn FnMut(&Step) + 'a>;

/// A finished step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// From 1.
    pub step: usize,
    pub loss: f64,
    pub lr: f64,
    /// The gradients' global norm before it was clipped.
    pub grad_norm: f64,
}

/// Where a training is, before a step or a part of it.
struct At<'p, N> {
    model: &'p N,
    average: &'p dyn Fn() -> Option<N>,
    /// From 0, of all.
    step: usize,
    config: &'p TrainConfig,
}

/// What a training minimises.
trait Minimise<N> {
    /// What is due before a step.
    fn due(&mut self, _at: &At<N>) -> Result<()> {
        Ok(())
    }
    /// Value and gradients of one part of a step.
    fn part(&mut self, at: &At<N>, batch: &Batch) -> Result<(f64, GradientsParams)>;
}

/// Rows of every batch.
struct ByRows<F>(F);

impl<N: Network, F: FnMut(&At<N>, &Batch) -> Result<RowLoss>> Minimise<N> for ByRows<F> {
    fn part(&mut self, at: &At<N>, batch: &Batch) -> Result<(f64, GradientsParams)> {
        Ok(backward(at.model, &(self.0)(at, batch)?))
    }
}

/// A method, with all that it keeps from step to step.
struct ByMethod<'m> {
    training: Box<dyn Training + 'm>,
    data: &'m dyn Dataset,
    seed: u64,
}

impl ByMethod<'_> {
    /// What its training sees of the networks.
    fn with<T>(&mut self, at: &At<Transformer>, of: impl FnOnce(&mut dyn Training, &Nets) -> T) -> T {
        let draw = |part: u64| self.data.batch(self.seed, part, at.config.batch);
        let bad = |loss: f64, norm: f64| non_finite(loss, norm, at.step);
        let nets = Nets {
            model: at.model,
            average: at.average,
            step: at.step,
            config: at.config,
            draw: &draw,
            non_finite: &bad,
        };
        of(&mut *self.training, &nets)
    }
}

impl Minimise<Transformer> for ByMethod<'_> {
    fn due(&mut self, at: &At<Transformer>) -> Result<()> {
        self.with(at, |training, nets| training.due(nets))
    }

    fn part(&mut self, at: &At<Transformer>, batch: &Batch) -> Result<(f64, GradientsParams)> {
        self.with(at, |training, nets| training.step(nets, batch))
    }
}

/// The error of a step whose numbers are not finite.
fn non_finite(loss: f64, norm: f64, step: usize) -> Error {
    Error::new(Kind::NonFinite, format!("loss {loss}, gradient norm {norm} in step {}", step + 1))
        .hint("a smaller learning rate, or a smaller `clip`")
}

/// A trained network, on a device without autodiff: its moving average where one was kept, with what it was trained by.
#[derive(Debug, Clone)]
pub struct Trained<N> {
    pub model: N,
    /// What it was trained by, in results.
    pub name: String,
    /// The same as checkpoints have it: an objective of a program's own is named by the process that it is sampled in, `elbo`.
    pub objective: Objective,
    /// Whether it writes from left to right.
    pub causal: bool,
    pub order: OrderConfig,
    pub schedule: Schedule,
    /// Tokens per sequence L.
    pub length: usize,
    pub seed: u64,
    pub steps: usize,
    pub tokens: u64,
    pub seconds: f64,
    pub last_loss: f64,
}

impl<N: Network> Trained<N> {
    /// The process that it is sampled in, in its own order.
    pub fn process(&self) -> Process {
        Process {
            schedule: self.schedule,
            corruption: self.objective.facts().corruption,
            cached: self.causal || self.model.keeps_blocks(),
            ..Process::new(self.order.order(self.length), self.length)
        }
    }

    /// A copy on a device with autodiff, for another training that starts from it.
    pub fn trainable(&self) -> N {
        params::copied(&self.model, &self.model.device().autodiff())
    }

    /// Number of its parameters.
    pub fn parameters(&self) -> usize {
        params::count(&self.model)
    }
}

impl<'a, N: Network> Trainer<'a, N> {
    /// A training of `model`, which lies on a device with autodiff, on `data`: 1000 steps of 32 sequences at a learning rate of 1e-3 that
    /// falls to 0 behind 20 steps of warm-up, gradients clipped at 1, all positions at once.
    pub fn new(model: N, data: &'a dyn Dataset) -> Self {
        let config = TrainConfig { decay: Decay::Linear, clip: Some(1.0), ..TrainConfig::new(1000, 32, 1e-3) };
        Trainer { model, data, config, order: OrderConfig::Parallel, schedule: None, seed: 1, each: None }.warmup(20)
    }

    /// Optimiser steps.
    pub fn steps(mut self, steps: usize) -> Self {
        self.config.steps = steps;
        self.config.warmup = self.config.warmup.min(steps);
        self
    }

    /// Sequences of a step.
    pub fn batch(mut self, batch: usize) -> Self {
        self.config.batch = batch;
        self
    }

    /// Peak learning rate.
    pub fn lr(mut self, lr: f64) -> Self {
        self.config.lr = lr;
        self
    }

    /// Steps of linear warm-up.
    pub fn warmup(mut self, steps: usize) -> Self {
        self.config.warmup = steps.min(self.config.steps);
        self
    }

    /// Decay of the moving average that is returned in place of the raw weights.
    pub fn ema(mut self, decay: f64) -> Self {
        self.config.ema = Some(decay);
        self
    }

    /// Every other setting, as a recipe has them.
    pub fn config(mut self, change: impl FnOnce(&mut TrainConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The order that it is trained in, such as `OrderConfig::Strided(8)`.
    pub fn order(mut self, order: OrderConfig) -> Self {
        self.order = order;
        self
    }

    /// The schedule of the noise; of a distillation and a method it stands in their own configuration.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = Some(schedule);
        self
    }

    /// The seed of batches and noise.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Is told of every step.
    pub fn each_step(mut self, told: impl FnMut(&Step) + 'a) -> Self {
        self.each = Some(Box::new(told));
        self
    }

    /// Trains a masked diffusion by its negative ELBO.
    ///
    /// # Errors
    /// As [`Trainer::by`].
    pub fn elbo(self) -> Result<Trained<N>> {
        let schedule = self.schedule.unwrap_or_default();
        self.by("elbo", |model, batch| {
            Ok(method::elbo(&batch.x0, batch.length, model.mask(), batch.order, schedule, batch.draws()))
        })
    }

    /// Trains an autoregressive network by its negative log-likelihood.
    ///
    /// # Errors
    /// As [`Trainer::by`], and (usage) a network that reads the tokens it is asked for.
    pub fn ar(self) -> Result<Trained<N>> {
        if self.model.over_blocks() || reads_ahead(&self.model.valid(), self.data) {
            return Err(Error::usage("the network reads the tokens that it is asked for")
                .cause("what it says of a position depends on the token there, or on one after it")
                .hint("begin with `TransformerConfig::causal`, or shift a causal network's input by one position"));
        }
        let ordered = self.order(OrderConfig::LeftToRight);
        let mut rows = ByRows(|_: &At<N>, batch: &Batch| Ok(method::ar_nll(&batch.x0, batch.length)));
        ordered.walk("ar_nll", Objective::ArNll(ArConfig::default()), &mut rows)
    }

    /// Distils `teacher` by knowledge distillation at equal steps; the configuration's `teacher` is a name that is not looked at.
    ///
    /// # Errors
    /// As [`Trainer::by`], and (usage) a teacher of other ids.
    pub fn kd(self, teacher: &dyn Teach, config: &KdConfig) -> Result<Trained<N>> {
        within("data", config.data, 0.0..=1.0)?;
        within("temperature", config.temperature, 1e-3..=1e3)?;
        same_ids(&self.model, teacher)?;
        let mut rows = ByRows(|_: &At<N>, batch: &Batch| Ok(method::kd_rows(config, teacher, batch)));
        self.walk("kd", Objective::Kd(config.clone()), &mut rows)
    }

    /// Distils `teacher` into fewer steps by self-distillation through time; in later rounds the student so far is the teacher. The
    /// configuration's `teacher` is a name that is not looked at. The first teacher is asked in all positions at once, or, where it sees
    /// blocks alone, in the student's order.
    ///
    /// # Errors
    /// As [`Trainer::by`], and (usage) a teacher of other ids, or an order in which the teacher cannot be asked.
    pub fn sdtt(self, teacher: &dyn Teach, config: &SdttConfig) -> Result<Trained<N>> {
        whole_within("rounds", config.rounds, 1..=self.config.steps.max(1))?;
        whole_within("steps_per_step", config.steps_per_step, 1..=1 << 16)?;
        within("data", config.data, 0.0..=1.0)?;
        same_ids(&self.model, teacher)?;
        if config.refresh == Refresh::Ema && self.config.ema.is_none() {
            return Err(Error::usage("a teacher that is the moving average needs one").hint("ask for it: `.ema(0.99)`"));
        }
        let (length, order) = (self.data.length(), self.order.clone());
        let phased = order.phased();
        if !phased {
            whole_within("teacher_steps", config.teacher_steps, 1..=1 << 20)?;
        }
        let own = [order.order(length)];
        let first = if teacher.over_blocks() { own } else { [Order::parallel(length)] };
        let config = config.clone();
        let mut now: (usize, Option<N>) = (0, None);
        let format = Objective::Sdtt(config.clone());
        let mut rows = ByRows(move |at: &At<N>, batch: &Batch| {
            let round = config.round(at.step, at.config.steps);
            if round > now.0 {
                let average = if config.refresh == Refresh::Ema { (at.average)() } else { None };
                now = (round, Some(average.unwrap_or_else(|| at.model.valid())));
            }
            let known = if now.0 == 0 { &first } else { &own };
            let Some(orders) = Orders::of(batch.order, known, length) else {
                return Err(Error::usage(format!(
                    "a teacher of all positions at once is not asked in `{}`",
                    order.name()
                )));
            };
            let teacher: &dyn Teach = now.1.as_ref().map_or(teacher, |student| student);
            method::sdtt_rows(&config, teacher, &batch.x0, length, config.dt(now.0), orders, batch.generators())
        });
        self.walk("sdtt", format, &mut rows)
    }

    /// Trains by an objective of the caller's, called `name`: the rows of every batch that count, each with its weight and its target.
    ///
    /// # Errors
    /// Settings out of range, an order that does not fit, rows that the objective refuses, a loss that is not a finite number.
    pub fn by(self, name: &str, rows: impl Fn(&N, &Batch) -> Result<RowLoss>) -> Result<Trained<N>> {
        let elbo = ElboConfig { schedule: self.schedule.unwrap_or_default(), ..ElboConfig::default() };
        let mut rows = ByRows(|at: &At<N>, batch: &Batch| rows(at.model, batch));
        self.walk(name, Objective::Elbo(elbo), &mut rows)
    }

    /// Checks what would end in a panic, or in numbers that mean something else.
    fn check(&self, format: &Objective) -> Result<()> {
        self.config.validate("train")?;
        self.order.validate("order")?;
        let (own, theirs) = (self.schedule, format.facts().schedule);
        if own.is_some_and(|own| own != theirs) {
            return Err(Error::usage(format!("the noise of `{}` has the schedule {}", format.name(), theirs.name()))
                .hint("give the schedule in its own configuration, and leave it out of the trainer"));
        }
        let (length, vocab) = (self.data.length(), self.data.vocab());
        if vocab > self.model.vocab() {
            return Err(Error::usage(format!("{vocab} ids in the data, and {} in the network", self.model.vocab()))
                .hint("begin with a network of the data's vocabulary"));
        }
        if self.order.follows_steps() {
            return Err(Error::usage(format!("`{}` has as many phases as there are steps", self.order.name()))
                .hint("train in a number of phases, and sample in as many as there are steps"));
        }
        let clean = |order: &Order| order.context == Context::Clean && order.blocks(length) > 1;
        let causal = format.facts().causal();
        match !causal && !self.model.over_blocks() && self.order.all(length).iter().any(clean) {
            true => {
                Err(Error::usage(format!("a network that sees everything is not trained in `{}`", self.order.name()))
                    .hint("begin with a network over blocks: `Visibility::Order`"))
            }
            false => Ok(()),
        }
    }

    fn walk(mut self, name: &str, format: Objective, what: &mut dyn Minimise<N>) -> Result<Trained<N>> {
        self.check(&format)?;
        let (config, length, begin) = (&self.config, self.data.length(), Instant::now());
        let orders = self.order.all(length);
        let rng = StepRng::new(self.seed);
        let mut optimizer = Optimizer::new(&self.model, config.ema.is_some());
        let mut model = self.model;
        let mut last_loss = f64::NAN;
        for step in 0..config.steps {
            let average = || optimizer.averaged(&model).filter(|_| config.ema.is_some());
            let at = At { model: &model, average: &average, step, config };
            what.due(&at)?;
            let mut part = |i: usize| {
                let part = (step * config.accumulate + i) as u64;
                let (x0, order) = (
                    self.data.batch(self.seed, part, config.batch),
                    crate::train::order_of(&orders, rng.of_step(part)),
                );
                let batch = Batch { x0, length, order, rng, part };
                what.part(&at, &batch)
            };
            let gathered = gather(&model, config.accumulate, &mut part)?;
            if !gathered.is_finite() {
                return Err(non_finite(gathered.loss, gathered.norm, step));
            }
            let (scale, told) = (gathered.scale(config), (gathered.loss, gathered.norm));
            model = optimizer.step(model, gathered.grads, config, step, scale);
            last_loss = told.0;
            if let Some(each) = &mut self.each {
                each(&Step { step: step + 1, loss: told.0, lr: config.learning_rate(step), grad_norm: told.1 });
            }
        }
        Ok(Trained {
            model: optimizer.averaged(&model).filter(|_| config.ema.is_some()).unwrap_or_else(|| model.valid()),
            name: name.to_string(),
            causal: format.facts().causal(),
            order: self.order,
            schedule: format.facts().schedule,
            length,
            seed: self.seed,
            steps: config.steps,
            tokens: (config.steps * config.accumulate * config.batch * length) as u64,
            seconds: begin.elapsed().as_secs_f64(),
            last_loss,
            objective: format,
        })
    }
}

/// Refuses a teacher that has other ids than its student, or another mask.
fn same_ids<N: Network>(student: &N, teacher: &dyn Teach) -> Result<()> {
    let ids = |vocab: usize, mask: u32| format!("{vocab} ids and the mask {mask}");
    let (own, theirs) = (ids(student.vocab(), student.mask()), ids(teacher.vocab(), teacher.mask()));
    match own == theirs {
        true => Ok(()),
        false => Err(Error::usage(format!("the student has {own}, its teacher {theirs}"))
            .hint("begin with a copy of the teacher, or with a network of its vocabulary and mask")),
    }
}

/// Whether what a network says of a position depends on the token there or on later ones.
pub(super) fn reads_ahead(model: &dyn Denoise, data: &dyn Dataset) -> bool {
    let (length, vocab) = (data.length(), data.vocab() as u32);
    let rows: Vec<usize> = (0..=length / 2).collect();
    let of = |shift: u32| {
        let tokens = |l: usize| (l as u32 * 7 + if l < length / 2 { 0 } else { shift }) % vocab;
        let x0: Vec<u32> = (0..length).map(tokens).collect();
        params::floats(model.features_at(&method::ar_nll(&x0, length).input, &rows))
    };
    of(0).iter().zip(of(1)).any(|(a, b)| (a - b).abs() > 1e-4 * a.abs().max(1.0))
}

impl<'a> Trainer<'a, Transformer> {
    /// Trains by a method on tokens under masks or uniform noise, with all that it keeps from step to step; `parents` are the other
    /// networks that it needs.
    ///
    /// # Errors
    /// As [`Trainer::by`], and (usage) a method that lacks something, or one of vectors, scores or a chain of matrices.
    pub fn method(self, objective: &Objective, parents: Parents<'a>) -> Result<Trained<Transformer>> {
        self.with_method(objective.name(), objective.clone(), objective.method(), parents)
    }

    /// Trains by a method of the caller's, called `name`; checkpoints name it as `elbo`, the process that it is sampled in.
    ///
    /// # Errors
    /// As [`Trainer::method`].
    pub fn own_method(self, name: &str, method: &dyn Method, parents: Parents<'a>) -> Result<Trained<Transformer>> {
        let elbo = ElboConfig { schedule: self.schedule.unwrap_or_default(), ..ElboConfig::default() };
        self.with_method(name, Objective::Elbo(elbo), method, parents)
    }

    fn with_method(
        self,
        name: &str,
        format: Objective,
        method: &dyn Method,
        parents: Parents<'a>,
    ) -> Result<Trained<Transformer>> {
        self.check(&format)?;
        let facts = format.facts();
        if facts.chain.is_some() || !facts.on_tokens() || facts.scores.is_some() {
            return Err(Error::usage(format!("`{name}` is trained by a recipe"))
                .cause("a trainer is for methods on tokens under masks or uniform noise"));
        }
        let (length, orders) = (self.data.length(), self.order.all(self.data.length()));
        let (vocab, mask) = (self.model.vocab(), self.model.mask());
        let ground = Ground { name, length, vocab, mask, seed: self.seed, orders: &orders, dir: None, parents };
        let mut training = method.begin(&ground)?;
        training.start(&self.model);
        let mut by = ByMethod { training, data: self.data, seed: self.seed };
        self.walk(name, format, &mut by)
    }
}

impl Trained<Transformer> {
    /// Writes it into the new directory `dir`, with the tokenizer of its data, so that [`super::Model::load`] and the binary read it.
    ///
    /// # Errors
    /// A directory that is there already, (usage) a network, order and objective that do not go together in a checkpoint, a refused
    /// write.
    pub fn export(&self, data: &dyn Dataset, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        let name = dir.file_name().map_or(self.name.clone(), |name| name.to_string_lossy().into_owned());
        let facts = self.objective.facts();
        let card = ModelCard {
            architectures: vec!["FewstepTransformer".into()],
            model_type: "fewstep".into(),
            fewstep_version: env!("CARGO_PKG_VERSION").into(),
            name,
            vocab_size: self.model.vocab(),
            mask_token_id: self.model.mask() as usize,
            excluded_token_ids: self.model.without_text(),
            end_token_id: data.end(),
            max_position_embeddings: self.length,
            network: self.model.config().clone(),
            order: self.order.clone(),
            schedule: facts.on_tokens().then_some(self.schedule),
            corruption: facts.on_tokens().then_some(facts.corruption),
            seed: self.seed,
            train_steps: self.steps,
            train_tokens: self.tokens,
            train_seconds: self.seconds,
            // With fixed phases the order says it.
            generation: facts.steps.filter(|_| !self.order.phased()).map(|steps| Generation {
                steps,
                selection: Selection::Random,
                temperature: 1.0,
            }),
            picture: data.picture(),
            latent: None,
            neighbours: None,
            quantization_config: None,
            objective: self.objective.clone(),
        };
        let tokenizer = data.tokenizer();
        let extras = Extras { tokenizer: Some(&tokenizer), recipe: "", results: None, call: None };
        fs::new_dir(dir, |out| checkpoint::write(out, &card, params::export(&self.model), &extras))
    }
}
