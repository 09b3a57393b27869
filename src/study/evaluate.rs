//! Evaluation of a study: rows of every model at every step count, kept in models/NAME/eval.json by what decides them (`kept`).

use std::sync::Arc;

use super::{Study, kept};
use crate::checkpoint::{self, LoadedModel};
use crate::data::Data;
use crate::data::story::Story;
use crate::error::{Error, Kind, Result};
use crate::eval::control::{self, Control};
use crate::eval::flexibility::{self, Flexibility};
use crate::eval::judge::TextJudge;
use crate::eval::results::{Environment, ModelResult, Results, Role, Row};
use crate::eval::{self, Scorer, copies, reconstruction};
use crate::method;
use crate::model::{Denoise, Oracle, params};
use crate::process::d3pm::Matrix;
use crate::recipe::{ModelConfig, Recipe, slug};
use crate::sample::decode::walkable;
use crate::sample::{Decode, DecodeConfig, Generator, Process, latent};
use crate::{fs, shown, term};

/// What scores samples: the judge of the study, and a second one beside it.
struct Judges<'a> {
    scorer: &'a Scorer<'a>,
    second: Option<&'a TextJudge<'a>>,
    /// The judge's model, where there is one.
    judge: Option<&'a LoadedModel>,
    /// The hashes of both judges.
    hash: String,
    held_out: &'a [Vec<u32>],
}

/// A way in which a model is sampled: what it is called, and where what is kept of it lies.
struct Way<'a> {
    name: &'a str,
    label: String,
    decode: DecodeConfig,
    shown: String,
    /// Of several ways each has a file of its own.
    file: String,
}

/// A row of results: the model that it is of, what it is called, and where what is kept of it lies.
struct Called<'a> {
    name: &'a str,
    shown: &'a str,
    file: &'a str,
}

impl Study {
    /// Evaluates what is missing and writes results.json.
    ///
    /// # Errors
    /// A model that is not finished, or another recipe's (usage); one that is damaged (input); too little memory (device);
    /// predictions that are not a distribution (non-finite); a signal; I/O.
    pub fn evaluate(&self, only: Option<&str>) -> Result<Results> {
        let config = &self.recipe.eval;
        let evaluated = |name: &String, model| only.is_none_or(|o| o == name) || self.is_evaluated(name, model);
        let names: Vec<&str> = self.recipe.model.iter().filter(|(n, m)| evaluated(n, m)).map(|(n, _)| &n[..]).collect();
        self.check_bound(&names)?;
        self.ask().study(&[], !self.has_results(), &self.dir)?;
        self.keep()?;
        let judge = config.judge.as_ref().map(|name| self.finished(name)).transpose()?;
        let checkpoint = config.second_judge.as_ref().map(|name| self.finished(name)).transpose()?;
        let second = checkpoint.as_ref().map(|judge| self.text_judge(judge)).transpose()?;
        let scorer = self.scorer(judge.as_ref())?;
        let held_out = self.data.held_out(config.held_out);
        if let Scorer::Text(judge) = &scorer {
            let (share, length) = (100.0 * judge.cut(&held_out), judge.model.length());
            term::note(&format!(
                "the judge scores text by characters with its own tokenizer; {share:.1} % of the held-out texts are longer than its {length} tokens"
            ));
        }
        let summary = eval::data_summary(&self.data, &scorer, second.as_ref(), &held_out)?;
        let by = Judges {
            scorer: &scorer,
            second: second.as_ref(),
            judge: judge.as_ref(),
            hash: [&judge, &checkpoint].into_iter().flatten().map(|j| &j.weights_sha256[..]).collect(),
            held_out: &held_out,
        };
        let mut models = Vec::new();
        for name in names {
            let (done, model) = (self.finished(name)?, self.recipe.model(name)?);
            for (label, decode) in Recipe::decodings(model) {
                let way = Way {
                    shown: if label.is_empty() { name.to_string() } else { format!("{name}: {label}") },
                    file: eval_file(&label),
                    name,
                    label,
                    decode,
                };
                // What steers it decides its numbers too.
                let steers = config.control.as_ref().and_then(|c| c.guidance.get(name));
                let steers =
                    steers.map(|g| Ok::<_, Error>(self.finished(&g.classifier)?.weights_sha256)).transpose()?;
                let how = format!("{:?} {}", way.decode, steers.unwrap_or_default());
                let key = self.eval_key(&[&done.weights_sha256, &by.hash, &how])?;
                models.push(self.cached(name, &way.file, &key, || self.one(&way, model, &done, &by))?);
            }
        }
        if let (Data::Story(story), true) = (&self.data, config.oracle) {
            let key = self.eval_key(&["oracle"])?;
            models.push(self.cached("oracle", "eval", &key, || self.oracle(story, &summary.sha256, &by))?);
        }
        let results = Results {
            format: eval::results::FORMAT,
            fewstep: env!("CARGO_PKG_VERSION").into(),
            study: self.recipe.name.clone(),
            recipe_sha256: fs::sha256_hex(self.text.as_bytes()),
            recipe: self.text.clone(),
            environment: self.environment(),
            data: summary,
            models,
            context: self.context.clone(),
        };
        results.save(&self.dir.join("results.json"))?;
        Ok(results)
    }

