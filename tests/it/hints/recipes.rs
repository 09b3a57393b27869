//! Hints of recipe errors, applied as the user would.

use std::path::PathBuf;

use fewstep::error::{Error, Kind};
use fewstep::recipe::{self, Written, builtin};

use super::settings;

/// A built-in recipe, what is set in it, and the hint of the error that this gives.
pub struct Case(pub &'static str, pub &'static [&'static str], pub &'static str);

pub const CASES: &[Case] = &[
    // Ranges.
    Case("tiny", &["model.ar.train.batch=0"], "the nearest allowed value: `model.ar.train.batch = 1`"),
    Case("tiny", &["model.ar.train.lr=nan"], "the nearest allowed value: `model.ar.train.lr = 1e-12`"),
    Case("tiny", &["model.ar.train.lr=1e308"], "the nearest allowed value: `model.ar.train.lr = 10`"),
    Case("tiny", &["model.ar.network.dim=9223372036854775807"], "`model.ar.network.dim = 65536`"),
    Case("tiny", &["model.ar.network.cond_dim=9223372036854775807"], "`model.ar.network.cond_dim = 65536`"),
    Case("tiny", &["eval.samples=1"], "`eval.samples = 2`"),
    Case("tiny", &["eval.speed_repeats=1000000"], "`eval.speed_repeats = 1000`"),
    Case("tiny", &["eval.batch=4611686018427387904"], "`eval.batch = 1048576`"),
    Case("tiny", &["gate.resamples=1099511627776"], "`gate.resamples = 100000`"),
    Case("tiny", &["gate.rules=[{metric=\"nll\", relative=-0.1}]"], "`gate.rules[0].relative = 0`"),
    Case("tiny", &["data.story.noise=0.0"], "`data.story.noise = 1e-12`"),
    Case("tiny", &["model.student.objective.sdtt.teacher_steps=4611686018427387904"], "teacher_steps = 1048576`"),
    Case("tiny", &["model.ar.decode=[{switch={block=0, tolerance=1.0}}]"], "`model.ar.decode[0].switch.block = 1`"),
    // Networks.
    Case("tiny", &["model.ar.network.heads=3"], "`model.ar.network.heads = 2`"),
    Case("tiny", &["model.ar.network.dim=31"], "an even width: `model.ar.network.dim = 4`"),
    Case("tiny", &["model.ar.network.head_dim=3"], "`model.ar.network.head_dim = 4`"),
    Case("tiny", &["model.ar.network.kv_heads=3"], "`model.ar.network.kv_heads = 2`"),
    Case("tiny", &["model.teacher.network.encoder_layers=1"], "`model.teacher.network.encoder_layers = 0`"),
    Case(
        "tiny",
        &["model.teacher.network.encoder_layers=1", "model.teacher.network.layers=2"],
        "or leave the encoder out: `model.teacher.network.encoder_layers = 0`",
    ),
    Case(
        "tiny",
        &[
            "model.teacher.network.encoder_layers=1",
            "model.teacher.network.layers=2",
            "model.teacher.network.visibility={blocks=4}",
            "model.teacher.order={pipelined={block=4,window=2}}",
        ],
        "`model.teacher.network.encoder_layers = 0`, or an order in `{ blocks = N }`",
    ),
    Case(
        "tiny",
        &["model.teacher.network.shift=true"],
        "a network that sees every position needs no shift: `model.teacher.network.shift = false`",
    ),
    Case(
        "tiny",
        &[
            "model.ar.network.rope_scaling={factor=8, low_freq_factor=4, high_freq_factor=1, original_max_position_embeddings=32}",
        ],
        "`model.ar.network.rope_scaling.high_freq_factor = 16`",
    ),
    Case("latent", &["model.flow.network.shift=true"], "`model.flow.network.shift = false`"),
    Case("latent", &["model.flow.network.time=none"], "`model.flow.network.time = \"sequence\"`"),
    Case(
        "latent",
        &["model.flow.network.vectors.condition=1", "model.flow.network.visibility=causal"],
        "`model.flow.network.visibility = \"full\"`",
    ),
    Case(
        "latent",
        &["model.codec.network.layers=1", "model.codec.network.bottleneck.decoder_layers=1"],
        "`model.codec.network.layers = 2`",
    ),
    Case("latent", &["model.codec.network.time=sequence"], "`model.codec.network.time = \"none\"`"),
    Case("latent", &["model.codec.network.learned_positions=false"], "`model.codec.network.learned_positions = true`"),
    // Names.
    Case("tiny", &["name=a/b"], "`name = \"a-b\"`"),
    Case("tiny", &["name=CON"], "`name = \"my-CON\"`"),
    Case(
        "tiny",
        &[
            "model.oracle={order=\"parallel\", objective={sdtt={teacher=\"teacher\", teacher_steps=8, rounds=1}}, train={steps=1, batch=1, lr=1e-3}}",
        ],
        "give the model another name, or set `eval.oracle = false`",
    ),
    Case("tiny", &["export.models=[\"student\", \"student\"]"], "`export.models = [\"student\"]`"),
    // Seeds.
    Case("tiny", &["seeds=[1]"], "`seeds = [1, 2]`, or `seed` in place of `seeds`"),
    Case("tiny", &["seeds=[1, 2, 1]"], "`seeds = [1, 2]`"),
    Case("shakespeare", &["model.judge.seed=1"], "another seed: `model.judge.seed = 2`"),
    // Contradictions.
    Case("tiny", &["model.ar.order=parallel"], "`model.ar.order = \"left_to_right\"`"),
    Case(
        "tiny",
        &["model.ar.network.shift=false", "model.ar.network.visibility=full"],
        "`model.ar.network.visibility = \"causal\"`",
    ),
    Case("tiny", &["model.teacher.network.visibility=causal"], "`model.teacher.network.visibility = \"full\"`"),
    Case(
        "tiny",
        &[
            "model.student.order={blocks=4}",
            "model.teacher.network.visibility=order",
            "model.teacher.order={mixture=[\"parallel\", {blocks=4}]}",
            "model.student.decode=[{order={blocks=4}}]",
            "model.student.objective.sdtt.refresh=ema",
            "model.student.train={steps=30, batch=16, lr=1e-3}",
        ],
        "`model.student.train.ema = 0.999`",
    ),
    Case(
        "tiny",
        &["model.teacher.order={ar_diffusion={levels=4}}", "model.teacher.network.visibility=causal"],
        "`model.teacher.network.visibility = \"full\"`",
    ),
    Case(
        "tiny",
        &["model.student.objective.sdtt.schedule=cosine"],
        "`model.student.objective.sdtt.schedule = \"log_linear\"`",
    ),
    Case(
        "tiny",
        &["model.student.objective.sdtt.teacher_steps=4"],
        "`model.student.objective.sdtt.rounds = 2`, or more teacher steps",
    ),
    Case(
        "tiny",
        &["model.student.objective.sdtt.teacher_steps=1"],
        "`model.student.objective.sdtt.rounds = 1` and `model.student.objective.sdtt.teacher_steps = 2`",
    ),
    Case("tiny", &["model.student.train.steps=2"], "`model.student.train.steps = 3` at least"),
    Case(
        "pictures",
        &["model.hybrid.order={segments={text=2, block=4}}"],
        "`model.hybrid.order = { segments = { text = 29, block = 16 } }`",
    ),
    Case(
        "tiny",
        &["model.teacher.decode=[{order={segments={text=2, block=4}}}]"],
        "take this way out of `model.teacher.decode`, or train with `model.teacher.network.visibility = \"order\"`",
    ),
    Case(
        "consistency",
        &["model.uniform.decode=[{order={blocks=4}}]"],
        "`model.uniform.decode = [{ order = \"parallel\" }]`",
    ),
    Case(
        "consistency",
        &["model.masked.decode=[{greedy_tail=\"parallel\"}]"],
        "`model.masked.decode = [{ order = \"parallel\" }]`",
    ),
    Case("consistency", &["model.uniform.network.time=none"], "`model.uniform.network.time = \"sequence\"`"),
    Case(
        "consistency",
        &["model.uniform.objective={d3pm={levels=8, matrix=\"uniform\"}}", "eval.flexibility.steps=16"],
        "`eval.flexibility.steps = 8`",
    ),
    Case(
        "consistency",
        &["model.dcd.objective.dcd.schedule=cosine"],
        "`model.dcd.objective.dcd.schedule = \"log_linear\"`",
    ),
    Case(
        "consistency",
        &["model.dcd.objective.dcd.rounds=32", "model.dcd.objective.dcd.levels=2"],
        "`model.dcd.objective.dcd.rounds = 1`, or more levels",
    ),
    Case(
        "consistency",
        &["model.teacher_free.objective.consistency.corruption=gaussian_argmax"],
        "`model.teacher_free.objective.consistency.corruption = \"uniform\"`",
    ),
    Case(
        "consistency",
        &["model.teacher_free.objective.consistency={max_step=0.0, likelihood=0.0}"],
        "`model.teacher_free.objective.consistency.likelihood = 1.0`, or leave one of them at its default",
    ),
    Case(
        "tiny",
        &[
            "model.teacher.objective={elbo={clip={range={low=0.9, high=0.1}}}}",
            "model.teacher.order={blocks=4}",
            "model.teacher.network.visibility={blocks=4}",
        ],
        "for example `model.teacher.objective.elbo.clip.range = { low = 0.3, high = 0.8 }`",
    ),
    // Checkpoints.
    Case(
        "llada-8b-lora",
        &["model.teacher.lora={rank=4, alpha=8.0}"],
        "`model.teacher.train.steps = 1000`, for instance; a model taken as it is has no adapters",
    ),
    Case(
        "llada-8b-lora",
        &["model.teacher.train.steps=5"],
        "`model.teacher.dtype.weights = \"f32\"`, or adapters: `[model.teacher.lora]`",
    ),
    Case(
        "llada-8b-lora",
        &["model.teacher.dtype.compute=f16"],
        "train in bf16: `model.teacher.dtype.compute = \"bf16\"`",
    ),
    // Latents.
    Case("latent", &["model.codec.order={blocks=2}"], "`model.codec.order = \"parallel\"`"),
    Case("latent", &["model.progressive.order={blocks=2}"], "`model.progressive.order = \"parallel\"`"),
    Case("latent", &["model.blocks.network.time=sequence"], "`model.blocks.network.time = \"position\"`"),
    Case(
        "latent",
        &["model.flow.network.vectors.count=4"],
        "`model.flow.network.vectors.count = 8` and `model.flow.network.vectors.width = 16`",
    ),
    Case(
        "latent",
        &["model.flow.objective.latent.guidance=2.0"],
        "`model.flow.objective.latent.guidance = 1.0` guides by nothing",
    ),
    Case("latent", &["model.flow.network.vectors.condition=40"], "`model.flow.network.vectors.condition = 32` at most"),
    Case(
        "latent",
        &["model.shortcut.objective.latent_distill.teacher=flow"],
        "`model.flow.network.vectors.two_times = true`",
    ),
    Case(
        "latent",
        &[
            "model.progressive.objective.latent_distill.method.progressive.refresh=ema",
            "model.progressive.train={steps=100, batch=4, lr=1e-3}",
        ],
        "`model.progressive.train.ema = 0.999`",
    ),
    Case(
        "latent",
        &["model.progressive.objective.latent_distill.method.progressive={steps=6, rounds=2}"],
        "`model.progressive.objective.latent_distill.method.progressive.steps = 8`",
    ),
    Case(
        "latent",
        &["model.shortcut.objective.latent_distill.method.shortcut.finest=3"],
        "`model.shortcut.objective.latent_distill.method.shortcut.finest = 4`",
    ),
    // Embeddings.
    Case("control", &["model.embed.network.visibility=causal"], "`model.embed.network.visibility = \"full\"`"),
    Case("control", &["model.embed.network.vectors.count=35"], "`model.embed.network.vectors.count = 36`"),
    Case(
        "control",
        &["model.embed.objective.embedding.given=36"],
        "`model.embed.objective.embedding.given = 0` gives nothing",
    ),
    Case(
        "control",
        &["model.embed.objective.embedding.given=0"],
        "`model.embed.objective.embedding.given = 1` or more",
    ),
    Case("control", &["model.classifier.network.vectors.width=8"], "`model.classifier.network.vectors.width = 16`"),
    Case("control", &["model.embed.order={ar_diffusion={levels=2000}}"], "`model.embed.network.time = \"position\"`"),
    Case(
        "control",
        &["model.embed.order={ar_diffusion={levels=4}}", "model.embed.network.time=position"],
        "`model.embed.objective.embedding.levels = 4`",
    ),
    Case(
        "control",
        &["model.embed.order={ar_diffusion={levels=2000}}", "model.embed.network.time=position"],
        "`model.embed.order = \"parallel\"`, or no guidance for it",
    ),
    // Data.
    Case("shakespeare", &["data.text.valid_fraction=2.0"], "for instance `data.text.valid_fraction = 0.05`"),
    Case("shakespeare", &["data.text.path=\"\""], "name a text file: `data.text.path = \"my.txt\"`"),
    Case("shakespeare", &["data.text.path=[]"], "name a text file: `data.text.path = \"my.txt\"`"),
    Case("shakespeare", &["data.text.length=1"], "`data.text.length = 2`"),
    Case(
        "shakespeare",
        &["data.text.tokenizer={train={bpe=256}}"],
        "the nearest allowed value: `data.text.tokenizer.train.bpe = 257`",
    ),
    Case(
        "shakespeare",
        &["data.text.documents=\" \""],
        "the line between two documents, such as `data.text.documents = \"<|endoftext|>\"`",
    ),
    Case("control", &["data.pairs.length_classes=1"], "none: `data.pairs.length_classes = 0`"),
    Case("control", &["data.pairs.valid_fraction=0.7"], "for instance `data.pairs.valid_fraction = 0.05`"),
    Case("control", &["data.pairs.unconditional=1.0"], "none: `data.pairs.unconditional = 0.0`"),
    Case("pictures", &["data.pictures.rows=3"], "`data.pictures.rows = 2`"),
    Case("pictures", &["data.pictures.rows=2", "data.pictures.columns=2"], "`data.pictures.count = 1`"),
    // Evaluation and gate.
    Case("tiny", &["eval.steps=[0, 2]"], "`eval.steps = [1, 2]`"),
    Case("tiny", &["eval.steps=[2097152]"], "`eval.steps = [1048576]`"),
    Case(
        "tiny",
        &["eval.steps=[25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2]"],
        "in rising order, each once, such as `eval.steps = [1, 2, 4, 8]`",
    ),
    Case(
        "tiny",
        &["eval.temperatures=[1.0]"],
        "temperature 1 is always sampled; list others: `eval.temperatures = [0.7, 0.8, 0.9]`",
    ),
    Case("tiny", &["eval.temperatures=[0.9, 0.7]"], "`eval.temperatures = [0.7, 0.9]`"),
    Case("tiny", &["gate.rules=[{metric=\"nll\", model=\"studnet\"}]"], "`gate.rules[0].model = \"student\"`"),
    Case(
        "tiny",
        &["gate.rules=[{metric=\"nll\", model=\"student\", steps=[3]}]"],
        "`gate.rules[0].steps = [2, 4, 8]` are all of them",
    ),
    // Names that are nearly right.
    Case("tiny", &["model.studnt.train.steps=3"], "did you mean `--set model.student.train.steps=3`?"),
    Case("tiny", &["model.ar.train.stps=3"], "did you mean `--set model.ar.train.steps=3`?"),
    Case("tiny", &["seed=1e3"], "`--set seed=1000`"),
];

/// The built-in recipe with these settings.
pub fn read(name: &str, sets: &[String]) -> Result<recipe::Loaded, Error> {
    let text = builtin::find(name).unwrap_or_else(|| panic!("no built-in recipe {name}"));
    recipe::read(Written { text: text.into(), place: format!("{name}.toml"), sets: sets.to_vec() }, PathBuf::from("."))
}

/// What an error is about, without its place.
fn about(e: &Error) -> &str {
    e.message.rsplit_once(" (").map_or(&e.message, |(what, _)| what)
}

#[test]
fn every_hint_of_a_recipe_error_is_followed_and_the_error_is_gone() {
    for Case(name, sets, words) in CASES {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        let e = match read(name, &sets) {
            Ok(_) => panic!("{name} with {sets:?} was accepted"),
            Err(e) => e,
        };
        assert_eq!(e.kind, Kind::Usage, "{e}");
        let hint = e.hint.clone().unwrap_or_else(|| panic!("no hint: {e}"));
        assert!(hint.contains(words), "{name} with {sets:?} has another hint than `{words}`:\n{e}");
        let ways = settings(&hint);
        assert!(!ways.is_empty(), "{hint} sets nothing");
        for way in ways {
            // A `--set` that was wrong itself is given in place of it.
            let before = if hint.contains("--set") { Vec::new() } else { sets.clone() };
            let followed: Vec<String> = before.into_iter().chain(way.clone()).collect();
            if let Err(after) = read(name, &followed) {
                assert_ne!(about(&after), about(&e), "{way:?} was followed:\n{after}");
            }
        }
    }
}
