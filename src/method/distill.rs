//! Self-distillation through time (SDTT, Deschenaux and Gulcehre 2024): one student step learns k teacher steps.
//!
//! From x_t the teacher takes k ancestral steps at times t, t - dt, ..., t - (k - 1) dt. The target of a position is the
//! teacher's distribution at the step where it was revealed; positions still masked at the end take the last step's.
//! Rounds: in round r the step is dt_r = k^r / steps, and the student of round r is the teacher of round r + 1, so that
//! student r is a model of steps / k^(r + 1) steps. (The reference code evaluates the teacher at other times than these;
//! methods A1 d.)
//!
//! Other orders than the parallel one: over blocks behind finished text a step is one of a block's own, every block of a
//! sequence at the same time. Where the context is noisy (AR-Diffusion, pipelined blocks), t is what is left of the whole
//! table, each position has the time of that column, and a row is a masked position whose time falls in the student's step.
//! A teacher may have another order than its student (D2F, Wang et al. 2025: everything sees everything, the student only
//! its blocks); with `steps_per_step = 1` both then predict the same x_t.
//!
//! In an order with fixed phases a student step reveals one phase, and the teacher reveals the same positions in k steps, each
//! of every k-th of them. Each sequence of a batch is in a phase of its own, behind the data's tokens of those before it.
//! B batch, L length, D width.

use std::sync::Arc;

use burn::optim::GradientsParams;
use burn::prelude::*;
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contract::{
    Batch, Beside, Facts, Ground, Kept, Made, Method, Nets, Network, Parts, Site, Training, contradiction,
};
use super::masked::beside;
pub use super::refresh::Refresh;
use super::rounds::Teacher;
use super::{diffusion, refresh};
use crate::error::{Error, Result, whole_within, within};
use crate::loss::{self, Divergence, RowLoss, Target};
use crate::model::canvas::{Canvas, shares_host};
use crate::model::draw::Filter;
use crate::model::{Noised, State, Teach, Transformer, index_tensor};
use crate::process::corruption::Alphabet;
use crate::process::{Context, Corruption, Order, Phases, Schedule};
use crate::rng::{Generators, Stream};

/// The configuration of the objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SdttConfig {
    /// The model of this recipe to learn from; the student starts from its weights.
    pub teacher: String,
    /// forward_kl | reverse_kl | jensen_shannon | total_variation | log_mse
    #[serde(default = "default_divergence")]
    pub divergence: Divergence,
    /// Number of steps of the first round's teacher: its dt is 1 / steps. Required, except with fixed phases, which have no dt. Default: none.
    #[serde(default, skip_serializing_if = "is_none")]
    pub teacher_steps: usize,
    /// Teacher steps k that one student step learns; also the growth of dt from round to round.
    #[serde(default = "default_k")]
    pub steps_per_step: usize,
    /// Number of rounds; training steps are shared evenly.
    pub rounds: usize,
    /// raw | ema
    #[serde(default)]
    pub refresh: Refresh,
    /// log_linear | cosine: must be the teacher's.
    #[serde(default)]
    pub schedule: Schedule,
    /// The share of the data's cross-entropy in the loss, of a student with fixed phases; the rest is the divergence. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub data: f64,
}

impl SdttConfig {
    /// From a teacher of so many steps in so many rounds, each of which halves the steps.
    pub fn new(teacher_steps: usize, rounds: usize) -> Self {
        SdttConfig {
            teacher: String::new(),
            divergence: default_divergence(),
            teacher_steps,
            steps_per_step: default_k(),
            rounds,
            refresh: Refresh::default(),
            schedule: Schedule::default(),
            data: 0.0,
        }
    }
}

fn is_none(steps: &usize) -> bool {
    *steps == 0
}
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

fn default_divergence() -> Divergence {
    Divergence::ReverseKl
}
fn default_k() -> usize {
    2
}

impl SdttConfig {
    /// The round that training step `step` of `total` belongs to.
    pub fn round(&self, step: usize, total: usize) -> usize {
        refresh::round(step, total, self.rounds)
    }

