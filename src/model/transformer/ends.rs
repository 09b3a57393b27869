//! The network with other ends than tokens: a denoiser of vectors, and the two halves of an autoencoder.
//!
//! A denoiser projects vectors [B, M, d] to the width D, runs the blocks, and projects back; tokens it is given (a prompt, or
//! attributes) stand in front as embedded tokens. An autoencoder reads the text and M learned queries with its first layers;
//! the queries' outputs, projected to width d and scaled to unit mean square each, are the latents (a Perceiver's
//! resampling in the manner of LD4LG, Lovelace et al. 2023). Its other layers read the latents, and one learned place for
//! each position (parallel), the text so far (autoregressive), or the masks of a phase behind the finished phases: the latents are
//! then a plan in front of phase 0, whose positions are drawn without knowing of each other.
//! B batch, L length, M latents, d their width, D width, C condition tokens, V vocabulary.

use std::ops::Range;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::prelude::*;

use super::super::config::{BottleneckConfig, Decoder, TransformerConfig, VectorsConfig};
use super::super::{Cache, Denoise, Noised, State, index_tensor};
use super::Transformer;
use super::parts::{Dense, Norm, TimeEmbedding};
use super::read::Ids;
use crate::kernels::{self, Rows, Visible};
use crate::process::{Layout, Phases};

/// The ends of a denoiser of vectors.
#[derive(Module, Debug)]
pub struct Vectors {
    /// [d or 2 d, D]: x_t, and the last estimate of x_0 beside it.
    pub input: Dense,
    /// [D, d].
    pub output: Dense,
    /// Embeds t - s.
    pub second: Option<TimeEmbedding>,
    /// Vectors of the tokens [V, d], and what rounding adds to their logits.
    pub codebook: Option<Param<Tensor<2>>>,
    pub rounding: Option<Param<Tensor<1>>>,
}

/// What stands between the halves of an autoencoder.
#[derive(Module, Debug)]
pub struct Bottleneck {
    /// What the latents are asked with [M, D].
    pub queries: Param<Tensor<2>>,
    pub norm: Norm,
    pub down: Dense,
    pub up: Dense,
    /// Where a latent stands [M, D].
    pub latent_positions: Param<Tensor<2>>,
    /// What the positions are asked with [L, D], where all are written at once.
    pub places: Option<Param<Tensor<2>>>,
}

fn matrix(rows: usize, columns: usize, device: &Device) -> Param<Tensor<2>> {
    Param::from_tensor(Tensor::zeros([rows, columns], device))
}

impl Vectors {
    pub(super) fn zeros(config: &TransformerConfig, ends: &VectorsConfig, vocab: usize, device: &Device) -> Self {
        let input = if ends.self_conditioning { 2 * ends.width } else { ends.width };
        Vectors {
            input: Dense::zeros(input, config.dim, true, device),
            output: Dense::zeros(config.dim, ends.width, true, device),
            second: ends.two_times.then(|| TimeEmbedding::zeros(config, device)),
            codebook: ends.codebook.then(|| matrix(vocab, ends.width, device)),
            rounding: ends.codebook.then(|| Param::from_tensor(Tensor::zeros([vocab], device))),
        }
    }
}

impl Bottleneck {
    pub(super) fn zeros(config: &TransformerConfig, ends: &BottleneckConfig, length: usize, device: &Device) -> Self {
        let (d, m) = (config.dim, ends.latents);
        Bottleneck {
            queries: matrix(m, d, device),
            norm: Norm::new(config, device),
            down: Dense::zeros(d, ends.width, true, device),
            up: Dense::zeros(ends.width, d, true, device),
            latent_positions: matrix(m, d, device),
            places: (ends.decoder == Decoder::Parallel).then(|| matrix(length, d, device)),
        }
    }
}

/// Vectors [B, M, d], each scaled to a mean square of 1.
pub fn unit(z: Tensor<3>) -> Tensor<3> {
    let scale = (z.clone().square().mean_dim(2) + 1e-8).sqrt();
    z / scale
}

