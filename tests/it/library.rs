//! The library's front: the examples run, and what they draw is what the binary draws.

use fewstep::prelude::*;

use super::binary::Place;

#[path = "../../examples/distil.rs"]
mod distil;
#[path = "../../examples/own_data.rs"]
mod own_data;
#[path = "../../examples/own_denoiser.rs"]
mod own_denoiser;
#[path = "../../examples/own_method.rs"]
mod own_method;
#[path = "../../examples/sample.rs"]
mod sample;
#[path = "../../examples/train.rs"]
mod train;

#[test]
fn the_examples_train_a_study_and_sample_from_what_it_exports() {
    let place = Place::new();
    let out = place.path("run").display().to_string();
    train::run("tiny", &out).unwrap();
    assert!(place.path("run/report/report.md").exists());
    sample::run(&place.path("run/export/student").display().to_string(), 2).unwrap();
    // The same directory, the same seeds: the binary's own texts.
    let model = Model::load(place.path("run/models/student/final")).unwrap();
    let texts = model.sampler().steps(2).seed(5).sample(3).unwrap();
    let drawn = place.run(&["sample", "run", "--model", "student", "-n", "3", "--steps", "2", "--seed", "5"]).ok().out;
    assert_eq!(texts.join("\n"), drawn.trim_end());
    // In its own number of steps, behind a prompt, and in another order.
    let begun = model.sampler().prompt("mia has").sample(2).unwrap();
    assert!(begun.iter().all(|text| text.starts_with("mia has")), "{begun:?}");
    let strided = model.sampler().decode(DecodeConfig::Order(OrderConfig::Strided(4))).steps(4).draw(2).unwrap();
    assert_eq!(strided.nfe, [4, 4]);
    let none = model
        .sampler()
        .decode(DecodeConfig::Order(OrderConfig::Mixture(vec![OrderConfig::Strided(2), OrderConfig::Strided(4)])))
        .draw(1);
    assert!(none.unwrap_err().to_string().contains("one order is sampled at a time"));
    // What the binary refuses is refused here.
    for wrong in [model.sampler().temperature(-1.0), model.sampler().temperature(f64::NAN), model.sampler().steps(0)] {
        assert!(wrong.draw(1).is_err());
    }
    assert!(model.sampler().published("llada").draw(1).unwrap_err().to_string().contains("for public checkpoints"));
    assert!(Study::open("tini").is_err() && Model::load(place.path("nowhere")).is_err());
}

#[test]
fn a_teacher_is_distilled_compared_and_reported_from_code() {
    let place = Place::new();
    let out = place.path("report");
    let results = distil::run(60, &out.display().to_string()).unwrap();
    assert_eq!(results.models.len(), 3);
    for model in &results.models {
        let [first, last] = [0, model.rows.len() - 1].map(|i| model.rows[i].scores["oracle_nll"].mean);
        assert!(model.rows.len() == 3 && first > last, "{}: more steps are not better: {first} {last}", model.name);
        assert!(model.rows.iter().all(|row| row.sampler_nll.is_some()) && model.likelihood.is_some());
    }
    // What was written is read by the binary, the report among it.
    let page = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert!(
        page.contains("data of its own program") && page.contains("a program of its own, with the library"),
        "{page}"
    );
    place.run(&["report", "report/results.json", "--out", "again"]).ok();
    // And so is the student, with its tokenizer, in the steps that it was distilled for.
    let drawn = place.run(&["sample", "report/student", "-n", "2", "--seed", "3"]).ok().out;
    let model = Model::load(out.join("student")).unwrap();
    assert_eq!(drawn.trim_end(), model.sampler().seed(3).sample(2).unwrap().join("\n"));
    assert!(std::fs::read_to_string(out.join("student/config.json")).unwrap().contains("\"sdtt\""));
    let gate = place.run(&["gate", "report/results.json", "--baseline", "report/results.json"]);
    assert!(gate.code == 0, "{}", gate.err);
}

#[test]
fn own_data_is_learnt_and_scored_by_a_judge() {
    let by_one = own_data::run(120).unwrap();
    // Of any two digits one pair in five differs by one.
    assert!(by_one > 0.35, "{by_one}");
}

#[test]
fn a_network_that_reads_what_it_is_asked_for_is_not_trained_as_autoregressive() {
    let data = Sequences::new(5, vec![vec![0, 1, 2, 3, 4, 0]], vec![vec![4, 3, 2, 1, 0, 4]]).unwrap();
    let new = |config| Transformer::init(&config, 5, 6, 1, &training_device().unwrap());
    for visibility in [Visibility::Full, Visibility::Causal] {
        let ahead = Trainer::new(new(TransformerConfig::new(16, 1, 2, visibility)), &data).steps(1).ar();
        assert!(ahead.unwrap_err().to_string().contains("reads the tokens that it is asked for"));
    }
    let trained = Trainer::new(new(TransformerConfig::causal(16, 1, 2)), &data).steps(1).batch(2).ar().unwrap();
    assert!(trained.causal && trained.last_loss > 0.5 && trained.last_loss < 5.0, "{}", trained.last_loss);
}

