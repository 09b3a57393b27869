//! Rotary angles: their base, how they are stretched, and the blocks that see only near positions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{TransformerConfig, is_default};
use crate::error::{Error, Result, number, within};

/// Stretched rotary angles. With `factor` alone every wavelength is that many times as long; with the other three as LLaMA 3
/// has it: wavelengths above old / low_freq are `factor` times as long, those below old / high_freq stay, and those between
/// are interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RopeScaling {
    /// By how much low frequencies are stretched.
    pub factor: f64,
    /// Llama 3: wavelengths longer than the original length divided by this are stretched whole.
    #[serde(default, skip_serializing_if = "is_default")]
    pub low_freq_factor: Option<f64>,
    /// Llama 3: wavelengths shorter than the original length divided by this stay as they are.
    #[serde(default, skip_serializing_if = "is_default")]
    pub high_freq_factor: Option<f64>,
    /// Llama 3: the length that the checkpoint was first trained at.
    #[serde(default, skip_serializing_if = "is_default")]
    pub original_max_position_embeddings: Option<f64>,
}

impl RopeScaling {
    /// Every wavelength `factor` times as long.
    pub fn linear(factor: f64) -> Self {
        RopeScaling { factor, low_freq_factor: None, high_freq_factor: None, original_max_position_embeddings: None }
    }

    /// LLaMA 3's, with its factors for low and high frequencies and the length that was trained on.
    pub fn llama3(factor: f64, low: f64, high: f64, original: f64) -> Self {
        RopeScaling {
            factor,
            low_freq_factor: Some(low),
            high_freq_factor: Some(high),
            original_max_position_embeddings: Some(original),
        }
    }

    /// The low and the high factor and the old length; none for the linear kind, and where one of them is missing.
    fn bands(&self) -> Option<[f64; 3]> {
        Some([self.low_freq_factor?, self.high_freq_factor?, self.original_max_position_embeddings?])
    }

    /// An angle per position as it is after stretching.
    fn stretched(&self, f: f64) -> f64 {
        let Some([low, high, old]) = self.bands() else { return f / self.factor };
        let turns = old * f / (2.0 * std::f64::consts::PI);
        if turns < low {
            f / self.factor
        } else if turns > high {
            f
        } else {
            let smooth = (turns - low) / (high - low);
            (1.0 - smooth) * f / self.factor + smooth * f
        }
    }

    /// Checks ranges, and that all or none of LLaMA 3's numbers are there; `key` is the dotted place of this table.
    pub(super) fn validate(&self, key: &str) -> Result<()> {
        let at = |name: &str| format!("{key}.{name}");
        let more = [
            ("low_freq_factor", self.low_freq_factor),
            ("high_freq_factor", self.high_freq_factor),
            ("original_max_position_embeddings", self.original_max_position_embeddings),
        ];
        within(&at("factor"), self.factor, 1e-6..=1e9)?;
        for (name, value) in more {
            value.map_or(Ok(()), |value| within(&at(name), value, 1e-6..=1e9))?;
        }
        let Some([low, high, _]) = self.bands() else {
            return match more.iter().find(|(_, value)| value.is_none()) {
                Some((missing, _)) if more.iter().any(|(_, value)| value.is_some()) => {
                    Err(Error::usage(format!("`{key}` has no `{missing}`"))
                        .cause("LLaMA 3's angles need all three of its numbers beside `factor`")
                        .hint(format!("give `{}` too, or `factor` alone", at(missing))))
                }
                _ => Ok(()),
            };
        };
        if high <= low {
            return Err(Error::usage(format!("`{key}.high_freq_factor` is not above `{key}.low_freq_factor`"))
                .hint(format!("`{key}.high_freq_factor = {}`", number(4.0 * low))));
        }
        Ok(())
    }
}

