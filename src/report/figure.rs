//! What the plots show, as data: series with intervals, and guide lines; `plot` draws it.

use super::table::{collapsed, several_orders, shown};
use crate::eval::matched;
use crate::eval::results::{Bound, DataKind, Metric, ModelResult, Results, Role, Row, SeedRow};
use crate::eval::stats::{Estimate, mean};

/// Red, green and blue, 0 to 255.
pub type Rgb = (u8, u8, u8);

const BLACK: Rgb = (30, 30, 30);
const GRAY: Rgb = (110, 110, 110);
const BLUE: Rgb = (0, 114, 178);
/// The palette of Okabe and Ito (2008), safe for colour-blind readers, without blue (teacher), black (AR) and its yellow,
/// which is too light on white.
pub(super) const STUDENTS: [Rgb; 5] = [(213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233)];

/// Shapes, so that a series is known without its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    Circle,
    Square,
    Up,
    Diamond,
    Down,
    Pentagon,
    Cross,
    Star,
    Spark,
}

/// One more than colours, so that 30 students look different.
pub(super) const STUDENT_MARKERS: [Marker; 6] =
    [Marker::Up, Marker::Diamond, Marker::Down, Marker::Pentagon, Marker::Spark, Marker::Square];

/// How an axis maps numbers to places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Linear,
    /// Powers of two, with ticks at the numbers that occur.
    Log2,
    Log10,
}

/// One axis.
#[derive(Debug, Clone)]
pub struct Axis {
    pub label: String,
    pub scale: Scale,
}

/// One measured point with its intervals.
#[derive(Debug, Clone)]
pub struct Point {
    pub x: Estimate,
    pub y: Estimate,
    /// Written beside the point; may be empty.
    pub tag: String,
    /// Drawn open: the row has collapsed.
    pub open: bool,
    /// Where each training seed alone lies, of a study with several.
    pub seeds: Vec<(f64, f64)>,
}

/// Points of one model, joined by a line.
#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub color: Rgb,
    pub marker: Marker,
    pub points: Vec<Point>,
    /// Joined by dashes: upper bounds, where other series are exact.
    pub bound: bool,
}

/// Which way a guide line runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    Horizontal,
    Vertical,
}

/// A reference value over the whole plot, with its interval as a band.
#[derive(Debug, Clone)]
pub struct Guide {
    pub name: String,
    pub color: Rgb,
    pub run: Run,
    pub value: Estimate,
    /// Dots instead of dashes.
    pub dotted: bool,
}

/// One plot.
#[derive(Debug, Clone)]
pub struct Figure {
    /// File name without ending.
    pub name: &'static str,
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    pub guides: Vec<Guide>,
    /// What the bars around a point are.
    pub bars: &'static str,
}

/// What the bars of a study's figures are.
pub(super) const INTERVAL: &str = "95 % interval";

fn axis(label: &str, scale: Scale) -> Axis {
    Axis { label: label.into(), scale }
}

fn step_axis() -> Axis {
    axis("sampling steps", Scale::Log2)
}

/// What held-out text costs under the samplers; none where it was not measured.
fn sampler_steps(results: &Results) -> Option<Figure> {
    let measured = results.models.iter().flat_map(|m| &m.rows).any(|r| r.sampler_nll.is_some());
    measured.then(|| Figure {
        name: "sampler_steps",
        title: format!("{}: what held-out text costs under the sampler, against its steps", results.study),
        x: step_axis(),
        y: axis("sampler_nll, nats per token (lower is better; no judge)", Scale::Linear),
        series: series(results, false, |at| Some((at.steps(), at.score(Metric::SamplerNll)?)))
            .into_iter()
            .map(|s| Series { bound: bounded(results, &s.name), ..s })
            .collect(),
        guides: level_guides(results, Metric::SamplerNll),
        bars: INTERVAL,
    })
}

