//! `recipe list | copy | check | diff`.

use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::prelude::Device;
use serde_json::json;

use super::room::Ask;
use super::run::{Shape, shape};
use crate::data::Data;
use crate::data::documents::Windows;
use crate::error::{Error, Result};
use crate::method::{
    self, LatentConfig, NoiseRange, Objective, consistency, dcd, distill, embedding, few_step, latent,
};
use crate::model::{Transformer, TransformerConfig, params};
use crate::process::d3pm::{Matrices, Matrix};
use crate::process::duality::Duality;
use crate::recipe::{self as recipes, Recipe, builtin, parse};
use crate::rng::{StepRng, Stream};
use crate::term;
use crate::train::log::clock;

/// Prints the built-in recipes.
pub fn list(as_json: bool) -> Result<()> {
    for (name, _, about) in builtin::ALL {
        match as_json {
            true => term::out_json(json!({ "name": name, "about": about })),
            false => term::out(format!("{name:<14} {about}")),
        }
    }
    Ok(())
}

/// Copies a built-in recipe to a file that is not there yet.
pub fn copy(name: &str, to: Option<&Path>) -> Result<()> {
    let Some(text) = builtin::find(name) else {
        let error = Error::usage(format!("no built-in recipe `{name}`"));
        return Err(match crate::error::nearest(name, builtin::names()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`fewstep recipe list` shows them"),
        });
    };
    let default = format!("{name}.toml");
    let to = to.unwrap_or(Path::new(&default));
    if to.exists() {
        return Err(Error::usage(format!("{} is there already", to.display())).hint("give another file name"));
    }
    crate::fs::write_named(to, text.as_bytes())?;
    term::out(to.display());
    Ok(())
}

/// Prints the keys in which two recipes differ.
pub fn diff(old: &str, new: &str) -> Result<()> {
    let (a, b) = (recipes::load(old, &[])?, recipes::load(new, &[])?);
    term::out_text(parse::diff(&a.text, &b.text, old, new)?);
    Ok(())
}

/// Checks a recipe: keys, contradictions, data and checkpoints, then prints what it takes, and last does one real forward and
/// backward pass per model.
pub fn check(place: &str, sets: &[String], device: &Device, as_json: bool) -> Result<()> {
    let loaded = recipes::load(place, sets)?;
    let first = loaded.recipe.seeds.first().map(|seed| loaded.at_seed(*seed)).transpose()?;
    let recipe = &first.as_ref().unwrap_or(&loaded).recipe;
    let say = |line: String| {
        if !as_json {
            term::out(line);
        }
    };
    // Before anything that the recipe names is opened or downloaded.
    say(format!("recipe   {}: {} models, all keys known", recipe.name, recipe.model.len()));
    let located = |e| loaded.written.located(e);
    Data::check_start(&recipe.data, &loaded.base).map_err(located)?;
    let data = Data::prepare(&recipe.data, &loaded.base, None).map_err(located)?;
    say(format!("data     {}, vocabulary {}, length {}", data.kind(), data.vocab(), data.length()));
    text_of(&data).into_iter().for_each(&say);
    recipe.check_with(&data, &loaded.base).map_err(located)?.iter().for_each(|note| term::warn(note));
    let ask = Ask { recipe, data: &data, base: &loaded.base, device, begun: None };
    // Under every seed the same is trained: it is tried under the first.
    let times = loaded.recipe.seeds.len().max(1);
    let mut planned = Vec::new();
    for name in recipe.training_order()? {
        let shape = shape(recipe, name, &data, &loaded.base).map_err(located)?;
        if shape.tokenizer.is_some() {
            say(format!("judge    {name}: a checkpoint that reads text with its own tokenizer"));
            continue;
        }
        let need = ask.need(&shape, recipe.model(name)?);
        let (forwards, _) = recipe.train_cost(name, data.length())?;
        let megabytes = |bytes: u128| bytes as f64 / 1e6;
        say(format!(
            "model    {name}: {} parameters, about {:.0} MB memory, {:.0} MB disk; {} forward passes of a sequence",
            need.parameters,
            megabytes(need.memory.total()),
            megabytes(need.disk),
            forwards
        ));
        planned.push((name, shape, need, forwards));
    }
    // A pass that does not fit into memory is not begun.
    let names: Vec<&str> = planned.iter().map(|(name, ..)| *name).collect();
    ask.study(&names, true, &Path::new("runs").join(&recipe.name))?;
    let mut total = 0.0;
    for (name, shape, need, forwards) in planned {
        let model = recipe.model(name)?;
        let Some((loss, one)) = dry_run(recipe, name, &shape, (&data, &loaded.base), device)? else { continue };
        let seconds = one * model.train.steps as f64 * model.train.accumulate as f64;
        total += times as f64 * seconds;
        match as_json {
            true => term::out_json(
                json!({ "model": name, "parameters": need.parameters as u64, "memory_bytes": need.memory.total() as u64,
                "disk_bytes": need.disk as u64, "loss": loss, "train_forwards": forwards, "seconds": seconds }),
            ),
            false => term::out(format!("dry run  {name}: loss {loss:.3}, gradients finite; about {}", clock(seconds))),
        }
    }
    let seeds = if times > 1 { format!(" under {times} seeds") } else { String::new() };
    say(format!("estimate {} of training{seeds}", clock(total)));
    Ok(())
}

