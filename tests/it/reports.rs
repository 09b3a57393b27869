//! What the committed reports are said to show, read from their results.

use std::path::{Path, PathBuf};

use super::binary::Place;
use fewstep::eval::results::{Metric, Results, Role};

fn report(name: &str) -> Results {
    Results::load(&Results::file_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("reports").join(name))).unwrap()
}

/// Directories of the reports that were rendered from results.
fn rendered() -> Vec<PathBuf> {
    let all = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("reports")).unwrap();
    let dirs = all.flatten().map(|entry| entry.path());
    dirs.filter(|dir| Results::file_in(dir).is_file() && dir.join("report.md").is_file()).collect()
}

#[test]
fn every_committed_report_is_what_its_results_render_to() {
    let dirs = rendered();
    assert!(dirs.len() >= 8, "{dirs:?}");
    for dir in dirs {
        let out = tempfile::tempdir().unwrap();
        let notes = dir.join("notes.md");
        if notes.exists() {
            std::fs::copy(&notes, out.path().join("notes.md")).unwrap();
        }
        let files = fewstep::report::write(&Results::load(&Results::file_in(&dir)).unwrap(), out.path()).unwrap();
        for file in &files {
            let name = file.file_name().unwrap();
            // Bitmaps and pages may be left out: the same plots are there as SVG, the same tables as Markdown.
            if file.extension().is_some_and(|e| e == "png" || e == "html") && !dir.join(name).exists() {
                continue;
            }
            let committed = std::fs::read(dir.join(name)).unwrap_or_default();
            assert!(std::fs::read(file).unwrap() == committed, "{} is not rendered anew", dir.join(name).display());
        }
        // Nothing is left of an earlier rendering.
        let drawn = |path: &Path| path.extension().is_some_and(|e| e == "svg" || e == "png");
        for path in std::fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.path()).filter(|path| drawn(path)) {
            assert!(out.path().join(path.file_name().unwrap()).exists(), "{} is no part of its report", path.display());
        }
    }
}

/// Puts `odd` numbers in the place of some of the results' own.
fn distort(value: &mut serde_json::Value, next: &mut impl FnMut(usize) -> usize, odd: &[f64]) {
    match value {
        serde_json::Value::Array(all) => all.iter_mut().for_each(|v| distort(v, next, odd)),
        serde_json::Value::Object(all) => all.values_mut().for_each(|v| distort(v, next, odd)),
        serde_json::Value::Number(n) if n.is_f64() && next(4) == 0 => *value = odd[next(odd.len())].into(),
        _ => {}
    }
}

#[test]
fn a_report_of_any_numbers_is_drawn_or_refused() {
    let odd = [f64::MAX, f64::MIN, 1e308, -1e308, 1e300, 1e17, 5e-324, f64::MIN_POSITIVE, 0.0, -0.0, -1.0, 3.0];
    let mut whole: serde_json::Value = serde_json::from_str(&report("quickstart").to_json().unwrap()).unwrap();
    // What is changed below has another hash.
    whole.as_object_mut().unwrap().remove("sha256");
    // Scores of single samples are not drawn.
    for model in whole["models"].as_array_mut().unwrap() {
        for row in model["rows"].as_array_mut().unwrap() {
            row["samples"] = serde_json::json!({});
        }
    }
    let mut state = 5u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    for round in 0..200 {
        let mut value = whole.clone();
        distort(&mut value, &mut next, &odd);
        let results: Results = serde_json::from_value(value).unwrap();
        let page = fewstep::report::page(&results, Vec::new());
        let html = fewstep::report::html::render(&page).unwrap();
        assert!(html.contains("<svg") && !fewstep::report::markdown::render(&page).is_empty());
        if round % 40 == 0 {
            let dir = tempfile::tempdir().unwrap();
            fewstep::report::write(&results, dir.path()).unwrap();
        }
    }
}

#[test]
fn the_largest_numbers_of_an_interval_end_in_a_report_or_in_exit_code_3() {
    let place = Place::new();
    let packed = Results::file_in(&rendered()[0].join("../quickstart"));
    let text = String::from_utf8(fewstep::fs::read_unpacked(&packed, 1 << 30).unwrap()).unwrap();
    for number in ["1e308", "-1e308", "1.7976931348623157e308"] {
        let at = text.find("\"high\": ").unwrap() + 8;
        let end = at + text[at..].find([',', '}', '\n']).unwrap();
        place.write("results.json", format!("{} {number}{}", &text[..at], &text[end..]));
        let ran = place.run(&["report", "results.json", "--out", "page"]);
        assert!([0, 3].contains(&ran.code), "{number}: {} {}", ran.code, ran.err);
    }
    place.write("results.json", text.replacen("\"high\": ", "\"high\": 1e999, \"x\": ", 1));
    place.run(&["report", "results.json", "--out", "page"]).fails(3, &["results.json"]);
}