/// What a denoiser is given beside x_t.
#[derive(Debug, Clone, Default)]
pub struct Given<'a> {
    /// Its last estimate of x_0 [B, M, d]; none: zeros.
    pub estimate: Option<Tensor<3>>,
    /// Tokens [B C]; a position without one holds the mask.
    pub condition: Option<&'a [u32]>,
    /// The finished vectors x_0 [B, M, d] beside x_t, over blocks.
    pub clean: Option<Tensor<3>>,
    /// The blocks of the order it is in, for a network whose visibility is that of the order.
    pub layout: Option<Layout>,
    /// Its fixed phases, in the place of blocks.
    pub phases: Option<Arc<Phases>>,
}

impl Transformer {
    /// The ends of a denoiser of vectors; a network of tokens has none.
    pub fn vectors(&self) -> Option<&VectorsConfig> {
        self.config.vectors.as_ref()
    }

    /// The shape of an autoencoder's bottleneck; other networks have none.
    pub fn bottleneck(&self) -> Option<&BottleneckConfig> {
        self.config.bottleneck.as_ref()
    }

    fn vector_ends(&self) -> (&Vectors, &VectorsConfig) {
        match (&self.vectors, &self.config.vectors) {
            (Some(ends), Some(config)) => (ends, config),
            _ => panic!("this network is a denoiser of vectors"),
        }
    }

    fn halves(&self) -> (&Bottleneck, &BottleneckConfig) {
        match (&self.bottleneck, &self.config.bottleneck) {
            (Some(ends), Some(config)) => (ends, config),
            _ => panic!("this network is an autoencoder"),
        }
    }

    /// What a denoiser says of x_t [B, M, d] at times t [B M], as vectors [B, M, d]; `s` [B M] are the times it is to reach, for
    /// a network of two times.
    ///
    /// # Panics
    /// Where times or condition tokens are too few or too many, and where phases stand beside condition tokens.
    pub fn says(&self, x: Tensor<3>, t: &[f64], s: Option<&[f64]>, given: &Given) -> Tensor<3> {
        let (ends, config) = self.vector_ends();
        let [b, m, _] = x.dims();
        assert_eq!(t.len(), b * m, "one time for each vector");
        let project = |x: Tensor<3>| {
            let x = match (config.self_conditioning, &given.estimate) {
                (false, _) => x,
                (true, Some(last)) => Tensor::cat(vec![x, last.clone()], 2),
                (true, None) => Tensor::cat(vec![x.clone(), x.zeros_like()], 2),
            };
            ends.input.forward(x)
        };
        let c = config.condition;
        assert!(c == 0 || given.phases.is_none(), "phases are of all that is read");
        let h = match c {
            0 => project(x),
            _ => {
                let mask = vec![self.ids.mask as u32; b * c];
                let ids = given.condition.map_or(mask, <[u32]>::to_vec);
                assert_eq!(ids.len(), b * c, "condition tokens of every sequence");
                Tensor::cat(vec![self.embed(&Ids::Host(ids), b), project(x)], 1)
            }
        };
        // Condition tokens are told the time of the first vector where a sequence has one time.
        let wide = |t: &[f64]| -> Vec<f64> {
            t.chunks(m).flat_map(|row| std::iter::repeat_n(row[0], c).chain(row.iter().copied())).collect()
        };
        let input = Noised {
            s: s.map(wide),
            blocks: given.layout,
            phases: given.phases.clone(),
            ..Noised::of(State::Vectors(h), wide(t), c + m)
        };
        let input = match &given.clean {
            None => input,
            Some(x0) => {
                let zero = Tensor::cat(vec![x0.clone(), x0.zeros_like()], 2);
                let clean = ends.input.forward(if config.self_conditioning { zero } else { x0.clone() });
                Noised { clean: Some(State::Vectors(clean)), ..input }
            }
        };
        let features = self.features(&input);
        ends.output.forward(if c > 0 { features.narrow(1, c, m) } else { features })
    }

