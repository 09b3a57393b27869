//! Order: the table of noise levels over (denoising step k, position l) that every generation paradigm is a case of.
//!
//! ```text
//! t(k, l) = clamp(1 - (k (P - 1 + w)/K - floor(l/b)) / w, 0, 1)      P = ceil(L/b) blocks
//! ```
//!
//! with block size b tokens and window w blocks. b = 1, w = 1, K = L is autoregression; b = L, w = 1 is a parallel
//! diffusion model; b < L, w = 1 is block diffusion; b = 1, w > 1 is AR-Diffusion; b > 1, w > 1 is pipelined blocks.
//! Orders with fixed phases ([`phases`]) take the place of a position in its row sorted by phase for l, and phases for blocks.
//! L length, K steps, P blocks.

mod config;
pub mod phases;

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use config::OrderConfig;
pub use phases::{Pattern, Phases};

use super::ar_diffusion::{END, anchored_time};
use crate::error::{Error, Result};

/// What stands to the left of a block while the model trains on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// Finished text.
    Clean,
    /// Text at its own, lower noise level.
    Noisy,
}

/// How a sequence falls into blocks: periods of `text` single positions with one block of `size` positions behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    pub text: usize,
    pub size: usize,
}

impl Layout {
    /// Blocks of `size` positions and nothing else.
    ///
    /// # Panics
    /// Where `size` is 0.
    pub fn blocks(size: usize) -> Self {
        assert!(size > 0, "a block has a position");
        Layout { text: 0, size }
    }

    /// The number of the block that position `l` is in.
    pub fn index(self, l: usize) -> usize {
        let (period, at) = (l / (self.text + self.size), l % (self.text + self.size));
        period * (self.text + 1) + at.min(self.text)
    }

    /// The positions of the block that position `l` is in, in a sequence without end.
    pub fn range(self, l: usize) -> Range<usize> {
        let (from, at) = (l - l % (self.text + self.size), l % (self.text + self.size));
        if at < self.text { l..l + 1 } else { from + self.text..from + self.text + self.size }
    }

    /// Number of blocks of `length` positions.
    pub fn count(self, length: usize) -> usize {
        if length == 0 { 0 } else { self.index(length - 1) + 1 }
    }

    /// The blocks of `length` positions, from left to right.
    pub fn ranges(self, length: usize) -> Vec<Range<usize>> {
        let mut all: Vec<Range<usize>> = Vec::new();
        while all.last().map_or(0, |r| r.end) < length {
            let next = self.range(all.last().map_or(0, |r| r.end));
            all.push(next.start..next.end.min(length));
        }
        all
    }
}

/// A generation order: how the sequence falls into blocks, the window in blocks, and the context while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Positions of a block.
    pub block: usize,
    pub window: usize,
    pub context: Context,
    /// Positions before each block that are blocks of their own: a left-to-right segment (0: there is none).
    pub text: usize,
    /// Levels T of AR-Diffusion's path, which the positions then follow and not the window (0: they do not).
    pub levels: usize,
    /// The phases in which the positions of each block are revealed, one after the other.
    pub pattern: Option<Pattern>,
}

impl Order {
    /// One block of `length` tokens, all denoised together.
    pub fn parallel(length: usize) -> Self {
        Order { block: length, window: 1, context: Context::Noisy, text: 0, levels: 0, pattern: None }
    }

    /// The whole sequence in fixed phases.
    pub fn in_phases(pattern: Pattern, length: usize) -> Self {
        Order { pattern: Some(pattern), ..Order::in_blocks(length.max(1)) }
    }

    /// One token at a time over finished text.
    pub fn left_to_right() -> Self {
        Order::in_blocks(1)
    }

    /// Blocks of `size` tokens over finished text.
    pub fn in_blocks(size: usize) -> Self {
        Order { block: size, window: 1, context: Context::Clean, text: 0, levels: 0, pattern: None }
    }

    /// The phases of `length` positions, those that are `given` (empty: none) in front of all; none where it has no fixed ones.
    ///
    /// # Panics
    /// Where the phases follow the steps, whose number is not known here.
    pub fn phases(&self, length: usize, given: &[bool]) -> Option<Arc<Phases>> {
        let pattern = self.pattern?;
        assert!(!pattern.follows_steps(), "the number of phases is that of the steps");
        // Blocks come one after the other.
        let key = |l: usize| l / self.block * pattern.bound() + pattern.key(l % self.block);
        Some(Arc::new(Phases::new(length, given, key)))
    }

