//! The binary: command line in, exit code out. Every fault leaves through one door, in the form of `fewstep::error`;
//! nothing here touches a device.

use std::any::Any;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

use clap::Parser;
use clap::error::ErrorKind;

use fewstep::cli::{Cli, usage_error};
use fewstep::error::{Error, Kind, Result};
use fewstep::profile::Profile;
use fewstep::room;
use fewstep::study::ask::Advised;
use fewstep::term::{self, Loudness};

/// Training allocates and frees the same large buffers at every step; the system's allocator hands them back each time,
/// and the page faults were a third of a forward pass.
#[global_allocator]
static ALLOCATOR: fewstep::alloc::Allocator = fewstep::alloc::Allocator;

/// The exit code of a fault of our own (EX_SOFTWARE of sysexits.h).
const INTERNAL: u8 = 70;

fn main() -> ExitCode {
    term::settle();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return not_a_command(&e),
    };
    term::set_loudness(match (cli.global.quiet, cli.global.verbose) {
        (true, _) => Loudness::Quiet,
        (_, true) => Loudness::Verbose,
        _ => Loudness::Normal,
    });
    if let Err(e) = settle(&cli) {
        return fail(&e, e.kind.exit_code());
    }
    fewstep::alloc::settle(0);
    let panics = Panics::default();
    panics.collect();
    let mut profile = cli.global.profile.then(Profile::start);
    let ended = catch_unwind(AssertUnwindSafe(|| fewstep::commands::dispatch(cli)));
    if let Some(profile) = &mut profile {
        term::note_text(profile.take().to_string().trim_end());
    }
    match ended {
        Ok(ended) => exit(ended),
        Err(payload) => {
            let (e, code) = panics.explain(payload.as_ref());
            fail(&e, code)
        }
    }
}

/// Says what went wrong, stdout's own fault among it, and gives its exit code.
fn exit(command: Result<()>) -> ExitCode {
    match term::ended(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e, e.kind.exit_code()),
    }
}

fn fail(e: &Error, code: i32) -> ExitCode {
    term::error(e);
    ExitCode::from(u8::try_from(code).unwrap_or(INTERNAL))
}

/// Help and version as asked for, or what is wrong with the command line.
fn not_a_command(e: &clap::Error) -> ExitCode {
    let text = e.render();
    let styled = |colour: bool| if colour { text.ansi().to_string() } else { text.to_string() };
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            term::out_raw(format!("{}\n", styled(term::colour()).trim_end()).as_bytes());
            exit(Ok(()))
        }
        // No command at all: the help is the best answer, but nothing was done, so this is not success.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            term::note_text(styled(false).trim_end());
            ExitCode::from(2)
        }
        _ => {
            let e = usage_error(e);
            fail(&e, e.kind.exit_code())
        }
    }
}

