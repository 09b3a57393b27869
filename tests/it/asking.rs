//! What a command does where it is not told: which model of a run, how many steps, and that its advice works.

use super::binary::{Place, Ran, shared};

/// Recipe `tiny` in another order of its models, and with a judge as its last.
fn shuffled() -> String {
    let text = include_str!("../../recipes/tiny.toml");
    let (ar, teacher) = (text.find("[model.ar]").unwrap(), text.find("[model.teacher]").unwrap());
    let (student, eval) = (text.find("[model.student]").unwrap(), text.find("[eval]").unwrap());
    [&text[..ar], &text[student..eval], &text[teacher..student], &text[ar..teacher], &text[eval..]].concat()
}

fn model_of(ran: &Ran) -> String {
    // `4 of NAME: how, ..`
    let line = ran.err.lines().find(|l| l.contains(" passes, ")).unwrap_or_else(|| panic!("{}", ran.err));
    line.split(" of ").nth(1).unwrap().split(':').next().unwrap().to_string()
}

#[test]
fn every_command_takes_the_last_model_of_the_recipe_that_writes_text() {
    let place = Place::new();
    place.write("mixed.toml", shuffled());
    for (recipe, dir, name) in [("tiny", "runs/tiny", "student"), ("mixed.toml", "runs/mixed", "ar")] {
        place.run(&["run", recipe, "--out", dir, "--threads", "1"]).ok();
        assert_eq!(model_of(&place.run(&["sample", dir, "-n", "1"]).ok()), name);
        let told = place.run(&["export", dir, "--out", name, "--json"]).ok();
        assert!(told.out.contains(&format!("\"model\":\"{name}\"")), "{}", told.out);
        let (all, one) = (place.run(&["inspect", dir]).ok(), place.run(&["inspect", dir, "--model", name]).ok());
        assert!(all.out == one.out && all.out != place.run(&["inspect", dir, "--model", "teacher"]).ok().out);
    }
}

#[test]
fn a_model_that_is_not_trained_yet_is_told_with_one_that_is() {
    let place = Place::new();
    place.run(&["run", "tiny", "--only", "teacher", "--threads", "1"]).ok();
    for command in ["sample", "inspect"] {
        let ran = place.run(&[command, "runs/tiny"]).fails(2, &["no trained model `student`", "--model teacher"]);
        let hint = ran.err.split("hint: ").nth(1).unwrap();
        let option: Vec<&str> =
            hint[hint.find("`--model").unwrap() + 1..].split('`').next().unwrap().split(' ').collect();
        place.run(&[&[command, "runs/tiny"], &option[..]].concat()).ok();
    }
}

#[test]
fn steps_that_an_autoregressive_model_cannot_take_are_told_with_those_that_it_can() {
    let place = Place::new();
    place.run(&["run", "tiny", "--only", "ar", "--threads", "1"]).ok();
    let base = ["sample", "runs/tiny", "--model", "ar", "-n", "1"];
    let ran = place.run(&[&base[..], &["--steps", "4"]].concat()).fails(2, &["one step a token", "hint: "]);
    let hint = &ran.err[ran.err.rfind("`--steps").unwrap() + 1..];
    let option: Vec<&str> = hint.split('`').next().unwrap().split(' ').collect();
    assert_eq!(place.run(&[&base[..], &option[..]].concat()).ok().out, place.run(&base).ok().out);
}

#[test]
fn fixture_samplers_in_blocks_take_steps_that_all_blocks_can_share_and_say_how_many() {
    let Some(dir) = shared("fixtures/llada") else { return };
    let place = Place::new();
    let dir = dir.display().to_string();
    let base = ["sample", &dir, "--ids", "-n", "1", "--sampler", "llada", "--block", "8", "--length", "20"];
    let prompt = [&base[..], &["--prompt", "5 6 7"]].concat();
    let ran = place.run(&prompt).ok();
    assert!(ran.err.contains("sampler llada, 18 steps in 3 blocks"), "{}", ran.err);
    let ran =
        place.run(&[&prompt[..], &["--steps", "17"]].concat()).fails(2, &["17 steps cannot be shared by 3 blocks"]);
    let hint = &ran.err[ran.err.find("hint: `").unwrap() + 7..];
    let option: Vec<&str> = hint.split('`').next().unwrap().split(' ').collect();
    place.run(&[&prompt[..], &option[..]].concat()).ok();
    // A prompt that leaves nothing to write is given back.
    place.run(&["sample", &dir, "--ids", "-n", "1", "--sampler", "llada", "--length", "3", "--prompt", "5 6 7"]).ok();
}

#[test]
fn fixture_masked_checkpoints_are_sampled_in_phases_without_training() {
    let strided = "{ order = { strided = 4 } }";
    for family in ["llada", "mdlm", "dream", "sedd", "qwen3_mdlm", "sdtt"] {
        let Some(dir) = shared(&format!("fixtures/{family}")) else { return };
        let (place, dir) = (Place::new(), dir.display().to_string());
        let base = ["sample", &dir, "--ids", "-n", "2", "--length", "12", "--decode", strided, "--trace"];
        let ran = place.run(&[&base[..], &["--prompt", "5 6"]].concat()).ok();
        assert!(ran.err.contains("4 steps"), "{family}: {}", ran.err);
        place.run(&[&base[..], &["--block", "4"]].concat()).fails(2, &["`--block` and `--decode` both say"]);
    }
    let Some(dir) = shared("fixtures/gpt2") else { return };
    let dir = dir.display().to_string();
    let causal = ["sample", &dir, "--ids", "--prompt", "5", "-n", "1", "--decode", strided];
    Place::new().run(&causal).fails(2, &["does not fit", "hint:"]);
}

#[test]
fn many_texts_are_the_same_as_few_and_come_as_they_are_drawn() {
    let place = Place::new();
    place.run(&["run", "tiny", "--threads", "1"]).ok();
    for model in ["ar", "student"] {
        for more in [&[][..], &["--mbr", "3"]] {
            let sample =
                |n: &str| place.run(&[&["sample", "runs/tiny", "--model", model, "-n", n], more].concat()).ok().out;
            let (few, many) = (sample("5"), sample("40"));
            assert_eq!(many.lines().count(), 40);
            assert!(many.starts_with(&few), "{model} {more:?}");
        }
    }
}
