//! The tables of this directory know every hint in `src` that can be followed.

use std::path::Path;

use super::TOP;
use super::commands::{CASES as COMMANDS, PUBLIC};
use super::recipes::CASES as RECIPES;

/// Hints that no test can follow to the letter: a part of the text, and why.
const NAMED: &[(&str, &str)] = &[
    ("`cargo build --release --features ", "builds another binary"),
    ("{}, and so does `--device flex`", "is about a GPU that ran out of memory"),
    ("give fewer with `--threads N`", "followed in memory.rs"),
    ("` fits, and so does `", "followed in memory.rs"),
    ("--set {key}=true` fits", "followed in memory.rs"),
    ("`--set eval.batch={n}` fits", "followed in memory.rs"),
    ("not even one sequence fits; ", "followed in memory.rs"),
    ("try a smaller batch, or `--device flex`", "is about a GPU that ran out of memory"),
    ("`fewstep inspect DIR` shows the largest weight", "is about a network whose predictions are not finite"),
    ("give a directory written by `fewstep export`", "is about a directory of the user's"),
    ("give the run directory, or what `fewstep export` writes", "is about a directory of the user's"),
    ("`fewstep run quickstart` makes", "takes minutes; the README's test runs it"),
    ("`sample --allow-non-finite` reads a public checkpoint", "followed in hostile.rs"),
    ("`sample --ignore-extra`, or `ignore_extra = true`", "followed in hostile.rs"),
    ("leave `--adapters` out to export the merged network", "the same option as of a model without adapters"),
    ("use `--prompt`", "names no text"),
    ("did you mean `--device {near}`?", "the command line is read before, and refuses it there"),
    ("`--device {kind}:0`", "the command line is read before, and refuses it there"),
    ("`--device {kind}`", "the command line is read before, and refuses it there"),
    ("`--device flex` runs on the processor", "is about a GPU that is not there"),
    ("leave `--trace` out", "is about a model over blocks of this program's own"),
    ("for example `{key} = [0]`", "is about a checkpoint of one family"),
    ("give the beginning of a text by `--prompt`", "names no text"),
    ("the tokenizer (`--tokenizer PATH`), must name it", "is about a file of the user's"),
    ("train it anew: `", "followed in bound.rs"),
    ("train anew: `", "followed in bound.rs"),
    ("leave one of the two out, or give `--only ", "followed in bound.rs"),
    ("evaluate again: `fewstep eval ", "followed in bound.rs"),
    ("`fewstep eval RUN`", "followed in bound.rs"),
    ("go on with fewstep ", "names another version of the program"),
    ("choose another `--out`, or undo these changes", "`run` says it with the directory's name"),
    ("`data.text.tokenizer = {{ dir = {{ path = ", "names a directory of the user's"),
    ("name the line between two documents: `", "followed in documents.rs"),
    ("each row is a document with `", "followed in documents.rs"),
    ("one that is trained on the text has it: `", "followed in documents.rs"),
    ("take a longer text, or `data.text.tokenizer.train.bpe = ", "followed in documents.rs"),
];

/// Whether a literal names a command, an option or a setting.
fn followable(text: &str) -> bool {
    let option = text.match_indices("--").any(|(at, _)| text[at + 2..].starts_with(|c: char| c.is_ascii_lowercase()));
    let command = text.contains("fewstep ") || text.contains("`cargo ");
    let setting = text.split('`').skip(1).step_by(2).any(|part| {
        part.split_once(" = ").is_some_and(|(key, value)| {
            (key.starts_with('{') || TOP.contains(&key.split('.').next().unwrap_or_default())) && !value.contains("..")
        })
    });
    option || command || setting
}

/// The string literals inside of the call whose arguments start at `from`.
fn literals(source: &str, from: usize) -> Vec<String> {
    let (mut depth, mut found) = (1, Vec::new());
    let mut chars = source[from..].chars();
    while let Some(c) = chars.next() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => match chars.next() {
                            // A line that goes on: what stands in front of its first letter is not part of it.
                            Some('\n') => {
                                let rest = chars.as_str();
                                chars = rest.trim_start().chars();
                            }
                            Some(escaped) => text.push(escaped),
                            None => {}
                        },
                        '"' => break,
                        c => text.push(c),
                    }
                }
                found.push(text);
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// The constant pieces of a format string; `{{` is a brace.
fn pieces(literal: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut chars = literal.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' | '}' if chars.peek() == Some(&c) => {
                chars.next();
                pieces.last_mut().unwrap().push(c);
            }
            '{' => {
                chars.by_ref().take_while(|c| *c != '}').for_each(drop);
                pieces.push(String::new());
            }
            c => pieces.last_mut().unwrap().push(c),
        }
    }
    pieces
}

/// Whether a hint is one that the literal makes; the hint may end before the literal does.
fn made(literal: &str, hint: &str) -> bool {
    let pieces = pieces(literal);
    let whole: usize = pieces.iter().map(|p| p.trim().len()).sum();
    // What has nearly no words of its own would fit any hint.
    let mut rest = hint;
    for piece in pieces.iter().map(|p| p.trim()).filter(|p| !p.is_empty() && *p != "`") {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    whole > 0
}

fn sources(dir: &Path, all: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        if entry.is_dir() {
            sources(&entry, all);
        } else if name.ends_with(".rs") && !name.contains("tests") {
            let text = std::fs::read_to_string(&entry).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_string();
            all.push((entry.display().to_string(), code));
        }
    }
}

#[test]
fn every_hint_that_can_be_followed_is_in_a_table() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let known: Vec<&str> =
        RECIPES.iter().map(|case| case.2).chain(COMMANDS.iter().chain(PUBLIC).map(|case| case.hint)).collect();
    let (mut seen, mut missing) = (0, Vec::new());
    for (file, code) in &files {
        for call in ["hint(", "or_hint("] {
            for (at, _) in code.match_indices(&format!(".{call}")) {
                for literal in literals(code, at + call.len() + 1).into_iter().filter(|l| followable(l)) {
                    seen += 1;
                    let named = NAMED.iter().any(|(part, _)| literal.contains(part));
                    if !named && !known.iter().any(|hint| made(&literal, hint)) {
                        missing.push(format!("{file}: {literal}"));
                    }
                }
            }
        }
    }
    assert!(seen > 80, "only {seen} hints were found in src");
    assert!(
        missing.is_empty(),
        "no test follows these hints (tests/it/hints/mod.rs says how to add them):\n{}",
        missing.join("\n")
    );
}

#[test]
fn a_literal_is_found_in_the_hint_that_it_makes_and_in_no_other() {
    assert!(made("`{key}.heads = {heads}`", "`model.ar.network.heads = 2`"));
    assert!(!made("`{key}.heads = {heads}`", "`model.ar.network.kv_head = 2`"));
    assert!(made("for example `{key}.range = {{ low = 0.3 }}`", "for example `a.range = { low = 0.3 }`"));
    assert!(
        followable("leave `--model` out") && followable("`{}.width = {}`") && followable("run `fewstep recipe list`")
    );
    assert!(!followable("leave `keep_layers` out") && !followable("write `schedule = \"cosine\"`"));
    let code = ".hint(match x { true => \"one\", false => format!(\"two \\\n    {}\", f(1)) }) + \"three\"";
    assert_eq!(literals(code, ".hint(".len()), ["one", "two {}"]);
}
