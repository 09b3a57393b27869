//! `recipe list | copy | check | explain | schema | diff`.

use std::path::Path;

use burn::prelude::Device;
use serde_json::json;

use crate::data::Data;
use crate::data::documents::Windows;
use crate::error::{Error, Result};
use crate::recipe::{self as recipes, builtin, parse, reference};
use crate::study::ask::Ask;
use crate::study::dry_run::dry_run;
use crate::study::shape;
use crate::term;
use crate::train::log::clock;

/// Prints the built-in recipes.
///
/// # Errors
/// None: what is built in is always there.
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
///
/// # Errors
/// A name that is not known, or a file that is there already (usage); a refused write (I/O).
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

/// Prints what a key means, which values it takes and its default; without a key, the tables of a recipe.
///
/// # Errors
/// A key that is not known (usage).
pub fn explain(key: Option<&str>, as_json: bool) -> Result<()> {
    let Some(key) = key else {
        for table in reference::tables() {
            if as_json {
                term::out_json(json!({ "path": table.path, "about": table.about }));
                continue;
            }
            term::out(if table.path.is_empty() { "(the recipe)" } else { &table.path });
            term::out(format!("    {}", table.about));
        }
        return Ok(());
    };
    let tables = reference::tables();
    for found in reference::find(key)? {
        let (of, below) =
            (&found.key, found.key.table.as_ref().and_then(|path| tables.iter().find(|t| t.path == *path)));
        if as_json {
            let below = below.map(|table| table.keys.iter().map(|key| &key.name).collect::<Vec<_>>());
            term::out_json(
                json!({ "path": found.path, "values": of.values, "default": of.default, "needed": of.needed,
                "about": of.about, "keys": below }),
            );
            continue;
        }
        term::out(&found.path);
        term::out(format!("    {}", of.about));
        for (name, text) in [("value", of.shown(false)), ("default", of.given(false))] {
            if !text.is_empty() {
                term::out(format!("    {name}: {text}"));
            }
        }
        for key in below.into_iter().flat_map(|table| &table.keys) {
            let default = key.given(false);
            let default = if default.is_empty() { default } else { format!(" ({default})") };
            term::out(format!("    {}{default}: {}", key.name, key.about));
        }
    }
    Ok(())
}

/// Prints the JSON schema of recipes.
///
/// # Errors
/// None: the schema is that of the types.
pub fn schema() -> Result<()> {
    term::out_text(format!("{:#}", reference::schema()));
    Ok(())
}

/// Prints the keys in which two recipes differ.
///
/// # Errors
/// As [`recipes::load`].
pub fn diff(old: &str, new: &str) -> Result<()> {
    let (a, b) = (recipes::load(old, &[])?, recipes::load(new, &[])?);
    term::out_text(parse::diff(&a.text, &b.text, old, new)?);
    Ok(())
}

/// Checks a recipe: keys, contradictions, data and checkpoints, then prints what it takes, and last does one real forward and
/// backward pass per model.
///
/// # Errors
/// A recipe that contradicts itself or its data (usage); files or checkpoints that are not what they should be (input); too
/// little memory (device); a loss or gradient that is not finite (non-finite); I/O.
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
        let Some((loss, one)) = dry_run(recipe, name, &shape, &data, &loaded.base, device)? else { continue };
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