    /// The same order walked in `steps` steps, where those decide how many phases it has.
    pub fn in_steps(self, length: usize, steps: usize) -> Self {
        let blocks = length.div_ceil(self.block.max(1)).max(1);
        Order { pattern: self.pattern.map(|p| p.in_steps(steps / blocks)), ..self }
    }

    /// Whether every position has a step of its own, so that the likelihood of a text is exact: fixed phases, or one position a
    /// block.
    pub fn fixed(&self, length: usize) -> bool {
        self.pattern.is_some() || (self.window == 1 && self.levels == 0 && self.blocks(length) == length)
    }

    /// How the sequence falls into blocks.
    pub fn layout(&self) -> Layout {
        Layout { text: self.text, size: self.block }
    }

    /// Number of blocks P of `length` tokens, or of phases.
    pub fn blocks(&self, length: usize) -> usize {
        match self.pattern {
            // As few as it may be walked in: one phase a block.
            Some(pattern) if pattern.follows_steps() => self.layout().count(length),
            Some(_) => self.phases(length, &[]).map_or(0, |phases| phases.count()),
            None => self.layout().count(length),
        }
    }

    /// How far position `pos` is on its way, in windows: below 0 it is noise, from 1 on text.
    fn way(&self, length: usize, progress: f64, pos: usize) -> f64 {
        let (w, p) = (self.window as f64, self.blocks(length) as f64);
        (progress * (p - 1.0 + w) - self.layout().index(pos) as f64) / w
    }

    /// Time of position `pos` at `progress` in [0, 1] through the whole generation (1 = all noise, 0 = text).
    pub fn time(&self, length: usize, progress: f64, pos: usize) -> f64 {
        if self.levels > 0 {
            return anchored_time(length, progress, pos, self.levels, END).0;
        }
        (1.0 - self.way(length, progress, pos)).clamp(0.0, 1.0)
    }

    /// How fast the time of position `pos` falls with progress, -dt/dprogress: (P - 1 + w)/w on its way through the window, and
    /// 0 before and behind it.
    pub fn rate(&self, length: usize, progress: f64, pos: usize) -> f64 {
        if self.levels > 0 {
            return -anchored_time(length, progress, pos, self.levels, END).1;
        }
        let (w, p) = (self.window as f64, self.blocks(length) as f64);
        if (0.0..=1.0).contains(&self.way(length, progress, pos)) { (p - 1.0 + w) / w } else { 0.0 }
    }

    /// Progress of each of `batch` sequences, stratified over the batch.
    ///
    /// `offset` in [0, 1) is the one uniform draw of the batch: sequence i sits at 1 - ((offset + i/batch) mod 1), so that
    /// its times are a column of the same table that sampling walks through (antithetic times for the parallel order).
    pub fn training_progress(&self, batch: usize, offset: f64) -> Vec<f64> {
        (0..batch).map(|i| 1.0 - (offset + i as f64 / batch as f64).fract()).collect()
    }

    /// Training times [batch x length] where every block has finished text before it, so that all are trained at once:
    /// each block of each sequence at its own time, stratified over all of them.
    pub fn block_times(&self, batch: usize, length: usize, offset: f64) -> Vec<f64> {
        let blocks = self.blocks(length);
        let phases = self.phases(length, &[]);
        // Among text the few blocks that have a time at all would otherwise share one stratum in a whole batch.
        let stratum = |i: usize, block: usize| if self.text > 0 { i * blocks + block } else { block * batch + i };
        let time = |i: usize, block: usize| (offset + stratum(i, block) as f64 / (batch * blocks) as f64).fract();
        let layout = self.layout();
        let block = |l: usize| phases.as_ref().map_or_else(|| layout.index(l), |p| p.phase(l).unwrap_or(0));
        (0..batch).flat_map(|i| (0..length).map(|l| time(i, block(l))).collect::<Vec<_>>()).collect()
    }

    /// The sampling table for `steps` steps over `length` positions.
    ///
    /// # Errors
    /// Fewer steps than blocks: the order cannot be walked in them without skipping one (usage).
    pub fn grid(&self, length: usize, steps: usize) -> Result<Grid> {
        self.grid_behind(length, steps, &[])
    }

