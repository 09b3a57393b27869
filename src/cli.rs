//! The command line: which commands and options there are, and what is said when they are misused. Options choose
//! where, how loud and on which device; what changes a trained result stands in the recipe, or in `--set`, which is
//! recorded.

mod misuse;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::error::nearest;
use crate::eval::metric::Metric;
use crate::gate::GateRule;
use crate::study::device;
use crate::weights::Storage;
pub use misuse::usage_error;

/// Devices that `--device` may name; the build decides which of them exist.
pub const DEVICES: [&str; 6] = ["flex", "ndarray", "cuda", "wgpu", "vulkan", "metal"];

/// Distil many-step diffusion language models into few-step ones, and show what that cost.
#[derive(Debug, Parser)]
#[command(name = "fewstep", version, long_version = long_version(), arg_required_else_help = true)]
#[command(subcommand_required = true, disable_help_subcommand = true, max_term_width = 100)]
#[command(after_help = "Examples:
  fewstep recipe list
  fewstep run tiny
  fewstep sample runs/tiny --steps 8 --trace")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Device to compute on: flex (or cpu), ndarray, cuda or cuda:N, wgpu, vulkan or metal
    #[arg(long, global = true, value_name = "DEVICE", default_value = "flex", value_parser = device)]
    pub device: String,
    /// CPU threads to use [default: all]
    #[arg(long, global = true, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Print no progress, only warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print more detail
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Print the time per operation on stderr at the end
    #[arg(long, global = true, conflicts_with = "quiet")]
    pub profile: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Do what a study still lacks: train, distil, evaluate, report; the same command resumes
    #[command(after_help = "Examples:
  fewstep run tiny
  fewstep run my.toml --only student --device cuda:0
  fewstep run my.toml --set model.student.train.steps=500 --out runs/short")]
    Run {
        /// A recipe file, or the name of a built-in recipe
        recipe: String,
        /// Do only this model and what it needs
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
        /// Directory of the run [default: runs/NAME]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Override a key of the recipe, as in `--set model.student.train.steps=500`; may be repeated
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Train this model again although it is finished, and keep the old one aside; may be repeated
        #[arg(long, value_name = "NAME")]
        retrain: Vec<String>,
    },
    /// Write text with a trained model
    #[command(after_help = "Examples:
  fewstep sample runs/tiny --steps 8 --model student --prompt \"mia has\" --trace
  fewstep sample runs/tiny --infill \"mia has _ apples .\" --temperature 0.8
  fewstep sample models/llada --prompt \"The sun\" --sampler llada --steps 64 --block 32")]
    Sample(Box<Sample>),
    /// Measure quality and speed of the models of a run
    #[command(after_help = "Examples:
  fewstep eval runs/tiny
  fewstep eval runs/tiny --only student --device cuda")]
    Eval {
        /// Directory of a run
        run: PathBuf,
        /// Only this model
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
    },
    /// Search the order of fixed phases in which a model's few steps cost least
    #[command(after_help = "Examples:
  fewstep phases runs/quickstart --model teacher --steps 8
  fewstep phases runs/quickstart --model teacher --steps 4 --period 16 --tries 100")]
    Phases {
        /// Directory of a run
        run: PathBuf,
        /// A masked model of the run that sees everything
        #[arg(long, value_name = "NAME")]
        model: String,
        /// Number of phases, which are the steps of sampling
        #[arg(long, value_name = "K")]
        steps: usize,
        /// Positions after which the phases repeat
        #[arg(long, value_name = "P", default_value_t = 32)]
        period: usize,
        /// Texts of the training data to search on, and held-out ones to compare on
        #[arg(long, value_name = "N", default_value_t = 32)]
        texts: usize,
        /// Changes to try
        #[arg(long, value_name = "N", default_value_t = 200)]
        tries: usize,
        /// Seed of the changes
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Draw tables and plots from results
    #[command(after_help = "Examples:
  fewstep report runs/tiny
  fewstep report runs/tiny/results.json --out reports/tiny")]
    Report {
        /// Directory of a run, or its results.json
        results: PathBuf,
        /// Directory to write to [default: beside the results]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Text or a list to show as "What this shows"; kept as notes.md in the report
        #[arg(long, value_name = "FILE")]
        notes: Option<PathBuf>,
    },
    /// Compare results with a baseline; exit code 1 where quality fell
    #[command(after_help = "Examples:
  fewstep gate runs/tiny --baseline runs/tiny/results.json
  fewstep gate runs/tiny --baseline old.json --model student --steps 4,8 --rule nll=3%
  fewstep gate runs/tiny --baseline old.json --strict --junit gate.xml")]
    Gate {
        /// Directory of a run, or its results.json
        results: PathBuf,
        /// Results to compare with
        #[arg(long, value_name = "RESULTS.JSON")]
        baseline: PathBuf,
        #[command(flatten)]
        selected: Selected,
        /// Allow this much: `nll=5%`, `unique=0.1`, or a table as in gate.rules; may be repeated
        #[arg(long, value_name = "RULE", value_parser = rule)]
        rule: Vec<GateRule>,
        /// Print every comparison
        #[arg(long)]
        details: bool,
        /// Close the gate on everything inconclusive, speed among it
        #[arg(long)]
        strict: bool,
        /// Compare although the data, its length, vocabulary or judge differ
        #[arg(long)]
        allow_mismatch: bool,
        /// Also write the verdicts as JUnit XML
        #[arg(long, value_name = "FILE")]
        junit: Option<PathBuf>,
    },
    /// Write what a gate compares with into a small file, to lie beside the code that it guards
    #[command(after_help = "Examples:
  fewstep baseline runs/tiny --out baseline.json.gz
  fewstep baseline runs/tiny --out student.json.gz --model student --steps 4,8")]
    Baseline {
        /// Directory of a run, or its results.json
        results: PathBuf,
        /// File to write; packed where its name ends in .gz
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        selected: Selected,
    },
    /// Write a model in the layout other tools read: weights, tokenizer, recipe
    #[command(after_help = "Examples:
  fewstep export runs/tiny --out student
  fewstep export runs/tiny --model teacher --out teacher
  fewstep export runs/tiny/export/student --dtype int8 --out small")]
    Export {
        /// Directory of a run, or of one model
        run: PathBuf,
        /// Which model of the run [default: the last that writes text, as the recipe lists them]
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
        /// Directory to write to; must not exist
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Type of the weights: kept, f32, f16, bf16 or int8 [default: the recipe's, or kept]
        #[arg(long, value_name = "DTYPE", value_parser = storage)]
        dtype: Option<Storage>,
        /// Of a model with adapters write these alone, as PEFT reads them, not the merged network
        #[arg(long)]
        adapters: bool,
    },
    /// Show what a model holds: tensors, metadata, hash, values that are not finite; of a public one, whether it can be loaded
    #[command(after_help = "Examples:
  fewstep inspect runs/tiny
  fewstep inspect runs/tiny/export/student --against expected.safetensors")]
    Inspect {
        /// A run, an exported model, a public checkpoint (also hf://owner/name), or a .safetensors file
        path: PathBuf,
        /// Which model of the run [default: the last that writes text, as the recipe lists them]
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
        /// Also run the model on this file's `input_ids` (and `timesteps`) and compare with its `logits`
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
    },
    /// List, copy, check and compare recipes
    #[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
    #[command(after_help = "Examples:
  fewstep recipe list
  fewstep recipe copy tiny my.toml
  fewstep recipe check my.toml")]
    Recipe {
        #[command(subcommand)]
        command: RecipeCommand,
    },
    /// Print a script that completes commands and options in a shell
    #[command(after_help = "Examples:
  fewstep completions bash
  fewstep completions zsh")]
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    #[command(after_help = "Examples:
  fewstep man
  fewstep man --out man1")]
    Man {
        /// Directory to write to; must not exist
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// Which rows and metrics of a baseline a gate reads.
#[derive(Debug, Clone, Args)]
pub struct Selected {
    /// This model; may be repeated [default: the students]
    #[arg(long, value_name = "NAME")]
    pub model: Vec<String>,
    /// Every model
    #[arg(long, conflicts_with = "model")]
    pub all_models: bool,
    /// Rows of these numbers of steps [default: all]
    #[arg(long, value_name = "K,...", value_delimiter = ',')]
    pub steps: Vec<usize>,
    /// This metric; may be repeated [default: all that have a rule]
    #[arg(long, value_name = "METRIC", value_parser = metric)]
    pub metric: Vec<Metric>,
}

/// What to do with recipes.
#[derive(Debug, Subcommand)]
pub enum RecipeCommand {
    /// List the recipes inside this binary
    #[command(after_help = "Examples:
  fewstep recipe list
  fewstep recipe list --json")]
    List,
    /// Copy a built-in recipe to a file; never overwrites
    #[command(after_help = "Examples:
  fewstep recipe copy tiny
  fewstep recipe copy tiny my.toml")]
    Copy {
        /// Name of a built-in recipe
        name: String,
        /// File to write [default: NAME.toml]
        to: Option<PathBuf>,
    },
    /// Check a recipe without training: keys, contradictions, memory
    #[command(after_help = "Examples:
  fewstep recipe check my.toml
  fewstep recipe check tiny --set model.student.train.batch=64")]
    Check {
        /// A recipe file, or the name of a built-in recipe
        recipe: String,
        /// Override a key of the recipe, as in `--set model.student.train.steps=500`; may be repeated
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Explain the keys of a recipe: meaning, values and default
    #[command(after_help = "Examples:
  fewstep recipe explain
  fewstep recipe explain train.lr
  fewstep recipe explain model.student.objective.sdtt")]
    Explain {
        /// A key, whole or its last parts; without it, the tables of a recipe
        key: Option<String>,
    },
    /// Print a JSON schema of recipes, for editors and validators
    #[command(after_help = "Examples:
  fewstep recipe schema
  fewstep recipe schema --quiet")]
    Schema,
    /// Show which keys differ between two recipes
    #[command(after_help = "Examples:
  fewstep recipe diff tiny my.toml
  fewstep recipe diff runs/a/recipe.toml runs/b/recipe.toml")]
    Diff {
        /// A recipe file, or the name of a built-in recipe
        old: String,
        /// Another one
        new: String,
    },
}

/// How to write text. What is not given is as the recipe has it.
#[derive(Debug, Clone, Args)]
pub struct Sample {
    /// Directory of a run, of an export, or with a public checkpoint (also hf://owner/name)
    pub dir: PathBuf,
    /// Which model of the run [default: the last that writes text, as the recipe lists them]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Denoising steps
    #[arg(long, value_name = "K", value_parser = from_one)]
    pub steps: Option<usize>,
    /// How the steps are walked, as a recipe has it: left_to_right, parallel, '{ order = { blocks = 8 } }',
    /// '{ switch = { block = 8, tolerance = 0.1 } }' [default: the order it was trained in]
    #[arg(long, value_name = "HOW", conflicts_with = "beam")]
    pub decode: Option<String>,
    /// How many texts
    #[arg(short = 'n', value_name = "N", default_value = "4", value_parser = from_one)]
    pub n: usize,
    /// Seed of the random numbers: the same one writes the same texts on the same kind of device (a GPU draws others than
    /// a CPU)
    #[arg(long, value_name = "S", default_value = "0", value_parser = from_zero)]
    pub seed: u64,
    /// Text to go on from
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "infill")]
    pub prompt: Option<String>,
    /// Text with `_` or `·` for each token to fill in
    #[arg(long, value_name = "TEMPLATE", allow_hyphen_values = true, value_parser = template)]
    pub infill: Option<String>,
    /// Divide logits by this; below 1 sharpens, 0 always takes the likeliest token
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = not_negative)]
    pub temperature: Option<f64>,
    /// Draw among the K likeliest tokens only
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = from_one)]
    pub top_k: Option<usize>,
    /// Draw only among the likeliest tokens whose probabilities add up to P
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = probability)]
    pub top_p: Option<f64>,
    /// Beams of a beam search instead of random draws; autoregressive models only
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = beams)]
    #[arg(conflicts_with_all = ["steps", "seed", "infill", "temperature", "top_k", "top_p", "trace"])]
    pub beam: Option<usize>,
    /// Exponent of the length that beam scores are divided by
    #[arg(long, value_name = "A", allow_negative_numbers = true, value_parser = finite, requires = "beam")]
    pub length_penalty: Option<f64>,
    /// Draw N candidates for each text and print the one most similar to the others; costs N times the passes
    #[arg(long, value_name = "N", value_parser = candidates, conflicts_with = "beam")]
    pub mbr: Option<usize>,
    /// Show the text after every step, and write trace.html (or the next free name)
    #[arg(long)]
    pub trace: bool,
    /// Print texts as they are; else characters that a terminal would obey are escaped
    #[arg(long)]
    pub raw: bool,
    #[command(flatten)]
    pub public: Public,
}