    /// The vectors of the tokens [V, d], and the logits' offsets `[V]`, of a network with a codebook.
    pub fn codebook(&self) -> Option<(Tensor<2>, Tensor<1>)> {
        let ends = self.vectors.as_ref()?;
        Some((ends.codebook.as_ref()?.val(), ends.rounding.as_ref()?.val()))
    }

    /// Layer `i` over x [B, l, D], of which `rows` are wanted.
    fn layer(&self, i: usize, x: Tensor<3>, visible: Visible, rows: Option<std::sync::Arc<Rows>>) -> Tensor<3> {
        kernels::block(x, self.blocks[i].parameters(), None, &self.spec(i, None, visible, rows))
    }

    /// Rows `from ..` of x [B, l, D] after the layers `range`, [B, l - from, D].
    fn layers_over(&self, x: Tensor<3>, range: Range<usize>, visible: Visible, from: usize) -> Tensor<3> {
        let [b, l, d] = x.dims();
        let rows: Vec<usize> = (0..b).flat_map(|b| b * l + from..(b + 1) * l).collect();
        self.rows_over(x, range, visible, (from > 0).then_some(&rows[..])).reshape([b, l - from, d])
    }

    /// The flat rows `rows` (none: all) of x [B, l, D] after the layers `range`.
    fn rows_over(&self, mut x: Tensor<3>, range: Range<usize>, visible: Visible, rows: Option<&[usize]>) -> Tensor<3> {
        let [b, l, _] = x.dims();
        for i in range.clone() {
            let wanted = rows.filter(|_| i + 1 == range.end).map(|rows| Rows::of(rows, b, l).into());
            x = self.layer(i, x, visible.clone(), wanted);
        }
        x
    }

    fn rows_of(table: &Param<Tensor<2>>, batch: usize) -> Tensor<3> {
        let table = table.val();
        let [m, d] = table.dims();
        table.unsqueeze::<3>().expand([batch, m, d])
    }

    /// The latents [B, M, d] of texts [B L], each of mean square 1.
    pub fn encode(&self, ids: &[u32]) -> Tensor<3> {
        let (ends, _) = self.halves();
        let b = ids.len() / self.length;
        let text = self.placed(self.embed(&Ids::Host(ids.to_vec()), b), 0, None);
        let x = Tensor::cat(vec![text, Self::rows_of(&ends.queries, b)], 1);
        let x = self.layers_over(x, 0..self.config.encoding_layers(), Visible::Full, self.length);
        let (gamma, beta) = ends.norm.values();
        unit(ends.down.forward(kernels::norm(x, gamma, beta, self.norm_kind(), self.config.composed)))
    }

    /// Latents z [B, M, d] as the decoding layers read them, [B, M, D].
    fn read_latents(&self, z: Tensor<3>) -> Tensor<3> {
        let (ends, _) = self.halves();
        let b = z.dims()[0];
        ends.up.forward(unit(z)) + Self::rows_of(&ends.latent_positions, b)
    }

