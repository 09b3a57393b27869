//! Knowledge distillation at equal steps (Hinton et al. 2015, arXiv 1503.02531): a student says of the same noisy text what its teacher
//! says of it.
//!
//! ```text
//! loss = mean over masked positions of (1 - data) T^2 D(teacher^(1/T) , student^(1/T)) + data CE(x_0)
//! ```
//!
//! The number of steps stays the same; what falls is the network: blocks of the teacher that the student keeps (`keep_layers`), or
//! adapters. D is a divergence of the two distributions at temperature T, whose gradients T^2 keeps of one size. The noisy text is
//! that of the negative ELBO in any order (masked.rs). B batch, L length, n masked rows.

use burn::optim::GradientsParams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contract::{Batch, Beside, Facts, Ground, Kept, Made, Method, Nets, Parts, Site, Training, Vectors};
use super::diffusion;
use super::masked::elbo;
use super::rounds::Teacher;
use crate::error::{Error, Result, within};
use crate::loss::{Divergence, RowLoss, Target, backward};
use crate::model::{Teach, Transformer, TransformerConfig};
use crate::process::Schedule;

/// The configuration of the objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KdConfig {
    /// The model of this recipe to learn from; the student starts from its weights.
    pub teacher: String,
    /// forward_kl | reverse_kl | jensen_shannon | total_variation | log_mse
    #[serde(default = "forward")]
    pub divergence: Divergence,
    /// What the logits of both are divided by.
    #[serde(default = "one")]
    pub temperature: f64,
    /// The share of the data's cross-entropy in the loss; the rest is the divergence.
    #[serde(default)]
    pub data: f64,
    /// log_linear | cosine: must be the teacher's.
    #[serde(default)]
    pub schedule: Schedule,
}

impl KdConfig {
    /// By this divergence, at temperature 1, without the data's cross-entropy.
    pub fn new(divergence: Divergence) -> Self {
        let schedule = Schedule::default();
        KdConfig { teacher: String::new(), divergence, temperature: one(), data: 0.0, schedule }
    }
}

fn forward() -> Divergence {
    Divergence::ForwardKl
}
fn one() -> f64 {
    1.0
}

/// The rows of one step: those of the negative ELBO, each masked position counting the same.
pub fn rows(config: &KdConfig, teacher: &dyn Teach, batch: &Batch) -> RowLoss {
    let loss = elbo(&batch.x0, batch.length, teacher.mask(), batch.order, config.schedule, batch.draws());
    let n = loss.rows.len();
    if n == 0 {
        return RowLoss {
            input: loss.input,
            rows: Vec::new(),
            weights: Vec::new(),
            target: Target::Tokens(Vec::new()),
            alpha: None,
        };
    }
    let theirs = Target::Teacher(teacher.head(), teacher.features_at(&loss.input, &loss.rows), config.divergence);
    let t = config.temperature;
    let divergence = (vec![(1.0 - config.data) * t * t; n], Target::Warmed(t, Box::new(theirs)));
    let target = match config.data {
        0.0 => Target::Several(vec![divergence]),
        data => Target::Several(vec![divergence, (vec![data; n], loss.target)]),
    };
    RowLoss { input: loss.input, rows: loss.rows, weights: vec![1.0 / n as f64; n], target, alpha: None }
}

impl Method for KdConfig {
    fn facts(&self) -> Facts<'_> {
        Facts {
            made: Made::Student,
            passes: 2.0,
            beside: Beside::Always,
            teacher: Some((&self.teacher, "kd.teacher")),
            schedule: self.schedule,
            ..Facts::of_tokens("kd", "divergence")
        }
    }

    fn check(&self, site: &Site) -> Result<()> {
        let teacher = site.models.site(&self.teacher)?;
        let theirs = teacher.method.facts();
        let masked = theirs.corruption.absorbs() && theirs.chain.is_none() && theirs.scores.is_none();
        if theirs.causal() || !masked || !matches!(theirs.vectors, Vectors::None) {
            return Err(Error::usage(format!(
                "`{}` needs a masked teacher, but `{}` is \"{}\"",
                site.at("teacher"),
                teacher.key("objective"),
                theirs.name
            ))
            .hint("name a model that is trained by `objective.elbo`"));
        }
        site.has_schedule_of(&teacher)?;
        site.has_network_of(&teacher)?;
        if site.order != teacher.order {
            return Err(Error::usage(format!(
                "`{} = {}` is not that of `model.{}`",
                site.key("order"),
                site.order.shown(),
                teacher.name
            ))
            .cause("both read the same noisy text")
            .hint(format!("`{} = {}`", site.key("order"), teacher.order.shown())));
        }
        within(&site.at("temperature"), self.temperature, 1e-3..=1e3)?;
        within(&site.at("data"), self.data, 0.0..=1.0)
    }

    fn fits(&self, site: &Site, network: &TransformerConfig) -> Result<()> {
        diffusion::fits(site, network)
    }

    fn begin<'a>(&'a self, ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        Ok(Box::new(Kd { config: self, teacher: Teacher::new(ground.parents.teacher) }))
    }
}

