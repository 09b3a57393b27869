//! A network of a program's own, trained, distilled and sampled: `cargo run --release --example own_denoiser -- 400`.
//! It mixes positions by one matrix, as MLP-Mixer does. What a network needs is features for every position, and a head.

use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::Distribution;
use burn::tensor::activation::{gelu, log_softmax};
use fewstep::data::story::{Story, StoryConfig};
use fewstep::prelude::*;
use std::{ops::Range, sync::Arc};

/// Embeddings of tokens [V + 1, D] (the head too) and places [L, D], a mixing of positions [L, L] and one of features [D, D].
#[derive(Module, Debug)]
struct Mixer {
    embed: Param<Tensor<2>>,
    places: Param<Tensor<2>>,
    positions: Param<Tensor<2>>,
    features: Param<Tensor<2>>,
    vocab: usize,
}

impl Mixer {
    fn new(vocab: usize, length: usize, width: usize, device: &Device) -> Self {
        let random = |rows: usize, columns: usize| {
            Param::from_tensor(Tensor::random([rows, columns], Distribution::Normal(0.0, 0.1), device))
        };
        let (embed, places) = (random(vocab + 1, width), random(length, width));
        Mixer { embed, places, positions: random(length, length), features: random(width, width), vocab }
    }
}

impl Denoise for Mixer {
    fn features(&self, input: &Noised) -> Tensor<3> {
        let ([b, l], device) = (input.dims(), self.device());
        let ids: Vec<i64> = input.host_ids().iter().map(|id| i64::from(*id)).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [b * l]), &device);
        let x = self.embed.val().select(0, ids).reshape([b, l, self.embed.dims()[1]]) + self.places.val().unsqueeze();
        let mixed = x.clone() + gelu(self.positions.val().unsqueeze::<3>().matmul(x));
        mixed.clone() + gelu(mixed.matmul(self.features.val().unsqueeze::<3>()))
    }
    fn features_cached(&self, input: &Noised, active: Range<usize>, cache: &mut Cache) -> Tensor<3> {
        cache.filled = active.end;
        self.features(input).narrow(1, active.start, active.len())
    }
    fn predict(&self, rows: Tensor<2>) -> Tensor<2> {
        log_softmax(rows.matmul(self.head().weight), 1)
    }
    fn vocab(&self) -> usize {
        self.vocab
    }
    fn device(&self) -> Device {
        self.embed.val().device()
    }
}

impl Teach for Mixer {
    fn head(&self) -> Head {
        let weight = self.embed.val().narrow(0, 0, self.vocab).transpose();
        Head { weight, bias: None, tied: false, vocab: self.vocab }
    }
}

impl Network for Mixer {}

/// Trains it, distils it into 8 steps, and returns the negative log-likelihood of samples in 8 steps before and after distillation.
///
/// # Errors
/// A device that is not there (device); a loss that is not finite (non-finite).
pub fn run(steps: usize) -> Result<[f64; 2]> {
    let data = Data::Story(Arc::new(Story::new(&StoryConfig::default())?));
    let new = Mixer::new(data.vocab(), data.length(), 64, &training_device()?);
    let teacher = Trainer::new(new, &data).steps(steps).lr(5e-3).elbo()?;
    let student = Trainer::new(teacher.trainable(), &data).steps(steps);
    let student = student.sdtt(&teacher.model, &SdttConfig::new(16, 1))?;
    let both = Evaluation::new("mixer", &data).teacher("teacher", &teacher).student("student", &student, "teacher");
    let results = both.samples(64).steps(&[8]).run()?;
    Ok([0, 1].map(|i| results.models[i].rows[0].scores["oracle_nll"].mean))
}

#[allow(dead_code)] // the tests call `run`
fn main() -> Result<()> {
    run(std::env::args().nth(1).and_then(|steps| steps.parse().ok()).unwrap_or(400)).map(|nll| println!("{nll:?}"))
}