    /// [`Order::grid`] where some positions are `given` (empty: none), which fixed phases then have in front.
    ///
    /// # Errors
    /// No steps, no positions, or fewer steps than blocks or phases (usage).
    pub fn grid_behind(&self, length: usize, steps: usize, given: &[bool]) -> Result<Grid> {
        if steps == 0 || length == 0 {
            return Err(Error::usage(format!(
                "a sampling grid needs steps and length of at least 1, got {steps} and {length}"
            )));
        }
        let order = self.in_steps(length, steps);
        let blocks = order.blocks(length);
        if self.window == 1 && steps < blocks {
            let (what, other) = match self.pattern {
                Some(_) => ("phases", "an order of fewer phases"),
                None => ("blocks", "a larger block"),
            };
            return Err(Error::usage(format!("{steps} steps are fewer than the {blocks} {what} of the order"))
                .hint(format!("use at least {blocks} steps, or {other}")));
        }
        Ok(Grid { phases: order.phases(length, given), order, length, steps })
    }
}

/// Far above the rounding of a time in a table of up to 2^20 steps, and far below its smallest one.
const ROUNDING: f64 = 1e-9;

/// The table of times: row k holds t(k, l) for every position l; row 0 is all 1, row K all 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    order: Order,
    length: usize,
    steps: usize,
    phases: Option<Arc<Phases>>,
}

impl Grid {
    /// The phases it walks through, where they are fixed.
    pub fn phases(&self) -> Option<&Arc<Phases>> {
        self.phases.as_ref()
    }

    /// Number of steps K.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Sequence length L.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the grid has no position; it never is.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Times `[L]` of every position before step k (row k of the table).
    pub fn row(&self, k: usize) -> Vec<f64> {
        // What is noise or text but for the rounding of a quotient is that and nothing between: a step would change it again.
        let exact = |t: f64| {
            if t < ROUNDING {
                0.0
            } else if t > 1.0 - ROUNDING {
                1.0
            } else {
                t
            }
        };
        match k {
            0 if self.phases.is_none() => vec![1.0; self.length],
            k if k == self.steps => vec![0.0; self.length],
            k => (0..self.length).map(|l| exact(self.time(k, l))).collect(),
        }
    }

    /// t(k, l). In a window of one, blocks take whole numbers of steps, as even as these can be, so that none begins before
    /// the one before it is finished; where blocks follow text, a position of text takes one step and the blocks share the rest.
    fn time(&self, k: usize, l: usize) -> f64 {
        let order = &self.order;
        if let Some(phases) = &self.phases {
            // What is given is text from the start.
            let Some(n) = phases.phase(l) else { return 0.0 };
            let (start, end) = (self.border(phases, n), self.border(phases, n + 1));
            return (1.0 - (k as f64 - start as f64) / (end - start) as f64).clamp(0.0, 1.0);
        }
        if order.window > 1 || order.levels > 0 {
            return order.time(self.length, k as f64 / self.steps as f64, l);
        }
        let (singles, blocks) = self.segments(self.length);
        let shared = self.steps - singles;
        let (before, block) = self.segments(order.layout().range(l).start);
        let border = |n: usize| before + n * shared / blocks.max(1);
        let single = l % (order.text + order.block) < order.text;
        let start = border(block);
        let end = if single { start + 1 } else { border(block + 1) };
        (1.0 - (k as f64 - start as f64) / (end - start) as f64).clamp(0.0, 1.0)
    }

    /// The step in which phase `n` begins.
    fn border(&self, phases: &Phases, n: usize) -> usize {
        n * self.steps / phases.count()
    }

    /// Positions of text, and blocks, among the first `length` positions.
    fn segments(&self, length: usize) -> (usize, usize) {
        let (text, period) = (self.order.text, self.order.text + self.order.block);
        let singles = length / period * text + (length % period).min(text);
        (singles, self.order.blocks(length) - singles)
    }

    /// The positions whose time changes in step k.
    pub fn active(&self, k: usize) -> Range<usize> {
        changed(&self.row(k), &self.row(k + 1))
    }

    /// Network passes of the whole table: steps in which anything changes.
    pub fn nfe(&self) -> usize {
        (0..self.steps()).filter(|k| !self.active(*k).is_empty()).count()
    }

    /// Steps a block takes: K of its own for a window of 1, and more for a wider one, which it shares with others.
    pub fn steps_per_block(&self) -> f64 {
        if self.order.text > 0 {
            let (singles, blocks) = self.segments(self.length);
            return (self.steps - singles) as f64 / blocks.max(1) as f64;
        }
        if self.order.levels > 0 {
            let rows: Vec<Vec<f64>> = (0..=self.steps).map(|k| self.row(k)).collect();
            let changes = rows.windows(2).map(|r| r[0].iter().zip(&r[1]).filter(|(a, b)| a != b).count());
            return changes.sum::<usize>() as f64 / self.length as f64;
        }
        let (w, p) = (self.order.window as f64, self.order.blocks(self.length) as f64);
        self.steps as f64 * w / (p - 1.0 + w)
    }

