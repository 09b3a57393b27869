//! Memory is asked for before it is taken: what does not fit ends in exit code 6 before anything is computed, with settings
//! that do fit, and an allocation that fails all the same ends with a message.

#![cfg(target_os = "linux")]

use std::time::Duration;

use burn::prelude::Device;
use fewstep::error::Kind;
use fewstep::model::TransformerConfig;
use fewstep::model::config::Visibility;
use fewstep::study::ask as room;

use super::binary::{Place, Ran};
use super::watched::watch_for;

/// The command under a limit of its address space, in KiB.
fn command(place: &Place, kib: u64, args: &[&str]) -> std::process::Command {
    let limit = format!("ulimit -v {kib}; exec \"$0\" \"$@\"");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &limit, env!("CARGO_BIN_EXE_fewstep")]).args(args);
    shell.current_dir(place.path("")).env("NO_COLOR", "1").stdin(std::process::Stdio::null());
    shell
}

fn limited(place: &Place, kib: u64, args: &[&str]) -> Ran {
    // A pass over the largest batch that fits takes its time, and is one step.
    watch_for(command(place, kib, args), Duration::from_secs(120), |_| {}).ran
}

/// The settings in backticks of a hint that begin with `--set`, each as arguments.
fn suggested(ran: &Ran) -> Vec<Vec<String>> {
    let hint = ran.err.split("hint:").nth(1).unwrap_or_else(|| panic!("no hint in {}", ran.err));
    let quoted = hint.split('`').skip(1).step_by(2).filter(|text| text.starts_with("--set"));
    quoted.map(|text| text.split(' ').map(str::to_string).collect()).collect()
}

const ROOM: u64 = 4_000_000;

/// Blocks enough that it pays to compute them again on the way back: of a single one all is needed at once.
const DEEP: [&str; 4] = ["--set", "model.ar.network.layers=4", "--set", "model.teacher.network.layers=4"];

#[test]
fn a_training_that_does_not_fit_is_refused_before_it_begins_and_what_the_hint_names_fits() {
    let place = Place::new();
    for model in ["ar", "teacher", "student"] {
        let set = format!("model.{model}.train.batch=1000000");
        for args in [&["recipe", "check", "tiny"][..], &["run", "tiny"]] {
            let ran = limited(&place, ROOM, &[args, &DEEP, &["--set", &set]].concat());
            let ran = ran.fails(6, &[&format!("training `{model}` does not fit"), "it needs about", "left", "hint:"]);
            let all = suggested(&ran);
            assert!(all.iter().any(|s| s.iter().any(|t| t.contains("batch="))), "{}", ran.err);
            assert!(all.iter().flatten().any(|t| t.contains("checkpoint=true")), "{}", ran.err);
            assert!(!place.path("runs/tiny/models").exists(), "something was computed before");
        }
    }
    // Checkpointing a single block saves nothing, and is not named.
    let ran = limited(&place, ROOM, &["recipe", "check", "tiny", "--set", "model.ar.train.batch=1000000"]);
    let all = suggested(&ran.fails(6, &["training `ar` does not fit"]));
    assert!(all.len() == 1 && all[0].len() == 2 && all[0][1].starts_with("model.ar.train.batch="), "{all:?}");
}

/// Under a limit so tight that the suggested sizes are small enough to be tried, and not tighter: what a process has
/// taken of its address space differs by 64 MiB from run to run, the C library's share of one thread.
#[test]
fn following_the_hint_removes_the_error() {
    let place = Place::new();
    let base = [&DEEP[..], &["--threads", "1"]].concat();
    let room = own_size(&place) + 700_000;
    let big = "model.teacher.train.batch=1000000";
    let ran = limited(&place, room, &[&["recipe", "check", "tiny", "--set", big][..], &base].concat()).fails(6, &[]);
    let all = suggested(&ran);
    assert!(all.len() >= 2, "{}", ran.err);
    for set in all {
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        limited(&place, room, &[&["recipe", "check", "tiny"][..], &set, &base].concat()).ok();
    }
    // An evaluation.
    let check = [&["recipe", "check", "tiny", "--set", "eval.samples=1000000"][..], &base].concat();
    let ran = limited(&place, room, &[&check[..], &["--set", "eval.batch=1000000"]].concat());
    let set = suggested(&ran.fails(6, &["evaluating `", "eval.batch="])).concat();
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    limited(&place, room, &[&check[..], &set].concat()).ok();
}

/// Runs what fits, but for the 64 MiB by which one run's address space differs from another's.
fn fits_at_last(place: &Place, room: u64, args: &[&str]) {
    for _ in 0..7 {
        let ran = limited(place, room, args);
        if ran.code != 6 {
            return drop(ran.ok());
        }
    }
    limited(place, room, args).ok();
}

