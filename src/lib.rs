//! fewstep compresses many-step diffusion language models into few-step ones, and shows what that cost.
//!
//! A whole distillation: a teacher of many steps, a student of few, both evaluated, a report and an export.
//!
//! ```no_run
//! use fewstep::prelude::*;
//!
//! # fn main() -> Result<()> {
//! let results = Study::open("quickstart")?.out("runs/quickstart").run()?;
//! let row = |model: &str, steps: usize| results.model(model).and_then(|m| m.row(steps)).map(|r| r.scores["oracle_nll"].mean);
//! println!("8 steps: teacher {:?}, student {:?}", row("teacher", 8), row("student", 8));
//!
//! let student = Model::load("runs/quickstart/export/student")?;
//! for text in student.sampler().steps(8).prompt("mia has").sample(4)? {
//!     println!("{text}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The crate's layers, lowest first; a module uses only lower ones (ARCHITECTURE.md):
//! [`error`] [`shown`] [`rng`] [`room`] [`fs`] [`hub`] [`term`] [`profile`] [`alloc`] · [`process`] [`data`] [`weights`] · [`kernels`] · [`model`] · [`loss`] [`optim`] · [`method`] [`sample`] ·
//! [`train`] [`eval`] · [`report`] [`gate`] [`checkpoint`] · [`recipe`] · [`study`] · [`library`] [`prelude`] [`commands`] [`cli`].

pub mod alloc;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod commands;
pub mod data;
pub mod error;
pub mod eval;
pub mod fs;
pub mod gate;
pub mod hub;
pub mod kernels;
pub mod library;
pub mod loss;
pub mod method;
pub mod model;
pub mod optim;
pub mod prelude;
pub mod process;
#[cfg(feature = "cli")]
pub mod profile;
pub mod recipe;
pub mod report;
pub mod rng;
pub mod room;
pub mod sample;
pub mod shown;
pub mod study;
pub mod term;
pub mod train;
pub mod weights;

/// The pages of the book that have Rust, so that it is compiled and runs.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../docs/src/library.md")]
    struct Library;
}
