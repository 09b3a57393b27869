//! Low-rank adapters (LoRA; Hu et al. 2021): a network whose weights W stay, plus scale B A beside some projections.
//!
//! y = W x + (alpha / r) B A x, A [r, in] Kaiming-uniform and B [out, r] zero at first, as PEFT starts them, so that the
//! network is its teacher. W is shared with whoever else holds it (tensors are reference counted) and stays outside of
//! autodiff: it has no gradient, no moments, no place in a checkpoint. The term is computed beside the projection and not as
//! a sum W + scale B A, which the way back would keep for every block: a second copy of the weights.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::module::Param;
use burn::prelude::*;
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::config::TransformerConfig;
use super::super::params::{self, Named};
use super::{Adapter, Dense, Transformer};
use crate::error::{Error, Result, nearest, whole_within, within};
use crate::rng::{StepRng, Stream};
use crate::weights::{HostTensor, match_shapes};

/// Path element of a projection's adapters; nothing else in a network has it.
const PATH: &str = ".lora.";

/// What is adapted, and how much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank r of each term.
    pub rank: usize,
    /// The term is scaled by alpha / r.
    pub alpha: f64,
    /// Modules of every block by the family's names (`q_proj`, `v_proj`, ...); default: all of its projections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<String>>,
}

impl LoraConfig {
    /// Checks ranges; `key` is the dotted place of this table in the recipe.
    ///
    /// # Errors
    /// A setting out of range, or an empty list of targets (usage).
    pub fn validate(&self, key: &str) -> Result<()> {
        whole_within(&format!("{key}.rank"), self.rank, 1..=4096)?;
        within(&format!("{key}.alpha"), self.alpha, 1e-6..=1e6)?;
        if self.targets.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::usage(format!("`{key}.targets` names no module"))
                .hint("leave it out to adapt every projection of the blocks"));
        }
        Ok(())
    }

    /// alpha / r.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// The sites of a network that it names, out of all of them; `key` is the table's place.
    ///
    /// # Errors
    /// One of `targets` that is not a module (usage), with the list of names.
    pub fn plan(&self, key: &str, all: &[Site]) -> Result<Plan> {
        let mut known: Vec<&str> = Vec::new();
        all.iter().for_each(|s| {
            if !known.contains(&s.target.as_str()) {
                known.push(&s.target);
            }
        });
        if let Some(name) = self.targets.iter().flatten().find(|t| !known.contains(&t.as_str())) {
            let error =
                Error::usage(format!("`{key}.targets` names `{name}`, which is not a projection of this model"))
                    .cause(format!("its projections are {}", known.join(", ")));
            return Err(match nearest(name, known.iter().copied()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint("leave `targets` out to adapt all of them"),
            });
        }
        let wanted = |s: &&Site| self.targets.as_ref().is_none_or(|t| t.contains(&s.target));
        let sites: Vec<Site> = all.iter().filter(wanted).cloned().collect();
        if let Some(site) = sites.iter().find(|s| self.rank > s.width.min(s.inputs)) {
            let size = site.width.min(site.inputs);
            return Err(Error::usage(format!("`{key}.rank` is {}, and `{}` has rank {size}", self.rank, site.target))
                .hint(format!("`{key}.rank = {size}` at most")));
        }
        Ok(Plan { config: self.clone(), sites })
    }
}

/// A projection of a block as it is computed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projection {
    Qkv,
    Out,
    Up,
    Gate,
    Down,
}

impl Projection {
    /// All of them, in the order of a block.
    pub const ALL: [Projection; 5] =
        [Projection::Qkv, Projection::Out, Projection::Up, Projection::Gate, Projection::Down];

    /// Its path inside a block.
    pub fn path(self) -> &'static str {
        match self {
            Projection::Qkv => "attention.qkv",
            Projection::Out => "attention.out",
            Projection::Up => "mlp.up",
            Projection::Gate => "mlp.gate",
            Projection::Down => "mlp.down",
        }
    }

    /// Its inputs and outputs, or none where the network has no such projection.
    pub fn shape(self, config: &TransformerConfig) -> Option<[usize; 2]> {
        let (d, f) = (config.dim, config.hidden());
        match self {
            Projection::Qkv => Some([d, config.packed()]),
            Projection::Out => Some([config.heads * config.head_dim(), d]),
            Projection::Up => Some([d, f]),
            Projection::Gate => config.activation.gated().then_some([d, f]),
            Projection::Down => Some([f, d]),
        }
    }
}

