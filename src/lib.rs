//! fewstep compresses many-step diffusion language models into few-step ones, and shows what that cost.
//!
//! The crate's layers, lowest first; a module uses only lower ones (ARCHITECTURE.md):
//! [`error`] [`shown`] [`rng`] [`fs`] [`hub`] [`term`] [`profile`] [`alloc`] · [`process`] [`data`] [`weights`] · [`kernels`] · [`model`] · [`objective`] [`sample`] ·
//! [`train`] [`eval`] · [`report`] [`gate`] [`export`] · [`recipe`] · [`commands`] [`cli`].

pub mod alloc;
pub mod cli;
pub mod commands;
pub mod data;
pub mod error;
pub mod eval;
pub mod export;
pub mod fs;
pub mod gate;
pub mod hub;
pub mod kernels;
pub mod model;
pub mod objective;
pub mod process;
pub mod profile;
pub mod recipe;
pub mod report;
pub mod rng;
pub mod sample;
pub mod shown;
pub mod term;
pub mod train;
pub mod weights;