/// What only a directory with a public checkpoint can be asked for.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Public checkpoints (--length and --stop-* for every model)")]
pub struct Public {
    /// A published sampler (mdlm, sedd_analytic, duo, llada, fast_dllm, dream, dllm, bd3lm, ...) instead of the exact one
    #[arg(long, value_name = "NAME", conflicts_with = "beam")]
    pub sampler: Option<String>,
    /// Tokens of a text, the prompt among them [default: the prompt and 128; of a model of fewstep's its training length,
    /// beyond which a window slides]
    #[arg(long, value_name = "L", value_parser = from_one, conflicts_with = "beam")]
    pub length: Option<usize>,
    /// Write blocks of so many tokens from left to right
    #[arg(long, value_name = "B", value_parser = from_one, conflicts_with = "beam")]
    pub block: Option<usize>,
    /// Confidence (fast_dllm) or factor (fast_dllm_factor) from which tokens are taken
    #[arg(long, value_name = "X", value_parser = not_negative, requires = "sampler")]
    pub threshold: Option<f64>,
    /// How readily the remdm samplers mask again
    #[arg(long, value_name = "X", value_parser = probability, requires = "sampler")]
    pub eta: Option<f64>,
    /// End a text of bd3lm's, or of a model of fewstep's, when its last tokens have less unigram entropy than this, in nats
    /// (published: 4)
    #[arg(long, value_name = "NATS", value_parser = positive, conflicts_with = "beam")]
    pub stop_entropy: Option<f64>,
    /// How many tokens those are [default: 256]
    #[arg(long, value_name = "W", value_parser = from_one, requires = "stop_entropy")]
    pub stop_window: Option<usize>,
    /// Tokenizer, where the checkpoint has none: a tokenizer.json, or a directory that holds one
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Read prompts and write texts as token ids
    #[arg(long, conflicts_with = "tokenizer")]
    pub ids: bool,
    /// Read weights that are not finite numbers
    #[arg(long)]
    pub allow_non_finite: bool,
    /// Pass over tensors that the model does not have
    #[arg(long)]
    pub ignore_extra: bool,
}

