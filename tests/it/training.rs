//! Training as a whole: it is deterministic, it equals the other CPU backend, and its losses are kept as golden values.

use burn::prelude::Device;
use fewstep::data::story::{Story, StoryConfig};
use fewstep::method::{ArConfig, Divergence, ElboConfig, Objective, Parents, SdttConfig, distill::Refresh};
use fewstep::process::{Order, Schedule};
use fewstep::rng::{StepRng, Stream};
use fewstep::term::Interrupt;
use fewstep::train::{self, Decay, Draws, Frame, Job, Run, Start, TrainConfig, Trained};
use fewstep::weights::Weights;

fn train_config(steps: usize) -> TrainConfig {
    toml::from_str::<TrainConfig>(&format!("steps = {steps}\nbatch = 8\nlr = 3e-3\nclip = 1.0\nwarmup = 3")).unwrap()
}

fn run(
    objective: &Objective,
    causal: bool,
    config: &TrainConfig,
    device: &Device,
    start: Option<&Weights>,
) -> (Trained, Vec<f64>) {
    let dir = tempfile::tempdir().unwrap();
    let trained = train_in(dir.path(), objective, causal, config, device, start).unwrap();
    let log = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    let losses = log.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["loss"].as_f64().unwrap());
    (trained, losses.collect())
}

fn train_in(
    dir: &std::path::Path,
    objective: &Objective,
    causal: bool,
    config: &TrainConfig,
    device: &Device,
    start: Option<&Weights>,
) -> fewstep::error::Result<Trained> {
    let story = Story::new(&StoryConfig { names: 2, things: 2, places: 1, count: 3, noise: 1e-4 }).unwrap();
    let network = fewstep::model::TransformerConfig { learned_positions: true, ..super::network::config(causal) };
    let order = if causal { Order::left_to_right() } else { Order::parallel(32) };
    let batch = |part: u64| -> Vec<u32> {
        let mut rng = StepRng::new(1).at(part, Stream::Batch);
        (0..config.batch).flat_map(|_| story.sample(&mut rng)).collect()
    };
    let vocab = story.vocab();
    train::train(&Job {
        name: "model",
        dir,
        config,
        method: objective.method(),
        network: Frame { config: &network, vocab, length: 32, mask: vocab as u32, tokens: vocab, excluded: &[] },
        start: start.map_or(Start::New, Start::Weights),
        orders: &[order],
        parents: Parents { orders: &[order], ..Parents::default() },
        draws: Draws { seed: 1, batch: &batch },
        run: Run {
            device,
            interrupt: &Interrupt::default(),
            fingerprint: &fewstep::train::Fingerprint::default(),
            again: "fewstep run my.toml --retrain model",
        },
    })
}

fn elbo() -> Objective {
    Objective::Elbo(ElboConfig::default())
}

fn ar() -> Objective {
    Objective::ArNll(ArConfig {})
}

fn sdtt(divergence: Divergence) -> Objective {
    Objective::Sdtt(SdttConfig {
        teacher: "teacher".into(),
        divergence,
        teacher_steps: 16,
        steps_per_step: 2,
        rounds: 3,
        refresh: Refresh::Raw,
        schedule: Schedule::LogLinear,
        data: 0.0,
    })
}

#[test]
fn the_same_training_twice_gives_the_same_bits() {
    let (a, la) = run(&elbo(), false, &train_config(12), &Device::flex(), None);
    let (b, lb) = run(&elbo(), false, &train_config(12), &Device::flex(), None);
    assert_eq!(la.iter().map(|l| l.to_bits()).collect::<Vec<_>>(), lb.iter().map(|l| l.to_bits()).collect::<Vec<_>>());
    assert_eq!(a.weights, b.weights);
}

#[test]
fn every_objective_and_divergence_learns() {
    let (teacher, losses) = run(&elbo(), false, &train_config(120), &Device::flex(), None);
    let mean = |l: &[f64]| l.iter().sum::<f64>() / l.len() as f64;
    assert!(mean(&losses[100..]) < 0.75 * mean(&losses[..20]), "{} to {}", mean(&losses[..20]), mean(&losses[100..]));
    let (_, losses) = run(&ar(), true, &train_config(120), &Device::flex(), None);
    assert!(mean(&losses[100..]) < 0.6 * mean(&losses[..20]));
    let start = Weights { tensors: teacher.weights, ..Weights::default() };
    for divergence in Divergence::ALL {
        let config = TrainConfig { decay: Decay::Constant, lr: 1e-3, ..train_config(60) };
        let one_round = match sdtt(divergence) {
            Objective::Sdtt(c) => Objective::Sdtt(SdttConfig { rounds: 1, teacher_steps: 4, ..c }),
            other => other,
        };
        let (_, losses) = run(&one_round, false, &config, &Device::flex(), Some(&start));
        // Within a round the target is fixed, so the divergence falls.
        assert!(mean(&losses[45..]) < mean(&losses[..10]), "{divergence:?}: {losses:?}");
    }
}

