//! Memory of a student with adapters beside its teacher: the frozen weights are there once.
//!
//!     cargo bench --bench adapters

use burn::module::Module;
use burn::prelude::Device;
use fewstep::method::{self, RowLoss, Target};
use fewstep::model::config::{Activation, Visibility};
use fewstep::model::family::adapters::own_sites;
use fewstep::model::transformer::lora::LoraConfig;
use fewstep::model::{Noised, Transformer, TransformerConfig};
use fewstep::optim::Optimizer;
use fewstep::train::TrainConfig;

const VOCAB: usize = 1000;
const LENGTH: usize = 32;

fn resident(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("0");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn main() {
    let config = TransformerConfig {
        activation: Activation::Swiglu,
        checkpoint: true,
        ..TransformerConfig::new(1024, 24, 16, Visibility::Full)
    };
    let teacher = Transformer::zeros(&config, VOCAB, LENGTH, &Device::flex());
    // Pages of zeros take no memory before they are written.
    let teacher = fewstep::model::params::fill(teacher, burn::tensor::FloatDType::F32, &Device::flex(), |_, shape| {
        let n = shape.iter().product::<usize>();
        Ok(fewstep::weights::HostTensor {
            shape: shape.to_vec(),
            data: (0..n).map(|i| (i % 13) as f32 * 1e-3).collect(),
        })
    })
    .expect("a network");
    let weights = config.parameters(VOCAB, LENGTH) as f64 * 4.0 / f64::from(1 << 20);
    let alone = resident("VmRSS:");
    let lora = LoraConfig { rank: 16, alpha: 16.0, targets: None };
    let plan = lora.plan("lora", &own_sites(&config)).expect("a plan");
    let on = Device::flex().autodiff();
    let mut student = teacher.with_adapters(&plan, &plan.initial(1), "new", &on).expect("adapters");
    let with = resident("VmRSS:");
    let train: TrainConfig = toml::from_str("steps = 3\nbatch = 1\nlr = 1e-3").expect("a configuration");
    let mut optimizer = Optimizer::new(&student, false);
    for step in 0..3 {
        let ids = vec![VOCAB as u32; LENGTH];
        let loss = RowLoss {
            input: Noised::tokens(&ids, &[1.0; LENGTH], LENGTH),
            rows: (0..LENGTH).collect(),
            weights: vec![1.0 / LENGTH as f64; LENGTH],
            target: Target::Tokens((0..LENGTH as u32).collect()),
            alpha: None,
        };
        let (_, grads) = method::backward(&student, &loss);
        student = optimizer.step(student, grads, &train, step, 1.0);
    }
    let adapters = plan.parameters() as f64 * 4.0 / f64::from(1 << 20);
    println!(
        "weights {weights:.0} MiB, adapters {adapters:.0} MiB; resident: teacher {alone:.0} MiB, with its student {with:.0} MiB, \
         after 3 steps {:.0} MiB, at most {:.0} MiB",
        resident("VmRSS:"),
        resident("VmHWM:")
    );
    assert!(with - alone < adapters + 64.0, "the student has weights of its own");
    assert!(resident("VmHWM:") - alone < 0.5 * weights, "a second copy of the weights was there");
    drop((teacher, student.valid()));
}
