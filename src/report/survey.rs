//! Autoregression and diffusion side by side, property by property, as surveys of diffusion language models compare them -
//! but every cell is a number of this study, and the last column says which.
//!
//! Shown where a study has a model of either kind and measured flexibility. Each model is read at its row with the most
//! steps, K. L length.

use super::flexibility::score;
use super::table::{NOTHING, Table, fixed, interval, measured, short, shown, spread};
use crate::eval::context::{ContextPoint, Paradigm};
use crate::eval::flexibility::{Flexibility, Task};
use crate::eval::results::{Metric, ModelResult, Results, Role, Row};
use crate::eval::stats::Spread;

/// What a cell without a measurement says.
const NOT_MEASURED: &str = "not measured";

/// The table; none where the study cannot compare the two.
pub fn table(results: &Results) -> Option<Table> {
    let compared: Vec<Compared> = shown(results).into_iter().filter_map(|m| Compared::of(results, m)).collect();
    let has = |ar: bool| compared.iter().any(|c| (c.model.role == Role::Ar) == ar);
    if !has(true) || !has(false) {
        return None;
    }
    let mut header = vec!["property".to_string()];
    header.extend(compared.iter().map(|c| c.model.name.clone()));
    header.push("rests on".into());
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut add = |property: &str, cell: &dyn Fn(&Compared) -> String, source: &str| {
        let mut cells = vec![property.to_string()];
        cells.extend(compared.iter().map(cell));
        cells.push(source.to_string());
        rows.push(cells);
    };
    process(results, &mut add);
    lengths(results, &mut add);
    quality(results, &mut add);
    flexibility(&mut add);
    Some(Table { title: "Autoregression and diffusion, property by property".into(), header, rows })
}

/// How the rows of the bench are read; none where there are none.
pub fn reading(results: &Results) -> Option<String> {
    let points = results.context.as_ref()?;
    let repeats = points.iter().map(|p| p.repeats).min()?;
    Some(format!(
        "Long outputs are those of `cargo bench --bench context`: networks of one size with random weights, medians and quartiles of \
         {repeats} runs or more. They tell how cost grows with length, and nothing of this study's quality."
    ))
}

/// Adds a row: its property, the cell of each model, and the numbers that it rests on.
type Add<'a> = dyn FnMut(&str, &dyn Fn(&Compared) -> String, &str) + 'a;

/// A model with what is compared of it.
struct Compared<'a> {
    model: &'a ModelResult,
    row: &'a Row,
    flexibility: &'a Flexibility,
    setup: Setup<'a>,
}

impl<'a> Compared<'a> {
    /// None for the oracle, for a judge, and where something was not measured.
    fn of(results: &Results, model: &'a ModelResult) -> Option<Self> {
        let trained = matches!(model.role, Role::Ar | Role::Teacher | Role::Student);
        let flexibility = model.flexibility.as_ref().filter(|_| trained)?;
        Some(Compared { model, row: model.full()?, flexibility, setup: Setup::of(results, model) })
    }
}

/// How a model generates: its order, in the words of the results, and its network, as the recipe has it.
struct Setup<'a> {
    order: &'a str,
    /// Its own or its teachers'; none: it is in a checkpoint.
    network: Option<toml::Table>,
}

impl<'a> Setup<'a> {
    fn of(results: &Results, model: &'a ModelResult) -> Self {
        let recipe: Option<toml::Table> = toml::from_str(&results.recipe).ok();
        // A model that is sampled in several ways is named `model: way`.
        let entry = |name: &str| recipe.as_ref()?.get("model")?.get(name.split(": ").next()?)?.as_table();
        let (mut at, mut network) = (Some(model.name.as_str()), None);
        let mut teacher = model.teacher.as_deref();
        for _ in 0..=results.models.len() {
            network = at.and_then(|name| entry(name)?.get("network")?.as_table());
            if network.is_some() || teacher.is_none() {
                break;
            }
            at = teacher;
            teacher = at.and_then(|name| results.model(name)?.teacher.as_deref());
        }
        Setup { order: &model.order, network: network.cloned() }
    }

