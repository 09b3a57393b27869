//! Signals against the real binary: what saves, what stops, what stays ignored, and the exit codes.

#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::binary::Place;

/// A running command with the lines of its stderr.
struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

/// A test that fails leaves no process behind.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts the program with `args`, these signals ignored and all others not, whatever this test was started with.
    fn start(place: &Place, ignored: &[&str], args: &[&str]) -> Running {
        let mut command = Command::new("env");
        command.arg("--default-signal=INT,HUP,TERM");
        command.args(ignored.iter().map(|signal| format!("--ignore-signal={signal}")));
        Running::of(place, command.arg(env!("CARGO_BIN_EXE_fewstep")).args(args))
    }

    fn of(place: &Place, command: &mut Command) -> Running {
        command.current_dir(place.path(".")).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Running { child, lines, said: Vec::new() }
    }

    /// Waits until it says `word`.
    #[track_caller]
    fn says(&mut self, word: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.said.iter().any(|line| line.contains(word)) {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("`{word}` was not said: {:?}", self.said),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended without `{word}`: {:?}", self.said),
            }
        }
    }

    fn send(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits for the end; its exit code, as a shell tells it, and all it said.
    fn end(mut self) -> (i32, String) {
        let status = self.child.wait().unwrap();
        self.said.extend(self.lines.iter());
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
        (code, self.said.join("\n"))
    }
}

/// A training that takes as long as is needed.
const LONG: [&str; 8] =
    ["run", "tiny", "--threads", "1", "--set", "model.ar.train.steps=1000000", "--set", "model.ar.train.log_every=1"];

/// Each of its steps takes longer than a test needs to send a signal.
const SLOW: [&str; 10] = [
    "run",
    "tiny",
    "--threads",
    "1",
    "--set",
    "model.ar.train.batch=256",
    "--set",
    "model.ar.train.accumulate=150",
    "--set",
    "model.ar.train.log_every=1",
];

#[test]
fn each_signal_saves_and_ends_with_its_own_exit_code() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let place = Place::new();
        let mut run = Running::start(&place, &[], &LONG);
        run.says("step");
        run.send(signal);
        let (ended, said) = run.end();
        assert_eq!(ended, code, "{signal}: {said}");
        assert!(said.contains("finishing this step, then saving"), "{said}");
        assert!(
            said.contains("run the same command to resume") && said.contains("stopped by a signal at step"),
            "{said}"
        );
        let saved = std::fs::read_dir(place.path("runs/tiny/models/ar")).unwrap().flatten();
        assert!(saved.filter(|e| e.file_name().to_string_lossy().starts_with("step-")).count() > 0, "{said}");
    }
}

#[test]
fn a_second_signal_stops_at_once_with_its_own_exit_code() {
    for (first, second, code) in [("-INT", "-TERM", 143), ("-TERM", "-INT", 130), ("-INT", "-HUP", 129)] {
        let place = Place::new();
        let mut run = Running::start(&place, &[], &SLOW);
        run.says("step");
        run.send(first);
        run.says("finishing this step");
        run.send(second);
        let (ended, said) = run.end();
        assert_eq!(ended, code, "{first} {second}: {said}");
        assert!(!said.contains("run the same command to resume"), "{said}");
    }
}

#[test]
fn a_terminal_that_closes_and_sends_its_signal_twice_still_saves() {
    let place = Place::new();
    let mut run = Running::start(&place, &[], &SLOW);
    run.says("step");
    run.send("-HUP");
    run.says("finishing this step");
    run.send("-HUP");
    let (ended, said) = run.end();
    assert!(ended == 129 && said.contains("run the same command to resume"), "{ended} {said}");
}

#[test]
fn signals_that_the_parent_ignores_stay_ignored() {
    // By `nohup`, by `&` in a script, and by both.
    for ignored in [&["HUP"][..], &["INT"], &["INT", "HUP"]] {
        let place = Place::new();
        let mut run = Running::start(&place, ignored, &LONG);
        run.says("step");
        ignored.iter().for_each(|signal| run.send(&format!("-{signal}")));
        // It goes on: some steps later it is still there, and has said nothing of stopping.
        std::thread::sleep(Duration::from_millis(300));
        run.said.clear();
        run.says("step");
        assert!(run.child.try_wait().unwrap().is_none());
        run.send("-TERM");
        let (ended, said) = run.end();
        assert_eq!(ended, 143, "{ignored:?} {said}");
    }
}

#[test]
fn what_has_nothing_to_save_stops_at_once_and_says_how_to_go_on() {
    let place = Place::new();
    place.run(&["run", "tiny", "--threads", "1"]).ok();
    for (signal, code, name) in [("-INT", 130, "SIGINT"), ("-TERM", 143, "SIGTERM")] {
        let args = ["run", "tiny", "--threads", "1", "--set", "eval.samples=1000000"];
        let mut run = Running::start(&place, &[], &args);
        run.says("study tiny");
        std::thread::sleep(Duration::from_millis(300));
        let begin = Instant::now();
        run.send(signal);
        let (ended, said) = run.end();
        assert_eq!(ended, code, "{said}");
        assert!(said.contains(&format!("error: stopped by {name}")) && said.contains("hint: "), "{said}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
    // The run is as good as it was.
    place.run(&["run", "tiny", "--threads", "1"]).ok();
}

#[test]
fn a_file_that_outgrows_its_limit_is_a_failed_write_that_names_it() {
    let place = Place::new();
    let (ended, said) = {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -f 16; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_fewstep"), "run", "tiny"]);
        Running::of(&place, &mut shell).end()
    };
    assert_eq!(ended, 4, "{said}");
    assert!(said.contains("error: cannot write ") && said.contains("file too large"), "{said}");
    assert!(said.contains("runs/tiny/") && said.contains("hint: `ulimit -f unlimited`"), "{said}");
    // Without the limit the same command does the rest.
    place.run(&["run", "tiny", "--threads", "1"]).ok();
}
