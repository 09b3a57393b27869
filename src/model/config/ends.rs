//! Ends of a network other than tokens: vectors in and out, and the bottleneck of an autoencoder.
//!
//! L length, M latents, d their width, D width of the network.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{TimeInput, TransformerConfig, Visibility};
use crate::error::{Error, Result, whole_within, within};
use crate::process::{Pattern, Phases};

/// Vectors of width d come in and go out: a denoiser of latents or of token embeddings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VectorsConfig {
    /// Number of vectors M: of latents, those of the autoencoder.
    pub count: usize,
    /// Width d of a vector.
    pub width: usize,
    /// The network also reads its own last estimate of x_0 (Chen et al. 2022, self-conditioning).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub self_conditioning: bool,
    /// It is also told how far it is to go, t - s: for students that learn a mean velocity (shortcut, MeanFlow).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub two_times: bool,
    /// Tokens at the start of a text that it is given (a prompt, or the attributes asked for), in front of the vectors; default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub condition: usize,
    /// It has a table of its tokens' vectors [V, d], trained with it (embedding diffusion).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub codebook: bool,
    /// The fastest sinusoid of the time's embedding in radians over t in [0, 1]: small, so that the network is smooth in t.
    #[serde(default = "default_time_scale")]
    pub time_scale: f64,
}

/// L tokens become M vectors of width d and come back: the first layers read the text and M learned queries, the others
/// the vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BottleneckConfig {
    /// Number of latents M.
    pub latents: usize,
    /// Width d of a latent.
    pub width: usize,
    /// How many of the layers decode.
    pub decoder_layers: usize,
    /// parallel | autoregressive | { strided = K } | { dilated = K }
    #[serde(default)]
    pub decoder: Decoder,
}

/// How a text is written from its latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decoder {
    /// All positions in one pass.
    #[default]
    Parallel,
    /// Token by token behind the latents, through a cache: a plan, then writing.
    Autoregressive,
    /// In K fixed phases behind the latents, through a cache: position l in phase l mod K.
    Strided(usize),
    /// The same in phases that halve the gaps.
    Dilated(usize),
}

impl Decoder {
    /// The phases of `latents` given places with the `length` positions of a text behind them; none where it writes otherwise.
    pub fn phases(self, latents: usize, length: usize) -> Option<Phases> {
        let pattern = match self {
            Decoder::Parallel | Decoder::Autoregressive => return None,
            Decoder::Strided(count) => Pattern::Strided(count),
            Decoder::Dilated(count) => Pattern::Dilated(count),
        };
        let given: Vec<bool> = (0..latents + length).map(|l| l < latents).collect();
        // What is given has the key of a phase that is there anyway.
        Some(Phases::new(latents + length, &given, |l| pattern.key(l.saturating_sub(latents))))
    }
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}
fn default_time_scale() -> f64 {
    30.0
}

impl TransformerConfig {
    /// Parameters of its ends with `length` positions: those beyond embedding, blocks, norm and head.
    pub(super) fn end_parameters(&self, vocab: usize, length: usize) -> u128 {
        let [d, v, l] = [self.dim, vocab, length].map(|n| n as u128);
        let vectors = self.vectors.as_ref().map_or(0, |c| {
            let (w, cond) = (c.width as u128, self.cond_dim() as u128);
            let input = if c.self_conditioning { 2 * w } else { w };
            let second = if c.two_times { (self.wave_dim() as u128 + 1) * cond + (cond + 1) * cond } else { 0 };
            let book = if c.codebook { v * w + v } else { 0 };
            (input + 1) * d + (d + 1) * w + second + book
        });
        let bottleneck = self.bottleneck.as_ref().map_or(0, |c| {
            let (m, w) = (c.latents as u128, c.width as u128);
            let places = if c.decoder == Decoder::Parallel { l * d } else { 0 };
            let norm = if self.norm == super::NormKind::Layer && self.biases().norm { 2 * d } else { d };
            2 * m * d + places + norm + (d + 1) * w + (w + 1) * d
        });
        vectors + bottleneck
    }

    /// Positions that the network has a place for where texts have `length` tokens.
    pub fn places(&self, length: usize) -> usize {
        self.vectors.as_ref().map_or(length, |c| c.condition + c.count)
    }

    /// Positions that attention may span where `length` tokens are read.
    pub fn span(&self, length: usize) -> usize {
        self.places(length) + self.bottleneck.as_ref().map_or(0, |c| c.latents)
    }