impl Public {
    /// The first of these options that is given.
    pub fn given(&self) -> Option<&'static str> {
        [
            ("--sampler", self.sampler.is_some()),
            ("--block", self.block.is_some()),
            ("--threshold", self.threshold.is_some()),
            ("--eta", self.eta.is_some()),
            ("--tokenizer", self.tokenizer.is_some()),
            ("--ids", self.ids),
            ("--allow-non-finite", self.allow_non_finite),
            ("--ignore-extra", self.ignore_extra),
        ]
        .into_iter()
        .find(|(_, given)| *given)
        .map(|(name, _)| name)
    }
}

fn storage(text: &str) -> Result<Storage, String> {
    let named = Storage::ALL.into_iter().find(|s| s.name() == text);
    named.ok_or_else(|| match nearest(text, Storage::ALL.map(Storage::name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "it is one of kept, f32, f16, bf16, int8".to_string(),
    })
}

fn from_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "it must be a whole number from 1".to_string())
}

fn from_zero(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("it must be a whole number from 0 to {}", u64::MAX))
}

fn threads(text: &str) -> Result<usize, String> {
    from_one(text).ok().filter(|n| *n <= 1024).ok_or_else(|| "it must be a whole number from 1 to 1024".to_string())
}

fn beams(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=1024).contains(n))
        .ok_or_else(|| "it must be a whole number from 1 to 1024".to_string())
}