    /// The teacher's step size in `round`.
    pub fn dt(&self, round: usize) -> f64 {
        (self.steps_per_step as f64).powi(round as i32) / self.teacher_steps as f64
    }
}

/// The times t, t - dt, ..., t - k dt of a teacher's k steps; near 0 the step shrinks so that the last time is 0.
pub fn teacher_times(t: f64, dt: f64, k: usize) -> Vec<f64> {
    let dt = dt.min(t / k as f64);
    (0..=k).map(|j| if j == k && dt * k as f64 >= t { 0.0 } else { t - j as f64 * dt }).collect()
}

/// The rows of one distillation step on x0 [B, L] with the teacher's step size `dt`.
///
/// One uniform draw per batch places the times, stratified over (0, 1]; the weight of each masked row is 1/|masked|.
/// The teacher computes what the target needs: in each step but the last the features of the rows that this step reveals,
/// and only of the sequences that hold them; in the last step those of all rows that are still masked. Its tokens are drawn
/// where its network is.
///
/// # Errors
/// A teacher's predictions that are not a distribution (non-finite); on a device with its own memory they make the loss NaN
/// instead.
pub fn rows(
    config: &SdttConfig,
    teacher: &dyn Teach,
    x0: &[u32],
    length: usize,
    dt: f64,
    orders: Orders,
    rng: Generators,
) -> Result<RowLoss> {
    rows_at(config, teacher, x0, length, dt, orders, rng, !shares_host(&teacher.device()))
}

/// An input in an order, with the finished text [B L] beside the noise where the order reads it.
fn read_beside(order: Order, input: Noised, clean: Vec<u32>) -> Noised {
    let clean = beside(order, input.length).then_some(State::Tokens(clean));
    Noised { clean, ..input.in_blocks(order.layout()) }
}

/// The times of a teacher's k steps of size dt, for each of `batch` sequences: stratified over (0, 1] by one uniform.
fn stratified_steps(batch: usize, dt: f64, k: usize, offset: f64) -> Vec<Vec<f64>> {
    let t = |i: usize| 1.0 - (offset + i as f64 / batch as f64).fract();
    (0..batch).map(|i| teacher_times(t(i), dt, k)).collect()
}

/// The orders of a distillation step.
#[derive(Debug, Clone, Copy)]
pub struct Orders {
    pub student: Order,
    pub teacher: Order,
}

impl Orders {
    /// The student's order, and which of those that its teacher knows it is taught in: the same, or for a student that reads noise
    /// alone all positions at once, so that no text is seen but what the student sees. None: it cannot be.
    pub fn of(student: Order, teachers: &[Order], length: usize) -> Option<Self> {
        // In fixed phases the teacher is asked behind the same text as the student, whatever its own order.
        if student.pattern.is_some() {
            return teachers.first().map(|teacher| Orders { student, teacher: *teacher });
        }
        let same = teachers.iter().find(|o| **o == student);
        let whole = || teachers.iter().find(|o| o.blocks(length) == 1).filter(|_| !beside(student, length));
        same.or_else(whole).map(|teacher| Orders { student, teacher: *teacher })
    }

    /// Student and teacher in the same order.
    pub fn same(order: Order) -> Self {
        Orders { student: order, teacher: order }
    }
}

