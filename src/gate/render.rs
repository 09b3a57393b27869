//! A verdict as aligned text, Markdown, JUnit XML and JSON. `strict`: all doubts close the gate.

use super::compare::to_the_worse;
use super::{Finding, Outcome, Verdict};
use crate::error::{Error, Kind, Result};
use crate::eval::results::Direction;
use crate::eval::stats::Change;
use crate::shown::{self, markup};
use serde::Serialize;
use std::fmt::Write as _;

/// Comparisons that are printed of those that close the gate, where not all are asked for.
const SHOWN: usize = 8;

/// Each model in a line with what is nearest to its limit, what closes the gate, and the verdict with its exit code, without a final
/// newline; with `details` one line per comparison. Warnings are left to the log.
pub fn text(verdict: &Verdict, strict: bool, details: bool) -> String {
    let mut text = String::new();
    if details {
        aligned(&mut text, &verdict.findings.iter().collect::<Vec<_>>());
    } else {
        brief(&mut text, verdict, strict);
    }
    let _ = write!(text, "verdict   {}", summary(verdict, strict));
    text
}

/// One aligned line per comparison.
fn aligned(text: &mut String, findings: &[&Finding]) {
    let rows: Vec<[String; 6]> = findings.iter().map(|f| cells(f)).collect();
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}   ");
        }
        let _ = writeln!(text, "{}{}", line, row[5]);
    }
}

/// Models in a line each, and what closes the gate.
fn brief(text: &mut String, verdict: &Verdict, strict: bool) {
    let mut models: Vec<&str> = Vec::new();
    for finding in &verdict.findings {
        if !models.contains(&finding.model.as_str()) {
            models.push(&finding.model);
        }
    }
    let lines: Vec<[String; 3]> = models.iter().map(|model| of_model(verdict, model, strict)).collect();
    let width = lines.iter().map(|l| l[0].chars().count()).max().unwrap_or(0);
    for [name, what, nearest] in &lines {
        let _ = writeln!(text, "{name:width$}   {what}\n{:width$}   {nearest}", "");
    }
    let mut closing: Vec<&Finding> = verdict.findings.iter().filter(|f| f.closes(strict)).collect();
    // What failed before what is not known, and what moved most before the rest.
    let far = |f: &Finding| f.outcome != Outcome::Fail;
    closing.sort_by(|a, b| far(a).cmp(&far(b)).then(used(b).total_cmp(&used(a))));
    if !closing.is_empty() {
        text.push('\n');
        let more = closing.len().saturating_sub(SHOWN);
        closing.truncate(SHOWN);
        aligned(text, &closing);
        if more > 0 {
            let _ = writeln!(text, "and {more} more; `--details` prints all");
        }
        text.push('\n');
    }
}

/// The name of a model, how many of its comparisons are within their limits, and which of them is nearest to its limit.
fn of_model(verdict: &Verdict, model: &str, strict: bool) -> [String; 3] {
    let own = || verdict.findings.iter().filter(|f| f.model == model);
    let (all, passed) = (own().count(), own().filter(|f| f.outcome == Outcome::Pass).count());
    let word = match (own().any(|f| f.outcome == Outcome::Fail), own().any(|f| f.closes(strict))) {
        (true, _) => "fail",
        (false, true) => "inconclusive",
        (false, false) => "pass",
    };
    let mut steps: Vec<usize> = own().map(|f| f.steps).collect();
    steps.dedup();
    let steps: Vec<String> = steps.iter().map(usize::to_string).collect();
    let nearest = own()
        .filter(|f| !f.is_speed() && f.change.is_some() && used(f) > 0.0)
        .max_by(|a, b| used(a).total_cmp(&used(b)));
    let nearest = nearest.map_or("nothing moved to the worse".into(), |f| {
        let (key, numbers) = (shown::line(&f.key), values(f, "->"));
        format!("nearest: {key} at {} steps, {numbers}, {}, {}", f.steps, change(f), limit(f))
    });
    [
        shown::line(model).into_owned(),
        format!("{word}: {passed} of {all} within limits at {} steps", steps.join(", ")),
        nearest,
    ]
}

