//! Running the real binary in a fresh directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A fresh directory that is gone when dropped.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        self.prepared(Command::new(env!("CARGO_BIN_EXE_fewstep")), args)
    }

    /// The same where Ctrl-C is heeded, also if these tests were started with it ignored, as `&` in a script does.
    pub fn heeding(&self, args: &[&str]) -> Command {
        if cfg!(not(target_os = "linux")) {
            return self.command(args);
        }
        let mut command = Command::new("env");
        command.args(["--default-signal=INT,HUP,TERM", env!("CARGO_BIN_EXE_fewstep")]);
        self.prepared(command, args)
    }

    fn prepared(&self, mut command: Command, args: &[&str]) -> Command {
        command.args(args).current_dir(self.dir.path()).env("NO_COLOR", "1").env_remove("GITHUB_STEP_SUMMARY");
        command.stdin(std::process::Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().unwrap(), args)
    }
}

/// What a finished command printed.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
    args: String,
}

impl Ran {
    pub fn from(output: Output, args: &[&str]) -> Ran {
        let ran = Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            args: args.join(" "),
        };
        for word in ["panicked", "unwrap()", "RUST_BACKTRACE", "Os {"] {
            assert!(!ran.err.contains(word) && !ran.out.contains(word), "{word} reached the user:\n{}", ran.err);
        }
        ran
    }

    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "{}\n{}\n{}", self.args, self.out, self.err);
        self
    }

    /// Exits with `code` and says every one of `words` on stderr, after `error:`.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Ran {
        assert_eq!(self.code, code, "{}\n{}\n{}", self.args, self.out, self.err);
        assert!(self.err.contains("error: "), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "`{word}` is not in:\n{}", self.err);
        }
        self
    }
}

/// Data shared between projects, beside the repository; tests that need it say so and pass without it.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name);
    if !path.exists() {
        println!("skipped: ../shared/{name} is not here");
        return None;
    }
    Some(path)
}
