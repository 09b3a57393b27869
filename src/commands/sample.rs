//! `sample`: text from a model of a run, from an exported directory or from a public checkpoint, with prompts, infills and
//! every decoding option.

mod foreign;

use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::prelude::Device;
use serde_json::json;

use super::inspect::family::is_foreign;
use crate::checkpoint::{self, LoadedModel};
use crate::cli;
use crate::data::documents;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::method::Vectors;
use crate::model::draw::Filter;
use crate::model::{Denoise, Transformer, family};
use crate::process::order::OrderConfig;
use crate::sample::family::{EntropyStop, STOP_WINDOW};
use crate::sample::given::{filled, given};
use crate::sample::{DecodeConfig, Process, SampleSpec, Samples, beam, beyond, mbr};
use crate::study::ask;
use crate::study::stored::model_dir;
use crate::term;

/// What the command line asks for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub path: PathBuf,
    pub model: Option<String>,
    pub steps: Option<usize>,
    /// How the steps are walked, in the words of a recipe.
    pub decode: Option<String>,
    pub n: usize,
    pub seed: u64,
    pub prompt: Option<String>,
    pub infill: Option<String>,
    pub filter: Filter,
    /// The temperature where it was given: some samplers have another default than 1, and some have none.
    pub temperature: Option<f64>,
    pub beam: Option<usize>,
    /// Candidates of which each printed text is the one that the others resemble most.
    pub mbr: Option<usize>,
    pub length_penalty: f64,
    pub trace: bool,
    /// Texts as they are, with the characters that a terminal obeys.
    pub raw: bool,
    pub public: cli::Public,
    pub json: bool,
}

/// Texts that are drawn before the first of them are shown, a whole number of batches.
const TOGETHER: usize = 16;

impl Request {
    /// What is given of a text: a prompt, and a template with gaps.
    fn texts(&self) -> (Option<&str>, Option<&str>) {
        (self.prompt.as_deref(), self.infill.as_deref())
    }

    /// Candidates of each text that is printed.
    fn candidates(&self) -> usize {
        self.mbr.unwrap_or(1)
    }

    /// Samples drawn together: those of all texts, or all their candidates, up to a batch.
    fn batch(&self) -> usize {
        self.n.saturating_mul(self.candidates()).clamp(1, 16)
    }

    /// What is printed of what was drawn, where candidates are compared by the part of them that `text` gives.
    fn chosen(&self, drawn: Samples, text: &dyn Fn(&[u32]) -> Vec<u32>) -> Samples {
        match self.mbr {
            Some(candidates) => mbr::choose(drawn, candidates, text),
            None => drawn,
        }
    }
}

/// The text of token ids, as its tokenizer has it.
type Decode<'a> = &'a dyn Fn(&[u32]) -> Vec<u8>;

/// The texts of these numbers.
type Draw<'a> = &'a dyn Fn(Range<usize>) -> Result<Samples>;

fn text(decode: Decode, ids: &[u32]) -> String {
    String::from_utf8_lossy(&decode(ids)).into_owned()
}