fn candidates(text: &str) -> Result<usize, String> {
    beams(text).ok().filter(|n| *n > 1).ok_or_else(|| "it must be a whole number from 2 to 1024".to_string())
}

fn finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite()).ok_or_else(|| "it must be a number".to_string())
}

fn positive(text: &str) -> Result<f64, String> {
    finite(text).ok().filter(|x| *x > 0.0).ok_or_else(|| "it must be a number above 0".to_string())
}

fn not_negative(text: &str) -> Result<f64, String> {
    finite(text).ok().filter(|x| *x >= 0.0).ok_or_else(|| "it must be a number, 0 or above".to_string())
}

fn probability(text: &str) -> Result<f64, String> {
    positive(text).ok().filter(|x| *x <= 1.0).ok_or_else(|| "it must be above 0 and at most 1".to_string())
}

fn template(text: &str) -> Result<String, String> {
    match text.contains(['_', '·']) {
        true => Ok(text.to_string()),
        false => Err("it has no word to fill in; write `_` for each".to_string()),
    }
}

/// The metric of this name.
fn metric(name: &str) -> Result<Metric, String> {
    serde_json::from_value(serde_json::Value::String(name.to_string())).map_err(|_| {
        let known = || Metric::all().map(|metric| metric.facts().key);
        match nearest(name, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it is one of {}", known().collect::<Vec<_>>().join(", ")),
        }
    })
}