    /// Whether the judge is a public checkpoint that reads text: one with the data's tokens reads them with a start token in front.
    fn judge_reads_text(&self, judge: Option<&LoadedModel>) -> bool {
        let from = self.recipe.eval.judge.as_ref().is_some_and(|name| self.recipe.model[name].from.is_some());
        from && judge.is_some_and(|judge| !judge.card.network.shift)
    }

    /// What gives a sample its likelihood: the language itself, or the judge.
    fn scorer<'a>(&'a self, judge: Option<&'a LoadedModel>) -> Result<Scorer<'a>> {
        let public = self.judge_reads_text(judge);
        Ok(match (&self.data, judge) {
            (Data::Story(story), _) => Scorer::Story(story),
            (Data::Pictures(pictures), _) => Scorer::Pictures(pictures),
            // A checkpoint reads the text, whatever it was tokens of.
            (_, Some(judge)) if public && judge.tokenizer.is_some() => Scorer::Text(self.text_judge(judge)?),
            (Data::Pairs(pairs), Some(judge)) => Scorer::Sentences(&judge.model, pairs),
            (data, Some(judge)) => match data.end() {
                Some(end) => Scorer::Documents(&judge.model, end),
                None => Scorer::Judge(&judge.model),
            },
            (data, None) => return Err(Error::usage(format!("`data.{}` needs `eval.judge`", data.kind()))),
        })
    }

    /// A finished model, sampled in one way.
    fn one(&self, way: &Way, model: &ModelConfig, done: &LoadedModel, by: &Judges) -> Result<ModelResult> {
        let name = way.name;
        let role = self.recipe.role(name, model);
        let process = way.decode.process(done.process());
        let ar = model.objective.facts().causal();
        let tokens = done.codec.is_none() && done.model.vectors().is_none() && role != Role::Codec;
        let likely = tokens && self.has_likelihood(name, role, done, &process, by);
        let likelihood = likely.then(|| eval::likelihood(&done.model, ar, &process, by.held_out));
        let writes = !matches!(role, Role::Judge | Role::Codec | Role::Classifier);
        let (mut rows, mut sweep) = (Vec::new(), Vec::new());
        if writes {
            let generator = done.generator(process.clone())?;
            let steps = match &generator {
                _ if ar => vec![process.length],
                generator => taken(generator, &self.recipe.eval.steps),
            };
            rows = self.rows(Called { name, shown: &way.shown, file: &way.file }, &generator, &steps, by, true)?;
            if tokens {
                rows = self.with_sampler_nll(rows, &done.model, &process, by.scorer)?;
            }
            sweep = self.sweep(&way.shown, &generator, &steps, by.scorer)?;
        }
        // Gaps in a text are no gaps among its latents.
        let flexibility = match role {
            Role::Judge => None,
            _ if !tokens || done.model.reads_uniforms() => None,
            _ => self.flexibility(&way.shown, &done.model, &process)?,
        };
        let control = match writes {
            false => None,
            true => self.control(name, &way.shown, done, &done.generator(process.clone())?, by.judge)?,
        };
        let extra = fs::verify_manifest(&self.final_dir(name))?.extra;
        let cost = self.recipe.train_cost(name, self.data.length())?;
        Ok(ModelResult {
            name: way.shown.clone(),
            role,
            objective: model.objective.name().into(),
            order: way.decode.name(),
            teacher: self.teacher_shown(model, &way.label)?,
            parameters: params::count(&done.model) as u64,
            weights_sha256: done.weights_sha256.clone(),
            seed: done.card.seed,
            train_steps: done.card.train_steps as u64,
            train_tokens: done.card.train_tokens,
            train_seconds: extra["seconds"].as_f64().unwrap_or(0.0),
            train_forwards: cost.0,
            train_positions: cost.1,
            codec: self.recipe.latent(name)?.map(|(_, config)| config.codec.clone()),
            neighbours: self.neighbours_shown(model)?,
            likelihood,
            rows,
            sweep,
            flexibility,
            reconstruction: self.reconstruction(done, by.held_out)?,
            by_seed: Vec::new(),
            control,
        })
    }

