//! Directories of strangers: damaged and hostile ones, through the reader that streams and the real
//! binary. Each ends in a message and exit code 3. (The parsers' own tables of cases are in src/weights/tests.rs.)

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::prelude::Device;
use fewstep::error::Kind;
use fewstep::model::family::{self, LoadOptions};
use fewstep::weights::{self, Dtype, HostTensor, INDEX, NonFinite, SINGLE, Store, Weights};

use super::binary::{Place, Ran};
use super::watched::{Watched, watch};

const VOCAB: usize = 12;
/// Bytes of memory for a small directory, read and refused or sampled from.
const MOST: u64 = 96 << 20;

/// A small MDLM checkpoint: V 12, H 8, C 4, one block, two heads, L 8.
pub fn tensors() -> BTreeMap<String, HostTensor> {
    let shapes: [(&str, &[usize]); 20] = [
        ("vocab_embed.embedding", &[VOCAB, 8]),
        ("sigma_map.mlp.0.weight", &[4, 256]),
        ("sigma_map.mlp.0.bias", &[4]),
        ("sigma_map.mlp.2.weight", &[4, 4]),
        ("sigma_map.mlp.2.bias", &[4]),
        ("blocks.0.norm1.weight", &[8]),
        ("blocks.0.norm2.weight", &[8]),
        ("blocks.0.attn_qkv.weight", &[24, 8]),
        ("blocks.0.attn_out.weight", &[8, 8]),
        ("blocks.0.mlp.0.weight", &[32, 8]),
        ("blocks.0.mlp.0.bias", &[32]),
        ("blocks.0.mlp.2.weight", &[8, 32]),
        ("blocks.0.mlp.2.bias", &[8]),
        ("blocks.0.adaLN_modulation.weight", &[48, 4]),
        ("blocks.0.adaLN_modulation.bias", &[48]),
        ("output_layer.norm_final.weight", &[8]),
        ("output_layer.adaLN_modulation.weight", &[16, 4]),
        ("output_layer.adaLN_modulation.bias", &[16]),
        ("output_layer.linear.weight", &[VOCAB, 8]),
        ("output_layer.linear.bias", &[VOCAB]),
    ];
    let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 200.0;
    let tensor = |shape: &[usize]| HostTensor {
        shape: shape.to_vec(),
        data: (0..shape.iter().product::<usize>()).map(value).collect(),
    };
    shapes.iter().map(|(name, shape)| (format!("backbone.{name}"), tensor(shape))).collect()
}

pub const CONFIG: &str = r#"{"model_type":"mdlm","vocab_size":12,"model_length":8,"hidden_dim":8,"cond_dim":4,"n_blocks":1,"n_heads":2,"time_conditioning":false}"#;

pub fn file(tensors: &BTreeMap<String, HostTensor>) -> Vec<u8> {
    weights::to_bytes(&Weights { tensors: tensors.clone(), ..Weights::default() }).unwrap()
}

/// A place with the checkpoint in `model`.
fn place() -> Place {
    let place = Place::new();
    place.write("model/config.json", CONFIG);
    place.write("model/model.safetensors", file(&tensors()));
    place
}

const SAMPLE: [&str; 8] = ["sample", "model", "--ids", "-n", "1", "--steps", "2", "--seed"];

/// Samples from the model. None of these directories has a megabyte: whatever is in it, the command speaks within seconds
/// and takes little more memory than the program itself.
#[track_caller]
fn sample(place: &Place) -> Ran {
    let Watched { ran, peak, .. } = watch(place.command(&[&SAMPLE[..], &["1"]].concat()));
    assert!(peak <= MOST, "{} MiB for a small directory", peak >> 20);
    ran
}

/// A safetensors file with this header and so many bytes of data.
fn with_header(json: &[u8], data: usize) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json, &vec![0; data]].concat()
}

#[track_caller]
fn refused(bytes: &[u8], words: &[&str]) {
    let place = place();
    place.write("model/model.safetensors", bytes);
    sample(&place).fails(3, words);
}

#[test]
fn the_checkpoint_itself_is_read_and_sampled() {
    let out = sample(&place()).ok().out;
    let ids: Vec<usize> = out.split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert!(ids.len() == 8 && ids.iter().all(|id| *id < VOCAB - 1), "{out}");
}