/// [`rows`] with the teacher's canvas on its device, or on the host.
#[allow(clippy::too_many_arguments)]
fn rows_at(
    config: &SdttConfig,
    teacher: &dyn Teach,
    x0: &[u32],
    length: usize,
    dt: f64,
    orders: Orders,
    rng: Generators,
    on_device: bool,
) -> Result<RowLoss> {
    let (batch, mask, order) = (x0.len() / length, teacher.mask(), orders.student);
    if let Some(phases) = order.phases(length, &[]) {
        return phase_rows(config, teacher, x0, &phases, rng, on_device);
    }
    let k = config.steps_per_step;
    let left = stratified_steps(batch, dt, k, rng.at(Stream::Times).random());
    let one_time = order.context == Context::Clean || order.blocks(length) == 1;
    let steps = Steps { order, length, one_time, schedule: config.schedule, left };
    let t_row: Vec<f64> = (0..batch).flat_map(|i| steps.row(i, 0)).collect();
    let xt = Corruption::Absorb.corrupt(
        x0,
        &t_row,
        config.schedule,
        Alphabet { mask, vocab: 0 },
        &mut rng.at(Stream::Corrupt),
    );
    let falls = |r: usize| one_time || steps.time(r / length, k, r % length) < t_row[r];
    let rows: Vec<usize> = (0..xt.len()).filter(|i| xt[*i] == mask && falls(*i)).collect();
    // Over blocks the finished text stands beside the noise.
    let input = read_beside(order, Noised::tokens(&xt, &t_row, length), x0.to_vec());
    if rows.is_empty() {
        // A small batch at times near 0 can lose no token at all: then there is nothing to learn from it.
        return Ok(RowLoss { input, rows, weights: Vec::new(), target: Target::Tokens(Vec::new()), alpha: None });
    }
    // The text beside the noise is on the host.
    let device = (on_device && !beside(orders.teacher, length)).then(|| teacher.device().inner());
    let canvas = Canvas::new(xt, length, device.as_ref());
    let theirs = revealed_features(teacher, orders.teacher, x0, canvas, &rows, &steps, rng.at(Stream::Teacher))?;
    let target = Target::Teacher(teacher.head(), theirs, config.divergence);
    Ok(RowLoss { input, weights: vec![1.0 / rows.len() as f64; rows.len()], target, rows, alpha: None })
}

/// A teacher's steps.
struct Steps {
    /// The student's.
    order: Order,
    length: usize,
    /// Whether all positions of a sequence have one time.
    one_time: bool,
    schedule: Schedule,
    /// What is left of the whole table before each step, and behind the last, of each sequence.
    left: Vec<Vec<f64>>,
}

impl Steps {
    /// The time of position `l` of sequence `i` before step `j`.
    fn time(&self, i: usize, j: usize, l: usize) -> f64 {
        let left = self.left[i][j];
        if self.one_time { left } else { self.order.time(self.length, 1.0 - left, l) }
    }

    /// The times [L] of sequence `i` before step `j`.
    fn row(&self, i: usize, j: usize) -> Vec<f64> {
        (0..self.length).map(|l| self.time(i, j, l)).collect()
    }

    /// How likely a masked position is revealed in step `j`.
    fn chance(&self, i: usize, l: usize, j: usize) -> f64 {
        let (now, next) = (self.time(i, j, l), self.time(i, j + 1, l));
        if next < now { Corruption::Absorb.reveal_probability(self.schedule, now, next) } else { 0.0 }
    }
}

/// The teacher's features [n, D] of the masked positions `rows` [n], each from the step in which it is revealed.
fn revealed_features(
    teacher: &dyn Teach,
    order: Order,
    x0: &[u32],
    mut canvas: Canvas,
    rows: &[usize],
    steps: &Steps,
    mut draws: impl Rng,
) -> Result<Tensor<2>> {
    let (length, k) = (steps.length, steps.left[0].len() - 1);
    let mut masked = rows.to_vec();
    // Per flat position: where the features of its target stand among all feature rows computed so far.
    let mut target_of = vec![usize::MAX; x0.len()];
    let mut computed: Vec<Tensor<2>> = Vec::with_capacity(k);
    let mut total = 0;
    for j in 0..k {
        // Whether a position is revealed in this step does not depend on what the teacher predicts, so it is drawn first:
        // a step reads only the sequences in which it reveals something, and the last one all that is still masked.
        let last = j + 1 == k;
        let revealed = |r: &usize| last || draws.random::<f64>() < steps.chance(r / length, r % length, j);
        let (wanted, rest): (Vec<usize>, Vec<usize>) = masked.into_iter().partition(revealed);
        masked = rest;
        if wanted.is_empty() {
            continue;
        }
        let (sequences, part_rows) = sequences_of(&wanted, length);
        let now: Vec<f64> = sequences.iter().flat_map(|i| steps.row(*i, j)).collect();
        let text = |i: &usize| x0[i * length..][..length].to_vec();
        let clean = match beside(order, length) {
            true => sequences.iter().flat_map(text).collect(),
            false => Vec::new(),
        };
        let input = read_beside(order, canvas.input(&sequences, &now, length), clean);
        let features = teacher.features_at(&input, &part_rows);
        wanted.iter().enumerate().for_each(|(n, r)| target_of[*r] = total + n);
        total += wanted.len();
        if !last {
            let picks: Vec<(usize, f64)> = (0..wanted.len()).map(|n| (n, draws.random())).collect();
            // What is not finite on a device is in these features, which are targets, and so in the step's loss.
            canvas.reveal(teacher, features.clone(), &picks, &wanted, Filter::default())?;
        }
        computed.push(features);
    }
    Ok(pick(computed, rows.iter().map(|r| target_of[*r])))
}

