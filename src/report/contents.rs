//! What a report has: its tables and its figures, in order.

use super::figure::{Figure, Marker};
use super::table::{self, Table};
use super::{autoencoder, budget, by_seed, control, copies, figure, flexibility, survey};
use crate::eval::results::Results;

/// All tables of the report.
pub fn tables(results: &Results) -> Vec<Table> {
    let all = [
        Some(table::quality(results)),
        table::matched(results),
        table::gap(results),
        Some(table::reference(results)),
        copies::table(results),
        table::corpus(results),
    ];
    let flexible =
        control::table(results).into_iter().chain(flexibility::tables(results)).chain(survey::table(results));
    let made = [autoencoder::table(results), Some(table::models(results)), budget::table(results)];
    let seeds = by_seed::tables(results);
    all.into_iter()
        .flatten()
        .chain(seeds)
        .chain(flexible)
        .chain(made.into_iter().flatten())
        .filter(|t| !t.rows.is_empty())
        .collect()
}

/// The figures of a study, without those that would show nothing.
pub fn figures(results: &Results) -> Vec<Figure> {
    let mut figures = figure::quality(results);
    figures.extend(autoencoder::figure(results));
    figures.retain(|f| f.series.iter().any(|s| s.marker != Marker::Star && !s.points.is_empty()));
    figures
}
