//! Time and peak memory of the hot paths: a training step, a distillation step, the sampler and the chunked divergence.
//!
//!     cargo bench --bench steps                                      the default network
//!     cargo bench --bench steps -- --dim 256 --repeats 9 --json      another one, one JSON line
//!     cargo bench --bench steps -- --only distill --vocab 50257      one path: then the peak memory is that path's
//!     cargo bench --bench steps -- --parity --device cuda --bf16     loss and gradients beside the processor's
//!     cargo bench --bench steps -- --profile                         time per operation of each path

mod paths;

use fewstep::method;
use fewstep::model::{Transformer, params};
use fewstep::profile::Profile;
use paths::{PATHS, Sizes, Training, flag, measure, option, peak_kib};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let s = Sizes::from_args();
    s.settle();
    if flag("parity") {
        return parity(&s);
    }
    if let Some(steps) = option("flat") {
        return flat(&s, steps.parse().expect("a number of steps"));
    }
    let paths: Vec<String> = match option("only") {
        Some(names) => names.split(',').map(String::from).collect(),
        None => PATHS.map(String::from).to_vec(),
    };
    assert!(!(flag("json") && flag("profile")), "--profile is a table for people: leave --json out");
    let mut profile = flag("profile").then(Profile::start);
    let mut line = serde_json::Map::new();
    let parameters = s.network().parameters(s.vocab, s.length) as u64;
    if !flag("json") {
        println!(
            "vocabulary {}, length {}, batch {}, dim {}, {} layers, {} heads, {parameters} parameters, {} threads, {}, {}",
            s.vocab,
            s.length,
            s.batch,
            s.dim,
            s.layers,
            s.heads,
            rayon::current_num_threads(),
            s.device,
            if s.bf16 { "bf16" } else { "f32" },
        );
    }
    for name in paths {
        let (t, tokens) = measure(&s, &name);
        let rate = tokens / t.median;
        if flag("json") {
            let value = serde_json::json!({
                "median_s": t.median, "q1_s": t.q1, "q3_s": t.q3, "tokens_per_s": rate, "peak_kib": peak_kib(),
            });
            line.insert(name, value);
            continue;
        }
        let (low, median, high) = (1e3 * t.q1, 1e3 * t.median, 1e3 * t.q3);
        println!("{name:<12} {median:>9.2} ms [{low:.2}, {high:.2}]  {rate:>10.0} tokens/s");
        if let Some(profile) = &mut profile {
            eprint!("{}", profile.take());
        }
    }
    if flag("json") {
        line.insert("parameters".into(), parameters.into());
        line.insert("threads".into(), rayon::current_num_threads().into());
        println!("{}", serde_json::Value::from(line));
    } else if let Some(peak) = peak_kib() {
        println!("peak memory of the process: {peak} KiB");
    }
}

/// Largest difference of the loss and of each gradient from the processor's in f32, relative to the gradient's own norm.
fn parity(s: &Sizes) {
    let x0 = s.tokens();
    let rows = paths::elbo_rows(s, &x0, 0);
    let on = |s: &Sizes| {
        let device = s.device().autodiff();
        let model = Transformer::init(&s.network(), s.vocab, s.length, 1, &device);
        let (loss, grads) = method::backward(&model, &rows);
        (loss, params::gradients(&model, &grads))
    };
    let (loss, theirs) = on(s);
    let (want, ours) = on(&Sizes { device: "flex".into(), bf16: false, ..s.clone() });
    let mut worst = (0.0, String::new());
    for (name, ours) in &ours {
        let theirs = theirs.get(name).unwrap_or_else(|| panic!("a gradient of {name}"));
        let (ours, theirs) = (&ours.data, &theirs.data);
        assert_eq!(ours.len(), theirs.len(), "the gradient of {name} has one shape");
        let norm = ours.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let apart = ours.iter().zip(theirs).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        let relative = apart / norm.max(1e-12);
        assert!(relative.is_finite(), "the gradient of {name} is not finite");
        if relative >= worst.0 {
            worst = (relative, name.clone());
        }
    }
    let line = serde_json::json!({
        "device": s.device, "bf16": s.bf16, "loss": loss, "loss_flex_f32": want, "loss_relative": (loss - want).abs() / want,
        "gradients": ours.len(), "worst_gradient_relative": worst.0, "worst_gradient": worst.1,
    });
    println!("{line}");
    // bf16 keeps eight bits; f32 differs by the order of sums, or where products run in TF32 by its ten bits (`--limit`).
    let limit = match option("limit") {
        Some(limit) => limit.parse().expect("--limit takes a number"),
        None if s.bf16 => 0.1,
        None => 1e-3,
    };
    assert!(worst.0 <= limit && (loss - want).abs() <= limit * want, "further apart than {limit}");
}

/// Trains for `steps` steps and prints a line every ten: whoever watches the device's memory sees whether it grows.
fn flat(s: &Sizes, steps: u64) {
    let (mut training, x0) = (Training::new(s), s.tokens());
    for step in 0..steps {
        let loss = training.update(&paths::elbo_rows(s, &x0, step));
        if (step + 1) % 10 == 0 {
            println!("{}", serde_json::json!({ "step": step + 1, "loss": loss, "peak_kib": peak_kib() }));
        }
    }
}