    /// Whether a model of tokens has a likelihood of its own in this process.
    ///
    /// A public judge reads other tokens than the held-out ones, and a rule has no likelihood of its own. One that sees everything
    /// has none over blocks either: it does not know what is finished. Nor in phases, whose number may be that of the steps: the
    /// sampler's own likelihood says it there.
    fn has_likelihood(&self, name: &str, role: Role, done: &LoadedModel, process: &Process, by: &Judges) -> bool {
        let follows = process.order.pattern.is_some_and(|p| p.follows_steps());
        let seen = !follows && (done.model.over_blocks() || !method::beside(process.order, process.length));
        let second = self.recipe.eval.second_judge.as_deref() == Some(name);
        let foreign = role == Role::Judge && (second || self.judge_reads_text(by.judge));
        let ar = done.card.objective.facts().causal();
        !done.model.reads_uniforms() && !foreign && process.decode == Decode::Table && (seen || ar)
    }

    /// How well an autoencoder gives back the text that it read; nothing for other models.
    fn reconstruction(
        &self,
        done: &LoadedModel,
        held_out: &[Vec<u32>],
    ) -> Result<Option<eval::results::Reconstruction>> {
        let Some(shape) = done.model.bottleneck() else { return Ok(None) };
        let seed = self.recipe.eval.seed;
        let back = |sigma| latent::reconstructed(&done.model, held_out, sigma, seed);
        reconstruction::measure(held_out, shape.latents, shape.width, &reconstruction::SIGMAS, back).map(Some)
    }

    /// The exact posterior of the story language, sampled like a model.
    fn oracle(&self, story: &Story, sha256: &str, by: &Judges) -> Result<ModelResult> {
        let oracle = Oracle::new(Arc::clone(story.chain()), self.device.clone());
        let process = Process::new(crate::process::Order::parallel(story.length()), story.length());
        let (generator, steps) = (Generator::Tokens(&oracle, process.clone()), &self.recipe.eval.steps);
        let rows = self.rows(Called { name: "oracle", shown: "oracle", file: "eval" }, &generator, steps, by, false)?;
        Ok(ModelResult {
            name: "oracle".into(),
            role: Role::Oracle,
            objective: "exact".into(),
            order: "parallel".into(),
            teacher: None,
            parameters: 0,
            weights_sha256: sha256.to_string(),
            seed: 0,
            train_steps: 0,
            train_tokens: 0,
            train_seconds: 0.0,
            train_forwards: 0,
            train_positions: 0,
            codec: None,
            neighbours: None,
            likelihood: None,
            rows: self.with_sampler_nll(rows, &oracle, &process, by.scorer)?,
            sweep: self.sweep("oracle", &generator, steps, by.scorer)?,
            flexibility: self.flexibility("oracle", &oracle, &process)?,
            reconstruction: None,
            by_seed: Vec::new(),
            control: None,
        })
    }

