//! Whatever becomes of stdout and stderr, every command ends with its own exit code, and does what it is asked to do.

#![cfg(unix)]

use std::process::Stdio;

use super::binary::{Place, Ran};
use fewstep::eval::results::Results;

/// What a stream of the program is connected to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stream {
    /// A pipe whose reader has gone, as with `| head -0`.
    Gone,
    /// A full disk.
    Full,
    /// Nothing, as with `>&-`.
    Closed,
}

impl Stream {
    fn stdio(self) -> Stdio {
        match self {
            Stream::Gone => {
                let (reader, writer) = std::io::pipe().unwrap();
                drop(reader);
                Stdio::from(writer)
            }
            Stream::Full => Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap()),
            Stream::Closed => Stdio::null(),
        }
    }
}

/// Runs `args` with this stdout.
fn run(place: &Place, args: &[&str], stdout: Stream) -> Ran {
    let mut command = place.command(args);
    if stdout == Stream::Closed {
        let program = command.get_program().to_owned();
        let dir = place.path(".");
        command = std::process::Command::new("sh");
        command.args(["-c", "exec \"$@\" >&-", "sh"]).arg(program).args(args).current_dir(dir);
        command.env("NO_COLOR", "1").env_remove("GITHUB_STEP_SUMMARY").stdin(Stdio::null());
    }
    let child = command.stdout(stdout.stdio()).stderr(Stdio::piped()).spawn().unwrap();
    Ran::from(child.wait_with_output().unwrap(), args)
}

/// A finished run of the recipe `tiny` in runs/tiny, and results in worse.json that the gate must not pass.
fn place() -> Place {
    let place = Place::new();
    place.run(&["run", "tiny", "--threads", "1"]).ok();
    let mut worse = Results::load(&place.path("runs/tiny/results.json")).unwrap();
    for row in worse.models.iter_mut().flat_map(|m| &mut m.rows) {
        row.samples["oracle_nll"].iter_mut().for_each(|v| *v *= 2.0);
        let e = row.scores.get_mut("oracle_nll").unwrap();
        (e.mean, e.low, e.high) = (e.mean * 2.0, e.low * 2.0, e.high * 2.0);
    }
    worse.save(&place.path("worse.json")).unwrap();
    place.write("bad.toml", include_str!("../../recipes/tiny.toml").replace("rounds = 3", "rounds = 99"));
    // Its fault is found after the first lines have been printed.
    let text = include_str!("../../recipes/tiny.toml");
    let models = &text[text.find("[model.ar]").unwrap()..text.find("[eval]").unwrap()];
    let late = format!(
        "name = \"late\"\n[data.text]\npath = \"absent.txt\"\ntokenizer = \"char\"\nlength = 8\n{models}\n[eval]\nsamples = 2\nbatch = 1\nsteps = [2]\njudge = \"ar\"\n"
    );
    place.write("late.toml", late);
    place
}

#[test]
fn every_command_ends_with_its_own_exit_code_whatever_becomes_of_stdout() {
    let place = place();
    let gate = ["gate", "worse.json", "--baseline", "runs/tiny/results.json"];
    let cases: Vec<(Vec<&str>, i32)> = vec![
        (vec!["--help"], 0),
        (vec!["--version"], 0),
        (vec!["recipe", "list"], 0),
        (vec!["recipe", "list", "--json"], 0),
        (vec!["recipe", "copy", "tiny", "COPY.toml"], 0),
        (vec!["recipe", "diff", "tiny", "quickstart"], 0),
        (vec!["recipe", "check", "tiny"], 0),
        (vec!["recipe", "check", "bad.toml"], 2),
        (vec!["recipe", "check", "late.toml"], 3),
        (vec!["run", "tiny"], 0),
        (vec!["run", "bad.toml"], 2),
        (vec!["run", "tiny", "--json"], 0),
        (vec!["eval", "runs/tiny"], 0),
        (vec!["report", "runs/tiny", "--out", "page"], 0),
        (vec!["sample", "runs/tiny", "-n", "2"], 0),
        (vec!["sample", "runs/tiny", "--model", "ar", "--beam", "2"], 0),
        (vec!["sample", "absent"], 3),
        (vec!["inspect", "runs/tiny"], 0),
        (vec!["export", "runs/tiny", "--out", "OUT"], 0),
        (vec!["gate", "runs/tiny", "--baseline", "runs/tiny"], 0),
        (gate.to_vec(), 1),
        ([&gate[..], &["--json"]].concat(), 1),
        ([&gate[..], &["--quiet"]].concat(), 1),
        ([&gate[..], &["--junit", "absent/gate.xml"]].concat(), 1),
    ];
    for (args, code) in cases {
        for stdout in [Stream::Gone, Stream::Closed, Stream::Full] {
            for made in ["COPY.toml", "OUT"] {
                let _ = std::fs::remove_file(place.path(made));
                let _ = std::fs::remove_dir_all(place.path(made));
            }
            let ran = run(&place, &args, stdout);
            // What is lost on a full disk is an I/O error, of a command that has no verdict of its own.
            let expected = if code == 0 && stdout == Stream::Full { 4 } else { code };
            assert_eq!(ran.code, expected, "{args:?} with {stdout:?}: {}", ran.err);
            if expected == 4 {
                assert!(ran.err.contains("cannot write stdout\n   no space left on device"), "{args:?}: {}", ran.err);
            }
            // What is made besides is made in any case.
            for (arg, file) in
                [("copy", "COPY.toml"), ("export", "OUT/model.safetensors"), ("report", "page/report.html")]
            {
                if args.contains(&arg) {
                    assert!(place.path(file).exists(), "{args:?} with {stdout:?} made no {file}");
                }
            }
        }
    }
}

#[test]
fn a_trace_is_written_when_the_reader_of_stdout_has_gone() {
    let place = Place::new();
    place.run(&["run", "tiny", "--only", "ar", "--threads", "1"]).ok();
    for (i, stdout) in [Stream::Gone, Stream::Full].into_iter().enumerate() {
        run(&place, &["sample", "runs/tiny", "--model", "ar", "-n", "2", "--trace"], stdout);
        let file = if i == 0 { "trace.html".to_string() } else { format!("trace-{}.html", i + 1) };
        assert!(place.path(&file).exists(), "no {file} with {stdout:?}");
    }
}

#[test]
fn a_reader_that_goes_ends_a_long_sampling_early_and_with_success() {
    let place = Place::new();
    place.run(&["run", "tiny", "--only", "ar", "--threads", "1"]).ok();
    let begin = std::time::Instant::now();
    let args = ["sample", "runs/tiny", "--model", "ar", "-n", "100000000"];
    assert_eq!(run(&place, &args, Stream::Gone).code, 0);
    assert!(begin.elapsed().as_secs() < 60, "{:?}", begin.elapsed());
}

#[test]
fn a_stderr_that_takes_nothing_changes_no_exit_code() {
    let place = place();
    let cases: [(&[&str], i32); 4] = [
        (&["run", "tiny"], 0),
        (&["recipe", "check", "bad.toml"], 2),
        (&["gate", "worse.json", "--baseline", "runs/tiny/results.json"], 1),
        (&["sample", "absent"], 3),
    ];
    for (args, code) in cases {
        for stderr in [Stream::Gone, Stream::Full] {
            let status = place.command(args).stdout(Stdio::null()).stderr(stderr.stdio()).status().unwrap();
            assert_eq!(status.code(), Some(code), "{args:?} with stderr {stderr:?}");
        }
    }
}