/// `METRIC=SIZE` in the metric's own unit, `METRIC=SIZE%` of the baseline's mean, or a table as in a recipe.
fn rule(text: &str) -> Result<GateRule, String> {
    #[derive(serde::Deserialize)]
    struct Given {
        rule: GateRule,
    }
    let form = |why: &str| {
        format!(
            "{why}; write `nll=5%` for a share of the baseline, `unique=0.1` in the metric's own unit, or a table as in `gate.rules`"
        )
    };
    if text.trim_start().starts_with('{') {
        return toml::from_str::<Given>(&format!("rule = {text}"))
            .map(|given| given.rule)
            .map_err(|e| form(e.message()));
    }
    let (name, size) = text.split_once('=').ok_or_else(|| form("it has no `=`"))?;
    let (size, share) = size.trim().strip_suffix('%').map_or((size.trim(), false), |size| (size.trim(), true));
    let size: f64 = size.parse().map_err(|_| form("its size is not a number"))?;
    let rule = GateRule::of(metric(name.trim())?);
    Ok(match share {
        true => GateRule { relative: Some(size / 100.0), ..rule },
        false => GateRule { absolute: Some(size), ..rule },
    })
}

/// What the processor and a GPU are called elsewhere.
const ELSEWHERE: [(&str, &str); 5] =
    [("cpu", "flex"), ("host", "flex"), ("processor", "flex"), ("gpu", "cuda"), ("nvidia", "cuda")];

fn device(text: &str) -> Result<String, String> {
    let (name, index) = text.split_once(':').map_or((text, None), |(name, index)| (name, Some(index)));
    let indexed = index.is_none_or(|i| name == "cuda" && i.parse::<usize>().is_ok() && !i.starts_with('+'));
    // Results name the device that it is.
    if text == "cpu" {
        return Ok("flex".to_string());
    }
    let elsewhere = ELSEWHERE.iter().find(|(other, _)| name.eq_ignore_ascii_case(other)).map(|(_, ours)| *ours);
    match DEVICES.contains(&name) && indexed {
        true => Ok(text.to_string()),
        false => match elsewhere.or_else(|| nearest(name, DEVICES)).filter(|near| *near != name) {
            Some(near) => Err(format!("did you mean `{near}`?")),
            None => Err("it is one of flex, ndarray, cuda, cuda:0, wgpu, vulkan, metal".to_string()),
        },
    }
}

