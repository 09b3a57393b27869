//! `sample`: text from a model of a run, from an exported directory or from a public checkpoint, with prompts, infills and
//! every decoding option.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::prelude::Device;
use serde_json::json;

use super::inspect::family::is_foreign;
use crate::checkpoint;
use crate::cli;
use crate::error::{Error, Result};
use crate::library::{Beams, Drawing, Public, Request, Wanted, own_drawing, own_search};
use crate::model::draw::Filter;
use crate::model::family::{self, LoadOptions};
use crate::sample::{DecodeConfig, Samples, beam};
use crate::study::ask;
use crate::study::stored::model_dir;
use crate::term;
use crate::weights::NonFinite;

/// Texts that are drawn before the first of them are shown, a whole number of batches.
const TOGETHER: usize = 16;

/// Draws and prints.
///
/// # Errors
/// Options that fit neither each other nor the model (usage); a directory that is not a model's, or is damaged (input); too
/// little memory (device); predictions that are not a distribution (non-finite).
pub fn run(args: &cli::Sample, json: bool, device: &Device) -> Result<()> {
    if args.raw && json {
        return Err(Error::usage("`--raw` and `--json` exclude each other")
            .hint("leave `--raw` out: JSON keeps every character"));
    }
    let request = request(args)?;
    request.validate()?;
    let dir = model_dir(&family::resolve(&args.dir)?, args.model.as_deref())?;
    checkpoint::whole::verify(&dir)?;
    let printer = Printer { args, json };
    let wide = args.beam.map(|width| Beams { width, length_penalty: args.length_penalty.unwrap_or(1.0) });
    if is_foreign(&dir)? {
        return foreign(&printer, &dir, &request, wide, device);
    }
    if let Some(option) = args.public.given() {
        return Err(Error::usage(format!(
            "`{option}` is for public checkpoints, and {} is a model of fewstep's",
            dir.display()
        ))
        .hint(format!("leave `{option}` out")));
    }
    let loaded = checkpoint::read(&dir, device)?;
    let (vocab, length) = (loaded.card.vocab_size, loaded.card.max_position_embeddings);
    ask::samples(&loaded.card.network, vocab, length, 0, request.batch, request.candidates(), device)?;
    match wide {
        Some(wide) => {
            let (drawing, found) = own_search(&loaded, &request, wide)?;
            printer.hypotheses(&drawing, &found);
            Ok(())
        }
        None => printer.show(&own_drawing(&loaded, &request)?),
    }
}

/// The same of a public checkpoint.
fn foreign(printer: &Printer, dir: &Path, request: &Request, wide: Option<Beams>, device: &Device) -> Result<()> {
    let options = &printer.args.public;
    let tokenizer = match (&options.tokenizer, options.ids) {
        (_, true) => Wanted::Ids,
        (Some(path), _) => Wanted::Of(path.clone()),
        (None, _) => Wanted::Own,
    };
    let public = Public::look(dir, &tokenizer)?;
    let given = public.given(request)?;
    let d = public.description();
    let length = given.length.min(d.length);
    let weights = 4 * d.network.parameters(d.vocab, length);
    ask::samples(&d.network, d.vocab, given.length, weights, request.batch, request.candidates(), device)?;
    let load = LoadOptions {
        non_finite: if options.allow_non_finite { NonFinite::Allow } else { NonFinite::Refuse },
        ignore_extra: options.ignore_extra,
        length: Some(length),
        ..LoadOptions::default()
    };
    let model = public.load(load, device)?;
    match wide {
        Some(wide) => {
            let (drawing, found) = public.search(&model, given, request, wide)?;
            printer.hypotheses(&drawing, &found);
            Ok(())
        }
        None => printer.show(&public.drawing(&model, given, request)?),
    }
}

