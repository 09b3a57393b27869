//! Recipes that nobody would write: every key with values that are no sizes, and what their errors say. No process is started.

use std::panic::catch_unwind;

use fewstep::error::{Error, Kind};
use fewstep::recipe::parse;
use fewstep::recipe::{Loaded, Recipe, builtin};

use super::hints::{CASES, read};

/// Values that no key has, or few.
const VALUES: [&str; 17] = [
    "0",
    "-1",
    "1",
    "3",
    "nan",
    "inf",
    "1e308",
    "2147483648",
    "9007199254740992",
    "4611686018427387904",
    "9223372036854775807",
    "\"\"",
    "\"parallel\"",
    "[]",
    "[0]",
    "{}",
    "true",
];

/// What is computed of every recipe that is accepted, before any data is read.
fn computed(loaded: &Loaded) {
    let recipe = &loaded.recipe;
    for (name, model) in &recipe.model {
        recipe.settings(name).unwrap();
        Recipe::decodings(model);
        recipe.generation(model);
        recipe.train_cost(name, 1 << 20).unwrap();
        if let Ok(fewstep::recipe::Network::Given(network)) = recipe.network(name) {
            network.parameters(1 << 24, 1 << 20);
            fewstep::model::family::memory::training(network, 1 << 24, 1 << 20, model.train.batch);
            fewstep::model::family::memory::sampling(network, 1 << 24, 1 << 20, recipe.eval.batch);
        }
    }
    recipe.training_order().unwrap();
}

/// Whether an error says where it is, and what to do.
fn quality(e: &Error, file: &str) -> (bool, bool) {
    (e.message.contains(&format!("{file}:")) || e.message.contains("`--set "), e.hint.is_some())
}

/// Every key of every built-in recipe, of which each has `of` values; the seed chooses which.
fn mutations(of: usize) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    for (name, text, _) in builtin::ALL {
        for (at, key) in parse::flatten(text).unwrap().into_keys().enumerate() {
            // Tables are keys too: `model.ar.network`, `eval`.
            let mut keys = vec![key.clone()];
            if let Some((table, _)) = key.rsplit_once('.') {
                keys.push(table.to_string());
            }
            for key in keys {
                let step = VALUES.len().div_ceil(of);
                all.extend(VALUES.iter().skip(at % step).step_by(step).map(|value| (name, format!("{key}={value}"))));
            }
        }
    }
    all
}

#[test]
fn no_value_of_any_key_of_any_recipe_is_a_panic_and_nine_errors_in_ten_say_where_and_what_to_do() {
    // All of them take minutes: FEWSTEP_ALL_MUTATIONS=1.
    let of = if std::env::var_os("FEWSTEP_ALL_MUTATIONS").is_some() { VALUES.len() } else { 2 };
    let all = mutations(of);
    let (mut errors, mut placed, mut hinted, mut bare) = (0, 0, 0, Vec::new());
    for (name, set) in &all {
        let Ok(read) = catch_unwind(|| {
            let read = read(name, std::slice::from_ref(set));
            read.as_ref().map(computed).ok();
            read
        }) else {
            panic!("{name} --set {set} is a panic");
        };
        let Err(e) = read else { continue };
        assert_eq!(e.kind, Kind::Usage, "{name} --set {set}: {e}");
        let (place, hint) = quality(&e, &format!("{name}.toml"));
        errors += 1;
        placed += usize::from(place);
        hinted += usize::from(hint);
        if !(place && hint) {
            bare.push(format!("{name} --set {set}: {e}"));
        }
    }
    println!("{} recipes, {errors} errors, {placed} with a place, {hinted} with a hint", all.len());
    assert!(errors > 2000, "{errors}");
    bare.dedup();
    let some = bare.iter().step_by(bare.len().div_ceil(20).max(1)).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(
        10 * placed >= 9 * errors && 10 * hinted >= 9 * errors,
        "{errors} errors, {placed} placed, {hinted} hinted:\n{some}"
    );
}