    /// Layers in front of the bottleneck.
    pub fn encoding_layers(&self) -> usize {
        self.layers - self.bottleneck.as_ref().map_or(0, |c| c.decoder_layers)
    }

    pub(super) fn validate_ends(&self, key: &str) -> Result<()> {
        let at = |name: &str| format!("{key}.{name}");
        if self.vectors.is_some() && self.bottleneck.is_some() {
            return Err(Error::usage(format!("`{key}.vectors` and `{key}.bottleneck` cannot stand together"))
                .hint("an autoencoder is one model, the denoiser of its latents another"));
        }
        let plain = |what: &str| {
            let needs = |other: &str, wants: &str| {
                Err(Error::usage(format!("`{key}.{what}` needs `{key}.{other} = {wants}`"))
                    .hint(format!("`{key}.{other} = {wants}`")))
            };
            if self.shift {
                return needs("shift", "false");
            }
            if self.shift_output {
                return needs("shift_output", "false");
            }
            if self.encoder_layers > 0 {
                return needs("encoder_layers", "0");
            }
            if self.checkpoint {
                return needs("checkpoint", "false");
            }
            if self.embedding_norm || self.head_transform || self.local.is_some() {
                return Err(Error::usage(format!(
                    "`{key}.{what}` does not go with `embedding_norm`, `head_transform` or `local`"
                ))
                .hint("leave these out: they are of published networks that read tokens"));
            }
            Ok(())
        };
        if let Some(c) = &self.vectors {
            plain("vectors")?;
            whole_within(&at("vectors.count"), c.count, 1..=1 << 16)?;
            whole_within(&at("vectors.width"), c.width, 1..=1 << 14)?;
            whole_within(&at("vectors.condition"), c.condition, 0..=1 << 16)?;
            within(&at("vectors.time_scale"), c.time_scale, 1e-6..=1e6)?;
            if !matches!(self.time, TimeInput::Sequence | TimeInput::Position) {
                return Err(Error::usage(format!(
                    "`{key}.vectors` needs `{key}.time = \"sequence\"` or `\"position\"`"
                ))
                .cause("Gaussian noise does not say by itself how much of it there is")
                .hint(format!("`{key}.time = \"sequence\"`")));
            }
            if c.condition > 0 && self.visibility != Visibility::Full {
                return Err(Error::usage(format!(
                    "`{key}.vectors.condition = {}` needs `{key}.visibility = \"full\"`",
                    c.condition
                ))
                .hint(format!("`{key}.visibility = \"full\"`")));
            }
        }
        match &self.bottleneck {
            Some(c) => {
                plain("bottleneck")?;
                self.validate_bottleneck(key, c)
            }
            None => Ok(()),
        }
    }

    fn validate_bottleneck(&self, key: &str, c: &BottleneckConfig) -> Result<()> {
        let at = |name: &str| format!("{key}.{name}");
        whole_within(&at("bottleneck.latents"), c.latents, 1..=1 << 14)?;
        whole_within(&at("bottleneck.width"), c.width, 1..=1 << 14)?;
        let most = self.layers.saturating_sub(1).max(1);
        whole_within(&at("bottleneck.decoder_layers"), c.decoder_layers, 1..=most)?;
        match c.decoder {
            Decoder::Parallel | Decoder::Autoregressive => {}
            Decoder::Strided(count) => whole_within(&at("bottleneck.decoder.strided"), count, 1..=1 << 14)?,
            Decoder::Dilated(count) => whole_within(&at("bottleneck.decoder.dilated"), count, 1..=1 << 14)?,
        }
        if self.layers < 2 {
            return Err(Error::usage(format!("`{key}.bottleneck` needs `{key}.layers` of at least 2"))
                .cause("one to read the text and one to write it")
                .hint(format!("`{key}.layers = 2`")));
        }
        for (fine, other, wants) in [
            (self.time == TimeInput::None, "time", "\"none\""),
            (self.visibility == Visibility::Full, "visibility", "\"full\""),
        ] {
            if !fine {
                return Err(Error::usage(format!("`{key}.bottleneck` needs `{key}.{other} = {wants}`"))
                    .hint(format!("`{key}.{other} = {wants}`")));
            }
        }
        if !self.learned_positions {
            return Err(Error::usage(format!("`{key}.bottleneck` needs `{key}.learned_positions = true`"))
                .cause("latents stand for places in the text")
                .hint(format!("`{key}.learned_positions = true`")));
        }
        Ok(())
    }
}
