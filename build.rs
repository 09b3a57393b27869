//! Build-time facts for `--version` and results.json: the compiler, and the commit where there is one.

use std::process::Command;

fn main() {
    let first_line = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).output().ok().filter(|o| o.status.success())?;
        String::from_utf8(out.stdout).ok()?.lines().next().map(str::to_string)
    };
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let rustc = first_line(&rustc, &["--version"]).unwrap_or_else(|| "unknown".into());
    let commit = first_line("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=FEWSTEP_RUSTC={rustc}");
    println!("cargo::rustc-env=FEWSTEP_COMMIT={commit}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=.git/HEAD");
}
