//! Which phases? A greedy search over lists of phases by the sampler's own likelihood of training text.
//!
//! A list says the phase of each position of a period. From the best of the known patterns on, one change at a time is tried: two
//! positions of the period change places, or one moves to another phase; what lowers the NLL of the searched texts is kept. The
//! network is one that sees everything, so that no list needs a training of its own. What was found is compared with the known
//! patterns on held-out text. K steps, P positions of a period.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::sampler;
use super::stats::{Estimate, mean_interval};
use crate::error::Result;
use crate::model::Denoise;
use crate::process::order::phases::List;
use crate::process::{Order, Pattern};
use crate::rng::{StepRng, Stream};
use crate::sample::Process;

/// What is searched.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// Phases K.
    pub steps: usize,
    /// Positions of a period P, at least K.
    pub period: usize,
    /// Changes that are tried.
    pub tries: usize,
    pub seed: u64,
}

/// A list of phases with what text costs in it.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// What it is called, or `searched`.
    pub name: String,
    /// The phase of each position of the period.
    pub phases: Vec<usize>,
    /// Mean NLL of the searched texts, nats per token.
    pub searched: f64,
    /// NLL of held-out texts, nats per token.
    pub held_out: Estimate,
    /// Held-out NLL minus that of strided phases, text by text.
    pub minus_strided: Estimate,
    /// Held-out texts.
    pub n: usize,
}

/// The known patterns of K phases in a period of P positions, by name.
pub fn known(steps: usize, period: usize) -> Vec<(String, Vec<usize>)> {
    let mut all = vec![
        ("strided".to_string(), Pattern::Strided(steps).list(period)),
        ("dilated".to_string(), Pattern::Dilated(steps).list(period)),
    ];
    all.extend(growing(steps, period).map(|list| ("growing".to_string(), list)));
    all
}

/// Phases that grow: each has about as many positions as all before it, in the middle of the gaps that those left. Early phases of
/// few positions, far apart, cost steps and save independence. None where K phases cannot grow so in P positions.
pub fn growing(steps: usize, period: usize) -> Option<Vec<usize>> {
    if !(2..=32).contains(&steps) || period >> (steps - 1) == 0 {
        return None;
    }
    // Places in the order of halved gaps; the first 1, 1, 2, 4, .. of 2^(K-1) parts of it are the phases.
    let phase = |place: usize| {
        let part = (place << (steps - 1)) / period;
        (usize::BITS - part.leading_zeros()) as usize
    };
    Some(Pattern::Dilated(period).list(period).into_iter().map(phase).collect())
}

/// Whether every phase below K has a position.
fn whole(list: &[usize], steps: usize) -> bool {
    (0..steps).all(|k| list.contains(&k))
}

/// One change of a list: two positions change places, or one moves to another phase.
fn changed(list: &[usize], steps: usize, draws: &mut ChaCha8Rng) -> Vec<usize> {
    let mut next = list.to_vec();
    let at = draws.random_range(0..list.len());
    match draws.random::<bool>() {
        true => next.swap(at, draws.random_range(0..list.len())),
        false => next[at] = draws.random_range(0..steps),
    }
    next
}

