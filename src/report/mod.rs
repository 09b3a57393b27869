//! A study's report: Markdown, one self-contained HTML page, and plots as SVG and PNG.
//!
//! A pure function of the results: no date, host or path goes in, so equal results give equal bytes.

mod autoencoder;
mod budget;
mod by_seed;
pub mod contents;
pub mod control;
mod copies;
pub mod figure;
pub mod flexibility;
pub mod html;
pub mod markdown;
pub mod notes;
pub mod picture;
#[cfg(feature = "plots")]
pub mod plot;
#[cfg(feature = "plots")]
mod strips;
pub mod summary;
pub mod survey;
pub mod table;
pub mod trace;

use crate::error::Result;
use crate::eval::results::{DataKind, Results, Row};
use crate::fs;
use crate::shown::code;
use figure::Figure;
use picture::Gallery;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use table::Table;

/// A report before it takes a file format.
#[derive(Debug, Clone)]
pub struct Page {
    pub title: String,
    pub parts: Vec<Part>,
}

/// A piece of a report.
#[derive(Debug, Clone)]
pub enum Part {
    /// Names with values.
    Facts(Vec<(&'static str, String)>),
    Figure(Figure),
    Gallery(Gallery),
    Table(Table),
    /// A list of sentences; backticks mark code.
    Notes {
        title: &'static str,
        lines: Vec<String>,
    },
}

/// Writes `report.md`, `report.html` and every plot as `.svg` and `.png` into `dir`; returns the files written. What
/// `notes.md` in `dir` says stands below the facts.
///
/// # Errors
/// As [`write_with`].
pub fn write(results: &Results, dir: &Path) -> Result<Vec<PathBuf>> {
    write_with(results, dir, None)
}

/// [`write()`] with new notes, which replace those in `dir`.
///
/// A new directory appears with all files in it. In one that is there each file is replaced whole, the plots first and the
/// pages that show them last, and what else lies there is left alone.
///
/// # Errors
/// Notes that cannot be read (input or I/O); a plot that cannot be drawn, or a refused write (I/O).
pub fn write_with(results: &Results, dir: &Path, notes: Option<&str>) -> Result<Vec<PathBuf>> {
    let points = match notes {
        Some(text) => notes::lines(text),
        None => notes::read(dir)?,
    };
    let page = page(results, points);
    // All of it before the first write: what cannot be drawn leaves the old report as it was.
    let mut files = rendered(&page)?;
    let shown = files.iter().map(|(name, _)| dir.join(name)).collect();
    files.extend(notes.map(|text| (notes::FILE.to_string(), text.as_bytes().to_vec())));
    files.reverse();
    match std::fs::symlink_metadata(dir).is_ok() {
        false => fs::new_dir(dir, |tmp| files.iter().try_for_each(|(name, b)| fs::write_file(&tmp.join(name), b)))?,
        true => {
            let paths: Vec<PathBuf> = files.iter().map(|(name, _)| dir.join(name)).collect();
            fs::remove_leftovers_of(&paths.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
            paths.iter().zip(&files).try_for_each(|(path, (_, bytes))| fs::write_atomic(path, bytes))?;
        }
    }
    Ok(shown)
}

/// Name and content of every file of a report: its two pages, then the plots as SVG, then as PNG.
fn rendered(page: &Page) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = vec![
        ("report.md".to_string(), markdown::render(page).into_bytes()),
        ("report.html".to_string(), html::render(page)?.into_bytes()),
    ];
    for part in &page.parts {
        if let Some((name, svg)) = svg(part)? {
            files.push((format!("{name}.svg"), svg.into_bytes()));
        }
    }
    for part in &page.parts {
        if let Some((name, png)) = png(part)? {
            files.push((format!("{name}.png"), png));
        }
    }
    Ok(files)
}

/// Name and drawing of a part that is drawn, where the program was built to draw (feature `plots`).
#[cfg(feature = "plots")]
fn svg(part: &Part) -> Result<Option<(&'static str, String)>> {
    Ok(match part {
        Part::Figure(figure) => Some((figure.name, plot::svg(figure)?)),
        Part::Gallery(gallery) => Some((gallery.name, strips::svg(gallery)?)),
        _ => None,
    })
}

#[cfg(feature = "plots")]
fn png(part: &Part) -> Result<Option<(&'static str, Vec<u8>)>> {
    Ok(match part {
        Part::Figure(figure) => Some((figure.name, plot::png(figure)?)),
        Part::Gallery(gallery) => Some((gallery.name, strips::png(gallery)?)),
        _ => None,
    })
}

#[cfg(not(feature = "plots"))]
fn svg(_: &Part) -> Result<Option<(&'static str, String)>> {
    Ok(None)
}

#[cfg(not(feature = "plots"))]
fn png(_: &Part) -> Result<Option<(&'static str, Vec<u8>)>> {
    Ok(None)
}

/// The report's content, with what its reader should take from it.
pub fn page(results: &Results, notes: Vec<String>) -> Page {
    let mut parts = vec![Part::Facts(facts(results))];
    if !notes.is_empty() {
        parts.push(Part::Notes { title: "What this shows", lines: notes });
    }
    let mut tables = contents::tables(results).into_iter();
    let mut figures = contents::figures(results).into_iter();
    // The plots that matter come before the table, the rest after it.
    parts.extend(figures.next().map(Part::Figure));
    parts.extend(figures.next().map(Part::Figure));
    parts.extend(tables.next().map(Part::Table));
    parts.extend(picture::gallery(results).map(Part::Gallery));
    parts.extend(figures.map(Part::Figure));
    parts.extend(tables.map(Part::Table));
    parts.push(Part::Notes { title: "How to read this", lines: reading(results) });
    // A program that uses the library has no recipe.
    let made = match results.recipe.is_empty() {
        true => "a program of its own, with the library fewstep".to_string(),
        false => format!("`fewstep run {}`", code(&results.study)),
    };
    parts.push(Part::Notes { title: "Made by", lines: vec![made] });
    Page { title: format!("{}: what few steps cost", results.study), parts }
}

fn facts(results: &Results) -> Vec<(&'static str, String)> {
    let (data, env) = (&results.data, &results.environment);
    let kind = match data.kind {
        DataKind::Story => "story language",
        DataKind::Pictures => "captions with pictures",
        DataKind::Pairs => "attributes with sentences",
        DataKind::Text => "text",
        DataKind::Own => "data of its own program",
    };
    let hash: String = data.sha256.chars().take(16).collect();
    let entropy = table::interval(data.entropy);
    let mut facts = vec![
        ("study", results.study.clone()),
        (
            "data",
            format!(
                "{kind}, vocabulary {}, length {}, unigram entropy {entropy} nats (n = {}), sha256 {hash}",
                data.vocab, data.length, data.n_reference
            ),
        ),
        ("samples per row", listed(results, |r| r.n as u64)),
        (
            "seeds",
            format!(
                "training {}; sampling {}",
                joined(results.models.iter().filter(|m| m.train_steps > 0).flat_map(|m| match m.varies() {
                    true => m.seeds(),
                    false => vec![m.seed],
                })),
                joined(results.models.iter().flat_map(|m| &m.rows).flat_map(|r| match r.by_seed.is_empty() {
                    true => vec![r.seed],
                    false => r.by_seed.iter().map(|s| s.sampling).collect(),
                }))
            ),
        ),
        ("device", format!("{}, {} threads, {}", env.device, env.threads, env.dtype)),
        ("machine", format!("{} ({})", env.os, env.cpu_features)),
        ("versions", format!("fewstep {}, burn {}, rustc {}", results.fewstep, env.burn, env.rustc)),
        ("recipe sha256", results.recipe_sha256.clone()),
    ];
    if let Some(rate) = data.entropy_rate {
        facts.insert(2, ("entropy rate", format!("{rate:.3} nats per token")));
    }
    facts
}

/// The different values of a field over all rows.
fn listed(results: &Results, of: impl Fn(&Row) -> u64) -> String {
    joined(results.models.iter().flat_map(|m| &m.rows).map(of))
}

fn joined(values: impl Iterator<Item = u64>) -> String {
    let values: BTreeSet<u64> = values.collect();
    if values.is_empty() {
        return "none".into();
    }
    values.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn reading(results: &Results) -> Vec<String> {
    let nll = code(&results.data.nll_name);
    let mut lines = vec![
        format!(
            "Never read `{nll}` without entropy: text that repeats itself scores well. A row marked *collapse* has an \
             entropy wholly below its teacher's and the data's, or at most a tenth as many different texts as real data."
        ),
        "Values are `mean [low, high]` with 95 % bootstrap intervals over samples; an interval of no width means that all \
         samples scored alike, not that more samples would. Latency and its range are median and quartiles of repeated \
         timings."
            .into(),
        "Steps are not cost: NFE counts network evaluations, positions counts what they computed, both per sample. Latency \
         is one whole sample at batch 1; tok/s is at the batch named beside it."
            .into(),
        "ELBO/NLL is the model's own likelihood of held-out data in nats per token; `elbo` is an upper bound and cannot be \
         ranked against `exact`."
            .into(),
        "Sample i has the same seed in rows with equal n and seed, so rows can be compared in pairs, as `fewstep gate` \
         does; two intervals that overlap here may still differ in pairs."
            .into(),
    ];
    if results.models.iter().flat_map(|m| &m.rows).any(|r| r.sampler_nll.is_some()) {
        lines.push(
            "`sampler_nll` is what held-out text costs under the sampler itself in that many steps, in nats per token, the same texts for \
             every model. `exact` is the likelihood: every position has a step of its own. `≤` is an upper bound, the mean over partitions \
             drawn as the sampler draws them, with the standard deviation over partitions of one text. No judge is needed."
                .into(),
        );
    }
    if results.data.reference.contains_key(crate::eval::SECOND_NLL) {
        lines.push(
            "The second judge is a public checkpoint that was not trained here. It reads the samples as text, with its own \
             tokenizer, and its values are nats per character."
                .into(),
        );
    }
    lines.extend(by_seed::reading(results));
    lines.extend(budget::reading(results));
    lines.extend(autoencoder::reading(results));
    lines.extend(control::reading(results));
    lines.extend(copies::reading(results));
    lines.extend(flexibility::reading(results).into_iter().chain(survey::reading(results)));
    if results.models.iter().any(|m| !m.sweep.is_empty()) {
        lines.insert(
            1,
            format!(
                "A lower temperature lowers `{nll}` and entropy together, so models are also compared where their samples use \
                 tokens as evenly as real text does. That `{nll}` is interpolated between sampled temperatures (1 and those \
                 of `eval.temperatures`), never beyond them; intervals hold the data's mean entropy fixed; changes are paired \
                 by sample. Entropy is within a sample: variety between samples is in `unique`."
            ),
        );
    }
    of_the_data(results, &nll, &mut lines);
    lines
}

/// What is to be known of a kind of data.
fn of_the_data(results: &Results, nll: &str, lines: &mut Vec<String>) {
    if results.data.entropy_rate.is_some() {
        lines.insert(
            1,
            format!(
                "The entropy rate is the `{nll}` of perfect text. A row above it makes mistakes; a row below it is not \
                 better than perfect but mode seeking: it prefers likely texts and has lost variety."
            ),
        );
    }
    if results.data.kind == DataKind::Pairs {
        lines.push(
            "Of `data.pairs` the sentence alone is scored (its end as well in the judge's nll): the condition before it and \
             the padding behind it are no text. ELBO/NLL is over the whole sequence."
                .into(),
        );
    }
    if results.data.kind == DataKind::Pictures {
        lines.insert(
            2,
            "A picture agrees with its caption if every quadrant holds exactly the things that the caption says and the \
             others are empty; `clauses` is the share of clauses of which that is true, and 0 where the caption has a fault. \
             Which cells hold the things is free."
                .into(),
        );
    } else if results.data.entropy_rate.is_some() {
        lines.insert(
            2,
            "The oracle knows the language exactly, so its curve is what parallel decoding alone costs a model that \
             draws positions independently."
                .into(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::results::fixture;

    fn written(results: &Results) -> Vec<(String, Vec<u8>)> {
        let dir = tempfile::tempdir().unwrap();
        let files = write(results, dir.path()).unwrap();
        let name = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().to_string();
        files.iter().map(|p| (name(p), std::fs::read(p).unwrap())).collect()
    }

    #[test]
    fn equal_results_give_equal_bytes_in_any_directory() {
        assert!(written(&fixture::story(1)) == written(&fixture::story(1)));
    }

    #[test]
    fn a_story_study_has_four_plots_and_a_text_study_three() {
        let names = |r: &Results| written(r).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        let story = names(&fixture::story(1));
        assert_eq!(story.len(), 2 + 4 * 2, "{story:?}");
        assert!(story.contains(&"validity_steps.png".into()) && story.contains(&"quality_seconds.svg".into()));
        assert_eq!(names(&fixture::text(1)).len(), 2 + 3 * 2);
    }

    #[test]
    fn a_picture_study_has_its_samples_drawn_and_agreement_in_plot_table_and_summary() {
        let results = fixture::pictures(1);
        results.check().unwrap();
        let files = written(&results);
        let names: Vec<&str> = files.iter().map(|(n, _)| n.as_str()).collect();
        assert!(["pictures.svg", "pictures.png", "agreement_steps.svg"].iter().all(|n| names.contains(n)), "{names:?}");
        let text = |i: usize| String::from_utf8(files[i].1.clone()).unwrap();
        assert!(text(0).contains("](pictures.svg)") && text(0).contains("clauses ↑ | agreement ↑"), "{}", text(0));
        assert!(text(1).contains("likes the") && !text(0).contains("The oracle knows"));
        assert!(summary::summary(&results).contains("agreement ↑"));
    }

    #[test]
    fn a_study_with_temperatures_has_a_plot_and_a_table_at_the_entropy_of_the_data() {
        let results = fixture::with_sweep(fixture::text(1));
        let files = written(&results);
        assert!(files.iter().any(|(n, _)| n == "matched_steps.png"));
        let markdown = String::from_utf8(files[0].1.clone()).unwrap();
        assert!(markdown.contains("## judge_nll at the data's entropy"), "{markdown}");
        assert!(markdown.lines().any(|l| l.starts_with("| student | 8 |") && l.contains("better than its teacher")));
        assert!(!written(&fixture::text(1)).iter().any(|(n, _)| n.starts_with("matched")));
    }

    #[test]
    fn collapse_is_marked_in_both_formats_and_only_where_it_belongs() {
        let files = written(&fixture::story(1));
        let text = |i: usize| String::from_utf8(files[i].1.clone()).unwrap();
        assert_eq!(text(0).lines().filter(|l| l.starts_with("| eager *collapse* |")).count(), fixture::STEPS.len());
        assert_eq!(text(1).matches("eager <em>collapse</em>").count(), fixture::STEPS.len());
        assert!(!text(0).contains("student *collapse*") && !text(0).contains("oracle *collapse*"));
    }

    #[test]
    fn the_page_is_self_contained_and_names_its_command() {
        let files = written(&fixture::story(1));
        let html = String::from_utf8(files[1].1.clone()).unwrap();
        assert_eq!(html.matches("<svg").count(), 4);
        for outside in ["<script", "<link", "src=", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(html.contains("<code>fewstep run tiny_story</code>") && html.contains("prefers-color-scheme: dark"));
        let markdown = String::from_utf8(files[0].1.clone()).unwrap();
        assert!(markdown.ends_with("- `fewstep run tiny_story`\n"));
        for fact in ["**recipe sha256**", "**seeds** training 1; sampling ", "flex, 2 threads, f32", "below it is not"]
        {
            assert!(markdown.contains(fact), "{fact}");
        }
    }

    #[test]
    fn hostile_names_stay_text() {
        let mut results = fixture::story(1);
        results.models[2].name = "<script>|x".into();
        results.study = "a & <b>".into();
        let page = page(&results, Vec::new());
        let html = html::render(&page).unwrap();
        assert!(!html.contains("<script") && !html.contains("<b>"));
        assert!(markdown::render(&page).contains("&lt;script>\\|x"));
    }

    #[test]
    fn notes_stand_in_the_report_and_stay_when_it_is_rendered_again() {
        let dir = tempfile::tempdir().unwrap();
        let (file, out) = (dir.path().join("my.md"), dir.path().join("report"));
        std::fs::write(&file, "# Findings\n\n- the student is <b>better</b>\n  at `4` steps\n- AR is *slow*\n")
            .unwrap();
        for notes in [Some(notes::load_new(&file).unwrap()), None] {
            write_with(&fixture::story(1), &out, notes.as_deref()).unwrap();
            let html = std::fs::read_to_string(out.join("report.html")).unwrap();
            assert!(
                html.contains("<h2>What this shows</h2>")
                    && html.contains("&lt;b&gt;better&lt;/b&gt; at <code>4</code>")
            );
            let markdown = std::fs::read_to_string(out.join("report.md")).unwrap();
            assert!(markdown.contains("## What this shows\n\n- Findings\n- the student"), "{markdown}");
            assert_eq!(std::fs::read(out.join(notes::FILE)).unwrap(), std::fs::read(&file).unwrap());
        }
    }

    #[test]
    fn several_seeds_have_a_table_a_sentence_and_marks_and_one_seed_has_none() {
        let results = fixture::several(&[1, 2, 3]);
        let files = written(&results);
        let text = |name: &str| {
            let (_, bytes) = files.iter().find(|(n, _)| n == name).unwrap();
            String::from_utf8(bytes.clone()).unwrap()
        };
        let markdown = text("report.md");
        assert!(markdown.contains("## By training seed") && markdown.contains("Student's t"), "{markdown}");
        assert!(markdown.contains("**seeds** training 1, 2, 3;"));
        assert!(text("quality_steps.svg").contains("dots: single seeds"));
        assert!(!String::from_utf8(written(&fixture::story(1))[0].1.clone()).unwrap().contains("training seed"));
    }

    #[test]
    fn an_autoencoder_has_a_table_and_a_plot_against_noise() {
        let results = fixture::with_autoencoder(fixture::story(1));
        results.check().unwrap();
        let files = written(&results);
        let markdown = String::from_utf8(files[0].1.clone()).unwrap();
        assert!(markdown.contains("## Autoencoder") && markdown.contains("](reconstruction_noise.svg)"), "{markdown}");
        assert!(files.iter().any(|(n, _)| n == "reconstruction_noise.png"));
    }

    #[test]
    fn a_study_without_speed_or_rows_still_has_a_report() {
        let mut results = fixture::text(1);
        results.models.iter_mut().flat_map(|m| &mut m.rows).for_each(|r| r.speed = None);
        assert!(written(&results).iter().all(|(n, _)| !n.starts_with("quality_seconds")));
        results.models.iter_mut().for_each(|m| m.rows.clear());
        assert_eq!(written(&results).len(), 2);
    }
}