    /// Features [B, L, D] of the positions of a text with latents z [B, M, d]; an autoregressive decoder, and one in phases, is given
    /// the text [B L] and predicts each position from what is before it.
    ///
    /// # Panics
    /// Where an autoregressive decoder, or one in phases, is given no text.
    pub fn decode(&self, z: Tensor<3>, text: Option<&[u32]>) -> Tensor<3> {
        let (ends, config) = self.halves();
        let (b, l) = (z.dims()[0], self.length);
        let latents = self.read_latents(z);
        let layers = self.config.encoding_layers()..self.config.layers;
        if let Some(phases) = config.decoder.phases(config.latents, l) {
            let Some(text) = text else { panic!("a decoder in phases reads the finished ones") };
            return self.decode_in_phases(latents, text, phases);
        }
        let (rest, visible) = match (&ends.places, text) {
            (Some(places), _) => (Self::rows_of(places, b), Visible::Full),
            (None, Some(ids)) => {
                let start = self.ids.mask as u32;
                let behind = |row: &[u32]| std::iter::once(start).chain(row[..l - 1].to_vec()).collect::<Vec<_>>();
                let ids: Vec<u32> = ids.chunks(l).flat_map(behind).collect();
                (self.placed(self.embed(&Ids::Host(ids), b), 0, None), Visible::Causal)
            }
            (None, None) => panic!("an autoregressive decoder reads the text so far"),
        };
        let x = Tensor::cat(vec![latents, rest], 1);
        self.finish(self.layers_over(x, layers, visible, config.latents), None)
    }

    /// Features [B, L, D] of all positions behind the latents [B, M, D] as they are read, each from the phases before its own: the
    /// masks of all phases and the text [B L] are read at once.
    fn decode_in_phases(&self, latents: Tensor<3>, text: &[u32], phases: Phases) -> Tensor<3> {
        let [b, m, d] = latents.dims();
        let l = self.length;
        let stream = |ids: &[u32]| Tensor::cat(vec![latents.clone(), self.in_places(ids, &phases, m..m + l, b)], 1);
        let by_rank: Vec<u32> =
            text.chunks(l).flat_map(|row| phases.places()[m..].iter().map(|p| row[*p as usize - m])).collect();
        let masks = vec![self.ids.mask as u32; b * l];
        let x = Tensor::cat(vec![stream(&masks), stream(&by_rank)], 1);
        let wide = 2 * (m + l);
        let noise: Vec<usize> = (0..b).flat_map(|b| b * wide + m..b * wide + m + l).collect();
        let ranks: Vec<usize> = (0..l).map(|at| phases.rank(m + at) - m).collect();
        let layers = self.config.encoding_layers()..self.config.layers;
        let x = self.rows_over(x, layers, Visible::PhaseStreams(Arc::new(phases)), Some(&noise)).reshape([b, l, d]);
        let x = x.select(1, index_tensor(&ranks, &self.device().inner()));
        self.finish(x, None)
    }

    /// Tokens [B r] of the ranks `range`, embedded at their places in the text [B, r, D].
    fn in_places(&self, ids: &[u32], phases: &Phases, range: Range<usize>, batch: usize) -> Tensor<3> {
        let m = self.config.bottleneck.as_ref().map_or(0, |c| c.latents);
        let places: Vec<u32> = phases.places()[range].iter().map(|p| p - m as u32).collect();
        self.placed(self.embed(&Ids::Host(ids.to_vec()), batch), 0, Some(&places.repeat(batch)))
    }

    /// The phases in which the decoder writes behind its latents; none where it writes otherwise.
    pub fn writing_phases(&self) -> Option<Phases> {
        let config = self.config.bottleneck.as_ref()?;
        config.decoder.phases(config.latents, self.length)
    }

    /// Features [B, r, D] of the r positions of phase `n`, by rank; `finished` [B f] are the tokens of the phase before, and in front
    /// of phase 0 the latents z [B, M, d] are read into the cache in the same pass.
    pub fn write_phase(
        &self,
        phases: &Arc<Phases>,
        n: usize,
        z: Option<Tensor<3>>,
        finished: &[u32],
        cache: &mut Cache,
    ) -> Tensor<3> {
        let here = phases.ranks_of(n);
        let before = if n == 0 { here.start..here.start } else { phases.ranks_of(n - 1) };
        let b = z.as_ref().map_or_else(|| finished.len() / before.len().max(1), |z| z.dims()[0]);
        let masks = vec![self.ids.mask as u32; b * here.len()];
        let text = (!before.is_empty()).then(|| self.in_places(finished, phases, before.clone(), b));
        let parts = [z.map(|z| self.read_latents(z)), text, Some(self.in_places(&masks, phases, here.clone(), b))];
        let x = Tensor::cat(parts.into_iter().flatten().collect(), 1);
        let front = x.dims()[1] - here.len();
        let x = self.through(x, &Visible::Phases(phases.clone()), cache);
        // The masks are no text: the next pass writes their places anew.
        cache.filled = here.start;
        self.finish(x.narrow(1, front, here.len()), None)
    }

