//! Students made of another network's weights: adapters and kept blocks, trained, stopped and resumed; and their recipes.

use std::path::Path;

use burn::prelude::Device;
use fewstep::method::distill::Refresh;
use fewstep::method::{Divergence, Objective, Parents, SdttConfig};
use fewstep::model::config::{NormKind, Visibility};
use fewstep::model::family::adapters::own_sites;
use fewstep::model::params::Named;
use fewstep::model::transformer::lora::{LoraConfig, Plan, is_adapter};
use fewstep::model::{Transformer, TransformerConfig, params};
use fewstep::process::{Order, Schedule};
use fewstep::term::Interrupt;
use fewstep::train::{self, Draws, Frame, Job, Run, Start, TrainConfig};
use fewstep::weights::{self, NonFinite, Weights};

use super::binary::Place;

const VOCAB: usize = 24;
const LENGTH: usize = 16;

fn teacher() -> Transformer {
    let config = TransformerConfig {
        activation: fewstep::model::config::Activation::Swiglu,
        norm: NormKind::Rms,
        ..TransformerConfig::new(32, 3, 4, Visibility::Full)
    };
    Transformer::init(&config, VOCAB, LENGTH, 5, &Device::flex())
}

fn plan(model: &Transformer) -> Plan {
    let config = LoraConfig { rank: 2, alpha: 4.0, targets: Some(vec!["qkv".into(), "down".into()]) };
    config.plan("lora", &own_sites(model.config())).unwrap()
}

/// Six steps in two rounds with a checkpoint after each third step; what they leave.
fn trained(dir: &Path, teacher: &Transformer, keep: Option<&[usize]>, lora: bool) -> Named {
    let config: TrainConfig =
        toml::from_str("steps = 6\nbatch = 4\nlr = 1e-2\nema = 0.9\nsave_every = 2\nkeep = 5").unwrap();
    let student = keep.map_or_else(|| teacher.clone(), |keep| teacher.with_layers(keep));
    let start = Weights { tensors: params::export(&student), ..Weights::default() };
    let plan = plan(&student);
    let objective = Objective::Sdtt(SdttConfig {
        teacher: "teacher".into(),
        divergence: Divergence::ForwardKl,
        teacher_steps: 16,
        steps_per_step: 2,
        rounds: 2,
        refresh: Refresh::Raw,
        schedule: Schedule::LogLinear,
        data: 0.0,
    });
    let batch = |part: u64| (0..4 * LENGTH as u64).map(|i| ((i * 7 + part * 5) % VOCAB as u64) as u32).collect();
    let orders = [Order::parallel(LENGTH)];
    let job = Job {
        name: "student",
        dir,
        config: &config,
        method: objective.method(),
        network: Frame {
            config: student.config(),
            vocab: VOCAB,
            length: LENGTH,
            mask: VOCAB as u32,
            tokens: VOCAB,
            excluded: &[],
        },
        start: if lora { Start::Adapters(&student, &plan) } else { Start::Weights(&start) },
        orders: &orders,
        parents: Parents { teacher: Some(teacher), orders: &orders, ..Parents::default() },
        draws: Draws { seed: 1, batch: &batch },
        run: Run {
            device: &Device::flex(),
            interrupt: &Interrupt::default(),
            fingerprint: &fewstep::train::Fingerprint::default(),
            again: "fewstep run my.toml --retrain model",
        },
    };
    train::train(&job).unwrap().weights
}

#[test]
fn adapters_and_shallower_students_resume_to_the_same_bits_in_either_round() {
    let teacher = teacher();
    for (keep, lora) in [(None, true), (Some(&[0usize, 2][..]), true), (Some(&[0, 2]), false)] {
        let place = tempfile::tempdir().unwrap();
        let whole = trained(place.path(), &teacher, keep, lora);
        assert_eq!(whole.keys().all(|name| is_adapter(name)), lora);
        // Cut back to the checkpoint in the first round, then to the one in the second.
        for gone in [&["step-000006", "step-000004"][..], &["step-000006"]] {
            gone.iter().for_each(|dir| std::fs::remove_dir_all(place.path().join(dir)).unwrap());
            assert_eq!(trained(place.path(), &teacher, keep, lora), whole, "{keep:?} {lora}");
        }
        let stored = |step: &str, part: &str| {
            weights::read(&place.path().join(step).join(format!("{part}.safetensors")), NonFinite::Refuse)
        };
        // The first round's teacher is the one that was given; a later round's is a student.
        assert!(stored("step-000002", "teacher").is_err());
        for part in ["model", "ema", "teacher", "optim"] {
            let names = stored("step-000004", part).unwrap().tensors;
            assert!(!names.is_empty() && names.keys().all(|n| is_adapter(n)) == lora, "{part}: {names:?}");
        }
    }
}

#[test]
fn adapters_start_as_a_function_of_seed_and_module_within_their_bounds() {
    let teacher = teacher();
    let few = plan(&teacher);
    let all = LoraConfig { targets: None, ..few.config.clone() }.plan("lora", &own_sites(teacher.config())).unwrap();
    let (a, b) = (few.initial(1), all.initial(1));
    for (name, tensor) in &a {
        assert_eq!(tensor, &b[name], "`{name}` depends on which other modules are adapted");
        let bound = 1.0 / (tensor.shape[1] as f32).sqrt();
        match name.ends_with(".a") {
            true => {
                let top = tensor.data.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                assert!(top <= bound && top > 0.8 * bound, "{name}: {top} of {bound}");
            }
            false => assert!(tensor.data.iter().all(|v| *v == 0.0)),
        }
    }
    assert_ne!(a, few.initial(2));
}

