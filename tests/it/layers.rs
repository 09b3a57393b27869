//! The layers of ARCHITECTURE.md: a module uses only lower ones.

use std::path::Path;

/// Modules by layer, lowest first.
const LAYERS: [&[&str]; 12] = [
    &["error", "shown", "rng", "room", "fs", "hub", "term", "profile", "alloc"],
    &["process", "data", "weights"],
    &["kernels"],
    &["model"],
    &["loss", "optim"],
    &["method"],
    &["sample"],
    &["train", "eval"],
    &["report", "gate", "checkpoint"],
    &["recipe"],
    &["study"],
    &["commands", "cli", "main", "lib"],
];

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|l| l.contains(&module)).unwrap_or_else(|| panic!("`{module}` is in no layer"))
}

fn sources(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn a_module_uses_only_its_own_and_lower_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30);
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let own = first.trim_end_matches(".rs");
        // Files of tests may reach upwards, for fixtures.
        if own == "lib" || own == "main" || inside.ends_with("tests.rs") || inside.iter().any(|c| c == "tests") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        // Tests may reach upwards, for fixtures.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (at, _) in code.match_indices("crate::") {
            let rest = &code[at + 7..];
            // `use crate::{a, b::c};` names several.
            let names: Vec<&str> = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap().split(',').collect(),
                None => vec![rest],
            };
            for name in names {
                let used = name.trim().split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
                if used.is_empty() || used == own || used == "self" {
                    continue;
                }
                assert!(
                    layer(used) < layer(own)
                        || (layer(own) == layer(used) && layer(own) == 0)
                        || layer(own) == LAYERS.len() - 1,
                    "{} uses `{used}`, which is not below `{own}`",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn nothing_outside_tests_unwraps_or_leaves_work_undone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        if file.file_name().is_some_and(|n| n.to_string_lossy().contains("test") || n == "fixture.rs")
            || file.iter().any(|c| c == "tests")
        {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for word in [".unwrap()", ".expect(\"", "todo!(", "unimplemented!(", "dbg!("] {
            assert!(!code.contains(word), "{} has {word}", file.display());
        }
    }
}

/// Files are opened in `fs`, which refuses what may never end or never begin: pipes, devices, files longer than a limit.
#[test]
fn no_file_is_read_but_through_the_guarded_reads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let is_test = inside.to_string_lossy().contains("tests") || inside.ends_with("fixture.rs");
        // What the kernel says of memory is in files that have no length.
        if is_test || inside.starts_with("fs") || inside.ends_with("room.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for word in ["fs::read(", "read_to_string(", "File::open(", "OpenOptions::new().read("] {
            assert!(!code.contains(word), "{} has {word}: `fs::read_limited` or `fs::open` is meant", file.display());
        }
    }
}