/// Draws and prints.
pub fn run(request: &Request, device: &Device) -> Result<()> {
    if request.raw && request.json {
        return Err(Error::usage("`--raw` and `--json` exclude each other")
            .hint("leave `--raw` out: JSON keeps every character"));
    }
    if let Some(k) = request.steps.filter(|k| *k == 0 || *k > 1 << 20) {
        return Err(Error::usage(format!("`--steps {k}` must be between 1 and {}", 1 << 20)));
    }
    let dir = model_dir(&family::resolve(&request.path)?, request.model.as_deref())?;
    checkpoint::whole::verify(&dir)?;
    if is_foreign(&dir)? {
        return foreign::run(request, &dir, device);
    }
    if let Some(option) = request.public.given() {
        return Err(Error::usage(format!(
            "`{option}` is for public checkpoints, and {} is a model of fewstep's",
            dir.display()
        ))
        .hint(format!("leave `{option}` out")));
    }
    let loaded = checkpoint::read(&dir, device)?;
    let shape = (loaded.card.vocab_size, loaded.card.max_position_embeddings);
    ask::samples(&loaded.card.network, shape, 0, (request.batch(), request.candidates()), device)?;
    let process = match &request.decode {
        Some(text) => decoding(text, &loaded)?.process(loaded.card.process()),
        None => as_many_phases(&loaded, request.steps),
    };
    let Some(tokenizer) = &loaded.tokenizer else {
        return Err(Error::input(format!("{} has no tokenizer.json", dir.display()))
            .hint("put the tokenizer the model was trained with beside config.json"));
    };
    let words = matches!(tokenizer, Tokenizer::Words(_));
    let encode = |text: &str| tokenizer.encode(text.as_bytes());
    let picture = loaded.card.picture;
    let end = loaded.card.end_token_id;
    let decode = |ids: &[u32]| match picture {
        Some(shape) => shape.lines(&tokenizer.decode(ids)).into_bytes(),
        None => tokenizer.decode_bytes(end.map_or(ids, |end| documents::told(ids, end))),
    };
    let mut request = request.clone();
    // What follows a whole caption is its picture, which begins at a fixed place.
    request.prompt = request.prompt.map(|prompt| picture.map_or_else(|| prompt.clone(), |shape| shape.padded(&prompt)));
    let request = &request;
    let pinned = filled(given(request.texts(), &encode, words)?, process.length)?;
    if loaded.codec.is_some() || loaded.model.bottleneck().is_some() || loaded.model.vectors().is_some() {
        return latent(request, &loaded, process, &decode, pinned);
    }
    if let Some(width) = request.beam {
        let search = beam::Search::new(width, request.length_penalty);
        return beams(request, &loaded.model, &process, &decode, &pinned, &search);
    }
    let usual = loaded.card.generation.map_or(16, |g| g.steps);
    let steps = steps(request, &process, usual, loaded.model.over_blocks())?;
    let spec = SampleSpec {
        steps,
        filter: request.filter,
        seed: request.seed,
        first: 0,
        batch: request.batch(),
        pinned,
        trace: request.trace,
    };
    let prompt = spec.pinned.iter().take_while(|p| p.is_some()).count();
    let stop = entropy_stop(request);
    let total = request.public.length.unwrap_or(process.length);
    if total > 1 << 20 {
        return Err(Error::usage(format!("`--length {total}` must be at most {}", 1 << 20)));
    }
    let draw = |texts: Range<usize>| {
        let (spec, n) = part(request, &spec, texts);
        let drawn = beyond::sample_beyond(&loaded.model, &process, &spec, n, total, stop)?;
        Ok(request.chosen(drawn, &|tokens| tokens[prompt.min(tokens.len())..].to_vec()))
    };
    show(request, &loaded.card.name, &format!("{steps} steps"), &decode, &draw)
}

/// Texts of a model that denoises latents, or embeddings.
fn latent(
    request: &Request,
    loaded: &LoadedModel,
    process: Process,
    decode: Decode,
    pinned: Vec<Option<u32>>,
) -> Result<()> {
    let embeddings = matches!(loaded.card.objective.facts().vectors, Vectors::Embeddings(_));
    let refused = [
        (request.beam.is_some(), "--beam"),
        (request.decode.is_some() && !embeddings, "--decode"),
        (request.filter.top_k.is_some(), "--top-k"),
        (request.filter.top_p.is_some(), "--top-p"),
        (request.trace, "--trace"),
        (request.public.length.is_some(), "--length"),
        (request.public.stop_entropy.is_some(), "--stop-entropy"),
    ];
    if let Some((_, option)) = refused.iter().find(|(given, _)| *given) {
        return Err(Error::usage(format!(
            "`{option}` is for models of tokens, and `{}` denoises vectors",
            loaded.card.name
        ))
        .hint(format!("leave `{option}` out")));
    }
    let generator = loaded.generator(process)?;
    let steps = request.steps.or(loaded.card.generation.map(|g| g.steps)).unwrap_or(16);
    let spec = SampleSpec {
        steps,
        filter: request.filter,
        seed: request.seed,
        first: 0,
        batch: request.batch(),
        pinned,
        trace: false,
    };
    let draw = |texts: Range<usize>| {
        let (spec, n) = part(request, &spec, texts);
        Ok(request.chosen(generator.sample(&spec, n)?, &|tokens| tokens.to_vec()))
    };
    show(request, &loaded.card.name, &format!("{steps} steps"), decode, &draw)
}