/// [`rows`] of a student with fixed phases.
fn phase_rows(
    config: &SdttConfig,
    teacher: &dyn Teach,
    x0: &[u32],
    phases: &Phases,
    rng: Generators,
    on_device: bool,
) -> Result<RowLoss> {
    let (length, k) = (phases.len(), config.steps_per_step);
    let batch = x0.len() / length;
    let offset = rng.at(Stream::Times).random::<f64>();
    let phase = |i: usize| ((offset + i as f64 / batch as f64).fract() * phases.count() as f64) as usize;
    // The step of the teacher, of those of all phases, in which a position is revealed.
    let fine = |l: usize| {
        let n = phases.phase(l).unwrap_or(0);
        n * k + (phases.rank(l) - phases.ranks_of(n).start) % k
    };
    let finer = Arc::new(Phases::new(length, &[], fine));
    let own = Arc::new(Phases::clone(phases));
    let known = |r: usize, before: usize| fine(r % length) < before;
    let xt: Vec<u32> =
        (0..x0.len()).map(|r| if known(r, phase(r / length) * k) { x0[r] } else { teacher.mask() }).collect();
    let t: Vec<f64> = (0..x0.len()).map(|r| f64::from(u8::from(!known(r, phase(r / length) * k)))).collect();
    let rows: Vec<usize> = (0..x0.len()).filter(|r| phases.phase(r % length) == Some(phase(r / length))).collect();

    let mut draws = rng.at(Stream::Teacher);
    let device = on_device.then(|| teacher.device().inner());
    let mut canvas = Canvas::new(xt.clone(), length, device.as_ref());
    let mut target_of = vec![usize::MAX; xt.len()];
    let mut computed: Vec<Tensor<2>> = Vec::with_capacity(k);
    let mut total = 0;
    for j in 0..k {
        let due = |r: &&usize| fine(**r % length) == phase(**r / length) * k + j;
        let wanted: Vec<usize> = rows.iter().filter(due).copied().collect();
        if wanted.is_empty() {
            continue;
        }
        let (sequences, part_rows) = sequences_of(&wanted, length);
        let masked = |i: usize, l: usize| !known(i * length + l, phase(i) * k + j);
        let now: Vec<f64> = match teacher.over_blocks() {
            true => sequences.iter().flat_map(|i| (0..length).map(|l| f64::from(u8::from(masked(*i, l))))).collect(),
            // One that sees everything is told one time: that at which as many are masked.
            false => sequences
                .iter()
                .flat_map(|i| {
                    let share = (0..length).filter(|l| masked(*i, *l)).count() as f64 / length as f64;
                    vec![config.schedule.time(1.0 - share); length]
                })
                .collect(),
        };
        let input = canvas.input(&sequences, &now, length).in_phases(Some(finer.clone()));
        let features = teacher.features_at(&input, &part_rows);
        wanted.iter().enumerate().for_each(|(n, r)| target_of[*r] = total + n);
        total += wanted.len();
        if j + 1 < k {
            let picks: Vec<(usize, f64)> = (0..wanted.len()).map(|n| (n, draws.random())).collect();
            canvas.reveal(teacher, features.clone(), &picks, &wanted, Filter::default())?;
        }
        computed.push(features);
    }
    let taught = Target::Teacher(teacher.head(), pick(computed, rows.iter().map(|r| target_of[*r])), config.divergence);
    let target = match config.data {
        0.0 => taught,
        share => Target::Several(vec![
            (vec![1.0 - share; rows.len()], taught),
            (vec![share; rows.len()], Target::Tokens(rows.iter().map(|r| x0[*r]).collect())),
        ]),
    };
    Ok(RowLoss {
        input: Noised::tokens(&xt, &t, length).in_phases(Some(own)),
        weights: vec![1.0 / rows.len() as f64; rows.len()],
        target,
        rows,
        alpha: None,
    })
}

