//! Hints of the real binary, followed on the command line.

use super::super::binary::{Place, shared};
use super::{quoted, settings};

/// A command that fails, its exit code and hint, and what its capital words stand for.
pub struct Case {
    pub args: &'static str,
    pub code: i32,
    pub hint: &'static str,
    /// What the hint's placeholders stand for, or whole command lines in place of the hint's words, where these cannot be
    /// followed to the letter.
    pub with: With,
}

pub enum With {
    /// The hint to the letter.
    Letter,
    /// A word of the hint and what it stands for.
    Word(&'static str, &'static str),
    /// The command as the hint means it.
    Command(&'static str),
    /// A command that only shows something: it is run, and the error stays.
    Shows,
}

use With::{Command, Letter, Shows, Word};

const fn case(args: &'static str, code: i32, hint: &'static str, with: With) -> Case {
    Case { args, code, hint, with }
}

/// Commands beside `runs/tiny`, the finished run of that recipe; `half` has its first model alone, and `other` is a run with
/// another vocabulary.
pub const CASES: &[Case] = &[
    // Devices.
    case("sample runs/tiny --device host", 2, "did you mean `flex`?", Command("sample runs/tiny --device flex -n 1")),
    case("sample runs/tiny --device flexx", 2, "did you mean `flex`?", Command("sample runs/tiny --device flex -n 1")),
    // Options that do not fit what is named.
    case("sample runs/tiny/export/student --model student", 2, "leave `--model` out", Letter),
    case("sample runs/tiny --model ar --steps 4", 2, "leave `--steps` out, or write `--steps 32`", Letter),
    case("sample runs/tiny --model nobody -n 1", 2, "it has ar, student, teacher: `--model teacher`", Letter),
    case("sample runs/tiny --model student --raw --json", 2, "leave `--raw` out: JSON keeps every character", Letter),
    case("sample runs/tiny --model student --sampler llada", 2, "leave `--sampler` out", Letter),
    case(
        "sample runs/tiny --model student --decode {order={segments={text=2,block=4}}}",
        2,
        "its order is \"parallel\"; leave `--decode` out",
        Letter,
    ),
    case(
        "sample runs/tiny --model student --beam 4 --prompt mia",
        2,
        "choose the recipe's autoregressive model with `--model NAME`",
        Word("NAME", "ar"),
    ),
    case("export runs/tiny/export/student --model student --out out1", 2, "leave `--model` out", Letter),
    case(
        "export runs/tiny/export/student --adapters --out out2",
        2,
        "give the run directory, with `--model NAME`",
        Command("export runs/tiny --model student --adapters --out out2"),
    ),
    case(
        "export runs/tiny --model student --adapters --out out3",
        2,
        "leave `--adapters` out to export the whole network",
        Letter,
    ),
    case(
        "export big --dtype f16 --out out5",
        3,
        "`--dtype bf16` has the range of f32, and `--dtype f32` its digits too",
        Letter,
    ),
    case("gate other --baseline runs/tiny", 2, "`--allow-mismatch` compares them all the same", Letter),
    // Runs.
    case(
        "run tiny --only ar --set model.ar.train.lr=1e-3",
        2,
        "undo the change, give another `--out DIR`, or train anew: `fewstep run tiny --set model.ar.train.lr=1e-3",
        Word("DIR", "elsewhere"),
    ),
    case(
        "run tiny --out runs/tiny --only ar --set name=other",
        2,
        "give another `--out DIR`",
        Word("DIR", "elsewhere2"),
    ),
    case(
        "export half --model student --out out4",
        2,
        "run the recipe first: `fewstep run RECIPE`",
        Word("RECIPE", "tiny --out half"),
    ),
    case(
        "report half2",
        3,
        "`fewstep run <recipe.toml>` evaluates a study and writes its results.json",
        Word("<recipe.toml>", "tiny --out half2"),
    ),
    case("report blocked", 4, "`--out DIR` writes the report to another place", Word("DIR", "elsewhere/report")),
    // Recipes by name.
    case("recipe copy zzzzzzzz", 2, "`fewstep recipe list` shows them", Shows),
    case("recipe explain zzzzzzzz", 2, "`fewstep recipe explain` lists the tables of a recipe", Shows),
    case("run zzzzzzzz", 2, "`fewstep recipe list` shows the built-in ones", Shows),
    case("run quikstart", 2, "did you mean `quickstart`? `fewstep recipe list` shows the built-in ones", Shows),
    case("sample", 2, "`fewstep sample --help` shows examples", Shows),
    case("sample --lenght 3", 2, "did you mean `--length`?", Command("sample runs/tiny --length 3")),
    // Settings.
    case("recipe check tiny --set seed", 2, "write `--set key.path=value`", Command("recipe check tiny --set seed=3")),
    case(
        "recipe check tiny --set export.models=[\"ar\"",
        2,
        "quote the whole override: `--set 'key=[\"a\", \"b\"]'`",
        Command("recipe check tiny --set export.models=[\"ar\"]"),
    ),
    case(
        "recipe check tiny --set model.student.keep_layers=[5]",
        2,
        "the network has one block: `model.student.keep_layers = [0]`, or leave `keep_layers` out",
        Letter,
    ),
    case(
        "recipe check tiny --set model.teacher.network.layers=3 --set model.student.keep_layers=[5]",
        2,
        "for example `model.student.keep_layers = [0, 2]`",
        Letter,
    ),
    case(
        "recipe check tiny --set model.student.lora={rank=4096,alpha=1.0}",
        2,
        "`model.student.lora.rank = 32` at most",
        Letter,
    ),
    case("recipe check tiny --set eval.flexibility.gap=40", 2, "at most `eval.flexibility.gap = 31`", Letter),
    case(
        "recipe check control --set model.embed.objective.embedding.given=3",
        2,
        "`model.embed.objective.embedding.given = 2`",
        Letter,
    ),
    case(
        "recipe check text.toml --set data.text.length=4096",
        2,
        "take a longer text, or `data.text.length = 460`",
        Letter,
    ),
];

/// Commands about public checkpoints: `GPT2`, `LLAMA`, `LLADA`, `MDLM` and `BD3LM` stand for the fixtures.
pub const PUBLIC: &[Case] = &[
    case("sample GPT2 --ids --block 2", 2, "leave `--block` out", Letter),
    case("sample GPT2 --ids --sampler llada", 2, "leave `--sampler` out: the model writes token by token", Letter),
    case(
        "sample GPT2 --ids --prompt abc",
        2,
        "with `--ids`, write ids like `5 17 2`",
        Command("sample GPT2 --ids --prompt 5 -n 1"),
    ),
    case("sample GPT2 --ids --length 100000", 2, "at most `--length ", Letter),
    case(
        "sample MDLM",
        3,
        "give one by `--tokenizer PATH`, or read and write token ids by `--ids`",
        Word("PATH", "words.json"),
    ),
    case(
        "sample LLADA --ids --sampler llada --block 2 --length 4 --steps 3",
        2,
        "`--steps 4`, or leave `--steps` out",
        Letter,
    ),
    case("recipe check tuned.toml", 2, "`data.text.length = 64`", Letter),
    case(
        "recipe check causal.toml",
        2,
        "an autoregressive checkpoint is tuned or judges: `model.teacher.objective = { ar_nll = {} }` with \
         `model.teacher.order = \"left_to_right\"`; a diffusion teacher comes from a masked checkpoint",
        Letter,
    ),
    case("sample LLADA --ids --sampler llada --top-k 2", 2, "leave `--sampler` out: the exact sampler has it", Letter),
    case(
        "sample LLADA --ids --length 8 --decode {switch={block=4,tolerance=0.1}}",
        2,
        "leave `--decode` out; a masked checkpoint that sees everything takes `--decode '{ order = { strided = 8 } }'`",
        Command("sample LLADA --ids --length 8 --decode {order={strided=8}}"),
    ),
];

/// A study on text whose teacher comes from the checkpoint in `from`.
fn study(from: &str, teacher: &str) -> String {
    format!(
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
from = {from:?}
{teacher}
train = {{ steps = 1, batch = 2, lr = 1e-3 }}
[eval]
samples = 2
batch = 2
steps = [2]
held_out = 2
judge = "judge"
speed_repeats = 0
"#
    )
}

/// Words of a command line.
fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_string).collect()
}