    /// Whether the network has that key, above 0 or true.
    fn has(&self, key: &str) -> bool {
        match self.network.as_ref().and_then(|network| network.get(key)) {
            Some(toml::Value::Integer(n)) => *n > 0,
            Some(toml::Value::Boolean(is)) => *is,
            _ => false,
        }
    }

    /// What it is in the bench of context lengths; none for orders that it does not have.
    fn paradigm(&self, role: Role) -> Option<Paradigm> {
        match self.order.split(' ').next() {
            _ if role == Role::Ar => Some(Paradigm::Ar),
            Some("parallel") => Some(Paradigm::Parallel),
            Some("blocks") if self.has("encoder_layers") => Some(Paradigm::Deeper),
            Some("blocks") => Some(Paradigm::Blocks),
            _ => None,
        }
    }

    /// How text longer than the trained one is made.
    fn beyond(&self, role: Role) -> &'static str {
        match self.order {
            _ if self.network.is_none() => NOTHING,
            _ if self.has("learned_positions") => {
                "a window that slides; its positions are learned, so each begins anew"
            }
            _ if role == Role::Ar => "a window that slides, token by token",
            "" => NOTHING,
            "parallel" => "a window that slides, a quarter at once",
            _ => "a window that slides, block by block",
        }
    }
}

/// How text is made, and how fast.
fn process(results: &Results, add: &mut Add) {
    let l = results.data.length as f64;
    let order = |c: &Compared| if c.setup.order.is_empty() { NOTHING.into() } else { c.setup.order.to_string() };
    add("generation order", &order, "order");
    add("steps K", &|c| c.row.steps.to_string(), "rows[steps=K]");
    add("passes per text", &|c| short(c.row.nfe), "rows[steps=K].nfe");
    add("positions per token", &|c| short(c.row.positions / l), "rows[steps=K].positions / data.length");
    let layers = |c: &Compared| c.row.layer_positions.map_or(NOTHING.into(), |n| short(n / l));
    add("positions × layers per token", &layers, "rows[steps=K].layer_positions / data.length");
    let latency = |s: Spread| spread(Spread { median: s.median / l, q1: s.q1 / l, q3: s.q3 / l });
    add(
        &format!("ms per token at length {}", results.data.length),
        &|c| c.row.speed.map_or(NOT_MEASURED.into(), |s| latency(s.latency_ms)),
        "rows[steps=K].speed.latency_ms / data.length",
    );
    let rate = |c: &Compared| c.row.speed.map(|s| format!("{} (batch {})", measured(s.tokens_per_s), s.batch));
    add("tokens per second", &|c| rate(c).unwrap_or(NOT_MEASURED.into()), "rows[steps=K].speed.tokens_per_s");
}

/// Long outputs, on other networks than the study's: those of the bench.
fn lengths(results: &Results, add: &mut Add) {
    let points = results.context.as_deref().unwrap_or_default();
    let of = |c: &Compared| -> Vec<&ContextPoint> {
        let paradigm = c.setup.paradigm(c.model.role);
        let mut own: Vec<_> = points.iter().filter(|p| Some(p.paradigm) == paradigm).collect();
        own.sort_by_key(|p| p.length);
        own
    };
    let ms = |s: Spread| spread(Spread { median: 1e3 * s.median, q1: 1e3 * s.q1, q3: 1e3 * s.q3 });
    let cost = |p: &ContextPoint| format!("{} at {}, {} steps", ms(p.seconds_per_token), p.length, p.steps);
    add(
        "long outputs (bench): ms per token",
        &|c| of(c).last().map_or(NOT_MEASURED.into(), |p| cost(p)),
        "context[paradigm, length].seconds_per_token",
    );
    let growth = |c: &Compared| {
        let (own, seconds) = (of(c), |p: &ContextPoint| p.seconds_per_token.median);
        let (first, last) = (own.first()?, own.last().filter(|p| p.length > own[0].length)?);
        let times = measured(seconds(last) / seconds(first));
        Some(format!("{times} times from {} to {}", first.length, last.length))
    };
    add(
        "long outputs (bench): growth with length",
        &|c| growth(c).unwrap_or(NOT_MEASURED.into()),
        "context[paradigm, length].seconds_per_token",
    );
    let memory = |p: &ContextPoint| format!("{} MiB at {}", measured(p.peak_kib as f64 / 1024.0), p.length);
    add(
        "long outputs (bench): peak memory",
        &|c| of(c).last().map_or(NOT_MEASURED.into(), |p| memory(p)),
        "context[paradigm, length].peak_kib",
    );
    add("trained context, tokens", &|_| results.data.length.to_string(), "data.length");
    add("text beyond it", &|c| c.setup.beyond(c.model.role).into(), "order; recipe: model.NAME.network");
}

