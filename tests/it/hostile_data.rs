//! Corpora, tokenizers, results and recipes of strangers, and special files in their places: each ends in a message and
//! its exit code, says something within seconds, and takes a small multiple of its size.

#![cfg(target_os = "linux")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::binary::Place;
use super::watched::{SILENCE, Watched, watch, watch_for};

const MIB: u64 = 1 << 20;

/// A study of two small models on a text, `data` being what stands in its table.
fn study(data: &str) -> String {
    format!(
        r#"name = "study"
[data.text]
{data}
[model.judge]
seed = 9
order = "left_to_right"
objective.ar_nll = {{}}
network = {{ dim = 8, layers = 1, heads = 2, visibility = "causal", shift = true }}
train = {{ steps = 1, batch = 2, lr = 1e-3 }}
[model.ar]
order = "left_to_right"
objective.ar_nll = {{}}
network = {{ dim = 8, layers = 1, heads = 2, visibility = "causal", shift = true }}
train = {{ steps = 1, batch = 2, lr = 1e-3 }}
[eval]
samples = 2
batch = 2
steps = [2]
held_out = 2
judge = "judge"
speed_repeats = 1
"#
    )
}

fn text(path: &str, tokenizer: &str) -> String {
    study(&format!("path = \"{path}\"\ntokenizer = {tokenizer}\nlength = 8"))
}

/// Runs a command that must be refused, in memory for twice what it reads and the program itself.
#[track_caller]
fn refused(place: &Place, args: &[&str], input: u64, code: i32, words: &[&str]) {
    let Watched { ran, peak, .. } = watch(place.command(args));
    println!("{args:?}: {} MiB for {} MiB", peak / MIB, input / MIB);
    ran.fails(code, words);
    assert!(peak <= 2 * input + 64 * MIB, "{args:?} took {} MiB for {} MiB", peak / MIB, input / MIB);
}

fn pipe(place: &Place, name: &str) {
    assert!(std::process::Command::new("mkfifo").arg(place.path(name)).status().unwrap().success());
}

/// Every place of the command line and of a recipe that names a file, once with a pipe that nobody writes to and once with
/// a device without an end.
#[test]
fn a_pipe_or_a_device_in_the_place_of_a_file_is_refused_at_once_wherever_a_file_is_named() {
    let place = Place::new();
    place.run(&["run", "tiny", "--threads", "1"]).ok();
    let words = "the quick brown fox jumps over the lazy dog . ".repeat(40);
    place.write("text.txt", &words);
    let ends = ["", ".txt", ".jsonl", ".parquet", ".json", ".toml", ".md", ".safetensors"];
    for end in ends {
        pipe(&place, &format!("pipe{end}"));
        std::os::unix::fs::symlink("/dev/zero", place.path(&format!("zero{end}"))).unwrap();
    }
    for (name, kind) in [("pipe", "it is a pipe"), ("zero", "it is a device")] {
        let at = |end: &str| format!("{name}{end}");
        for (file, recipe) in [
            ("path.toml", text(&at(".txt"), "\"char\"")),
            ("bytes.toml", text(&at(""), "\"bytes\"")),
            ("jsonl.toml", text(&at(".jsonl"), "\"char\"")),
            ("parquet.toml", text(&at(".parquet"), "\"char\"")),
            ("valid.toml", text("text.txt", &format!("\"char\"\nvalid_path = \"{}\"", at(".txt")))),
            ("json.toml", text("text.txt", &format!("{{ json = {{ path = \"{}\" }} }}", at(".json")))),
            (
                "bpe.toml",
                text("text.txt", &format!("{{ bpe = {{ vocab = \"{0}\", merges = \"{0}\" }} }}", at(".json"))),
            ),
            (
                "context.toml",
                text("text.txt", "\"char\"").replace("[eval]", &format!("[eval]\ncontext = \"{}\"", at(".json"))),
            ),
        ] {
            place.write(file, recipe);
            refused(&place, &["run", file, "--out", "new"], 0, 3, &["is not a regular file", kind, "hint:"]);
        }
        let (json, toml, notes, any) = (at(".json"), at(".toml"), at(".md"), at(""));
        let exported = "runs/tiny/export/student";
        for args in [
            &["run", &toml][..],
            &["run", &any],
            &["recipe", "check", &toml],
            &["recipe", "diff", "tiny", &toml],
            &["report", &json],
            &["report", "runs/tiny", "--notes", &notes],
            &["gate", &json, "--baseline", "runs/tiny"],
            &["gate", "runs/tiny", "--baseline", &json],
            &["inspect", &at(".safetensors")],
            &["inspect", &any],
            &["inspect", exported, "--against", &at(".safetensors")],
        ] {
            refused(&place, args, 0, 3, &["is not a regular file", kind]);
        }
    }
    // In the places of a run's and a model's own files.
    for (file, args) in [
        ("runs/tiny/results.json", &["report", "runs/tiny"][..]),
        ("runs/tiny/export/student/tokenizer.json", &["sample", "runs/tiny/export/student"]),
        ("runs/tiny/export/student/model.safetensors", &["sample", "runs/tiny/export/student"]),
        ("runs/tiny/recipe.toml", &["eval", "runs/tiny"]),
    ] {
        let kept = std::fs::read(place.path(file)).unwrap();
        std::fs::remove_file(place.path(file)).unwrap();
        pipe(&place, file);
        let Watched { ran, .. } = watch(place.command(args));
        ran.fails(3, &[Path::new(file).file_name().unwrap().to_str().unwrap()]);
        std::fs::remove_file(place.path(file)).unwrap();
        place.write(file, kept);
    }
}