/// Errors of recipes that the hints' table does not have: a recipe, what is set, and words of the message.
const MORE: &[(&str, &[&str], &str)] = &[
    ("tiny", &["model.ar.network=[32, 1, 2]"], "must be a table, but it is an array"),
    ("tiny", &["eval.flexibility=[]"], "must be a table, but it is an array"),
    ("tiny", &["gate=[]"], "must be a table, but it is an array"),
    ("hybrid", &["model.ar.order={pipelined=[4, 2]}"], "must be a table, but it is an array"),
    (
        "tiny",
        &[
            "model.oracle={order=\"parallel\", objective={sdtt={teacher=\"teacher\", teacher_steps=8, rounds=1}}, train={steps=1, batch=1, lr=1e-3}}",
        ],
        "name of the exact judge",
    ),
    (
        "tiny",
        &[
            "model.AR={order=\"parallel\", objective={sdtt={teacher=\"teacher\", teacher_steps=8, rounds=1}}, train={steps=1, batch=1, lr=1e-3}}",
        ],
        "differ only in capital letters",
    ),
    (
        "tiny",
        &[
            "model.con={order=\"parallel\", objective={sdtt={teacher=\"teacher\", teacher_steps=8, rounds=1}}, train={steps=1, batch=1, lr=1e-3}}",
        ],
        "cannot be the name of a model",
    ),
    (
        "tiny",
        &[
            "model.\"..\"={order=\"parallel\", objective={sdtt={teacher=\"teacher\", teacher_steps=8, rounds=1}}, train={steps=1, batch=1, lr=1e-3}}",
        ],
        "cannot be the name of a model",
    ),
    (
        "tiny",
        &["model.teacher.order={mixture=[\"parallel\", \"parallel\"]}", "model.teacher.network.visibility=order"],
        "has `parallel` twice",
    ),
    ("tiny", &["model.teacher.decode=[{order=\"parallel\"}, {order=\"parallel\"}]"], "has `parallel` twice"),
    (
        "tiny",
        &["model.teacher.decode=[{pipelined={block=4, window=2}}, {pipelined={block=4, window=2, add=0.2}}]"],
        "twice",
    ),
    ("tiny", &["gate.rules=[{metric=\"nll\", relative=0.1, absolute=0.1}]"], "has both `relative` and `absolute`"),
    ("tiny", &["gate.rules=[]"], "nothing to judge"),
    ("tiny", &["gate.rules=[{metric=\"agreement\", absolute=0.1}]"], "will not have"),
    ("tiny", &["gate.rules=[{metric=\"latency\", relative=0.1}]", "eval.speed_repeats=0"], "will not have"),
    ("tiny", &["gate.rules=[{metric=\"nll\", model=\"zzzzzzzzz\"}]"], "no row of the report"),
    ("tiny", &["eval.judge=ar"], "`eval.judge` is for"),
    ("tiny", &["export.models=[\"studnet\"]"], "did you mean"),
    ("tiny", &["model.student.objective.sdtt.teacher=ar"], "needs a diffusion teacher"),
    ("tiny", &["model.student.objective.sdtt.teacher=student"], "itself"),
    ("tiny", &["model.ar.train.warmup=61"], "must be between 0 and 60"),
    ("tiny", &["model.ar.network.local={window=4, every=0, rope_theta=1e4}"], "local.every"),
    ("tiny", &["model.ar.network.norm_eps=0.0"], "norm_eps"),
    ("tiny", &["model.ar.network.rope_theta=1"], "rope_theta"),
    ("tiny", &["model.ar.sha256=abc"], "stands without"),
    ("tiny", &["model.ar.lora={rank=1, alpha=1.0}"], "needs a teacher or a checkpoint"),
    ("tiny", &["model.ar.dtype.weights=bf16"], "needs `model.ar.from`"),
    ("tiny", &["model.ar.vocabulary=retokenize"], "needs `model.ar.from"),
    (
        "tiny",
        &[
            "model.ar.network.vectors={count=4, width=4}",
            "model.ar.network.shift=false",
            "model.ar.network.time=sequence",
        ],
        "is not for",
    ),
    ("tiny", &["eval.control={}"], "needs `data.pairs`"),
    ("shakespeare", &["data.text.valid_path=b.txt"], "cannot both be given"),
    ("shakespeare", &["seeds=[]", "eval.judge=teacher"], "needs an autoregressive model"),
    ("control", &["eval.control.guidance.embed.classifier=ar"], "is not a classifier"),
    ("control", &["model.classifier.objective.classifier.model=ar"], "is not a diffusion of embeddings"),
    ("latent", &["model.flow.objective.latent.codec=ar"], "which is not an autoencoder"),
    ("latent", &["model.continuous.objective.latent_distill.teacher=straight"], "is written for the teacher's"),
    ("latent", &["model.flow.network.vectors.codebook=true"], "is for `objective.embedding`"),
    ("consistency", &["model.sdtt.objective.sdtt.teacher=uniform"], "has uniform noise"),
    ("consistency", &["model.dcd.objective.dcd.teacher=masked"], "needs a teacher of uniform noise"),
    ("consistency", &["seeds=[1, 2]", "model.ar.seed=3"], "the same under all `seeds`"),
    ("llada-8b-lora", &["model.teacher.network={dim=8, layers=1, heads=1, visibility=\"full\"}"], "stands beside"),
    ("tiny", &["model.ar.train.lr=\"x\""], "must be a number"),
    ("tiny", &["model.ar.train.lr=true"], "must be a number"),
    ("tiny", &["seed=-1"], "must be a whole number"),
    ("tiny", &["model.ar.order={blocks=4, parallel={}}"], "must be of one kind"),
    ("tiny", &["model.ar.order=sdtt"], "unknown value"),
    ("tiny", &["model.ar.objective=sdtt"], "needs settings"),
    ("tiny", &["zzz=1"], "unknown key"),
    ("tiny", &["model.x.seed=1"], "missing key"),
    ("tiny", &["seed=99999999999999999999"], "must be a whole number"),
    ("tiny", &["data=3"], "must be a string or a table"),
    ("tiny", &["seed.x=3"], "is not a table"),
];

