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
    &["library", "prelude", "commands", "cli", "main", "lib"],
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

/// Every file of the crate.
pub fn files_of_src() -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    files
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

/// The code of a source file without its tests and comments.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules that `text` names behind `prefix`, alone or in a list.
fn named(text: &str, prefix: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (at, _) in text.match_indices(prefix) {
        let rest = &text[at + prefix.len()..];
        let list = match rest.strip_prefix('{') {
            None => rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap().to_string(),
            Some(list) => {
                // The names of the first level alone.
                let mut depth = 1;
                let chars = list.chars().take_while(|c| {
                    depth += i32::from(*c == '{') - i32::from(*c == '}');
                    depth > 0
                });
                let mut deep = 0;
                let flat = chars.filter(|c| {
                    let before = deep;
                    deep += i32::from(*c == '{') - i32::from(*c == '}');
                    before == 0 && deep == 0
                });
                flat.collect()
            }
        };
        out.extend(list.split(',').map(|name| name.trim().split([':', ' ']).next().unwrap().to_string()));
    }
    out
}

#[test]
fn no_modules_of_a_folder_use_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let tests = |f: &&std::path::PathBuf| {
        let name = f.file_stem().unwrap().to_str().unwrap();
        // Fixtures are of tests, and may reach anywhere.
        !(name.ends_with("tests") || name == "fixture" || f.iter().any(|part| part == "tests"))
    };
    let mut folders: std::collections::BTreeMap<_, Vec<_>> = std::collections::BTreeMap::new();
    for file in files.iter().filter(tests) {
        // A file counts in its own folder, and as a part of its module in the folder above.
        let inside = file.strip_prefix(&root).unwrap().with_extension("");
        let parts: Vec<String> = inside.iter().map(|p| p.to_str().unwrap().to_string()).collect();
        for depth in 1..parts.len() {
            let (folder, module) = (parts[..depth].to_vec(), parts[depth].clone());
            if module == "mod" {
                continue;
            }
            let text = code(file);
            let above = "super::".repeat(parts.len() - depth - usize::from(parts[parts.len() - 1] == "mod"));
            let mut uses = named(&text, &format!("crate::{}::", folder.join("::")));
            if !above.is_empty() {
                // Not one of a longer path upwards.
                uses.extend(named(&text.replace(&format!("super::{above}"), "..."), &above));
            }
            folders.entry(folder).or_default().push((module, uses));
        }
    }
    assert!(folders.len() > 10);
    for (folder, uses) in &folders {
        let next = |module: &str| -> Vec<&str> {
            let own = uses.iter().filter(|(name, _)| name == module).flat_map(|(_, uses)| uses);
            let known = |name: &&String| *name != module && uses.iter().any(|(other, _)| other == *name);
            own.filter(known).map(String::as_str).collect()
        };
        for (module, _) in uses {
            let (mut seen, mut open) = (std::collections::BTreeSet::new(), next(module));
            while let Some(name) = open.pop() {
                if seen.insert(name) {
                    open.extend(next(name));
                }
            }
            assert!(
                !seen.contains(module.as_str()),
                "`{module}` of src/{} uses itself, by way of others",
                folder.join("/")
            );
        }
    }
}

#[test]
fn a_method_is_asked_for_in_one_place_and_the_loop_knows_none() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mentions = |f: &std::path::PathBuf| {
        let text = std::fs::read_to_string(f).unwrap();
        let variant = |(at, _): &(usize, &str)| text[at + 11..].starts_with(|c: char| c.is_ascii_uppercase());
        text.match_indices("Objective::").filter(variant).count()
    };
    let found: Vec<_> = files.iter().map(|f| (f, mentions(f))).filter(|(_, n)| *n > 0).collect();
    assert!(found.len() <= 3 && found.iter().map(|(_, n)| n).sum::<usize>() <= 40, "{found:?}");
    let fields = |file: &str, of: &str| {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let body = text.split(&format!("pub struct {of}")).nth(1).unwrap().split("\n}").next().unwrap().to_string();
        body.matches("\n    pub ").count()
    };
    assert!((1..=10).contains(&fields("train/mod.rs", "Job<")));
    assert!((1..=8).contains(&fields("train/state.rs", "TrainState<")), "what a method keeps is in its `training`");
    let verbs: usize = files
        .iter()
        .filter(|f| f.strip_prefix(&root).unwrap().starts_with("commands"))
        .map(|f| std::fs::read_to_string(f).unwrap().lines().count())
        .sum();
    assert!((500..=1600).contains(&verbs), "{verbs} lines of verbs");
}

#[test]
fn no_function_outside_the_kernels_is_longer_than_eighty_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut seen = 0;
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        if inside.starts_with("kernels") || inside.to_str().unwrap().contains("tests") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let words = line.trim_start();
            let begins = ["fn ", "pub fn ", "pub(super) fn ", "pub(crate) fn ", "const fn "]
                .iter()
                .any(|w| words.starts_with(w));
            if !begins || line.ends_with(';') || line.ends_with('}') {
                continue;
            }
            let indent = &line[..line.len() - words.len()];
            let end = format!("{indent}}}");
            let Some(length) = lines[at..].iter().position(|l| *l == end) else { continue };
            assert!(length < 80, "{}: {} lines: {words}", inside.display(), length + 1);
            seen += 1;
        }
    }
    assert!(seen > 1000, "{seen} functions");
}
