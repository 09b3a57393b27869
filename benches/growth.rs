//! How time and peak memory grow with length, width, batch and vocabulary, with fitted exponents.
//!
//!     cargo bench --bench growth -- --out reports/growth          measures, writes growth.json, and draws
//!     cargo bench --bench growth -- --out reports/growth --draw   draws again from growth.json
//!
//! Each point is a process of its own, so that its maximum resident size is that of one network and one path. The exponent p
//! of cost = c x^p is a least-squares line through the logarithms of the three largest sizes of an axis: at the small ones
//! fixed costs hide it. B batch, L length, D width, V vocabulary.

mod paths;

use std::path::PathBuf;
use std::process::Command;

use fewstep::eval::stats::Estimate;
use fewstep::fs;
use fewstep::report::figure::{Axis, Figure, Marker, Point, Scale, Series};
use fewstep::report::plot;
use paths::{Sizes, measure, option, peak_kib};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The network in the middle of every axis.
const BASE: [(&str, usize); 6] =
    [("vocab", 512), ("length", 128), ("batch", 8), ("dim", 128), ("layers", 2), ("heads", 4)];
const AXES: [(&str, &[usize]); 4] = [
    ("length", &[64, 128, 256, 512, 1024, 2048]),
    ("dim", &[64, 128, 256, 512]),
    ("batch", &[4, 8, 16, 32, 64]),
    ("vocab", &[64, 512, 4096, 16384, 50257]),
];
const PATHS: [&str; 3] = ["train", "distill", "sample"];

/// One measured point.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Measured {
    path: String,
    axis: String,
    value: usize,
    median_s: f64,
    q1_s: f64,
    q3_s: f64,
    peak_kib: u64,
}