fn accuracy(results: &Results, model: &str) -> f64 {
    let reconstruction = results.model(model).unwrap().reconstruction.clone().unwrap();
    assert_eq!(reconstruction.compression, 4.0);
    assert_eq!(reconstruction.points[0].sigma, 0.0);
    // What noise on the latents does to the text is measured, and it does something.
    assert!(reconstruction.points.last().unwrap().accuracy.high < reconstruction.points[0].accuracy.low);
    reconstruction.points[0].accuracy.mean
}

#[test]
fn autoencoders_of_the_latent_reports_give_back_their_held_out_texts() {
    assert!(accuracy(&report("latent"), "codec") >= 0.99);
    assert!(accuracy(&report("latent-shakespeare"), "codec") >= 0.95);
}

#[test]
fn one_step_latent_students_beat_every_one_step_model_of_tokens_and_four_steps_reach_the_teacher() {
    let results = report("latent");
    let at = |name: &str, steps: usize, metric: Metric| {
        let row = results.model(name).unwrap().row(steps).unwrap();
        results.score(row, metric).unwrap()
    };
    let tokens = ["teacher", "student", "oracle"];
    let students: Vec<&str> = results
        .models
        .iter()
        .filter(|m| m.role == Role::Student && m.codec.is_some())
        .map(|m| m.name.as_str())
        .collect();
    assert!(students.len() >= 7, "{students:?}");
    // A text that is always the same scores well and is no sample: such rows do not count.
    let varied = |name: &str, steps: usize| results.model(name).unwrap().row(steps).unwrap().corpus["unique"] > 0.25;
    let mut beats = 0;
    for name in students.iter().filter(|name| varied(name, 1)) {
        let better = tokens.iter().all(|token| {
            at(name, 1, Metric::Nll).wholly_below(at(token, 1, Metric::Nll))
                && at(token, 1, Metric::Valid).wholly_below(at(name, 1, Metric::Valid))
        });
        assert!(better, "{name}");
        beats += 1;
    }
    assert!(beats >= 5, "{beats} of {students:?}");
    let teacher = results.model("flow").unwrap().full().unwrap();
    let reaches = |name: &&&str| {
        let (own, theirs) = (at(name, 4, Metric::Valid), results.score(teacher, Metric::Valid).unwrap());
        let (nll, their_nll) = (at(name, 4, Metric::Nll), results.score(teacher, Metric::Nll).unwrap());
        varied(name, 4) && own.mean >= theirs.low && nll.mean <= their_nll.high
    };
    let there: Vec<&&str> = students.iter().filter(reaches).collect();
    assert!(there.len() >= 2, "only {there:?}");
}

#[test]
fn the_committed_reports_take_at_most_twelve_megabytes() {
    fn bytes(dir: &Path) -> u64 {
        let entries = std::fs::read_dir(dir).unwrap().flatten().map(|e| e.path());
        entries.map(|path| if path.is_dir() { bytes(&path) } else { path.metadata().unwrap().len() }).sum()
    }
    let all = bytes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("reports"));
    assert!((1 << 20..12 << 20).contains(&all), "{all} bytes");
}

#[test]
fn packed_results_are_read_like_plain_ones_and_one_that_grows_without_end_is_refused() {
    let place = Place::new();
    let results = report("quickstart");
    results.save(&place.path("plain/results.json")).unwrap();
    let pack = |name: &str, text: &[u8]| {
        use std::io::Write;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(text).unwrap();
        place.write(name, packed.finish().unwrap());
    };
    let text = std::fs::read(place.path("plain/results.json")).unwrap();
    pack("packed/results.json.gz", &text);
    assert_eq!(Results::load(&place.path("packed/results.json.gz")).unwrap(), results);
    place.run(&["report", "packed", "--out", "a"]).ok();
    place.run(&["report", "plain/results.json", "--out", "b"]).ok();
    let md = |dir: &str| std::fs::read(place.path(dir).join("report.md")).unwrap();
    assert_eq!(md("a"), md("b"));
    place.run(&["gate", "plain/results.json", "--baseline", "packed"]).ok();
    pack("long.json.gz", &vec![b' '; 200 << 20]);
    place.run(&["report", "long.json.gz", "--out", "c"]).fails(3, &["long.json.gz is too long"]);
    place.write("not.json.gz", "{}");
    place.run(&["report", "not.json.gz", "--out", "c"]).fails(3, &["is not a gzip file", "hint:"]);
}