    /// The positions that the pass of step k computes, and how many of them, from the left, are text that the cache keeps
    /// from then on; `filled` positions are in it already. With fixed phases and a cache they are ranks.
    pub fn read(&self, k: usize, reading: Reading, filled: usize) -> (Range<usize>, usize) {
        let active = self.active(k);
        if active.is_empty() {
            return (filled..filled, filled);
        }
        match reading {
            Reading::Whole => (0..self.length, 0),
            Reading::Shifted => (filled..active.end, active.end),
            Reading::Blocks if let Some(phases) = &self.phases => {
                // The phase under way, which has a position that is not given: the step would not be active.
                let n = (0..phases.count()).find(|n| self.border(phases, n + 1) > k).unwrap_or(phases.count() - 1);
                let ranks = phases.ranks_of(n);
                (filled..ranks.end, ranks.start)
            }
            Reading::Blocks => {
                let end = self.order.layout().range(active.end - 1).end.min(self.length);
                (filled..end, self.finished(&self.row(k)))
            }
        }
    }

    /// The end of the whole blocks of text at the left of a row.
    fn finished(&self, row: &[f64]) -> usize {
        let text = row.iter().take_while(|t| **t == 0.0).count();
        if text == self.length { text } else { self.order.layout().range(text).start }
    }

    /// Positions computed where every step reveals something; one that reveals nothing needs no pass.
    pub fn positions(&self, reading: Reading) -> u64 {
        let mut filled = 0;
        let mut positions = 0;
        for k in 0..self.steps() {
            let (read, kept) = self.read(k, reading, filled);
            (positions, filled) = (positions + read.len() as u64, kept);
        }
        positions
    }
}

/// What a pass of a network computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// The whole sequence: everything sees everything.
    Whole,
    /// The tokens before the asked ones, each once: a causal network that predicts the next token.
    Shifted,
    /// Blocks that are not finished and, once more, each that was finished since: a network over blocks keeps the others.
    Blocks,
}