    /// A checkpoint that reads the text of samples with its own tokenizer.
    ///
    /// # Errors
    /// One without a tokenizer.
    fn text_judge<'a>(&'a self, judge: &'a LoadedModel) -> Result<TextJudge<'a>> {
        let Some(tokenizer) = &judge.tokenizer else {
            return Err(Error::input("`eval.second_judge` has no tokenizer, and reads no text")
                .hint("take a checkpoint with a tokenizer.json beside its weights"));
        };
        Ok(TextJudge { model: &judge.model, tokenizer, start: judge.card.mask_token_id as u32, data: &self.data })
    }

    /// What a model's teacher is called in results, or what it starts as: of one that is sampled in several ways the same way, the
    /// same phases in as many steps, all at once, or the first.
    fn teacher_shown(&self, model: &ModelConfig, label: &str) -> Result<Option<String>> {
        let Some(name) = Recipe::teacher(model).or(Recipe::source(model)) else { return Ok(None) };
        let ways = Recipe::decodings(self.recipe.model(name)?);
        let own = if label.is_empty() { model.order.name() } else { label.to_string() };
        let of = |wanted: &str| ways.iter().find(|(label, _)| label == wanted);
        let kind = own.split(' ').next().unwrap_or_default().to_string();
        let order = model.order.order(self.data.length());
        let phases = order.pattern.map(|_| order.blocks(self.data.length())).unwrap_or_default();
        let as_many = || of(&format!("strided {phases}"));
        let way = of(&own).or_else(|| of(&kind)).or_else(as_many).or_else(|| of("parallel")).or(ways.first());
        Ok(way.map(|(label, _)| if label.is_empty() { name.to_string() } else { format!("{name}: {label}") }))
    }

    /// What the model is called in results whose embedding a chain's noise is made from.
    fn neighbours_shown(&self, model: &ModelConfig) -> Result<Option<String>> {
        let Some(chain) = model.objective.facts().chain else { return Ok(None) };
        let Matrix::Neighbours { model: name, .. } = chain.matrix else { return Ok(None) };
        let ways = Recipe::decodings(self.recipe.model(name)?);
        let shown = |(label, _): &(String, _)| if label.is_empty() { name.clone() } else { format!("{name}: {label}") };
        Ok(ways.first().map(shown))
    }

    /// Whether something was evaluated of a model already.
    fn is_evaluated(&self, name: &str, model: &ModelConfig) -> bool {
        let files = Recipe::decodings(model).into_iter().map(|(label, _)| format!("{}.json", eval_file(&label)));
        files.into_iter().any(|file| self.model_dir(name).join(file).exists())
    }

    fn eval_key(&self, parts: &[&str]) -> Result<String> {
        // Timings are part of what is kept, so the machine and the code are part of the key.
        let environment = format!("{:?} {}", self.environment(), env!("FEWSTEP_COMMIT"));
        // What was measured elsewhere decides nothing that is kept here.
        let own = eval::EvalConfig { context: None, ..self.recipe.eval.clone() };
        let config = toml::to_string(&own).map_err(|e| Error::usage(format!("`eval`: {e}")))?;
        let version = env!("CARGO_PKG_VERSION");
        let text = format!("{:?}\n{}\n{config}\n{environment}\n{version}", self.sources, parts.join("\n"));
        Ok(fs::sha256_hex(text.as_bytes()))
    }

    /// The result kept in models/NAME/FILE.json, if it is of this key; else what `make` gives, which is then kept.
    ///
    /// # Errors
    /// A file that was changed since it was written.
    fn cached(
        &self,
        name: &str,
        file: &str,
        key: &str,
        make: impl FnOnce() -> Result<ModelResult>,
    ) -> Result<ModelResult> {
        let dir = self.model_dir(name);
        let (path, samples) = (dir.join(format!("{file}.json")), dir.join(samples_file(file)));
        if let Some(kept) = kept::read(&path, &samples, key)? {
            return Ok(kept);
        }
        let result = make()?;
        fs::create_dir(&dir)?;
        kept::write(&path, &samples, key, result)
    }