/// When a text is ended because it repeats itself.
fn entropy_stop(request: &Request) -> Option<EntropyStop> {
    let window = request.public.stop_window.unwrap_or(STOP_WINDOW);
    request.public.stop_entropy.map(|nats| EntropyStop { nats, window })
}

/// The process of a model; of one that was trained in several numbers of phases, that of as many as there are steps.
fn as_many_phases(loaded: &LoadedModel, steps: Option<usize>) -> Process {
    let process = loaded.card.process();
    let (Some(steps), OrderConfig::Mixture(all)) = (steps, &loaded.card.order) else { return process };
    let orders = all.iter().filter(|order| order.phased()).map(|order| order.order(process.length));
    match orders.into_iter().find(|order| order.blocks(process.length) == steps) {
        Some(order) => Process { order, ..process },
        None => process,
    }
}

/// What `--decode` says: an order's name, or a table as a recipe has it.
fn decode_given(text: &str) -> Result<DecodeConfig> {
    #[derive(serde::Deserialize)]
    struct Given {
        decode: DecodeConfig,
    }
    let word = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let given = if word { format!("decode = {{ order = \"{text}\" }}") } else { format!("decode = {text}") };
    let parsed: Given = toml::from_str(&given).map_err(|e| {
        Error::usage(format!("`--decode {text}`: {}", e.message())).hint(
            "an order such as left_to_right or parallel, or a table such as '{ order = { blocks = 8 } }' or \
             '{ switch = { block = 8, tolerance = 0.1 } }'",
        )
    })?;
    parsed.decode.validate("--decode")?;
    Ok(parsed.decode)
}

/// What `--decode` says of a model of fewstep's own.
fn decoding(text: &str, loaded: &LoadedModel) -> Result<DecodeConfig> {
    let decode = decode_given(text)?;
    let network = &loaded.card.network;
    if let (DecodeConfig::Gaussian(_), Vectors::Embeddings(_)) = (&decode, loaded.card.objective.facts().vectors) {
        return Ok(decode);
    }
    match decode.misfit(network) {
        Some(why) => Err(Error::usage(format!("`--decode {text}` does not fit `{}`", loaded.card.name))
            .cause(why)
            .hint(format!("its order is {}; leave `--decode` out", loaded.card.order.shown()))),
        None => Ok(decode),
    }
}

/// The steps that were asked for; else `usual`, or as few more as give each block the same number and at least one. A
/// model that writes token by token takes one a token.
fn steps(request: &Request, process: &Process, usual: usize, over_blocks: bool) -> Result<usize> {
    let by_token = process.cached && !over_blocks;
    match request.steps {
        Some(k) if by_token && k != process.length => Err(Error::usage(format!(
            "`--steps {k}`: an autoregressive model takes one step a token ({})",
            process.length
        ))
        .hint(format!("leave `--steps` out, or write `--steps {}`", process.length))),
        Some(k) => Ok(k),
        None if by_token => Ok(process.length),
        None => {
            let blocks = process.order.blocks(process.length);
            if process.order.pattern.is_some_and(|p| !p.follows_steps()) {
                return Ok(blocks);
            }
            let text = process.order.text;
            if text > 0 {
                // A word takes one step, and a block among words as many as the usual.
                let among = process.length.div_ceil(text + process.order.block);
                return Ok(blocks - among + among * usual.min(process.order.block));
            }
            Ok(blocks * usual.min(process.length).div_ceil(blocks))
        }
    }
}

/// What draws the texts of these numbers with all their candidates, and how many that are.
fn part(request: &Request, spec: &SampleSpec, texts: Range<usize>) -> (SampleSpec, usize) {
    let candidates = request.candidates();
    (SampleSpec { first: texts.start * candidates, ..spec.clone() }, texts.len() * candidates)
}