/// Blocks that see only near positions (ModernBERT): all but every `every`-th, or all but those that are listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Local {
    /// How far a position sees to either side.
    pub window: usize,
    /// Blocks 0, every, 2 every, ... see everything.
    pub every: usize,
    /// Base of the rotary angles in local blocks.
    pub rope_theta: f64,
    /// How the angles of local blocks are stretched.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rope_scaling: Option<RopeScaling>,
    /// The blocks that see everything, where they are not every `every`-th.
    #[serde(default, skip_serializing_if = "is_default")]
    pub global: Option<Vec<usize>>,
}

impl Local {
    /// Whether block `i` sees only near positions.
    pub fn is_local(&self, i: usize) -> bool {
        match &self.global {
            Some(global) => !global.contains(&i),
            None => !i.is_multiple_of(self.every),
        }
    }
}

impl TransformerConfig {
    /// The angles per position of the pairs of a head: of blocks that see everything, or of local ones.
    pub fn frequencies(&self, local: bool) -> Vec<f64> {
        let (theta, scaling) = match &self.local {
            Some(l) if local => (l.rope_theta, l.rope_scaling),
            _ => (self.rope_theta, self.rope_scaling),
        };
        let d = self.head_dim();
        let plain = |i: usize| theta.powf(-2.0 * i as f64 / d as f64);
        let angle = |i: usize| scaling.map_or_else(|| plain(i), |s| s.stretched(plain(i)));
        (0..d / 2).map(|i| if self.rotary { angle(i) } else { 0.0 }).collect()
    }

    /// The same network with the blocks `keep` alone, in that order; where kinds of blocks are listed, each keeps its own.
    pub fn with_layers(&self, keep: &[usize]) -> Self {
        let mut config = TransformerConfig { layers: keep.len(), ..self.clone() };
        if let Some(global) = config.local.as_mut().and_then(|local| local.global.as_mut()) {
            let sees = |i: &usize| global.contains(&keep[*i]);
            *global = (0..keep.len()).filter(sees).collect();
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Visibility;

    #[test]
    fn angles_are_stretched_by_the_rule_that_is_named() {
        let base = TransformerConfig::new(64, 1, 4, Visibility::Full);
        let plain = base.frequencies(false);
        let with = |s| TransformerConfig { rope_scaling: Some(s), ..base.clone() }.frequencies(false);
        for (a, b) in plain.iter().zip(with(RopeScaling::linear(4.0))) {
            assert!((a / 4.0 - b).abs() < 1e-15);
        }
        let banded = with(RopeScaling::llama3(8.0, 1.0, 4.0, 64.0));
        assert_eq!((banded[0], banded[7]), (plain[0], plain[7] / 8.0));
        assert!(banded.iter().zip(&plain).any(|(a, b)| *a < *b && *a > b / 8.0), "one lies between");
        for wrong in [
            RopeScaling::linear(0.0),
            RopeScaling::llama3(8.0, 4.0, 1.0, 64.0),
            RopeScaling { high_freq_factor: None, ..RopeScaling::llama3(8.0, 1.0, 4.0, 64.0) },
        ] {
            assert!(wrong.validate("network.rope_scaling").is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn kinds_of_blocks_are_every_nth_or_listed_and_stay_with_the_blocks_that_are_kept() {
        let local = Local { window: 4, every: 3, rope_theta: 1e4, rope_scaling: None, global: None };
        let kinds = |l: &Local, n: usize| (0..n).map(|i| l.is_local(i)).collect::<Vec<_>>();
        assert_eq!(kinds(&local, 4), [false, true, true, false]);
        let listed = Local { global: Some(vec![1, 2]), ..local };
        assert_eq!(kinds(&listed, 4), [true, false, false, true]);
        let config = TransformerConfig { local: Some(listed), ..TransformerConfig::new(16, 4, 2, Visibility::Full) };
        let kept = config.with_layers(&[0, 2, 3]);
        assert_eq!(kept.layers, 3);
        assert_eq!(kinds(kept.local.as_ref().unwrap(), 3), [true, false, true]);
    }
}
