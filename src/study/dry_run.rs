//! The first step of a model's training, with new networks in the place of others: what `recipe check` shows is what `run` does.

use std::path::Path;
use std::time::Instant;

use burn::prelude::Device;

use super::{Shape, shape};
use crate::data::Data;
use crate::error::{Error, Kind, Result};
use crate::method::Parents;
use crate::model::Transformer;
use crate::process::d3pm::{Matrices, Matrix};
use crate::recipe::Recipe;
use crate::term::{self, Interrupt};
use crate::train::{self, Draws, Fingerprint, Job, Run, Start, TrainConfig};

/// Loss, and seconds of the first step of a model at its real batch and length, with new networks in the place of others.
///
/// # Errors
/// Models that do not go together (usage); a checkpoint that cannot be read (input); a loss or gradient that is not finite
/// (non-finite).
pub fn dry_run(
    recipe: &Recipe,
    name: &str,
    shape: &Shape,
    data: &Data,
    base: &Path,
    device: &Device,
) -> Result<Option<(f64, f64)>> {
    let config = recipe.model(name)?;
    if config.from.is_some() {
        shape.notes.iter().for_each(|note| term::warn(note));
    }
    let (length, seed, facts) = (data.length(), recipe.seed(config), config.objective.facts());
    let init = |shape: &Shape| {
        Transformer::init(&shape.network, shape.vocab, length, seed, device).with_mask(shape.mask as usize)
    };
    let shape_of = |name: &str| self::shape(recipe, name, data, base);
    let frozen = shape.lora.as_ref().map(|plan| (init(shape), plan));
    // A teacher of another depth, or one that sees otherwise, is a network of its own.
    let other = match (facts.teacher, &frozen) {
        (Some((teacher, _)), None) => Some(init(&shape_of(teacher)?)),
        (Some((teacher, _)), Some(_)) if shape.shallower() => Some(init(&shape_of(teacher)?)),
        _ => None,
    };
    let beside = frozen.as_ref().map(|(frozen, _)| frozen).filter(|_| facts.teacher.is_some());
    let latent = recipe.latent(name)?;
    let codec = latent.map(|(_, config)| Ok::<_, Error>(init(&shape_of(&config.codec)?))).transpose()?;
    let classified = recipe.classified(config)?;
    let of = classified.map(|(of, _)| Ok::<_, Error>(init(&shape_of(of)?))).transpose()?;
    // What is near to what is not known yet; it changes neither time nor memory.
    let matrices = facts.chain.map(|chain| {
        let matrix = if matches!(chain.matrix, Matrix::Neighbours { .. }) { &Matrix::Uniform } else { chain.matrix };
        Matrices::new(matrix, shape.vocab, chain.levels, chain.schedule, None)
    });
    let matrices = matrices.transpose()?;
    let positions = shape.network.vectors.as_ref().map_or(length, |v| v.count);
    let taught = match facts.teacher {
        Some((teacher, _)) => recipe.model(teacher)?.order.all(length),
        None => Vec::new(),
    };
    // One part of a step: all have the same size.
    let train = TrainConfig { accumulate: 1, ..config.train.clone() };
    let job = Job {
        name,
        dir: Path::new(""),
        config: &train,
        method: config.objective.method(),
        network: shape.frame(length),
        start: frozen.as_ref().map_or(Start::New, |(frozen, plan)| Start::Adapters(frozen, plan)),
        orders: &config.order.all(positions)[..1],
        parents: Parents {
            teacher: other.as_ref().or(beside),
            orders: &taught,
            latent: codec.as_ref().zip(latent.map(|(_, config)| config)),
            classified: of.as_ref().zip(classified.map(|(_, config)| config)),
            matrices: matrices.as_ref(),
        },
        draws: Draws { seed, batch: &|part| data.batch(seed, part, train.batch) },
        run: Run { device, interrupt: &Interrupt::default(), fingerprint: &Fingerprint::default(), again: "" },
    };
    let begin = Instant::now();
    let (loss, norm) = train::first_step(&job)?;
    let seconds = begin.elapsed().as_secs_f64();
    if !loss.is_finite() || !norm.is_finite() {
        return Err(Error::new(
            Kind::NonFinite,
            format!("`{name}`: the dry run gives loss {loss}, gradient norm {norm}"),
        ));
    }
    Ok(Some((loss, seconds)))
}