/// A module that can be adapted: the columns of a projection that are one matrix for the family.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    pub block: usize,
    pub projection: Projection,
    /// Its columns in the projection.
    pub from: usize,
    pub width: usize,
    pub inputs: usize,
    /// The name that `targets` calls it by.
    pub target: String,
    /// The name of the module in the whole model.
    pub module: String,
}

/// The adapters of one network.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub config: LoraConfig,
    pub sites: Vec<Site>,
}

impl Plan {
    /// The path of each site's adapter: its place in the network, by number within the projection.
    pub fn paths(&self) -> Vec<String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let path = |s: &Site| {
            let owner = format!("blocks.{}.{}", s.block, s.projection.path());
            let n = counts.entry(owner.clone()).or_insert(0);
            *n += 1;
            format!("{owner}{PATH}{}", *n - 1)
        };
        self.sites.iter().map(path).collect()
    }

    /// Parameters of all adapters.
    pub fn parameters(&self) -> u128 {
        self.sites.iter().map(|s| (self.config.rank * (s.inputs + s.width)) as u128).sum()
    }

    /// A and B of every site as a training starts with them: a function of `seed` and the module's name.
    pub fn initial(&self, seed: u64) -> Named {
        let rank = self.config.rank;
        let mut named = Named::new();
        for (site, path) in self.sites.iter().zip(self.paths()) {
            // Kaiming's uniform law with a = sqrt(5), PEFT's: the bound is 1 / sqrt(in).
            let bound = 1.0 / (site.inputs as f64).sqrt();
            let mut rng = StepRng::new(seed).at(params::param_id(&site.module).val(), Stream::Init);
            let a = (0..rank * site.inputs).map(|_| rng.random_range(-bound..bound) as f32).collect();
            named.insert(format!("{path}.a"), HostTensor { shape: vec![rank, site.inputs], data: a });
            let b = HostTensor { shape: vec![site.width, rank], data: vec![0.0; site.width * rank] };
            named.insert(format!("{path}.b"), b);
        }
        named
    }

    fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let rank = self.config.rank;
        let pair = |(s, path): (&Site, String)| {
            [(format!("{path}.a"), vec![rank, s.inputs]), (format!("{path}.b"), vec![s.width, rank])]
        };
        self.sites.iter().zip(self.paths()).flat_map(pair).collect()
    }
}

/// Whether the parameter at `path` is one of an adapter.
pub fn is_adapter(path: &str) -> bool {
    path.contains(PATH)
}

impl Transformer {
    /// The same network, its weights shared and without gradients, with the given adapters on `device`.
    ///
    /// # Errors
    /// Adapters that are not those of the plan (input).
    pub fn with_adapters(&self, plan: &Plan, adapters: &Named, place: &str, device: &Device) -> Result<Self> {
        let found = adapters.iter().map(|(name, t)| (name.clone(), t.shape.clone())).collect();
        match_shapes(&plan.shapes(), &found, false)
            .map_err(|e| Error { message: format!("{place}: {}", e.message), ..e })?;
        let mut model = burn::module::Module::valid(self);
        let parameter = |name: String| {
            let host = &adapters[&name];
            let value = Tensor::from_data(TensorData::new(host.data.clone(), host.shape.clone()), device);
            Param::initialized(params::param_id(&name), value).set_require_grad(device.is_autodiff())
        };
        for (site, path) in plan.sites.iter().zip(plan.paths()) {
            let (a, b) = (parameter(format!("{path}.a")), parameter(format!("{path}.b")));
            let adapter = Adapter { a, b, scale: plan.config.scale(), from: site.from };
            model.projection(site.block, site.projection).lora.push(adapter);
        }
        Ok(model)
    }

    /// Whether the parameter at `path` is trained: all of them, or only adapters where there are any.
    pub fn trains(&self, path: &str) -> bool {
        !self.has_adapters() || is_adapter(path)
    }

    /// The parameters that are trained, on the host.
    pub fn trained(&self) -> Named {
        params::export_where(self, |path| self.trains(path))
    }

