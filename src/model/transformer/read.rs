//! What a network reads of its input: ids, padding, the clean stream, and which of its rows describe which positions.
//!
//! B batch, L length, r rows.

use std::ops::Range;
use std::sync::Arc;

use burn::prelude::*;

use super::super::config::Visibility;
use super::super::{Noised, State, index_tensor};
use super::Transformer;
use crate::kernels::Rows;
use crate::process::{Layout, Phases};

/// Token ids [B, l] as a network reads them, on the host or where it computes.
#[allow(clippy::large_enum_variant)] // one a network pass: boxing would only hide it
pub(super) enum Ids {
    Host(Vec<u32>),
    Device(Tensor<2, Int>),
    /// Vectors [B, l, D] in place of embedded tokens.
    Embedded(Tensor<3>),
}

impl Ids {
    /// Columns `range` of the ids [B, l], of `l` columns.
    pub(super) fn columns(&self, l: usize, range: Range<usize>) -> Ids {
        match self {
            Ids::Host(ids) => Ids::Host(ids.chunks(l).flat_map(|row| &row[range.clone()]).copied().collect()),
            Ids::Device(ids) => Ids::Device(ids.clone().narrow(1, range.start, range.len())),
            Ids::Embedded(x) => Ids::Embedded(x.clone().narrow(1, range.start, range.len())),
        }
    }
}

/// A batch as the network reads it: l tokens a sequence, of which the first `length` are described.
pub(super) struct Read {
    pub ids: Ids,
    pub batch: usize,
    /// Positions described L, and positions read: L, or 2 L with the clean stream.
    pub length: usize,
    pub wide: usize,
    pub keys: Option<Arc<[Range<usize>]>>,
    pub positions: Option<Arc<[u32]>>,
    /// The blocks that are seen, of a network over blocks.
    pub layout: Option<Layout>,
    /// The phases that are seen instead; tokens are read by rank then.
    pub phases: Option<Arc<Phases>>,
    /// Whether the clean stream is read beside the noise.
    pub two_streams: bool,
}

/// The positions by rank, as an index [L] on `device`.
fn by_rank(phases: &Phases, device: &Device) -> Tensor<1, Int> {
    let at: Vec<usize> = phases.places().iter().map(|l| *l as usize).collect();
    index_tensor(&at, device)
}

impl Read {
    /// Vectors [B, l, D] that are embedded already, and beside noise the finished ones; by rank where there are phases.
    fn embedded(x: &Tensor<3>, clean: Option<&State>, phases: Option<&Phases>) -> Ids {
        let sorted = |x: &Tensor<3>| match phases {
            Some(phases) => x.clone().select(1, by_rank(phases, &x.device())),
            None => x.clone(),
        };
        match clean {
            None => Ids::Embedded(sorted(x)),
            Some(State::Vectors(clean)) => Ids::Embedded(Tensor::cat(vec![sorted(x), sorted(clean)], 1)),
            Some(_) => panic!("finished vectors stand beside noisy vectors"),
        }
    }
}

impl Transformer {
    /// The blocks that positions see, of a network over blocks.
    pub(super) fn layout(&self, input: &Noised) -> Option<Layout> {
        match (self.config.visibility, input.blocks) {
            (Visibility::Blocks(size), _) => Some(Layout::blocks(size)),
            (Visibility::Order, Some(layout)) => Some(layout),
            (Visibility::Order, None) if input.phases.is_some() => None,
            (Visibility::Order, None) => panic!("a network over the blocks of its order is told them"),
            (Visibility::Full | Visibility::Causal, _) => None,
        }
    }

    /// The phases whose positions see one another, of a network that sees what its order says. One that sees everything reads
    /// a text from left to right, whatever its phases.
    pub(super) fn phases(&self, input: &Noised) -> Option<Arc<Phases>> {
        let phases = input.phases.clone().filter(|_| self.config.visibility == Visibility::Order);
        assert!(
            phases.is_none() || self.config.reads_phases(),
            "phases are read by a network that describes the token it reads"
        );
        phases
    }