/// The hint that a command printed.
fn hint(err: &str) -> String {
    err.split_once("hint: ").map_or(String::new(), |(_, hint)| hint.trim().to_string())
}

/// The lines of an error without what follows from the command's own words.
fn error(err: &str) -> String {
    let line = err.lines().find(|l| l.starts_with("error: ")).unwrap_or_default();
    line.rsplit_once(" (").map_or(line, |(what, _)| what).to_string()
}

/// The option without its value in `args`, and the value with it where one follows.
fn without(args: &[String], option: &str) -> Vec<String> {
    let mut kept = Vec::new();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        match arg == option {
            true => {
                args.next_if(|next| !next.starts_with("--"));
            }
            false => kept.push(arg.clone()),
        }
    }
    kept
}

/// The command lines that the hint asks for: each is the way to `args` without the error, after the commands of the first list.
fn followed(args: &[String], hint: &str, with: &With) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let hint = match with {
        Word(word, meant) => hint.replace(word, meant),
        _ => hint.to_string(),
    };
    let (mut first, mut ways) = (Vec::new(), Vec::new());
    for part in quoted(&hint) {
        if let Some(command) = part.strip_prefix("fewstep ") {
            first.push(words(command));
        } else if part.starts_with("--") && !part.starts_with("--set") {
            let mut option = words(part);
            let given = without(args, &option[0]);
            // An option of the verb stands behind it.
            let out = hint.contains(&format!("leave `{part}` out"));
            ways.push(if out { given } else { [given, std::mem::take(&mut option)].concat() });
        }
    }
    for way in settings(&hint) {
        let sets = way.into_iter().flat_map(|set| ["--set".to_string(), set]);
        ways.push(args.iter().cloned().chain(sets).collect());
    }
    if ways.is_empty() {
        ways.push(args.to_vec());
    }
    (first, ways)
}

