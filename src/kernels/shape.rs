//! What operations are told besides their tensors: who sees whom, which rows are wanted, the rotary tables.
//!
//! B batch, L length, H query heads, Hkv key heads, d head width, r wanted rows.

use std::ops::Range;
use std::sync::Arc;

use crate::process::{Layout, Phases};

/// A layer norm (`centred`) or a root-mean-square norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormKind {
    pub centred: bool,
    pub eps: f32,
}

/// The nonlinearity of the feed-forward half; it acts on the gate where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
    /// GELU in its exact form, through erf.
    GeluErf,
}

/// Rotary tables cos, sin [L or more, d] in half-split layout (pairs i, i + d/2), computed in f64.
#[derive(Debug)]
pub struct Tables {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

impl Tables {
    /// For `length` positions, head width `d` and angle base `theta`.
    pub fn new(length: usize, d: usize, theta: f64) -> Self {
        let frequencies: Vec<f64> = (0..d / 2).map(|i| theta.powf(-2.0 * i as f64 / d as f64)).collect();
        Self::of(length, &frequencies)
    }

    /// For `length` positions and the angles per position of the d/2 pairs; without any, nothing turns.
    pub fn of(length: usize, frequencies: &[f64]) -> Self {
        let d = 2 * frequencies.len();
        let angle = |k: usize| (k / d) as f64 * frequencies[k % (d / 2)];
        let table = |f: fn(f64) -> f64| (0..length * d).map(|k| f(angle(k)) as f32).collect();
        Tables { cos: table(f64::cos), sin: table(f64::sin) }
    }
}

/// Which keys a query may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// Every position.
    Full,
    /// Itself and everything to its left.
    Causal,
    /// Its own block and every block before it.
    Blocks(Layout),
    /// The input is [x_t ; x_0], each half as long as the text: noise sees its own block and the clean ones before it, and
    /// clean text its own block and those before it (BD3-LM's training mask; Arriola et al. 2025, section 3.1).
    Streams(Layout),
    /// Positions sorted by phase: its own phase and those before it. Each is turned to its place in the text.
    Phases(Arc<Phases>),
    /// The same of [x_t ; x_0], each sorted by phase: noise sees its own phase and the clean ones before it, and clean text its
    /// own phase and those before it.
    PhaseStreams(Arc<Phases>),
}

impl Visible {
    /// Whether it is of two streams.
    pub fn two_streams(&self) -> bool {
        matches!(self, Visible::Streams(_) | Visible::PhaseStreams(_))
    }
}

/// What a position of [x_t ; x_0], of `half` positions each, sees whose block is `block`.
fn beside(block: Range<usize>, noise: bool, half: usize) -> [Range<usize>; 2] {
    match noise {
        true => [block.start..block.end.min(half), half..half + block.start],
        false => [half..half + block.end.min(half), 2 * half..2 * half],
    }
}

/// The shape of an attention: B, L, query and key heads, d, and what a position sees.
#[derive(Debug, Clone)]
pub struct Shape {
    pub batch: usize,
    pub length: usize,
    pub heads: usize,
    /// Key and value heads; each serves heads / kv_heads query heads.
    pub kv_heads: usize,
    pub head_dim: usize,
    pub visible: Visible,
    /// Per sequence the range of keys that are not padding; none: all of them.
    pub keys: Option<Arc<[Range<usize>]>>,
}

