//! What a token costs against the length of the text, for four ways of generating it on networks of one size.
//!
//!     cargo bench --bench context -- --out reports/context           measures, writes context.json, and draws
//!     cargo bench --bench context -- --out reports/context --draw    draws again from context.json
//!     cargo bench --bench context -- --lengths 64,128 --repeats 1    a first look
//!
//! Autoregression reads through its cache; full-sequence diffusion reads all positions in each of K steps; block diffusion
//! keeps finished blocks; with deeper layers (E2D2, Arriola et al. 2025) finished text passes the first layers once and
//! noise the last ones alone. Weights are random: what is drawn costs what a trained network would. Each run is a process of its
//! own, with one untimed run before the timed one; every round takes the four in turn, and medians are over rounds. Beside the measured numbers
//! stand the positions that the order's table computes for each token, and those times the layers they pass.
//! L length, K steps, b positions of a block.

#[allow(dead_code)]
mod paths;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use fewstep::eval::context::{ContextPoint, Paradigm};
use fewstep::eval::stats::{Estimate, Spread};
use fewstep::fs;
use fewstep::model::{Denoise, Transformer, TransformerConfig};
use fewstep::process::{Corruption, Order, Reading, Schedule};
use fewstep::report::figure::{Axis, Figure, Marker, Point, Scale, Series};
use fewstep::report::plot;
use fewstep::sample::{Decode, Process, SampleSpec, reading, sample};
use fewstep::study::device;
use paths::{flag, option, peak_kib};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The network's sizes and the generation's, from the command line.
struct Sizes {
    dim: usize,
    layers: usize,
    heads: usize,
    encoder_layers: usize,
    vocab: usize,
    block: usize,
    /// Steps of the parallel order for the whole text.
    steps: usize,
    /// Steps of each block.
    block_steps: usize,
    repeats: usize,
    device: String,
}

impl Sizes {
    fn from_args() -> Self {
        let number = |name: &str, default: usize| match option(name).map(|v| v.parse()) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(_)) => panic!("--{name} takes a whole number"),
        };
        Sizes {
            dim: number("dim", 256),
            layers: number("layers", 8),
            heads: number("heads", 4),
            encoder_layers: number("encoder-layers", 6),
            vocab: number("vocab", 512),
            block: number("block", 32),
            steps: number("steps", 32),
            block_steps: number("block-steps", 8),
            repeats: number("repeats", 3),
            device: option("device").unwrap_or_else(|| "flex".into()),
        }
    }

    /// The arguments that give a child these sizes.
    fn args(&self) -> Vec<String> {
        let numbers = [
            ("dim", self.dim),
            ("layers", self.layers),
            ("heads", self.heads),
            ("encoder-layers", self.encoder_layers),
            ("vocab", self.vocab),
            ("block", self.block),
            ("steps", self.steps),
            ("block-steps", self.block_steps),
        ];
        let numbers = numbers.into_iter().flat_map(|(name, value)| [format!("--{name}"), value.to_string()]);
        numbers.chain(["--device".into(), self.device.clone()]).collect()
    }

    fn network(&self, paradigm: Paradigm) -> TransformerConfig {
        let (dim, layers, heads) = (self.dim, self.layers, self.heads);
        let rest = match paradigm {
            Paradigm::Ar => "visibility = \"causal\"\nshift = true".to_string(),
            Paradigm::Parallel => "visibility = \"full\"".into(),
            Paradigm::Blocks => "visibility = \"order\"".into(),
            Paradigm::Deeper => format!("visibility = \"order\"\nencoder_layers = {}", self.encoder_layers),
        };
        toml::from_str(&format!("dim = {dim}\nlayers = {layers}\nheads = {heads}\n{rest}")).expect("a configuration")
    }

    /// The order and the steps of a text of `length`.
    fn order(&self, paradigm: Paradigm, length: usize) -> (Order, usize) {
        match paradigm {
            Paradigm::Ar => (Order::left_to_right(), length),
            Paradigm::Parallel => (Order::parallel(length), self.steps),
            Paradigm::Blocks | Paradigm::Deeper => {
                let order = Order::in_blocks(self.block.min(length));
                (order, order.blocks(length) * self.block_steps)
            }
        }
    }
}