/// The share of its limit that a change to the worse uses up.
fn used(f: &Finding) -> f64 {
    let (Some(change), Some(limit), Some(metric)) = (f.change, f.limit, f.metric) else { return f64::INFINITY };
    to_the_worse(metric.better(), change) / limit.size.max(1e-12)
}

/// The verdict in one line, e.g. `pass, 1 speed metric inconclusive (exit 0; --strict exits 1)`.
pub fn summary(verdict: &Verdict, strict: bool) -> String {
    let mut parts = vec![outcome(verdict.outcome(strict)).to_string()];
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let mut add = |n: usize, kind: &str, what: &str| {
        if n > 0 {
            parts.push(format!("{n} {kind} metric{} {what}", plural(n)));
        }
    };
    add(verdict.count(Outcome::Fail, false), "quality", "failed");
    let (quality, speed) = (verdict.count(Outcome::Inconclusive, false), verdict.count(Outcome::Inconclusive, true));
    add(quality, "quality", "inconclusive");
    add(speed, "speed", "inconclusive");
    let code = i32::from(!verdict.passes(strict));
    let stricter = if code == 0 && quality + speed > 0 { "; --strict exits 1" } else { "" };
    format!("{} (exit {code}{stricter})", parts.join(", "))
}

/// A table for a pull request or a CI summary page: Markdown whose names can be neither links, images, mentions nor markup.
///
/// The table is HTML, of which Markdown reads nothing up to the next empty line, and names stand in `code`, where no
/// mention is looked for.
pub fn job_summary(verdict: &Verdict, strict: bool) -> String {
    let mut text = format!("**{}**\n\n<table>\n", summary(verdict, strict));
    text.push_str("<tr><th>model</th><th>steps</th><th>metric</th><th>baseline → candidate</th>");
    text.push_str("<th>change (95 %)</th><th>limit</th><th>verdict</th></tr>\n");
    for f in &verdict.findings {
        let name = |text: &str| format!("<code>{}</code>", markup(text));
        let ending = match f.outcome {
            Outcome::Pass => markup(&ending(f)),
            _ => format!("<b>{}</b>", markup(&ending(f))),
        };
        let numbers = [values(f, "→"), change(f), limit(f)].map(|c| markup(&c)).join("</td><td>");
        let (model, metric, steps) = (name(&f.model), name(&f.key), f.steps);
        let _ = writeln!(
            text,
            "<tr><td>{model}</td><td>{steps}</td><td>{metric}</td><td>{numbers}</td><td>{ending}</td></tr>"
        );
    }
    text.push_str("</table>\n");
    if !verdict.warnings.is_empty() {
        let lines: Vec<String> = verdict.warnings.iter().map(|w| format!("warning: {}", markup(w))).collect();
        let _ = writeln!(text, "\n<pre>{}</pre>", lines.join("\n"));
    }
    text.push('\n');
    text
}

