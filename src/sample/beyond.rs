//! Texts longer than a model was trained for: a window slides over them, and what is in it already is given.
//!
//! The first window is an ordinary sample. Each further one keeps the last three quarters of the text (whole blocks of an
//! order that has some), at positions 0 and on, and draws the rest behind them (MDLM's semi-autoregressive sampling, Sahoo et al.
//! 2024, section 3.4; BD3-LM slides in the same way). A text that begins to repeat itself may be ended by the entropy of its last
//! tokens (BD3-LM). What a window keeps is read anew, and counted. L window, P blocks.

use rand::RngCore;

use super::family::EntropyStop;
use super::{Process, SampleSpec, Samples, sample};
use crate::error::{Error, Result};
use crate::model::Denoise;
use crate::rng::{StepRng, Stream};

/// Draws `n` texts of `total` tokens, or as many as there were when `stop` ended them.
///
/// `spec.steps` are those of a whole window; a block of a later window takes its share of them.
///
/// # Errors
/// As [`sample`]; a window that is too short to slide (usage).
pub fn sample_beyond(
    model: &dyn Denoise,
    process: &Process,
    spec: &SampleSpec,
    n: usize,
    total: usize,
    stop: Option<EntropyStop>,
) -> Result<Samples> {
    let l = process.length;
    if total <= l && stop.is_none() {
        let mut drawn = sample(model, process, spec, n)?;
        drawn.tokens.iter_mut().for_each(|text| text.truncate(total));
        return Ok(drawn);
    }
    if spec.trace {
        return Err(Error::usage("a text longer than the model's window has no trace").hint("leave `--trace` out"));
    }
    let new = stride(process)?;
    let mut out = sample(model, process, spec, n)?;
    for i in 0..n {
        let mut text = std::mem::take(&mut out.tokens[i]);
        for window in 1.. {
            if let Some(kept) = stop.and_then(|stop| stop.kept(&text)) {
                text.truncate(kept);
                break;
            }
            if text.len() >= total {
                break;
            }
            let context = &text[text.len() - (l - new)..];
            let pinned = context.iter().map(|t| Some(*t)).chain(std::iter::repeat_n(None, new)).collect();
            // A window of a sample has uniforms of its own.
            let seed =
                StepRng::new(spec.seed).at(((window as u64) << 32) | (spec.first + i) as u64, Stream::Token).next_u64();
            let next = SampleSpec { pinned, seed, first: 0, batch: 1, ..spec.clone() };
            let drawn = sample(model, process, &next, 1)?;
            text.extend(&drawn.tokens[0][l - new..]);
            out.nfe[i] += drawn.nfe[0];
            out.positions[i] += drawn.positions[0];
            out.layer_positions[i] += drawn.layer_positions[0];
            out.seconds += drawn.seconds;
        }
        text.truncate(total);
        out.tokens[i] = text;
    }
    Ok(out)
}

/// The positions that a later window draws: a quarter of it, in whole blocks where there are several.
fn stride(process: &Process) -> Result<usize> {
    let (l, layout) = (process.length, process.decode.layout(process));
    let ranges = layout.ranges(l);
    let from = match ranges.len() {
        1 => l - l / 4,
        blocks => ranges[blocks - (blocks / 4).max(1)].start,
    };
    match from {
        0 => Err(Error::usage(format!("a window of {l} positions is too short to slide"))),
        _ if from == l => Err(Error::usage(format!("a window of {l} positions is too short to slide"))),
        from => Ok(l - from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Visibility;
    use crate::model::{Transformer, TransformerConfig};
    use crate::process::{Corruption, Order, Schedule};
    use crate::sample::Decode;
    use burn::prelude::Device;

    fn network(causal: bool) -> Transformer {
        let visibility = if causal { Visibility::Causal } else { Visibility::Order };
        let config = TransformerConfig { shift: causal, ..TransformerConfig::new(16, 2, 2, visibility) };
        Transformer::init(&config, 11, 16, 3, &Device::flex())
    }

    fn process(order: Order, cached: bool) -> Process {
        let (schedule, corruption) = (Schedule::LogLinear, Corruption::Absorb);
        Process { order, schedule, corruption, chain: None, length: 16, cached, decode: Decode::Table }
    }

    #[test]
    fn longer_texts_begin_with_the_ordinary_sample_and_go_on_behind_their_last_blocks() {
        let cases = [
            (network(true), Order::left_to_right(), 16, 4),
            (network(false), Order::in_blocks(4), 8, 4),
            (network(false), Order::in_blocks(5), 8, 1),
            (network(false), Order::parallel(16), 4, 4),
        ];
        for (model, order, steps, new) in cases {
            let process = process(order, true);
            assert_eq!(stride(&process).unwrap(), new, "{order:?}");
            let spec = SampleSpec::new(steps, 7, 2);
            let (long, short) = (
                sample_beyond(&model, &process, &spec, 3, 30, None).unwrap(),
                sample(&model, &process, &spec, 3).unwrap(),
            );
            for i in 0..3 {
                assert_eq!((long.tokens[i].len(), &long.tokens[i][..16]), (30, &short.tokens[i][..]));
                assert!(long.tokens[i].iter().all(|t| *t < 11));
                assert!(long.nfe[i] > short.nfe[i] && long.positions[i] > short.positions[i]);
            }
            // The second window, cut by hand.
            let pinned: Vec<Option<u32>> = (0..16).map(|p| (p < 16 - new).then(|| short.tokens[1][p + new])).collect();
            let seed = StepRng::new(7).at((1 << 32) | 1, Stream::Token).next_u64();
            let cut = SampleSpec { pinned, seed, ..SampleSpec::new(steps, 7, 1) };
            let next = sample(&model, &process, &cut, 1).unwrap();
            assert_eq!(long.tokens[1][16..16 + new], next.tokens[0][16 - new..]);
        }
    }

    #[test]
    fn a_text_that_repeats_itself_is_ended_and_one_that_does_not_goes_on() {
        let (model, process) = (network(false), process(Order::in_blocks(4), true));
        let of = |nats: f64| {
            let stop = Some(EntropyStop { nats, window: 8 });
            sample_beyond(&model, &process, &SampleSpec::new(8, 7, 2), 2, 40, stop).unwrap().tokens
        };
        // Eight tokens have an entropy of at most ln 8.
        assert!(of(2.1).iter().all(|t| t.len() < 16));
        assert!(of(0.0).iter().all(|t| t.len() == 40));
    }
}