/// A Parquet file with a column `text` of these values.
fn parquet(path: &Path, compression: Compression, values: &[ByteArray]) {
    let schema = Arc::new(parse_message_type("message m { required binary text (utf8); }").unwrap());
    // The dictionary is written whatever its size.
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_page_size_limit(1 << 30)
        .set_data_page_size_limit(1 << 30)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let mut writer =
        SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    let mut rows = writer.next_row_group().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(values, None, None).unwrap();
    column.close().unwrap();
    rows.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn a_parquet_file_made_to_grow_is_refused_by_its_pages_or_its_texts() {
    let place = Place::new();
    place.write("my.toml", text("x.parquet", "\"bytes\""));
    let path = place.path("x.parquet");
    let zstd = Compression::ZSTD(ZstdLevel::default());
    // One word of four million bytes in two thousand rows.
    let word = ByteArray::from(vec![b'a'; 4_000_000]);
    parquet(&path, zstd, &vec![word; 2000]);
    let length = std::fs::metadata(&path).unwrap().len();
    assert!(length < 2000, "{length}");
    refused(&place, &["run", "my.toml"], 64 * MIB, 3, &["x.parquet holds more text than is read", "hint:"]);
    // One page that unpacks to 300 MB.
    parquet(&path, zstd, &[ByteArray::from(vec![b'a'; 300_000_000])]);
    let length = std::fs::metadata(&path).unwrap().len();
    assert!(length < 100_000, "{length}");
    refused(&place, &["run", "my.toml"], length, 3, &["x.parquet", "unpacks to", "more than is read"]);
}

#[test]
fn a_tokenizer_made_to_grow_takes_at_most_twice_its_size() {
    let place = Place::new();
    place.write("text.txt", "abc ".repeat(200));
    place.write("my.toml", text("text.txt", "{ json = { path = \"t.json\" } }"));
    let file = |content: &str| {
        let added = serde_json::json!([{ "id": 3, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true }]);
        serde_json::json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": { "abc": 0, " ": 1, "?": 2 }, "unk_token": "?" } })
        .to_string()
    };
    for (bytes, words) in [
        (file(&"x".repeat(5_000_000)), "the added token `xxx"),
        (format!("[{}1]", "1,".repeat(20_000_000)), "values"),
        (format!("{{\"a\":{}", "[".repeat(20_000_000)), "recursion"),
        (format!("{{\"a\":\"{}", "x".repeat(20_000_000)), "EOF"),
    ] {
        place.write("t.json", &bytes);
        refused(&place, &["run", "my.toml"], bytes.len() as u64, 3, &["t.json is not a valid tokenizer.json", words]);
    }
}

#[test]
fn lines_and_results_made_to_grow_take_at_most_twice_their_size() {
    let place = Place::new();
    place.write("my.toml", text("x.jsonl", "\"bytes\""));
    let list = format!("[{}1]", "1,".repeat(20_000_000));
    for line in [format!("{{\"other\": {list}}}\n"), format!("{{\"text\": {list}}}\n")] {
        place.write("x.jsonl", &line);
        refused(&place, &["run", "my.toml"], line.len() as u64, 3, &["x.jsonl line 1", "`text`"]);
    }
    let line = "x".repeat(70_000_000);
    place.write("x.jsonl", &line);
    refused(&place, &["run", "my.toml"], line.len() as u64, 3, &["longer than"]);
    place.write("results.json", &list);
    refused(&place, &["report", "results.json"], list.len() as u64, 3, &["results.json"]);
}

/// A text of this many bytes with lines and some characters of two bytes.
fn long_text(place: &Place, bytes: usize) -> u64 {
    let line = "The quick brown fox jumps over the lazy dog, é and ß 0123456789; \n";
    let path = place.write("text.txt", line.repeat(bytes / line.len()));
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn a_long_text_is_read_in_memory_for_its_tokens_and_says_so_at_once() {
    let place = Place::new();
    let bytes = long_text(&place, 128 << 20);
    for tokenizer in ["bytes", "char"] {
        place.write("my.toml", text("text.txt", &format!("\"{tokenizer}\"")));
        // First from the text, then from the cache of tokens.
        for pass in ["text", "cache"] {
            let args = ["run", "my.toml", "--only", "judge", "--threads", "1"];
            let Watched { ran, peak, first } = watch(place.command(&args));
            ran.ok();
            println!("{tokenizer} from its {pass}: {} MiB of {}, first line after {first:?}", peak / MIB, bytes / MIB);
            // The program itself takes some 24 MiB.
            assert!(
                peak <= bytes * 3 / 2 + 24 * MIB,
                "{tokenizer} from its {pass}: {} MiB of {}",
                peak / MIB,
                bytes / MIB
            );
            assert!(first <= Duration::from_secs(2), "{tokenizer} from its {pass}: {first:?}");
        }
        std::fs::remove_dir_all(place.path("runs")).unwrap();
    }
}

/// Whether a process has a handler for SIGINT by now; without one it ends at once, too.
fn heeds_ctrl_c(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
    caught.is_none_or(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 2 != 0))
}

#[test]
fn ctrl_c_stops_the_reading_of_a_corpus_within_a_second() {
    let place = Place::new();
    long_text(&place, 128 << 20);
    place.write("my.toml", text("text.txt", "\"char\""));
    for after in [50, 400] {
        let pressed = Arc::new(std::sync::Mutex::new(None));
        let at = pressed.clone();
        let press = move |pid: u32| {
            std::thread::spawn(move || {
                while !heeds_ctrl_c(pid) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                std::thread::sleep(Duration::from_millis(after));
                *at.lock().unwrap() = Some(Instant::now());
                std::process::Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap();
            });
        };
        let Watched { ran, .. } = watch_for(place.heeding(&["run", "my.toml"]), SILENCE, press);
        let took = pressed.lock().unwrap().unwrap().elapsed();
        assert_eq!(ran.code, 130, "{}", ran.err);
        assert!(ran.err.contains("stopped by"), "{}", ran.err);
        assert!(took < Duration::from_millis(1500), "{took:?}");
    }
}
