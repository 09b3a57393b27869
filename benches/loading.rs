//! Peak memory of loading: a generated LLaMA of 1.5 GB in shards of f32, against the size of its weights in memory.
//!
//!     cargo bench --bench loading -- [DIR]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::prelude::Device;
use fewstep::fs;
use fewstep::model::family::{self, LoadOptions};
use fewstep::weights::{self, HostTensor, Weights};

const DIM: usize = 1024;
const HIDDEN: usize = 4096;
const LAYERS: usize = 21;
const VOCAB: usize = 16_000;

/// The tensors of one shard: a layer, or what is outside of them.
fn shard(layer: Option<usize>) -> Vec<(String, Vec<usize>)> {
    let Some(i) = layer else {
        let outer = [("model.embed_tokens.weight", vec![VOCAB, DIM]), ("model.norm.weight", vec![DIM])];
        let head = [("lm_head.weight", vec![VOCAB, DIM])];
        return outer.into_iter().chain(head).map(|(n, s)| (n.to_string(), s)).collect();
    };
    let square = ["q", "k", "v", "o"].map(|p| (format!("self_attn.{p}_proj.weight"), vec![DIM, DIM]));
    let wide = ["gate", "up"].map(|p| (format!("mlp.{p}_proj.weight"), vec![HIDDEN, DIM]));
    let rest = [
        ("mlp.down_proj.weight".to_string(), vec![DIM, HIDDEN]),
        ("input_layernorm.weight".to_string(), vec![DIM]),
        ("post_attention_layernorm.weight".to_string(), vec![DIM]),
    ];
    square.into_iter().chain(wide).chain(rest).map(|(n, s)| (format!("model.layers.{i}.{n}"), s)).collect()
}

/// Writes the checkpoint and returns its bytes.
fn generate(dir: &Path) -> u64 {
    let config = format!(
        r#"{{"model_type": "llama", "hidden_size": {DIM}, "intermediate_size": {HIDDEN}, "num_hidden_layers": {LAYERS},
        "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": {VOCAB}, "max_position_embeddings": 512}}"#
    );
    fs::write_atomic(&dir.join("config.json"), config.as_bytes()).expect("a directory to write to");
    let (mut map, mut total) = (BTreeMap::new(), 0);
    for (n, layer) in std::iter::once(None).chain((0..LAYERS).map(Some)).enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", n + 1, LAYERS + 1);
        let tensors = shard(layer).into_iter().map(|(name, shape)| {
            map.insert(name.clone(), file.clone());
            let size = shape.iter().product::<usize>();
            total += 4 * size as u64;
            (name, HostTensor { shape, data: (0..size).map(|i| (i % 251) as f32 * 1e-4).collect() })
        });
        let weights = Weights { tensors: tensors.collect(), ..Weights::default() };
        weights::write(&dir.join(&file), &weights).expect("a directory to write to");
    }
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
    fs::write_atomic(&dir.join("model.safetensors.index.json"), index.to_string().as_bytes())
        .expect("a directory to write to");
    total
}

fn resident(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("0");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn main() {
    // `cargo bench` adds an option of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let given = arguments.first().map(PathBuf::from);
    let dir = given.unwrap_or_else(|| std::env::temp_dir().join("fewstep-loading"));
    // Generated in a process of its own, whose memory does not count.
    if arguments.get(1).is_some_and(|a| a == "generate") {
        println!("generated {} MB", generate(&dir) >> 20);
        return;
    }
    fs::create_dir(&dir).expect("a directory to write to");
    let own = std::env::current_exe().expect("a path of this program");
    let made = std::process::Command::new(own).arg(&dir).arg("generate").status().expect("a second process");
    assert!(made.success(), "the checkpoint was not written");
    let begin = std::time::Instant::now();
    let loaded = family::load(&dir, &LoadOptions::default(), &Device::flex()).expect("a model");
    let weights = loaded.description.network.parameters(VOCAB, 0) as f64 * 4.0 / (1 << 20) as f64;
    println!(
        "{:.0} MB of weights loaded in {:.1} s; resident {:.0} MB, at most {:.0} MB while loading",
        weights,
        begin.elapsed().as_secs_f64(),
        resident("VmRSS:"),
        resident("VmHWM:")
    );
    fs::remove_dir(&dir).expect("the directory to be there");
}