/// Quality at the data's entropy; none where only one temperature was sampled.
fn matched_steps(results: &Results) -> Option<Figure> {
    let matched = matched::all(results);
    let at = |model: &ModelResult, row: &Row| {
        matched.iter().find(|m| m.model.name == model.name && m.steps == row.steps)?.nll
    };
    let (study, nll) = (&results.study, &results.data.nll_name);
    let ar = results.models.iter().filter(|m| m.role == Role::Ar);
    (!matched.is_empty()).then(|| Figure {
        name: "matched_steps",
        title: format!("{study}: quality at the data's entropy against sampling steps"),
        x: step_axis(),
        y: axis(&format!("{nll} at the data's entropy, nats per token (lower is better)"), Scale::Linear),
        series: series(results, false, |point| {
            // A seed alone is not read off here.
            point.seed.is_none().then_some((point.steps(), at(point.model, point.row)?))
        }),
        guides: ar.filter_map(|m| Some(level(m, at(m, m.full()?)?))).collect(),
        bars: INTERVAL,
    })
}

/// The figures of quality: against steps, time, variety and cost.
pub(super) fn quality(results: &Results) -> Vec<Figure> {
    let nll = &results.data.nll_name;
    let study = &results.study;
    let quality = format!("{nll}, nats per token (lower is better)");
    let mut figures = vec![
        Figure {
            name: "quality_steps",
            title: format!("{study}: quality against sampling steps"),
            x: step_axis(),
            y: axis(&quality, Scale::Linear),
            series: series(results, false, |at| Some((at.steps(), at.score(Metric::Nll)?))),
            guides: level_guides(results, Metric::Nll),
            bars: INTERVAL,
        },
        Figure {
            name: "quality_seconds",
            title: format!("{study}: quality against time (numbers beside points: steps)"),
            x: axis("seconds per 1,000 tokens (lower is better)", Scale::Log10),
            y: axis(&quality, Scale::Linear),
            series: series(results, true, |at| {
                let s = at.row.speed?.seconds_per_1k_tokens;
                let seconds = Estimate { mean: s.median, low: s.q1, high: s.q3 };
                Some(((s.median > 0.0).then_some(seconds)?, at.score(Metric::Nll)?))
            }),
            guides: level_guides(results, Metric::Nll),
            bars: INTERVAL,
        },
        Figure {
            name: "quality_entropy",
            title: format!("{study}: quality against diversity (numbers beside points: steps)"),
            x: axis("unigram entropy of a sample, nats (the data's is best)", Scale::Linear),
            y: axis(&quality, Scale::Linear),
            series: series(results, true, |at| Some((at.score(Metric::Entropy)?, at.score(Metric::Nll)?)))
                .into_iter()
                .chain(real_data(results))
                .collect(),
            guides: diversity_guides(results),
            bars: INTERVAL,
        },
    ];
    if let Some(figure) = sampler_steps(results) {
        figures.insert(0, figure);
    }
    if let Some(figure) = matched_steps(results) {
        let behind = figures.iter().position(|f| f.name == "quality_steps").map_or(0, |at| at + 1);
        figures.insert(behind, figure);
    }
    let share = match results.data.kind {
        DataKind::Story => Some(("validity_steps", Metric::Valid, "valid stories")),
        DataKind::Pictures => Some(("agreement_steps", Metric::Agreement, "pictures that agree with their captions")),
        DataKind::Pairs | DataKind::Text | DataKind::Own => None,
    };
    if let Some((name, metric, what)) = share {
        figures.push(Figure {
            name,
            title: format!("{study}: {what} against sampling steps"),
            x: step_axis(),
            y: axis(&format!("share of {what} (higher is better)"), Scale::Linear),
            series: series(results, false, |at| Some((at.steps(), at.score(metric)?))),
            guides: level_guides(results, metric),
            bars: INTERVAL,
        });
    }
    if several_orders(results) {
        figures.extend(by_cost(results, &quality));
    }
    for figure in &mut figures {
        let values = || figure.series.iter().flat_map(|s| &s.points).map(|p| p.y.mean);
        let (low, high) = values().fold((f64::MAX, f64::MIN), |(a, b), y| (a.min(y), b.max(y)));
        let shares = ["validity", "agreement"].iter().any(|k| figure.name.starts_with(k))
            || share.is_some_and(|s| s.0 == figure.name);
        if low > 0.0 && high > 2.5 * low && !shares {
            // One step can cost many nats; a logarithmic axis keeps the few hundredths between good models visible.
            figure.y.scale = Scale::Log10;
        }
    }
    figures
}

