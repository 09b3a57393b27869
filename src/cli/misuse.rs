//! What is said where the command line is misused: what was wrong, and what was meant.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Cli;
use crate::error::{Error, nearest};
use crate::recipe::{builtin, reference};

/// A misuse of the command line in this crate's form (exit 2); help and version are no misuse and none of its business.
pub fn usage_error(e: &clap::Error) -> Error {
    let one = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let argument = one(ContextKind::InvalidArg).unwrap_or_default();
    let value = one(ContextKind::InvalidValue).unwrap_or_default();
    let command = misused(e);
    let help = format!("`{command} --help` shows what there is");
    match e.kind() {
        ErrorKind::InvalidSubcommand => {
            let typed = one(ContextKind::InvalidSubcommand).unwrap_or_default();
            let recipe = builtin::find(&typed).filter(|_| command == "fewstep").map(|_| format!("fewstep run {typed}"));
            let other = || elsewhere(&typed).filter(|near| near.starts_with(&command));
            let hint = match recipe.or_else(|| near_verb(&command, &typed)).or_else(other) {
                Some(near) if near.contains(' ') => format!("did you mean `{near}`?"),
                Some(near) => format!("did you mean `{command} {near}`?"),
                None => help,
            };
            Error::usage(format!("unknown command `{typed}`")).hint(hint)
        }
        ErrorKind::UnknownArgument => {
            let what = if argument.starts_with('-') { "unknown option" } else { "unexpected argument" };
            let key = argument.trim_start_matches('-');
            let hint = match one(ContextKind::SuggestedArg) {
                Some(near) => format!("did you mean `{near}`?"),
                None if command == "fewstep run" && matches!(key, "resume" | "continue") => {
                    "leave it out: the same command resumes".to_string()
                }
                None if ["fewstep run", "fewstep recipe check"].contains(&command.as_str())
                    && reference::find(key).is_ok() =>
                {
                    format!("`--set KEY=VALUE` sets a key of the recipe; `fewstep recipe explain {key}` tells which")
                }
                None => help,
            };
            Error::usage(format!("{what} `{argument}` of `{command}`")).hint(hint)
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation if value.is_empty() => {
            let name = argument.split(' ').next().unwrap_or_default();
            Error::usage(format!("`{name}` needs a value")).hint(format!("write `{argument}`"))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let reason = std::error::Error::source(e).map(|s| s.to_string()).unwrap_or_default();
            let name = argument.split([' ', '=']).next().unwrap_or_default();
            let error = Error::usage(format!("`{name}` cannot be `{value}`"));
            match e.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) if reason.is_empty() && !valid.is_empty() => {
                    error.hint(format!("it is one of {}", valid.join(", ")))
                }
                _ if reason.is_empty() => error.hint(help),
                _ => error.hint(reason),
            }
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = match e.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(all)) => all.iter().map(|a| format!("`{a}`")).collect::<Vec<_>>().join(", "),
                _ => format!("`{argument}`"),
            };
            Error::usage(format!("`{command}` lacks {missing}")).hint(format!("`{command} --help` shows examples"))
        }
        ErrorKind::ArgumentConflict => {
            let prior = one(ContextKind::PriorArg).unwrap_or_default();
            match prior == argument || prior.is_empty() {
                true => Error::usage(format!("`{argument}` may be given only once")).hint(help),
                false => {
                    Error::usage(format!("`{argument}` and `{prior}` exclude each other")).hint("keep one of them")
                }
            }
        }
        _ => {
            let text = e.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            Error::usage(line.strip_prefix("error: ").unwrap_or(line)).hint(help)
        }
    }
}

/// The command whose use was wrong, as typed: `fewstep recipe copy`.
fn misused(e: &clap::Error) -> String {
    let usage = match e.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(text)) => text.to_string(),
        _ => String::new(),
    };
    let words: Vec<&str> = usage
        .split_whitespace()
        .skip_while(|word| *word != "fewstep")
        .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase()))
        .collect();
    if words.is_empty() { "fewstep".to_string() } else { words.join(" ") }
}

/// The nearest verb of `command`.
fn near_verb(command: &str, typed: &str) -> Option<String> {
    let mut at = Cli::command();
    for word in command.split(' ').skip(1) {
        at = at.find_subcommand(word)?.clone();
    }
    nearest(typed, at.get_subcommands().map(|verb| verb.get_name())).map(str::to_string)
}

/// Words that other tools have for these commands.
fn elsewhere(typed: &str) -> Option<String> {
    let near = match typed {
        "train" | "distil" | "distill" | "resume" | "fit" => "fewstep run",
        "generate" | "infill" => "fewstep sample",
        "evaluate" | "test" | "bench" => "fewstep eval",
        "plot" => "fewstep report",
        "compare" => "fewstep gate",
        "check" | "validate" => "fewstep recipe check",
        "list" | "ls" => "fewstep recipe list",
        "copy" | "cp" => "fewstep recipe copy",
        "diff" => "fewstep recipe diff",
        "show" | "info" => "fewstep inspect",
        "help" => "fewstep --help",
        _ => return None,
    };
    Some(near.to_string())
}
