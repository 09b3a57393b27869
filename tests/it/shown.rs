//! Nothing that a terminal obeys, a reader is misled by or a page runs reaches the user from weights, texts, names, results
//! or the command line.

use std::collections::BTreeMap;
use std::path::Path;

use super::binary::{Place, Ran};
use fewstep::eval::results::Results;
use fewstep::shown::is_hidden;
use fewstep::weights::{self, HostTensor, Weights};

/// A name that would set a window's title, clear the screen, forge a line of its own, turn the direction of writing, and be
/// markup, a link and a mention.
const NAME: &str = "a\u{1b}]0;PWNED\u{7}\u{1b}[2J\r\nerror: fake\u{9b}31m\u{202e}\u{2028}<script>[x](y)|@z&\"'\u{0}";

/// No hidden character, and no line that the name begins.
#[track_caller]
fn harmless(what: &str, text: &str) {
    let hidden: Vec<char> = text.chars().filter(|c| is_hidden(*c) && *c != '\n' && *c != '\t').collect();
    assert!(hidden.is_empty(), "{what}: {hidden:?} in {text:?}");
    assert!(!text.lines().any(|l| l.starts_with("error: fake")), "{what}: {text}");
}

#[track_caller]
fn both_harmless(ran: &Ran) {
    harmless("stdout", &ran.out);
    harmless("stderr", &ran.err);
}

/// A run of models of bytes that know nothing yet, and so write every byte.
fn bytes() -> Place {
    let place = Place::new();
    let text = "plain text, from which nothing is learned in one step . ".repeat(60);
    place.write("text.txt", text);
    place.write(
        "my.toml",
        r#"name = "bytes"
[data.text]
path = "text.txt"
tokenizer = "bytes"
length = 32
[model.ar]
order = "left_to_right"
objective.ar_nll = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }
train = { steps = 1, batch = 2, lr = 1e-6 }
[model.judge]
seed = 7
order = "left_to_right"
objective.ar_nll = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }
train = { steps = 1, batch = 2, lr = 1e-6 }
[eval]
samples = 4
batch = 4
steps = [4]
held_out = 4
judge = "judge"
"#,
    );
    place.run(&["run", "my.toml", "--only", "ar"]).ok();
    place
}

#[test]
fn texts_of_a_model_are_escaped_but_where_they_are_asked_for_raw() {
    let place = bytes();
    let sample = |more: &[&'static str]| [&["sample", "runs/bytes", "-n", "8"], more].concat();
    let plain = place.run(&sample(&[])).ok();
    both_harmless(&plain);
    assert!(plain.out.contains("\\u{1b}") && plain.out.contains('�'), "{}", plain.out);
    both_harmless(&place.run(&sample(&["--trace"])).ok());
    harmless("trace.html", &std::fs::read_to_string(place.path("trace.html")).unwrap());
    both_harmless(&place.run(&["sample", "runs/bytes", "--beam", "3"]).ok());

    // JSON keeps every character, but none as it is.
    let json = place.run(&sample(&["--json"])).ok();
    both_harmless(&json);
    let texts: Vec<serde_json::Value> = json.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(texts.len(), 8);
    assert!(texts.iter().any(|t| t["text"].as_str().unwrap().contains('\u{1b}')), "{}", json.out);

    // Raw: exactly the bytes that were drawn, 32 a text.
    let args = sample(&["--raw"]);
    let raw = place.command(&args).output().unwrap();
    assert!(raw.status.success());
    assert_eq!(raw.stdout.len(), 8 * 33);
    assert!(raw.stdout.contains(&0x1b) && std::str::from_utf8(&raw.stdout).is_err());
    let lossy: Vec<String> =
        raw.stdout.chunks(33).map(|text| String::from_utf8_lossy(&text[..32]).into_owned()).collect();
    let told: Vec<&str> = texts.iter().map(|t| t["text"].as_str().unwrap()).collect();
    assert_eq!(lossy, told);
    place.run(&sample(&["--raw", "--json"])).fails(2, &["`--raw` and `--json`", "hint: "]);

    // Evaluation writes texts that people look at.
    place.run(&["run", "my.toml"]).ok();
    harmless("samples.txt", &std::fs::read_to_string(place.path("runs/bytes/models/ar/samples.txt")).unwrap());
}

#[cfg(unix)]
#[test]
fn no_escape_of_a_model_reaches_a_terminal() {
    let place = bytes();
    let program = env!("CARGO_BIN_EXE_fewstep");
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &format!("{program} sample runs/bytes -n 8 -q"), "/dev/null"]).current_dir(place.path("."));
    let Ok(output) = script.stdin(std::process::Stdio::null()).output() else {
        println!("skipped: `script` is not here");
        return;
    };
    let out = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
    assert!(out.contains("\\u{1b}"), "{out:?}");
    harmless("terminal", &out);
}