/// Quality against what every order pays in: passes, positions computed, positions times layers, and measured time.
fn by_cost(results: &Results, quality: &str) -> Vec<Figure> {
    type Cost = fn(&Row) -> Option<Estimate>;
    let costs: [(&'static str, &str, Cost); 4] = [
        ("passes", "network passes a sample (NFE)", |r| Some(Estimate::exact(r.nfe))),
        ("positions", "positions computed a sample", |r| Some(Estimate::exact(r.positions))),
        ("layer_positions", "positions computed, times the layers each passed", |r| {
            r.layer_positions.map(Estimate::exact)
        }),
        ("latency", "milliseconds a sample at batch 1, measured", |r| {
            let ms = r.speed?.latency_ms;
            Some(Estimate { mean: ms.median, low: ms.q1, high: ms.q3 })
        }),
    ];
    let truth = match results.data.kind {
        DataKind::Story => Some(("validity", Metric::Valid, "share of valid stories (higher is better)")),
        DataKind::Pictures => Some(("agreement", Metric::Agreement, "share of exact pictures (higher is better)")),
        DataKind::Pairs | DataKind::Text | DataKind::Own => None,
    };
    let mut all = Vec::new();
    for (name, label, cost) in costs {
        let mut add = |kind: &str, metric: Metric, y: Axis| {
            all.push(Figure {
                name: file_name(kind, name),
                title: format!(
                    "{}: {kind} against {} (numbers beside points: steps)",
                    results.study,
                    name.replace('_', " ")
                ),
                x: Axis { label: label.into(), scale: Scale::Log10 },
                y,
                series: series(results, true, |at| Some((cost(at.row)?, at.score(metric)?))),
                guides: level_guides(results, metric),
                bars: INTERVAL,
            });
        };
        add("quality", Metric::Nll, Axis { label: quality.into(), scale: Scale::Linear });
        if let Some((kind, metric, label)) = truth {
            add(kind, metric, Axis { label: label.into(), scale: Scale::Linear });
        }
    }
    all
}

fn file_name(kind: &str, cost: &str) -> &'static str {
    match (kind, cost) {
        ("quality", "passes") => "quality_passes",
        ("quality", "positions") => "quality_positions",
        ("quality", "layer_positions") => "quality_layer_positions",
        ("quality", _) => "quality_latency",
        ("validity", "passes") => "validity_passes",
        ("validity", "positions") => "validity_positions",
        ("validity", "layer_positions") => "validity_layer_positions",
        ("validity", _) => "validity_latency",
        (_, "passes") => "agreement_passes",
        (_, "positions") => "agreement_positions",
        (_, "layer_positions") => "agreement_layer_positions",
        (_, _) => "agreement_latency",
    }
}

/// One row of a model, or what one training seed gave of it.
struct Place<'a> {
    results: &'a Results,
    model: &'a ModelResult,
    row: &'a Row,
    seed: Option<&'a SeedRow>,
}

impl Place<'_> {
    fn steps(&self) -> Estimate {
        Estimate::exact(self.row.steps as f64)
    }

    fn score(&self, metric: Metric) -> Option<Estimate> {
        if metric == Metric::SamplerNll {
            // A seed alone has its part of the texts.
            return match self.seed {
                None => self.results.score(self.row, metric),
                Some(seed) => {
                    let own = self.row.sampler_nll.as_ref()?;
                    let groups = self.model.text_groups(self.row);
                    let at = self.row.by_seed.iter().position(|s| s.seed == seed.seed)?;
                    let from = groups.iter().take(at).sum::<usize>();
                    Some(Estimate::exact(mean(own.texts.get(from..from + groups.get(at)?)?)))
                }
            };
        }
        match self.seed {
            Some(seed) => seed.scores.get(metric.key(&self.results.data.nll_name)).map(|x| Estimate::exact(*x)),
            None => self.results.score(self.row, metric),
        }
    }
}