#[test]
fn what_a_trainer_or_an_evaluation_cannot_do_is_an_error_and_not_a_panic_or_something_else() {
    let data = Sequences::new(5, vec![vec![0, 1, 2, 3], vec![4, 3, 2, 1]], vec![vec![1, 2, 3, 4]]).unwrap();
    let new = |vocab, visibility| {
        let network = TransformerConfig::new(16, 1, 2, visibility);
        Transformer::init(&network, vocab, 4, 1, &training_device().unwrap())
    };
    let trainer = |network| Trainer::new(network, &data).steps(2).batch(2);
    let full = || trainer(new(5, Visibility::Full));
    let teacher = full().elbo().unwrap();
    let other = trainer(new(7, Visibility::Full)).elbo().unwrap();
    let sdtt = |config: &SdttConfig| full().sdtt(&teacher.model, config);
    let kd = |config: &KdConfig| full().kd(&teacher.model, config);
    let good = KdConfig::new(Divergence::ForwardKl);
    let d3pm = Objective::D3pm(serde_json::from_str(r#"{ "levels": 8, "matrix": "uniform" }"#).unwrap());
    let wrong: Vec<(&str, Result<_>)> = vec![
        ("schedule", full().schedule(fewstep::process::Schedule::Cosine).kd(&teacher.model, &good)),
        ("sees everything", full().order(OrderConfig::Strided(2)).elbo()),
        ("as many phases", full().order(OrderConfig::Strided(0)).elbo()),
        ("ids in the data", trainer(new(3, Visibility::Full)).elbo()),
        ("its teacher", full().kd(&other.model, &good)),
        ("data", kd(&KdConfig { data: 2.0, ..good.clone() })),
        ("rounds", sdtt(&SdttConfig::new(8, 0))),
        ("rounds", sdtt(&SdttConfig::new(8, 3))),
        ("teacher_steps", sdtt(&SdttConfig::new(0, 1))),
        ("by a recipe", full().method(&d3pm, Default::default())),
        ("reads the tokens", trainer(new(5, Visibility::Order)).ar()),
    ];
    for (word, result) in wrong {
        let error = result.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(word), "{word} is not in: {error}");
    }
    let evaluation = || Evaluation::new("small", &data).samples(2).steps(&[2]).teacher("teacher", &teacher);
    let judged = evaluation().judge("judge", &teacher).run();
    assert!(judged.unwrap_err().to_string().contains("the judge reads the tokens"));
    let judge = trainer(new(5, Visibility::Causal).reconfigured(|c| c.shift = true)).ar().unwrap();
    assert!(evaluation().judge("judge", &judge).teacher("teacher", &other).run().is_err());
    let sweep = evaluation().judge("judge", &judge).config(|c| c.temperatures = vec![0.5]).run();
    assert!(sweep.unwrap_err().to_string().contains("no sweeps"));
    let sharp = Sharp(data.clone());
    let impossible = Evaluation::new("small", &sharp).samples(2).steps(&[2]).teacher("teacher", &teacher).run();
    assert!(impossible.unwrap_err().to_string().contains("smooth a language"));
    // An order that a network does not read as phases is not exported, for nothing could read it.
    let place = Place::new();
    let odd = Trained { order: OrderConfig::Strided(2), ..teacher.clone() };
    assert!(odd.export(&data, place.path("odd")).unwrap_err().to_string().contains("phases"));
    assert!(!place.path("odd").exists());
    // Ids that are never drawn are not drawn from its export either.
    let without = Trained { model: teacher.model.clone().without(&[3]), ..teacher.clone() };
    without.export(&data, place.path("without")).unwrap();
    let written = Model::load(place.path("without")).unwrap();
    assert_eq!(written.transformer().without_text(), [3]);
    let results = evaluation().judge("judge", &judge).run().unwrap();
    assert!(results.models[0].name == "judge" && results.models[0].rows.is_empty());
    // Those of another judge are not compared with them.
    let causal = |seed| {
        let network = Transformer::init(&TransformerConfig::causal(16, 1, 2), 5, 4, seed, &training_device().unwrap());
        Trainer::new(network, &data).steps(2).batch(2).ar().unwrap()
    };
    let other = evaluation().judge("judge", &causal(9)).run().unwrap();
    results.save(&place.path("a.json")).unwrap();
    other.save(&place.path("b.json")).unwrap();
    place.run(&["gate", "a.json", "--baseline", "b.json"]).fails(2, &["judge"]);
}

/// A language in which nothing is possible.
struct Sharp(Sequences);

impl Dataset for Sharp {
    fn vocab(&self) -> usize {
        self.0.vocab()
    }
    fn length(&self) -> usize {
        self.0.length()
    }
    fn batch(&self, seed: u64, step: u64, batch: usize) -> Vec<u32> {
        self.0.batch(seed, step, batch)
    }
    fn held_out(&self, n: usize) -> Vec<Vec<u32>> {
        self.0.held_out(n)
    }
    fn tokenizer(&self) -> fewstep::data::tokenizer::Tokenizer {
        self.0.tokenizer()
    }
    fn nll(&self, _: &[u32]) -> Option<f64> {
        Some(f64::INFINITY)
    }
}

/// A method of a program's own that keeps the network it began with, and learns from that.
struct FromItsStart;

struct Kept {
    start: Option<Transformer>,
    steps: std::rc::Rc<std::cell::Cell<usize>>,
}

impl Method for FromItsStart {
    fn facts(&self) -> fewstep::method::Facts<'_> {
        fewstep::method::Facts::of_tokens("from_its_start", "kl")
    }
    fn check(&self, _: &fewstep::method::Site) -> Result<()> {
        Ok(())
    }
    fn fits(&self, _: &fewstep::method::Site, _: &TransformerConfig) -> Result<()> {
        Ok(())
    }
    fn begin<'a>(&'a self, _: &fewstep::method::Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        Ok(Box::new(Kept { start: None, steps: Default::default() }))
    }
}