/// The sequences of a batch [B, L] that hold the flat positions `wanted`, which ascend, and where `wanted` lies among them.
fn sequences_of(wanted: &[usize], length: usize) -> (Vec<usize>, Vec<usize>) {
    let mut sequences: Vec<usize> = Vec::new();
    let mut rows = Vec::with_capacity(wanted.len());
    for r in wanted {
        if sequences.last() != Some(&(r / length)) {
            sequences.push(r / length);
        }
        rows.push((sequences.len() - 1) * length + r % length);
    }
    (sequences, rows)
}

/// The given rows [n, D] of all feature rows computed.
fn pick(mut computed: Vec<Tensor<2>>, at: impl Iterator<Item = usize>) -> Tensor<2> {
    let all = if computed.len() == 1 { computed.remove(0) } else { Tensor::cat(computed, 0) };
    let at: Vec<usize> = at.collect();
    if at.len() == all.dims()[0] && at.iter().enumerate().all(|(i, r)| i == *r) {
        return all;
    }
    let index = index_tensor(&at, &all.device());
    all.select(0, index)
}

impl Method for SdttConfig {
    fn facts(&self) -> Facts<'_> {
        Facts {
            made: Made::Student,
            passes: 1.0 + self.steps_per_step as f64,
            beside: Beside::Blocks,
            teacher: Some((&self.teacher, "sdtt.teacher")),
            rounds: true,
            steps: Some((1.0 / self.dt(self.rounds)).round().max(1.0) as usize),
            schedule: self.schedule,
            ..Facts::of_tokens("sdtt", "divergence")
        }
    }

    fn check(&self, site: &Site) -> Result<()> {
        let at = |k: &str| site.at(k);
        let teacher = site.models.site(&self.teacher)?;
        let theirs = teacher.method.facts();
        let objective = teacher.key("objective");
        if theirs.causal() {
            return Err(Error::usage(format!(
                "`{}` needs a diffusion teacher, but `{objective}` is \"ar_nll\"",
                at("teacher")
            ))
            .hint("name a model that is trained by `objective.elbo`"));
        }
        if !theirs.corruption.absorbs() {
            return Err(Error::usage(format!(
                "`{}` reveals masks, but `{objective}` has uniform noise",
                site.key("objective.sdtt")
            ))
            .hint("`objective.dcd` distils such a teacher"));
        }
        site.has_schedule_of(&teacher)?;
        self.check_phases(site, &teacher)?;
        // One length stands for any: a whole sequence is one block at each.
        let long = 1 << 12;
        let known = teacher.order.all(long);
        if !site.order.all(long).into_iter().all(|order| Orders::of(order, &known, long).is_some()) {
            return Err(Error::usage(format!(
                "`{} = {}` cannot be learnt from `{} = {}`",
                site.key("order"),
                site.order.shown(),
                teacher.key("order"),
                teacher.order.shown()
            ))
            .cause("the teacher would see other text than its student")
            .hint("give both the same order; pipelined blocks and AR-Diffusion can also learn from \"parallel\""));
        }
        let phased = site.order.phased();
        if !phased {
            site.has_network_of(&teacher)?;
        }
        whole_within(&at("steps_per_step"), self.steps_per_step, 1..=64)?;
        whole_within(&at("rounds"), self.rounds, 1..=32)?;
        if !phased {
            self.check_times(site)?;
        }
        site.has_rounds(&at("rounds"), self.rounds)?;
        if self.refresh == Refresh::Ema && site.train.ema.is_none() {
            return Err(contradiction(&at("refresh"), "\"ema\"", &site.key("train.ema"), "0.999 or another decay"));
        }
        Ok(())
    }

    fn fits(&self, site: &Site, network: &crate::model::TransformerConfig) -> Result<()> {
        diffusion::fits(site, network)
    }

    fn begin<'a>(&'a self, ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        Ok(Box::new(Sdtt { config: self, teacher: Teacher::new(ground.parents.teacher), ground: *ground }))
    }
}

