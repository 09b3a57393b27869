//! Build-time facts for `--version` and results.json: the compiler, the tensor library, and the commit where there is one.

use std::process::Command;

fn main() {
    let first_line = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).output().ok().filter(|o| o.status.success())?;
        String::from_utf8(out.stdout).ok()?.lines().next().map(str::to_string)
    };
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let rustc = first_line(&rustc, &["--version"]).unwrap_or_else(|| "unknown".into());
    let commit = first_line("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    // The one version that Cargo.toml pins.
    let manifest = std::fs::read_to_string("Cargo.toml").unwrap_or_default();
    let burn = manifest.lines().find_map(|line| line.strip_prefix("burn = { version = \"=")?.split('"').next());
    let burn = burn.unwrap_or_else(|| panic!("Cargo.toml pins no version of burn"));
    println!("cargo::rustc-env=FEWSTEP_BURN={burn}");
    println!("cargo::rerun-if-changed=Cargo.toml");
    println!("cargo::rustc-env=FEWSTEP_RUSTC={rustc}");
    println!("cargo::rustc-env=FEWSTEP_COMMIT={commit}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=.git/HEAD");
}