impl Training for Kept {
    fn start(&mut self, model: &Transformer) {
        self.start = Some(burn::module::Module::valid(model));
    }
    fn due(&mut self, nets: &fewstep::method::Nets) -> Result<()> {
        assert_eq!(self.steps.replace(nets.step + 1), nets.step);
        Ok(())
    }
    fn step(&self, nets: &fewstep::method::Nets, batch: &Batch) -> Result<(f64, burn::optim::GradientsParams)> {
        let rows = fewstep::method::kd_rows(&KdConfig::new(Divergence::ForwardKl), self.start.as_ref().unwrap(), batch);
        Ok(fewstep::loss::backward(nets.model, &rows))
    }
}

#[test]
fn an_own_method_keeps_what_it_needs_and_a_method_of_a_recipe_is_trained_from_code_as_by_its_own_call() {
    let data = Sequences::new(5, vec![vec![0, 1, 2, 3], vec![4, 3, 2, 1]], vec![vec![1, 2, 3, 4]]).unwrap();
    let new = || {
        let network = TransformerConfig::new(16, 1, 2, Visibility::Full);
        Transformer::init(&network, 5, 4, 1, &training_device().unwrap())
    };
    let trainer = |network| Trainer::new(network, &data).steps(6).batch(4).lr(1e-2);
    // In the first step it is its own teacher.
    let mut losses = Vec::new();
    let told = trainer(new()).each_step(|step| losses.push(step.loss));
    let own = told.own_method("from_its_start", &FromItsStart, Default::default()).unwrap();
    assert!(losses.len() == 6 && losses[0].abs() < 1e-6 && own.name == "from_its_start", "{losses:?}");
    let (elbo, objective) = (trainer(new()).elbo().unwrap(), Objective::Elbo(Default::default()));
    let by_method = trainer(new()).method(&objective, Default::default()).unwrap();
    assert_eq!(elbo.last_loss, by_method.last_loss);
    // One that lacks its teacher is not begun.
    let lacking = trainer(new()).method(&Objective::Sdtt(SdttConfig::new(8, 1)), Default::default());
    assert!(lacking.unwrap_err().to_string().contains("cannot be trained without"));
}

#[test]
fn an_own_objective_learns() {
    // Untrained networks write stories of some 4 nats a token.
    let [own, elbo] = own_method::run(150).unwrap();
    assert!(own < 3.5 && elbo < 3.5, "{own} {elbo}");
}

#[test]
fn an_own_network_is_trained_distilled_and_sampled() {
    let [before, behind] = own_denoiser::run(200).unwrap();
    assert!(before < 3.5 && behind < before + 0.2, "{before} {behind}");
}

/// `cargo tree` of the library alone.
#[test]
fn a_library_without_command_line_and_plots_links_none_of_their_crates() {
    let tree = |features: &[&str]| {
        let mut cargo = std::process::Command::new(option_env!("CARGO").unwrap_or("cargo"));
        cargo.args(["tree", "--offline", "-e", "normal", "--prefix", "none", "--no-default-features"]).args(features);
        let ran = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let text = String::from_utf8(ran.stdout).unwrap();
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_string).collect::<Vec<_>>()
    };
    let (library, binary) = (tree(&["--features", "flex"]), tree(&["--features", "flex,cli,plots"]));
    for name in ["clap", "indicatif", "signal-hook", "mimalloc", "libmimalloc-sys", "plotters", "image", "dejavu"] {
        assert!(!library.contains(&name.to_string()), "a library links {name}");
        assert!(binary.contains(&name.to_string()), "the binary does not link {name}");
    }
}