/// One series per model, its points from `point`; the AR model has one only where `with_ar`, elsewhere it is a guide line.
fn series(results: &Results, with_ar: bool, point: impl Fn(&Place) -> Option<(Estimate, Estimate)>) -> Vec<Series> {
    let (mut teachers, mut student) = (0, 0);
    shown(results)
        .into_iter()
        .filter_map(|model| {
            let (color, marker) = match model.role {
                Role::Ar | Role::Judge | Role::Codec | Role::Classifier => (BLACK, Marker::Square),
                // Where several models were trained from data, the others look like students: different.
                Role::Teacher if teachers == 0 => {
                    teachers += 1;
                    (BLUE, Marker::Circle)
                }
                Role::Oracle => (GRAY, Marker::Cross),
                Role::Teacher | Role::Student => {
                    student += 1;
                    let index = student - 1;
                    (STUDENTS[index % STUDENTS.len()], STUDENT_MARKERS[index % STUDENT_MARKERS.len()])
                }
            };
            if model.role == Role::Ar && !with_ar {
                return None;
            }
            let mut rows: Vec<&Row> = model.rows.iter().collect();
            rows.sort_by_key(|r| r.steps);
            let points: Vec<Point> = rows
                .into_iter()
                .filter_map(|row| {
                    let tag = if with_ar { row.steps.to_string() } else { String::new() };
                    let (x, y) = point(&Place { results, model, row, seed: None })?;
                    let each = row.by_seed.iter().filter(|_| model.varies());
                    let seeds = each
                        .filter_map(|seed| point(&Place { results, model, row, seed: Some(seed) }))
                        .map(|(x, y)| (x.mean, y.mean))
                        .collect();
                    Some(Point { x, y, tag, open: collapsed(results, model, row), seeds })
                })
                .collect();
            let name = model.name.clone();
            (!points.is_empty()).then_some(Series { name, color, marker, points, bound: false })
        })
        .collect()
}

/// Whether what the sampler of model `name` costs is known as an upper bound alone.
fn bounded(results: &Results, name: &str) -> bool {
    let rows = results.model(name).into_iter().flat_map(|m| &m.rows);
    rows.filter_map(|row| row.sampler_nll.as_ref()).any(|own| own.kind != Bound::Exact)
}

/// Held-out data as a point of its own.
fn real_data(results: &Results) -> Option<Series> {
    let y = *results.data.reference.get(&results.data.nll_name)?;
    let point = Point { x: results.data.entropy, y, tag: String::new(), open: false, seeds: Vec::new() };
    Some(Series { name: "real data".into(), color: BLACK, marker: Marker::Star, points: vec![point], bound: false })
}

fn level(model: &ModelResult, value: Estimate) -> Guide {
    Guide { name: format!("{} level", model.name), color: BLACK, run: Run::Horizontal, value, dotted: false }
}

/// The AR model's level, and on the story language the entropy rate, which no honest likelihood stays below.
fn level_guides(results: &Results, metric: Metric) -> Vec<Guide> {
    let mut guides: Vec<Guide> = results
        .models
        .iter()
        .filter(|m| m.role == Role::Ar)
        .filter_map(|m| Some((m, results.score(m.full()?, metric)?)))
        .map(|(m, value)| level(m, value))
        .collect();
    if let (Metric::Nll | Metric::SamplerNll, Some(rate)) = (metric, results.data.entropy_rate) {
        guides.push(entropy_rate(rate));
    }
    guides
}

fn diversity_guides(results: &Results) -> Vec<Guide> {
    let data = Guide {
        name: "entropy of data".into(),
        color: BLACK,
        run: Run::Vertical,
        value: results.data.entropy,
        dotted: false,
    };
    std::iter::once(data).chain(results.data.entropy_rate.map(entropy_rate)).collect()
}

fn entropy_rate(rate: f64) -> Guide {
    Guide { name: "entropy rate".into(), color: GRAY, run: Run::Horizontal, value: Estimate::exact(rate), dotted: true }
}
