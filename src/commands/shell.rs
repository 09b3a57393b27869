//! What a shell and a reader of manual pages get of the command line: completions and pages, made from its definition.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::{Error, Kind, Result};
use crate::{fs, term};

/// Prints the completion script of a shell.
pub fn completions(shell: Shell) {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fewstep", &mut text);
    term::out_raw(&text);
}

/// Prints the manual page of the program, or writes one for each command into the new directory `out`.
///
/// # Errors
/// A directory that is there already (usage), a refused write (I/O).
pub fn man(out: Option<&Path>) -> Result<()> {
    let failed = |e: std::io::Error| Error::new(Kind::Io, format!("cannot write the manual pages: {e}"));
    match out {
        Some(dir) => {
            fs::new_dir(dir, |tmp| clap_mangen::generate_to(Cli::command(), tmp).map_err(failed))?;
            term::note(&format!("manual pages written to {}", dir.display()));
        }
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text).map_err(failed)?;
            term::out_raw(&text);
        }
    }
    Ok(())
}