    /// Rows of a model of tokens with what held-out texts cost under its sampler.
    fn with_sampler_nll(
        &self,
        mut rows: Vec<Row>,
        model: &dyn Denoise,
        process: &Process,
        scorer: &Scorer,
    ) -> Result<Vec<Row>> {
        let config = &self.recipe.eval.sampler;
        // As few as they are, they are spread over the whole split.
        let tokens = &self.data.held_out(config.texts.min(self.recipe.eval.held_out));
        let counted = |text: &[u32]| scorer.counted(text);
        let texts = eval::sampler::Texts { tokens, counted: &counted, batch: self.recipe.eval.drawn_together() };
        for row in &mut rows {
            self.not_stopped("the sampler's likelihood")?;
            row.sampler_nll = eval::sampler::nll(model, process, row.steps, texts, config.partitions)?;
        }
        Ok(rows)
    }

    fn rows(
        &self,
        called: Called,
        generator: &Generator,
        steps: &[usize],
        judges: &Judges,
        timed: bool,
    ) -> Result<Vec<Row>> {
        let (Called { name, shown, file }, scorer) = (called, judges.scorer);
        let (mut rows, mut drawn) = (Vec::new(), Vec::new());
        let mut texts = String::new();
        for k in steps {
            self.not_stopped(name)?;
            let (row, tokens) = eval::row(generator, *k, &self.recipe.eval, scorer, timed)?;
            let nll = &row.scores[scorer.name()];
            let share =
                |key: &str| row.scores.get(key).map_or(String::new(), |v| format!("  {key} {:5.1} %", 100.0 * v.mean));
            let valid = [share("valid"), share("caption_valid"), share("agreement")].concat();
            term::note(&format!(
                "eval {shown:<10} {k:>5} steps  nfe {:>6.1}  nll {:.4}  entropy {:.3}{valid}",
                row.nfe, nll.mean, row.scores["entropy"].mean
            ));
            texts.push_str(&format!("==== {shown}, {k} steps\n"));
            tokens
                .iter()
                .take(5)
                .for_each(|t| texts.push_str(&format!("{}\n----\n", shown::text(&self.data.decode(t)))));
            rows.push(row);
            drawn.push(tokens);
        }
        if let Some(judge) = judges.second {
            self.not_stopped(name)?;
            eval::add_second(&mut rows, &drawn, judge);
        }
        // All rows at once: the training text is long.
        copies::add(&mut rows, &drawn, &self.data, scorer.name())?;
        for row in rows.iter().filter(|row| row.scores.contains_key(copies::COPIES)) {
            let (copied, share) = (row.scores[copies::COPIED].mean, 100.0 * row.scores[copies::COPIES].mean);
            let k = row.steps;
            term::note(&format!(
                "eval {shown:<10} {k:>5} steps  longest copy {copied:.1} characters  copies {share:.1} %"
            ));
        }
        let dir = self.model_dir(name);
        fs::create_dir(&dir)?;
        fs::write_atomic(&dir.join(samples_file(file)), texts.as_bytes())?;
        Ok(rows)
    }