fn main() {
    let sizes = Sizes::from_args();
    if let Some(name) = option("child") {
        let paradigm = Paradigm::ALL.into_iter().find(|p| p.name() == name).expect("a paradigm");
        let length = option("length").and_then(|l| l.parse().ok()).expect("--length with a whole number");
        let run = measure(&sizes, paradigm, length);
        println!("{}", serde_json::to_string(&run).expect("JSON"));
        return;
    }
    let out = PathBuf::from(option("out").unwrap_or_else(|| "target/context".into()));
    fs::create_dir(&out).unwrap_or_else(|e| panic!("{e}"));
    let file = out.join("context.json");
    if !flag("draw") {
        let points = all(&sizes);
        let text = serde_json::to_string_pretty(&points).expect("JSON");
        fs::write_atomic(&file, text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    }
    let points = fewstep::eval::context::load(&file).unwrap_or_else(|e| panic!("{e}"));
    print!("{}", table(&points));
    for figure in figures(&points) {
        let (svg, png) = (plot::svg(&figure).expect("a plot"), plot::png(&figure).expect("a plot"));
        for (ending, bytes) in [("svg", svg.as_bytes()), ("png", &png)] {
            let path = out.join(format!("{}.{ending}", figure.name));
            fs::write_atomic(&path, bytes).unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

fn all(sizes: &Sizes) -> Vec<ContextPoint> {
    let lengths = option("lengths").unwrap_or_else(|| "64,128,256,512,1024,2048".into());
    let mut points = Vec::new();
    for length in lengths.split(',').map(|l| l.parse::<usize>().expect("--lengths with whole numbers")) {
        let mut runs: Vec<Vec<ContextPoint>> = vec![Vec::new(); Paradigm::ALL.len()];
        for _ in 0..sizes.repeats.max(1) {
            for (own, paradigm) in runs.iter_mut().zip(Paradigm::ALL) {
                own.push(child(sizes, paradigm, length));
            }
        }
        for own in runs {
            points.push(together(&own));
            eprintln!("{:?}", points.last());
        }
    }
    points
}

fn child(sizes: &Sizes, paradigm: Paradigm, length: usize) -> ContextPoint {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--child", paradigm.name(), "--length", &length.to_string()]).args(sizes.args());
    let output = command.output().expect("a process");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim().lines().last().unwrap_or_default()).expect("a measured point")
}

/// The rounds of one point as one: median and quartiles of the times, and the median of the peaks.
fn together(runs: &[ContextPoint]) -> ContextPoint {
    let seconds: Vec<f64> = runs.iter().map(|r| r.seconds_per_token.median).collect();
    let mut peaks: Vec<u64> = runs.iter().map(|r| r.peak_kib).collect();
    peaks.sort_unstable();
    let (seconds_per_token, peak_kib) = (Spread::of(&seconds), peaks[peaks.len() / 2]);
    ContextPoint { seconds_per_token, repeats: runs.len(), peak_kib, ..runs[0].clone() }
}

/// One run in this process, after one that is not timed.
fn measure(sizes: &Sizes, paradigm: Paradigm, length: usize) -> ContextPoint {
    let config = sizes.network(paradigm);
    fewstep::alloc::settle(config.parameters(sizes.vocab, length).try_into().unwrap_or(usize::MAX));
    let device = device::open(&sizes.device).unwrap_or_else(|e| panic!("{e}"));
    let model = Transformer::init(&config, sizes.vocab, length, 1, &device);
    let (order, steps) = sizes.order(paradigm, length);
    let process = Process {
        order,
        schedule: Schedule::LogLinear,
        corruption: Corruption::Absorb,
        length,
        cached: paradigm != Paradigm::Parallel,
        chain: None,
        decode: Decode::Table,
    };
    let run = |seed: u64| {
        let begin = Instant::now();
        let drawn = sample(&model, &process, &SampleSpec::new(steps, seed, 1), 1).unwrap_or_else(|e| panic!("{e}"));
        (begin.elapsed().as_secs_f64(), drawn)
    };
    run(1);
    let (seconds, drawn) = run(2);
    let each = |n: u64| n as f64 / length as f64;
    let (positions, layer_positions) = of_table(&model, &process, steps);
    ContextPoint {
        paradigm,
        length,
        steps,
        block: order.block,
        seconds_per_token: Spread::of(&[seconds / length as f64]),
        repeats: 1,
        peak_kib: peak_kib().expect("the maximum resident size, which this system does not tell"),
        nfe: drawn.nfe[0] as f64,
        positions_per_token: each(drawn.positions[0]),
        layer_positions_per_token: each(drawn.layer_positions[0]),
        table_positions_per_token: each(positions),
        table_layer_positions_per_token: each(layer_positions),
    }
}

/// Positions that the table of the order computes where every step reveals something, and those times the layers.
fn of_table(model: &Transformer, process: &Process, steps: usize) -> (u64, u64) {
    let grid = process.order.grid(process.length, steps).unwrap_or_else(|e| panic!("{e}"));
    let (how, layers) = (reading(model, process), model.layers());
    let (mut filled, mut sum) = (0, (0, 0));
    for k in 0..grid.steps() {
        let (read, kept) = grid.read(k, how, filled);
        let text = kept - filled;
        let passed = match how {
            Reading::Whole => read.len() * layers.whole,
            _ => text * layers.text + (read.len() - text) * layers.noise,
        };
        sum = (sum.0 + read.len() as u64, sum.1 + passed as u64);
        filled = kept;
    }
    sum
}

/// The points of one paradigm, by length.
fn along(points: &[ContextPoint], paradigm: Paradigm) -> Vec<&ContextPoint> {
    let mut own: Vec<&ContextPoint> = points.iter().filter(|p| p.paradigm == paradigm).collect();
    own.sort_by_key(|p| p.length);
    own
}

fn table(points: &[ContextPoint]) -> String {
    let mut text = String::from(
        "| paradigm | length | steps | ms per token [quartiles] | peak MiB | positions per token | of the table | times layers | of the table |\n",
    );
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for p in Paradigm::ALL.iter().flat_map(|paradigm| along(points, *paradigm)) {
        let s = p.seconds_per_token;
        text.push_str(&format!(
            "| {} | {} | {} | {:.3} [{:.3}, {:.3}] | {:.0} | {:.2} | {:.2} | {:.1} | {:.1} |\n",
            p.paradigm.name(),
            p.length,
            p.steps,
            1e3 * s.median,
            1e3 * s.q1,
            1e3 * s.q3,
            p.peak_kib as f64 / 1024.0,
            p.positions_per_token,
            p.table_positions_per_token,
            p.layer_positions_per_token,
            p.table_layer_positions_per_token,
        ));
    }
    text
}

fn figures(points: &[ContextPoint]) -> Vec<Figure> {
    let ms = |p: &ContextPoint| {
        let s = p.seconds_per_token;
        Estimate { mean: 1e3 * s.median, low: 1e3 * s.q1, high: 1e3 * s.q3 }
    };
    let mib = |p: &ContextPoint| Estimate::exact(p.peak_kib as f64 / 1024.0);
    let work = |p: &ContextPoint| Estimate::exact(p.layer_positions_per_token);
    vec![
        figure(points, "context_time", "Time of a token against the length of the text", "ms per token", ms),
        figure(points, "context_memory", "Peak memory against the length of the text", "peak memory, MiB", mib),
        figure(points, "context_positions", "Computed positions against length", "positions x layers per token", work),
    ]
}

fn figure(
    points: &[ContextPoint],
    name: &'static str,
    title: &str,
    label: &str,
    cost: impl Fn(&ContextPoint) -> Estimate,
) -> Figure {
    let looks = [
        ((30, 30, 30), Marker::Square),
        ((0, 114, 178), Marker::Circle),
        ((213, 94, 0), Marker::Up),
        ((0, 158, 115), Marker::Diamond),
    ];
    let series = Paradigm::ALL.into_iter().zip(looks).map(|(paradigm, (color, marker))| {
        let own = along(points, paradigm);
        let each = own
            .first()
            .map_or(0, |p| if paradigm == Paradigm::Parallel { p.steps } else { p.steps * p.block / p.length });
        let way = match paradigm {
            Paradigm::Ar => "one token a step".to_string(),
            Paradigm::Parallel => format!("{each} steps"),
            _ => format!("{each} a block"),
        };
        let point = |p: &&ContextPoint| Point {
            x: Estimate::exact(p.length as f64),
            y: cost(p),
            tag: String::new(),
            open: false,
            seeds: Vec::new(),
        };
        Series {
            name: format!("{}: {way}", paradigm.name()),
            color,
            marker,
            points: own.iter().map(point).collect(),
            bound: false,
        }
    });
    Figure {
        name,
        title: title.into(),
        x: Axis { label: "length of the text, tokens".into(), scale: Scale::Log2 },
        y: Axis { label: label.into(), scale: Scale::Log10 },
        series: series.collect(),
        guides: Vec::new(),
        bars: "quartiles",
    }
}
