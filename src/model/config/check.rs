//! The ranges of a network's numbers, and which of its choices contradict each other.

use std::ops::RangeInclusive;

use super::{TimeInput, TransformerConfig, Visibility};
use crate::error::{Error, Result, whole_within, within};

/// Widest vector inside of a network.
const MOST_WIDTH: usize = 1 << 16;
/// Bases of the rotary angles.
const THETAS: RangeInclusive<f64> = 1.000_001..=1e12;

/// The number from 1 to `most` nearest to `wanted` that `fits`.
fn nearest_where(wanted: usize, most: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    (1..=most).filter(|n| fits(*n)).min_by_key(|n| n.abs_diff(wanted))
}

impl TransformerConfig {
    fn validate_encoder(&self, key: &str) -> Result<()> {
        let at = format!("{key}.encoder_layers = {}", self.encoder_layers);
        let needs = |other: &str, wants: &str| {
            Err(Error::usage(format!("`{at}` needs `{key}.{other}` = {wants}"))
                .hint(format!("or leave the encoder out: `{key}.encoder_layers = 0`")))
        };
        if self.encoder_layers >= self.layers {
            return Err(Error::usage(format!("`{at}` leaves none of `{key}.layers = {}`", self.layers))
                .cause("the layers behind the encoder's iterate over noise")
                .hint(format!("`{key}.encoder_layers = {}`", self.layers - 1)));
        }
        if !matches!(self.visibility, Visibility::Blocks(_) | Visibility::Order) {
            return needs("visibility", "{ blocks = N } or \"order\"");
        }
        if self.time != TimeInput::None {
            return needs("time", "\"none\"");
        }
        match self.checkpoint {
            true => needs("checkpoint", "false"),
            false => Ok(()),
        }
    }

    /// Checks that heads divide the width evenly.
    fn validate_heads(&self, key: &str) -> Result<()> {
        if let Some(d) = self.head_dim.filter(|d| !d.is_multiple_of(2)) {
            return Err(Error::usage(format!("`{key}.head_dim` must be even, but it is {d}"))
                .cause("rotary positions turn its numbers in pairs")
                .hint(format!("`{key}.head_dim = {}`", d + 1)));
        }
        let splits = |heads: usize| self.dim.is_multiple_of(heads) && (self.dim / heads).is_multiple_of(2);
        if self.head_dim.is_none() && !splits(self.heads) {
            let error = Error::usage(format!(
                "`{key}.heads` ({}) must divide `{key}.dim` ({}) into an even head width",
                self.heads, self.dim
            ));
            return Err(match nearest_where(self.heads, 1024, splits) {
                Some(heads) => error.hint(format!("`{key}.heads = {heads}`")),
                None => error.hint(format!("an even width: `{key}.dim = {}`", 2 * self.heads)),
            });
        }
        if !self.heads.is_multiple_of(self.kv_heads()) {
            let error = Error::usage(format!(
                "`{key}.kv_heads` ({}) must divide `{key}.heads` ({})",
                self.kv_heads(),
                self.heads
            ));
            let fits = |n: usize| self.heads.is_multiple_of(n);
            let nearest = nearest_where(self.kv_heads(), self.heads, fits).unwrap_or(1);
            return Err(error.hint(format!("`{key}.kv_heads = {nearest}`")));
        }
        Ok(())
    }

    /// Checks ranges and contradictions; `key` is the dotted place of this table in the recipe.
    ///
    /// # Errors
    /// A setting out of range, or settings that contradict each other (usage).
    pub fn validate(&self, key: &str) -> Result<()> {
        let at = |name: &str| format!("{key}.{name}");
        // What is computed from these numbers is computed after they are known to be small enough.
        for (name, value, most) in [
            ("dim", self.dim, MOST_WIDTH),
            ("layers", self.layers, 1024),
            ("heads", self.heads, 1024),
            ("hidden", self.hidden.unwrap_or(1), 1 << 20),
            ("kv_heads", self.kv_heads.unwrap_or(1), 1024),
            ("head_dim", self.head_dim.unwrap_or(2), MOST_WIDTH),
            ("cond_dim", self.cond_dim.unwrap_or(1), MOST_WIDTH),
        ] {
            whole_within(&at(name), value, 1..=most)?;
        }
        whole_within(&at("encoder_layers"), self.encoder_layers, 0..=1024)?;
        if let Visibility::Blocks(size) = self.visibility {
            whole_within(&at("visibility.blocks"), size, 1..=1 << 20)?;
        }
        self.validate_heads(key)?;
        if self.uniforms && self.visibility != Visibility::Order {
            return Err(Error::usage(format!("`{key}.uniforms = true` needs `{key}.visibility = \"order\"`"))
                .cause("they are shared by the positions that a step of the order reveals")
                .hint(format!("`{key}.visibility = \"order\"`")));
        }
        self.validate_ends(key)?;
        // 64 GiB of f32 weights: what is meant as a size is below it, and what is above it would end in an abort.
        if self.parameters(0, 0) > 1 << 34 {
            return Err(Error::usage(format!(
                "`{key}.dim` ({}) and `{key}.layers` ({}) make a network of {} parameters",
                self.dim,
                self.layers,
                self.parameters(0, 0)
            ))
            .cause(format!("at most {} are held", 1u64 << 34))
            .hint("lower `dim`, `hidden` or `layers`"));
        }
        if self.encoder_layers > 0 {
            self.validate_encoder(key)?;
        }
        if self.shift && self.visibility != Visibility::Causal {
            return Err(Error::usage(format!("`{key}.shift = true` needs `{key}.visibility = \"causal\"`"))
                .hint(format!("a network that sees every position needs no shift: `{key}.shift = false`")));
        }
        within(&at("norm_eps"), self.norm_eps, 1e-30..=1.0)?;
        within(&at("rope_theta"), self.rope_theta, THETAS)?;
        if let Some(s) = &self.rope_scaling {
            s.validate(&at("rope_scaling"))?;
        }
        if let Some(local) = &self.local {
            whole_within(&at("local.every"), local.every, 1..=1024)?;
            whole_within(&at("local.window"), local.window, 0..=1 << 20)?;
            within(&at("local.rope_theta"), local.rope_theta, THETAS)?;
            if let Some(s) = &local.rope_scaling {
                s.validate(&at("local.rope_scaling"))?;
            }
        }
        Ok(())
    }
}
