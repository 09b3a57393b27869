//! Symmetric rate matrices by their eigenvalues: exp(a R) at any a costs one product. Cyclic Jacobi rotations, f64.
//!
//! N states.

/// R = U diag(values) U^T.
pub struct Modes {
    n: usize,
    values: Vec<f64>,
    /// Columns are eigenvectors, row-major [N, N].
    vectors: Vec<f64>,
}

impl Modes {
    /// Of the symmetric matrix r [N, N].
    pub fn of(r: &[f64], n: usize) -> Self {
        let mut a = r.to_vec();
        let mut u: Vec<f64> = (0..n * n).map(|at| f64::from(u8::from(at / n == at % n))).collect();
        for _ in 0..64 {
            let off: f64 = (0..n * n).filter(|at| at / n != at % n).map(|at| a[at] * a[at]).sum();
            if off < 1e-26 {
                break;
            }
            for p in 0..n {
                for q in p + 1..n {
                    rotate(&mut a, &mut u, n, p, q);
                }
            }
        }
        Modes { n, values: (0..n).map(|i| a[i * n + i]).collect(), vectors: u }
    }

    /// exp(a R), without the negative numbers that rounding leaves.
    pub fn exp(&self, a: f64) -> Vec<f64> {
        let n = self.n;
        let scaled: Vec<f64> = (0..n * n).map(|at| self.vectors[at] * (a * self.values[at % n]).exp()).collect();
        let entry = |at: usize| -> f64 {
            let (i, j) = (at / n, at % n);
            scaled[i * n..(i + 1) * n].iter().zip(&self.vectors[j * n..(j + 1) * n]).map(|(x, y)| x * y).sum()
        };
        let mut out: Vec<f64> = (0..n * n).map(|at| entry(at).max(0.0)).collect();
        for row in out.chunks_mut(n) {
            let total: f64 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= total);
        }
        out
    }

    /// The a at which the mean of the modes other than the stationary one, (trace exp(a R) - 1)/(N - 1), is `left` in (0, 1].
    pub fn time(&self, left: f64) -> f64 {
        let at = |a: f64| (self.values.iter().map(|v| (a * v).exp()).sum::<f64>() - 1.0) / (self.n - 1) as f64;
        let (mut low, mut high) = (0.0, 1.0);
        while at(high) > left && high < 1e12 {
            high *= 2.0;
        }
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if at(middle) > left { low = middle } else { high = middle }
        }
        if left >= 1.0 { 0.0 } else { 0.5 * (low + high) }
    }
}

/// One rotation of the plane (p, q) that makes a[p, q] zero.
fn rotate(a: &mut [f64], u: &mut [f64], n: usize, p: usize, q: usize) {
    let apq = a[p * n + q];
    if apq == 0.0 {
        return;
    }
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    for k in 0..n {
        let (x, y) = (a[k * n + p], a[k * n + q]);
        (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
    }
    for k in 0..n {
        let (x, y) = (a[p * n + k], a[q * n + k]);
        (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
        let (x, y) = (u[k * n + p], u[k * n + q]);
        (u[k * n + p], u[k * n + q]) = (c * x - s * y, s * x + c * y);
    }
}
