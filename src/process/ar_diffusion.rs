//! AR-Diffusion (Wu et al. 2023, arXiv 2305.09515): Gaussian diffusion in which every position has its own timestep,
//! and left positions are always cleaner than right ones.
//!
//! One index s runs from noise, N + T - 1, to text, 0. It moves an anchor first down the left edge of the (position,
//! timestep) plane, then along its floor; timesteps lie on the line from that anchor to a fixed one on the right
//! (token-level diffusion with dynamic movement speed; the published code's `XYUniform`):
//!
//! ```text
//! start (n_s, t_s) = (max(N-1-s, 0), max(s-(N-1), 0))      end (n_e, t_e) = (floor(scale N), T-1)
//! f(n, s) = clamp(t_e + (n - n_e)(t_s - t_e)/(n_s - n_e), 0, T-1)
//! ```
//!
//! Here are the path and the steps over it; the Gaussian step of each token's vector from one level to another is
//! [`GaussianStep::new`](super::ddpm::GaussianStep::new).
//! [`anchored_time`] is the same path without rounding, for processes whose states are tokens.
//! N length, T levels, K steps, D width.

use crate::error::{Error, Result};

/// Where the published end anchor lies, in lengths (`end_point_scale`).
pub const END: f64 = 2.0;

/// The anchor on the right, in positions: cut to a whole one, as published.
fn end_anchor(length: usize, end: f64) -> f64 {
    let anchor = (end * length as f64).floor();
    assert!(length > 0 && anchor >= length as f64, "the end anchor {anchor} lies behind all {length} positions");
    anchor
}

/// Timesteps f(n, s) `[N]` at index `s` in 0 .. N + T, in the reference's f32 with halves rounded to even.
///
/// # Panics
/// Where `s` is not below N + T.
pub fn timesteps(length: usize, levels: usize, end: f64, s: usize) -> Vec<usize> {
    assert!(s < length + levels, "index {s} of {}", length + levels);
    let n_e = end_anchor(length, end) as f32;
    let (n_s, t_s) = ((length - 1).saturating_sub(s) as f32, s.saturating_sub(length - 1) as f32);
    let t_e = (levels - 1) as f32;
    let at = |n: usize| (n as f32 - n_e) / (n_s - n_e) * (t_s - t_e) + t_e;
    (0..length).map(|n| at(n).round_ties_even().clamp(0.0, t_e) as usize).collect()
}

/// The indices [K + 1] that sampling in `steps` steps visits, from N + T - 1 down to 0: every floor((N + T)/K)-th.
///
/// # Errors
/// No steps, or more than there are indices (usage).
pub fn indices(length: usize, levels: usize, steps: usize) -> Result<Vec<usize>> {
    let all = length + levels;
    if steps == 0 || steps > all {
        return Err(Error::usage(format!("{steps} steps over {length} positions of {levels} levels"))
            .hint(format!("use between 1 and {all} steps")));
    }
    let stride = all / steps;
    Ok((0..steps).map(|k| all - 1 - k * stride).chain([0]).collect())
}

/// The timesteps `[N]` before and after each of `steps` sampling steps.
///
/// # Errors
/// As [`indices`].
pub fn steps(length: usize, levels: usize, end: f64, steps: usize) -> Result<Vec<(Vec<usize>, Vec<usize>)>> {
    let row = |s: usize| timesteps(length, levels, end, s);
    Ok(indices(length, levels, steps)?.windows(2).map(|s| (row(s[0]), row(s[1]))).collect())
}