fn follow(place: &Place, case: &Case, args: &[String]) {
    let run = |args: &[String]| place.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let failed = run(args).fails(case.code, &[]);
    let said = hint(&failed.err);
    assert!(said.contains(case.hint), "`{}` has another hint than `{}`:\n{}", case.args, case.hint, failed.err);
    let (first, ways) = match case.with {
        Command(line) => (Vec::new(), vec![named(line)]),
        _ => followed(args, &said, &case.with),
    };
    for command in &first {
        run(command).ok();
    }
    if matches!(case.with, Shows) {
        assert!(!first.is_empty() || said.contains("--help"), "{said}");
        return;
    }
    for way in ways {
        let after = run(&way);
        assert_ne!(error(&after.err), error(&failed.err), "{way:?} was the hint of {args:?}:\n{}", after.err);
    }
}

/// The words of a line with the names of fixtures as their directories.
fn named(line: &str) -> Vec<String> {
    let fixture =
        |word: String| match word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()) && word.len() > 3 {
            true => shared(&format!("fixtures/{}", word.to_lowercase())).map_or(word, |dir| dir.display().to_string()),
            false => word,
        };
    words(line).into_iter().map(fixture).collect()
}

fn copied(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()) {
        std::fs::copy(&entry, to.join(entry.file_name().unwrap())).unwrap();
    }
}

#[test]
fn every_hint_of_a_command_is_followed_and_the_error_is_gone() {
    let place = Place::new();
    place.run(&["run", "tiny"]).ok();
    place.run(&["run", "tiny", "--out", "half", "--only", "ar"]).ok();
    place.run(&["run", "tiny", "--out", "half2", "--only", "ar"]).ok();
    place.run(&["run", "tiny", "--out", "other", "--set", "data.story.names=3"]).ok();
    let tiny = include_str!("../../../recipes/tiny.toml");
    let models = &tiny[tiny.find("[model.ar]").unwrap()..];
    let head = "name = \"text\"\n[data.text]\npath = \"text.txt\"\ntokenizer = \"char\"\nlength = 32\n[model.judge]\nseed = 77\norder = \"left_to_right\"\nobjective.ar_nll = {}\nnetwork = { dim = 32, layers = 1, heads = 2, visibility = \"causal\", shift = true }\ntrain = { steps = 2, batch = 2, lr = 1e-3 }\n";
    place.write("text.toml", format!("{head}{models}").replace("[eval]", "[eval]\njudge = \"judge\""));
    place.write("text.txt", "the quick brown fox jumps over the lazy dog . ".repeat(400));
    // A run whose report has no place: a file has its name.
    copied(&place.path("runs/tiny"), &place.path("blocked"));
    place.write("blocked/report", "a file");
    // A weight that f16 has no number for.
    let weights = place.path("big/model.safetensors");
    copied(&place.path("runs/tiny/export/student"), &place.path("big"));
    let mut read = fewstep::weights::read(&weights, fewstep::weights::NonFinite::Refuse).unwrap();
    read.tensors.get_mut("head.weight").unwrap().data[0] = 1e6;
    fewstep::weights::write(&weights, &read).unwrap();
    for case in CASES {
        follow(&place, case, &words(case.args));
    }
}

#[test]
fn every_hint_about_a_public_checkpoint_is_followed_and_the_error_is_gone() {
    if shared("fixtures").is_none() {
        return;
    }
    let place = Place::new();
    let vocab: std::collections::BTreeMap<String, usize> = (0..9).map(|i| (format!("w{i}"), i)).collect();
    let tokenizer = serde_json::json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w0" } });
    place.write("words.json", tokenizer.to_string());
    place.write("text.txt", "abc ab a ".repeat(400));
    let (gpt2, llama) = (named("GPT2").remove(0), named("LLAMA").remove(0));
    place.write("tuned.toml", study(&gpt2, "order = \"left_to_right\"\nobjective.ar_nll = {}"));
    place.write("causal.toml", study(&llama, "order = \"parallel\"\nobjective.elbo = {}"));
    for case in PUBLIC {
        follow(&place, case, &named(case.args));
    }
}

#[test]
fn an_option_is_left_out_with_its_value_and_set_in_place_of_another() {
    let args = words("sample x --model a --steps 3 --trace");
    assert_eq!(without(&args, "--model"), words("sample x --steps 3 --trace"));
    assert_eq!(without(&args, "--trace"), words("sample x --model a --steps 3"));
    let (first, ways) = followed(&args, "leave `--steps` out, or `--model NAME`", &Word("NAME", "b"));
    assert!(first.is_empty());
    assert_eq!(ways, [words("sample x --model a --trace"), words("sample x --steps 3 --trace --model b")]);
}
