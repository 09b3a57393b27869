//! The short forms of a study's results: a table for the terminal, and the rows of one model for its model card.

use crate::eval::results::{Bound, DataKind, Metric, ModelResult, Results, Row};
use crate::shown;

/// The scores shown, in order: key and heading.
fn columns(results: &Results) -> Vec<(String, &'static str)> {
    let mut out = vec![(results.data.nll_name.clone(), "nll ↓"), ("entropy".to_string(), "entropy")];
    if results.models.iter().flat_map(|m| &m.rows).any(|r| r.sampler_nll.is_some()) {
        out.insert(0, (Metric::SamplerNll.key("").to_string(), Metric::SamplerNll.label()));
    }
    if results.models.iter().flat_map(|m| &m.rows).any(|r| r.scores.contains_key("valid")) {
        out.push(("valid".to_string(), "valid ↑"));
    }
    if results.models.iter().flat_map(|m| &m.rows).any(|r| r.corpus.contains_key("unique")) {
        out.push(("unique".to_string(), Metric::Unique.label()));
    }
    if results.data.kind == DataKind::Pictures {
        out.extend([Metric::CaptionValid, Metric::Agreement].map(|m| (m.key("").to_string(), m.label())));
    }
    out
}

fn cell(row: &Row, key: &str) -> String {
    let own = row.sampler_nll.as_ref().filter(|_| key == Metric::SamplerNll.key("")).map(|s| &s.estimate);
    let bound = own.is_some() && row.sampler_nll.as_ref().is_some_and(|s| s.kind != Bound::Exact);
    let mark = if bound { "≤ " } else { "" };
    match own.or_else(|| row.scores.get(key)) {
        Some(e) => format!("{mark}{:.3} [{:.3}, {:.3}]", e.mean, e.low, e.high),
        // Results of before have it of the whole set alone.
        None => row.corpus.get(key).map_or("-".to_string(), |value| format!("{value:.3}")),
    }
}

fn speed(row: &Row) -> [String; 2] {
    match &row.speed {
        Some(s) => [format!("{:.1}", s.latency_ms.median), format!("{:.0}", s.tokens_per_s)],
        None => ["-".to_string(), "-".to_string()],
    }
}

/// A table of every row for the terminal.
pub fn summary(results: &Results) -> String {
    let columns = columns(results);
    let mut table: Vec<Vec<String>> = vec![
        ["model", "steps", "nfe"]
            .iter()
            .map(|s| s.to_string())
            .chain(columns.iter().map(|c| c.1.to_string()))
            .chain(["latency ms ↓", "tok/s ↑", "n"].iter().map(|s| s.to_string()))
            .collect(),
    ];
    for model in &results.models {
        for row in &model.rows {
            let mut line =
                vec![shown::line(&model.name).into_owned(), row.steps.to_string(), format!("{:.1}", row.nfe)];
            line.extend(columns.iter().map(|(key, _)| cell(row, key)));
            line.extend(speed(row));
            line.push(row.n.to_string());
            table.push(line);
        }
    }
    let widths: Vec<usize> =
        (0..table[0].len()).map(|c| table.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in table {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(c, w)| format!("{c}{}", " ".repeat(w - c.chars().count()))).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text.trim_end().to_string()
}

/// The rows of one model as Markdown, with what they come from.
pub fn model_card(results: &Results, model: &ModelResult) -> String {
    let columns = columns(results);
    let heads: Vec<&str> = columns.iter().map(|c| c.1).collect();
    let mut text = format!("| steps | NFE | {} | n |\n|{}\n", heads.join(" | "), " --- |".repeat(heads.len() + 3));
    for row in &model.rows {
        let cells: Vec<String> = columns.iter().map(|(key, _)| cell(row, key)).collect();
        text.push_str(&format!("| {} | {:.1} | {} | {} |\n", row.steps, row.nfe, cells.join(" | "), row.n));
    }
    text.push_str(&format!(
        "\nValues are `mean [95 % bootstrap interval]`. Recipe `{}`, sha256 {}.\n",
        shown::code(&results.study),
        shown::code(&results.recipe_sha256)
    ));
    text
}