/// The time in [0, 1] of position `pos` at `progress` in [0, 1] (0 = noise, s = N + T - 1; 1 = text, s = 0), and its
/// derivative with respect to progress.
///
/// t = f/(T - 1) without rounding, for T = `levels`; it never rises with progress and never falls with the position.
/// The derivative is 0 where the clamp holds t, and at the one bend (s = N - 1) the right-hand one.
///
/// # Panics
/// Where there are fewer than two levels, or `pos` is not below `length`.
pub fn anchored_time(length: usize, progress: f64, pos: usize, levels: usize, end: f64) -> (f64, f64) {
    assert!(levels > 1 && pos < length, "position {pos} of {length}, {levels} levels");
    let n_e = end_anchor(length, end);
    let (last, indices) = ((length - 1) as f64, (length + levels - 1) as f64);
    let s = (1.0 - progress) * indices;
    let (n_s, t_s) = ((last - s).max(0.0), (s - last).max(0.0) / (levels - 1) as f64);
    let (reach, span) = (n_e - pos as f64, n_e - n_s);
    // One expression on both sides of the bend, so that rounding cannot make t rise there.
    let t = 1.0 - reach / span * (1.0 - t_s);
    let dt_ds = if s > last { reach / span / (levels - 1) as f64 } else { reach / (span * span) };
    match t > 0.0 && t < 1.0 {
        true => (t, -indices * dt_ds),
        false => (t.clamp(0.0, 1.0), 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timesteps_of_the_published_path_round_halves_to_even_and_keep_the_left_cleaner() {
        // f(3, 10) of N = 10, T = 200: 199 + (3 - 20)(1 - 199)/(0 - 20) = 30.7; f(5, 10) = 50.5, to even.
        assert_eq!(timesteps(10, 200, END, 10), [1, 11, 21, 31, 41, 50, 60, 70, 80, 90]);
        assert_eq!(timesteps(10, 200, END, 3), [0, 0, 0, 0, 0, 0, 0, 14, 28, 43]);
        assert_eq!(timesteps(10, 200, END, 209), [199; 10]);
        assert_eq!(timesteps(10, 200, END, 0), [0; 10]);
    }

    #[test]
    fn skipping_visits_the_last_index_of_every_stride_and_ends_in_text() {
        assert_eq!(indices(10, 200, 10).unwrap(), [209, 188, 167, 146, 125, 104, 83, 62, 41, 20, 0]);
        assert_eq!(indices(2, 3, 5).unwrap(), [4, 3, 2, 1, 0, 0]);
        assert!(indices(10, 200, 211).unwrap_err().to_string().contains("between 1 and 210"));
        assert!(indices(10, 200, 0).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_path_runs_from_noise_to_text_never_rising_in_progress_and_never_falling_in_position(
            length in 1usize..40, levels in 2usize..300, end in 1.0..4.0f64, count in 1usize..60
        ) {
            let row = |p: f64| (0..length).map(|n| anchored_time(length, p, n, levels, end).0).collect::<Vec<_>>();
            prop_assert!(row(0.0).iter().all(|t| *t == 1.0));
            prop_assert!(row(1.0).iter().all(|t| *t == 0.0));
            for k in 0..count {
                let (now, next) = (row(k as f64 / count as f64), row((k + 1) as f64 / count as f64));
                prop_assert!(now.iter().zip(&next).all(|(a, b)| b <= a));
                prop_assert!(now.windows(2).all(|p| p[0] <= p[1]));
            }
        }

        #[test]
        fn the_path_at_whole_indices_is_the_published_one_before_rounding(
            length in 1usize..40, levels in 2usize..300, end in 1.0..4.0f64, part in 0.0..1.0f64
        ) {
            let all = length + levels - 1;
            let s = (part * all as f64).round() as usize;
            let rounded = timesteps(length, levels, end, s);
            for (n, want) in rounded.into_iter().enumerate() {
                let (t, _) = anchored_time(length, 1.0 - s as f64 / all as f64, n, levels, end);
                prop_assert!((t * (levels - 1) as f64 - want as f64).abs() < 0.5 + 1e-3);
            }
        }

        #[test]
        fn the_derivative_of_the_path_equals_the_finite_difference(
            length in 1usize..40, levels in 2usize..300, end in 1.0..4.0f64, progress in 0.001..0.999f64
        ) {
            let h = 1e-7;
            let bend = 1.0 - (length - 1) as f64 / (length + levels - 1) as f64;
            prop_assume!((progress - bend).abs() > 2.0 * h);
            for n in 0..length {
                let at = |p: f64| anchored_time(length, p, n, levels, end).0;
                let (before, after) = (at(progress - h), at(progress + h));
                let (t, slope) = anchored_time(length, progress, n, levels, end);
                // At the clamp's own bend the two sides differ.
                let bends = |a: f64, b: f64| (a == 1.0 || a == 0.0) != (b == 1.0 || b == 0.0);
                if !bends(before, t) && !bends(t, after) {
                    let numeric = (after - before) / (2.0 * h);
                    prop_assert!((numeric - slope).abs() < 1e-5 * slope.abs().max(1.0), "{numeric} and {slope}");
                }
            }
        }
    }
}
