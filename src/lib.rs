//! fewstep compresses many-step diffusion language models into few-step ones, and shows what that cost.
//!
//! The crate's layers, lowest first; a module uses only lower ones (ARCHITECTURE.md):
//! [`error`] [`shown`] [`rng`] [`room`] [`fs`] [`hub`] [`term`] [`profile`] [`alloc`] · [`process`] [`data`] [`weights`] · [`kernels`] · [`model`] · [`loss`] [`optim`] · [`method`] [`sample`] ·
//! [`train`] [`eval`] · [`report`] [`gate`] [`checkpoint`] · [`recipe`] · [`study`] · [`commands`] [`cli`].

pub mod alloc;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod data;
pub mod error;
pub mod eval;
pub mod fs;
pub mod gate;
pub mod hub;
pub mod kernels;
pub mod loss;
pub mod method;
pub mod model;
pub mod optim;
pub mod process;
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