/// A training under way is bound to its batch, so that no other is named but with the command that begins it anew.
#[test]
fn the_hint_of_a_training_that_goes_on_with_less_memory_names_what_may_change_in_its_directory() {
    let place = Place::new();
    let sets = ["batch=2000", "steps=2", "warmup=0", "save_every=1"].map(|set| format!("--set model.ar.train.{set}"));
    let line = format!("run tiny --only ar --threads 1 --set model.ar.network.layers=4 {}", sets.join(" "));
    let line: Vec<&str> = line.split(' ').collect();
    place.run(&line).ok();
    let dir = place.path("runs/tiny/models/ar");
    let cut = || {
        std::fs::remove_dir_all(dir.join("final")).unwrap();
        std::fs::remove_dir_all(dir.join("step-000002")).unwrap();
    };
    let own = own_size(&place);
    let (mut freely, mut anew) = (0, 0);
    for more in [200_000, 440_000, 500_000] {
        if dir.join("final").exists() {
            cut();
        }
        let ran = limited(&place, own + more, &line);
        if ran.code == 0 {
            continue;
        }
        let ran = ran.fails(6, &["training `ar` does not fit", "hint:"]);
        let hint = ran.err.split("hint:").nth(1).unwrap();
        let quoted = hint.split('`').nth(1).unwrap_or_else(|| panic!("{hint}")).to_string();
        let words: Vec<&str> = quoted.split(' ').collect();
        match words[0] {
            "--set" => {
                freely += 1;
                assert!(!quoted.contains("batch"), "{hint}");
                fits_at_last(&place, own + more, &[&line[..], &words].concat());
            }
            "fewstep" => {
                anew += 1;
                let (only, threads) = (&line[2..4], &line[4..6]);
                fits_at_last(&place, own + more, &[&words[1..], only, threads].concat());
                std::fs::remove_dir_all(place.path("runs")).unwrap();
                place.run(&line).ok();
            }
            _ => panic!("{hint}"),
        }
    }
    // Which of the two it is depends on what the C library has taken of the address space.
    assert!(freely + anew > 0, "no limit was tight enough");
}

#[test]
fn a_network_of_which_not_one_sequence_fits_is_made_smaller_by_the_hint() {
    let place = Place::new();
    let args = ["recipe", "check", "tiny", "--threads", "1", "--set", "model.teacher.network.dim=32768"];
    let ran = limited(&place, ROOM, &args).fails(6, &["does not fit", "not even one sequence fits", "N below 32768"]);
    let way = suggested(&ran).concat().join(" ").replace("=N", "=32");
    let way: Vec<&str> = way.split(' ').collect();
    limited(&place, ROOM, &[&args[..], &way].concat()).ok();
}

#[test]
fn threads_that_the_system_refuses_are_told_and_fewer_start() {
    let place = Place::new();
    let ran = limited(&place, ROOM, &["recipe", "list", "--threads", "1024"]);
    ran.fails(6, &["cannot start 1024 threads", "hint: give fewer with `--threads N`"]);
    limited(&place, ROOM, &["recipe", "list", "--threads", "2"]).ok();
}

/// KiB of address space that a command takes at least.
fn own_size(place: &Place) -> u64 {
    // Without a thread's stack or the program's own pages it may end in any way.
    let check = ["recipe", "check", "tiny", "--threads", "1"];
    let fits = |kib: u64| command(place, kib, &check).output().unwrap().status.success();
    let (mut low, mut high) = (0, 1 << 23);
    while high - low > 50_000 {
        let middle = (low + high) / 2;
        if fits(middle) { high = middle } else { low = middle }
    }
    high
}

#[test]
fn an_allocation_that_fails_ends_with_a_message_and_exit_code_6() {
    let place = Place::new();
    // A recipe that is short enough to be read and long enough to need more than there is.
    place.write("long.toml", format!("x = [{}1]\n", "1,".repeat(30 << 20)));
    let ran = limited(&place, own_size(&place) + 200_000, &["recipe", "check", "long.toml", "--threads", "1"]);
    let ran = ran.fails(6, &["error: out of memory: ", "bytes were asked for", "hint:"]);
    assert!(!ran.err.contains("memory allocation") && !ran.err.contains("backtrace"), "{}", ran.err);
}

#[test]
fn a_model_or_a_batch_that_does_not_fit_is_not_sampled_and_what_the_hint_names_fits() {
    let network = TransformerConfig::new(1024, 8, 8, Visibility::Full);
    let device = Device::flex();
    let (vocab, length) = (50_000, 1024);
    let ask = |weights: u128, batch: usize| room::samples(&network, vocab, length, weights, batch, 1, &device);
    assert!(ask(1 << 20, 1).is_ok());
    let e = ask(1 << 60, 1).unwrap_err();
    assert!(e.kind == Kind::Device && e.to_string().contains("left") && e.hint.unwrap().contains("smaller model"));
    let e = ask(1 << 20, 100_000_000).unwrap_err();
    let hint = e.hint.unwrap();
    let n: usize = hint.trim_start_matches("`-n ").split('`').next().unwrap().parse().unwrap();
    assert!(n > 1 && ask(1 << 20, n).is_ok(), "{hint}");
    // Each text may be one of several candidates, which are drawn too.
    let (room, fits) = (n, |n: usize, candidates: usize| {
        room::samples(&network, vocab, length, 1 << 20, n * candidates, candidates, &device)
    });
    for candidates in [2, room / 2, room, 2 * room] {
        let hint = fits(100_000_000, candidates).unwrap_err().hint.unwrap();
        let words: Vec<&str> = hint.trim_start_matches('`').split('`').next().unwrap().split(' ').collect();
        match words[..] {
            ["-n", n] => assert!(fits(n.parse().unwrap(), candidates).is_ok(), "{hint}"),
            ["-n", "1", "--mbr", fewer] => assert!(fits(1, fewer.parse().unwrap()).is_ok(), "{hint}"),
            _ => panic!("{hint}"),
        }
    }
}

#[test]
fn checkpoints_that_fill_the_disk_are_warned_of_before_the_training() {
    let place = Place::new();
    let keep = ["--set", "model.ar.train.keep=1000000", "--set", "model.ar.train.save_every=1"];
    let more = ["--set", "model.ar.train.steps=1000000000", "--set", "model.ar.network.dim=256"];
    let args = [&["recipe", "check", "tiny"][..], &keep, &more].concat();
    let ran = place.run(&args).ok();
    assert!(ran.err.contains("warning: the checkpoints of this study take about"), "{}", ran.err);
    assert!(ran.err.contains("`model.*.train.keep`"), "{}", ran.err);
    assert!(!place.run(&["recipe", "check", "tiny"]).ok().err.contains("warning"));
}