    /// The batch as the network reads it: shifted right behind the start token for a shifted network, and with the clean
    /// text behind the noise where there is any. A network whose first layers read text alone always has both: finished
    /// blocks are the same in either.
    pub(super) fn read(&self, input: &Noised) -> Read {
        let [batch, length] = input.dims();
        let padding = input.padding.clone();
        let phases = self.phases(input);
        let two_streams = input.clean.is_some() || self.config.encoder_layers > 0;
        let layout = self.layout(input);
        assert!(
            !two_streams || layout.is_some() || phases.is_some(),
            "only a network over blocks reads clean text beside the noise"
        );
        let unpadded = padding.keys.is_none() && padding.positions.is_none();
        assert!(!two_streams || unpadded, "two streams have no padding");
        assert!(phases.is_none() || unpadded, "phases have no padding");
        let sorted = |ids: &Tensor<2, Int>| match &phases {
            Some(phases) => ids.clone().select(1, by_rank(phases, &ids.device())),
            None => ids.clone(),
        };
        let ids = match (&input.x, &input.clean) {
            (State::Vectors(x), clean) => Read::embedded(x, clean.as_ref(), phases.as_deref()),
            (State::Ids(ids), None) if two_streams => Ids::Device(Tensor::cat(vec![ids.clone(), ids.clone()], 1)),
            (State::Ids(ids), None) => Ids::Device(self.behind_the_start(&sorted(ids))),
            (State::Ids(_), Some(_)) => panic!("a clean stream is read beside tokens on the host"),
            (_, clean) => {
                let x = input.token_ids();
                let clean = match clean {
                    Some(State::Tokens(clean)) => &clean[..],
                    Some(_) => panic!("this network reads clean tokens on the host"),
                    None => x,
                };
                let row = |row: &[u32]| phases.as_ref().map_or_else(|| row.to_vec(), |phases| phases.arranged(row));
                Ids::Host(match (two_streams, self.config.shift) {
                    (true, _) => {
                        let rows = x.chunks(length).zip(clean.chunks(length));
                        rows.flat_map(|(x, c)| [row(x), row(c)].concat()).collect()
                    }
                    (false, true) => {
                        let start = self.ids.mask as u32;
                        let behind =
                            |row: &[u32]| std::iter::once(start).chain(row[..length - 1].to_vec()).collect::<Vec<_>>();
                        x.chunks(length).flat_map(behind).collect()
                    }
                    (false, false) => x.chunks(length).flat_map(row).collect(),
                })
            }
        };
        let streams = if two_streams { 2 } else { 1 };
        let positions = match &phases {
            Some(phases) => Some(phases.places().repeat(streams * batch).into()),
            None if two_streams => Some((0..2 * batch).flat_map(|_| 0..length as u32).collect()),
            None => padding.positions,
        };
        Read {
            ids,
            batch,
            length,
            wide: if two_streams { 2 * length } else { length },
            keys: padding.keys,
            positions,
            layout,
            phases,
            two_streams,
        }
    }

    /// Ids [B, L] that are on the device, for a shifted network one further right behind the start token.
    fn behind_the_start(&self, ids: &Tensor<2, Int>) -> Tensor<2, Int> {
        if !self.config.shift {
            return ids.clone();
        }
        let start = ids.clone().narrow(1, 0, 1).zeros_like() + self.ids.mask as i32;
        match ids.dims()[1] - 1 {
            0 => start,
            rest => Tensor::cat(vec![start, ids.clone().narrow(1, 0, rest)], 1),
        }
    }

    /// The row of the network's own output that describes flat position `row`.
    pub(super) fn source(&self, row: usize, read: &Read) -> usize {
        let (b, l) = (row / read.length, row % read.length);
        let l = read.phases.as_ref().map_or(l, |phases| phases.rank(l));
        b * read.wide + if self.config.shift_output { l.saturating_sub(1) } else { l }
    }

    /// The rows of the noise in a batch [B, 2 L] of two streams.
    pub(super) fn noise_rows(read: &Read) -> Arc<Rows> {
        let rows: Vec<usize> = (0..read.batch).flat_map(|b| b * read.wide..b * read.wide + read.length).collect();
        Arc::new(Rows::of(&rows, read.batch, read.wide))
    }

    /// The network's own rows that describe flat positions `rows`: those to compute (none: all of them), and where each
    /// of `rows` is among what is computed.
    pub(super) fn wanted(&self, rows: &[usize], read: &Read) -> (Option<Arc<Rows>>, Vec<usize>) {
        let own: Vec<usize> = rows.iter().map(|r| self.source(*r, read)).collect();
        let mut sorted = own.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.is_empty() || sorted.len() == read.batch * read.wide {
            return (None, own);
        }
        let at = own.iter().map(|r| sorted.partition_point(|s| s < r)).collect();
        (Some(Arc::new(Rows::of(&sorted, read.batch, read.wide))), at)
    }
}