    /// The latents z [B, M, d] read into a new cache, for [`Transformer::write`].
    pub fn plan(&self, z: Tensor<3>) -> Cache {
        let mut cache = Cache::default();
        self.through(self.read_latents(z), &Visible::Causal, &mut cache);
        cache
    }

    /// Features [B, D] of position `l` of texts whose tokens before it are in the cache but the last, `ids` `[B]`.
    pub fn write(&self, ids: &[u32], l: usize, cache: &mut Cache) -> Tensor<2> {
        let b = ids.len();
        let x = self.placed(self.embed(&Ids::Host(ids.to_vec()), b), l, None);
        let x = self.through(x, &Visible::Causal, cache);
        let d = self.config.dim;
        self.finish(x, None).reshape([b, d])
    }

    /// x [B, l, D] through the decoding layers behind what is in the cache.
    fn through(&self, mut x: Tensor<3>, visible: &Visible, cache: &mut Cache) -> Tensor<3> {
        let [b, l, _] = x.dims();
        let capacity = self.config.span(self.length);
        let mut slabs = std::mem::take(&mut cache.slabs).into_iter();
        for i in self.config.encoding_layers()..self.config.layers {
            let slab = slabs.next().unwrap_or_else(|| {
                let shape = [b, self.config.kv_heads(), capacity, self.config.head_dim()];
                let empty = || Tensor::zeros(shape, (&self.device().inner(), x.dtype()));
                (empty(), empty())
            });
            let spec = self.spec(i, None, visible.clone(), None);
            let grown;
            (x, grown) = kernels::block_cached(x, self.blocks[i].parameters(), None, slab, &spec, cache.filled);
            cache.slabs.push(grown);
        }
        cache.filled += l;
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::params::{self, floats};

    fn autoencoder(decoder: Decoder) -> Transformer {
        let bottleneck = Some(BottleneckConfig { latents: 3, width: 4, decoder_layers: 2, decoder });
        let config = TransformerConfig {
            learned_positions: true,
            bottleneck,
            ..TransformerConfig::new(16, 4, 2, crate::model::config::Visibility::Full)
        };
        Transformer::init(&config, 7, 6, 3, &Device::flex())
    }

    #[test]
    fn the_parameters_of_every_end_are_counted() {
        for decoder in [Decoder::Parallel, Decoder::Autoregressive, Decoder::Strided(4)] {
            let model = autoencoder(decoder);
            assert_eq!(params::count(&model) as u128, model.config().parameters(7, 6));
        }
        for (self_conditioning, two_times, codebook) in [(false, false, false), (true, false, true), (true, true, true)]
        {
            let vectors = VectorsConfig {
                count: 4,
                width: 5,
                self_conditioning,
                two_times,
                condition: 2,
                codebook,
                time_scale: 30.0,
            };
            let config = TransformerConfig {
                time: crate::model::config::TimeInput::Sequence,
                vectors: Some(vectors),
                ..TransformerConfig::new(16, 2, 2, crate::model::config::Visibility::Full)
            };
            let model = Transformer::init(&config, 7, 6, 3, &Device::flex());
            assert_eq!(params::count(&model) as u128, config.parameters(7, 6));
        }
    }

    #[test]
    fn latents_have_unit_mean_square_and_depend_on_every_token() {
        let model = autoencoder(Decoder::Parallel);
        let text = [1, 2, 3, 4, 5, 6];
        let z = model.encode(&text);
        for vector in floats(z.clone()).chunks(4) {
            assert!((vector.iter().map(|v| v * v).sum::<f32>() / 4.0 - 1.0).abs() < 1e-4);
        }
        for l in 0..6 {
            let mut other = text;
            other[l] = 0;
            let change = floats(model.encode(&other) - z.clone()).iter().map(|v| v.abs()).fold(0.0, f32::max);
            assert!(change > 1e-4, "position {l}: {change}");
        }
        // Texts of a batch do not see each other.
        let both = model.encode(&[text, [0, 0, 1, 1, 2, 2]].concat());
        let change = floats(both.narrow(0, 0, 1) - z).iter().map(|v| v.abs()).fold(0.0, f32::max);
        assert!(change < 1e-5);
    }

    #[test]
    fn an_autoregressive_decoder_writes_through_its_cache_what_it_predicts_in_one_pass() {
        let model = autoencoder(Decoder::Autoregressive);
        let text: Vec<u32> = (0..12).map(|i| (i * 5 % 7) as u32).collect();
        let z = model.encode(&text);
        let whole = model.decode(z.clone(), Some(&text));
        let mut cache = model.plan(z);
        let mut last = vec![7u32; 2];
        for l in 0..6 {
            let features = model.write(&last, l, &mut cache);
            let want = whole.clone().narrow(1, l, 1).reshape([2, 16]);
            let change = floats(features - want).iter().map(|v| v.abs()).fold(0.0, f32::max);
            assert!(change < 1e-4, "position {l}: {change}");
            last = vec![text[l], text[6 + l]];
        }
    }

    /// The loss of all phases in one pass, and what a sampler reads phase after phase, on the same weights.
    #[test]
    fn a_decoder_in_phases_writes_through_its_cache_what_it_predicts_in_one_pass() {
        let text: Vec<u32> = (0..12).map(|i| (i * 5 % 7) as u32).collect();
        for decoder in [Decoder::Strided(1), Decoder::Strided(4), Decoder::Dilated(3), Decoder::Strided(9)] {
            let model = autoencoder(decoder);
            let z = model.encode(&text);
            let whole = model.decode(z.clone(), Some(&text));
            let phases = Arc::new(model.writing_phases().unwrap());
            assert_eq!(phases.given(), 3);
            let (mut cache, mut finished, mut z) = (Cache::default(), Vec::new(), Some(z));
            for n in 0..phases.count() {
                let features = model.write_phase(&phases, n, z.take(), &finished, &mut cache);
                let places: Vec<usize> = phases.ranks_of(n).map(|rank| phases.place(rank) - 3).collect();
                let want = whole.clone().select(1, index_tensor(&places, &Device::flex()));
                let change = floats(features - want).iter().map(|v| v.abs()).fold(0.0, f32::max);
                assert!(change < 1e-4, "{decoder:?}, phase {n}: {change}");
                finished = text.chunks(6).flat_map(|row| places.iter().map(|l| row[*l])).collect();
            }
        }
    }

    #[test]
    fn a_decoder_in_phases_sees_its_latents_the_phases_before_and_nothing_behind() {
        let model = autoencoder(Decoder::Strided(3));
        let text = [1, 2, 3, 4, 5, 6];
        let z = model.encode(&text);
        let features = |z: &Tensor<3>, text: &[u32]| floats(model.decode(z.clone(), Some(text)));
        let own = features(&z, &text);
        let differs = |other: &[f32], l: usize| (0..16).any(|i| (own[l * 16 + i] - other[l * 16 + i]).abs() > 1e-5);
        for changed in 0..6 {
            let mut other = text;
            other[changed] = 0;
            let other = features(&z, &other);
            assert!((0..6).all(|l| differs(&other, l) == (l % 3 > changed % 3)), "position {changed}");
        }
        let moved = features(&model.encode(&[0, 0, 1, 1, 2, 2]), &text);
        assert!((0..6).all(|l| differs(&moved, l)), "every phase is told the plan");
    }
}