/// Searches on `texts`, and measures what was found and the known patterns on `held_out`, the best first. `told` hears each
/// improvement: the change's number and the NLL.
///
/// # Errors
/// As [`sampler::nll`]; those of `told`.
///
/// # Panics
/// Where `search.period` is not what a [`List`] may hold.
pub fn search(
    model: &dyn Denoise,
    process: &Process,
    search: Search,
    texts: &[Vec<u32>],
    held_out: &[Vec<u32>],
    mut told: impl FnMut(usize, f64) -> Result<()>,
) -> Result<Vec<Found>> {
    let cost = |list: &[usize], texts: &[Vec<u32>]| -> Result<Vec<f64>> {
        let Some(phases) = List::new(list) else { panic!("a period is within what a list may hold") };
        let process = Process { order: Order::in_phases(Pattern::Listed(phases), process.length), ..process.clone() };
        let steps = process.order.blocks(process.length);
        let texts = sampler::Texts { tokens: texts, counted: &sampler::whole, batch: 16 };
        Ok(sampler::nll(model, &process, steps, texts, 2)?.map_or_else(Vec::new, |s| s.texts))
    };
    let mean = |list: &[usize]| cost(list, texts).map(|values| super::stats::mean(&values));
    let mut all: Vec<(String, Vec<usize>, f64)> = Vec::new();
    for (name, list) in known(search.steps, search.period) {
        let value = mean(&list)?;
        all.push((name, list, value));
    }
    let best = all.iter().min_by(|a, b| a.2.total_cmp(&b.2));
    let (mut list, mut value) = best.map_or_else(Default::default, |(_, list, value)| (list.clone(), *value));
    let mut draws = StepRng::new(search.seed).at(0, Stream::Order);
    for i in 0..search.tries {
        let next = changed(&list, search.steps, &mut draws);
        if next == list || !whole(&next, search.steps) {
            continue;
        }
        let other = mean(&next)?;
        if other < value {
            (list, value) = (next, other);
        }
        told(i + 1, value)?;
    }
    all.push(("searched".into(), list, value));
    let strided = cost(&all[0].1, held_out)?;
    let mut found = Vec::new();
    for (name, phases, searched) in all {
        let values = cost(&phases, held_out)?;
        let differences: Vec<f64> = values.iter().zip(&strided).map(|(a, b)| a - b).collect();
        found.push(Found {
            name,
            phases,
            searched,
            held_out: mean_interval(&values, 0),
            minus_strided: mean_interval(&differences, 0),
            n: values.len(),
        });
    }
    found.sort_by(|a, b| a.held_out.mean.total_cmp(&b.held_out.mean));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::story::{Story, StoryConfig};
    use crate::model::Oracle;
    use burn::prelude::Device;

    #[test]
    fn growing_phases_double_and_every_pattern_has_all_its_phases() {
        let sizes = |list: &[usize], k: usize| list.iter().filter(|p| **p == k).count();
        let list = growing(5, 32).unwrap();
        assert_eq!((0..5).map(|k| sizes(&list, k)).collect::<Vec<_>>(), [2, 2, 4, 8, 16]);
        assert!(list[0] == 0 && list[16] == 0 && list[8] == 1 && list[24] == 1);
        assert_eq!((growing(5, 15), growing(1, 8), growing(65, 128)), (None, None, None));
        for (steps, period) in [(2, 2), (4, 8), (8, 32), (8, 128), (3, 7)] {
            assert!(known(steps, period).iter().all(|(_, list)| list.len() == period && whole(list, steps)));
        }
    }

    #[test]
    fn a_search_is_never_worse_on_its_texts_than_what_it_started_with_and_the_same_again() {
        let story = Story::new(&StoryConfig { names: 2, things: 2, places: 1, count: 3, noise: 1e-4 }).unwrap();
        let length = story.length();
        let oracle = Oracle::new(story.chain().clone(), Device::flex());
        let process = Process::new(Order::parallel(length), length);
        let texts = |seed: u64| -> Vec<Vec<u32>> {
            let mut rng = StepRng::new(seed).at(0, Stream::Batch);
            (0..24).map(|_| story.sample(&mut rng)).collect()
        };
        let of = Search { steps: 3, period: 8, tries: 40, seed: 1 };
        let run = || search(&oracle, &process, of, &texts(1), &texts(2), |_, _| Ok(())).unwrap();
        let found = run();
        let of = |name: &str| found.iter().find(|f| f.name == name).unwrap();
        let best = of("strided").searched.min(of("dilated").searched).min(of("growing").searched);
        assert!(of("searched").searched < best, "{} for {best}", of("searched").searched);
        assert_eq!(of("strided").minus_strided.mean, 0.0);
        assert!(found.windows(2).all(|p| p[0].held_out.mean <= p[1].held_out.mean));
        assert_eq!(format!("{found:?}"), format!("{:?}", run()));
    }
}
