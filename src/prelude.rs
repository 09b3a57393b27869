//! What most programs need: `use fewstep::prelude::*`.

pub use crate::checkpoint::LoadedModel;
pub use crate::data::{Data, Dataset, Sequences};
pub use crate::error::{Error, Result};
pub use crate::eval::results::Results;
pub use crate::library::{Evaluation, Model, Sampler, Study, Trained, Trainer, training_device, write_report};
pub use crate::loss::{Divergence, RowLoss, Target};
pub use crate::method::{Batch, KdConfig, Method, Objective, SdttConfig, Training};
pub use crate::model::config::Visibility;
pub use crate::model::{Cache, Denoise, Head, Network, Noised, Teach, Transformer, TransformerConfig};
pub use crate::optim::{Decay, TrainConfig};
pub use crate::process::order::OrderConfig;
pub use crate::recipe::Recipe;
pub use crate::sample::{DecodeConfig, SampleSpec, Samples, sample};