#[test]
fn w01_a_mutated_file_loads_or_is_refused_in_a_second() {
    let good = file(&tensors());
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    // A fixed stream of mutations of the header: a byte changed, a piece cut out, a piece doubled.
    let mut state = 1u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let mut refused = 0;
    for _ in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..1 + next(3) {
            let (at, n) = (next(header), next(12));
            match next(3) {
                0 => bytes[at] = next(256) as u8,
                1 => drop(bytes.drain(at..(at + n).min(bytes.len()))),
                _ => {
                    let piece = bytes[at..(at + n).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        std::fs::write(dir.path().join(SINGLE), &bytes).unwrap();
        let begin = Instant::now();
        let options = LoadOptions { non_finite: NonFinite::Allow, ..LoadOptions::default() };
        if let Err(e) = family::load(dir.path(), &options, &Device::flex()) {
            assert_eq!(e.kind, Kind::Input, "{e}");
            refused += 1;
        }
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
    assert!(refused > 1500, "{refused}");
}

#[cfg(target_os = "linux")]
#[test]
fn w01_files_made_to_grow_in_memory_take_at_most_twice_their_size_and_64_mib() {
    let many = |of: &dyn Fn(usize) -> String, n: usize| (0..n).map(of).collect::<Vec<_>>().join(",");
    let empty = |i: usize| format!(r#""{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let text = |i: usize| format!(r#""{i:x}":"""#);
    let nested = "[".repeat(20_000_000);
    for (what, name, bytes) in [
        ("many tensors", SINGLE, with_header(format!("{{{}}}", many(&empty, 130_000)).as_bytes(), 0)),
        ("too many tensors", SINGLE, with_header(format!("{{{}}}", many(&empty, 1_000_000)).as_bytes(), 0)),
        (
            "free text",
            SINGLE,
            with_header(format!(r#"{{"__metadata__":{{{}}}}}"#, many(&text, 3_000_000)).as_bytes(), 0),
        ),
        ("nesting", SINGLE, with_header(format!(r#"{{"a":{nested}"#).as_bytes(), 0)),
        ("an announced header", SINGLE, [&99_999_999u64.to_le_bytes()[..], b"{\"a\":"].concat()),
        ("an index", INDEX, format!(r#"{{"weight_map":{{{}}}}}"#, many(&text, 2_500_000)).into_bytes()),
        ("a long index", INDEX, format!(r#"{{"weight_map":{{{}}}}}"#, many(&text, 4_000_000)).into_bytes()),
        ("a long config", "config.json", format!("[{}]", many(&|_| "1".into(), 4_000_000)).into_bytes()),
        ("a config", "config.json", format!("[{}]", many(&|_| "1".into(), 500_000)).into_bytes()),
    ] {
        let place = place();
        if name == INDEX {
            std::fs::remove_file(place.path("model/model.safetensors")).unwrap();
        }
        place.write(&format!("model/{name}"), &bytes);
        let Watched { ran, peak: most, .. } = watch(place.command(&["inspect", "model"]));
        println!("{what}: {} MiB of {} MiB", most >> 20, bytes.len() >> 20);
        assert_eq!(ran.code, 3, "{what}: {}", ran.err);
        // A command that was over before the first look has no figure, and took no time to grow.
        assert!(most <= 2 * bytes.len() as u64 + (64 << 20), "{what}: {most} for {}", bytes.len());
    }
}

#[test]
fn w02_wrong_lengths_and_texts_of_the_header() {
    let json = br#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let length = |n: u64| [&n.to_le_bytes()[..], json, &[0; 4]].concat();
    for (n, words) in [
        (0, "length is 0"),
        (1, "length is 1"),
        (7, "header: "),
        (1000, "bytes follow"),
        (100_000_001, "at most 100000000"),
        (1 << 63, "at most"),
        (u64::MAX, "at most"),
    ] {
        refused(&length(n), &["model.safetensors", words]);
    }
    refused(b"short", &["header length alone takes 8"]);
    refused(&with_header(b"{\"\xff\":1}", 0), &["not UTF-8"]);
    refused(&with_header(&[b" ", &json[..]].concat(), 4), &["model.safetensors"]);
    refused(&with_header(&[&json[..], b"x"].concat(), 4), &["trailing characters"]);
    refused(&with_header(json, 5), &["the tensors end at 4"]);
}

#[test]
fn w03_offsets_that_overlap_leave_holes_or_run_out_name_their_tensor() {
    let two = |a: [u64; 2], b: [u64; 2]| {
        let entry = |r: [u64; 2]| format!(r#"{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}"#, r[0], r[1]);
        with_header(format!(r#"{{"a":{},"b":{}}}"#, entry(a), entry(b)).as_bytes(), 8)
    };
    for (a, b, words) in [
        ([0, 4], [0, 4], "overlaps"),
        ([0, 4], [3, 7], "overlaps"),
        ([0, 4], [5, 9], "tensor `b`"),
        ([0, 4], [8, 4], "before its start"),
        ([0, 4], [4, 12], "8 bytes of data"),
        ([0, 4], [4, u64::MAX], "tensor `b`"),
        ([4, 8], [0, 3], "takes 4 bytes"),
    ] {
        refused(&two(a, b), &["model.safetensors", "tensor `", words]);
    }
    let step = (u64::MAX - 7) / 8;
    let entry = |i: u64| {
        format!(r#""t{i}":{{"dtype":"U8","shape":[{step}],"data_offsets":[{},{}]}}"#, i * step, (i + 1) * step)
    };
    let all = (0..8).map(entry).collect::<Vec<_>>().join(",");
    refused(&with_header(format!("{{{all}}}").as_bytes(), 8), &["tensor `t0`"]);
}

#[test]
fn w04_a_name_that_stands_twice() {
    let entry = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let other = entry.replace("[0,4]", "[4,8]");
    for header in [format!(r#"{{"x":{entry},"x":{entry}}}"#), format!(r#"{{"x":{entry},"x":{other}}}"#)] {
        refused(&with_header(header.as_bytes(), 8), &["duplicate tensor `x`"]);
    }
    refused(&with_header(br#"{"__metadata__":{"a":"","a":""}}"#, 0), &["duplicate key `a`"]);
    // The same parameter under two wrappers' names.
    let mut both = tensors();
    let one = both["backbone.blocks.0.norm1.weight"].clone();
    both.insert("ema.blocks.0.norm1.weight".into(), one);
    refused(&file(&both), &["are the same parameter"]);
}

#[test]
fn w05_every_type_that_is_known_loads_and_others_and_impossible_shapes_are_refused() {
    let place = place();
    let source = Store::open(&place.path("model")).unwrap();
    for dtype in [Dtype::F64, Dtype::F16, Dtype::Bf16, Dtype::F32] {
        let mut at = 0;
        let entries: Vec<_> = source.entries().collect();
        let described: Vec<_> = entries
            .iter()
            .map(|e| {
                let start = at;
                at += e.shape.iter().product::<usize>() * dtype.size();
                (e.name.as_str(), dtype, e.shape.as_slice(), start..at)
            })
            .collect();
        let mut bytes = weights::header_bytes(&BTreeMap::new(), &described).unwrap();
        for entry in &entries {
            bytes.extend(weights::to_dtype(&source.tensor(&entry.name, NonFinite::Refuse).unwrap().data, dtype));
        }
        let typed = self::place();
        typed.write("model/model.safetensors", bytes);
        sample(&typed).ok();
    }
    let one = |dtype: &str, shape: &str, end: usize| {
        let entry = format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
        with_header(entry.as_bytes(), end)
    };
    for (bytes, words) in [
        (one("F8_E4M3", "[4]", 4), "dtype `F8_E4M3` cannot be read"),
        (one("I4", "[8]", 4), "dtype `I4` cannot be read"),
        (one("f32", "[1]", 4), "dtype `f32` cannot be read"),
        (one("", "[1]", 4), "cannot be read"),
        (one("F32", "[4294967296,4294967296]", 4), "overflows"),
        (one("F32", "[9223372036854775807,9223372036854775807]", 4), "overflows"),
        (one("F32", &format!("[{}1]", "1,".repeat(64)), 4), "more than 64"),
        (one("F32", "[-1]", 4), "header: "),
        (one("F32", "[1.5]", 4), "header: "),
        // Nothing is wrong with these but that they are no model.
        (one("F32", "[]", 4), "belong to no supported family|no `vocab_embed.embedding`"),
        (one("F32", "[0,7]", 0), "belong to no supported family|no `vocab_embed.embedding`"),
        (one("I64", "[1]", 8), "no `vocab_embed.embedding`"),
    ] {
        let place = self::place();
        place.write("model/model.safetensors", bytes);
        let ran = sample(&place).fails(3, &[]);
        assert!(words.split('|').any(|w| ran.err.contains(w)), "{words}: {}", ran.err);
    }
}

#[test]
fn w06_tensors_that_are_missing_misshapen_or_extra() {
    let change = |f: &dyn Fn(&mut BTreeMap<String, HostTensor>)| {
        let mut all = tensors();
        f(&mut all);
        file(&all)
    };
    let names: Vec<String> = tensors().into_keys().filter(|n| !n.ends_with("embedding")).collect();
    for name in &names {
        refused(&change(&|all| drop(all.remove(name))), &["1 missing", name.trim_start_matches("backbone.")]);
    }
    let misshapen = |all: &mut BTreeMap<String, HostTensor>| {
        all.insert(names[0].clone(), HostTensor { shape: vec![3], data: vec![0.0; 3] });
    };
    refused(&change(&misshapen), &["1 of wrong shape", "[3]"]);
    let strangers = |all: &mut BTreeMap<String, HostTensor>| {
        (0..20).for_each(|i| drop(all.insert(format!("x.{i}"), HostTensor { shape: vec![1], data: vec![0.0] })));
    };
    let bytes = change(&strangers);
    let place = place();
    place.write("model/model.safetensors", bytes);
    let err = sample(&place).fails(3, &["20 extra", "more", "--ignore-extra"]).err;
    assert!(err.lines().count() < 16, "{err}");
    place.run(&[&SAMPLE[..], &["1", "--ignore-extra"]].concat()).ok();
}

/// The checkpoint in two files with an index that names the second one `name`, its file being called `file`.
fn sharded(place: &Place, name: &str) {
    let mut first = tensors();
    let second = BTreeMap::from([first.pop_last().unwrap()]);
    let map: BTreeMap<&String, &str> =
        first.keys().map(|n| (n, "a.safetensors")).chain(second.keys().map(|n| (n, name))).collect();
    place.write("model/a.safetensors", file(&first));
    place.write("model/b.safetensors", file(&second));
    place.write("outside.safetensors", file(&second));
    let _ = std::fs::remove_file(place.path("model/model.safetensors"));
    place.write(&format!("model/{INDEX}"), serde_json::json!({ "weight_map": map }).to_string());
}

#[test]
fn w07_no_name_in_an_index_and_no_link_leads_out_of_the_directory() {
    let place = place();
    sharded(&place, "b.safetensors");
    sample(&place).ok();
    let long = format!("{}.safetensors", "x".repeat(300));
    let absolute = place.path("outside.safetensors").display().to_string();
    for name in [
        "../outside.safetensors",
        "a/../../outside.safetensors",
        "./b.safetensors",
        "sub/b.safetensors",
        &absolute,
        "/etc/passwd",
        "/dev/zero",
        "C:\\b.safetensors",
        "..\\outside.safetensors",
        "b\0.safetensors",
        "",
        ".",
        "..",
        ".safetensors",
        "-b.safetensors",
        "․․/outside.safetensors",
        "．．／outside.safetensors",
        "~/b.safetensors",
        "b.safetensors/",
        "b.bin",
        "%2e%2e%2foutside.safetensors",
        "file:b.safetensors",
        "b.safetensors\n",
        " b.safetensors",
        &long,
    ] {
        sharded(&place, name);
        sample(&place).fails(3, &[INDEX, "is not a plain file name"]);
    }
    sharded(&place, "c.safetensors");
    sample(&place).fails(3, &["c.safetensors does not exist"]);
    sharded(&place, "a.safetensors");
    sample(&place).fails(3, &["do not agree", "is not in a.safetensors"]);
    let twice = r#"{"weight_map":{"a":"a.safetensors","a":"b.safetensors"}}"#;
    place.write(&format!("model/{INDEX}"), twice);
    sample(&place).fails(3, &["duplicate key `a`"]);
}

/// Links from inside the directory to something outside: a file that would do, a device, and a pipe without a writer,
/// which holds up whoever opens it.
#[cfg(unix)]
#[test]
fn w07_a_link_out_of_the_directory_is_not_opened() {
    let place = place();
    let pipe = place.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|s| s.success());
    let outside = place.write("outside.json", "{}");
    let mut targets: Vec<PathBuf> = vec![outside, "/dev/zero".into(), "/etc/passwd".into(), "nowhere".into()];
    targets.extend(made.then_some(pipe));
    // A pipe that is opened shows as a silence without an end.
    let run = sample;
    let read =
        ["config.json", SINGLE, "tokenizer.json", "generation_config.json", "tokenizer_config.json", "merges.txt"];
    for name in read {
        for target in &targets {
            let at = place.path("model").join(name);
            let kept = std::fs::read(&at).ok();
            let _ = std::fs::remove_file(&at);
            std::os::unix::fs::symlink(target, &at).unwrap();
            // A config.json that is no file is not even looked for.
            let words: &[&str] = if name == "config.json" { &[] } else { &[name, "lead"] };
            run(&place).fails(3, words);
            std::fs::remove_file(&at).unwrap();
            if let Some(bytes) = kept {
                std::fs::write(&at, bytes).unwrap();
            }
        }
    }
    // The pipe itself, in the directory.
    if made {
        let at = place.path("model/tokenizer.json");
        std::fs::rename(place.path("pipe"), &at).unwrap();
        run(&place).fails(3, &["tokenizer.json", "not a regular file"]);
        std::fs::remove_file(&at).unwrap();
    }
    // Shards too, and a snapshot of the hub's cache may lead to its blobs.
    sharded(&place, "b.safetensors");
    std::fs::remove_file(place.path("model/b.safetensors")).unwrap();
    std::os::unix::fs::symlink("../outside.safetensors", place.path("model/b.safetensors")).unwrap();
    run(&place).fails(3, &["b.safetensors", "leads out of its directory"]);
    let cache = Place::new();
    cache.write("m/blobs/0123", file(&tensors()));
    cache.write("m/snapshots/abc/config.json", CONFIG);
    std::os::unix::fs::symlink("../../blobs/0123", cache.path("m/snapshots/abc/model.safetensors")).unwrap();
    cache.run(&["sample", "m/snapshots/abc", "--ids", "-n", "1"]).ok();
    // Newer versions of huggingface_hub link the blobs of a repository to a store of the whole cache, and to no other place.
    for (blob, good) in [("../../blobs/ab/abcd", true), ("../../other/ab/abcd", false)] {
        let cache = Place::new();
        cache.write("hub/blobs/ab/abcd", file(&tensors()));
        cache.write("hub/other/ab/abcd", file(&tensors()));
        cache.write("hub/models--a--b/blobs/4567", CONFIG);
        let dir = cache.path("hub/models--a--b/snapshots/abc");
        std::fs::create_dir_all(&dir).unwrap();
        let link = |target: &str, path: PathBuf| std::os::unix::fs::symlink(target, path).unwrap();
        link(blob, cache.path("hub/models--a--b/blobs/0123"));
        link("../../blobs/0123", dir.join("model.safetensors"));
        link("../../blobs/4567", dir.join("config.json"));
        let ran = cache.run(&["sample", "hub/models--a--b/snapshots/abc", "--ids", "-n", "1"]);
        match good {
            true => drop(ran.ok()),
            false => drop(ran.fails(3, &["model.safetensors", "leads out of its directory"])),
        }
    }
}

/// What an export copies beside the weights is looked at before it is opened, too.
#[cfg(unix)]
#[test]
fn w07_a_link_out_of_the_directory_is_not_copied_into_an_export() {
    let place = place();
    let secret = place.write("secret", "of somewhere else");
    for name in ["LICENSE", "modeling.py", "README.md", "tokenizer.model"] {
        let at = place.path("model").join(name);
        std::os::unix::fs::symlink(&secret, &at).unwrap();
        let ran = place.run(&["export", "model", "--out", "exported"]);
        let copied = place.path("exported").join(name);
        if copied.exists() {
            assert_ne!(std::fs::read_to_string(copied).unwrap(), "of somewhere else", "{name}");
        } else if name != "tokenizer.model" {
            ran.fails(3, &[name, "leads out"]);
        }
        std::fs::remove_file(at).unwrap();
        let _ = std::fs::remove_dir_all(place.path("exported"));
    }
}

#[test]
fn w08_values_that_are_not_finite_are_counted_and_read_on_demand() {
    let place = place();
    let mut bad = tensors();
    bad.get_mut("backbone.output_layer.linear.bias").unwrap().data[..2].copy_from_slice(&[f32::NAN, f32::INFINITY]);
    bad.get_mut("backbone.blocks.0.norm1.weight").unwrap().data[0] = f32::NEG_INFINITY;
    place.write("model/model.safetensors", file(&bad));
    sample(&place)
        .fails(3, &["in 2 tensors", "linear.bias`: 2 of 12 values", "norm1.weight`: 1 of 8", "--allow-non-finite"]);
    // They are read then, and the predictions are no numbers.
    place.run(&[&SAMPLE[..], &["1", "--allow-non-finite"]].concat()).fails(5, &["not finite numbers"]);
}

#[test]
fn w09_files_of_another_kind_are_recognised_by_their_content() {
    for (bytes, words) in [
        (&b"PK\x03\x04\0\0\0\0\0\0\0\0"[..], ["PyTorch pickle", "torch.load"]),
        (b"\x80\x02}q\0X\x01\0\0\0", ["PyTorch pickle", "save_file"]),
        (b"GGUF\x03\0\0\0\0\0\0\0", ["GGUF", "quantised"]),
        (b"<!DOCTYPE html><html>", ["a web page", "login"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", ["git-lfs pointer", "git lfs pull"]),
        (b"{\"error\":\"gated\"}", ["JSON text", "error message"]),
        (b"", ["is empty", "load it again"]),
    ] {
        refused(bytes, &words);
    }
    let place = place();
    std::fs::remove_file(place.path("model/model.safetensors")).unwrap();
    place.write("model/pytorch_model.bin", b"PK\x03\x04");
    sample(&place).fails(3, &["model.safetensors"]);
}

fn study(place: &Place, extra: &str, text: &str) {
    place.write("text.txt", text.repeat(40));
    let recipe = format!(
        r#"
name = "study"
[data.text]
path = "text.txt"
tokenizer = "char"
length = 8
[model.judge]
seed = 9
order = "left_to_right"
objective.ar_nll = {{}}
network = {{ dim = 8, layers = 1, heads = 2, visibility = "causal", shift = true }}
train = {{ steps = 1, batch = 2, lr = 1e-3 }}
[model.teacher]
from = "model"
{extra}
order = "parallel"
objective.elbo = {{}}
train = {{ steps = 0, batch = 2, lr = 1e-3 }}
[eval]
samples = 2
batch = 2
steps = [2]
held_out = 2
judge = "judge"
speed_repeats = 1
[export]
models = ["teacher"]
"#
    );
    place.write("study.toml", recipe);
}

#[test]
fn w10_weights_of_another_hash_than_the_recipes_are_refused() {
    let place = place();
    let hash = fewstep::fs::sha256_file(&place.path("model/model.safetensors")).unwrap();
    let check = ["recipe", "check", "study.toml"];
    study(&place, &format!("sha256 = \"{}\"", "0".repeat(64)), "abc ab a ");
    place.run(&check).fails(3, &["model.teacher.sha256", &hash]);
    study(&place, &format!("sha256 = \"{hash}\""), "abc ab a ");
    place.run(&check).ok();
    study(&place, "sha256 = \"abc\"", "abc ab a ");
    let ran = place.run(&check).fails(2, &["model.teacher.sha256", "64", "`sha256sum FILE` prints them"]);
    // What the command prints is what the key takes.
    let printed = std::process::Command::new("sha256sum").arg(place.path("model/model.safetensors")).output();
    if let Ok(printed) = printed {
        assert!(String::from_utf8(printed.stdout).unwrap().starts_with(&hash), "{}", ran.err);
    }
    study(&place, "sha256 = \"abc\"", "abc ab a ");
    let recipe = std::fs::read_to_string(place.path("study.toml")).unwrap().replace("from = \"model\"\n", "");
    place.write("study.toml", recipe);
    place.run(&check).fails(2, &["model.teacher"]);
}

#[test]
fn w11_a_tokenizer_that_is_not_the_models_is_refused_before_any_tensor() {
    let place = place();
    // Eleven characters and the mask fit; more do not.
    study(&place, "", "abcdefghij ");
    place.run(&["recipe", "check", "study.toml"]).ok();
    study(&place, "", "abcdefghijk ");
    // The tensors are broken too: that is not what is told.
    let mut bad = tensors();
    bad.get_mut("backbone.output_layer.linear.bias").unwrap().data[0] = f32::NAN;
    place.write("model/model.safetensors", file(&bad));
    place.run(&["recipe", "check", "study.toml"]).fails(3, &["different tokenizers", "hint:"]);
    let words: BTreeMap<String, usize> = (0..40).map(|i| (format!("w{i}"), i)).collect();
    let tokenizer = serde_json::json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "w0" } });
    place.write("tokenizer.json", tokenizer.to_string());
    place.run(&["sample", "model", "--tokenizer", "tokenizer.json"]).fails(3, &["40 tokens", "knows 12"]);
    place.run(&["sample", "model"]).fails(3, &["no tokenizer", "--tokenizer", "--ids"]);
}

#[cfg(unix)]
#[test]
fn w12_an_export_is_the_file_it_came_from_and_its_mode_follows_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let place = place();
    study(&place, "", "abc ab a ");
    let run = format!("umask 027; exec '{}' run study.toml --threads 1", env!("CARGO_BIN_EXE_fewstep"));
    let ran = std::process::Command::new("sh").args(["-c", &run]).current_dir(place.path("")).output().unwrap();
    Ran::from(ran, &["run"]).ok();
    let exported = place.path("runs/study/export/teacher");
    for name in [SINGLE, "config.json"] {
        let at = exported.join(name);
        assert_eq!(std::fs::read(&at).unwrap(), std::fs::read(place.path("model").join(name)).unwrap(), "{name}");
        assert_eq!(std::fs::metadata(&at).unwrap().permissions().mode() & 0o777, 0o640, "{name}");
    }
}

#[test]
fn w13_a_file_that_changes_while_it_is_read_is_an_error_or_its_old_content() {
    let place = place();
    let at = place.path("model/model.safetensors");
    let good = std::fs::read(&at).unwrap();
    let name = "backbone.output_layer.linear.bias";
    let read = |change: &dyn Fn(&Path)| {
        std::fs::write(&at, &good).unwrap();
        let store = Store::open(&at).unwrap();
        change(&at);
        store.tensor(name, NonFinite::Refuse)
    };
    let want = &tensors()[name];
    for cut in [0, 4, 8, good.len() / 2, good.len() - 1] {
        let e = read(&|at| std::fs::write(at, &good[..cut]).unwrap()).unwrap_err();
        assert!(e.kind == Kind::Input && e.to_string().contains("was changed while"), "{e}");
    }
    let e = read(&|at| std::fs::write(at, [&good[..], b"more"].concat()).unwrap()).unwrap_err();
    assert!(e.kind == Kind::Input, "{e}");
    // Another file in its place: the open one is still whole.
    assert_eq!(read(&|at| std::fs::remove_file(at).unwrap()).as_ref().ok(), Some(want));
    let swap = |at: &Path| {
        std::fs::write(at.with_extension("new"), b"x").unwrap();
        std::fs::rename(at.with_extension("new"), at).unwrap();
    };
    assert_eq!(read(&swap).as_ref().ok(), Some(want));
    // And in any moment of a load.
    std::fs::write(&at, &good).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                std::fs::write(&at, &good[..good.len() - i % good.len()]).unwrap();
            }
        });
        for _ in 0..200 {
            match family::load(&place.path("model"), &LoadOptions::default(), &Device::flex()) {
                Ok(_) => {}
                Err(e) => assert_eq!(e.kind, Kind::Input, "{e}"),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