/// How much text there is, of data that is a text.
fn text_of(data: &Data) -> Option<String> {
    /// Tokens that say how long one is.
    const PROBE: usize = 1 << 16;
    let Data::Text { corpus, tokenizer, .. } = data else { return None };
    let (train, valid) = (&corpus.train, &corpus.valid);
    let probe: Vec<u32> = train.iter().take(PROBE).filter(|id| data.end() != Some(*id)).collect();
    let bytes = tokenizer.decode_bytes(&probe).len() as f64 / probe.len().max(1) as f64;
    let parts = |windows: &Windows| format!(" in {} documents", windows.documents());
    let documents = corpus.documents.as_ref();
    let (a, b) = documents.map(|d| (parts(&d.train), parts(&d.valid))).unwrap_or_default();
    Some(format!(
        "text     {} tokens{a} to train on, {}{b} held out; {bytes:.2} bytes a token",
        train.len(),
        valid.len()
    ))
}

/// Loss and gradients of one step of a model of tokens.
fn token_step(
    (recipe, name): (&Recipe, &str),
    shape: &Shape,
    model: &Transformer,
    x0: &[u32],
    (data, base): (&Data, &Path),
    device: &Device,
) -> Result<(f64, GradientsParams)> {
    let config = recipe.model(name)?;
    let (network, vocab, length, seed) = (&shape.network, shape.vocab, data.length(), recipe.seed(config));
    let rng = (StepRng::new(seed), 0);
    let init = |network: &TransformerConfig, device: &Device| {
        Transformer::init(network, vocab, length, seed, device).with_mask(shape.mask as usize)
    };
    let teacher;
    let rows = match &config.objective {
        Objective::Sdtt(sdtt) => {
            teacher = match (&shape.lora, shape.shallower()) {
                (_, true) => init(&self::shape(recipe, &sdtt.teacher, data, base)?.network, device),
                (Some(_), false) => model.without_adapters(),
                (None, false) => init(network, device),
            };
            {
                let theirs = recipe.model(&sdtt.teacher)?.order.all(length);
                let orders = distill::Orders::of(config.order.order(length), &theirs, length)
                    .unwrap_or(distill::Orders::same(config.order.order(length)));
                distill::rows(sdtt, &teacher, x0, length, sdtt.dt(0), orders, rng)?
            }
        }
        Objective::Dcd(dcd) => {
            teacher = match &shape.lora {
                Some(_) => model.without_adapters(),
                None => init(network, device),
            };
            let duality = Duality::new(shape.vocab, dcd.ends());
            dcd::rows(dcd, &teacher, &duality, x0, length, dcd.dt(0), rng)
        }
        Objective::D3pm(of) => {
            // What is near to what is not known yet; it changes neither time nor memory.
            let near = matches!(of.matrix, Matrix::Neighbours { .. });
            let matrix = if near { &Matrix::Uniform } else { &of.matrix };
            let matrices = Matrices::new(matrix, shape.vocab, of.levels, of.schedule, None)?;
            let gens = (rng.0.at(0, Stream::Times), rng.0.at(0, Stream::Corrupt));
            method::d3pm::rows(&matrices, of.auxiliary, x0, length, gens)
        }
        Objective::Consistency(of) => {
            teacher = init(network, device);
            consistency::rows(of, &teacher, x0, length, shape.mask, rng)
        }
        other => {
            let duality = other.ends().map(|ends| Duality::new(shape.vocab, ends));
            let order = (config.order.order(length), NoiseRange::WHOLE, duality.as_ref());
            match method::data_rows(other, x0, length, (shape.mask, shape.vocab), order, rng) {
                Some(rows) => rows,
                None => panic!("only distillation needs a teacher"),
            }
        }
    };
    Ok(method::backward(model, &rows))
}

