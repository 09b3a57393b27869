//! What a family's published `forward` returns for token ids and noise levels: for comparing with stored outputs.
//!
//! B batch, L length, V vocabulary.

use crate::error::{Error, Result};
use crate::model::config::Visibility;
use crate::model::transformer::time_of_sigma;
use crate::model::{Denoise, Noised, State, Transformer, params};

use super::{Description, Prediction, log_score};

/// Outputs [B L V] of the model for `ids` [B, wide] of which the first `length` positions are described, and total noises
/// sigma `[B]` (none: 0).
///
/// Rows are as the head gives them, unshifted; SEDD's are log-scores. Twice as many ids as `length` are BD3-LM's x_t and
/// x_0; as many are read with full visibility there, unless `blocks` asks for its sampling mode.
///
/// # Errors
/// Ids or lengths that do not fit the model (usage).
pub fn forward(
    description: &Description,
    model: &Transformer,
    ids: &[u32],
    sigma: Option<&[f64]>,
    [wide, length]: [usize; 2],
    blocks: bool,
) -> Result<Vec<f32>> {
    let batch = ids.len() / wide;
    if length > model.length() || ids.iter().any(|id| *id as usize >= description.network.rows(description.vocab)) {
        return Err(Error::usage(format!(
            "token ids must be below {} and at most {} long",
            description.network.rows(description.vocab),
            model.length()
        )));
    }
    let two_streams = wide == 2 * length;
    let in_blocks = matches!(description.network.visibility, Visibility::Blocks(_));
    if wide != length && !(two_streams && in_blocks) {
        return Err(Error::usage(format!("{wide} ids a sequence for {length} described positions")));
    }
    let model = model.clone().reconfigured(|c| {
        c.shift_output = false;
        if in_blocks && !two_streams && !blocks {
            c.visibility = Visibility::Full;
        }
    });
    let noise = |b: usize| sigma.map_or(0.0, |s| s[b]);
    let t: Vec<f64> = (0..batch).flat_map(|b| vec![time_of_sigma(noise(b)); length]).collect();
    let half = |from: usize| ids.chunks(wide).flat_map(|r| r[from..from + length].to_vec()).collect::<Vec<u32>>();
    let clean = two_streams.then(|| State::Tokens(half(length)));
    let x = half(0);
    let input = Noised { clean, ..Noised::tokens(&x, &t, length) };
    let features = model.features(&input);
    let d = features.dims()[2];
    let mut out = params::floats(model.logits(features.reshape([batch * length, d])));
    if description.family.prediction() == Prediction::Score {
        for (at, row) in out.chunks_mut(description.vocab).enumerate() {
            log_score(row, x[at], noise(at / length), description.scale_by_sigma);
        }
    }
    Ok(out)
}