/// Quality and variety, both of the same samples.
fn quality(results: &Results, add: &mut Add) {
    for metric in [Metric::Nll, Metric::Valid, Metric::Entropy, Metric::Distinct2] {
        let key = metric.key(&results.data.nll_name);
        if shown(results).iter().flat_map(|m| &m.rows).any(|r| r.scores.contains_key(key)) {
            let cell = |c: &Compared| results.score(c.row, metric).map_or(NOTHING.into(), interval);
            add(metric.label(), &cell, &format!("rows[steps=K].scores.{key}"));
        }
    }
    for key in ["unique", "self_distinct_2"] {
        if shown(results).iter().flat_map(|m| &m.rows).any(|r| r.corpus.contains_key(key)) {
            let cell = |c: &Compared| c.row.corpus.get(key).map_or(NOTHING.into(), |x| fixed(*x));
            add(key, &cell, &format!("rows[steps=K].corpus.{key}"));
        }
    }
}

/// What can be asked of a model beside a continuation.
fn flexibility(add: &mut Add) {
    add("infill: sees", &|c| c.flexibility.sees.words().into(), "flexibility.sees");
    for (property, key) in [
        ("infill: nll ↓", "nll"),
        ("infill: entropy of the posterior", "posterior_entropy"),
        ("infill: valid ↑", "valid"),
        ("infill: accuracy ↑", "accuracy"),
        ("infill: accuracy of exact draws", "oracle_accuracy"),
    ] {
        add(property, &|c| score(&c.flexibility.infill, key), &format!("flexibility.infill.scores.{key}"));
    }
    let remasked = |c: &Compared, key: &str| {
        let cannot = "cannot: looks back only".to_string();
        c.flexibility.remasked.as_ref().map_or(cannot, |task: &Task| score(task, key))
    };
    for (property, key) in [("gone ↑", "gone"), ("restored ↑", "restored"), ("nll ↓", "nll")] {
        add(
            &format!("wrong tokens, no remasking: {property}"),
            &|c| score(&c.flexibility.recovery, key),
            &format!("flexibility.recovery.scores.{key}"),
        );
        add(
            &format!("wrong tokens, remasking: {property}"),
            &|c| remasked(c, key),
            &format!("flexibility.remasked.scores.{key}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::results::fixture;
    use crate::fs::sha256_hex;

    fn study() -> Results {
        let mut results = fixture::with_flexibility(fixture::story(1));
        results.recipe =
            "[model.ar]\nnetwork = { dim = 8 }\n[model.teacher]\nnetwork = { dim = 8, encoder_layers = 2 }\n\
             [model.student]\n[model.eager]\nnetwork = { dim = 8, learned_positions = true }\n"
                .into();
        for (model, order) in results.models.iter_mut().zip(["left_to_right", "blocks 8", "blocks 8", "parallel"]) {
            model.order = order.into();
            model.rows.iter_mut().for_each(|r| r.layer_positions = Some(4.0 * r.positions));
        }
        results.recipe_sha256 = sha256_hex(results.recipe.as_bytes());
        results
    }

    fn row<'a>(table: &'a Table, property: &str) -> &'a [String] {
        table.rows.iter().find(|r| r[0] == property).unwrap_or_else(|| panic!("no row {property}"))
    }

    fn point(paradigm: Paradigm, length: usize, ms: f64) -> ContextPoint {
        let s = 1e-3 * ms;
        ContextPoint {
            paradigm,
            length,
            steps: 32,
            block: 8,
            seconds_per_token: Spread { median: s, q1: s, q3: s },
            repeats: 3,
            peak_kib: 2048,
            nfe: 1.0,
            positions_per_token: 1.0,
            layer_positions_per_token: 1.0,
            table_positions_per_token: 1.0,
            table_layer_positions_per_token: 1.0,
        }
    }

    #[test]
    fn it_has_a_row_for_each_property_a_column_for_each_model_and_the_numbers_it_rests_on() {
        let results = study();
        let table = table(&results).unwrap();
        assert_eq!(table.header, ["property", "ar", "teacher", "student", "eager", "rests on"]);
        assert!(table.rows.iter().all(|r| r.len() == 6 && !r[5].is_empty()));
        assert_eq!(row(&table, "generation order")[1..5], ["left_to_right", "blocks 8", "blocks 8", "parallel"]);
        assert_eq!(row(&table, "positions per token")[1..3], ["1", "256"]);
        assert_eq!(row(&table, "positions × layers per token")[1..3], ["4", "1,024"]);
        let nll = row(&table, "nll ↓");
        assert_eq!(nll[5], "rows[steps=K].scores.oracle_nll");
        assert_eq!(nll[2], interval(results.models[1].full().unwrap().scores["oracle_nll"]));
        let beyond = row(&table, "text beyond it");
        assert_eq!(beyond[1..3], ["a window that slides, token by token", "a window that slides, block by block"]);
        assert_eq!(beyond[4], "a window that slides; its positions are learned, so each begins anew");
        assert_eq!(row(&table, "wrong tokens, remasking: gone ↑")[1], "cannot: looks back only");
        assert!(row(&table, "wrong tokens, remasking: gone ↑")[2].contains('['));
    }

    #[test]
    fn what_was_not_measured_says_so() {
        let mut results = study();
        let properties =
            ["ms per token", "growth with length", "peak memory"].map(|p| format!("long outputs (bench): {p}"));
        for property in &properties {
            assert!(row(&table(&results).unwrap(), property)[1..5].iter().all(|c| c == NOT_MEASURED), "{property}");
        }
        results.context =
            Some(vec![point(Paradigm::Ar, 2048, 3.0), point(Paradigm::Ar, 64, 2.0), point(Paradigm::Deeper, 64, 1.0)]);
        let table = table(&results).unwrap();
        assert_eq!(row(&table, &properties[0])[1], "3.00 [3.00, 3.00] at 2048, 32 steps");
        assert_eq!(row(&table, &properties[1])[1..4], ["1.50 times from 64 to 2048", NOT_MEASURED, NOT_MEASURED]);
        // The student has its teacher's network, whose first layers read text once.
        assert_eq!(row(&table, &properties[2])[2..5], ["2.00 MiB at 64", "2.00 MiB at 64", NOT_MEASURED]);
    }

    #[test]
    fn it_is_shown_only_where_both_kinds_were_measured_for_flexibility() {
        assert!(table(&fixture::story(1)).is_none());
        for gone in [Role::Ar, Role::Teacher] {
            let mut results = study();
            results.models.retain(|m| m.role != gone && m.role != Role::Student);
            assert!(table(&results).is_none(), "{gone:?}");
        }
        let mut results = study();
        results.models[0].flexibility = None;
        assert!(table(&results).is_none());
    }

    #[test]
    fn every_key_it_names_is_in_the_results() {
        let mut results = study();
        results.context = Some(vec![point(Paradigm::Ar, 64, 2.0)]);
        let json: serde_json::Value = serde_json::from_str(&results.to_json().unwrap()).unwrap();
        let model = json["models"].as_array().unwrap().iter().find(|m| m["name"] == "teacher").unwrap();
        for source in table(&results).unwrap().rows.iter().map(|r| r.last().unwrap()) {
            let key = source.split([';', '/']).next().unwrap().trim().replace("rows[steps=K]", "rows.7");
            let key = key.replace("context[paradigm, length]", "context.0").replace('.', "/");
            let found = model.pointer(&format!("/{key}")).or(json.pointer(&format!("/{key}")));
            assert!(found.is_some_and(|v| !v.is_null()), "{source}");
        }
    }
}
