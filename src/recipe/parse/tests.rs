//! Tests of reading recipes: the form of every message, a fault in every key, and texts nobody would write.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::error::Kind;

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Study {
    name: String,
    seed: u64,
    #[serde(default)]
    notes: Vec<String>,
    data: Data,
    models: BTreeMap<String, Model>,
    #[serde(default)]
    stages: Vec<Stage>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Data {
    kind: Kinds,
    length: usize,
    #[serde(default)]
    shuffle: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kinds {
    Story,
    Text,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Model {
    network: Network,
    objective: Objective,
    train: Train,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Network {
    width: u32,
    heads: u8,
    hidden: Option<usize>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[allow(dead_code)]
enum Objective {
    Elbo {},
    Sdtt { rounds: usize, teacher_steps: usize },
    Direct(Direct),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Direct {
    divergence: f64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Train {
    steps: usize,
    learning_rate: f64,
    batch: usize,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Stage {
    from: i32,
    until: i32,
}

const SAMPLE: &str = r#"name = "tiny"           # a comment
seed = 7
notes = ["a", "b"]

[data]
kind = "story"
length = 64
shuffle = true

[models.teacher]
network.width = 32
network.heads = 4
objective.elbo = {}
train = { steps = 100, learning_rate = 3e-4, batch = 8 }

[models.student.network]
width = 32
heads = 4
hidden = 128

[models.student.objective.sdtt]
rounds = 3
teacher_steps = 2

[models.student.train]
steps = 50
learning_rate = 1e-4
batch = 8

[models.third]
network = { width = 8, heads = 1 }
[models.third.objective.direct]
divergence = 0.5
[models.third.train]
steps = 1
learning_rate = 1.0
batch = 1

[[stages]]
from = 0
until = 5
[[stages]]
from = 5
until = 9
"#;

fn said(text: &str, sets: &[&str]) -> String {
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    match parse::<Study>(text, "my.toml", &sets) {
        Ok(_) => panic!("understood:\n{text}\n{sets:?}"),
        Err(e) => {
            assert_eq!(e.kind, Kind::Usage);
            e.to_string()
        }
    }
}

/// The sample with its only `old` replaced, and the error it gives.
fn with(old: &str, new: &str) -> String {
    assert_eq!(SAMPLE.matches(old).count(), 1, "{old}");
    said(&SAMPLE.replace(old, new), &[])
}

/// What is wrong with a file of one key that wants a `T`.
fn one<T: DeserializeOwned + Serialize>(text: &str) -> String {
    match parse::<BTreeMap<String, T>>(text, "my.toml", &[]) {
        Ok(_) => "fine".to_string(),
        Err(e) => e.to_string().lines().next().unwrap_or_default().to_string(),
    }
}

/// Name and byte offset of every key segment that the schema (not the user) names.
fn keys() -> Vec<(&'static str, usize)> {
    let free = ["teacher", "student", "third"];
    let mut found = Vec::new();
    let mut start = 0;
    for line in SAMPLE.split_inclusive('\n') {
        let code = line.split('#').next().unwrap_or_default();
        let mut quoted = false;
        let mut word = None;
        for (at, c) in code.char_indices().chain([(code.len(), '\n')]) {
            quoted ^= c == '"';
            match (word, c.is_ascii_alphabetic() || c == '_') {
                (None, true) if !quoted => word = Some(at),
                (Some(from), false) => {
                    let text = &code[from..at];
                    let key = code.starts_with('[') || code[at..].trim_start().starts_with(['=', '.']);
                    if key && !free.contains(&text) && text != "e" {
                        found.push((text, start + from));
                    }
                    word = None;
                }
                _ => {}
            }
        }
        start += line.len();
    }
    found
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let line = text[..offset].matches('\n').count() + 1;
    (line, offset - text[..offset].rfind('\n').map_or(0, |n| n + 1) + 1)
}

/// `key` after one edit of each sort at each place.
fn edits(key: &str) -> Vec<String> {
    let letters: Vec<char> = key.chars().collect();
    let mut all = Vec::new();
    for n in 0..letters.len() {
        let mut dropped = letters.clone();
        dropped.remove(n);
        let mut doubled = letters.clone();
        doubled.insert(n, letters[n]);
        let mut other = letters.clone();
        other[n] = 'z';
        let mut swapped = letters.clone();
        swapped.swap(n, (n + 1) % letters.len());
        all.extend([dropped, doubled, other, swapped].map(|l| l.into_iter().collect::<String>()));
    }
    all.retain(|edit| edit != key && !edit.is_empty());
    all.sort();
    all.dedup();
    all
}

#[test]
fn the_sample_is_read_and_resolved_as_written() {
    let parsed = parse::<Study>(SAMPLE, "my.toml", &[]).unwrap();
    assert_eq!(parsed.resolved, SAMPLE);
    assert_eq!(parsed.value.models.len(), 3);
}

#[test]
fn an_unknown_key_has_place_line_carets_and_the_nearest_key() {
    assert_eq!(
        with("teacher_steps = 2", "teacher_step = 2"),
        "error: unknown key `teacher_step` in my.toml:23:1\n   23 | teacher_step = 2\n      | ^^^^^^^^^^^^\n\nhint: did you mean `teacher_steps`?"
    );
}

#[test]
fn every_key_with_one_edit_is_told_with_its_place_and_the_nearest_key() {
    let mut cases = 0;
    for (key, offset) in keys() {
        for edit in edits(key) {
            let mut text = SAMPLE.to_string();
            text.replace_range(offset..offset + key.len(), &edit);
            let (line, column) = position(SAMPLE, offset);
            let said = said(&text, &[]);
            let first = said.lines().next().unwrap_or_default();
            assert_eq!(first, format!("error: unknown key `{edit}` in my.toml:{line}:{column}"), "{said}");
            assert!(said.ends_with(&format!("hint: did you mean `{key}`?")), "{key} as {edit}:\n{said}");
            cases += 1;
        }
    }
    assert!(cases > 500, "{cases}");
}

#[test]
fn every_key_set_with_one_edit_is_told_with_the_set_and_a_hint_that_works() {
    let flat = flatten(SAMPLE).unwrap();
    let mut cases = 0;
    for (key, value) in &flat {
        if value.as_table().is_some() {
            continue;
        }
        let (above, last) = key.rsplit_once('.').map_or(("", key.as_str()), |(a, l)| (a, l));
        let dot = if above.is_empty() { "" } else { "." };
        for edit in edits(last).into_iter().step_by(3) {
            let set = format!("{above}{dot}{edit}={value}");
            let said = said(SAMPLE, &[&set]);
            let place = shown(&set, 60);
            assert!(said.starts_with(&format!("error: unknown key `{edit}` in `--set {place}`\n")), "{said}");
            let hint = said.rsplit_once("did you mean `--set ").and_then(|(_, h)| h.strip_suffix("`?")).unwrap();
            let mended = hint.trim_matches('\'').to_string();
            assert!(parse::<Study>(SAMPLE, "my.toml", &[mended]).is_ok(), "{said}");
            cases += 1;
        }
    }
    assert!(cases > 100, "{cases}");
}

#[test]
fn all_unknown_keys_are_told_at_once() {
    let text = SAMPLE
        .replace("length = 64", "lenght = 64")
        .replace("teacher_steps = 2", "teacher_step = 2\nfoo = 1")
        .replace("[models.third.train]", "[models.third.trian]")
        .replace("\"story\"", "\"stroy\"");
    assert_eq!(
        said(&text, &[]),
        "error: unknown value `stroy` for `data.kind` in my.toml:6:8
   6 | kind = \"stroy\"
     |        ^^^^^^^
   unknown key `lenght` in my.toml:7:1 (did you mean `length`?)
   unknown key `teacher_step` in my.toml:23:1 (did you mean `teacher_steps`?)
   unknown key `foo` in my.toml:24:1 (known here: `rounds`, `teacher_steps`)
   unknown key `trian` in my.toml:35:15 (did you mean `train`?)

hint: did you mean `story`?"
    );
}

#[test]
fn an_error_that_only_a_guess_would_cause_is_not_told() {
    // `lenht` may be `length`, but its value is not.
    let text = with("length = 64", "lenht = \"x\"");
    assert_eq!(text.lines().count(), 5, "{text}");
    // Nothing is near `qqqqqqq`, so the key is removed; that `length` is then missing is no news.
    let text = with("length = 64", "qqqqqqq = 64");
    assert!(text.contains("`qqqqqqq`") && !text.contains("missing"), "{text}");
}

#[test]
fn a_wrong_type_tells_key_wanted_type_value_and_what_to_write() {
    for (old, new, expected) in [
        (
            "seed = 7",
            "seed = \"7\"",
            "`seed` must be a whole number from 0, but it is `\"7\"` (my.toml:2:8)\n   2 | seed = \"7\"\n     |        ^^^\n\nhint: write `7`",
        ),
        (
            "seed = 7",
            "seed = -7",
            "`seed` must be a whole number from 0 to 9223372036854775807, but it is `-7` (my.toml:2:8)\n   2 | seed = -7\n     |        ^^\n\nhint: the nearest allowed value: `seed = 0`",
        ),
        (
            "hidden = 128",
            "hidden = 1e2",
            "`models.student.network.hidden` must be a whole number from 0, but it is `1e2` (my.toml:19:10)\n   19 | hidden = 1e2\n      |          ^^^\n\nhint: write `100`",
        ),
        (
            "length = 64",
            "length = nan",
            "`data.length` must be a whole number from 0, but it is `nan` (my.toml:7:10)\n   7 | length = nan\n     |          ^^^\n\nhint: a whole number without quotes, such as `data.length = 16`",
        ),
        (
            "divergence = 0.5",
            "divergence = true",
            "`models.third.objective.direct.divergence` must be a number, but it is `true` (my.toml:33:14)\n   33 | divergence = true\n      |              ^^^^\n\nhint: a number without quotes, such as `models.third.objective.direct.divergence = 0.5`",
        ),
        (
            "shuffle = true",
            "shuffle = \"yes\"",
            "`data.shuffle` must be `true` or `false`, but it is `\"yes\"` (my.toml:8:11)\n   8 | shuffle = \"yes\"\n     |           ^^^^^\n\nhint: without quotes: `data.shuffle = true`, or false",
        ),
        (
            "name = \"tiny\" ",
            "name = 5 ",
            "`name` must be a string, but it is `5` (my.toml:1:8)\n   1 | name = 5           # a comment\n     |        ^\n\nhint: write `\"5\"`",
        ),
        (
            "notes = [\"a\", \"b\"]",
            "notes = [\"a\", 2]",
            "`notes.1` must be a string, but it is `2` (my.toml:3:15)\n   3 | notes = [\"a\", 2]\n     |               ^\n\nhint: write `\"2\"`",
        ),
        (
            "notes = [\"a\", \"b\"]",
            "notes = \"a\"",
            "`notes` must be an array, but it is `\"a\"` (my.toml:3:9)\n   3 | notes = \"a\"\n     |         ^^^\n\nhint: values between brackets, with commas between them",
        ),
        (
            "network = { width = 8, heads = 1 }",
            "network = 3",
            "`models.third.network` must be a table, but it is `3` (my.toml:31:11)\n   31 | network = 3\n      |           ^\n\nhint: put its keys in a table: `[models.third.network]`",
        ),
        (
            "network = { width = 8, heads = 1 }",
            "network = { width = 8, heads = 300 }",
            "`models.third.network.heads` must be a whole number from 0 to 255, but it is `300` (my.toml:31:32)\n   31 | network = { width = 8, heads = 300 }\n      |                                ^^^\n\nhint: the nearest allowed value: `models.third.network.heads = 255`",
        ),
        (
            "kind = \"story\"",
            "kind = 1",
            "`data.kind` must be a string or a table, but it is `1` (my.toml:6:8)\n   6 | kind = 1\n     |        ^\n\nhint: name a kind in quotes, or give it a table: `[data.kind.KIND]`",
        ),
        (
            "objective.elbo = {}",
            "objective.elbo = 3",
            "`models.teacher.objective.elbo` must be a table, but it is `3` (my.toml:13:18)\n   13 | objective.elbo = 3\n      |                  ^\n\nhint: put its keys in a table: `[models.teacher.objective.elbo]`",
        ),
    ] {
        assert_eq!(with(old, new), format!("error: {expected}"));
    }
}

#[test]
fn numbers_beyond_every_range_are_told_and_never_a_panic() {
    for number in
        ["9223372036854775808", "18446744073709551616", "1".repeat(60).as_str(), "0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"]
    {
        for (old, key) in [("seed = 7", "seed"), ("length = 64", "length"), ("divergence = 0.5", "divergence")] {
            let said = with(old, &format!("{key} = {number}"));
            assert!(said.contains("range") || said.contains("must be"), "{said}");
        }
    }
    assert!(with("divergence = 0.5", "divergence = 1e400").contains("divergence` is out of range (my.toml:33:14)"));
    // Whether a finite number is wanted is for the schema's own checks; here it only must not panic.
    for number in ["nan", "-inf", "1e308", "-1", "0"] {
        assert_eq!(one::<f64>(&format!("x = {number}")), "fine");
    }
    assert!(one::<u64>("x = 9223372036854775808").starts_with("error: `x` is out of range (my.toml:1:5)"));
    assert!(one::<i128>("x = 9223372036854775808").starts_with("error: `x` is out of range"));
    assert!(flatten("x = 9223372036854775808").is_err());
}

#[test]
fn a_missing_key_names_its_table() {
    for (old, new, expected) in [
        (
            "seed = 7\n",
            "",
            "missing key `seed` in my.toml:1:1\n\nhint: add `seed = …` above the first table, or `[seed]`",
        ),
        (
            "length = 64\n",
            "",
            "missing key `length` in table `data` (my.toml:5:1)\n   5 | [data]\n     | ^^^^^^\n\nhint: add `length = …` below `[data]`",
        ),
        (
            "network.heads = 4\n",
            "",
            "missing key `heads` in table `models.teacher.network` (my.toml:11:1)\n   11 | network.width = 32\n      | ^^^^^^^\n\nhint: add `heads = …` to `models.teacher.network`",
        ),
        (
            ", heads = 1 }",
            " }",
            "missing key `heads` in table `models.third.network` (my.toml:31:11)\n   31 | network = { width = 8 }\n      |           ^^^^^^^^^^^^^\n\nhint: add `heads = …` to `models.third.network`",
        ),
        (
            "rounds = 3\n",
            "",
            "missing key `rounds` in table `models.student.objective.sdtt` (my.toml:21:1)\n   21 | [models.student.objective.sdtt]\n      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n\nhint: add `rounds = …` below `[models.student.objective.sdtt]`",
        ),
        (
            "until = 5\n",
            "",
            "missing key `until` in table `stages.0` (my.toml:39:1)\n   39 | [[stages]]\n      | ^^^^^^^^^^\n\nhint: add `until = …` below `[[stages]]`",
        ),
        (
            "until = 9\n",
            "",
            "missing key `until` in table `stages.1` (my.toml:42:1)\n   42 | [[stages]]\n      | ^^^^^^^^^^\n\nhint: add `until = …` below `[[stages]]`",
        ),
    ] {
        assert_eq!(with(old, new), format!("error: {expected}"));
    }
    let said = said("", &[]);
    assert_eq!(
        said,
        "error: missing key `name` in my.toml:1:1\n   missing key `seed` in my.toml:1:1\n   missing key `data` in my.toml:1:1\n   missing key `models` in my.toml:1:1\n\nhint: add `name = …` above the first table, or `[name]`"
    );
}

#[test]
fn an_unknown_kind_is_told_as_key_or_value() {
    assert!(
        with("objective.elbo = {}", "objective.elbbo = {}")
            .starts_with("error: unknown key `elbbo` in my.toml:13:11\n")
    );
    assert!(
        with("objective.elbo = {}", "objective = \"elbbo\"")
            .starts_with("error: unknown value `elbbo` for `models.teacher.objective` in my.toml:13:13\n")
    );
    assert_eq!(with("\"story\"", "\"zzzzzzzz\"").lines().last(), Some("hint: known here: `story`, `text`"));
}

#[test]
fn a_kind_without_its_settings_is_told_where_to_put_them() {
    assert_eq!(
        with("objective.elbo = {}", "objective = \"sdtt\""),
        "error: `models.teacher.objective` is `sdtt`, which needs settings (my.toml:13:13)\n   13 | objective = \"sdtt\"\n      |             ^^^^^^\n\nhint: put them in a table `[models.teacher.objective.sdtt]`"
    );
}

#[test]
fn faults_of_different_sorts_are_told_at_once_and_names_come_first() {
    let text = SAMPLE
        .replace("seed = 7", "seed = \"x\"")
        .replace("heads = 4\nhidden", "hidden")
        .replace("batch = 8\n", "btach = 8\n");
    assert_eq!(
        said(&text, &[]),
        "error: unknown key `btach` in my.toml:27:1
   27 | btach = 8
      | ^^^^^
   `seed` must be a whole number from 0, but it is `\"x\"` (my.toml:2:8)
   missing key `heads` in table `models.student.network` (my.toml:16:1)

hint: did you mean `batch`?"
    );
    let many: String = (0..40).map(|n| format!("key{n} = 1\n")).collect();
    let said = said(&format!("{many}{SAMPLE}"), &[]);
    assert!(said.contains("`key10`") && !said.contains("`key11`") && said.contains("\n   and more\n"), "{said}");
}

#[test]
fn a_choice_of_two_kinds_names_both_places() {
    let said = said(SAMPLE, &["models.teacher.objective.sdtt.rounds=3"]);
    assert!(
        said.starts_with(
            "error: `models.teacher.objective` must be of one kind, but it has 2: `elbo` (my.toml:13:11), `sdtt` \
             (`--set models.teacher.objective.sdtt.rounds=3`)\n"
        ),
        "{said}"
    );
}

#[test]
fn a_key_given_twice_tells_both_places() {
    assert_eq!(
        with("seed = 7", "seed = 7\nseed = 8"),
        "error: duplicate key `seed` in my.toml:3:1\n   3 | seed = 8\n     | ^^^^\n\nhint: it stands in my.toml:2:1 already; keep one of them"
    );
    assert!(
        with("[[stages]]\nfrom = 5", "[data]\nfrom = 5").starts_with("error: duplicate key `data` in my.toml:42:2\n")
    );
}

#[test]
fn a_fault_of_syntax_has_its_place() {
    assert_eq!(
        with("seed = 7", "seed = seven"),
        "error: string values must be quoted in my.toml:2:8\n   2 | seed = seven\n     |        ^^^^^\n\nhint: write `\"seven\"`"
    );
    for (old, new, place) in [
        ("seed = 7", "seed 7", "my.toml:2:6"),
        ("notes = [\"a\", \"b\"]", "notes = [\"a\", \"b\"", "my.toml:5:1"),
        ("[data]", "[data", "my.toml:5:6"),
        ("\"story\"", "\"story", "my.toml:6:"),
        ("\"story\"", "\"st\\qory\"", "my.toml:6:"),
    ] {
        let said = with(old, new);
        assert!(said.lines().next().is_some_and(|l| l.contains(place)), "{said}");
        assert!(said.contains(" | "), "{said}");
    }
}

#[test]
fn columns_count_characters_and_carets_stand_below_the_key() {
    let said =
        said(&SAMPLE.replace("network = { width = 8, heads", "network = {\twidth = 8, \"héds\" = 1, heads"), &[]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "error: unknown key `héds` in my.toml:31:24");
    let (code, carets) = (lines[1], lines[2]);
    let at = carets.chars().position(|c| c == '^').unwrap();
    assert_eq!(code.chars().skip(at).take(6).collect::<String>(), "\"héds\"");
    assert_eq!(carets.trim_start_matches([' ', '|']), "^^^^^^");
}

#[test]
fn line_ends_of_windows_and_a_byte_order_mark_move_no_place() {
    let text = format!("\u{feff}{}", SAMPLE.replace("length = 64", "lenght = 64").replace('\n', "\r\n"));
    assert!(
        said(&text, &[]).starts_with("error: unknown key `lenght` in my.toml:7:1\n   7 | lenght = 64\n     | ^^^^^^\n")
    );
    assert!(said("\u{feff}nam = \"x\"", &[]).starts_with("error: unknown key `nam` in my.toml:1:1\n"));
}

#[test]
fn no_line_of_a_message_about_a_long_line_exceeds_100_columns() {
    let long = format!("notes = [{}{}]", "\"abcdefgh\", ".repeat(40), "5");
    let said = with("notes = [\"a\", \"b\"]", &long);
    assert!(said.lines().all(|l| l.chars().count() <= 100), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let at = lines[2].chars().position(|c| c == '^').unwrap();
    assert_eq!(lines[1].chars().nth(at), Some('5'), "{said}");
    let table = format!("[data]\n{} = 1", "k".repeat(3000));
    assert!(with("[data]", &table).lines().take(3).all(|l| l.chars().count() <= 110));
}

#[test]
fn set_overrides_and_creates_keys_and_is_recorded() {
    let sets: Vec<String> = [
        "seed=9",
        "name=runs/x",
        "models.third.network.hidden = 64",
        "models.\"fourth\"={network={width=1,heads=1},objective={elbo={}},train={steps=1,learning_rate=1,batch=1}}",
        "stages.1.until=12",
        "notes=[\"x = y\"]",
        "data.shuffle=false",
        "seed=10",
    ]
    .map(str::to_string)
    .to_vec();
    let parsed = parse::<Study>(SAMPLE, "my.toml", &sets).unwrap();
    let study = &parsed.value;
    assert_eq!((study.seed, study.name.as_str(), study.notes[0].as_str()), (10, "runs/x", "x = y"));
    assert_eq!((study.models.len(), study.models["third"].network.hidden, study.stages[1].until), (4, Some(64), 12));
    assert!(!study.data.shuffle);
    let again = parse::<Study>(&parsed.resolved, "again.toml", &[]).unwrap();
    assert_eq!(format!("{:?}", again.value), format!("{study:?}"));
    assert!(parsed.resolved.starts_with("# --set seed=9\n"));
    assert_eq!(diff(&parsed.resolved, &again.resolved, "a", "b").unwrap(), "");
}

#[test]
fn a_set_that_cannot_be_meant_names_itself() {
    for (set, expected) in [
        ("seed", "no `=` in `--set seed`\n\nhint: write `--set key.path=value`"),
        ("=3", "`` is not a key in `--set =3`\n\nhint: write `--set key.path=value`"),
        ("a b=3", "`a b` is not a key in `--set a b=3`\n\nhint: write `--set key.path=value`"),
        ("a..b=3", "`a..b` is not a key in `--set a..b=3`\n\nhint: write `--set key.path=value`"),
        ("seed=", "no value in `--set seed=`\n\nhint: `--set 'seed=\"\"'` sets an empty string"),
        (
            "seed.x=3",
            "`seed` is not a table in `--set seed.x=3`\n\nhint: what stands there is a value, which has no keys below it",
        ),
        (
            "data.length.x=3",
            "`data.length` is not a table in `--set data.length.x=3`\n\nhint: what stands there is a value, which has no keys below it",
        ),
        (
            "stages.7.until=3",
            "`stages` is not a table in `--set stages.7.until=3`\n\nhint: what stands there is a value, which has no keys below it",
        ),
        (
            "seed=abc",
            "`seed` must be a whole number from 0, but it is `abc` (`--set seed=abc`)\n\nhint: a whole number without quotes, such as `seed = 16`",
        ),
        ("data=3", "`data` must be a table, but it is `3` (`--set data=3`)\n\nhint: put its keys in a table: `[data]`"),
        ("name=5", "`name` must be a string, but it is `5` (`--set name=5`)\n\nhint: `--set 'name=\"5\"'`"),
        (
            "seed=1e3",
            "`seed` must be a whole number from 0, but it is `1e3` (`--set seed=1e3`)\n\nhint: `--set seed=1000`",
        ),
        ("sed=3", "unknown key `sed` in `--set sed=3`\n\nhint: did you mean `--set seed=3`?"),
        (
            "trian.steps=3",
            "unknown key `trian` in `--set trian.steps=3`\n\nhint: known here: `name`, `seed`, `notes`, `data`, `models`, `stages`",
        ),
        (
            "data.kind=stroy",
            "unknown value `stroy` for `data.kind` in `--set data.kind=stroy`\n\nhint: did you mean `--set data.kind=story`?",
        ),
        (
            "models.x.network.width=1",
            "missing key `heads` in table `models.x.network` (`--set models.x.network.width=1`)\n   missing key `objective` in table `models.x` (`--set models.x.network.width=1`)\n   missing key `train` in table `models.x` (`--set models.x.network.width=1`)\n\nhint: add `--set models.x.network.heads=…`",
        ),
        (
            "models.studnt.network.width=1",
            "missing key `heads` in table `models.studnt.network` (`--set models.studnt.network.width=1`)\n   missing key `objective` in table `models.studnt` (`--set models.studnt.network.width=1`)\n   missing key `train` in table `models.studnt` (`--set models.studnt.network.width=1`)\n\nhint: did you mean `--set models.student.network.width=1`?",
        ),
        (
            "seed=99999999999999999999",
            "`seed` must be a whole number from 0 to 9223372036854775807, but it is `99999999999999999999` (`--set seed=99999999999999999999`)\n\nhint: the nearest allowed value: `seed = 9223372036854775807`",
        ),
    ] {
        assert_eq!(said(SAMPLE, &[set]), format!("error: {expected}"), "{set}");
    }
    assert!(said(SAMPLE, &["notes=[\"a\""]).contains("in `--set notes=[\"a\"`"));
    // Of two overrides the one at fault is named.
    assert!(
        said(SAMPLE, &["seed=1", "data.lenght=3", "name=x"])
            .starts_with("error: unknown key `lenght` in `--set data.lenght=3`")
    );
}

#[test]
fn flatten_lists_every_value_under_its_dotted_key() {
    let flat = flatten("a = 1\n[b.\"c d\"]\ne = [1, 2]\nf = {}\n[[g]]\nh = 1\n[[g]]\nh = 2\n").unwrap();
    let text: Vec<String> = flat.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(text[..2], ["a=1", "b.\"c d\".e=[1, 2]"]);
    assert_eq!(
        flat.keys().map(String::as_str).collect::<Vec<_>>(),
        ["a", "b.\"c d\".e", "b.\"c d\".f", "g.0.h", "g.1.h"]
    );
}

#[test]
fn diff_shows_old_and_new_of_what_differs() {
    let a = "seed = 1\nlr = 1.0\nx = nan\n[o.elbo]\n[t]\nsteps = 5\n";
    let b = "lr = 1\nseed = 2\nx = nan\nname = \"a\\nb\"\n[t]\nsteps = 5\n[o.sdtt]\nrounds = 3\n";
    assert_eq!(
        diff(a, b, "old.toml", "new.toml").unwrap(),
        "--- old.toml\n+++ new.toml\n- seed = 1\n+ seed = 2\n- o.elbo = {}\n+ name = \"a\\nb\"\n+ o.sdtt.rounds = 3\n"
    );
    assert_eq!(diff(a, a, "a", "b").unwrap(), "");
    assert!(diff(a, "x = ", "old.toml", "new.toml").unwrap_err().message.contains("in new.toml:1:5"));
}

#[test]
fn every_key_changed_once_is_the_one_that_is_named() {
    assert_eq!(changed(SAMPLE, SAMPLE).unwrap(), Vec::<String>::new());
    let flat = flatten(SAMPLE).unwrap();
    for (key, value) in &flat {
        let set = match value {
            toml::Value::Integer(i) => format!("{key}={}", i + 1),
            toml::Value::Float(f) => format!("{key}={}", f * 2.0),
            toml::Value::Boolean(b) => format!("{key}={}", !b),
            toml::Value::Array(_) => format!("{key}=[\"other\"]"),
            toml::Value::String(s) if s == "story" => format!("{key}=text"),
            toml::Value::String(_) => format!("{key}=other"),
            _ => continue,
        };
        let new = parse::<Study>(SAMPLE, "my.toml", &[set]).unwrap().resolved;
        assert_eq!(changed(SAMPLE, &new).unwrap(), [key.as_str()]);
    }
}

#[test]
fn lines_have_every_key_below_a_prefix_but_those_left_out() {
    let text = "a = 1\nb = { c = 2.5, d = { e = \"x\" } }\nf = [1, 2]\n";
    let all = lines(&["model", "my model"], text, &["b.d", "a"]).unwrap();
    let want = [("model.\"my model\".b.c", "2.5"), ("model.\"my model\".f", "[1, 2]")];
    assert_eq!(all.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), want);
}

/// Pieces of which a text is often nearly TOML.
fn nearly_toml() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "name",
            "seed",
            "data",
            "models",
            "kind",
            "=",
            " = ",
            ".",
            "\n",
            "\r\n",
            "[",
            "]",
            "[[",
            "]]",
            "{",
            "}",
            ",",
            "\"",
            "'",
            "\"\"\"",
            "#",
            "\t",
            "1",
            "-1",
            "1e999",
            "nan",
            "inf",
            "0x",
            "9999999999999999999999",
            "true",
            "story",
            "1979-05-27T07:32:00Z",
            "\\u00e9",
            "é",
            "🦀",
            "\u{feff}",
            "\0",
            "stages",
            "from",
            "network.width = 3\n",
        ])
        .prop_map(str::to_string),
        "\\PC{0,8}",
        "[a-z]{1,6} = [0-9]{1,4}\n",
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// The sample with some bytes cut out or doubled.
fn damaged() -> impl Strategy<Value = String> {
    prop::collection::vec((0..SAMPLE.len(), 0..12usize, any::<bool>()), 1..5).prop_map(|edits| {
        let mut text = SAMPLE.to_string();
        for (at, length, double) in edits {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            let part = text[at..end].to_string();
            if double {
                text.insert_str(at, &part);
            } else {
                text.replace_range(at..end, "");
            }
        }
        text
    })
}

fn never_panics(text: &str, sets: &[String]) {
    if let Err(e) = parse::<Study>(text, "my.toml", sets) {
        assert_eq!(e.kind, Kind::Usage);
        let said = e.to_string();
        assert!(said.contains("my.toml") || said.contains("--set"), "{said}");
        assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
    }
    if let Ok(flat) = flatten(text) {
        assert_eq!(diff(text, text, "a", "b").unwrap(), "", "{flat:?}");
        let table = parse::<toml::Table>(text, "my.toml", &["zzz.new=1".to_string()]).map(|p| p.resolved);
        if let Ok(resolved) = table {
            assert_eq!(changed(text, &resolved).unwrap().len(), 1, "{resolved}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![nearly_toml(), damaged(), "\\PC{0,80}"], set in "\\PC{0,20}") {
        never_panics(&text, &[]);
        never_panics(SAMPLE, &[set, format!("seed={}", text.chars().take(9).collect::<String>())]);
    }
}

#[test]
fn deep_nesting_and_long_files_are_read_or_refused_but_never_a_panic() {
    for text in [
        format!("a = {}{}", "[".repeat(5000), "]".repeat(5000)),
        format!("{}a = 1", "a.".repeat(5000)),
        format!("[{}b]\nc = 1", "a.".repeat(5000)),
        "x = 1\n".repeat(20_000),
        format!("x = \"{}\"", "é".repeat(100_000)),
    ] {
        never_panics(&text, &[]);
    }
    let sets: Vec<String> = (0..50).map(|n| format!("a{n}.b.c={}", "[".repeat(n * 50))).collect();
    never_panics(SAMPLE, &sets[..1]);
    never_panics(SAMPLE, &[format!("{}x=1", "a.".repeat(3000))]);
    never_panics(SAMPLE, &[format!("x={}", "[".repeat(3000))]);
}

#[test]
fn an_error_takes_less_than_50_milliseconds() {
    let text = SAMPLE.replace("teacher_steps", "teacher_step");
    let began = std::time::Instant::now();
    said(&text, &[]);
    assert!(began.elapsed().as_millis() < 50);
}