impl SdttConfig {
    /// Checks that the last round has a step of the teacher's left.
    fn check_times(&self, site: &Site) -> Result<()> {
        let (at, k) = (|k: &str| site.at(k), self.steps_per_step);
        whole_within(&at("teacher_steps"), self.teacher_steps, 1..=1 << 20)?;
        // One teacher step is its own prediction of what the student reads.
        if k == 1 && self.rounds > 1 {
            return Err(contradiction(&at("steps_per_step"), "1", &at("rounds"), "1")
                .cause("one step of the teacher does not grow from round to round"));
        }
        if (k as f64).powi(self.rounds as i32) <= self.teacher_steps as f64 {
            return Ok(());
        }
        let most = (1..self.rounds).take_while(|r| (k as f64).powi(*r as i32) <= self.teacher_steps as f64).last();
        let error = Error::usage(format!(
            "`{} = {}` with `{} = {k}` leave less than one step of `{} = {}`",
            at("rounds"),
            self.rounds,
            at("steps_per_step"),
            at("teacher_steps"),
            self.teacher_steps
        ))
        .cause(format!("steps_per_step ^ rounds must not exceed {}", self.teacher_steps));
        Err(match most {
            Some(rounds) => error.hint(format!("`{} = {rounds}`, or more teacher steps", at("rounds"))),
            None => error.hint(format!("`{} = 1` and `{} = {k}`", at("rounds"), at("teacher_steps"))),
        })
    }

    /// Checks what of a distillation a student with fixed phases reads.
    fn check_phases(&self, site: &Site, teacher: &Site) -> Result<()> {
        use crate::model::config::Visibility;
        let at = |k: &str| site.at(k);
        within(&at("data"), self.data, 0.0..=1.0)?;
        if !site.order.only_phased() {
            return match self.data {
                0.0 => Ok(()),
                _ => Err(contradiction(&at("data"), &self.data.to_string(), &site.key("order"), "{ strided = 8 }")
                    .cause("the data's tokens are the target where phases are fixed")),
            };
        }
        let sees_all = match teacher.network {
            Some(Network::Given(network)) => network.visibility == Visibility::Full && network.vectors.is_none(),
            _ => true,
        };
        let taught = teacher.order.all(1 << 10);
        let same = self.steps_per_step == 1 && site.order.all(1 << 10).iter().all(|order| taught.contains(order));
        if !sees_all && !same {
            return Err(Error::usage(format!("`{}` does not see what its student in phases sees", at("teacher")))
                .cause("it has not learnt to predict behind these phases")
                .hint("name a masked model with `visibility = \"full\"`, or one of the same phases with `steps_per_step = 1`"));
        }
        if self.teacher_steps != 0 {
            return Err(Error::usage(format!("`{} = {}` with fixed phases", at("teacher_steps"), self.teacher_steps))
                .cause("the teacher takes `steps_per_step` steps for each phase")
                .hint(format!("leave `{}` out", at("teacher_steps"))));
        }
        match self.rounds {
            1 => Ok(()),
            rounds => Err(Error::usage(format!("`{} = {rounds}` with fixed phases", at("rounds")))
                .cause("the number of phases stays the same from round to round")
                .hint(format!("`{} = 1`", at("rounds")))),
        }
    }
}

struct Sdtt<'a> {
    config: &'a SdttConfig,
    teacher: Teacher<'a>,
    ground: Ground<'a>,
}