#[test]
fn nine_in_ten_errors_of_recipes_say_where_they_are_and_what_to_do() {
    let more = MORE.iter().map(|(name, sets, words)| (*name, *sets, Some(*words)));
    let all = CASES.iter().map(|case| (case.0, case.1, None)).chain(more);
    let (mut errors, mut bare) = (0, Vec::new());
    for (name, sets, words) in all {
        // As the user would write it: in the file, where it has lines.
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        let e = match read(name, &sets) {
            Ok(_) => panic!("{name} with {sets:?} was accepted"),
            Err(e) => e,
        };
        if let Some(words) = words {
            assert!(e.to_string().contains(words), "`{words}` is not in:\n{e}");
        }
        errors += 1;
        let (place, hint) = quality(&e, &format!("{name}.toml"));
        if !(place && hint) {
            bare.push(e.to_string());
        }
    }
    assert!(errors > 120, "{errors}");
    assert!(10 * bare.len() <= errors, "{} of {errors} have no place or no hint:\n{}", bare.len(), bare.join("\n\n"));
}

#[test]
fn an_error_of_range_or_of_two_keys_has_the_line_of_the_first_key_with_carets() {
    let tiny = builtin::find("tiny").unwrap();
    let said = |from: &str, to: &str| {
        assert!(tiny.contains(from), "{from}");
        let text = tiny.replacen(from, to, 1);
        let written = fewstep::recipe::Written { text, place: "my.toml".into(), sets: vec![] };
        fewstep::recipe::read(written, ".".into()).unwrap_err().to_string()
    };
    assert_eq!(
        said("batch = 16\nsteps", "batch = 0\nsteps"),
        "error: `eval.batch` must be between 1 and 1048576, but it is 0 (my.toml:30:9)\n   30 | batch = 0\n      |         ^\n\n\
         hint: the nearest allowed value: `eval.batch = 1`"
    );
    let said = said("visibility = \"full\"", "visibility = \"causal\"");
    assert!(said.contains("needs `model.teacher.network.visibility = \"full\"` (my.toml:18:9)\n"), "{said}");
    assert!(said.contains("18 | order = \"parallel\"\n"), "{said}");
}

#[test]
fn what_is_left_out_is_told_with_the_table_that_lacks_it() {
    let text = builtin::find("shakespeare").unwrap().replace("judge = \"judge\"\n", "");
    let text = text.replace("seeds = [1, 2, 3]\n", "");
    let written = fewstep::recipe::Written { text, place: "my.toml".into(), sets: vec![] };
    let e = fewstep::recipe::read(written, ".".into()).unwrap_err().to_string();
    assert!(e.contains("my.toml:") && e.contains("`eval.judge`") && e.contains("hint: "), "{e}");
}