    /// Whether it has adapters.
    pub fn has_adapters(&self) -> bool {
        let any = |b: &super::Block| {
            let gate = b.mlp.gate.as_ref().is_some_and(|g| !g.lora.is_empty());
            gate || [&b.attention.qkv, &b.attention.out, &b.mlp.up, &b.mlp.down].iter().any(|d| !d.lora.is_empty())
        };
        self.blocks.iter().any(any)
    }

    /// The plain network with every term added to its weight, one after the other: in f32, then in the weight's own type.
    pub fn merged(&self) -> Self {
        let mut model = burn::module::Module::valid(self);
        for i in 0..model.blocks.len() {
            for projection in Projection::ALL.into_iter().filter(|p| p.shape(&self.config).is_some()) {
                merge(model.projection(i, projection));
            }
        }
        model
    }

    fn projection(&mut self, block: usize, projection: Projection) -> &mut Dense {
        let block = &mut self.blocks[block];
        match (projection, block.mlp.gate.as_mut()) {
            (Projection::Qkv, _) => &mut block.attention.qkv,
            (Projection::Out, _) => &mut block.attention.out,
            (Projection::Up, _) => &mut block.mlp.up,
            (Projection::Down, _) => &mut block.mlp.down,
            (Projection::Gate, Some(gate)) => gate,
            (Projection::Gate, None) => panic!("a feed-forward half without a gate"),
        }
    }

    /// The blocks `keep` of it alone, in that order; weights are shared.
    pub fn with_layers(&self, keep: &[usize]) -> Self {
        let config = self.config.with_layers(keep);
        let blocks = keep.iter().map(|i| self.blocks[*i].clone()).collect();
        params::renamed(Transformer { blocks, config, ..self.clone() })
    }
}

fn merge(dense: &mut Dense) {
    let terms = std::mem::take(&mut dense.lora);
    if terms.is_empty() {
        return;
    }
    let id = dense.weight.id;
    let mut weight = dense.weight.val();
    let (dtype, d_in) = (weight.dtype(), weight.dims()[0]);
    for term in terms {
        let (a, b) = (term.a.val(), term.b.val());
        let at: [Range<usize>; 2] = [0..d_in, term.from..term.from + b.dims()[0]];
        let change = a.transpose().matmul(b.transpose()).mul_scalar(term.scale);
        let part = weight.clone().slice(at.clone()).cast(change.dtype()) + change;
        weight = weight.slice_assign(at, part.cast(dtype));
    }
    dense.weight = Param::initialized(id, weight);
}

/// Checks a subset of the blocks of a network; `key` is the recipe's key.
///
/// # Errors
/// No block, one that is not there or not above the one before it, and subsets that would move a block to where the network
/// treats it as another kind: first blocks without a norm, local windows (usage).
pub fn check_layers(keep: &[usize], config: &TransformerConfig, key: &str) -> Result<()> {
    let ascending = keep.windows(2).all(|w| w[0] < w[1]);
    if keep.is_empty() || !ascending || keep[keep.len() - 1] >= config.layers {
        let last = config.layers.saturating_sub(1);
        return Err(Error::usage(format!(
            "`{key}` must be ascending numbers of blocks from 0 to {last}, but it is {keep:?}"
        ))
        .hint(match last {
            0 => format!("the network has one block: `{key} = [0]`, or leave `keep_layers` out"),
            _ => format!("for example `{key} = [0, {last}]`"),
        }));
    }
    if config.embedding_norm && keep[0] != 0 {
        return Err(Error::usage(format!("`{key}` must begin with 0: block 0 of this model has no first norm"))
            .hint(format!("for example `{key} = [0]`")));
    }
    // Where kinds are listed, each block keeps its own.
    if let Some(local) = config.local.as_ref().filter(|local| local.global.is_none()) {
        let every = local.every;
        let kind = |i: usize| i.is_multiple_of(every);
        if let Some((to, from)) = keep.iter().enumerate().find(|(to, from)| kind(*to) != kind(**from)) {
            return Err(Error::usage(format!("`{key}` makes block {from} block {to}, which sees another window"))
                .hint(format!("blocks 0, {every}, {}, ... see everything, and must stay at such places", 2 * every)));
        }
    }
    Ok(())
}
