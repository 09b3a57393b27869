//! The shape of a model: its network, and how its vocabulary lies to the data's, as the recipe or a checkpoint says.

use std::path::{Path, PathBuf};

use crate::checkpoint::origin;
use crate::data::{Data, Tokenizer};
use crate::error::{Error, Result};
use crate::method::Objective;
use crate::model::config::{Compute, UNIFORM_DIGITS};
use crate::model::family::{self, Description, LoadOptions, Prediction, Rows, Vocabulary};
use crate::model::params::Named;
use crate::model::transformer::lora::{Plan, check_layers};
use crate::model::{Transformer, TransformerConfig};
use crate::recipe::{Network, Recipe};
use crate::train::Frame;
use crate::weights::HostTensor;

/// Tokens that a judge from a checkpoint reads at once, at most.
const JUDGE_LENGTH: usize = 4096;

/// The network of a model, and how its vocabulary lies to the data's.
pub struct Shape {
    pub network: TransformerConfig,
    pub vocab: usize,
    /// The mask, or the token that an autoregressive model starts from.
    pub mask: u32,
    /// Pass over tensors of the checkpoint that the model does not have.
    pub ignore_extra: bool,
    /// Ids below this one have text.
    pub tokens: usize,
    /// Tokens of the longest sequence it reads.
    pub length: usize,
    /// The directory of the public checkpoint it comes from.
    pub from: Option<PathBuf>,
    /// Where the data's tokens lie in the checkpoint's vocabulary, and the size of that; none: at the same ids.
    pub rows: Option<(Rows, usize)>,
    /// Of a judge from a checkpoint, its own tokenizer.
    pub tokenizer: Option<Tokenizer>,
    /// The type that its matrices are kept in.
    pub dtype: Compute,
    /// The blocks of the checkpoint, or of the recipe's network, that are left in it; none: all.
    pub keep: Option<Vec<usize>>,
    /// The blocks of what it starts from that it keeps itself.
    keeps: Option<Vec<usize>>,
    /// The adapters that are trained, where it is not the whole network.
    pub lora: Option<Plan>,
    /// Ids below `tokens` without text, which are never predicted.
    pub excluded: Vec<u32>,
    /// What was passed over in the checkpoint, in words for a warning.
    pub notes: Vec<String>,
}