struct Kd<'a> {
    config: &'a KdConfig,
    /// The same one to the end.
    teacher: Teacher<'a>,
}

impl Training for Kd<'_> {
    fn step(&self, nets: &Nets, batch: &Batch) -> Result<(f64, GradientsParams)> {
        Ok(backward(nets.model, &rows(self.config, self.teacher.network(), batch)))
    }

    fn start(&mut self, model: &Transformer) {
        self.teacher.start(model);
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
    use burn::module::Module;
    use burn::prelude::*;

    use super::*;
    use crate::loss::evaluate;
    use crate::model::config::Visibility;
    use crate::model::params;
    use crate::process::Order;
    use crate::rng::StepRng;

    const L: usize = 8;

    fn model(seed: u64, device: &Device) -> Transformer {
        let config =
            TransformerConfig { learned_positions: true, ..TransformerConfig::new(16, 2, 2, Visibility::Full) };
        Transformer::init(&config, 7, L, seed, device)
    }

    fn config(divergence: Divergence, temperature: f64, data: f64) -> KdConfig {
        KdConfig { teacher: "teacher".into(), divergence, temperature, data, schedule: Schedule::LogLinear }
    }

    fn batch() -> Batch {
        let x0 = (0..3 * L).map(|i| (i * 5 % 7) as u32).collect();
        Batch { x0, length: L, order: Order::parallel(L), rng: StepRng::new(3), part: 0 }
    }

    /// By a program of our own in Python: two rows of four logits, T^2 D of the tempered distributions, their mean.
    #[test]
    fn golden_values_at_two_temperatures() {
        let row = |values: [f32; 8]| Tensor::<2>::from_data(TensorData::new(values.to_vec(), [2, 4]), &Device::flex());
        let student = row([0.5, -1.0, 2.0, 0.25, 1.5, 0.0, -0.5, -2.0]);
        let teacher = row([1.0, 0.2, -0.3, 0.8, -1.0, 2.0, 0.5, 0.0]);
        let golden = [
            (1.0, [0.9724465864376062, 1.4102330019689742, 0.24844064371567576]),
            (2.0, [1.1647935676389858, 1.472530646512869, 0.31164191840866995]),
        ];
        for (t, wants) in golden {
            let log = |x: &Tensor<2>| crate::kernels::composed::log_softmax(x.clone() / t);
            for (kind, want) in Divergence::ALL.into_iter().zip(wants) {
                let found = f64::from(params::floats(kind.rows(log(&student), log(&teacher)).mean())[0]) * t * t;
                assert!((found - want).abs() < 1e-5, "{kind:?} at {t}: {found} for {want}");
            }
        }
    }

    #[test]
    fn a_student_that_is_its_teacher_has_no_loss_and_no_gradient_and_another_one_has_both() {
        let teacher = model(1, &Device::flex());
        for divergence in Divergence::ALL {
            let rows = rows(&config(divergence, 2.0, 0.0), &teacher, &batch());
            assert!(rows.rows.len() > 4);
            let same = model(1, &Device::flex().autodiff());
            let (value, grads) = backward(&same, &rows);
            assert!(value.abs() < 1e-6, "{divergence:?}: {value}");
            // A total variation has a corner at 0.
            if divergence != Divergence::TotalVariation {
                let norm = params::gradient_norm(&same, &grads);
                assert!(norm < 1e-4, "{divergence:?}: {norm}");
            }
            let other = model(2, &Device::flex().autodiff());
            let (value, grads) = backward(&other, &rows);
            assert!(value > 1e-4 && params::gradient_norm(&other, &grads) > 1e-4, "{divergence:?}: {value}");
            // The value is that of the rows without the fused kernel.
            assert!((value - evaluate(&other.valid(), &rows).0).abs() < 1e-4 * value.max(1.0));
        }
    }

    #[test]
    fn the_share_of_the_data_is_that_of_its_cross_entropy() {
        let (teacher, student) = (model(1, &Device::flex()), model(2, &Device::flex()));
        let value =
            |data: f64| evaluate(&student, &rows(&config(Divergence::ReverseKl, 3.0, data), &teacher, &batch())).0;
        let (all, none, some) = (value(1.0), value(0.0), value(0.25));
        // Of rows whose weights the target carries itself.
        let mixed = 0.25 * all + 0.75 * none;
        assert!((some - mixed).abs() < 1e-6 * mixed, "{some} for {mixed}");
        assert!((all - none).abs() > 1e-3);
    }
}