    /// The rows at the recipe's other temperatures.
    fn sweep(
        &self,
        name: &str,
        generator: &Generator,
        steps: &[usize],
        scorer: &Scorer,
    ) -> Result<Vec<eval::results::SweepRow>> {
        let config = &self.recipe.eval;
        let mut rows = Vec::new();
        for k in steps {
            for temperature in &config.temperatures {
                self.not_stopped(name)?;
                let row = eval::sweep_row(generator, *k, *temperature, config, scorer)?;
                term::note(&format!(
                    "eval {name:<10} {k:>5} steps  temperature {temperature}  nll {:.4}  entropy {:.3}",
                    row.scores[scorer.name()].mean,
                    row.scores["entropy"].mean
                ));
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// The tasks of `eval.flexibility`, where the recipe has them.
    fn flexibility(&self, name: &str, model: &dyn Denoise, process: &Process) -> Result<Option<Flexibility>> {
        let Some(config) = &self.recipe.eval.flexibility else { return Ok(None) };
        self.not_stopped(name)?;
        let story = if let Data::Story(story) = &self.data { Some(story.as_ref()) } else { None };
        let texts = self.data.held_out(config.samples);
        let (seed, batch) = (self.recipe.eval.seed, self.recipe.eval.drawn_together());
        let found = flexibility::measure(model, process, config, seed, batch, &texts, story)?;
        let gone =
            found.remasked.as_ref().map_or(String::new(), |r| format!("  errors gone {:.3}", r.scores["gone"].mean));
        term::note(&format!("eval {name:<10} infill accuracy {:.3}{gone}", found.infill.scores["accuracy"].mean));
        Ok(Some(found))
    }

    /// Generation under conditions, where the recipe has `eval.control`.
    fn control(
        &self,
        name: &str,
        shown: &str,
        done: &LoadedModel,
        generator: &Generator,
        judge: Option<&LoadedModel>,
    ) -> Result<Option<Control>> {
        let (Some(config), Data::Pairs(pairs), Some(judge)) = (&self.recipe.eval.control, &self.data, judge) else {
            return Ok(None);
        };
        // Latents stand for no position: their model must be told the whole condition, and nothing else.
        if matches!(generator, Generator::Latent(l) if l.model.vectors().map(|v| v.condition) != Some(pairs.width())) {
            term::note(&format!(
                "eval {shown:<10} no generation under conditions: its `network.vectors.condition` is not their width {}",
                pairs.width()
            ));
            return Ok(None);
        }
        let mut config = config.clone();
        if !done.card.objective.facts().causal() {
            let steps = taken(generator, &config.steps);
            if steps != config.steps {
                term::note(&format!("eval {shown:<10} `eval.control.steps` {:?} become {steps:?}", config.steps));
            }
            config.steps = steps;
        }
        let config = &config;
        self.not_stopped(name)?;
        let (seed, batch) = (self.recipe.eval.seed, self.recipe.eval.drawn_together());
        let guidance = config.guidance.get(name);
        // Its gradient by the vectors is asked for, which a plain device does not have.
        let device = self.device.clone().autodiff();
        let classifier = guidance.map(|g| checkpoint::read(&self.final_dir(&g.classifier), &device)).transpose()?;
        let guided = classifier.as_ref().map(|c| &c.model).zip(guidance);
        let found = control::measure(generator, config, seed, batch, pairs, &judge.model, guided)?;
        for row in &found.rows {
            term::note(&format!(
                "eval {shown:<10} {:>5} steps  {}: told {:5.1} %  nll {:.3}",
                row.steps,
                row.arm.words(),
                100.0 * row.scores["attribute"].mean,
                row.scores["judge_nll"].mean
            ));
        }
        Ok(Some(found))
    }

    /// Goes on, unless a signal has asked for an end.
    ///
    /// # Errors
    /// A signal.
    pub fn not_stopped(&self, name: &str) -> Result<()> {
        match self.interrupt.requested() {
            true => {
                let kind = Kind::Signal(self.interrupt.signal());
                Err(Error::new(kind, format!("stopped by a signal while evaluating `{name}`")))
            }
            false => Ok(()),
        }
    }

    fn environment(&self) -> Environment {
        Environment::of(&self.device, &self.device_name)
    }
}

/// Those of the step counts `wanted` that a model can be sampled in; where there are none, the nearest that it can.
fn taken(generator: &Generator, wanted: &[usize]) -> Vec<usize> {
    // No step is shorter than a level.
    let within = |levels: usize, mut steps: Vec<usize>| {
        steps.retain(|k| *k <= levels);
        if steps.is_empty() { vec![levels] } else { steps }
    };
    match generator {
        Generator::Tokens(_, process) => {
            let steps = walkable(process, wanted);
            match &process.chain {
                Some(chain) => within(chain.levels(), steps),
                None => steps,
            }
        }
        Generator::Embedding(of) => within(of.config.levels, wanted.to_vec()),
        Generator::Latent(latent) => {
            let walks = |k: &&usize| latent.order.grid(latent.count(), **k).is_ok();
            let steps: Vec<usize> = wanted.iter().filter(walks).copied().collect();
            if steps.is_empty() { vec![latent.order.blocks(latent.count())] } else { steps }
        }
    }
}

/// Where what is kept of a way of sampling lies.
fn eval_file(label: &str) -> String {
    if label.is_empty() { "eval".to_string() } else { format!("eval-{}", slug(label)) }
}

/// Where the first samples of a way of sampling lie, beside what is kept of it.
fn samples_file(file: &str) -> String {
    format!("samples{}.txt", file.strip_prefix("eval").unwrap_or(file))
}
