//! Few steps in latent space: students of a denoiser of vectors, or of the data alone.
//!
//! All are one network that says `out` at (x_t, t), of which x_0 = f(x_t, t) and a step to s are sums (process/gaussian.rs):
//!
//! | method | what the student's answer is compared with | paper |
//! |---|---|---|
//! | progressive | the answer whose one step t -> s is the teacher's two steps | Salimans and Ho 2022, 2202.00512 |
//! | consistency | f of the same path a little nearer to the data, by the teacher's step or the same noise | Song et al. 2023; Song and Dhariwal 2023 |
//! | continuous | the limit of that: -d f/dt along the path, normalised (sCM) | Lu and Song 2024, 2410.11081 |
//! | shortcut | its own two half steps, and the velocity where the step is 0 | Frans et al. 2024, 2410.12557 |
//! | mean_flow | v - (t - s) d u/dt, the mean velocity's identity | Geng et al. 2025, 2505.13447 |
//! | matching | nothing: its samples' distribution follows the teacher's score less its own (a critic's) | Yin et al. 2024, 2405.14867 |
//!
//! A consistency function is x itself at t = 0 by its form, x_0 = a(t) x + b(t) out with a(0) = 1, b(0) = 0. Derivatives along
//! the path are central differences of the network, taken in f32 with a step that the smooth embedding of the time allows; forward
//! differentiation is not to be had. B batch, M latents, d their width.

use std::f64::consts::FRAC_PI_2;

use burn::optim::GradientsParams;
use burn::prelude::*;
use rand::Rng;
use rand_distr::{Distribution, Normal};

use super::contract::{Batch as Data, Facts, Ground, Kept, Made, Method, Nets, Parts, Site, Training, Vectors};
pub use super::few_step_config::{
    Consistency, Continuous, FewStep, LatentDistillConfig, Matching, MeanFlow, Progressive, Shortcut,
};
use super::latent;
use super::latent::{Batch, LatentConfig, column, estimate, finish, mean_square, mixed, normals};
use super::refresh::Refresh;
use super::rounds::Teacher;
use crate::error::{Error, Result};
use crate::model::transformer::ends::Given;
use crate::model::{Transformer, TransformerConfig, params};
use crate::optim::{Decay, Optimizer, TrainConfig};
use crate::process::gaussian::{Denoising, Mix, Prediction};
use crate::process::order::OrderConfig;
use crate::rng::{Generators, StepRng, Stream};

/// The step of a central difference in t: the slowest that f32 resolves well.
const H: f64 = 4e-3;

/// What the step of a few-step student knows.
pub struct Step<'a> {
    /// On an autodiff device, and the same weights on a plain one.
    pub model: &'a Transformer,
    pub plain: &'a Transformer,
    /// The average of the weights, where it is kept.
    pub average: Option<&'a Transformer>,
    pub teacher: &'a Transformer,
    pub process: Denoising,
    pub batch: &'a Batch,
    /// This step of all.
    pub step: usize,
    pub steps: usize,
    pub round: usize,
    pub rng: Generators,
}

/// Times [B M] of sequences with one time each.
fn spread(t: &[f64], m: usize) -> Vec<f64> {
    t.iter().flat_map(|t| std::iter::repeat_n(*t, m)).collect()
}

/// Times stratified over (0, 1] [B].
fn stratified(b: usize, rng: &mut impl Rng) -> Vec<f64> {
    let offset = rng.random::<f64>();
    (0..b).map(|i| 1.0 - (offset + i as f64 / b as f64).fract()).collect()
}

/// The step from t to s as a sum of x_t and of what the network says: x_s = x x_t + out out.
pub fn jump(process: Denoising, t: f64, s: f64) -> Mix {
    let (step, x0) = (process.path.step(t, s, 0.0), process.x0(t));
    Mix { x: step.x + step.x0 * x0.x, out: step.x0 * x0.out }
}

/// The jumps' coefficients of x_t and of what the network said, as factors of vectors [B, M, d].
fn factors(process: Denoising, t: &[f64], s: &[f64], like: &Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let [b, m, _] = like.dims();
    let (x, out): (Vec<f64>, Vec<f64>) =
        t.iter().zip(s).map(|(t, s)| jump(process, *t, *s)).map(|mix| (mix.x, mix.out)).unzip();
    let device = like.device();
    (column(&x, [b, m], &device), column(&out, [b, m], &device))
}