#[test]
fn gradient_accumulation_averages_over_its_parts() {
    // Two parts of 4 are not the same draw as one of 8, but the numbers must be of the same size, not twice it.
    let whole = TrainConfig { batch: 8, ..train_config(30) };
    let parts = TrainConfig { batch: 4, accumulate: 2, ..train_config(30) };
    let (_, a) = run(&elbo(), false, &whole, &Device::flex(), None);
    let (_, b) = run(&elbo(), false, &parts, &Device::flex(), None);
    let mean = |l: &[f64]| l.iter().sum::<f64>() / l.len() as f64;
    assert!((mean(&a) / mean(&b) - 1.0).abs() < 0.2, "{} {}", mean(&a), mean(&b));
}

#[test]
fn a_loss_that_is_not_finite_stops_with_exit_5_names_step_and_term_and_leaves_no_bad_checkpoint() {
    let (trained, _) = run(&elbo(), false, &train_config(1), &Device::flex(), None);
    let mut weights = Weights { tensors: trained.weights, ..Weights::default() };
    let head = weights.tensors.get_mut("head.weight").unwrap();
    head.data.iter_mut().for_each(|v| *v = f32::MAX);
    let dir = tempfile::tempdir().unwrap();
    let e = train_in(dir.path(), &elbo(), false, &train_config(5), &Device::flex(), Some(&weights)).err().unwrap();
    assert_eq!(e.kind.exit_code(), 5);
    let text = e.to_string();
    for word in ["not finite at step 0", "`nelbo`", "no checkpoint was saved yet", "hint: lower"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    assert!(
        std::fs::read_dir(dir.path()).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with("step"))
    );
}

#[test]
fn distilling_survives_batches_that_lose_no_token() {
    let (teacher, _) = run(&elbo(), false, &train_config(1), &Device::flex(), None);
    let start = Weights { tensors: teacher.weights, ..Weights::default() };
    let config = TrainConfig { batch: 1, log_every: 1000, ..train_config(150) };
    let (_, losses) = run(&sdtt(Divergence::ReverseKl), false, &config, &Device::flex(), Some(&start));
    assert_eq!(losses.len(), 150);
    assert!(losses.contains(&0.0), "no batch was empty, so this test shows nothing");
}

/// Losses of 50 steps on the CPU; a change of numerics has to change this file, and say why.
#[test]
fn the_losses_of_fifty_steps_are_the_golden_ones() {
    let (_, losses) = run(&elbo(), false, &train_config(50), &Device::flex(), None);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/loss_cpu.txt");
    let text: String = losses.iter().map(|l| format!("{l:.5}\n")).collect();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden: Vec<f64> = std::fs::read_to_string(&path).unwrap().lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(golden.len(), losses.len());
    for (step, (got, want)) in losses.iter().zip(&golden).enumerate() {
        // Processors with other vector widths sum in another order.
        assert!((got - want).abs() < 2e-3 * want.max(1.0), "step {step}: {got} for {want}");
    }
}

#[cfg(feature = "ndarray")]
#[test]
fn twenty_steps_on_flex_and_ndarray_have_the_same_losses() {
    #[allow(deprecated)]
    let other = Device::ndarray();
    for (objective, causal) in [(elbo(), false), (ar(), true)] {
        let (_, a) = run(&objective, causal, &train_config(20), &Device::flex(), None);
        let (_, b) = run(&objective, causal, &train_config(20), &other, None);
        for (step, (a, b)) in a.iter().zip(&b).enumerate() {
            assert!((a - b).abs() < 2e-3 * a.max(1.0), "step {step}: {a} on flex, {b} on ndarray");
        }
    }
}

#[test]
fn a_step_without_gradients_keeps_weights_moments_and_averages() {
    use fewstep::model::{Transformer, params};
    let device = Device::flex().autodiff();
    let model = Transformer::init(&super::network::config(false), 7, 5, 1, &device);
    let mut optimizer = fewstep::optim::Optimizer::new(&model, true);
    let config = TrainConfig { ema: Some(0.9), ..train_config(9) };
    let rows = fewstep::method::ar_nll(&[1, 2, 3, 4, 5], 5);
    let (_, grads) = fewstep::method::backward(&model, &rows);
    let model = optimizer.step(model, grads, &config, 0, 1.0);
    let before = (params::export(&model), optimizer.moments());
    let model = optimizer.step(model, burn::optim::GradientsParams::new(), &config, 1, 1.0);
    assert!((params::export(&model), optimizer.moments()) == before);
    assert!(before.1.len() == 2 * before.0.len() && optimizer.averaged(&model).is_some());
}