fn main() {
    if let Some(path) = option("child") {
        let sizes = Sizes::from_args();
        sizes.settle();
        let (t, _) = measure(&sizes, &path);
        let peak = peak_kib().expect("the maximum resident size, which this system does not tell");
        println!("{}", serde_json::json!([t.median, t.q1, t.q3, peak]));
        return;
    }
    let out = PathBuf::from(option("out").unwrap_or_else(|| "target/growth".into()));
    fs::create_dir(&out).unwrap_or_else(|e| panic!("{e}"));
    let file = out.join("growth.json");
    let points: Vec<Measured> = if paths::flag("draw") {
        serde_json::from_slice(&std::fs::read(&file).expect("growth.json")).expect("measured points")
    } else {
        let points = all();
        let text = serde_json::to_string_pretty(&points).expect("JSON");
        fs::write_atomic(&file, text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        points
    };
    print!("{}", table(&points));
    for figure in figures(&points) {
        let (svg, png) = (plot::svg(&figure).expect("a plot"), plot::png(&figure).expect("a plot"));
        for (ending, bytes) in [("svg", svg.as_bytes()), ("png", &png)] {
            let path = out.join(format!("{}.{ending}", figure.name));
            fs::write_atomic(&path, bytes).unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

fn all() -> Vec<Measured> {
    let mut points = Vec::new();
    for path in PATHS {
        for (axis, values) in AXES {
            for value in values {
                points.push(child(path, axis, *value));
                eprintln!("{:?}", points.last());
            }
        }
    }
    points
}

fn child(path: &str, axis: &str, value: usize) -> Measured {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--child", path, "--repeats", "5"]);
    for (name, base) in BASE {
        let value = if name == axis { value } else { base };
        command.args([format!("--{name}"), value.to_string()]);
        if name == "batch" {
            // The sampler's batch.
            command.args(["--samples".into(), value.to_string()]);
        }
    }
    let output = command.output().expect("a process");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = String::from_utf8_lossy(&output.stdout);
    let (median_s, q1_s, q3_s, peak_kib): (f64, f64, f64, u64) =
        serde_json::from_str(line.trim().lines().last().unwrap_or_default()).expect("a line of numbers");
    Measured { path: path.into(), axis: axis.into(), value, median_s, q1_s, q3_s, peak_kib }
}

/// The points of one path along one axis.
fn along<'a>(points: &'a [Measured], path: &'a str, axis: &'a str) -> impl Iterator<Item = &'a Measured> {
    points.iter().filter(move |p| p.path == path && p.axis == axis)
}

/// p of cost = c x^p at the three largest sizes, by least squares in the logarithms.
fn exponent(points: &[(f64, f64)]) -> f64 {
    let last: Vec<(f64, f64)> =
        points[points.len().saturating_sub(3)..].iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let n = last.len() as f64;
    let (mx, my) = (last.iter().map(|p| p.0).sum::<f64>() / n, last.iter().map(|p| p.1).sum::<f64>() / n);
    let (xy, xx) = last.iter().fold((0.0, 0.0), |(xy, xx), (x, y)| (xy + (x - mx) * (y - my), xx + (x - mx).powi(2)));
    xy / xx
}

fn fitted(points: &[Measured], path: &str, axis: &str, cost: impl Fn(&Measured) -> f64) -> f64 {
    exponent(&along(points, path, axis).map(|p| (p.value as f64, cost(p))).collect::<Vec<_>>())
}

fn kib(p: &Measured) -> f64 {
    p.peak_kib as f64
}

fn table(points: &[Measured]) -> String {
    let mut text =
        String::from("| path | axis | sizes | ms | peak MiB | exponent of time | exponent of peak memory |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
    for path in PATHS {
        for (axis, _) in AXES {
            let list =
                |f: &dyn Fn(&Measured) -> String| along(points, path, axis).map(f).collect::<Vec<_>>().join(", ");
            text.push_str(&format!(
                "| {path} | {axis} | {} | {} | {} | {:.2} | {:.2} |\n",
                list(&|p| p.value.to_string()),
                list(&|p| format!("{:.0}", 1e3 * p.median_s)),
                list(&|p| format!("{:.0}", p.peak_kib as f64 / 1024.0)),
                fitted(points, path, axis, |p| p.median_s),
                fitted(points, path, axis, kib),
            ));
        }
    }
    text
}

fn figures(points: &[Measured]) -> Vec<Figure> {
    let seconds = |p: &Measured| Estimate { mean: p.median_s, low: p.q1_s, high: p.q3_s };
    let mib = |p: &Measured| Estimate::exact(kib(p) / 1024.0);
    vec![
        figure(points, "train_time", "training step", "train", "seconds", seconds),
        figure(points, "distill_time", "distillation step", "distill", "seconds", seconds),
        figure(points, "sample_time", "sampling in 8 steps", "sample", "seconds", seconds),
        figure(points, "train_memory", "training step", "train", "peak memory, MiB", mib),
        figure(points, "distill_memory", "distillation step", "distill", "peak memory, MiB", mib),
        figure(points, "sample_memory", "sampling in 8 steps", "sample", "peak memory, MiB", mib),
    ]
}

fn figure(
    points: &[Measured],
    name: &'static str,
    title: &str,
    path: &str,
    label: &str,
    cost: impl Fn(&Measured) -> Estimate,
) -> Figure {
    let looks = [
        ((0, 114, 178), Marker::Circle),
        ((213, 94, 0), Marker::Up),
        ((0, 158, 115), Marker::Diamond),
        ((204, 121, 167), Marker::Square),
    ];
    let series = AXES.iter().zip(looks).map(|((axis, _), (color, marker))| {
        let base = BASE.iter().find(|(name, _)| name == axis).map_or(1, |b| b.1) as f64;
        let power = fitted(points, path, axis, |p| cost(p).mean);
        let points = along(points, path, axis)
            .map(|p| Point {
                x: Estimate::exact(p.value as f64 / base),
                y: cost(p),
                tag: String::new(),
                open: false,
                seeds: Vec::new(),
            })
            .collect();
        Series { name: format!("{axis}: power {power:.2}"), color, marker, points, bound: false }
    });
    let base: Vec<String> = BASE.iter().map(|(name, value)| format!("{name} {value}")).collect();
    Figure {
        name,
        title: format!("{title}: growth from {}", base.join(", ")),
        x: Axis { label: "size as a multiple of that network's".into(), scale: Scale::Log10 },
        y: Axis { label: label.into(), scale: Scale::Log10 },
        series: series.collect(),
        guides: Vec::new(),
        bars: "quartiles",
    }
}
