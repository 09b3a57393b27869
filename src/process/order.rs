//! Order: the table of noise levels over (denoising step k, position l) that every generation paradigm is a case of.
//!
//! ```text
//! t(k, l) = clamp(1 - (k (P - 1 + w)/K - floor(l/b)) / w, 0, 1)      P = ceil(L/b) blocks
//! ```
//!
//! with block size b tokens and window w blocks. b = 1, w = 1, K = L is autoregression; b = L, w = 1 is a parallel
//! diffusion model; b < L, w = 1 is block diffusion; b = 1, w > 1 is AR-Diffusion; b > 1, w > 1 is pipelined blocks.
//! L length, K steps, P blocks.

use std::ops::Range;

use serde::{Deserialize, Serialize};

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

/// A generation order: block size in tokens, window in blocks, and the context while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub block: usize,
    pub window: usize,
    pub context: Context,
}

/// The orders a recipe can name; each becomes an [`Order`] once the length is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OrderConfig {
    /// All positions at once: one block of the whole length.
    Parallel,
    /// One token after the other.
    LeftToRight,
    /// Blocks of so many tokens, one after the other over finished text; within a block all positions at once.
    Blocks(usize),
}

impl OrderConfig {
    /// The order at `length` tokens.
    pub fn order(self, length: usize) -> Order {
        match self {
            OrderConfig::Parallel => Order::parallel(length),
            OrderConfig::LeftToRight => Order::left_to_right(),
            OrderConfig::Blocks(size) => Order::in_blocks(size.clamp(1, length.max(1))),
        }
    }
}

impl Order {
    /// One block of `length` tokens, all denoised together.
    pub fn parallel(length: usize) -> Self {
        Order { block: length, window: 1, context: Context::Noisy }
    }

    /// One token at a time over finished text.
    pub fn left_to_right() -> Self {
        Order { block: 1, window: 1, context: Context::Clean }
    }

    /// Blocks of `size` tokens over finished text.
    pub fn in_blocks(size: usize) -> Self {
        Order { block: size, window: 1, context: Context::Clean }
    }

    /// Number of blocks P of `length` tokens.
    pub fn blocks(&self, length: usize) -> usize {
        length.div_ceil(self.block)
    }

    /// Time of position `pos` at `progress` in [0, 1] through the whole generation (1 = all noise, 0 = text).
    pub fn time(&self, length: usize, progress: f64, pos: usize) -> f64 {
        let (w, p) = (self.window as f64, self.blocks(length) as f64);
        let front = progress * (p - 1.0 + w);
        (1.0 - (front - (pos / self.block) as f64) / w).clamp(0.0, 1.0)
    }

    /// Per-position training times of `batch` sequences [batch x length], stratified over the batch.
    ///
    /// `offset` in [0, 1) is the one uniform draw of the batch: sequence i sits at progress ((offset + i/batch) mod 1),
    /// so its times are a column of the same table that sampling walks through (antithetic times for the parallel order).
    pub fn training_times(&self, batch: usize, length: usize, offset: f64) -> Vec<f64> {
        (0..batch)
            .flat_map(|i| {
                let progress = 1.0 - (offset + i as f64 / batch as f64).fract();
                (0..length).map(move |l| self.time(length, progress, l))
            })
            .collect()
    }

    /// Training times [batch x length] where every block has finished text before it, so that all are trained at once:
    /// each block of each sequence at its own time, stratified over all of them.
    pub fn block_times(&self, batch: usize, length: usize, offset: f64) -> Vec<f64> {
        let n = (batch * self.blocks(length)) as f64;
        let time = |i: usize, block: usize| 1.0 - (offset + (block * batch + i) as f64 / n).fract();
        (0..batch).flat_map(|i| (0..length).map(move |l| time(i, l / self.block))).collect()
    }

    /// The sampling table for `steps` steps over `length` positions.
    ///
    /// Errors when the order cannot be walked in so few steps without skipping a block (fewer steps than blocks).
    pub fn grid(&self, length: usize, steps: usize) -> Result<Grid> {
        if steps == 0 || length == 0 {
            return Err(Error::usage(format!(
                "a sampling grid needs steps and length of at least 1, got {steps} and {length}"
            )));
        }
        let blocks = self.blocks(length);
        if self.window == 1 && steps < blocks {
            return Err(Error::usage(format!("{steps} steps are fewer than the {blocks} blocks of the order"))
                .hint(format!("use at least {blocks} steps, or a larger block")));
        }
        Ok(Grid { order: *self, length, steps })
    }
}

