//! The names and shapes of a network's parameters, without a network: what a file is compared with before anything is
//! allocated.

use std::collections::BTreeMap;

use super::{NormKind, TimeInput, TransformerConfig, UNIFORM_DIGITS};

impl TransformerConfig {
    /// The parameters of a network of tokens (neither vectors nor a bottleneck) with `vocab` tokens and `length` positions,
    /// by path, in the shape that they have on the host: projections are [out, in].
    ///
    /// # Panics
    /// For a network of vectors or with a bottleneck.
    pub fn tensors(&self, vocab: usize, length: usize) -> BTreeMap<String, Vec<usize>> {
        assert!(self.vectors.is_none() && self.bottleneck.is_none(), "a network of tokens");
        let mut all = BTreeMap::new();
        let (d, f, has) = (self.dim, self.hidden(), self.biases());
        let mut put = |name: String, shape: &[usize]| drop(all.insert(name, shape.to_vec()));
        let mut dense = |name: &str, [d_in, d_out]: [usize; 2], bias: bool| {
            put(format!("{name}.weight"), &[d_out, d_in]);
            if bias {
                put(format!("{name}.bias"), &[d_out]);
            }
        };
        let timed = self.time != TimeInput::None;
        let c = self.cond_dim();
        if timed {
            dense("time.first", [self.wave_dim(), c], true);
            dense("time.second", [c, c], true);
            dense("modulation", [c, 2 * d], true);
        }
        if self.uniforms {
            dense("uniforms", [UNIFORM_DIGITS, d], false);
        }
        if self.has_head() {
            dense("head", [d, vocab], self.head_bias());
        }
        if self.head_transform {
            dense("transform.dense", [d, d], false);
        }
        let inner = self.heads * self.head_dim();
        for i in 0..self.layers {
            let at = |name: &str| format!("blocks.{i}.{name}");
            dense(&at("attention.qkv"), [d, self.packed()], has.qkv);
            dense(&at("attention.out"), [inner, d], has.out);
            dense(&at("mlp.up"), [d, f], has.mlp);
            dense(&at("mlp.down"), [f, d], has.mlp);
            if self.activation.gated() {
                dense(&at("mlp.gate"), [d, f], has.mlp);
            }
            if timed {
                dense(&at("modulation"), [c, 6 * d], true);
            }
        }
        let mut norm = |name: String, width: usize, offset: bool| {
            put(format!("{name}.weight"), &[width]);
            if offset {
                put(format!("{name}.bias"), &[width]);
            }
        };
        let offset = self.norm == NormKind::Layer && has.norm;
        norm("norm".into(), d, offset);
        if self.embedding_norm {
            norm("embed_norm".into(), d, offset);
        }
        if self.head_transform {
            norm("transform.norm".into(), d, offset);
        }
        for i in 0..self.layers {
            if i > 0 || !self.embedding_norm {
                norm(format!("blocks.{i}.norm1"), d, offset);
            }
            norm(format!("blocks.{i}.norm2"), d, offset);
            if self.qk_norm {
                norm(format!("blocks.{i}.attention.q_norm"), self.head_dim(), false);
                norm(format!("blocks.{i}.attention.k_norm"), self.head_dim(), false);
            }
        }
        put("embed".into(), &[self.rows(vocab), d]);
        if self.learned_positions {
            put("positions".into(), &[self.places(length), d]);
        }
        if self.tied && self.head_bias() {
            put("head_bias".into(), &[vocab]);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{Activation, Biases, Visibility};
    use crate::model::{Transformer, params};
    use burn::prelude::Device;

    #[test]
    fn the_names_and_shapes_are_those_of_the_network_itself() {
        let base = TransformerConfig::new(16, 3, 4, Visibility::Full);
        let biases = |bits: u32| {
            let bit = |n: u32| bits >> n & 1 == 1;
            Some(Biases { norm: bit(0), qkv: bit(1), out: bit(2), mlp: bit(3), head: bit(4) })
        };
        let mut seen = 0;
        for bits in 0..32 {
            for norm in [NormKind::Rms, NormKind::Layer] {
                for time in [TimeInput::None, TimeInput::Sequence, TimeInput::ZeroSigma] {
                    for (tied, special) in [(false, false), (true, true), (true, false), (false, true)] {
                        let config = TransformerConfig {
                            biases: biases(bits),
                            norm,
                            time,
                            tied,
                            kv_heads: Some(2),
                            head_dim: Some(6),
                            hidden: Some(20),
                            cond_dim: Some(10),
                            qk_norm: special,
                            embedding_norm: special,
                            head_transform: special,
                            learned_positions: !special,
                            mask_row: special,
                            uniforms: bits % 2 == 0,
                            activation: if special { Activation::Swiglu } else { Activation::Gelu },
                            ..base.clone()
                        };
                        let network = Transformer::zeros(&config, 11, 7, &Device::flex());
                        let want: BTreeMap<_, _> = params::shapes(&network).into_iter().collect();
                        let got = config.tensors(11, 7);
                        assert_eq!(got, want, "{config:?}");
                        let size: usize = got.values().map(|s| s.iter().product::<usize>()).sum();
                        assert_eq!(size as u128, config.parameters(11, 7));
                        seen += 1;
                    }
                }
            }
        }
        assert_eq!(seen, 32 * 2 * 3 * 4);
    }
}
