//! Building blocks of the fused kernels: exp and ln that vectorise, sums in a fixed order, parts for the threads.
//!
//! Every loop body is `#[inline(always)]` so that [`wide`] compiles it for the processor it runs on. Sums run over
//! [`LANES`] accumulators whatever the register width, fused multiply-adds are written out, and parts have a size that
//! does not depend on the number of threads: the same input gives the same bits with 1 thread or 64.

use rayon::prelude::*;

/// Accumulators of a sum.
pub const LANES: usize = 16;

/// Elements that one task works on: small enough for the second-level cache, large enough to be worth a task.
const PART: usize = 1 << 14;

/// Runs `f`, an `#[inline(always)]` closure, compiled for the wide registers of this processor where it has them: the
/// baseline of x86-64 knows four lanes and no fused multiply-add.
#[inline(always)]
pub fn wide<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor was just asked for the instructions that the function is compiled with.
        #[allow(unsafe_code)]
        return unsafe { with_avx2(f) };
    }
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Rows of one task for rows of `width` elements.
pub fn part_rows(width: usize) -> usize {
    (PART / width.max(1)).max(1)
}

/// Calls `f(index, part)` for parts of `size` elements, in parallel where there are several.
pub fn for_parts(out: &mut [f32], size: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() <= size {
        f(0, out);
    } else {
        out.par_chunks_mut(size).enumerate().for_each(|(i, part)| f(i, part));
    }
}

/// As [`for_parts`], over two outputs cut at the same rows.
pub fn for_parts2(
    (a, a_size): (&mut [f32], usize),
    (b, b_size): (&mut [f32], usize),
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    if a.len() <= a_size {
        f(0, a, b);
    } else {
        let parts = a.par_chunks_mut(a_size).zip(b.par_chunks_mut(b_size));
        parts.enumerate().for_each(|(i, (a, b))| f(i, a, b));
    }
}

/// The sum over the parts of partial results [parts, width], in the order of the parts.
pub fn sum_parts(partial: &[f32], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    for part in partial.chunks_exact(width) {
        total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    }
    total
}

/// e^x: x = n ln 2 + r with |r| <= ln 2 / 2, and a polynomial in r (Cephes); relative error below 2e-7.
///
/// Arguments are clamped to [-87, 88], and NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let y = (p * r).mul_add(r, r) + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// ln x for normal positive x: x = 2^e m with m in [1/sqrt 2, sqrt 2), and a polynomial in m - 1 (Cephes).
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let half = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    let exponent = (bits >> 23) as i32 as f32 - 126.0;
    let low = half < std::f32::consts::FRAC_1_SQRT_2;
    let e = if low { exponent - 1.0 } else { exponent };
    let m = if low { half + half - 1.0 } else { half - 1.0 };
    let p = 7.037_683_6e-2_f32;
    let p = p.mul_add(m, -1.151_461e-1);
    let p = p.mul_add(m, 1.167_699_9e-1);
    let p = p.mul_add(m, -1.242_014_1e-1);
    let p = p.mul_add(m, 1.424_932_3e-1);
    let p = p.mul_add(m, -1.666_805_8e-1);
    let p = p.mul_add(m, 2.000_071_5e-1);
    let p = p.mul_add(m, -2.499_999_4e-1);
    let p = p.mul_add(m, 3.333_333e-1);
    let z = m * m;
    let y = (p * m).mul_add(z, e * -2.121_944_4e-4);
    let y = z.mul_add(-0.5, y);
    e.mul_add(0.693_359_4, m + y)
}

#[inline(always)]
fn total(mut acc: [f32; LANES]) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            acc[i] += acc[i + width];
        }
    }
    acc[0]
}

/// The sum of f(x).
#[inline(always)]
pub fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut acc = [0.0; LANES];
    for c in chunks {
        for i in 0..LANES {
            acc[i] += f(c[i]);
        }
    }
    for (a, v) in acc.iter_mut().zip(rest) {
        *a += f(*v);
    }
    total(acc)
}

/// The sum of f(x, y).
#[inline(always)]
pub fn sum2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut acc = [0.0; LANES];
    for (c, d) in xs.iter().zip(ys) {
        for i in 0..LANES {
            acc[i] += f(c[i], d[i]);
        }
    }
    for (a, (v, w)) in acc.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *a += f(*v, *w);
    }
    total(acc)
}

