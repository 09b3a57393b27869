//! What most programs need: `use fewstep::prelude::*`.

pub use crate::checkpoint::LoadedModel;
pub use crate::error::{Error, Result};
pub use crate::eval::results::Results;
pub use crate::library::{Model, Sampler, Study};
pub use crate::method::{Method, Objective, Training};
pub use crate::model::{Denoise, Transformer, TransformerConfig};
pub use crate::process::order::OrderConfig;
pub use crate::recipe::Recipe;
pub use crate::sample::{DecodeConfig, SampleSpec, Samples};
