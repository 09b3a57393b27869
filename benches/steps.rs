//! Time of the hot paths: a training step, a distillation step, the sampler and the chunked divergence.
//!
//!     cargo bench                                   the default network
//!     cargo bench -- --dim 256 --repeats 9 --json   another one, one JSON line
//!
//! The network is the one of a plain PyTorch program (pre-LayerNorm, rotary, full attention, GELU of 4x width, untied head, no
//! time input), so that the two can be timed in turn. Medians and quartiles after three warm-up runs.

use std::time::Instant;

use burn::prelude::Device;
use fewstep::eval::stats::Spread;
use fewstep::kernels::Divergence;
use fewstep::model::{Transformer, TransformerConfig, params};
use fewstep::objective::{self, RowLoss, SdttConfig, distill};
use fewstep::process::{Corruption, Order, Schedule};
use fewstep::rng::{StepRng, Stream};
use fewstep::sample::{Process, SampleSpec, sample};
use fewstep::train::TrainConfig;
use fewstep::train::optim::Optimizer;
use rand::Rng;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Sizes {
    vocab: usize,
    length: usize,
    batch: usize,
    dim: usize,
    layers: usize,
    heads: usize,
    steps: usize,
    samples: usize,
    repeats: usize,
    json: bool,
}

fn sizes() -> Sizes {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: usize| {
        let at = args.iter().position(|a| a == &format!("--{name}"));
        at.and_then(|i| args.get(i + 1)).and_then(|v| v.parse().ok()).unwrap_or(default)
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
        json: args.iter().any(|a| a == "--json"),
    }
}

fn time(repeats: usize, mut run: impl FnMut(u64)) -> Spread {
    let mut seconds = Vec::new();
    for i in 0..repeats + 3 {
        let begin = Instant::now();
        run(i as u64);
        if i >= 3 {
            seconds.push(begin.elapsed().as_secs_f64());
        }
    }
    Spread::of(&seconds)
}

fn main() {
    let s = sizes();
    let device = Device::flex();
    let text =
        format!("dim = {}\nlayers = {}\nheads = {}\nvisibility = \"full\"\nbias = true", s.dim, s.layers, s.heads);
    let network: TransformerConfig = toml::from_str(&text).expect("a configuration");
    let student = Transformer::init(&network, s.vocab, s.length, 1, &device.clone().autodiff());
    let teacher = Transformer::init(&network, s.vocab, s.length, 2, &device);
    let config: TrainConfig = toml::from_str("steps = 1000000\nbatch = 1\nlr = 1e-4\nweight_decay = 0.01\nclip = 1.0")
        .expect("a configuration");
    let mut optimizer = Optimizer::new(&student, false);
    let mut rng = StepRng::new(1).at(0, Stream::Batch);
    let x0: Vec<u32> = (0..s.batch * s.length).map(|_| rng.random_range(0..s.vocab as u32)).collect();
    let order = Order::parallel(s.length);
    let mut at = 0;
    let mut update = |student: Transformer, rows: &RowLoss| {
        let (_, grads) = objective::backward(&student, rows);
        let scale = (1.0 / (params::gradient_norm(&student, &grads) + 1e-6)).min(1.0);
        at += 1;
        optimizer.step(student, grads, &config, at - 1, scale)
    };

    let mut student = Some(student);
    let train = time(s.repeats, |i| {
        let draws = (StepRng::new(1).at(i, Stream::Times), StepRng::new(1).at(i, Stream::Corrupt));
        let rows = objective::elbo(&x0, s.length, s.vocab as u32, order, Schedule::LogLinear, draws);
        student = Some(update(student.take().expect("a student"), &rows));
    });
    let sdtt = SdttConfig {
        teacher: "teacher".into(),
        divergence: Divergence::ReverseKl,
        teacher_steps: 64,
        steps_per_step: 2,
        rounds: 1,
        refresh: distill::Refresh::Raw,
        schedule: Schedule::LogLinear,
    };
    let distilled = time(s.repeats, |i| {
        let rows = distill::rows(&sdtt, &teacher, &x0, s.length, sdtt.dt(0), (StepRng::new(1), i));
        student = Some(update(student.take().expect("a student"), &rows));
    });
    let process = Process {
        order,
        schedule: Schedule::LogLinear,
        corruption: Corruption::Absorb,
        length: s.length,
        cached: false,
    };
    let sampled = time(s.repeats, |i| {
        let drawn = sample(&teacher, &process, &SampleSpec::new(s.steps, i, s.samples), s.samples);
        assert!(drawn.is_ok());
    });
    // The chunked divergence alone, at a real vocabulary, on 512 rows of features.
    let (rows, vocab) = (512, 50_257);
    let wide = Transformer::init(&network, vocab, s.length, 3, &device.clone().autodiff());
    let other = Transformer::init(&network, vocab, s.length, 4, &device);
    let windows = rows / s.length.min(rows);
    let x: Vec<u32> = (0..windows * s.length).map(|_| vocab as u32).collect();
    let chunked = time(s.repeats.min(5), |i| {
        let all = distill::rows(&sdtt, &other, &x, s.length, sdtt.dt(0), (StepRng::new(1), i));
        objective::backward(&wide, &all);
    });

    let tokens = (s.batch * s.length) as f64;
    let drawn = (s.samples * s.length) as f64;
    let results = [
        ("train", train, tokens),
        ("distill", distilled, tokens),
        ("sample", sampled, drawn),
        ("divergence_50257", chunked, x.len() as f64),
    ];
    if s.json {
        let part = |(name, t, tokens): &(&str, Spread, f64)| {
            (
                name.to_string(),
                serde_json::json!({ "median_s": t.median, "q1_s": t.q1, "q3_s": t.q3, "tokens_per_s": tokens / t.median }),
            )
        };
        let mut line = serde_json::Map::from_iter(results.iter().map(part));
        line.insert("parameters".into(), params::count(&teacher).into());
        line.insert("threads".into(), rayon::current_num_threads().into());
        println!("{}", serde_json::Value::from(line));
        return;
    }
    println!(
        "vocabulary {}, length {}, batch {}, dim {}, {} layers, {} heads, {} parameters, {} threads",
        s.vocab,
        s.length,
        s.batch,
        s.dim,
        s.layers,
        s.heads,
        params::count(&teacher),
        rayon::current_num_threads()
    );
    for (name, t, tokens) in results {
        println!(
            "{name:<18} {:>9.2} ms [{:.2}, {:.2}]  {:>10.0} tokens/s",
            1e3 * t.median,
            1e3 * t.q1,
            1e3 * t.q3,
            tokens / t.median
        );
    }
}