const RECIPE: &str = r#"
name = "study"
seed = 3
[data.story]
[model.teacher]
order = "parallel"
objective.elbo = {}
network = { dim = 32, layers = 2, heads = 2, visibility = "full", learned_positions = true }
train = { steps = 4, batch = 4, lr = 1e-3 }
[model.student]
order = "parallel"
objective.sdtt = { teacher = "teacher", teacher_steps = 4, rounds = 2 }
train = { steps = 4, batch = 4, lr = 1e-2 }
lora = { rank = 2, alpha = 4.0 }
[model.shallow]
order = "parallel"
keep_layers = [1]
objective.sdtt = { teacher = "student", teacher_steps = 4, rounds = 2 }
train = { steps = 4, batch = 4, lr = 1e-3 }
[eval]
samples = 4
batch = 4
steps = [2, 4]
held_out = 4
speed_repeats = 1
[export]
models = ["student", "shallow"]
"#;

#[test]
fn a_network_of_our_own_is_adapted_and_its_student_is_the_teacher_of_a_shallower_one() {
    let place = Place::new();
    place.write("study.toml", RECIPE);
    place.run(&["recipe", "check", "study.toml"]).ok();
    place.run(&["run", "study.toml"]).ok();
    place.run(&["export", "runs/study", "--model", "shallow", "--out", "a", "--adapters"]).fails(2, &["no adapters"]);
    for model in ["student", "shallow"] {
        let dir = format!("runs/study/export/{model}");
        assert!(place.path(&dir).join("model.safetensors").is_file());
        place.run(&["sample", &dir, "-n", "1", "--steps", "2"]).ok();
    }
    let read = |p: &str| weights::read(&place.path(p), NonFinite::Refuse).unwrap().tensors;
    let merged = read("runs/study/export/student/model.safetensors");
    let teacher = read("runs/study/models/teacher/final/model.safetensors");
    let changed: Vec<_> = teacher.keys().filter(|n| teacher[*n] != merged[*n]).collect();
    assert!(!changed.is_empty() && changed.iter().all(|n| n.starts_with("blocks.")), "{changed:?}");
    let adapters = read("runs/study/models/student/final/adapter_model.safetensors");
    assert!(adapters.keys().all(|n| n.starts_with("base_model.model.blocks.")), "{:?}", adapters.keys());
    // A base that changed is told.
    let config = place.path("runs/study/models/student/final/origin.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let hash = text.split("\"sha256\": \"").nth(1).unwrap()[..64].to_string();
    std::fs::create_dir_all(place.path("copy/student")).unwrap();
    std::fs::create_dir_all(place.path("copy/teacher")).unwrap();
    for model in ["student", "teacher"] {
        let (from, to) = (place.path(&format!("runs/study/models/{model}/final")), place.path("copy"));
        let to = to.join(model).join("final");
        std::fs::create_dir_all(&to).unwrap();
        // Without its manifest, as another program would make it.
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|e| e.file_name() != "manifest.json") {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    place.run(&["sample", "copy/student/final", "-n", "1", "--steps", "2"]).ok();
    place.write("copy/student/final/origin.json", text.replace(&hash, &"0".repeat(64)));
    place.run(&["sample", "copy/student/final", "-n", "1", "--steps", "2"]).fails(3, &["no longer the same", "hint:"]);
    // Nor is it read where its weights would be out of its run, or where they are another network's.
    let outside = place.path("copy/teacher/final").display().to_string();
    for base in [outside.as_str(), "../../../etc/final", "../other", "/etc"] {
        place.write("copy/student/final/origin.json", text.replace("../../teacher/final", base));
        for command in [&["sample", "copy/student/final"][..], &["export", "copy/student/final", "--out", "o"]] {
            place.run(command).fails(3, &["origin.json", "outside of it", "hint:"]);
        }
    }
    place.write("copy/student/final/origin.json", &text);
    let card = place.path("copy/student/final/config.json");
    let said = std::fs::read_to_string(&card).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&said).unwrap();
    config["vocab_size"] = 1_000_000.into();
    config["mask_token_id"] = 999_999.into();
    std::fs::write(&card, config.to_string()).unwrap();
    place.run(&["sample", "copy/student/final", "-n", "1", "--steps", "2"]).fails(3, &["hint:"]);
}

#[test]
fn keys_of_derived_models_that_contradict_others_are_refused_with_their_names() {
    let place = Place::new();
    place.write("study.toml", RECIPE);
    for (set, words) in [
        ("model.student.lora.targets=[\"q_proj\"]", &["model.student.lora.targets", "qkv"][..]),
        ("model.student.lora.rank=0", &["model.student.lora.rank"]),
        ("model.student.lora.rank=33", &["model.student.lora.rank"]),
        ("model.student.lora.alpha=-1.0", &["model.student.lora.alpha"]),
        ("model.shallow.keep_layers=[2]", &["keep_layers"]),
        ("model.shallow.keep_layers=[1, 0]", &["keep_layers"]),
        ("model.teacher.keep_layers=[0]", &["model.teacher.keep_layers", "teacher"]),
        ("model.teacher.dtype.weights=bf16", &["model.teacher.dtype", "from"]),
        ("model.teacher.checkpoint=true", &["network.checkpoint"]),
    ] {
        place.run(&["recipe", "check", "study.toml", "--set", set]).fails(2, words);
    }
}