/// The table of times: row k holds t(k, l) for every position l; row 0 is all 1, row K all 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    order: Order,
    length: usize,
    steps: usize,
}

impl Grid {
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

    /// Times [L] of every position before step k (row k of the table).
    pub fn row(&self, k: usize) -> Vec<f64> {
        match k {
            0 => vec![1.0; self.length],
            k if k == self.steps => vec![0.0; self.length],
            k => {
                let progress = k as f64 / self.steps as f64;
                (0..self.length).map(|l| self.order.time(self.length, progress, l)).collect()
            }
        }
    }

    /// The positions whose time changes in step k: the ones a cached network computes.
    pub fn active(&self, k: usize) -> Range<usize> {
        changed(&self.row(k), &self.row(k + 1))
    }

    /// Network passes of the whole table: steps in which anything changes.
    pub fn nfe(&self) -> usize {
        (0..self.steps()).filter(|k| !self.active(*k).is_empty()).count()
    }

    /// Positions computed with a cache for finished text on the left and none for untouched noise on the right.
    pub fn positions(&self) -> u64 {
        (0..self.steps()).map(|k| self.active(k).len() as u64).sum()
    }
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
        assert_eq!((g.nfe(), g.positions(), g.active(2)), (5, 5, 2..3));
    }

    #[test]
    fn the_parallel_order_has_one_time_for_all_positions_in_each_step() {
        let g = Order::parallel(6).grid(6, 4).unwrap();
        for k in 0..=4 {
            assert!(g.row(k).iter().all(|t| (t - (1.0 - k as f64 / 4.0)).abs() < 1e-15));
        }
        assert_eq!((g.nfe(), g.positions(), g.active(3)), (4, 24, 0..6));
    }

    #[test]
    fn block_diffusion_denoises_one_block_after_the_other_over_finished_text() {
        let t = table(Order { block: 2, window: 1, context: Context::Clean }, 6, 6);
        assert_eq!(t[1], [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(t[2], [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(t[5], [0.0, 0.0, 0.0, 0.0, 0.5, 0.5]);
    }

    #[test]
    fn ar_diffusion_keeps_left_tokens_ahead_of_right_ones_within_the_window() {
        let t = table(Order { block: 1, window: 2, context: Context::Noisy }, 3, 8);
        assert_eq!(t[2], [0.5, 1.0, 1.0]);
        assert_eq!(t[4], [0.0, 0.5, 1.0]);
        assert_eq!(t[6], [0.0, 0.0, 0.5]);
    }

    #[test]
    fn pipelined_blocks_overlap_while_the_first_is_still_unfinished() {
        let t = table(Order { block: 2, window: 2, context: Context::Noisy }, 4, 6);
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
    fn training_times_are_stratified_over_the_batch() {
        let t = Order::parallel(3).training_times(4, 3, 0.1);
        let mut firsts: Vec<f64> = t.chunks(3).map(|r| r[0]).collect();
        firsts.sort_by(f64::total_cmp);
        for (got, want) in firsts.iter().zip([0.1, 0.35, 0.6, 0.85]) {
            assert!((got - want).abs() < 1e-12);
        }
        assert!(t.chunks(3).all(|r| r[0] == r[1] && r[1] == r[2]));
    }

    #[test]
    fn every_block_has_one_time_and_the_times_of_all_blocks_are_evenly_spread() {
        let (batch, length, order) = (3, 7, Order::in_blocks(2));
        let t = order.block_times(batch, length, 0.3);
        let mut times = Vec::new();
        for row in t.chunks(length) {
            for block in row.chunks(2) {
                assert!(block.iter().all(|t| *t == block[0] && *t > 0.0 && *t <= 1.0));
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
        fn a_grid_runs_from_noise_to_text_never_rising_in_k_and_never_falling_in_l(
            length in 1usize..40, block in 1usize..40, window in 1usize..8, extra in 0usize..50
        ) {
            let order = Order { block: block.min(length), window, context: Context::Noisy };
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