#[test]
fn names_and_metadata_of_weights_stay_in_their_line() {
    let place = Place::new();
    let tensor = HostTensor { shape: vec![2], data: vec![1.0, 2.0] };
    let tensors = BTreeMap::from([(NAME.to_string(), tensor)]);
    let metadata = BTreeMap::from([(NAME.to_string(), NAME.to_string())]);
    let file = Weights { tensors, metadata, ..Weights::default() };
    place.write("x.safetensors", weights::to_bytes(&file).unwrap());
    let shown = place.run(&["inspect", "x.safetensors"]).ok();
    both_harmless(&shown);
    // The tensor, its metadata, the sum.
    assert_eq!(shown.out.lines().count(), 3, "{}", shown.out);
    let json = place.run(&["inspect", "x.safetensors", "--json"]).ok();
    both_harmless(&json);
    let line: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(line["tensors"][0]["name"], NAME);
    // In an error: a model that lacks its tensors and has one of this name.
    place.write("model/config.json", r#"{"model_type":"mdlm","vocab_size":12,"model_length":8,"hidden_dim":8,"cond_dim":4,"n_blocks":1,"n_heads":2,"time_conditioning":false}"#);
    place.write("model/model.safetensors", weights::to_bytes(&file).unwrap());
    both_harmless(&place.run(&["sample", "model", "--ids"]).fails(3, &["error: "]));
    both_harmless(&place.run(&["inspect", "model"]));
}

/// The results of a committed report with names of `name`.
fn results(name: &str) -> Results {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/quickstart/results.json.gz");
    let mut results = Results::load(&path).unwrap();
    results.study = name.into();
    results.environment.device = name.into();
    results.environment.os = name.into();
    results.recipe_sha256 = fewstep::fs::sha256_hex(results.recipe.as_bytes());
    for model in &mut results.models {
        if model.teacher.is_some() {
            model.teacher = Some(name.into());
        }
        if model.name == "teacher" {
            model.name = name.into();
        }
        model.order = name.into();
        model.objective = name.into();
    }
    results
}

#[test]
fn names_in_results_stay_text_in_every_file_of_a_report() {
    let place = Place::new();
    results(NAME).save(&place.path("results.json")).unwrap();
    let ran = place.run(&["report", "results.json", "--out", "page"]).ok();
    both_harmless(&ran);
    let mut svgs = 0;
    for entry in std::fs::read_dir(place.path("page")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".png") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        harmless(&name, &text);
        // In Markdown what stands between backticks is text.
        let open: String = match name.ends_with(".md") {
            true => text.lines().flat_map(|l| l.split('`').step_by(2)).collect::<Vec<_>>().join("\n"),
            false => text.clone(),
        };
        assert!(!open.contains("<script"), "{name}: {open}");
        if name.ends_with(".svg") {
            well_formed(&name, &text);
            svgs += 1;
        }
        if name.ends_with(".md") {
            assert!(!open.contains("[x](y)"), "{name}: a link");
            let columns: Vec<usize> =
                text.lines().filter(|l| l.starts_with("| ")).map(|l| l.matches('|').count()).collect();
            assert!(!columns.is_empty() && !text.contains("\nerror: fake"));
        }
    }
    assert!(svgs >= 4);
}

