//! Matrix products through the `gemm` crate, which picks AVX2 or AVX-512 kernels for the processor it runs on.
//!
//! A product of one task's rows runs in that task's thread; the large ones of a weight's gradient use all threads. The
//! crate divides the output among threads and never the inner dimension, so the number of threads changes no bit.

/// A matrix in memory, with the distance in elements from one row, and from one column, to the next.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major data [rows, columns].
    ///
    /// # Panics
    /// Where `data` is not whole rows of `columns`.
    pub fn new(data: &'a [f32], columns: usize) -> Self {
        let rows = data.len() / columns;
        assert_eq!(data.len(), rows * columns, "whole rows");
        Matrix { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Its transpose, without moving anything.
    pub fn t(self) -> Self {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Whether a product may use all threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    One,
    All,
}

/// Multiplications of a product below which more threads only wait for each other.
const WORTH_THREADS: usize = 1 << 21;

/// out [m, n], row-major, gets (or with `add` grows by) left [m, k] times right [k, n].
///
/// # Panics
/// Where the inner dimensions differ, or `out` is not m n long.
pub fn product(left: Matrix, right: Matrix, out: &mut [f32], add: bool, threads: Threads) {
    let (m, k, n) = (left.rows, left.columns, right.columns);
    assert_eq!(k, right.rows, "inner dimensions");
    assert_eq!(out.len(), m * n, "the output is [m, n]");
    if m * n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            out.fill(0.0);
        }
        return;
    }
    let parallelism = match threads {
        Threads::All if m * k * n >= WORTH_THREADS => gemm::Parallelism::Rayon(0),
        _ => gemm::Parallelism::None,
    };
    let stride = |s: usize| s as isize;
    // SAFETY: both factors hold rows x columns elements at their strides (`Matrix::new` checked it, `t` swaps both), the
    // output holds m n elements at strides (n, 1), and it is borrowed mutably, so it overlaps neither factor.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride(n),
            add,
            left.data.as_ptr(),
            stride(left.column_stride),
            stride(left.row_stride),
            right.data.as_ptr(),
            stride(right.column_stride),
            stride(right.row_stride),
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_the_plain_sum_in_every_layout_and_with_every_number_of_threads() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (17, 33, 9), (130, 70, 65), (0, 3, 2), (2, 0, 3), (200, 130, 90)] {
            let a: Vec<f32> = (0..m * k).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
            let b: Vec<f32> = (0..k * n).map(|i| ((i * 5) % 11) as f32 - 5.0).collect();
            let turn = |x: &[f32], columns: usize| -> Vec<f32> {
                (0..x.len()).map(|i| x[(i % (x.len() / columns)) * columns + i / (x.len() / columns)]).collect()
            };
            let want: Vec<f32> =
                (0..m * n).map(|i| (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum()).collect();
            for threads in [Threads::One, Threads::All] {
                let plain = (Matrix { rows: m, columns: k, ..Matrix::new(&a, k.max(1)) }, Matrix::new(&b, n));
                let mut out = vec![1.0; m * n];
                product(plain.0, Matrix { rows: k, ..plain.1 }, &mut out, false, threads);
                assert_eq!(out, want);
                if k > 0 && m > 0 {
                    let (at, bt) = (turn(&a, k), turn(&b, n));
                    product(Matrix::new(&at, m).t(), Matrix::new(&bt, k).t(), &mut out, true, threads);
                    assert!(out.iter().zip(&want).all(|(o, w)| *o == 2.0 * w));
                }
            }
        }
    }
}