/// The features of this build, in the order of Cargo.toml.
fn features() -> String {
    let all = [
        ("flex", cfg!(feature = "flex")),
        ("ndarray", cfg!(feature = "ndarray")),
        ("cuda", cfg!(feature = "cuda")),
        ("cuda-nvrtc", cfg!(feature = "cuda-nvrtc")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("metal", cfg!(feature = "metal")),
        ("faults", cfg!(feature = "faults")),
    ];
    let on: Vec<&str> = all.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    if on.is_empty() { "none".to_string() } else { on.join(" ") }
}

/// What `--version` prints below the name; clap keeps it as long as the process lives.
fn long_version() -> &'static str {
    let text = format!(
        "{}\ncommit {}\nburn {}\nfeatures: {}\ndevices: {}",
        env!("CARGO_PKG_VERSION"),
        env!("FEWSTEP_COMMIT"),
        env!("FEWSTEP_BURN"),
        features(),
        device::compiled().join(" ")
    );
    Box::leak(text.into_boxed_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn said(line: &str) -> String {
        match parse(line) {
            Ok(cli) => panic!("`{line}` was understood: {cli:?}"),
            Err(e) => usage_error(&e).to_string(),
        }
    }

    /// Every command with its full name.
    fn all(command: &clap::Command, name: &str, into: &mut Vec<(String, clap::Command)>) {
        into.push((name.to_string(), command.clone()));
        for sub in command.get_subcommands() {
            all(sub, &format!("{name} {}", sub.get_name()), into);
        }
    }

    fn commands() -> Vec<(String, clap::Command)> {
        let mut list = Vec::new();
        all(&Cli::command(), "fewstep", &mut list);
        list
    }

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_ends_its_help_in_two_or_three_examples_that_parse() {
        for (name, command) in commands() {
            let help = command.get_after_help().map(|h| h.to_string()).unwrap_or_default();
            let examples: Vec<&str> = help.lines().filter_map(|l| l.strip_prefix("  ")).collect();
            assert!((2..=3).contains(&examples.len()), "{name}: {examples:?}");
            for example in examples {
                // Quoted words stay one argument, as in a shell.
                let words: Vec<String> = example
                    .split('"')
                    .enumerate()
                    .flat_map(|(n, part)| match n % 2 {
                        0 => part.split_whitespace().map(str::to_string).collect::<Vec<_>>(),
                        _ => vec![part.to_string()],
                    })
                    .collect();
                assert!(example.starts_with(&name), "{name}: {example}");
                Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{example}: {e}"));
            }
        }
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        let cli = parse("fewstep --json run a.toml --device cuda:1 --threads 3 -v --set a=1 --set b.c=x").unwrap();
        assert!(cli.global.json && cli.global.verbose && !cli.global.quiet);
        assert_eq!((cli.global.device.as_str(), cli.global.threads), ("cuda:1", Some(3)));
        match cli.command {
            Command::Run { recipe, set, .. } => assert_eq!((recipe.as_str(), set.len()), ("a.toml", 2)),
            other => panic!("{other:?}"),
        }
        assert_eq!(parse("fewstep recipe list").unwrap().global.device, "flex");
    }

    #[test]
    fn only_commands_that_read_a_recipe_take_set() {
        for line in ["run x", "recipe check x"] {
            assert!(parse(&format!("fewstep {line} --set a=1")).is_ok());
        }
        assert!(said("fewstep eval x --set a=1").starts_with("error: unknown option `--set` of `fewstep eval`\n"));
    }

    #[test]
    fn a_misspelt_command_or_option_is_told_the_nearest_one() {
        for (line, expected) in [
            ("fewstep rnu x", "error: unknown command `rnu`\n\nhint: did you mean `fewstep run`?"),
            ("fewstep smaple x", "error: unknown command `smaple`\n\nhint: did you mean `fewstep sample`?"),
            ("fewstep train x", "error: unknown command `train`\n\nhint: did you mean `fewstep run`?"),
            ("fewstep xyzzy", "error: unknown command `xyzzy`\n\nhint: `fewstep --help` shows what there is"),
            ("fewstep tiny", "error: unknown command `tiny`\n\nhint: did you mean `fewstep run tiny`?"),
            (
                "fewstep recipe show",
                "error: unknown command `show`\n\nhint: `fewstep recipe --help` shows what there is",
            ),
            (
                "fewstep run tiny --resume",
                "error: unknown option `--resume` of `fewstep run`\n\nhint: leave it out: the same command resumes",
            ),
            (
                "fewstep run tiny --batch 64",
                "error: unknown option `--batch` of `fewstep run`\n\nhint: `--set KEY=VALUE` sets a key of the recipe; \
                 `fewstep recipe explain batch` tells which",
            ),
            ("fewstep recipe lst", "error: unknown command `lst`\n\nhint: did you mean `fewstep recipe list`?"),
            (
                "fewstep sample x --stpes 3",
                "error: unknown option `--stpes` of `fewstep sample`\n\nhint: did you mean `--steps`?",
            ),
        ] {
            assert_eq!(said(line), expected);
        }
    }

    #[test]
    fn every_verb_with_its_last_letter_doubled_is_told_the_verb() {
        for (name, _) in commands().into_iter().filter(|(name, _)| name.contains(' ')) {
            let typed = format!("{name}{}", name.chars().last().unwrap());
            assert!(said(&typed).ends_with(&format!("hint: did you mean `{name}`?")), "{typed}: {}", said(&typed));
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused_with_the_reason() {
        for (line, expected) in [
            (
                "fewstep sample x --temperature -1",
                "`--temperature` cannot be `-1`\n\nhint: it must be a number, 0 or above",
            ),
            (
                "fewstep sample x --temperature nan",
                "`--temperature` cannot be `nan`\n\nhint: it must be a number, 0 or above",
            ),
            ("fewstep sample x --top-p 1.5", "`--top-p` cannot be `1.5`\n\nhint: it must be above 0 and at most 1"),
            ("fewstep sample x -n 0", "`-n` cannot be `0`\n\nhint: it must be a whole number from 1"),
            (
                "fewstep sample x --infill abc",
                "`--infill` cannot be `abc`\n\nhint: it has no word to fill in; write `_` for each",
            ),
            ("fewstep eval x --device host", "`--device` cannot be `host`\n\nhint: did you mean `flex`?"),
            ("fewstep eval x --device GPU", "`--device` cannot be `GPU`\n\nhint: did you mean `cuda`?"),
            ("fewstep eval x --device cdua", "`--device` cannot be `cdua`\n\nhint: did you mean `cuda`?"),
            (
                "fewstep eval x --device cuda:x",
                "`--device` cannot be `cuda:x`\n\nhint: it is one of flex, ndarray, cuda, cuda:0, wgpu, vulkan, metal",
            ),
            ("fewstep run x --out", "`--out` needs a value\n\nhint: write `--out <DIR>`"),
            (
                "fewstep gate x",
                "`fewstep gate` lacks `--baseline <RESULTS.JSON>`\n\nhint: `fewstep gate --help` shows examples",
            ),
            ("fewstep eval x -q -v", "`--quiet` and `--verbose` exclude each other\n\nhint: keep one of them"),
        ] {
            assert_eq!(said(line), format!("error: {expected}"), "{line}");
        }
    }

    #[test]
    fn the_long_version_names_the_tensor_library_and_the_features() {
        let text = Cli::command().render_long_version();
        let burn = text.lines().find_map(|line| line.strip_prefix("burn ")).unwrap_or_default();
        assert!(text.contains(env!("CARGO_PKG_VERSION")) && text.contains("features: "), "{text}");
        assert!(include_str!("../Cargo.lock").contains(&format!("name = \"burn\"\nversion = \"{burn}\"")), "{text}");
    }

    #[test]
    fn help_fits_100_columns() {
        for (name, mut command) in commands() {
            let help = command.render_long_help().to_string();
            assert!(help.lines().all(|l| l.chars().count() <= 100), "{name}:\n{help}");
        }
    }
}