impl Training for Sdtt<'_> {
    fn step(&self, nets: &Nets, batch: &Batch) -> Result<(f64, GradientsParams)> {
        let round = self.teacher.round();
        // The first teacher was trained over its own orders, later ones are the student so far.
        let known = if round == 0 { self.ground.parents.orders } else { self.ground.orders };
        let Some(orders) = Orders::of(batch.order, known, batch.length) else {
            return Err(self.ground.lacks("a teacher that knows one of its orders"));
        };
        let dt = self.config.dt(round);
        let teacher = self.teacher.network();
        let rows = rows(self.config, teacher, &batch.x0, batch.length, dt, orders, batch.generators())?;
        Ok(loss::backward(nets.model, &rows))
    }

    fn start(&mut self, model: &Transformer) {
        self.teacher.start(model);
    }

    fn due(&mut self, nets: &Nets) -> Result<()> {
        let round = self.config.round(nets.step, nets.config.steps);
        self.teacher.advance(round, self.config.refresh, nets);
        Ok(())
    }

    fn round(&self) -> Option<usize> {
        Some(self.teacher.round())
    }

    fn save(&self) -> Kept {
        self.teacher.save()
    }

    fn load(&mut self, from: &Parts) -> Result<()> {
        self.teacher.load(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Visibility;
    use crate::model::{Denoise, TransformerConfig, params};
    use crate::rng::StepRng;
    use crate::weights::{HostTensor, Weights};

    fn sdtt(teacher_steps: usize, steps_per_step: usize, rounds: usize) -> SdttConfig {
        SdttConfig {
            teacher: "t".into(),
            divergence: Divergence::ReverseKl,
            teacher_steps,
            steps_per_step,
            rounds,
            refresh: Refresh::Raw,
            schedule: Schedule::LogLinear,
            data: 0.0,
        }
    }

    fn parallel() -> Orders {
        Orders::same(Order::parallel(12))
    }

    /// A network over 11 tokens whose tensors were changed by `change`.
    fn teacher(change: impl Fn(&str, &mut HostTensor)) -> Transformer {
        let config = TransformerConfig { bias: true, ..TransformerConfig::new(16, 2, 2, Visibility::Full) };
        let device = Device::flex();
        let mut tensors = params::export(&Transformer::init(&config, 11, 12, 3, &device));
        tensors.iter_mut().for_each(|(name, t)| change(name, t));
        let weights = Weights { tensors, ..Weights::default() };
        Transformer::from_weights(&config, 11, 12, &weights, "test", &device).unwrap()
    }

    #[test]
    fn the_teacher_is_evaluated_at_t_and_t_minus_dt() {
        let close = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-12);
        for (t, dt, k, want) in [
            (0.5, 1.0 / 1024.0, 2, vec![0.5, 0.5 - 1.0 / 1024.0, 0.5 - 2.0 / 1024.0]),
            (1.0, 0.25, 2, vec![1.0, 0.75, 0.5]),
            (1.0, 0.25, 4, vec![1.0, 0.75, 0.5, 0.25, 0.0]),
            // Near zero the step shrinks: the student's last step also ends at 0.
            (0.1, 0.25, 2, vec![0.1, 0.05, 0.0]),
        ] {
            let got = teacher_times(t, dt, k);
            assert!(close(&got, &want), "{got:?} for {want:?}");
        }
    }

    #[test]
    fn a_teacher_that_draws_on_its_device_gives_the_targets_of_one_that_draws_on_the_host() {
        // So sure of one token that both ways of reading a uniform draw it.
        let teacher = teacher(|name, t| {
            if name == "head.bias" {
                t.data[4] = 60.0
            }
        });
        let sdtt = sdtt(4, 4, 1);
        let x0: Vec<u32> = (0..60).map(|i| i % 11).collect();
        let of = |on_device: bool| {
            let at = StepRng::new(3).of_step(7);
            let rows = rows_at(&sdtt, &teacher, &x0, 12, 0.25, parallel(), at, on_device).unwrap();
            let Target::Teacher(_, features, _) = rows.target else { panic!("a teacher's target") };
            (rows.rows, params::floats(features))
        };
        let (host, device) = (of(false), of(true));
        assert!(host.0.len() > 20 && host == device);
    }

    #[test]
    fn a_teacher_without_finite_predictions_is_an_error() {
        let teacher = teacher(|_, t| t.data.fill(f32::NAN));
        let error =
            rows(&sdtt(2, 2, 1), &teacher, &[1; 24], 12, 0.5, parallel(), StepRng::new(3).of_step(7)).unwrap_err();
        let there =
            rows_at(&sdtt(2, 2, 1), &teacher, &[1; 24], 12, 0.5, parallel(), StepRng::new(3).of_step(7), true).unwrap();
        assert!(crate::method::evaluate(&self::teacher(|_, _| ()), &there).0.is_nan());
        assert_eq!(error.kind.exit_code(), 5, "{error}");
    }

    #[test]
    fn rounds_share_the_steps_evenly_and_double_the_step_size() {
        let c = sdtt(32, 2, 3);
        let rounds: Vec<usize> = (0..9).map(|s| c.round(s, 9)).collect();
        assert_eq!(rounds, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
        assert_eq!([c.dt(0), c.dt(1), c.dt(2)], [1.0 / 32.0, 1.0 / 16.0, 1.0 / 8.0]);
    }

    /// A network over the blocks of its order.
    fn over_blocks() -> Transformer {
        let config =
            TransformerConfig { learned_positions: true, ..TransformerConfig::new(16, 2, 2, Visibility::Order) };
        Transformer::init(&config, 11, 12, 3, &Device::flex())
    }

    #[test]
    fn under_a_noisy_order_the_rows_are_the_masked_positions_whose_time_falls_in_the_students_step() {
        let order = Order { window: 2, context: Context::Noisy, ..Order::in_blocks(3) };
        let (teacher, config) = (over_blocks(), sdtt(8, 2, 1));
        let x0: Vec<u32> = (0..120).map(|i| i * 7 % 11).collect();
        let loss =
            rows(&config, &teacher, &x0, 12, config.dt(0), Orders::same(order), StepRng::new(3).of_step(7)).unwrap();
        assert!(loss.rows.len() > 20);
        let xt = loss.input.token_ids();
        for (i, t) in loss.input.t.chunks(12).enumerate() {
            // A column of the table: left blocks are ahead, and two are under way.
            assert!(t.windows(2).all(|p| p[0] <= p[1]));
            let under_way = (0..4).filter(|b| t[b * 3] > 0.0 && t[b * 3] < 1.0).count();
            assert!(under_way <= 2);
            // What is left of the table, from a position on its way; two teacher steps later its time is lower.
            for l in 0..12 {
                let is_row = loss.rows.contains(&(i * 12 + l));
                assert!(!is_row || xt[i * 12 + l] == teacher.mask());
                if t[l] > 0.0 && t[l] < 1.0 && xt[i * 12 + l] == teacher.mask() {
                    assert!(is_row, "sequence {i}, position {l} at {}", t[l]);
                }
            }
        }
        // Behind the end of the step nothing is learnt: some masked positions are no rows.
        assert!(xt.iter().filter(|x| **x == teacher.mask()).count() > loss.rows.len());
    }

    #[test]
    fn one_step_of_a_teacher_in_the_same_order_is_the_student_itself_and_in_another_it_sees_more() {
        let pipelined = Order { window: 2, context: Context::Noisy, ..Order::in_blocks(3) };
        let ar_diffusion = crate::process::order::OrderConfig::ArDiffusion { levels: 8 }.order(12);
        let (teacher, config) = (over_blocks(), sdtt(8, 1, 1));
        let x0: Vec<u32> = (0..120).map(|i| i * 7 % 11).collect();
        let value = |student: Order, teacher_order: Order| {
            let orders = Orders { student, teacher: teacher_order };
            let loss = rows(&config, &teacher, &x0, 12, 0.125, orders, StepRng::new(3).of_step(7)).unwrap();
            super::super::evaluate(&teacher, &loss).0
        };
        for order in [pipelined, ar_diffusion, Order::in_blocks(3), Order::left_to_right(), Order::parallel(12)] {
            assert!(value(order, order).abs() < 1e-6, "{order:?}: {}", value(order, order));
        }
        assert!(value(pipelined, Order::parallel(12)) > 1e-5);
    }
}
