//! Running the real binary under watch: how much memory it takes, how long it is silent, and whether it ends.

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::binary::Ran;

/// The longest time without any output that is taken for work.
pub const SILENCE: Duration = Duration::from_secs(10);

/// A command that has ended.
pub struct Watched {
    pub ran: Ran,
    /// The most memory that it held, in bytes, as the kernel counts it; 0 where it was over before the first look.
    pub peak: u64,
    /// Until its first output.
    pub first: Duration,
}

/// Runs a command to its end. Panics where it is silent for [`SILENCE`] before it ends.
#[track_caller]
pub fn watch(command: Command) -> Watched {
    watch_for(command, SILENCE, |_| {})
}

/// As [`watch`], with another bound on the silence; `start` is given the process id.
#[track_caller]
pub fn watch_for(mut command: Command, silence: Duration, start: impl FnOnce(u32)) -> Watched {
    let shown = format!("{:?}", command.get_args().collect::<Vec<_>>());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    start(child.id());
    let begin = Instant::now();
    let out = follow(child.stdout.take().unwrap());
    let err = follow(child.stderr.take().unwrap());
    let (mut peak, mut spoke, mut first) = (0, begin, None);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = loop {
        peak = peak.max(resident(child.id()));
        for (from, to) in [(&out, &mut stdout), (&err, &mut stderr)] {
            for piece in from.try_iter() {
                spoke = Instant::now();
                first.get_or_insert(begin.elapsed());
                to.extend(piece);
            }
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if spoke.elapsed() > silence {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{shown} said nothing for {silence:?}; before: {}", String::from_utf8_lossy(&stderr));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    stdout.extend(out.iter().flatten());
    stderr.extend(err.iter().flatten());
    let ran = Ran::from(Output { status, stdout, stderr }, &[&shown]);
    Watched { ran, peak, first: first.unwrap_or(begin.elapsed()) }
}

/// What a stream gives, piece by piece, from a thread of its own.
fn follow(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (to, from) = channel();
    std::thread::spawn(move || {
        let mut piece = vec![0; 1 << 16];
        while let Ok(n @ 1..) = stream.read(&mut piece) {
            if to.send(piece[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    from
}

/// The largest resident size of a process so far, in bytes; 0 while it is still a copy of this one, with this one's memory.
fn resident(pid: u32) -> u64 {
    let program = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    if program(&pid.to_string()) == program("self") {
        return 0;
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