/// x_s [B, M, d] after the deterministic step from t to s [B M] by what the network said.
pub fn jumped(process: Denoising, t: &[f64], s: &[f64], x: Tensor<3>, out: Tensor<3>) -> Tensor<3> {
    let (of_x, of_out) = factors(process, t, s, &x);
    x * of_x + out * of_out
}

/// What a network would have to say at x_t for its one step to lead to x_s.
fn answer(process: Denoising, t: &[f64], s: &[f64], x: Tensor<3>, xs: Tensor<3>) -> Tensor<3> {
    let (of_x, of_out) = factors(process, t, s, &x);
    (xs - x * of_x) / of_out
}

impl Step<'_> {
    /// What a plain network says; one that reads its own estimate is asked twice.
    fn teacher_says(&self, x: &Tensor<3>, t: &[f64]) -> Tensor<3> {
        let given = self.batch.given();
        // From the second round on it is a student itself, which never reads an estimate.
        if self.round > 0 || !self.teacher.vectors().is_some_and(|v| v.self_conditioning) {
            return self.teacher.says(x.clone(), t, None, &given);
        }
        let out = self.teacher.says(x.clone(), t, None, &given);
        let first = mixed(t, |t| self.process.x0(t), x.clone(), out);
        self.teacher.says(x.clone(), t, None, &Given { estimate: Some(first), ..given })
    }

    fn x0(&self, x: Tensor<3>, t: &[f64], out: Tensor<3>) -> Tensor<3> {
        mixed(t, |t| self.process.x0(t), x, out)
    }

    /// The path's direction d x/d phi (or d x/d t) at x_t: the teacher's, or that of the data and its noise.
    fn direction(&self, distill: bool, x: &Tensor<3>, t: &[f64]) -> Tensor<3> {
        let path = self.process.path;
        let velocity = |x0, eps| {
            let mix = |t| {
                let (x, out) = path.velocity(t);
                Mix { x, out }
            };
            mixed(t, mix, x0, eps)
        };
        if !distill {
            return velocity(self.batch.z.clone(), self.batch.eps.clone());
        }
        let out = self.teacher_says(x, t);
        let x0 = self.x0(x.clone(), t, out.clone());
        velocity(x0, mixed(t, |t| self.process.noise(t), x.clone(), out))
    }

    /// d out/d t of the student along the direction `dx` = d x/d t, and with `s` held, by central differences.
    fn slope(&self, x: &Tensor<3>, dx: &Tensor<3>, t: &[f64], s: Option<&[f64]>) -> Tensor<3> {
        let at = |h: f64| {
            let times: Vec<f64> = t.iter().map(|t| t + h).collect();
            self.plain.says(x.clone() + dx.clone() * h as f32, &times, s, &self.batch.given())
        };
        (at(H) - at(-H)) / (2.0 * H) as f32
    }

    fn progressive(&self, c: &Progressive) -> Tensor<1> {
        let [b, m] = self.batch.dims();
        let steps = c.steps >> (self.round + 1);
        let mut rng = self.rng.at(Stream::Times);
        let t: Vec<f64> = stratified(b, &mut rng).iter().map(|t| (t * steps as f64).ceil() / steps as f64).collect();
        let at = |back: f64| spread(&t.iter().map(|t| (t - back / steps as f64).max(0.0)).collect::<Vec<_>>(), m);
        let (t, half, s) = (at(0.0), at(0.5), at(1.0));
        let xt = self.batch.at(self.process.path, &t);
        let x = jumped(self.process, &t, &half, xt.clone(), self.teacher_says(&xt, &t));
        let xs = jumped(self.process, &half, &s, x.clone(), self.teacher_says(&x, &half));
        let wanted = answer(self.process, &t, &s, xt.clone(), xs);
        mean_square(self.model.says(xt, &t, None, &self.batch.given()) - wanted, None)
    }

    fn consistency(&self, c: &Consistency) -> Tensor<1> {
        let [b, m] = self.batch.dims();
        let doublings = (c.last_grid as f64 / c.first_grid as f64).log2();
        let done = self.step as f64 / self.steps.max(1) as f64;
        let grid = (c.first_grid as f64 * 2f64.powf((done * (doublings + 1.0)).floor().min(doublings))).round();
        let mut rng = self.rng.at(Stream::Times);
        let t: Vec<f64> = stratified(b, &mut rng).iter().map(|t| (t * grid).ceil() / grid).collect();
        let s: Vec<f64> = t.iter().map(|t| (t - 1.0 / grid).max(0.0)).collect();
        let (t, s) = (spread(&t, m), spread(&s, m));
        let (path, given) = (self.process.path, self.batch.given());
        let xt = self.batch.at(path, &t);
        let xs = match c.distill {
            true => jumped(self.process, &t, &s, xt.clone(), self.teacher_says(&xt, &t)),
            false => self.batch.at(path, &s),
        };
        let target = match (c.target, self.average) {
            (Refresh::Ema, Some(average)) => average,
            _ => self.plain,
        };
        let near = self.x0(xs.clone(), &s, target.says(xs, &s, None, &given));
        let far = self.x0(xt.clone(), &t, self.model.says(xt, &t, None, &given));
        // Pseudo-Huber, and the nearer two points are, the more a difference weighs (iCT).
        let [_, _, d] = near.dims();
        let size = (m * d) as f64;
        let c = 0.00054 * size.sqrt();
        let squares = (far - near).square().reshape([b, m * d]).sum_dim(1);
        ((squares + c * c).sqrt() - c).mean().mul_scalar(grid / size.sqrt() / 10.0)
    }

    fn continuous(&self, c: &Continuous) -> Result<Tensor<1>> {
        let [b, m] = self.batch.dims();
        let mut rng = self.rng.at(Stream::Times);
        let normal = Normal::new(c.mean, c.deviation)
            .map_err(|e| Error::usage(format!("`method.continuous.deviation`: {e}")))?;
        let t: Vec<f64> = (0..b).map(|_| normal.sample(&mut rng).exp().atan() / FRAC_PI_2).collect();
        // The difference must not leave the path's ends.
        let t: Vec<f64> = t.iter().map(|t| t.clamp(2.0 * H, 1.0 - 2.0 * H)).collect();
        let t = spread(&t, m);
        let Denoising { path, predict } = self.process;
        let xt = self.batch.at(path, &t);
        let direction = self.direction(c.distill, &xt, &t);
        // In angles: d x/d t = pi/2 d x/d phi. F is the velocity that the network's answer means.
        let velocity = |x: Tensor<3>, t: &[f64], out: Tensor<3>| match predict {
            Prediction::V => out,
            _ => {
                let (eps, x0) =
                    (mixed(t, |t| self.process.noise(t), x.clone(), out.clone()), self.x0(x.clone(), t, out));
                mixed(t, |t| Mix { x: path.velocity(t).0, out: path.velocity(t).1 }, x0, eps)
            }
        };
        let given = self.batch.given();
        let own = |h: f64| {
            let times: Vec<f64> = t.iter().map(|t| t + h / FRAC_PI_2).collect();
            let x = xt.clone() + direction.clone() * h as f32;
            velocity(x.clone(), &times, self.plain.says(x, &times, None, &given))
        };
        let h = H * FRAC_PI_2;
        let slope = (own(h) - own(-h)) / (2.0 * h) as f32;
        let now = own(0.0);
        let cos =
            |f: fn(f64) -> f64| column(&t.iter().map(|t| f(FRAC_PI_2 * t)).collect::<Vec<_>>(), [b, m], &xt.device());
        let fade = match c.warmup > 0.0 {
            true => (self.step as f64 / (c.warmup * self.steps as f64)).min(1.0),
            false => 1.0,
        };
        // cos(phi) times d f/d phi, of which the second part is faded in.
        let tangent = (direction - now.clone()) * cos(|p| p.cos() * p.cos())
            - (xt.clone() + slope) * cos(|p| p.cos() * p.sin()) * fade as f32;
        let [_, _, d] = tangent.dims();
        let norm = tangent.clone().square().reshape([b, m * d]).mean_dim(1).sqrt().reshape([b, 1, 1]);
        let tangent = tangent / (norm + 0.1);
        let wanted = now + tangent;
        Ok(mean_square(velocity(xt.clone(), &t, self.model.says(xt, &t, None, &given)) - wanted, None))
    }

    fn shortcut(&self, c: &Shortcut) -> Tensor<1> {
        let [b, m] = self.batch.dims();
        let mut rng = self.rng.at(Stream::Times);
        let levels = c.finest.ilog2() as usize;
        let drawn = stratified(b, &mut rng);
        // A step of 2^-j, from a multiple of it, by two halves; or none.
        let own = ((b as f64 * c.share).round() as usize).min(b);
        let size: Vec<f64> =
            (0..b).map(|i| if i < own { 0.5f64.powi(rng.random_range(0..levels) as i32) } else { 0.0 }).collect();
        let mut order: Vec<usize> = (0..b).collect();
        // The shares of the stratified times are not those of the front of the batch.
        for i in (1..b).rev() {
            order.swap(i, rng.random_range(0..=i));
        }
        let t: Vec<f64> = (0..b)
            .map(|i| match size[i] {
                0.0 => drawn[order[i]],
                d => (drawn[order[i]] / d).ceil() * d,
            })
            .collect();
        let to = |part: f64| spread(&t.iter().zip(&size).map(|(t, d)| (t - part * d).max(0.0)).collect::<Vec<_>>(), m);
        let (t, half, s) = (to(0.0), to(0.5), to(1.0));
        let path = self.process.path;
        let xt = self.batch.at(path, &t);
        let given = self.batch.given();
        let truth = mixed(&t, |t| self.process.target(t), self.batch.z.clone(), self.batch.eps.clone());
        let wanted = match own {
            0 => truth,
            own => {
                let cut = |x: &Tensor<3>| x.clone().narrow(0, 0, own);
                let (t, half, s) = (&t[..own * m], &half[..own * m], &s[..own * m]);
                let condition = given.condition.map(|c| &c[..c.len() / b * own]);
                let given = Given { condition, ..Given::default() };
                let judge = self.average.unwrap_or(self.plain);
                let x = cut(&xt);
                // Half of the smallest step is shorter than any that is learnt: the velocity stands for it.
                let told = |from: &[f64], to: &[f64]| -> Vec<f64> {
                    let at = |i: usize| if size[i / m] * c.finest as f64 <= 2.0 { from[i] } else { to[i] };
                    (0..own * m).map(at).collect()
                };
                let (first, second) = (told(t, half), told(half, s));
                let middle = jumped(self.process, t, half, x.clone(), judge.says(x.clone(), t, Some(&first), &given));
                let out = judge.says(middle.clone(), half, Some(&second), &given);
                let xs = jumped(self.process, half, s, middle, out);
                let two = answer(self.process, t, s, x, xs);
                if own == b { two } else { Tensor::cat(vec![two, truth.narrow(0, own, b - own)], 0) }
            }
        };
        mean_square(self.model.says(xt, &t, Some(&s), &given) - wanted, None)
    }

    fn mean_flow(&self, c: &MeanFlow) -> Tensor<1> {
        let [b, m] = self.batch.dims();
        let mut rng = self.rng.at(Stream::Times);
        let apart: Vec<bool> = (0..b).map(|_| rng.random::<f64>() < c.share).collect();
        let pair = |apart: &bool| {
            let (one, two) = (rng.random::<f64>(), rng.random::<f64>());
            let t = one.max(two).clamp(H, 1.0 - H);
            (t, if *apart { one.min(two).min(t) } else { t })
        };
        let (t, s): (Vec<f64>, Vec<f64>) = apart.iter().map(pair).unzip();
        let (t, s) = (spread(&t, m), spread(&s, m));
        let Denoising { path, predict } = self.process;
        let xt = self.batch.at(path, &t);
        let v = self.direction(c.distill, &xt, &t);
        // u = v - (t - s) du/dt with du/dt = v du/dx + du/dt: on the linear path the answer is a velocity or means one.
        let out = self.slope(&xt, &v, &t, Some(&s));
        let length: Vec<f64> = t.iter().zip(&s).map(|(t, s)| t - s).collect();
        let u = v - out * column(&length, [b, m], &xt.device());
        let said = self.model.says(xt.clone(), &t, Some(&s), &self.batch.given());
        assert!(predict == Prediction::V, "a recipe's check leaves no other");
        // Errors are weighted down where they are large (p = 1 of the paper's adaptive weight).
        let [_, _, d] = u.dims();
        let squares = (said - u).square().reshape([b, m * d]).mean_dim(1);
        let weight = (squares.clone().inner() + 1e-3).recip();
        (squares * weight).mean()
    }

    /// The student's samples at their times: x_0 as it says it from what its own earlier steps left.
    fn drawn(&self, c: &Matching) -> (Tensor<3>, Vec<f64>) {
        let [b, m] = self.batch.dims();
        let mut rng = self.rng.at(Stream::Times);
        let (path, device) = (self.process.path, self.batch.z.device());
        let time = |k: usize| vec![1.0 - k as f64 / c.steps as f64; b * m];
        let last = rng.random_range(0..c.steps);
        let mut noise = rng;
        let mut x = normals(self.batch.z.dims(), &mut noise, &device);
        for k in 0..last {
            let t = time(k);
            let x0 = self.x0(x.clone(), &t, self.plain.says(x, &t, None, &self.batch.given()));
            let (alpha, sigma) = path.at(time(k + 1)[0]);
            x = x0 * alpha as f32 + normals(self.batch.z.dims(), &mut noise, &device) * sigma as f32;
        }
        (x, time(last))
    }

    /// The student's loss: its gradient is the critic's estimate less the teacher's, at a random noise on the student's sample.
    fn matching(&self, c: &Matching, critic: &Transformer) -> Tensor<1> {
        let [b, m] = self.batch.dims();
        let (x, t) = self.drawn(c);
        let x0 = self.x0(x.clone(), &t, self.model.says(x, &t, None, &self.batch.given()));
        let plain = x0.clone().inner();
        let mut rng = self.rng.at(Stream::Teacher);
        let times: Vec<f64> = stratified(b, &mut rng).iter().map(|t| 0.02 + 0.96 * t).collect();
        let times = spread(&times, m);
        let eps = normals(plain.dims(), &mut rng, &plain.device());
        let xt = Batch { z: plain.clone(), eps, condition: None }.at(self.process.path, &times);
        let given = self.batch.given();
        let real = estimate(self.teacher, self.process, &xt, &times, &given);
        let fake = estimate(critic, self.process, &xt, &times, &given);
        let [_, _, d] = real.dims();
        let size = (plain.clone() - real.clone()).abs().reshape([b, m * d]).mean_dim(1).reshape([b, 1, 1]);
        let gradient = (fake - real) / (size + 1e-3);
        mean_square(x0 - (plain - gradient), None).mul_scalar(0.5)
    }

    /// The critic's loss on samples of the student: it denoises them as the teacher does the data.
    pub fn critic_loss(&self, c: &Matching, critic: &Transformer, part: u64) -> Tensor<1> {
        let [b, m] = self.batch.dims();
        let (x, t) = self.drawn(c);
        let sample = self.x0(x.clone(), &t, self.plain.says(x, &t, None, &self.batch.given()));
        let mut rng = self.rng.rng.at(part, Stream::Critic);
        let times = spread(&stratified(b, &mut rng), m);
        let eps = normals(sample.dims(), &mut rng, &sample.device());
        let path = self.process.path;
        let wanted = mixed(&times, |t| self.process.target(t), sample.clone(), eps.clone());
        let batch = Batch { z: sample, eps, condition: None };
        let xt = batch.at(path, &times);
        let mut given = self.batch.given();
        // As the teacher, it is asked twice where it reads its own estimate: half of the steps teach it that.
        if critic.vectors().is_some_and(|v| v.self_conditioning) && rng.random::<f64>() < 0.5 {
            use burn::module::Module;
            let out = critic.valid().says(xt.clone(), &times, None, &given);
            given.estimate = Some(self.x0(xt.clone(), &times, out));
        }
        mean_square(critic.says(xt, &times, None, &given) - wanted, None)
    }

    /// Value and gradients of the student's step.
    ///
    /// # Errors
    /// A setting that cannot be drawn from (usage).
    ///
    /// # Panics
    /// Where matching has no critic.
    pub fn backward(&self, method: &FewStep, critic: Option<&Transformer>) -> Result<(f64, GradientsParams)> {
        let loss = match (method, critic) {
            (FewStep::Progressive(c), _) => self.progressive(c),
            (FewStep::Consistency(c), _) => self.consistency(c),
            (FewStep::Continuous(c), _) => self.continuous(c)?,
            (FewStep::Shortcut(c), _) => self.shortcut(c),
            (FewStep::MeanFlow(c), _) => self.mean_flow(c),
            (FewStep::Matching(c), Some(critic)) => self.matching(c, critic),
            (FewStep::Matching(_), None) => panic!("matching has a critic"),
        };
        Ok(finish(loss, self.model))
    }
}

