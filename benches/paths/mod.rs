//! The measured paths of both benches: training step, distillation step, sampler, distillation at a real vocabulary.
//!
//! The network is that of a plain PyTorch program (pre-LayerNorm, rotary, full attention, GELU of 4x width, untied head, no
//! time input), so that the two can be timed in turn. Medians and quartiles follow three warm-up runs.
//! B batch, L length, D width, V vocabulary.

use std::time::Instant;

use burn::prelude::Device;
use fewstep::eval::stats::Spread;
use fewstep::kernels::Divergence;
use fewstep::method::{self, RowLoss, SdttConfig, distill};
use fewstep::model::{Transformer, TransformerConfig, params};
use fewstep::optim::Optimizer;
use fewstep::process::{Corruption, Order, Schedule};
use fewstep::rng::{StepRng, Stream};
use fewstep::sample::{Decode, Process, SampleSpec, sample};
use fewstep::study::device;
use fewstep::train::TrainConfig;
use rand::Rng;

/// Warm-up runs before the measured ones.
const WARM_UP: usize = 3;

/// The names of the paths, as `--only` takes them.
pub const PATHS: [&str; 4] = ["train", "distill", "sample", "divergence"];

/// What to measure, from the command line.
#[derive(Debug, Clone)]
pub struct Sizes {
    pub vocab: usize,
    pub length: usize,
    pub batch: usize,
    pub dim: usize,
    pub layers: usize,
    pub heads: usize,
    pub steps: usize,
    pub samples: usize,
    pub repeats: usize,
    pub device: String,
    pub bf16: bool,
    pub checkpoint: bool,
}

/// The value after `--name` on the command line.
pub fn option(name: &str) -> Option<String> {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|a| a == &format!("--{name}"));
    at.and_then(|i| args.get(i + 1)).cloned()
}

/// Whether `--name` stands on the command line.
pub fn flag(name: &str) -> bool {
    std::env::args().any(|a| a == format!("--{name}"))
}

impl Sizes {
    /// From the command line; what it does not name is the first network of reports/bench.md.
    pub fn from_args() -> Self {
        let number = |name: &str, default: usize| match option(name).map(|v| v.parse()) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(_)) => panic!("--{name} takes a whole number"),
        };
        Sizes {
            vocab: number("vocab", 64),
            length: number("length", 64),
            batch: number("batch", 64),
            dim: number("dim", 128),
            layers: number("layers", 4),
            heads: number("heads", 4),
            steps: number("steps", 8),
            samples: number("samples", 64),
            repeats: number("repeats", 15),
            device: option("device").unwrap_or_else(|| "flex".into()),
            bf16: flag("bf16"),
            checkpoint: flag("checkpoint"),
        }
    }

    pub fn network(&self) -> TransformerConfig {
        let mut text = format!(
            "dim = {}\nlayers = {}\nheads = {}\nvisibility = \"full\"\nbias = true",
            self.dim, self.layers, self.heads
        );
        if self.bf16 {
            text.push_str("\ncompute = \"bf16\"");
        }
        if self.checkpoint {
            text.push_str("\ncheckpoint = true");
        }
        toml::from_str(&text).expect("a configuration")
    }

    /// Sets the allocator for this network, as the program does.
    pub fn settle(&self) {
        let parameters = self.network().parameters(self.vocab, self.length);
        fewstep::alloc::settle(parameters.try_into().unwrap_or(usize::MAX));
    }

    pub fn device(&self) -> Device {
        device::open(&self.device).unwrap_or_else(|e| panic!("{e}"))
    }

    fn student(&self) -> Transformer {
        Transformer::init(&self.network(), self.vocab, self.length, 1, &self.device().autodiff())
    }

    fn teacher(&self) -> Transformer {
        Transformer::init(&self.network(), self.vocab, self.length, 2, &self.device())
    }

    /// Random tokens x0 [B, L].
    pub fn tokens(&self) -> Vec<u32> {
        let mut rng = StepRng::new(1).at(0, Stream::Batch);
        (0..self.batch * self.length).map(|_| rng.random_range(0..self.vocab as u32)).collect()
    }
}

fn parallel(s: &Sizes) -> distill::Orders {
    distill::Orders::same(Order::parallel(s.length))
}

/// The distillation that is measured.
pub fn sdtt() -> SdttConfig {
    SdttConfig {
        teacher: "teacher".into(),
        divergence: Divergence::ReverseKl,
        teacher_steps: 64,
        steps_per_step: 2,
        rounds: 1,
        refresh: distill::Refresh::Raw,
        schedule: Schedule::LogLinear,
        data: 0.0,
    }
}

