//! The library's front door: a study from a recipe, a model from a directory or the hub, and texts from a model.
//!
//! Nothing here prints, ends the process, or listens to signals: warnings and progress go to stderr only where `term::set_loudness` asks for it.

mod drawing;
mod evaluation;
mod model;
mod own;
mod public;
mod trainer;

use std::path::{Path, PathBuf};

use burn::prelude::Device;

pub use drawing::{Beams, Drawing, Request};
pub use evaluation::{Evaluation, write_report};
pub use model::{Model, Sampler};
pub use own::{drawing as own_drawing, search as own_search};
pub use public::{Given, Public, Wanted};
pub use trainer::{Step, Trained, Trainer};

use crate::error::Result;
use crate::eval::results::Results;
use crate::recipe::{self, Loaded};
use crate::study::seeds::Seeds;
use crate::study::{self, device};
use crate::term::Interrupt;

/// The device of a network that is to be trained: the first that this crate was built with, with autodiff.
///
/// # Errors
/// The crate was built without a device, or its GPU is not there.
pub fn training_device() -> Result<Device> {
    Ok(device::first()?.autodiff())
}

/// A study that a recipe describes.
///
/// ```no_run
/// use fewstep::prelude::*;
///
/// # fn main() -> fewstep::error::Result<()> {
/// let results = Study::open("quickstart")?.set("model.student.train.steps=500").out("runs/short").run()?;
/// println!("{} models", results.models.len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Study {
    recipe: String,
    sets: Vec<String>,
    out: Option<PathBuf>,
    device: String,
}

impl Study {
    /// The study of a recipe file, or of the built-in recipe of that name.
    ///
    /// # Errors
    /// A recipe that is not there or contradicts itself.
    pub fn open(recipe: impl AsRef<Path>) -> Result<Study> {
        let recipe = recipe.as_ref().to_string_lossy().into_owned();
        let study = Study {
            recipe,
            sets: Vec::new(),
            out: None,
            device: device::compiled().first().unwrap_or(&"flex").to_string(),
        };
        study.loaded().map(|_| study)
    }

    /// Overrides a key of the recipe, as `model.student.train.steps=500`.
    pub fn set(mut self, key_value: impl Into<String>) -> Self {
        self.sets.push(key_value.into());
        self
    }

    /// The directory of the run; `runs/NAME` if it is not given.
    pub fn out(self, dir: impl Into<PathBuf>) -> Self {
        Study { out: Some(dir.into()), ..self }
    }

    /// The device to compute on, as on the command line: `flex`, `cuda:0`, ...; the first that this crate was built with if it is not given.
    pub fn device(self, name: impl Into<String>) -> Self {
        Study { device: name.into(), ..self }
    }

    /// Does what the study still lacks: trains, evaluates, writes its report and its exports.
    ///
    /// # Errors
    /// A recipe that contradicts itself, data or checkpoints that cannot be read, another process in the directory, numbers that are not
    /// finite, no memory, I/O. What is finished stays, and the same call goes on.
    pub fn run(&self) -> Result<Results> {
        let (loaded, device) = (self.loaded()?, (device::open(&self.device)?, self.device.as_str()));
        let dir = self.out.clone();
        let done = match loaded.recipe.seeds.is_empty() {
            true => study::Study::open(loaded, dir, device, Interrupt::default())?.complete(),
            false => Seeds::open(loaded, dir, device, Interrupt::default())?.complete(),
        };
        done.map(|(results, _)| results)
    }

    fn loaded(&self) -> Result<Loaded> {
        recipe::load(&self.recipe, &self.sets)
    }
}