/// Draws and prints text after text, then says what they cost; with their trace where that is asked for.
fn show(request: &Request, name: &str, how: &str, decode: Decode, draw: Draw) -> Result<()> {
    let (mut shown, mut passes, mut seconds) = (0, 0, 0.0);
    let mut traces: Vec<Vec<String>> = Vec::new();
    let mut told = Instant::now();
    while shown < request.n {
        let drawn = draw(shown..request.n.min(shown + TOGETHER))?;
        print(request, decode, &drawn, shown);
        shown += drawn.tokens.len();
        passes += drawn.nfe.iter().sum::<usize>();
        seconds += drawn.seconds;
        let canvases = |steps: &Vec<Vec<u32>>| steps.iter().map(|canvas| text(decode, canvas)).collect();
        traces.extend(drawn.trace.iter().map(canvases));
        // Without a reader nobody asks for more; a trace has a page to be written.
        if term::out_is_lost() && !request.trace {
            break;
        }
        if told.elapsed() > Duration::from_secs(5) && shown < request.n {
            term::note(&format!("{shown} of {} texts", request.n));
            told = Instant::now();
        }
    }
    let best = request.mbr.map_or(String::new(), |n| format!(", the best of {n} each"));
    let passes = passes as f64 / shown.max(1) as f64;
    term::note(&format!("{shown} of {name}: {how}{best}, {passes:.1} passes, {seconds:.2} s"));
    if request.trace {
        let page = crate::report::trace::page(name, &traces);
        // A page that is there already may be somebody's: the next free name is taken.
        let names = std::iter::once("trace.html".to_string()).chain((2..).map(|i| format!("trace-{i}.html")));
        if let Some(path) = names.map(PathBuf::from).find(|p| !p.exists()) {
            crate::fs::write_named(&path, page.as_bytes())?;
            term::note(&format!("wrote {}", path.display()));
        }
    }
    Ok(())
}

/// Prints texts of which the first has the number `from`.
fn print(request: &Request, decode: Decode, drawn: &Samples, from: usize) {
    for (i, tokens) in drawn.tokens.iter().enumerate() {
        let trace = drawn.trace.get(i).map(Vec::as_slice).unwrap_or_default();
        if request.json {
            let mut line = json!({ "sample": from + i, "seed": request.seed, "nfe": drawn.nfe[i],
                "positions": drawn.positions[i], "text": text(decode, tokens) });
            if !trace.is_empty() {
                line["trace"] = trace.iter().map(|canvas| text(decode, canvas)).collect();
            }
            term::out_json(line);
            continue;
        }
        for (k, canvas) in trace.iter().enumerate() {
            say(request, &format!("{k:>4} | "), &decode(canvas));
        }
        say(request, "", &decode(tokens));
    }
}

/// Prints a text behind what is said of it: as it is where that is asked for, else made harmless.
fn say(request: &Request, front: &str, text: &[u8]) {
    match request.raw {
        true => term::out_raw(&[front.as_bytes(), text, b"\n"].concat()),
        false => term::out_text(format!("{front}{}", String::from_utf8_lossy(text))),
    }
}

fn beams(
    request: &Request,
    model: &Transformer,
    process: &Process,
    decode: Decode,
    pinned: &[Option<u32>],
    search: &beam::Search,
) -> Result<()> {
    let prompt: Vec<u32> = pinned.iter().map_while(|p| *p).collect();
    if pinned.iter().skip(prompt.len()).any(Option::is_some) {
        return Err(Error::usage("beam search continues a prompt; it cannot fill a gap").hint("use `--prompt`"));
    }
    let found = beam::search(model, process, &prompt, search)?;
    for (i, h) in found.iter().enumerate() {
        match request.json {
            true => {
                let text = text(decode, &h.tokens);
                term::out_json(json!({ "rank": i, "log_prob": h.log_prob, "score": h.score, "text": text }));
            }
            false => say(request, &format!("{:>9.3}  ", h.score), &decode(&h.tokens)),
        }
    }
    Ok(())
}
