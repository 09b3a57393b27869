//! The book in docs/: it builds, its Rust is compiled, and its page of keys is what the program says.

use std::path::{Path, PathBuf};

use fewstep::recipe::{builtin, reference};
use mdbook_driver::MDBook;

use super::binary::Place;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

#[test]
fn every_key_of_a_recipe_is_documented_with_its_values_and_its_default() {
    let page = root().join("docs/src/keys.md");
    // How the page is made again after a key was added.
    if std::env::var_os("FEWSTEP_WRITE_PAGES").is_some() {
        std::fs::write(&page, reference::page()).unwrap();
    }
    let written = std::fs::read_to_string(&page).unwrap();
    assert!(
        written == reference::page(),
        "docs/src/keys.md is not what the doc comments say: run this test with FEWSTEP_WRITE_PAGES=1 and commit the page"
    );
    let tables = reference::tables();
    assert!(tables.len() > 40 && tables.iter().map(|table| table.keys.len()).sum::<usize>() > 200);
    assert!(!written.contains("[`super") && !written.contains("::"), "a path of the code in the page");
    let mut lacking = Vec::new();
    for table in &tables {
        for key in &table.keys {
            let place = format!("{}.{}", table.path, key.name);
            if key.about.is_empty() {
                lacking.push(format!("{place}: no meaning"));
            }
            let told = ["default", "Default"].iter().any(|word| key.about.contains(word));
            if !table.one_of && !key.needed && key.default.is_none() && !told {
                lacking.push(format!("{place}: no default: {}", key.about));
            }
            // What stands in the column of defaults would be told twice, and once wrongly some day.
            let shown = key.default.as_ref().is_some_and(|default| default != "none");
            if shown && key.about.to_lowercase().contains("default") {
                lacking.push(format!("{place}: the default twice: {}", key.about));
            }
            if key.values == "any" || key.values == "list" {
                lacking.push(format!("{place}: its values are {}", key.values));
            }
        }
    }
    assert!(lacking.is_empty(), "{}", lacking.join("\n"));
    // A default that is not written where it holds is not in the schema by itself.
    for path in super::layers::files_of_src() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (line, next) in text.lines().zip(text.lines().skip(1)) {
            let hidden = line.contains("default_true") && line.contains("skip_serializing_if");
            assert!(!hidden || next.contains("extend(\"default\" = true)"), "{}: {line}", path.display());
        }
    }
}

/// The paths of all keys of a TOML table; of a list of tables those of each.
fn paths(value: &toml::Value, path: &str, out: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                out.push(path.clone());
                paths(value, &path, out);
            }
        }
        toml::Value::Array(all) => all.iter().for_each(|value| paths(value, path, out)),
        _ => {}
    }
}

#[test]
fn every_key_of_every_shipped_recipe_is_found_at_its_own_path() {
    for (name, text, _) in builtin::ALL {
        let mut all = Vec::new();
        paths(&toml::Value::Table(text.parse().unwrap()), "", &mut all);
        for path in all {
            let found = reference::find(&path).unwrap_or_else(|e| panic!("{name}: {path}: {e}"));
            assert!(found.len() == 1 && found[0].path == path, "{name}: {path}: {found:?}");
        }
    }
}

#[test]
fn a_key_is_explained_on_the_terminal_by_its_whole_path_or_its_end() {
    let place = Place::new();
    let explained = |key: &str| place.run(&["recipe", "explain", key]).ok().out;
    let lr = explained("model.student.train.lr");
    assert!(
        lr.starts_with("model.student.train.lr\n    Peak learning rate.\n") && lr.contains("has to be given"),
        "{lr}"
    );
    assert!(explained("train.lr").contains("model.NAME.train.lr"));
    let sdtt = explained("model.student.objective.sdtt");
    assert!(sdtt.contains("teacher_steps") && sdtt.contains("rounds"), "{sdtt}");
    // An order inside another is the same table again.
    assert!(explained("model.a.order.within.order.strided").contains("phases"));
    assert!(place.run(&["recipe", "explain"]).ok().out.contains("model.NAME.train\n"));
    place.run(&["recipe", "explain", "train.lrr"]).fails(2, &["no key `train.lrr`", "did you mean"]);
    let schema: serde_json::Value = serde_json::from_str(&place.run(&["recipe", "schema"]).ok().out).unwrap();
    assert_eq!(schema["required"], serde_json::json!(["name", "data", "model", "eval"]));
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn the_book_builds_and_its_rust_is_compiled_as_doc_tests() {
    let place = Place::new();
    let mut book = MDBook::load(root().join("docs")).unwrap();
    book.config.build.build_dir = place.path("book");
    book.build().unwrap();
    let library = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for page in std::fs::read_dir(root().join("docs/src")).unwrap() {
        let page = page.unwrap().path();
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        let html = place.path("book").join(page.with_extension("html").file_name().unwrap());
        assert!(name == "SUMMARY.md" || html.exists(), "{name} is not in the book");
        let rust = std::fs::read_to_string(&page).unwrap().contains("```rust");
        assert!(!rust || library.contains(&format!("docs/src/{name}")), "the Rust of {name} is compiled by nobody");
    }
}

#[test]
fn the_schema_takes_every_shipped_recipe_and_refuses_what_the_program_refuses() {
    let schema = jsonschema::validator_for(&reference::schema()).unwrap();
    for (name, text, _) in builtin::ALL {
        let recipe = serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap();
        let wrong: Vec<String> = schema.iter_errors(&recipe).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
        let object = recipe.as_object().unwrap();
        for key in object.keys() {
            // A typo, and a number where a table or a text is wanted.
            let mut typo = object.clone();
            let value = typo.remove(key).unwrap();
            typo.insert(format!("{key}x"), value);
            let mut number = object.clone();
            number.insert(key.clone(), serde_json::json!(-1.5));
            for bad in [typo, number] {
                let text = toml::to_string(&bad).unwrap();
                assert!(toml::from_str::<fewstep::prelude::Recipe>(&text).is_err(), "{name}: {key}");
                assert!(!schema.is_valid(&bad.into()), "{name}: {key}");
            }
        }
    }
    // Older names of a metric are names still.
    let recipe: toml::Table = builtin::ALL[0].1.parse().unwrap();
    let mut recipe = serde_json::to_value(recipe).unwrap();
    recipe["gate"] = serde_json::json!({ "rules": [{ "metric": "oracle_nll", "relative": 0.1 }] });
    assert!(toml::from_str::<fewstep::prelude::Recipe>(&toml::to_string(&recipe).unwrap()).is_ok());
    assert!(schema.is_valid(&recipe));
}