impl Shape {
    /// Width of a packed row: queries, keys, values.
    pub fn packed(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of an output row.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Keys that the query at position `i` of sequence `b` sees: one range, or two that rise.
    pub fn seen(&self, b: usize, i: usize) -> [Range<usize>; 2] {
        let none = self.length..self.length;
        let seen = match &self.visible {
            Visible::Full => [0..self.length, none],
            Visible::Causal => [0..i + 1, none],
            Visible::Blocks(layout) => [0..layout.range(i).end.min(self.length), none],
            Visible::Streams(layout) => {
                let half = self.length / 2;
                beside(layout.range(i % half), i < half, half)
            }
            Visible::Phases(phases) => [0..phases.range(i).end, none],
            Visible::PhaseStreams(phases) => {
                let half = self.length / 2;
                beside(phases.range(i % half), i < half, half)
            }
        };
        let Some(keys) = &self.keys else { return seen };
        seen.map(|r| r.start.max(keys[b].start).min(keys[b].end.max(r.start))..r.end.min(keys[b].end).max(r.start))
    }

    /// Whether that query sees the key at `j`.
    pub fn sees(&self, b: usize, i: usize, j: usize) -> bool {
        self.seen(b, i).iter().any(|r| r.contains(&j))
    }

    /// The end of what position `i` sees behind a cache, of `end` positions that are there.
    ///
    /// # Panics
    /// Where the network reads two streams, which are read whole.
    pub fn seen_cached(&self, i: usize, end: usize) -> usize {
        match &self.visible {
            Visible::Full => end,
            Visible::Causal => i + 1,
            Visible::Blocks(layout) => layout.range(i).end.min(end),
            Visible::Phases(phases) => phases.range(i).end.min(end),
            Visible::Streams(_) | Visible::PhaseStreams(_) => panic!("two streams are read whole"),
        }
    }

    /// The place that position `i` is turned to: both streams count from 0, and a rank stands for its position.
    pub fn place(&self, i: usize) -> usize {
        match &self.visible {
            Visible::Streams(_) => i % (self.length / 2),
            Visible::Phases(phases) => phases.place(i),
            Visible::PhaseStreams(phases) => phases.place(i % (self.length / 2)),
            Visible::Full | Visible::Causal | Visible::Blocks(_) => i,
        }
    }
}

/// The positions whose output is wanted, sequence by sequence: r rows.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Position of each row in its sequence [r], rising within a sequence.
    positions: Vec<u32>,
    /// Where each sequence's rows start, and the end [B + 1].
    starts: Vec<usize>,
}

impl Rows {
    /// Every position.
    pub fn all(batch: usize, length: usize) -> Self {
        let positions = (0..batch).flat_map(|_| 0..length as u32).collect();
        Rows { positions, starts: (0..=batch).map(|b| b * length).collect() }
    }

    /// Flat positions in B x L, which must rise.
    ///
    /// # Panics
    /// Where `flat` does not rise, or leaves B x L.
    pub fn of(flat: &[usize], batch: usize, length: usize) -> Self {
        assert!(flat.windows(2).all(|p| p[0] < p[1]), "rows rise");
        assert!(flat.last().is_none_or(|r| *r < batch * length), "rows lie in B x L");
        let starts = (0..=batch).map(|b| flat.partition_point(|r| *r < b * length)).collect();
        Rows { positions: flat.iter().map(|r| (r % length) as u32).collect(), starts }
    }

    /// Number of rows r.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether no position is wanted.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Where each sequence's rows start, and the end [B + 1].
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// Positions of sequence `b`.
    pub fn sequence(&self, b: usize) -> &[u32] {
        &self.positions[self.starts[b]..self.starts[b + 1]]
    }

    /// Flat positions in B x L.
    pub fn flat(&self, length: usize) -> impl Iterator<Item = usize> {
        let sequences = self.starts.windows(2).enumerate();
        sequences.flat_map(move |(b, s)| self.positions[s[0]..s[1]].iter().map(move |p| b * length + *p as usize))
    }