#[test]
fn names_in_results_stay_in_their_line_of_the_gate_and_of_a_summary_page() {
    let place = Place::new();
    results(NAME).save(&place.path("baseline.json")).unwrap();
    results("other").save(&place.path("candidate.json")).unwrap();
    let args = ["gate", "candidate.json", "--baseline", "baseline.json", "--all-models", "--details"];
    let summary = place.write("summary.md", "");
    let output = place.command(&args).env("GITHUB_STEP_SUMMARY", &summary).output().unwrap();
    let ran = Ran::from(output, &args).fails(1, &["the gate is closed"]);
    both_harmless(&ran);
    let page = std::fs::read_to_string(summary).unwrap();
    harmless("summary", &page);
    assert!(!page.contains("<script") && page.contains("@z&amp;"), "{page}");
    both_harmless(&place.run(&[&args[..], &["--json"]].concat()));
}

#[test]
fn what_is_typed_is_shown_escaped_in_errors() {
    let place = bytes();
    let typed = NAME.replace('\u{0}', "");
    let typed = typed.as_str();
    for args in [
        &["run", typed][..],
        &["run", "tiny", "--set", typed],
        &["run", "tiny", "--only", typed],
        &["sample", typed],
        &["sample", "runs/bytes", "--model", typed],
        &["sample", "runs/bytes", "--decode", typed],
        &["sample", "runs/bytes", typed],
        &["recipe", "copy", typed],
        &["recipe", "diff", typed, "tiny"],
        &["report", typed],
        &["inspect", typed],
        &["gate", typed, "--baseline", typed],
        &["export", typed, "--out", "x"],
        &[typed],
    ] {
        let ran = place.run(args);
        assert!(ran.code == 2 || ran.code == 3, "{args:?}: {} {}", ran.code, ran.err);
        both_harmless(&ran);
    }
    place.write(
        "my2.toml",
        std::fs::read_to_string(place.path("my.toml"))
            .unwrap()
            .replace("text.txt", "x.jsonl")
            .replace("tokenizer = \"bytes\"", "tokenizer = \"bytes\"\nkey = \"text\""),
    );
    let key = serde_json::to_string(NAME).unwrap();
    place.write("x.jsonl", format!("{{{key}: 1}}\n"));
    let ran = place.run(&["recipe", "check", "my2.toml"]);
    assert!(ran.code == 2 || ran.code == 3, "{}", ran.err);
    both_harmless(&ran);
    place.write("bad.json", format!("{{{key}: 1}}"));
    both_harmless(&place.run(&["report", "bad.json"]).fails(3, &["error: "]));
}

/// XML 1.0 holds the document: its characters, entities and the nesting of its tags.
#[track_caller]
fn well_formed(name: &str, xml: &str) {
    let allowed =
        |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    assert!(xml.chars().all(allowed), "{name} has a character that XML forbids");
    for part in xml.split('&').skip(1) {
        let entity = ["lt;", "gt;", "amp;", "quot;", "apos;", "#"].iter().any(|e| part.starts_with(e));
        assert!(entity, "{name}: &{part}");
    }
    let mut open: Vec<&str> = Vec::new();
    for tag in xml.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("{name}: <{tag}"));
        assert!(tag.matches('"').count() % 2 == 0, "{name}: <{tag}>");
        match tag.strip_prefix('/') {
            _ if tag.starts_with(['?', '!']) || tag.ends_with('/') => {}
            Some(closed) => assert_eq!(open.pop(), Some(closed.trim()), "{name}"),
            None => open.push(tag.split([' ', '\n']).next().unwrap()),
        }
    }
    assert!(open.is_empty(), "{name}: {open:?}");
}