/// The process that a latent teacher was trained for.
pub fn process(config: &LatentConfig) -> Denoising {
    Denoising { path: config.path, predict: config.predict }
}

impl Method for LatentDistillConfig {
    fn facts(&self) -> Facts<'_> {
        Facts {
            key: "latent_distill",
            made: Made::Student,
            passes: self.forwards(false),
            teacher: Some((&self.teacher, "latent_distill.teacher")),
            rounds: true,
            steps: Some(self.steps()),
            vectors: Vectors::FewStep(self),
            ..Facts::of_tokens(self.name(), "squared error")
        }
    }

    fn check(&self, _site: &Site) -> Result<()> {
        Ok(())
    }

    fn fits(&self, site: &Site, network: &TransformerConfig) -> Result<()> {
        latent::whole(site)?;
        let (key, place) = (|k: &str| site.key(k), &site.network_place);
        let teacher = key("objective.latent_distill.teacher");
        let Some((_, root)) = latent::root(site)? else {
            return Err(Error::usage(format!(
                "`{teacher}` names `{}`, which is not a diffusion of latents",
                self.teacher
            ))
            .hint("name a model whose objective is `latent`"));
        };
        let theirs = site.models.site(&self.teacher)?;
        let halves = |config: &LatentDistillConfig| matches!(config.method, FewStep::Progressive(_));
        let taught = match theirs.method.facts().vectors {
            Vectors::Latents(_) => true,
            Vectors::FewStep(config) => halves(config) && halves(self),
            _ => false,
        };
        if !taught {
            return Err(Error::usage(format!(
                "`{teacher}` names `{}`, which is a few-step student itself",
                self.teacher
            ))
            .hint(
                "a student learns from the denoiser of latents; only a progressive one also from a progressive one",
            ));
        }
        self.validate(&key("objective.latent_distill"), process(root))?;
        site.has_network_of(&theirs)?;
        let two = network.vectors.as_ref().is_some_and(|v| v.two_times);
        if self.two_times() && !two {
            return Err(Error::usage(format!(
                "`{}` needs `{place}.vectors.two_times = true`",
                key("objective.latent_distill.method")
            ))
            .cause("the student is told where a step ends, in its teacher's network")
            .hint(format!("`{place}.vectors.two_times = true`")));
        }
        let average = match &self.method {
            FewStep::Progressive(p) => p.refresh == Refresh::Ema,
            FewStep::Consistency(p) => p.target == Refresh::Ema,
            _ => false,
        };
        if average && site.train.ema.is_none() {
            return Err(latent::needs(site, "objective.latent_distill.method", "train.ema", "")
                .hint(format!("`{} = 0.999`", key("train.ema"))));
        }
        if *site.order != OrderConfig::Parallel {
            return Err(latent::needs(site, "objective.latent_distill", "order", " = \"parallel\"")
                .cause("few-step students take all latents at once")
                .hint(format!("`{} = \"parallel\"`", key("order"))));
        }
        if let FewStep::Progressive(p) = &self.method {
            site.has_rounds(&key("objective.latent_distill.method.progressive.rounds"), p.rounds)?;
        }
        latent::fits_order(site, network)
    }

    fn begin<'a>(&'a self, ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        let Some(latent) = ground.parents.latent else { return Err(ground.lacks("the autoencoder of its latents")) };
        let teacher = Teacher::new(ground.parents.teacher);
        Ok(Box::new(Student { config: self, latent, teacher, critic: None, rng: StepRng::new(ground.seed) }))
    }
}

