//! The families of public checkpoints: what config.json and the names of the tensors say a model is.
//!
//! A family is a configuration of the one transformer and a map of names ([`names`]), not another network. It is
//! recognised from what is inside the files, never from what their directory is called.
//! Sources of the layouts: the Hugging Face classes of each family (MDLM, BD3-LM, DUO, SEDD, SDTT: one DiT with five
//! wrappers; LLaDA; Dream on Qwen2; dllm's bidirectional Qwen3; ModernBERT; GPT-2, LLaMA, Qwen2, Qwen3).

pub mod adapters;
mod check;
mod config;
mod forward;
mod generation;
mod hub;
pub mod int8;
mod keys;
mod known;
mod layout;
mod load;
pub mod memory;
pub mod names;
mod rope;
mod shallow;
mod special;
mod vocabulary;

use serde_json::Value;

pub use crate::weights::Storage;
pub use check::{Checked, check};
pub use config::describe;
pub use forward::forward;
pub use generation::{Generation, Selection, own_call, write_generation};
pub use hub::{cached, resolve};
pub use layout::{export, export_in_files, missing_code, quantises};
pub use load::{DEFAULT_LENGTH, LoadOptions, Loaded, load, look, read_config};
pub use shallow::{described as shallow_description, fills_groups, shallow};
pub use special::{settle, tokenizer};
pub use vocabulary::{Rows, Vocabulary};

use super::TransformerConfig;

/// A family of checkpoints that share names, configuration keys and mathematics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    Mdlm,
    Sdtt,
    Duo,
    Bd3lm,
    Sedd,
    Llada,
    Dream,
    /// dllm's conversions of Qwen3, Qwen2 and LLaMA to diffusion (their MDLM and BD3-LM models share one layout).
    A2d,
    ModernBert,
    Gpt2,
    Llama,
    Qwen2,
    Qwen3,
}

/// What a network's output says about the tokens (the wrapper around its logits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// log p(x_0): the mask is never predicted, and a token that is there stays (SUBS; MDLM section 3.2.3).
    Subs,
    /// Logits of x_0 as they are, the mask's among them.
    Logits,
    /// Log-probabilities of x_0 over a vocabulary without a mask (uniform-state diffusion, DUO).
    Uniform,
    /// Log-scores p(y)/p(x) after the scaling of SEDD (Lou et al. 2024).
    Score,
    /// Log-probabilities of the next token.
    NextToken,
}

impl Family {
    /// All families, in the order in which messages list them.
    pub const ALL: [Family; 13] = [
        Family::Mdlm,
        Family::Sdtt,
        Family::Duo,
        Family::Bd3lm,
        Family::Sedd,
        Family::Llada,
        Family::Dream,
        Family::A2d,
        Family::ModernBert,
        Family::Gpt2,
        Family::Llama,
        Family::Qwen2,
        Family::Qwen3,
    ];

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Family::Mdlm => "MDLM",
            Family::Sdtt => "SDTT",
            Family::Duo => "DUO",
            Family::Bd3lm => "BD3-LM",
            Family::Sedd => "SEDD",
            Family::Llada => "LLaDA",
            Family::Dream => "Dream",
            Family::A2d => "A2D (dllm's diffusion Qwen and LLaMA)",
            Family::ModernBert => "ModernBERT",
            Family::Gpt2 => "GPT-2",
            Family::Llama => "LLaMA",
            Family::Qwen2 => "Qwen2",
            Family::Qwen3 => "Qwen3",
        }
    }

    /// What its network's output means.
    pub fn prediction(self) -> Prediction {
        match self {
            Family::Mdlm | Family::Sdtt | Family::Bd3lm => Prediction::Subs,
            Family::Duo => Prediction::Uniform,
            Family::Sedd => Prediction::Score,
            Family::Llada | Family::Dream | Family::A2d | Family::ModernBert => Prediction::Logits,
            Family::Gpt2 | Family::Llama | Family::Qwen2 | Family::Qwen3 => Prediction::NextToken,
        }
    }

    /// Whether it is one of the DiT networks with adaptive norms.
    pub fn is_dit(self) -> bool {
        matches!(self, Family::Mdlm | Family::Sdtt | Family::Duo | Family::Bd3lm | Family::Sedd)
    }
}

/// Ids of the tokens with a meaning of their own, where the files name them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Special {
    pub mask: Option<u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
}

/// What a model directory holds, before its tensors are read.
#[derive(Debug, Clone)]
pub struct Description {
    pub family: Family,
    pub network: TransformerConfig,
    /// Columns of its logits, the mask among them where it is one of the tokens.
    pub vocab: usize,
    /// The longest sequence it was made for.
    pub length: usize,
    pub special: Special,
    /// The tokens that end a text, each of them: `special.eos` is the first.
    pub ends: Vec<u32>,
    /// Log-scores are scaled by the noise (SEDD's `scale_by_sigma`).
    pub scale_by_sigma: bool,
    /// config.json as it was read, every key of it.
    pub config: Value,
    /// What was passed over, or decided between two files, in words for a warning.
    pub notes: Vec<String>,
}

/// Turns one row of SEDD's logits `[V]` at `token` into log-scores log p(y)/p(token), in place: 0 at the token itself.
///
/// `scaled` is the family's `scale_by_sigma`: - ln(e^sigma - 1) - ln(V - 1), without which a network is told only shapes.
pub fn log_score(row: &mut [f32], token: u32, sigma: f64, scaled: bool) {
    if scaled {
        let shift = sigma.exp_m1().ln() + ((row.len() - 1) as f64).ln();
        row.iter_mut().for_each(|v| *v = (f64::from(*v) - shift) as f32);
    }
    row[token as usize] = 0.0;
}