/// The rows of training step `i`.
pub fn elbo_rows(s: &Sizes, x0: &[u32], i: u64) -> RowLoss {
    let draws = (StepRng::new(1).at(i, Stream::Times), StepRng::new(1).at(i, Stream::Corrupt));
    method::elbo(x0, s.length, s.vocab as u32, Order::parallel(s.length), Schedule::LogLinear, draws)
}

/// A student with its optimiser, one update at a time.
pub struct Training {
    student: Option<Transformer>,
    optimizer: Optimizer,
    config: TrainConfig,
    at: usize,
}

impl Training {
    pub fn new(s: &Sizes) -> Self {
        let student = s.student();
        let config = toml::from_str("steps = 1000000\nbatch = 1\nlr = 1e-4\nweight_decay = 0.01\nclip = 1.0")
            .expect("a configuration");
        Training { optimizer: Optimizer::new(&student, false), student: Some(student), config, at: 0 }
    }

    /// One optimiser step on `rows`; its loss.
    pub fn update(&mut self, rows: &RowLoss) -> f64 {
        let student = self.student.take().expect("a student");
        let (loss, grads) = method::backward(&student, rows);
        let scale = (1.0 / (params::gradient_norm(&student, &grads) + 1e-6)).min(1.0);
        self.student = Some(self.optimizer.step(student, grads, &self.config, self.at, scale));
        self.at += 1;
        loss
    }
}

/// Seconds of `run(i)`, device drained.
pub fn time(s: &Sizes, repeats: usize, mut run: impl FnMut(u64)) -> Spread {
    let device = s.device();
    let mut seconds = Vec::new();
    for i in 0..repeats + WARM_UP {
        let begin = Instant::now();
        run(i as u64);
        device.sync().expect("a device that finishes its work");
        if i >= WARM_UP {
            seconds.push(begin.elapsed().as_secs_f64());
        }
    }
    Spread::of(&seconds)
}

/// Seconds and tokens of one run of path `name`, which is one of [`PATHS`].
pub fn measure(s: &Sizes, name: &str) -> (Spread, f64) {
    let (x0, tokens) = (s.tokens(), (s.batch * s.length) as f64);
    match name {
        "train" => {
            let mut training = Training::new(s);
            let spread = time(s, s.repeats, |i| {
                training.update(&elbo_rows(s, &x0, i));
            });
            (spread, tokens)
        }
        "distill" => {
            let (mut training, teacher, sdtt) = (Training::new(s), s.teacher(), sdtt());
            let spread = time(s, s.repeats, |i| {
                let rows =
                    distill::rows(&sdtt, &teacher, &x0, s.length, sdtt.dt(0), parallel(s), StepRng::new(1).of_step(i))
                        .expect("rows");
                training.update(&rows);
            });
            (spread, tokens)
        }
        "sample" => {
            let process = Process {
                order: Order::parallel(s.length),
                schedule: Schedule::LogLinear,
                corruption: Corruption::Absorb,
                length: s.length,
                cached: false,
                chain: None,
                decode: Decode::Table,
            };
            let teacher = s.teacher();
            let spread = time(s, s.repeats, |i| {
                let drawn = sample(&teacher, &process, &SampleSpec::new(s.steps, i, s.samples), s.samples);
                assert!(drawn.is_ok(), "samples");
            });
            (spread, (s.samples * s.length) as f64)
        }
        "divergence" => {
            // Gradients of a distillation step at a real vocabulary, without the update: mostly head and divergence of 512 rows.
            let (rows, vocab) = (512, 50_257);
            let wide = Sizes { vocab, ..s.clone() };
            let (student, teacher, sdtt) = (wide.student(), wide.teacher(), sdtt());
            let windows = rows / s.length.min(rows);
            let x: Vec<u32> = (0..windows * s.length).map(|_| vocab as u32).collect();
            let spread = time(s, s.repeats.min(5), |i| {
                let all =
                    distill::rows(&sdtt, &teacher, &x, s.length, sdtt.dt(0), parallel(s), StepRng::new(1).of_step(i))
                        .expect("rows");
                method::backward(&student, &all);
            });
            (spread, x.len() as f64)
        }
        other => panic!("no path `{other}`; there are {}", PATHS.join(", ")),
    }
}

/// Maximum resident size of this process in KiB, where the system says it.
pub fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