/// What the command line asks for.
fn request(args: &cli::Sample) -> Result<Request> {
    let public = args.public.clone();
    Ok(Request {
        steps: args.steps,
        decode: args.decode.as_deref().map(decode_given).transpose()?,
        seed: args.seed,
        // Those of all texts, or all their candidates, up to a batch.
        batch: args.n.saturating_mul(args.mbr.unwrap_or(1)).clamp(1, 16),
        prompt: args.prompt.clone(),
        infill: args.infill.clone(),
        filter: Filter { temperature: args.temperature.unwrap_or(1.0), top_k: args.top_k, top_p: args.top_p },
        temperature: args.temperature,
        mbr: args.mbr,
        trace: args.trace,
        length: public.length,
        sampler: public.sampler,
        block: public.block,
        threshold: public.threshold,
        eta: public.eta,
        stop_entropy: public.stop_entropy,
        stop_window: public.stop_window,
    })
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
    Ok(parsed.decode)
}

/// Writes texts to stdout.
struct Printer<'a> {
    args: &'a cli::Sample,
    json: bool,
}

impl Printer<'_> {
    /// Draws and prints text after text, then says what they cost; with their trace where that is asked for.
    fn show(&self, drawing: &Drawing) -> Result<()> {
        let (n, trace) = (self.args.n, self.args.trace);
        let (mut shown, mut passes, mut seconds) = (0, 0, 0.0);
        let mut traces: Vec<Vec<String>> = Vec::new();
        let mut told = Instant::now();
        while shown < n {
            let drawn = drawing.draw(shown..n.min(shown + TOGETHER))?;
            self.print(drawing, &drawn, shown);
            shown += drawn.tokens.len();
            passes += drawn.nfe.iter().sum::<usize>();
            seconds += drawn.seconds;
            let canvases = |steps: &Vec<Vec<u32>>| steps.iter().map(|canvas| drawing.text(canvas)).collect();
            traces.extend(drawn.trace.iter().map(canvases));
            // Without a reader nobody asks for more; a trace has a page to be written.
            if term::out_is_lost() && !trace {
                break;
            }
            if told.elapsed() > Duration::from_secs(5) && shown < n {
                term::note(&format!("{shown} of {n} texts"));
                told = Instant::now();
            }
        }
        let Drawing { name, how, .. } = drawing;
        let best = self.args.mbr.map_or(String::new(), |n| format!(", the best of {n} each"));
        let passes = passes as f64 / shown.max(1) as f64;
        term::note(&format!("{shown} of {name}: {how}{best}, {passes:.1} passes, {seconds:.2} s"));
        if trace {
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
    fn print(&self, drawing: &Drawing, drawn: &Samples, from: usize) {
        for (i, tokens) in drawn.tokens.iter().enumerate() {
            let trace = drawn.trace.get(i).map(Vec::as_slice).unwrap_or_default();
            if self.json {
                let mut line = json!({ "sample": from + i, "seed": self.args.seed, "nfe": drawn.nfe[i],
                    "positions": drawn.positions[i], "text": drawing.text(tokens) });
                if !trace.is_empty() {
                    line["trace"] = trace.iter().map(|canvas| drawing.text(canvas)).collect();
                }
                term::out_json(line);
                continue;
            }
            for (k, canvas) in trace.iter().enumerate() {
                self.say(&format!("{k:>4} | "), &drawing.bytes(canvas));
            }
            self.say("", &drawing.bytes(tokens));
        }
    }

    /// Prints a text behind what is said of it: as it is where that is asked for, else made harmless.
    fn say(&self, front: &str, text: &[u8]) {
        match self.args.raw {
            true => term::out_raw(&[front.as_bytes(), text, b"\n"].concat()),
            false => term::out_text(format!("{front}{}", String::from_utf8_lossy(text))),
        }
    }

    /// Prints what a beam search found, best first.
    fn hypotheses(&self, drawing: &Drawing, found: &[beam::Hypothesis]) {
        for (i, h) in found.iter().enumerate() {
            match self.json {
                true => {
                    let text = drawing.text(&h.tokens);
                    term::out_json(json!({ "rank": i, "log_prob": h.log_prob, "score": h.score, "text": text }));
                }
                false => self.say(&format!("{:>9.3}  ", h.score), &drawing.bytes(&h.tokens)),
            }
        }
    }
}
