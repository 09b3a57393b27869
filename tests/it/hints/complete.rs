//! The tables of this directory know every hint in `src` that can be followed.

use std::path::Path;

use super::TOP;
use super::commands::{CASES as COMMANDS, PUBLIC};
use super::recipes::CASES as RECIPES;

/// Why a hint is in neither of the other tables.
enum Why {
    /// This test of another file follows it.
    Test(&'static str),
    /// No test can follow it to the letter.
    Untested(&'static str),
}

/// Hints that are not followed in this directory, each by its whole literal: a new one with the same words is noticed.
const NAMED: &[(&str, Why)] = &[
    ("give fewer with `--threads N`", Why::Test("memory::threads_that_the_system_refuses_are_told_and_fewer_start")),
    (
        "`--set {key}=true` fits, and so does `{}`",
        Why::Test("memory::a_training_that_does_not_fit_is_refused_before_it_begins_and_what_the_hint_names_fits"),
    ),
    ("`{}` fits, and so does `{} --set {key}=true`", Why::Test("memory::following_the_hint_removes_the_error")),
    ("`{} --set {key}=true` fits", Why::Test("memory::following_the_hint_removes_the_error")),
    (
        "`--set {key}=true` fits",
        Why::Test(
            "memory::the_hint_of_a_training_that_goes_on_with_less_memory_names_what_may_change_in_its_directory",
        ),
    ),
    ("`--set eval.batch={n}` fits", Why::Test("memory::following_the_hint_removes_the_error")),
    (
        "not even one sequence fits; `--set {}.dim=N` with N below {} makes a smaller network",
        Why::Test("memory::a_network_of_which_not_one_sequence_fits_is_made_smaller_by_the_hint"),
    ),
    (
        "`-n 1 --mbr {n}` fits",
        Why::Test("memory::a_model_or_a_batch_that_does_not_fit_is_not_sampled_and_what_the_hint_names_fits"),
    ),
    (
        "`-n 1` without `--mbr` fits",
        Why::Test("memory::a_model_or_a_batch_that_does_not_fit_is_not_sampled_and_what_the_hint_names_fits"),
    ),
    (
        "the training that wrote it has probably failed; `sample --allow-non-finite` reads a public checkpoint all the same",
        Why::Test("hostile::w08_values_that_are_not_finite_are_counted_and_read_on_demand"),
    ),
    (
        "to load a public checkpoint without the extra tensors: `sample --ignore-extra`, or `ignore_extra = true` beside `from`",
        Why::Test("hostile::w06_tensors_that_are_missing_misshapen_or_extra"),
    ),
    (
        "`sha256sum FILE` prints them; leave the key out to take any weights",
        Why::Test("hostile::w10_weights_of_another_hash_than_the_recipes_are_refused"),
    ),
    (
        "give at least `{key} = {}`, or train it anew: `{}`",
        Why::Test("bound::a_longer_training_equals_one_that_was_as_long_from_the_start"),
    ),
    (
        "set `{key} = {have}`, or train it anew: `{}`",
        Why::Test("bound::a_longer_training_equals_one_that_was_as_long_from_the_start"),
    ),
    (
        "undo the change, give another `--out DIR`, or train anew: `{}`",
        Why::Test("bound::a_student_is_not_left_beside_another_teacher_than_its_own"),
    ),
    (
        "put back what was there, give another `--out DIR`, or train anew: `{}`",
        Why::Test("bound::a_corpus_that_changed_is_refused_with_both_hashes_by_every_command_that_reads_it"),
    ),
    (
        "leave one of the two out, or give `--only {name}`",
        Why::Test("bound::retrain_refuses_names_that_cannot_be_meant"),
    ),
    (
        "evaluate again: `fewstep eval {}`",
        Why::Test("bound::a_corpus_that_changed_is_refused_with_both_hashes_by_every_command_that_reads_it"),
    ),
    (
        "evaluate the study again (`fewstep eval RUN`); of a change that is meant, delete the key `sha256` at the end",
        Why::Test("bound::results_that_were_edited_are_refused_by_report_and_gate"),
    ),
    (
        "move it away, `mv {} {}`, then type the same command again: the log then begins at step {}",
        Why::Test("bound::a_log_that_was_changed_is_told_with_its_line_and_the_hint_lets_the_training_go_on"),
    ),
    (
        "`rm {}`, then the same command evaluates the model again",
        Why::Test("bound::a_stored_evaluation_with_one_changed_byte_is_refused_and_the_hint_mends_it"),
    ),
    (
        "`rm -r {}` has it copied anew by the same command",
        Why::Test("bound::models_that_seeds_share_are_one_model_or_refused"),
    ),
    (
        "take it away: `sed -i '1s/^\\xEF\\xBB\\xBF//' {}`",
        Why::Test("bound::a_first_run_that_fails_on_its_data_leaves_nothing_and_the_mended_recipe_runs"),
    ),
    (
        "move it to another place (`mv {from} {to}`), then run the same command",
        Why::Test("kept::a_directory_at_the_place_of_an_export_that_fewstep_did_not_write_is_refused_and_stays"),
    ),
    (
        "remove the link: `rm {}`",
        Why::Test("kept::nothing_is_written_or_removed_through_a_link_inside_a_run_and_the_hint_helps"),
    ),
    (
        "copy it to a place that you may write to (`cp -r {shown} COPY && chmod -R u+w COPY`), and name that",
        Why::Test(
            "kept::a_run_that_may_not_be_written_to_is_exported_reported_and_sampled_and_what_must_write_says_how",
        ),
    ),
    ("`cargo build --release --features {other}`", Why::Untested("builds another binary")),
    ("{}, and so does `--device flex`", Why::Untested("is about a GPU that ran out of memory")),
    ("try a smaller batch, or `--device flex`", Why::Untested("is about a GPU that ran out of memory")),
    ("`--device flex` runs on the processor", Why::Untested("is about a GPU that is not there")),
    (
        "`fewstep inspect DIR` shows the largest weight of each tensor",
        Why::Untested("is about a network whose predictions are not finite"),
    ),
    (
        "give a directory written by `fewstep export`, or a run directory",
        Why::Untested("is about a directory of the user's"),
    ),
    ("give the run directory, or what `fewstep export` writes", Why::Untested("is about a directory of the user's")),
    (
        "`fewstep run quickstart` makes one in runs/quickstart",
        Why::Untested("takes minutes; the README's test runs it"),
    ),
    (
        "`fewstep run quickstart` makes a run in runs/quickstart",
        Why::Untested("takes minutes; the README's test runs it"),
    ),
    (
        "leave `--adapters` out to export the merged network",
        Why::Untested("the same option as of a model without adapters"),
    ),
    ("use `--prompt`", Why::Untested("names no text")),
    ("give the beginning of a text by `--prompt`", Why::Untested("names no text")),
    ("did you mean `--device {near}`?", Why::Untested("the command line is read before, and refuses it there")),
    ("`--device {kind}:0`", Why::Untested("the command line is read before, and refuses it there")),
    ("`--device {kind}`", Why::Untested("the command line is read before, and refuses it there")),
    ("leave `--trace` out", Why::Untested("is about a model over blocks of this program's own")),
    ("for example `{key} = [0]`", Why::Untested("is about a checkpoint of one family")),
    (
        "`mask_token_id` in config.json, or the tokenizer (`--tokenizer PATH`), must name it",
        Why::Untested("is about a file of the user's"),
    ),
    (
        "undo the change, give another `--out DIR`, or train it anew: `{}`",
        Why::Untested("a study says it before its training does"),
    ),
    ("evaluate the study again: `fewstep eval RUN`", Why::Untested("the command is that of results that were edited")),
    (
        "go on with fewstep {}, or train again with another `--out DIR`",
        Why::Untested("names another version of the program"),
    ),
    (
        "leave `{key}` out, and give the data the tokenizer of the checkpoint: `data.text.tokenizer = {{ dir = {{ path = \"{place}\" }} }}`",
        Why::Untested("names a directory of the user's"),
    ),
    ("`data.text.tokenizer = {{ dir = {{ path = \"{place}\" }} }}`", Why::Untested("names a directory of the user's")),
    (
        "name the line between two documents: `data.text.documents = \"<|endoftext|>\"`",
        Why::Test("documents::settings_of_documents_that_do_not_fit_the_text_are_told_with_their_place"),
    ),
    (
        "each row is a document with `data.text.documents = true`",
        Why::Test("documents::settings_of_documents_that_do_not_fit_the_text_are_told_with_their_place"),
    ),
    (
        "one that is trained on the text has it: `data.text.tokenizer = { train = { bpe = 2048 } }`",
        Why::Test("documents::settings_of_documents_that_do_not_fit_the_text_are_told_with_their_place"),
    ),
    (
        "take a longer text, or `data.text.tokenizer.train.bpe = {}`",
        Why::Test("documents::settings_of_documents_that_do_not_fit_the_text_are_told_with_their_place"),
    ),
    (
        "a list repeats along the text: `{ phases = [0, 2, 1, 2] }`",
        Why::Test("phases::phases_that_cannot_be_trained_or_read_are_refused_with_a_hint_that_works"),
    ),
    (
        "for instance `{ within = { block = 32, order = { strided = 4 } } }`",
        Why::Test("phases::phases_that_cannot_be_trained_or_read_are_refused_with_a_hint_that_works"),
    ),
    (
        "a number of phases, for instance `{ strided = 8 }`, or a mixture of several",
        Why::Test("phases::phases_that_cannot_be_trained_or_read_are_refused_with_a_hint_that_works"),
    ),
    (
        "for instance `--steps {} --period {longest}`",
        Why::Test("phases::a_study_of_students_in_phases_runs_resumes_and_says_what_held_out_text_costs"),
    ),
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
    let shell = text
        .split('`')
        .skip(1)
        .step_by(2)
        .any(|part| ["cp ", "mv ", "rm ", "sed ", "sha256sum "].iter().any(|program| part.starts_with(program)));
    option || command || setting || shell
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
    let (mut seen, mut missing, mut literals_seen) = (0, Vec::new(), Vec::new());
    for (file, code) in &files {
        for call in ["hint(", "or_hint("] {
            for (at, _) in code.match_indices(&format!(".{call}")) {
                for literal in literals(code, at + call.len() + 1).into_iter().filter(|l| followable(l)) {
                    seen += 1;
                    let named = NAMED.iter().any(|(whole, _)| literal == *whole);
                    literals_seen.push(literal.clone());
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
    let gone: Vec<&str> =
        NAMED.iter().map(|(whole, _)| *whole).filter(|whole| !literals_seen.iter().any(|l| l == whole)).collect();
    assert!(gone.is_empty(), "no hint in src has these literals:\n{}", gone.join("\n"));
}

#[test]
fn the_tests_that_follow_other_hints_are_there() {
    for (literal, why) in NAMED {
        match why {
            Why::Test(test) => {
                let (file, name) = test.split_once("::").unwrap();
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(format!("{file}.rs"));
                let text = std::fs::read_to_string(path).unwrap();
                assert!(text.contains(&format!("\nfn {name}()")), "{literal}: no test {test}");
            }
            Why::Untested(reason) => assert!(!reason.is_empty(), "{literal}"),
        }
    }
}

#[test]
fn a_literal_is_found_in_the_hint_that_it_makes_and_in_no_other() {
    assert!(made("`{key}.heads = {heads}`", "`model.ar.network.heads = 2`"));
    assert!(!made("`{key}.heads = {heads}`", "`model.ar.network.kv_head = 2`"));
    assert!(made("for example `{key}.range = {{ low = 0.3 }}`", "for example `a.range = { low = 0.3 }`"));
    assert!(
        followable("remove the link: `rm {}`")
            && followable("leave `--model` out")
            && followable("`{}.width = {}`")
            && followable("run `fewstep recipe list`")
    );
    assert!(!followable("leave `keep_layers` out") && !followable("write `schedule = \"cosine\"`"));
    let code = ".hint(match x { true => \"one\", false => format!(\"two \\\n    {}\", f(1)) }) + \"three\"";
    assert_eq!(literals(code, ".hint(".len()), ["one", "two {}"]);
}
