//! Invented but plausible results for tests: an autoregressive model, a teacher, two students (one collapsed) and the
//! oracle at 1 to 256 steps.

use super::*;
use crate::data::picture::{Pictures, PicturesConfig};
use crate::eval::flexibility::{Sees, Task};
use crate::eval::stats::{mean, mean_interval};
use crate::rng::{StepRng, Stream};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Numbers of steps of every diffusion model.
pub const STEPS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 256];
/// Samples per row.
pub const N: usize = 64;
const LENGTH: usize = 256;

/// The mean scores of one row.
#[derive(Debug, Clone, Copy)]
pub struct Level {
    pub nll: f64,
    pub valid: f64,
    pub entropy: f64,
}

/// About a standard normal draw.
fn bell(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

/// `n` samples of a row: skewed likelihoods (gamma of shape 9), binary validity, narrow entropies.
pub fn row(level: Level, nll_name: &str, steps: usize, n: usize, seed: u64) -> Row {
    let mut rng = StepRng::new(seed).at(steps as u64, Stream::Validation);
    let mut samples: IndexMap<String, Vec<f64>> = IndexMap::new();
    for _ in 0..n {
        let gamma: f64 = (0..9).map(|_| -(1.0 - rng.random::<f64>()).ln()).sum::<f64>() / 9.0;
        let mut put = |key: &str, value: f64| samples.entry(key.into()).or_default().push(value);
        put(nll_name, level.nll * (0.6 + 0.4 * gamma));
        put("entropy", level.entropy + 0.09 * bell(&mut rng));
        put("distinct_2", (0.17 * level.entropy + 0.02 * bell(&mut rng)).min(1.0));
        put("repetition", (0.65 - 0.16 * level.entropy + 0.01 * bell(&mut rng)).max(0.0));
        if nll_name == "oracle_nll" {
            put("valid", f64::from(u8::from(rng.random::<f64>() < level.valid)));
        }
    }
    let scores = samples.iter().map(|(k, v)| (k.clone(), mean_interval(v, 1))).collect();
    let corpus = IndexMap::from([("self_distinct_2".to_string(), 0.12 + 0.01 * level.entropy)]);
    Row {
        steps,
        nfe: steps as f64,
        positions: (steps * LENGTH) as f64,
        layer_positions: None,
        decode_positions: None,
        steps_per_block: None,
        n,
        seed,
        scores,
        samples,
        corpus,
        speed: None,
        sampler_nll: None,
        examples: Vec::new(),
        by_seed: Vec::new(),
    }
}

/// A measured time: `ms` milliseconds for one sample, 5 % apart between quartiles.
pub fn speed(ms: f64) -> Speed {
    let spread = |x: f64| Spread { median: x, q1: 0.975 * x, q3: 1.025 * x };
    let seconds = ms / LENGTH as f64 / 4.0;
    let tokens_per_s = 1000.0 / seconds;
    Speed { batch: 32, latency_ms: spread(ms), seconds_per_1k_tokens: spread(seconds), tokens_per_s }
}

fn level(name: &str, steps: usize) -> Level {
    let k = steps as f64;
    let nll = match name {
        "teacher" => 1.24 + 2.6 / k.powf(0.75),
        "student" => 1.26 + 0.55 / k.powf(0.6),
        "eager" => 1.05 + 0.8 / k,
        "oracle" => 1.08 + 2.0 / k,
        _ => 1.17,
    };
    let entropy = match name {
        "teacher" | "oracle" => 3.42 + 0.35 / k,
        "student" => 3.40 + 0.1 / k,
        "eager" => 3.05 - 0.3 / k,
        _ => 3.41,
    };
    Level { nll, valid: (1.75 - 0.75 * nll).clamp(0.02, 0.97), entropy }
}

fn model(name: &str, role: Role, objective: &str, nll_name: &str, seed: u64, steps: &[usize]) -> ModelResult {
    let rows = steps
        .iter()
        .map(|&k| {
            let mut row = row(level(name, k), nll_name, k, N, 11 + 1000 * seed + objective.len() as u64);
            row.speed = match role {
                Role::Ar => Some(speed(1.9 * LENGTH as f64)),
                Role::Oracle => None,
                _ => Some(speed(9.5 * k as f64)),
            };
            if role == Role::Ar {
                row.positions = LENGTH as f64;
            }
            row
        })
        .collect();
    let likelihood = match role {
        Role::Oracle => None,
        Role::Ar | Role::Judge => Some((1.19, Bound::Exact)),
        _ => Some((1.36, Bound::Elbo)),
    };
    let around = |x: f64| Estimate { mean: x, low: x - 0.02, high: x + 0.02 };
    ModelResult {
        order: String::new(),
        name: name.into(),
        role,
        objective: objective.into(),
        teacher: (role == Role::Student).then(|| "teacher".into()),
        parameters: if role == Role::Oracle { 0 } else { 3_204_608 },
        weights_sha256: sha256_hex(name.as_bytes()),
        seed: 1,
        train_steps: if role == Role::Oracle { 0 } else { 2000 },
        train_tokens: if role == Role::Oracle { 0 } else { 16_384_000 },
        train_seconds: if role == Role::Oracle { 0.0 } else { 412.5 },
        train_positions: 0,
        codec: None,
        neighbours: None,
        train_forwards: match role {
            Role::Oracle => 0,
            Role::Student => 3 * 64_000,
            _ => 64_000,
        },
        likelihood: likelihood.map(|(x, kind)| Likelihood { estimate: around(x), kind, n: 512 }),
        rows,
        sweep: Vec::new(),
        flexibility: None,
        reconstruction: None,
        by_seed: Vec::new(),
        control: None,
    }
}

/// A study on the story language; other seeds sample the same models again.
pub fn story(seed: u64) -> Results {
    let name = "oracle_nll";
    let models = vec![
        model("ar", Role::Ar, "ar", name, seed, &[LENGTH]),
        model("teacher", Role::Teacher, "elbo", name, seed, &STEPS),
        model("student", Role::Student, "sdtt", name, seed, &STEPS),
        model("eager", Role::Student, "kl_backward", name, seed, &STEPS),
        model("oracle", Role::Oracle, "exact", name, seed, &STEPS),
    ];
    Results { models, ..study(seed) }
}

/// The study without its models.
fn study(seed: u64) -> Results {
    let recipe = format!("[study]\nname = \"tiny_story\"\nseed = {seed}\n");
    let name = "oracle_nll";
    let data = row(Level { nll: 1.06, valid: 0.99, entropy: 3.42 }, name, 0, 256, 5);
    assert!((mean(&data.samples["entropy"]) - 3.42).abs() < 0.05);
    let mut reference = data.scores;
    reference["valid"] = Estimate::exact(1.0);
    Results {
        format: FORMAT,
        fewstep: "0.1.0".into(),
        study: "tiny_story".into(),
        recipe_sha256: sha256_hex(recipe.as_bytes()),
        recipe,
        environment: Environment {
            burn: "0.22.1".into(),
            rustc: "1.95.0".into(),
            device: "flex".into(),
            threads: 2,
            dtype: "f32".into(),
            os: "linux x86_64".into(),
            cpu_features: "avx2 fma".into(),
        },
        data: DataSummary {
            kind: DataKind::Story,
            pictures: None,
            vocab: 97,
            length: LENGTH,
            sha256: sha256_hex(b"story"),
            tokenizer_sha256: None,
            entropy: reference["entropy"],
            n_reference: 256,
            entropy_rate: Some(1.05),
            nll_name: name.into(),
            reference,
            corpus: IndexMap::new(),
        },
        models: Vec::new(),
        context: None,
    }
}

/// A study on pictures: an autoregressive model and a hybrid of few and many steps, with samples of which one in four has
/// lost all its things.
///
/// # Panics
/// Where the task cannot be built, which cannot be.
pub fn pictures(seed: u64) -> Results {
    let config = PicturesConfig::default();
    let task = Pictures::new(&config).unwrap_or_else(|e| panic!("{e}"));
    let length = task.shape().length();
    let mut results = study(seed);
    results.study = "tiny_pictures".into();
    results.data.kind = DataKind::Pictures;
    results.data.pictures = Some(config);
    results.data.length = length;
    let name = "oracle_nll";
    results.models = vec![
        model("ar", Role::Ar, "ar_nll", name, seed, &[length]),
        model("hybrid", Role::Teacher, "elbo", name, seed, &[34, 41, 65]),
    ];
    for row in results.models.iter_mut().flat_map(|m| &mut m.rows) {
        let rng = StepRng::new(seed);
        row.examples = (0..4).map(|i| task.sample(&mut rng.at(i, Stream::Validation))).collect();
        let empty = row.examples[3].iter().position(|t| task.is_empty(*t)).map_or(0, |at| row.examples[3][at]);
        row.examples[3][task.shape().text..].fill(empty);
        for (key, share) in [("caption_valid", 0.98), ("clauses", 0.9), ("agreement", 0.8)] {
            row.samples.shift_remove("valid");
            row.samples
                .insert(key.into(), (0..N).map(|i| f64::from(u8::from((i as f64) < share * N as f64))).collect());
        }
        row.scores = row.samples.iter().map(|(k, v)| (k.clone(), mean_interval(v, 1))).collect();
    }
    results
}

/// The study's student alone, with rows that have no scores: a cheap start for simulations.
pub fn bare() -> Results {
    let mut results = study(1);
    let mut student = model("student", Role::Student, "sdtt", "oracle_nll", 1, &[]);
    student.rows = STEPS
        .iter()
        .map(|&steps| Row {
            layer_positions: None,
            decode_positions: None,
            steps_per_block: None,
            steps,
            nfe: steps as f64,
            positions: (steps * LENGTH) as f64,
            n: 0,
            seed: 0,
            scores: IndexMap::new(),
            samples: IndexMap::new(),
            corpus: IndexMap::new(),
            speed: None,
            sampler_nll: None,
            examples: Vec::new(),
            by_seed: Vec::new(),
        })
        .collect();
    results.models = vec![student];
    results
}

/// A study on text: a judge scores, and nothing is known exactly.
pub fn text(seed: u64) -> Results {
    let mut results = story(seed);
    let name = "judge_nll";
    results.study = "tiny_text".into();
    results.data.kind = DataKind::Text;
    results.data.entropy_rate = None;
    results.data.nll_name = name.into();
    results.data.reference = row(level("ar", 1), name, 0, N, 5).scores;
    results.models = vec![
        model("ar", Role::Ar, "ar", name, seed, &[LENGTH]),
        model("teacher", Role::Teacher, "elbo", name, seed, &STEPS),
        model("student", Role::Student, "sdtt", name, seed, &STEPS),
        model("judge", Role::Judge, "ar", name, seed, &[]),
    ];
    results
}

/// The same study with its diffusion and AR models sampled at two further temperatures: colder is likelier and poorer.
pub fn with_sweep(mut results: Results) -> Results {
    let name = results.data.nll_name.clone();
    for model in &mut results.models {
        for r in &model.rows {
            for (temperature, shift) in [(0.8, -0.25), (1.2, 0.25)] {
                let at = level(&model.name, r.steps);
                let moved = Level { nll: at.nll + 0.8 * shift, entropy: at.entropy + shift, ..at };
                let Row { steps, n, seed, scores, samples, .. } = row(moved, &name, r.steps, r.n, r.seed);
                model.sweep.push(SweepRow { steps, temperature, n, seed, scores, samples });
            }
        }
    }
    results
}

/// The same study with flexibility measured: the autoregressive model sees less and cannot take back.
pub fn with_flexibility(mut results: Results) -> Results {
    let task = |level: f64, keys: &[&str]| {
        let values = |key: &&str| (key.to_string(), (0..N).map(|i| level + 0.1 * (i % 2) as f64).collect::<Vec<f64>>());
        let samples: IndexMap<String, Vec<f64>> = keys.iter().map(values).collect();
        let scores = samples.iter().map(|(k, v)| (k.clone(), mean_interval(v, 1))).collect();
        Task { n: N, nfe: 8.0, scores, samples }
    };
    for model in results.models.iter_mut().filter(|m| m.role != Role::Judge) {
        let ar = model.role == Role::Ar;
        let repaired = ["nll", "valid", "gone", "restored", "kept"];
        model.flexibility = Some(Flexibility {
            seed: 1,
            gap: 8,
            errors: 2,
            steps: 16,
            sees: if ar { Sees::Left } else { Sees::Whole },
            infill: task(0.4, &["nll", "posterior_entropy", "valid", "oracle_accuracy", "accuracy"]),
            recovery: task(0.1, &repaired),
            remasked: (!ar).then(|| task(0.6, &repaired)),
        });
    }
    results
}

/// The same study trained with each of the seeds `seeds`.
///
/// # Panics
/// Where `seeds` is empty.
pub fn several(seeds: &[u64]) -> Results {
    let each: Vec<(u64, Results)> = seeds
        .iter()
        .map(|&seed| {
            let mut one = with_sweep(story(seed));
            for model in one.models.iter_mut().filter(|m| m.role != Role::Oracle) {
                model.weights_sha256 = sha256_hex(format!("{} {seed}", model.name).as_bytes());
            }
            (seed, one)
        })
        .collect();
    let recipe = format!("[study]\nname = \"tiny_story\"\nseeds = {seeds:?}\n");
    crate::eval::seeds::join(&recipe, 0, &each).unwrap_or_else(|e| panic!("{e}"))
}

/// The same study with an autoencoder that loses tokens as noise rises.
pub fn with_autoencoder(mut results: Results) -> Results {
    let mut model = model("codec", Role::Teacher, "autoencoder", "oracle_nll", 1, &[]);
    let around = |x: f64| Estimate { mean: x, low: x - 0.01, high: (x + 0.01).min(1.0) };
    let point = |sigma: f64| ReconstructionPoint {
        sigma,
        accuracy: around(0.998 - 0.1 * sigma * sigma),
        exact: around(0.98 - 0.4 * sigma),
    };
    model.reconstruction =
        Some(Reconstruction { compression: 4.0, width: 16, n: N, points: [0.0, 0.25, 0.5, 1.0].map(point).to_vec() });
    results.models.push(model);
    results
}
