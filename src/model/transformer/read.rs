//! What a network reads of its input: ids, padding, the clean stream, and which of its rows describe which positions.
//!
//! B batch, L length, r rows.

use std::ops::Range;
use std::sync::Arc;

use burn::prelude::*;

use super::super::config::Visibility;
use super::super::{Noised, State};
use super::Transformer;
use crate::kernels::Rows;

/// Token ids [B, l] as a network reads them, on the host or where it computes.
#[allow(clippy::large_enum_variant)] // one a network pass: boxing would only hide it
pub(super) enum Ids {
    Host(Vec<u32>),
    Device(Tensor<2, Int>),
}

impl Ids {
    /// Columns `range` of the ids [B, l], of `l` columns.
    pub(super) fn columns(&self, l: usize, range: Range<usize>) -> Ids {
        match self {
            Ids::Host(ids) => Ids::Host(ids.chunks(l).flat_map(|row| &row[range.clone()]).copied().collect()),
            Ids::Device(ids) => Ids::Device(ids.clone().narrow(1, range.start, range.len())),
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
    pub two_streams: Option<usize>,
}

impl Transformer {
    /// The batch as the network reads it: shifted right behind the start token for a shifted network, and with the clean
    /// text behind the noise where there is any.
    pub(super) fn read(&self, input: &Noised) -> Read {
        let [batch, length] = input.dims();
        let padding = input.padding.clone();
        let read = Read {
            ids: match &input.x {
                State::Ids(ids) => Ids::Device(self.behind_the_start(ids)),
                _ => Ids::Host(Vec::new()),
            },
            batch,
            length,
            wide: length,
            keys: padding.keys,
            positions: padding.positions,
            two_streams: None,
        };
        if matches!(input.x, State::Ids(_)) {
            assert!(input.clean.is_none(), "a clean stream is read beside tokens on the host");
            return read;
        }
        let ids = input.token_ids();
        match &input.clean {
            Some(State::Tokens(clean)) => {
                let Visibility::Blocks(size) = self.config.visibility else {
                    panic!("only a network over blocks reads clean text beside the noise")
                };
                assert!(read.keys.is_none() && read.positions.is_none(), "two streams have no padding");
                let rows = ids.chunks(length).zip(clean.chunks(length));
                let places = (0..2 * batch).flat_map(|_| 0..length as u32);
                Read {
                    ids: Ids::Host(rows.flat_map(|(x, c)| x.iter().chain(c).copied()).collect()),
                    wide: 2 * length,
                    positions: Some(places.collect()),
                    two_streams: Some(size),
                    ..read
                }
            }
            Some(_) => panic!("this network reads clean tokens on the host"),
            None if self.config.shift => {
                let start = self.mask as u32;
                let behind = |row: &[u32]| std::iter::once(start).chain(row[..length - 1].to_vec()).collect::<Vec<_>>();
                Read { ids: Ids::Host(ids.chunks(length).flat_map(behind).collect()), ..read }
            }
            None => Read { ids: Ids::Host(ids.to_vec()), ..read },
        }
    }

    /// Ids [B, L] that are on the device, for a shifted network one further right behind the start token.
    fn behind_the_start(&self, ids: &Tensor<2, Int>) -> Tensor<2, Int> {
        if !self.config.shift {
            return ids.clone();
        }
        let start = ids.clone().narrow(1, 0, 1).zeros_like() + self.mask as i32;
        match ids.dims()[1] - 1 {
            0 => start,
            rest => Tensor::cat(vec![start, ids.clone().narrow(1, 0, rest)], 1),
        }
    }

    /// The row of the network's own output that describes flat position `row`.
    pub(super) fn source(&self, row: usize, read: &Read) -> usize {
        let (b, l) = (row / read.length, row % read.length);
        b * read.wide + if self.config.shift_output { l.saturating_sub(1) } else { l }
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