/// A second network with its own optimiser: it follows the student's own samples.
struct Critic {
    /// On an autodiff device.
    model: Transformer,
    optimizer: Optimizer,
}

struct Student<'a> {
    config: &'a LatentDistillConfig,
    /// The autoencoder, and the diffusion at the end of the line of teachers.
    latent: (&'a Transformer, &'a LatentConfig),
    teacher: Teacher<'a>,
    /// Of a distribution matching.
    critic: Option<Critic>,
    rng: StepRng,
}

/// The first part of the data that a critic reads.
const CRITIC: u64 = 1 << 61;

impl Student<'_> {
    /// What the step knows of the batch of part `part`.
    fn at<'s>(
        &'s self,
        nets: &'s Nets,
        batch: &'s Batch,
        plain: &'s Transformer,
        average: Option<&'s Transformer>,
        part: u64,
    ) -> Step<'s> {
        Step {
            model: nets.model,
            plain,
            average,
            teacher: self.teacher.network(),
            process: process(self.latent.1),
            batch,
            step: nets.step,
            steps: nets.config.steps,
            round: self.teacher.round(),
            rng: self.rng.of_step(part),
        }
    }

    fn batch(&self, nets: &Nets, x0: &[u32], part: u64) -> Batch {
        Batch::of(self.latent.0, nets.model, x0, self.latent.1.drop_condition, self.rng.of_step(part))
    }

    /// The critic follows the student before its step.
    fn step_critic(&mut self, matching: &Matching, nets: &Nets) -> Result<()> {
        use burn::module::Module;
        let Some(mut critic) = self.critic.take() else { panic!("matching has a critic") };
        let settings = TrainConfig { lr: matching.critic_lr, decay: Decay::Constant, ema: None, ..nets.config.clone() };
        let plain = nets.model.valid();
        for i in 0..matching.critic_steps {
            let part = (nets.step * matching.critic_steps + i) as u64;
            // Texts and noise that the student's own steps do not use.
            let own = CRITIC + part;
            let batch = self.batch(nets, &(nets.draw)(own), own);
            let step = self.at(nets, &batch, &plain, None, own);
            let (loss, grads) = finish(step.critic_loss(matching, &critic.model, part), &critic.model);
            let norm = params::gradient_norm(&critic.model, &grads);
            if !loss.is_finite() || !norm.is_finite() {
                return Err((nets.non_finite)(loss, norm));
            }
            let scale = settings.clip.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
            critic.model = critic.optimizer.step(critic.model, grads, &settings, part as usize, scale);
        }
        self.critic = Some(critic);
        Ok(())
    }
}

