//! Scores of the picture task: of captions and pictures that a model writes, and of pictures for captions it is given.

use indexmap::IndexMap;

use super::EvalConfig;
use crate::data::picture::Pictures;
use crate::error::Result;
use crate::model::Denoise;
use crate::rng::{StepRng, Stream};
use crate::sample::{Process, SampleSpec, sample};

/// The key of [`agreement_given`] among a row's scores of its whole set.
pub const GIVEN: &str = "agreement_given_captions";
/// Captions that are given, and pictures drawn for each.
const CAPTIONS: usize = 32;
const PICTURES: usize = 4;
/// Captions that are given come from this seed, which no recipe's training uses.
const GIVEN_SEED: u64 = 0x5eed_ca97_1057;

/// Of each sequence: whether its caption is valid, the share of its clauses that are drawn, and whether all agrees.
pub fn scores(task: &Pictures, texts: &[Vec<u32>]) -> IndexMap<String, Vec<f64>> {
    let readings: Vec<_> = texts.iter().map(|t| task.reading(t)).collect();
    let flag = |is: bool| f64::from(u8::from(is));
    IndexMap::from([
        ("caption_valid".to_string(), readings.iter().map(|r| flag(r.valid)).collect()),
        ("clauses".to_string(), readings.iter().map(|r| r.clauses).collect()),
        ("agreement".to_string(), readings.iter().map(|r| flag(r.agrees)).collect()),
    ])
}

/// The share of pictures that agree with captions that are given: a few pictures for each of some new captions.
///
/// # Errors
/// Too few steps for the process (usage).
///
/// # Panics
/// Where a picture lacks the caption that it was given, which cannot be.
pub fn agreement_given(
    task: &Pictures,
    model: &dyn Denoise,
    process: &Process,
    steps: usize,
    config: &EvalConfig,
) -> Result<f64> {
    let (rng, text) = (StepRng::new(GIVEN_SEED), task.shape().text);
    let mut agree = 0;
    for i in 0..CAPTIONS {
        let caption = task.write(&task.caption(&mut rng.at(i as u64, Stream::Validation)));
        let mut spec = SampleSpec::new(steps, config.seed + i as u64, PICTURES);
        spec.pinned = caption.into_iter().map(Some).chain(std::iter::repeat(None)).take(process.length).collect();
        let drawn = sample(model, process, &spec, PICTURES)?;
        assert!(drawn.tokens.iter().all(|t| task.caption_of(&t[..text]).is_some()), "what is given stays as it is");
        agree += drawn.tokens.iter().filter(|t| task.reading(t).agrees).count();
    }
    Ok(agree as f64 / (CAPTIONS * PICTURES) as f64)
}