/// The same of a model of latents, with a new autoencoder and, for a student, itself as its teacher.
fn latent_step(
    (recipe, name): (&Recipe, &str),
    process: &LatentConfig,
    (model, x0): (&Transformer, &[u32]),
    (data, base): (&Data, &Path),
    device: &Device,
) -> Result<(f64, GradientsParams)> {
    let config = recipe.model(name)?;
    let codec = shape(recipe, &process.codec, data, base)?;
    let codec = Transformer::init(&codec.network, codec.vocab, data.length(), recipe.seed(config), device);
    let rng = (StepRng::new(recipe.seed(config)), 0);
    let count = model.vectors().map_or(1, |v| v.count);
    let Objective::LatentDistill(distill) = &config.objective else {
        return Ok(latent::denoise(process, model, &codec, x0, config.order.order(count), rng));
    };
    let (plain, batch) = (model.valid(), latent::Batch::of(&codec, model, x0, process.drop_condition, rng));
    let step = few_step::Step {
        model,
        plain: &plain,
        average: Some(&plain),
        teacher: &plain,
        process: few_step::process(process),
        batch: &batch,
        step: 0,
        steps: config.train.steps,
        round: 0,
        rng,
    };
    step.backward(&distill.method, Some(&plain))
}

/// Loss, and seconds of one forward and backward pass of a model at its real batch and length.
fn dry_run(
    recipe: &Recipe,
    name: &str,
    shape: &Shape,
    (data, base): (&Data, &Path),
    device: &Device,
) -> Result<Option<(f64, f64)>> {
    let config = recipe.model(name)?;
    if config.from.is_some() {
        shape.notes.iter().for_each(|note| term::warn(note));
    }
    let (network, vocab) = (&shape.network, shape.vocab);
    let (length, batch) = (data.length(), config.train.batch);
    let seed = recipe.seed(config);
    let init = |network: &TransformerConfig, device: &Device| {
        Transformer::init(network, vocab, length, seed, device).with_mask(shape.mask as usize)
    };
    let on = device.clone().autodiff();
    let model = match &shape.lora {
        Some(plan) => init(network, device).with_adapters(plan, &plan.initial(seed), "new adapters", &on)?,
        None => init(network, &on),
    };
    let x0 = data.batch(seed, 0, batch);
    let rng = (StepRng::new(seed), 0);
    let begin = Instant::now();
    let (loss, grads) = match recipe.latent(name)? {
        Some((_, process)) => latent_step((recipe, name), process, (&model, &x0), (data, base), device)?,
        None => match &config.objective {
            Objective::Autoencoder(autoencoder) => latent::autoencoder(autoencoder, &model, &x0, rng),
            Objective::Embedding(config) => {
                let anchored = recipe.model(name)?.order.order(length).levels > 0;
                embedding::denoise(config, &model, &x0, anchored, rng)
            }
            Objective::Classifier(_) => match recipe.classified(config)? {
                // A network of the same shape has embeddings of the same width.
                Some((_, of)) => embedding::classify(of, &model, &model.valid(), &x0, rng),
                None => return Ok(None),
            },
            _ => token_step((recipe, name), shape, &model, &x0, (data, base), device)?,
        },
    };
    let norm = params::gradient_norm(&model, &grads);
    let seconds = begin.elapsed().as_secs_f64();
    if !loss.is_finite() || !norm.is_finite() {
        return Err(Error::new(
            crate::error::Kind::NonFinite,
            format!("`{name}`: the dry run gives loss {loss}, gradient norm {norm}"),
        ));
    }
    Ok(Some((loss, seconds)))
}