    /// One part of `out` [r, width] for each sequence.
    pub fn split<'a>(&self, mut out: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let mut parts = Vec::with_capacity(self.starts.len() - 1);
        for s in self.starts.windows(2) {
            let (part, rest) = out.split_at_mut((s[1] - s[0]) * width);
            parts.push(part);
            out = rest;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(visible: Visible, keys: Option<Vec<Range<usize>>>) -> Shape {
        Shape { batch: 2, length: 7, heads: 2, kv_heads: 1, head_dim: 4, visible, keys: keys.map(Arc::from) }
    }

    #[test]
    fn each_visibility_sees_its_prefix_and_padding_is_never_seen() {
        assert_eq!(shape(Visible::Full, None).seen(0, 2)[0], 0..7);
        assert_eq!(shape(Visible::Causal, None).seen(1, 2)[0], 0..3);
        let three = Visible::Blocks(Layout::blocks(3));
        let blocks: Vec<usize> = (0..7).map(|i| shape(three.clone(), None).seen(0, i)[0].end).collect();
        assert_eq!(blocks, [3, 3, 3, 6, 6, 6, 7]);
        let segments = Visible::Blocks(Layout { text: 2, size: 3 });
        let blocks: Vec<usize> = (0..7).map(|i| shape(segments.clone(), None).seen(0, i)[0].end).collect();
        assert_eq!(blocks, [1, 2, 5, 5, 5, 6, 7]);
        let padded = shape(Visible::Causal, Some(vec![0..2, 3..7]));
        let seen = |b: usize, i: usize| (0..7).filter(|j| padded.sees(b, i, *j)).collect::<Vec<_>>();
        assert_eq!((seen(0, 5), seen(1, 5), seen(1, 1)), (vec![0, 1], vec![3, 4, 5], vec![]));
    }

    #[test]
    fn noise_sees_its_own_block_and_the_clean_ones_before_it_and_clean_text_sees_no_noise() {
        let shape = Shape { length: 10, ..shape(Visible::Streams(Layout::blocks(2)), None) };
        let seen = |i: usize| (0..10).filter(|j| shape.sees(0, i, *j)).collect::<Vec<_>>();
        assert_eq!((seen(0), seen(3), seen(4)), (vec![0, 1], vec![2, 3, 5, 6], vec![4, 5, 6, 7, 8]));
        assert_eq!((seen(5), seen(8), seen(9)), (vec![5, 6], vec![5, 6, 7, 8], vec![5, 6, 7, 8, 9]));
        assert_eq!((shape.place(3), shape.place(8)), (3, 3));
    }

    #[test]
    fn a_phase_sees_itself_and_those_before_it_and_stands_where_its_positions_do() {
        let phases = Arc::new(Phases::new(5, &[], |l| l % 2)); // ranks of positions 0 2 4 | 1 3
        let one = Shape { length: 5, ..shape(Visible::Phases(phases.clone()), None) };
        let two = Shape { length: 10, ..shape(Visible::PhaseStreams(phases), None) };
        let seen = |shape: &Shape, i: usize| (0..shape.length).filter(|j| shape.sees(0, i, *j)).collect::<Vec<_>>();
        assert_eq!((seen(&one, 2), seen(&one, 3)), (vec![0, 1, 2], vec![0, 1, 2, 3, 4]));
        assert_eq!((seen(&two, 1), seen(&two, 4)), (vec![0, 1, 2], vec![3, 4, 5, 6, 7]));
        assert_eq!((seen(&two, 5), seen(&two, 9)), (vec![5, 6, 7], vec![5, 6, 7, 8, 9]));
        assert_eq!((0..10).map(|i| two.place(i)).collect::<Vec<_>>(), [0, 2, 4, 1, 3, 0, 2, 4, 1, 3]);
    }

    #[test]
    fn rows_know_their_sequence_and_their_flat_position() {
        let rows = Rows::of(&[1, 6, 7, 13], 3, 7);
        assert_eq!((rows.starts(), rows.len()), (&[0, 2, 4, 4][..], 4));
        assert_eq!((rows.sequence(0), rows.sequence(1), rows.sequence(2)), (&[1, 6][..], &[0, 6][..], &[][..]));
        assert_eq!(rows.flat(7).collect::<Vec<_>>(), [1, 6, 7, 13]);
        assert_eq!(Rows::all(2, 3).flat(3).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    }
}
