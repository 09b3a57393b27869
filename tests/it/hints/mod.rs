//! Every hint that names a command, an option or a setting is followed here, and the error is then gone.
//!
//! * `recipes`: errors of recipes; the hint is applied as a `--set`.
//! * `commands`: errors of the real binary; the hint is applied to the command line, or run.
//! * `complete`: every such hint in `src` is among the hints of the two tables.
//!
//! To add a hint: add a case with the recipe or the command that gives it to one of the tables. The case says the words of the
//! hint; `complete` finds the literal in `src` by them. A hint that a test elsewhere follows goes to `complete::NAMED` with that
//! test, and one that only names what somebody else has (a path of theirs, a GPU) with the reason.

mod commands;
mod complete;
mod recipes;

pub use recipes::{CASES, read};

/// First keys of a recipe.
const TOP: [&str; 8] = ["name", "seed", "seeds", "data", "model", "eval", "gate", "export"];

/// What stands in backticks.
fn quoted(hint: &str) -> Vec<&str> {
    hint.split('`').skip(1).step_by(2).collect()
}

/// The settings that a hint names, as `--set` takes them: each alternative alone, those joined by "and" together.
fn settings(hint: &str) -> Vec<Vec<String>> {
    let one = |text: &str| {
        let text = text.strip_prefix("--set ").map_or(text, |t| t.trim_matches('\''));
        let (key, value) = text.split_once('=')?;
        let key = key.trim().replace('[', ".").replace(']', "");
        TOP.contains(&key.split('.').next()?).then(|| format!("{key}={}", value.trim()))
    };
    let all: Vec<String> = quoted(hint).into_iter().filter_map(one).collect();
    match hint.contains("` and `") {
        true => vec![all],
        false => all.into_iter().map(|one| vec![one]).collect(),
    }
}

#[test]
fn the_settings_of_a_hint_are_found_each_alone_or_together() {
    assert_eq!(settings("`model.a.b = 3`, or `name = \"x\"` at least"), [["model.a.b=3"], ["name=\"x\""]]);
    assert_eq!(settings("`model.a.b = 3` and `model.c = 1`"), [["model.a.b=3", "model.c=1"]]);
    assert_eq!(settings("did you mean `--set 'eval.steps=[1, 2]'`?"), [["eval.steps=[1, 2]"]]);
    assert_eq!(settings("`gate.rules[0].steps = [2]`"), [["gate.rules.0.steps=[2]"]]);
    assert!(settings("leave `lora` out, or take `source = { story = {} }`").is_empty());
}
