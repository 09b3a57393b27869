//! Reconstruction: how much of a text an autoencoder gives back, and how that falls as noise is added to the latents.
//!
//! n texts of L tokens, sigma the standard deviation of the noise on latents of unit variance.

use super::results::{Reconstruction, ReconstructionPoint};
use super::stats::mean_interval;
use crate::error::Result;

/// The noises that a study measures at.
pub const SIGMAS: [f64; 8] = [0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5];

/// Measures an autoencoder of `latents` latents of `width` numbers on `texts` (n >= 1, each of the same L), at each noise of
/// `sigmas` (rising); `decode` reads the texts, adds noise of that size to their latents and writes them again.
///
/// # Errors
/// Those of `decode`.
///
/// # Panics
/// Where `texts` is empty, or `latents` is 0.
pub fn measure(
    texts: &[Vec<u32>],
    latents: usize,
    width: usize,
    sigmas: &[f64],
    mut decode: impl FnMut(f64) -> Result<Vec<Vec<u32>>>,
) -> Result<Reconstruction> {
    assert!(!texts.is_empty() && latents > 0, "nothing to read back");
    let points = sigmas.iter().map(|&sigma| Ok(point(sigma, texts, &decode(sigma)?))).collect::<Result<_>>()?;
    Ok(Reconstruction { compression: texts[0].len() as f64 / latents as f64, width, n: texts.len(), points })
}

fn point(sigma: f64, texts: &[Vec<u32>], written: &[Vec<u32>]) -> ReconstructionPoint {
    assert!(texts.len() == written.len(), "{} texts came back as {}", texts.len(), written.len());
    let shares: Vec<f64> = texts.iter().zip(written).map(|(text, back)| accuracy(text, back)).collect();
    let whole: Vec<f64> = texts.iter().zip(written).map(|(text, back)| f64::from(u8::from(text == back))).collect();
    ReconstructionPoint { sigma, accuracy: mean_interval(&shares, 0), exact: mean_interval(&whole, 0) }
}

/// The share of the positions of `text` whose token came back; a missing one did not.
fn accuracy(text: &[u32], back: &[u32]) -> f64 {
    text.iter().zip(back).filter(|(a, b)| a == b).count() as f64 / text.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::eval::stats::Estimate;

    #[test]
    fn tokens_and_whole_texts_that_come_back_are_counted_at_each_noise() {
        let texts = [vec![1, 2, 3, 4], vec![5, 6, 7, 8]];
        let found = measure(&texts, 2, 16, &[0.0, 1.0], |sigma| {
            // Without noise all comes back; with it one token of the first text and the end of the second are lost.
            Ok(if sigma == 0.0 { texts.to_vec() } else { vec![vec![1, 2, 3, 9], vec![5, 6]] })
        })
        .unwrap();
        assert_eq!((found.compression, found.width, found.n), (2.0, 16, 2));
        let [clean, noisy] = [found.points[0], found.points[1]];
        assert_eq!((clean.accuracy, clean.exact), (Estimate::exact(1.0), Estimate::exact(1.0)));
        assert_eq!((noisy.sigma, noisy.accuracy.mean, noisy.exact.mean), (1.0, 0.625, 0.0));
        assert!(noisy.accuracy.low >= 0.5 && noisy.accuracy.high <= 0.75);
    }

    #[test]
    fn a_decoder_that_fails_fails_the_measurement() {
        let found = measure(&[vec![1]], 1, 1, &[0.5], |_| Err(Error::input("no latents")));
        assert!(found.unwrap_err().message.contains("no latents"));
    }
}