/// JUnit XML: one test case per comparison; what closes the gate is a failure of type `fail` or `inconclusive`, other doubts are
/// system output.
pub fn junit(verdict: &Verdict, strict: bool) -> String {
    let bad = |f: &&Finding| f.closes(strict);
    let failures = verdict.findings.iter().filter(bad).count();
    let count = verdict.findings.len();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let suite = format!("name=\"fewstep gate\" tests=\"{count}\" failures=\"{failures}\" errors=\"0\"");
    let _ = writeln!(text, "<testsuites {suite}>\n  <testsuite {suite}>");
    for f in &verdict.findings {
        let name = markup(&format!("{} steps {}", f.key, f.steps));
        let class = markup(&f.model);
        let message = markup(&[values(f, "->"), change(f), limit(f), ending(f)].join("  "));
        let _ = write!(text, "    <testcase classname=\"{class}\" name=\"{name}\"");
        if bad(&f) {
            let kind = outcome(f.outcome);
            let _ = writeln!(text, ">\n      <failure type=\"{kind}\" message=\"{message}\"/>\n    </testcase>");
        } else if f.outcome == Outcome::Pass {
            text.push_str("/>\n");
        } else {
            let _ = writeln!(text, ">\n      <system-out>{message}</system-out>\n    </testcase>");
        }
    }
    let warnings: Vec<String> = verdict.warnings.iter().map(|w| markup(w)).collect();
    if !warnings.is_empty() {
        let _ = writeln!(text, "    <system-out>{}</system-out>", warnings.join("\n"));
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

/// The verdict as a JSON object: `outcome`, `strict`, `findings`, `warnings`.
///
/// # Errors
/// A verdict that cannot be written as JSON (gate).
pub fn json(verdict: &Verdict, strict: bool) -> Result<String> {
    #[derive(Serialize)]
    struct Document<'a> {
        outcome: Outcome,
        strict: bool,
        findings: &'a [Finding],
        warnings: &'a [String],
    }
    let Verdict { findings, warnings } = verdict;
    serde_json::to_string_pretty(&Document { outcome: verdict.outcome(strict), strict, findings, warnings })
        .map_err(|e| Error::new(Kind::Gate, "the verdict cannot be written as JSON").cause(e.to_string()))
}

fn cells(f: &Finding) -> [String; 6] {
    [
        shown::line(&f.model).into_owned(),
        shown::line(&f.key).into_owned(),
        format!("steps {}", f.steps),
        values(f, "->"),
        change(f) + "  " + &limit(f),
        ending(f),
    ]
}

fn values(f: &Finding, arrow: &str) -> String {
    let unit = if f.key == "latency" { " ms" } else { "" };
    match (f.baseline, f.candidate) {
        (Some(a), Some(b)) => format!("{} {arrow} {}{unit}", number(a), number(b)),
        (Some(a), None) => format!("{} {arrow} missing", number(a)),
        (None, Some(b)) => format!("missing {arrow} {}{unit}", number(b)),
        (None, None) => String::new(),
    }
}

fn change(f: &Finding) -> String {
    match (f.change, f.limit) {
        (Some(c), Some(l)) => format!("change [{}, {}]", moved(c.low, l.change), moved(c.high, l.change)),
        _ => String::new(),
    }
}

fn limit(f: &Finding) -> String {
    let (Some(limit), Some(metric)) = (f.limit, f.metric) else { return String::new() };
    let sign = match metric.better() {
        Direction::Lower => "+",
        Direction::Higher => "-",
        Direction::Near => "±",
    };
    match limit.change {
        Change::Relative => format!("limit {sign}{} %", plain(100.0 * limit.size)),
        Change::Absolute => format!("limit {sign}{}", plain(limit.size)),
    }
}

/// The verdict in words, with the number of samples or the reason.
fn ending(f: &Finding) -> String {
    let mut text = outcome(f.outcome).to_string();
    if let Some(needed) = f.needed {
        let _ = write!(text, ": needs about {needed} samples, had {}", f.n);
    }
    if let Some(note) = &f.note {
        let _ = write!(text, "{} {note}", if f.needed.is_some() { ";" } else { ":" });
    }
    text
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Fail => "fail",
        Outcome::Inconclusive => "inconclusive",
    }
}

fn moved(x: f64, change: Change) -> String {
    let text = match change {
        Change::Relative => format!("{:+.1} %", 100.0 * x),
        Change::Absolute => format!("{x:+.3}"),
    };
    match text.as_str() {
        "-0.0 %" => "+0.0 %".into(),
        "-0.000" => "+0.000".into(),
        _ => text,
    }
}

fn number(x: f64) -> String {
    match x.abs() {
        a if a >= 100.0 => format!("{x:.0}"),
        a if a >= 10.0 => format!("{x:.1}"),
        _ => format!("{x:.3}"),
    }
}

/// A limit's size without trailing zeros.
fn plain(x: f64) -> String {
    let text = format!("{x:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}