impl Training for Student<'_> {
    fn step(&self, nets: &Nets, data: &Data) -> Result<(f64, GradientsParams)> {
        use burn::module::Module;
        let batch = self.batch(nets, &data.x0, data.part);
        let (plain, average) = (nets.model.valid(), (nets.average)());
        let critic = self.critic.as_ref().map(|c| c.model.valid());
        let step = self.at(nets, &batch, &plain, average.as_ref(), data.part);
        step.backward(&self.config.method, critic.as_ref())
    }

    fn start(&mut self, model: &Transformer) {
        self.teacher.start(model);
        // The critic starts as the teacher, which is what the student starts as.
        let matching = matches!(self.config.method, FewStep::Matching(_));
        self.critic = matching.then(|| Critic { model: model.clone(), optimizer: Optimizer::new(model, false) });
    }

    fn due(&mut self, nets: &Nets) -> Result<()> {
        let round = self.config.round(nets.step, nets.config.steps);
        self.teacher.advance(round, self.config.refresh(), nets);
        let config = self.config;
        match &config.method {
            FewStep::Matching(matching) => self.step_critic(matching, nets),
            _ => Ok(()),
        }
    }

    fn round(&self) -> Option<usize> {
        Some(self.teacher.round())
    }

    fn save(&self) -> Kept {
        let mut kept = self.teacher.save();
        let critic = self.critic.as_ref().map(|c| ("critic", c.model.clone(), Some(c.optimizer.moments())));
        kept.networks.extend(critic);
        kept
    }

    fn load(&mut self, from: &Parts) -> Result<()> {
        self.teacher.load(from)?;
        if !matches!(self.config.method, FewStep::Matching(_)) {
            return Ok(());
        }
        let Some((model, moments)) = (from.trained)("critic")? else { return Err(from.missing()) };
        let optimizer = Optimizer::restored(&model, None, &moments)
            .map_err(|e| Error::input(format!("critic-optim.safetensors: {e}")))?;
        self.critic = Some(Critic { model, optimizer });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
