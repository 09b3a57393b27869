//! Peak memory of one distillation step at a real vocabulary: B = 16, L = 256, V = 50,257. Prints the maximum resident size.
//!
//!     cargo bench --bench memory

use burn::prelude::Device;
use fewstep::kernels::Divergence;
use fewstep::method::{self, SdttConfig, distill};
use fewstep::model::{Transformer, TransformerConfig};
use fewstep::process::Order;
use fewstep::rng::{StepRng, Stream};
use rand::Rng;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let (batch, length, vocab) = (16, 256, 50_257);
    let network: TransformerConfig =
        toml::from_str("dim = 128\nlayers = 4\nheads = 4\nvisibility = \"full\"").expect("a configuration");
    let parameters = network.parameters(vocab, length);
    fewstep::alloc::settle(parameters.try_into().unwrap_or(usize::MAX));
    let device = Device::flex();
    let student = Transformer::init(&network, vocab, length, 1, &device.clone().autodiff());
    let teacher = Transformer::init(&network, vocab, length, 2, &device);
    let config = SdttConfig {
        teacher: "teacher".into(),
        divergence: Divergence::ReverseKl,
        teacher_steps: 4,
        steps_per_step: 2,
        rounds: 1,
        refresh: distill::Refresh::Raw,
        schedule: Default::default(),
        data: 0.0,
    };
    let mut rng = StepRng::new(1).at(0, Stream::Batch);
    let x0: Vec<u32> = (0..batch * length).map(|_| rng.random_range(0..vocab as u32)).collect();
    for step in 0..2 {
        let begin = std::time::Instant::now();
        let orders = distill::Orders::same(Order::parallel(length));
        let rows = distill::rows(&config, &teacher, &x0, length, config.dt(0), orders, StepRng::new(1).of_step(step))
            .expect("rows");
        let (loss, grads) = method::backward(&student, &rows);
        println!(
            "step {step}: {} masked rows of {}, loss {loss:.4}, {} gradients, {:.1} s",
            rows.rows.len(),
            batch * length,
            grads.len(),
            begin.elapsed().as_secs_f64()
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or("VmHWM: not known on this system");
    println!(
        "batch {batch}, length {length}, vocabulary {vocab}: maximum resident size {}",
        peak.trim_start_matches("VmHWM:").trim()
    );
}