/// Tells the libraries what the command line chose.
///
/// # Errors
/// Threads that the system refuses (device).
fn settle(cli: &Cli) -> Result<()> {
    let device = cli.global.device.split(':').next().unwrap_or_default();
    // SAFETY: no other thread exists yet; the first ones start below and in `dispatch`. It is needed because what
    // Burn makes without being told a device lands on `Device::default()`, the best one compiled in, present or not,
    // unless BURN_DEVICE names another, and nothing else sets it: a CPU run could fail in a binary built for a GPU.
    #[allow(unsafe_code)]
    unsafe {
        std::env::set_var("BURN_DEVICE", device)
    };
    let threads = match cli.global.threads {
        Some(threads) => room::threads(threads).map(|()| threads)?,
        // The libraries start one thread a core by themselves.
        None => match room::fewer_threads() {
            Some(fewer) => fewer,
            None => return Ok(()),
        },
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global().map_err(|e| room::cannot_start(threads).cause(e.to_string()))
}

/// A panic of a library, as its hook saw it.
struct Record {
    thread: ThreadId,
    message: String,
    place: String,
}

/// The panics so far: a device's worker thread often knows the cause that the caller only sees as a closed channel.
#[derive(Clone, Default)]
struct Panics {
    records: Arc<Mutex<Vec<Record>>>,
}

impl Panics {
    /// Keeps panics to itself instead of printing them; with `-v` they are printed too.
    fn collect(&self) {
        let panics = self.clone();
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if term::loudness() == Loudness::Verbose {
                usual(info);
            }
            panics.add(info);
        }));
    }

    fn add(&self, info: &PanicHookInfo<'_>) {
        let place = info.location().map(|at| format!("{}:{}", short(at.file()), at.line())).unwrap_or_default();
        let record = Record { thread: std::thread::current().id(), message: message(info.payload()), place };
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        // A thread that fails in a loop must not fill the memory.
        if records.len() < 16 {
            records.push(record);
        }
    }

    /// The error for a panic that reached `main`, and its exit code.
    fn explain(&self, payload: &(dyn Any + Send)) -> (Error, i32) {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let here = std::thread::current().id();
        let advised = payload.downcast_ref::<Advised>();
        let text = message(advised.map_or(payload, |a| a.panic.as_ref()));
        let place = records.iter().rev().find(|r| r.thread == here && r.message == text).map(|r| r.place.clone());
        let place = place.map_or(String::new(), |place| format!(" at {place}"));
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let first = lines.next().unwrap_or("no message");
        let mut e = Error::new(Kind::Device, format!("internal failure: {first}{place}"));
        e.causes.extend(lines.take(10).map(str::to_string));
        for other in records.iter().filter(|r| r.thread != here).take(3) {
            let first = other.message.lines().next().unwrap_or_default();
            e = e.cause(format!("another thread: {first} at {}", other.place));
        }
        let all = records.iter().map(|r| r.message.as_str()).chain([text.as_str()]).collect::<Vec<_>>().join("\n");
        match (of_device(&all), advised) {
            (true, Some(advised)) => {
                e.causes.extend(advised.causes.iter().cloned());
                (e.hint(format!("{}, and so does `--device flex`", advised.hint)), Kind::Device.exit_code())
            }
            (true, None) => (e.hint("try a smaller batch, or `--device flex`"), Kind::Device.exit_code()),
            (false, _) => {
                let hint = "this is a fault of fewstep: report it with the recipe and what `-v` prints";
                (e.hint(hint), i32::from(INTERNAL))
            }
        }
    }
}

/// Whether a panic speaks of the device or its memory.
fn of_device(message: &str) -> bool {
    let message = message.to_lowercase();
    ["memory", "device", "cuda"].iter().any(|word| message.contains(word))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_string())
}

/// A source path without the directory of the registry it was built from.
fn short(file: &str) -> &str {
    let inside = file.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/'));
    inside.map_or(file, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_about_memory_is_the_devices_and_any_other_is_ours() {
        let (e, code) = Panics::default().explain(&"Out of Memory: 12 GB");
        assert_eq!((code, e.message.as_str()), (6, "internal failure: Out of Memory: 12 GB"));
        let (e, code) = Panics::default().explain(&"index out of bounds\nthe len is 3".to_string());
        assert_eq!((code, e.causes.as_slice()), (70, ["the len is 3".to_string()].as_slice()));
        assert!(e.hint.is_some_and(|hint| hint.contains("report")));
    }

    #[test]
    fn a_device_without_memory_is_told_with_the_batch_and_the_setting_to_try() {
        let advised = |text: &'static str| Advised {
            panic: Box::new(text),
            causes: vec!["training `ar` on a batch of 64 x 32 positions takes about 3.0 GiB".into()],
            hint: "`--set model.ar.train.batch=32` takes less".into(),
        };
        let (e, code) = Panics::default().explain(&advised("Out of Memory: 12 GB"));
        assert_eq!((code, e.message.as_str()), (6, "internal failure: Out of Memory: 12 GB"));
        assert!(e.causes[0].contains("64 x 32") && e.hint.unwrap().starts_with("`--set model.ar.train.batch=32`"));
        // Another panic is a fault of ours, whatever was being done.
        let (e, code) = Panics::default().explain(&advised("index out of bounds"));
        assert!(code == 70 && e.causes.is_empty() && e.hint.unwrap().contains("report it"));
    }

    #[test]
    fn a_panic_of_another_thread_is_told_as_a_cause_and_decides_the_kind() {
        let panics = Panics::default();
        let thread = std::thread::spawn(|| {}).thread().id();
        let record = Record { thread, message: "CUDA error 2".to_string(), place: "worker.rs:7".to_string() };
        panics.records.lock().unwrap().push(record);
        let (e, code) = panics.explain(&"channel closed");
        assert_eq!(code, 6);
        assert_eq!(e.causes, ["another thread: CUDA error 2 at worker.rs:7"]);
    }

    #[test]
    fn a_path_in_the_registry_is_told_from_the_crate_on() {
        assert_eq!(short("/home/x/.cargo/registry/src/index-1/burn-1.0/src/lib.rs"), "burn-1.0/src/lib.rs");
        assert_eq!(short("src/main.rs"), "src/main.rs");
    }
}
