//! Autoencoders: what of a text comes back from its latents, and how that falls as noise is added to them.

use super::figure::{Axis, Figure, INTERVAL, Point, STUDENT_MARKERS, STUDENTS, Scale, Series};
use super::table::{Table, interval, names, short};
use crate::eval::results::{ModelResult, Reconstruction, Results};
use crate::eval::stats::Estimate;

fn measured(results: &Results) -> impl Iterator<Item = (&ModelResult, &Reconstruction)> {
    results.models.iter().filter_map(|m| Some((m, m.reconstruction.as_ref()?)))
}

/// One row for each autoencoder and noise.
pub fn table(results: &Results) -> Option<Table> {
    let mut rows = Vec::new();
    for (model, found) in measured(results) {
        for p in &found.points {
            rows.push(vec![
                model.name.clone(),
                format!("{} ×", short(found.compression)),
                found.width.to_string(),
                short(p.sigma),
                interval(p.accuracy),
                interval(p.exact),
                found.n.to_string(),
            ]);
        }
    }
    let header = names(["model", "compression", "latent width", "noise", "tokens back ↑", "whole texts back ↑", "n"]);
    (!rows.is_empty()).then_some(Table { title: "Autoencoder".into(), header, rows })
}

/// The share of tokens that come back against the noise on the latents.
pub fn figure(results: &Results) -> Option<Figure> {
    let point = |sigma: f64, y: Estimate| Point {
        x: Estimate::exact(sigma),
        y,
        tag: String::new(),
        open: false,
        seeds: Vec::new(),
    };
    let series: Vec<Series> = measured(results)
        .zip(0..)
        .map(|((model, found), i): (_, usize)| Series {
            name: format!("{}, {} ×", model.name, short(found.compression)),
            color: STUDENTS[i % STUDENTS.len()],
            marker: STUDENT_MARKERS[i % STUDENT_MARKERS.len()],
            points: found.points.iter().map(|p| point(p.sigma, p.accuracy)).collect(),
            bound: false,
        })
        .collect();
    (!series.is_empty()).then(|| Figure {
        name: "reconstruction_noise",
        title: format!("{}: what comes back from noisy latents", results.study),
        x: Axis { label: "standard deviation of the noise on latents of unit variance".into(), scale: Scale::Linear },
        y: Axis { label: "share of tokens that come back (higher is better)".into(), scale: Scale::Linear },
        series,
        guides: Vec::new(),
        bars: INTERVAL,
    })
}

/// How the table and the plot are read.
pub fn reading(results: &Results) -> Option<String> {
    measured(results).next().map(|_| {
        "An autoencoder reads held-out texts, and noise of the given size is added to its latents (scaled to unit variance) \
         before they are decoded. What is lost without noise no model over these latents can win back; how fast it falls says \
         how exactly such a model has to hit them."
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::results::fixture;

    #[test]
    fn every_noise_is_a_row_and_a_point() {
        let results = fixture::with_autoencoder(fixture::story(1));
        let table = table(&results).unwrap();
        assert_eq!(table.rows.len(), 4);
        assert_eq!(table.rows[0][..4], ["codec", "4 ×", "16", "0"]);
        assert_eq!(table.rows[2][4], "0.973 [0.963, 0.983]");
        let figure = figure(&results).unwrap();
        assert_eq!(figure.series[0].points.len(), 4);
        assert!(super::figure(&fixture::story(1)).is_none());
    }
}