/// The sum of f(x, y, z).
#[inline(always)]
pub fn sum3(x: &[f32], y: &[f32], z: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let ((xs, x_rest), (ys, y_rest), (zs, z_rest)) =
        (x.as_chunks::<LANES>(), y.as_chunks::<LANES>(), z.as_chunks::<LANES>());
    let mut acc = [0.0; LANES];
    for ((c, d), e) in xs.iter().zip(ys).zip(zs) {
        for i in 0..LANES {
            acc[i] += f(c[i], d[i], e[i]);
        }
    }
    for (a, ((v, w), u)) in acc.iter_mut().zip(x_rest.iter().zip(y_rest).zip(z_rest)) {
        *a += f(*v, *w, *u);
    }
    total(acc)
}

/// x <- f(x), and the sum of the new values.
#[inline(always)]
pub fn map_sum(x: &mut [f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    let mut acc = [0.0; LANES];
    for c in chunks {
        for i in 0..LANES {
            c[i] = f(c[i]);
            acc[i] += c[i];
        }
    }
    for (a, v) in acc.iter_mut().zip(rest) {
        *v = f(*v);
        *a += *v;
    }
    total(acc)
}

/// The largest value, without NaN (a NaN comes back through the exponentials).
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut acc = [f32::NEG_INFINITY; LANES];
    for c in chunks {
        for i in 0..LANES {
            acc[i] = larger(acc[i], c[i]);
        }
    }
    for (a, v) in acc.iter_mut().zip(rest) {
        *a = larger(*a, *v);
    }
    acc.into_iter().fold(f32::NEG_INFINITY, larger)
}

/// ln sum exp of a row.
#[inline(always)]
pub fn log_sum_exp(x: &[f32]) -> f32 {
    let m = max(x);
    m + sum(x, |v| exp(v - m)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_ln_are_within_a_few_ulps_of_f64() {
        for i in -870_000..870_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 2e-7, "exp {x}: {} for {want}", exp(x));
        }
        for i in 1..1_000_000 {
            let x = (i as f32 * 1e-4 - 60.0).exp();
            let want = f64::from(x).ln();
            assert!((f64::from(ln(x)) - want).abs() <= 1.5e-7 * want.abs().max(1.0), "ln {x}: {} for {want}", ln(x));
        }
    }

    /// What a processor without wide registers computes is the same closure without [`wide`] around it.
    #[test]
    fn a_processor_without_wide_registers_computes_the_same_bits() {
        for n in [1, 15, 16, 17, 1000, 4099] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 7919) % 2003) as f32 * 0.083 - 83.0).collect();
            let y: Vec<f32> = (0..n).map(|i| ((i * 104_729) % 1009) as f32 * 0.017 + 0.01).collect();
            let all = || {
                let mut mapped = x.clone();
                let total = map_sum(&mut mapped, |v| exp(v.mul_add(0.5, 0.25)));
                let sums = [
                    total,
                    sum(&x, |v| exp(v * 0.1)),
                    sum2(&x, &y, |a, b| a.mul_add(b, ln(b))),
                    sum3(&x, &y, &mapped, |a, b, c| (a - b).mul_add(c, b)),
                    max(&x),
                    log_sum_exp(&x),
                ];
                let logs = y.iter().map(|v| ln(*v));
                sums.into_iter().chain(logs).chain(mapped.iter().copied()).map(f32::to_bits).collect::<Vec<u32>>()
            };
            assert_eq!(all(), wide(all), "{n}");
        }
    }

    #[test]
    fn not_a_number_stays_so() {
        assert!(exp(f32::NAN).is_nan() && log_sum_exp(&[0.0, f32::NAN, 1.0]).is_nan());
        assert!(log_sum_exp(&[0.0, f32::INFINITY]).is_nan());
    }

    #[test]
    fn sums_have_the_value_of_a_plain_loop_at_any_length() {
        for n in [0, 1, 15, 16, 17, 40, 257] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let want: f32 = x.iter().sum();
            let mut y = x.clone();
            assert_eq!((sum(&x, |v| v), map_sum(&mut y, |v| v + 1.0)), (want, want + n as f32));
            assert_eq!(sum2(&x, &x, |a, b| a - b), 0.0);
            assert_eq!(max(&x), if n == 0 { f32::NEG_INFINITY } else { (n - 1) as f32 });
        }
    }
}