/// From the first to the last position whose time differs between two rows.
pub fn changed(now: &[f64], next: &[f64]) -> Range<usize> {
    let differs = |l: &usize| now[*l] != next[*l];
    match ((0..now.len()).find(differs), (0..now.len()).rfind(differs)) {
        (Some(a), Some(b)) => a..b + 1,
        _ => 0..0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pipelined(block: usize, window: usize) -> Order {
        Order { window, context: Context::Noisy, ..Order::in_blocks(block) }
    }

    fn table(order: Order, length: usize, steps: usize) -> Vec<Vec<f64>> {
        {
            let grid = order.grid(length, steps).unwrap();
            (0..=steps).map(|k| grid.row(k)).collect()
        }
    }

    #[test]
    fn autoregression_takes_one_token_from_noise_to_text_in_each_step() {
        let g = Order::left_to_right().grid(5, 5).unwrap();
        for k in 0..=5 {
            let want: Vec<f64> = (0..5).map(|l| if l < k { 0.0 } else { 1.0 }).collect();
            assert_eq!(g.row(k), want);
        }
        assert_eq!((g.nfe(), g.positions(Reading::Shifted), g.active(2)), (5, 5, 2..3));
    }

    #[test]
    fn a_position_of_any_length_is_text_after_its_own_step_and_noise_before_it() {
        // 22 is the first length of which a multiple of 1/L times L is no whole number.
        for length in [22, 46, 66, 100, 1000] {
            let orders = [Order::left_to_right(), Order { text: length - 3, ..Order::in_blocks(3) }];
            for (order, steps) in orders.iter().zip([length, length - 3 + 7]) {
                let g = order.grid(length, steps).unwrap();
                for k in 0..length - 3 {
                    assert_eq!((g.active(k), g.row(k)[k], g.row(k + 1)[k]), (k..k + 1, 1.0, 0.0), "{length}");
                }
            }
        }
    }

    #[test]
    fn the_one_block_behind_a_text_has_times_from_the_whole_range_in_every_batch() {
        let order = Order { text: 30, ..Order::in_blocks(16) };
        let mut times: Vec<f64> = order.block_times(64, 46, 0.37).chunks(46).map(|row| row[45]).collect();
        times.sort_by(f64::total_cmp);
        let gap = |p: &[f64]| (p[1] - p[0] - 1.0 / 64.0).abs() < 1e-12;
        assert!(times.windows(2).all(gap) && times[0] < 1.0 / 64.0, "{times:?}");
    }

    #[test]
    fn the_parallel_order_has_one_time_for_all_positions_in_each_step() {
        let g = Order::parallel(6).grid(6, 4).unwrap();
        for k in 0..=4 {
            assert!(g.row(k).iter().all(|t| (t - (1.0 - k as f64 / 4.0)).abs() < 1e-15));
        }
        assert_eq!((g.nfe(), g.positions(Reading::Whole), g.active(3)), (4, 24, 0..6));
    }

    #[test]
    fn block_diffusion_denoises_one_block_after_the_other_over_finished_text() {
        let t = table(Order::in_blocks(2), 6, 6);
        assert_eq!(t[1], [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(t[2], [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(t[5], [0.0, 0.0, 0.0, 0.0, 0.5, 0.5]);
    }

    #[test]
    fn ar_diffusion_keeps_left_tokens_ahead_of_right_ones_within_the_window() {
        let t = table(pipelined(1, 2), 3, 8);
        assert_eq!(t[2], [0.5, 1.0, 1.0]);
        assert_eq!(t[4], [0.0, 0.5, 1.0]);
        assert_eq!(t[6], [0.0, 0.0, 0.5]);
    }

    #[test]
    fn pipelined_blocks_overlap_while_the_first_is_still_unfinished() {
        let t = table(pipelined(2, 2), 4, 6);
        assert_eq!(t[2], [0.5, 0.5, 1.0, 1.0]);
        assert_eq!(t[3], [0.25, 0.25, 0.75, 0.75]);
        assert_eq!(t[4], [0.0, 0.0, 0.5, 0.5]);
    }

    #[test]
    fn fewer_steps_than_blocks_is_refused_with_the_number_needed() {
        let e = Order::left_to_right().grid(5, 4).unwrap_err();
        assert!(e.to_string().contains("use at least 5 steps"), "{e}");
    }

    #[test]
    fn training_times_are_columns_of_the_table_stratified_over_the_batch() {
        let order = Order::parallel(3);
        let mut times: Vec<f64> = order.training_progress(4, 0.1).iter().map(|p| order.time(3, *p, 0)).collect();
        times.sort_by(f64::total_cmp);
        for (got, want) in times.iter().zip([0.1, 0.35, 0.6, 0.85]) {
            assert!((got - want).abs() < 1e-12);
        }
    }

    #[test]
    fn segments_are_single_positions_before_each_block() {
        let layout = Layout { text: 2, size: 3 };
        assert_eq!(layout.ranges(9), [0..1, 1..2, 2..5, 5..6, 6..7, 7..9]);
        assert_eq!((layout.count(5), layout.count(9), layout.count(0)), (3, 6, 0));
        let g = OrderConfig::Segments { text: 2, block: 3 }.order(5).grid(5, 6).unwrap();
        assert_eq!(g.row(1), [0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(g.row(2), [0.0, 0.0, 1.0, 1.0, 1.0]);
        assert_eq!(g.row(4), [0.0, 0.0, 0.5, 0.5, 0.5]);
        assert_eq!(g.steps_per_block(), 4.0);
    }

    #[test]
    fn no_block_begins_before_the_one_before_it_is_finished_whatever_the_number_of_steps() {
        for (text, size) in [(0, 4), (0, 1), (0, 5), (2, 3), (1, 4)] {
            let order = Order { text, ..Order::in_blocks(size) };
            let ranges = order.layout().ranges(20);
            for steps in ranges.len()..50 {
                let g = order.grid(20, steps).unwrap();
                for k in 0..=steps {
                    let row = g.row(k);
                    let under_way = ranges.iter().filter(|r| row[r.start] > 0.0 && row[r.start] < 1.0).count();
                    assert!(under_way <= 1 && row.windows(2).all(|p| p[0] <= p[1]), "{order:?} {steps} {k}: {row:?}");
                    if k < steps {
                        let changed = ranges.iter().filter(|r| row[r.start] != g.row(k + 1)[r.start]).count();
                        assert_eq!(changed, 1, "{order:?}, {steps} steps, step {k}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_network_over_blocks_reads_each_finished_block_once_more_with_the_next_one() {
        let g = Order::in_blocks(2).grid(4, 4).unwrap();
        let mut filled = 0;
        let reads: Vec<_> = (0..4)
            .map(|k| {
                let (read, kept) = g.read(k, Reading::Blocks, filled);
                filled = kept;
                (read, kept)
            })
            .collect();
        assert_eq!(reads, [(0..2, 0), (0..2, 0), (0..4, 2), (2..4, 2)]);
        assert_eq!(g.positions(Reading::Blocks), 10);
        assert_eq!(g.steps_per_block(), 2.0);
        // K steps of b positions for each of P blocks, and every block but the last once more.
        for (block, blocks, each) in [(1, 5, 1), (4, 3, 2), (8, 4, 8)] {
            let g = Order::in_blocks(block).grid(block * blocks, blocks * each).unwrap();
            assert_eq!(g.positions(Reading::Blocks), (block * (blocks * each + blocks - 1)) as u64);
        }
    }

    #[test]
    fn every_block_has_one_time_and_the_times_of_all_blocks_are_evenly_spread() {
        let (batch, length, order) = (3, 7, Order::in_blocks(2));
        let t = order.block_times(batch, length, 0.3);
        let mut times = Vec::new();
        for row in t.chunks(length) {
            for block in row.chunks(2) {
                assert!(block.iter().all(|t| *t == block[0] && *t >= 0.0 && *t < 1.0));
                times.push(block[0]);
            }
        }
        times.sort_by(f64::total_cmp);
        assert_eq!(times.len(), 12);
        assert!(times.windows(2).all(|p| (p[1] - p[0] - 1.0 / 12.0).abs() < 1e-12), "{times:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_rate_is_the_derivative_of_the_time(
            length in 1usize..40, block in 1usize..40, window in 1usize..8, text in 0usize..3, progress in 0.001f64..0.999, pos in 0usize..40
        ) {
            let (order, h) = (Order { text, ..pipelined(block.min(length), window) }, 1e-7);
            let pos = pos % length;
            let rate = |p: f64| order.rate(length, p, pos);
            if rate(progress - h) == rate(progress + h) {
                let slope = (order.time(length, progress - h, pos) - order.time(length, progress + h, pos)) / (2.0 * h);
                prop_assert!((slope - rate(progress)).abs() < 1e-5, "{slope} for {}", rate(progress));
            }
        }

        #[test]
        fn a_path_of_ar_diffusion_runs_from_noise_to_text_with_left_positions_ahead(
            length in 1usize..20, levels in 2usize..30, steps in 1usize..12
        ) {
            let order = OrderConfig::ArDiffusion { levels }.order(length);
            let g = order.grid(length, steps).unwrap();
            for k in 0..steps {
                prop_assert!(g.row(k).iter().zip(&g.row(k + 1)).all(|(a, b)| b <= a));
                prop_assert!(g.row(k).windows(2).all(|p| p[0] <= p[1]));
            }
            prop_assert!(g.row(0).iter().all(|t| *t == 1.0) && g.row(steps).iter().all(|t| *t == 0.0));
            prop_assert!(g.steps_per_block() <= steps as f64);
        }

        #[test]
        fn blocks_of_a_layout_cover_the_sequence_and_agree_with_their_numbers(
            text in 0usize..5, size in 1usize..9, length in 1usize..60
        ) {
            let layout = Layout { text, size };
            let all = layout.ranges(length);
            prop_assert_eq!(all.len(), layout.count(length));
            for (n, range) in all.iter().enumerate() {
                for l in range.clone() {
                    prop_assert_eq!(layout.index(l), n);
                    prop_assert_eq!(layout.range(l).start, range.start);
                }
            }
            prop_assert_eq!(all.iter().map(|r| r.len()).sum::<usize>(), length);
        }

        #[test]
        fn a_grid_runs_from_noise_to_text_never_rising_in_k_and_never_falling_in_l(
            length in 1usize..40, block in 1usize..40, window in 1usize..8, extra in 0usize..50
        ) {
            let order = pipelined(block.min(length), window);
            let g = order.grid(length, order.blocks(length) + extra).unwrap();
            prop_assert!(g.row(0).iter().all(|t| *t == 1.0));
            prop_assert!(g.row(g.steps()).iter().all(|t| *t == 0.0));
            for k in 0..g.steps() {
                prop_assert!(g.row(k).iter().zip(&g.row(k + 1)).all(|(a, b)| b <= a));
                prop_assert!(g.row(k).windows(2).all(|p| p[0] <= p[1]));
            }
        }
    }
}