impl Shape {
    /// Its network's shape, for a training on sequences of `length`.
    pub fn frame(&self, length: usize) -> Frame<'_> {
        let Shape { network, vocab, mask, tokens, excluded, .. } = self;
        Frame { config: network, vocab: *vocab, length, mask: *mask, tokens: *tokens, excluded }
    }

    fn own(network: TransformerConfig, vocab: usize, mask: u32, length: usize) -> Shape {
        Shape {
            network,
            vocab,
            mask,
            tokens: vocab,
            length,
            from: None,
            ignore_extra: false,
            rows: None,
            tokenizer: None,
            dtype: Compute::F32,
            keep: None,
            keeps: None,
            lora: None,
            excluded: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Whether its network is the checkpoint's to the weight, so that a reference to that is enough.
    pub fn as_it_is(&self) -> bool {
        self.rows.is_none() && self.tokenizer.is_none() && !self.ignore_extra && !self.network.shift
    }

    /// Whether it has fewer blocks than what it starts from.
    pub fn shallower(&self) -> bool {
        self.keeps.is_some()
    }

    /// Whether its positions see or are told other things than those of what it starts from.
    pub fn sees_otherwise(&self, base: &Transformer) -> bool {
        let theirs = base.config();
        self.network.visibility != theirs.visibility || self.network.uniforms != theirs.uniforms
    }

    /// The tensors that it starts with, out of those of another model: what that one is not told begins at nothing.
    pub fn begun(&self, mut tensors: Named) -> Named {
        if self.network.uniforms {
            let shape = vec![self.network.dim, UNIFORM_DIGITS];
            let nothing = || HostTensor { data: vec![0.0; shape.iter().product()], shape: shape.clone() };
            tensors.entry("uniforms.weight".to_string()).or_insert_with(nothing);
        }
        tensors
    }

    /// The network that a model starts with, out of the one it starts from; weights are shared.
    pub fn start(&self, base: &Transformer) -> Transformer {
        let kept = match &self.keeps {
            Some(keep) => base.with_layers(keep),
            None => base.clone(),
        };
        kept.reconfigured(|c| c.checkpoint = self.network.checkpoint)
    }
}

/// The shape of the model `name`: as the recipe says, or as the checkpoint does that it or its teacher comes from.
///
/// # Errors
/// A directory that holds no model of a known family, one that the objective cannot be trained with, or that has
/// another tokenizer than the data.
pub fn shape(recipe: &Recipe, name: &str, data: &Data, base: &Path) -> Result<Shape> {
    let mut shape = whole(recipe, name, data, base)?;
    let model = recipe.model(name)?;
    let lineage = recipe.lineage(name)?;
    // From the network that is described, teacher by teacher.
    for keep in lineage.iter().rev().filter_map(|m| m.keep_layers.as_ref()) {
        check_layers(keep, &shape.network, &format!("model.{name}.keep_layers"))?;
        if shape.network.encoder_layers > 0 {
            return Err(Error::usage(format!("`model.{name}.keep_layers` is not for a network with `encoder_layers`"))
                .cause("its layers have different tasks")
                .hint("leave `keep_layers` out"));
        }
        let before = shape.keep.take().unwrap_or_else(|| (0..shape.network.layers).collect());
        shape.keep = Some(keep.iter().map(|i| before[*i]).collect());
        shape.network = shape.network.with_layers(keep);
    }
    shape.keeps = model.keep_layers.clone();
    if let (Some(from), Some(keep)) = (&shape.from, &shape.keep) {
        family::fills_groups(from, keep)?;
    }
    if shape.dtype != Compute::F32 && !shape.as_it_is() {
        return Err(Error::usage(format!("`dtype.weights` of `model.{name}` needs a masked checkpoint as it is"))
            .cause("causal models, and those with `vocabulary` or `ignore_extra`, are copied in f32")
            .hint("leave `dtype.weights` out"));
    }
    if let Some(checkpoint) = lineage.iter().find_map(|m| m.checkpoint) {
        shape.network.checkpoint = checkpoint;
    }
    if let Some(lora) = &model.lora {
        if model.from.is_some() && !shape.as_it_is() {
            return Err(Error::usage(format!("`model.{name}.lora` needs a checkpoint as it is"))
                .cause("`vocabulary` or `ignore_extra` make another network of it")
                .hint("leave these out, or train the whole network without `lora`"));
        }
        let sites = origin::sites(shape.from.as_deref(), &shape.network)?;
        shape.lora = Some(lora.plan(&format!("model.{name}.lora"), &sites)?);
    }
    Ok(shape)
}

/// The directory of the public checkpoint that a recipe calls `from`.
pub(super) fn checkpoint(from: &Path, base: &Path) -> Result<PathBuf> {
    match crate::hub::reference(&from.to_string_lossy())? {
        Some(_) => family::resolve(from),
        None => Ok(base.join(from)),
    }
}

/// The same where nothing has to be downloaded for it.
pub(super) fn at_hand(from: &Path, base: &Path) -> Option<PathBuf> {
    match crate::hub::reference(&from.to_string_lossy()).ok()? {
        Some(model) => family::cached(&model),
        None => Some(base.join(from)),
    }
}

/// Checks that a model is trained for what the network of its checkpoint can do.
fn goes_with(recipe: &Recipe, name: &str, d: &family::Description, from: &Path) -> Result<()> {
    let (place, model) = (from.display(), recipe.model(name)?);
    recipe.check_network(name, &d.network).map_err(|e| {
        // The network is the checkpoint's, so what has to change is what it is trained for.
        let causal = d.family.prediction() == Prediction::NextToken && !model.objective.facts().causal();
        e.cause(format!("{place} holds {}", d.family.name())).hint(match causal {
            true => format!(
                "an autoregressive checkpoint is tuned or judges: `model.{name}.objective = {{ ar_nll = {{}} }}` with \
                 `model.{name}.order = \"left_to_right\"`; a diffusion teacher comes from a masked checkpoint"
            ),
            false => format!("give `model.{name}` an order and an objective that fit the checkpoint's network"),
        })
    })
}

/// The error of a causal model with a policy for its vocabulary.
fn has_no_other_ids(name: &str, policy: &str, from: &Path) -> Error {
    let place = from.display();
    let key = format!("model.{name}.vocabulary");
    Error::usage(format!("`{key} = \"{}\"` is for a judge alone", policy))
        .cause("a causal model that is trained or sampled has no other ids than its own")
        .hint(format!(
            "leave `{key}` out, and give the data the tokenizer of the checkpoint: \
                 `data.text.tokenizer = {{ dir = {{ path = \"{place}\" }} }}`"
        ))
}

/// Checks that learned positions are those of the data's sequences.
fn reads_length(name: &str, d: &family::Description, from: &Path, data: &Data) -> Result<()> {
    let place = from.display();
    if d.network.learned_positions && d.length != data.length() {
        return Err(Error::usage(format!("`model.{name}`: {place} has learned positions for {} tokens", d.length))
            .cause(format!("the data has sequences of {}", data.length()))
            .hint(match data {
                Data::Text { .. } => format!("`data.text.length = {}`", d.length),
                _ => "take a checkpoint without learned positions, such as LLaMA or Qwen2".to_string(),
            }));
    }
    Ok(())
}

/// The shape of a model as its network is described, all blocks of it.
fn whole(recipe: &Recipe, name: &str, data: &Data, base: &Path) -> Result<Shape> {
    let types = recipe.dtype(name)?;
    let from = match recipe.network(name)? {
        Network::Given(network) => {
            let vocab = data.vocab();
            return Ok(Shape::own(network.clone(), vocab, vocab as u32, data.length()));
        }
        Network::From(from) => checkpoint(from, base)?,
    };
    let (mut d, store) = family::look(&from)?;
    LoadOptions { dtype: types.weights, compute: types.compute, ..LoadOptions::default() }.configure(&mut d.network);
    let place = from.display();
    let model = recipe.model(name)?;
    if let Some(want) = &model.sha256 {
        let is = store.sha256()?;
        if is != *want {
            return Err(Error::input(format!("the weights in {place} are not those of `model.{name}.sha256`"))
                .cause(format!("their sha256 is {is}")));
        }
    }
    let notes = std::mem::take(&mut d.notes);
    goes_with(recipe, name, &d, &from)?;
    let (theirs, policy) = (family::tokenizer(&from)?, recipe.vocabulary(name)?);
    // A student's checkpoint is its teacher's.
    let ignore_extra = recipe.lineage(name)?.last().is_some_and(|root| root.ignore_extra);
    let judge = recipe.eval.is_judge(name) && model.train.steps == 0;
    if judge && d.family.prediction() == Prediction::NextToken && (theirs.is_some() || !policy.is_refuse()) {
        return Ok(Shape { ignore_extra, dtype: types.weights, notes, ..judge_shape(d, from, policy, data)? });
    }
    let (network, mask) = trainable(&d, &from, &model.objective)?;
    let causal = network.shift;
    if causal && !policy.is_refuse() {
        return Err(has_no_other_ids(name, policy.name(), &from));
    }
    reads_length(name, &d, &from, data)?;
    let (ours, length) = (data.tokenizer(), data.length());
    if !policy.is_refuse() {
        let named = |e: Error| Error { message: format!("{place}: {}", e.message), ..e };
        let rows = Rows::find(policy, theirs.as_ref(), &ours, d.vocab, mask).map_err(named)?;
        rows.check(&data.counts(), |id| data.decode(&[id])).map_err(named)?;
        let tokens = ours.vocab_size();
        let own = Shape::own(network, rows.vocab(), tokens as u32, length);
        return Ok(Shape {
            from: Some(from),
            excluded: rows.missing(),
            notes,
            rows: Some((rows, d.vocab)),
            tokens,
            ignore_extra,
            dtype: types.weights,
            ..own
        });
    }
    let same = match theirs {
        Some(theirs) => theirs.to_json()? == ours.to_json()?,
        // Without one beside the weights all that shows is that the ids fit.
        None => ours.vocab_size() <= d.vocab && (causal || mask as usize >= ours.vocab_size()),
    };
    if !same {
        return Err(Error::input(format!("{place} and the data have different tokenizers"))
            .cause(format!("{} tokens there with mask {mask}, {} here", d.vocab, ours.vocab_size()))
            .cause("`vocabulary = \"shared_tokens\"` or \"truncate_padding\" would keep the data's")
            .hint(format!("`data.text.tokenizer = {{ dir = {{ path = \"{place}\" }} }}`")));
    }
    // Rows behind the data's tokens are padding: they have no text, and are never drawn.
    Ok(Shape {
        from: Some(from),
        tokens: data.vocab(),
        excluded: ours.without_text(),
        notes,
        ignore_extra,
        dtype: types.weights,
        ..Shape::own(network, d.vocab, mask, length)
    })
}

/// The shape of a causal checkpoint that judges text.
fn judge_shape(d: family::Description, from: PathBuf, policy: Vocabulary, data: &Data) -> Result<Shape> {
    let place = from.display();
    let Some(theirs) = family::tokenizer(&from)? else {
        return Err(Error::input(format!("{place} has no tokenizer, and a judge reads text"))
            .hint("put its tokenizer.json, or vocab.json with merges.txt, beside the weights"));
    };
    if policy.is_refuse() && theirs.to_json()? != data.tokenizer().to_json()? {
        return Err(Error::input(format!("{place} and the data have different tokenizers"))
            .hint("`vocabulary = \"retokenize\"` lets the judge score the text of the samples, by characters"));
    }
    let Some(start) = d.special.bos.or(d.special.eos) else {
        return Err(Error::input(format!("{place} names neither a start token nor an end token"))
            .cause("a judge's first prediction needs a token in front of it")
            .hint("give `bos_token_id` in its config.json"));
    };
    let length = if d.network.learned_positions { d.length } else { d.length.min(JUDGE_LENGTH) };
    let own = Shape::own(d.network, d.vocab, start, length);
    Ok(Shape { from: Some(from), tokenizer: Some(theirs), ..own })
}

/// The network of a described model as it is trained here, and its mask or start token.
///
/// A causal model reads the token that stands between its texts in front of a text, so that every token of it is predicted.
///
/// # Errors
/// A family that the objective cannot train (input).
fn trainable(d: &Description, from: &Path, objective: &Objective) -> Result<(TransformerConfig, u32)> {
    let (place, family) = (from.display(), d.family.name());
    let cannot = |why: &str, hint: &str| {
        Err(Error::input(format!("{place}: `{}` cannot train a {family} model", objective.name()))
            .cause(why)
            .hint(hint))
    };
    if d.family.prediction() == Prediction::NextToken {
        let Some(start) = d.special.bos.or(d.special.eos) else {
            return Err(Error::input(format!("{place}: its files name no token that a text begins with"))
                .hint("add `bos_token_id` to config.json"));
        };
        return Ok((TransformerConfig { shift: true, shift_output: false, ..d.network.clone() }, start));
    }
    let uniform = !objective.facts().corruption.absorbs();
    if d.family.prediction() == Prediction::Uniform {
        return match uniform {
            true => Ok((d.network.clone(), d.vocab as u32)),
            false => cannot("its noise is uniform", "`objective.elbo = { corruption = \"uniform\" }`, or `dcd`"),
        };
    }
    if uniform {
        return cannot("its noise is another than uniform", "DUO's checkpoints are made for that");
    }
    let Some(mask) = d.special.mask else {
        return cannot("it has no mask token", "masked diffusion, DUO and autoregressive models can be trained");
    };
    let facts = objective.facts();
    if facts.chain.is_some() {
        return cannot("a chain's mask stands behind its tokens", "give the model a `network` of its own");
    }
    match (d.family.prediction(), facts.scores) {
        (Prediction::Score, Some(scaled)) if scaled != d.scale_by_sigma => {
            cannot("its `scale_by_sigma` is another", "`objective.score_entropy.scaled` must be as in its config.json")
        }
        (Prediction::Subs | Prediction::Logits, Some(_)) => cannot("its output is no score", "`objective.elbo = {}`"),
        _ => Ok((d.network.clone(), mask)),
    }
}
