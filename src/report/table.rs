//! The tables of a report as text cells, for Markdown and HTML alike.

use crate::eval::results::{Bound, DataKind, Metric, ModelResult, Results, Role, Row};
use crate::eval::stats::{Estimate, Spread};
use crate::eval::{copies, matched};
use std::fmt::Display;

/// A table: a heading, column names and rows of text.
#[derive(Debug, Clone)]
pub struct Table {
    pub title: String,
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

pub const NOTHING: &str = "–";

/// The models with rows in a report's order: AR, teachers, oracle, then students as in the recipe.
pub fn shown(results: &Results) -> Vec<&ModelResult> {
    let rank = |role| match role {
        Role::Ar => 0,
        Role::Teacher => 1,
        Role::Oracle => 2,
        Role::Student => 3,
        Role::Judge => 4,
        Role::Codec => 5,
        Role::Classifier => 6,
    };
    let mut models: Vec<&ModelResult> = results.models.iter().filter(|m| !m.rows.is_empty()).collect();
    models.sort_by_key(|m| rank(m.role)); // stable, so students keep their order
    models
}

/// True when the row says the same words over and over: its entropy interval lies wholly below the teacher's interval at
/// the same number of steps (or of the teacher's full row where it lacks that number), and wholly below the data's.
///
/// The second condition spares a student that is better than its teacher: at one step a factorised teacher is *more*
/// random than real text, and coming down to the data's entropy is what a student is for.
///
/// True too, of a teacher as well, where the texts are few: a tenth of the share of different ones that real data has, or less.
/// Text that is always the same may be right each time.
pub fn collapsed(results: &Results, model: &ModelResult, row: &Row) -> bool {
    let unique = (row.corpus.get("unique"), results.data.corpus.get("unique"));
    if model.role != Role::Oracle && matches!(unique, (Some(own), Some(data)) if *own <= 0.1 * data) {
        return true;
    }
    if matches!(model.role, Role::Teacher | Role::Oracle) {
        return false;
    }
    let named = model.teacher.as_deref().and_then(|name| results.model(name));
    let Some(teacher) = named.or_else(|| results.models.iter().find(|m| m.role == Role::Teacher)) else {
        return false;
    };
    let reference = teacher.row(row.steps).or_else(|| teacher.full()).and_then(|r| results.score(r, Metric::Entropy));
    match (results.score(row, Metric::Entropy), reference) {
        (Some(own), Some(reference)) => own.wholly_below(reference) && own.wholly_below(results.data.entropy),
        _ => false,
    }
}

/// Whether the study compares orders, so that a step of one model is not a step of another.
pub fn several_orders(results: &Results) -> bool {
    let mut orders: Vec<&str> = results.models.iter().map(|m| m.order.as_str()).filter(|o| !o.is_empty()).collect();
    orders.sort_unstable();
    orders.dedup();
    orders.len() > 2
}

/// What is known exactly about each sample of a kind of data.
fn truth(kind: DataKind) -> &'static [Metric] {
    match kind {
        DataKind::Story => &[Metric::Valid],
        DataKind::Pictures => &[Metric::CaptionValid, Metric::Clauses, Metric::Agreement],
        DataKind::Pairs | DataKind::Text | DataKind::Own => &[],
    }
}

/// The main table: one row per model and number of steps.
pub(super) fn quality(results: &Results) -> Table {
    let exact = truth(results.data.kind);
    let orders = several_orders(results);
    let decoded = results.models.iter().flat_map(|m| &m.rows).any(|r| r.decode_positions.is_some());
    let own = results.models.iter().flat_map(|m| &m.rows).any(|r| r.sampler_nll.is_some());
    let mut header = names(["model", "objective", "steps", "NFE", "positions"]);
    if decoded {
        header.push("of them decoding".into());
    }
    if orders {
        header.splice(2..2, names(["order"]));
        header.splice(4..4, names(["steps per block"]));
        header.push("positions × layers".into());
    }
    if own {
        header.push(Metric::SamplerNll.label().into());
    }
    header.push(Metric::Nll.label().into());
    let second = results.data.reference.contains_key(crate::eval::SECOND_NLL);
    if second {
        header.push(Metric::SecondJudgeNll.label().into());
    }
    header.extend(names([Metric::Entropy.label(), "ELBO/NLL ↓"]));
    header.extend(exact.iter().map(|m| m.label().to_string()));
    let there = |m: &Metric| results.models.iter().flat_map(|m| &m.rows).any(|r| r.scores.contains_key(m.facts().key));
    let variety: Vec<Metric> = Metric::all().filter(|m| m.facts().variety).filter(there).collect();
    header.extend(variety.iter().chain(&[Metric::Latency, Metric::Throughput]).map(|m| m.label().to_string()));
    header.push("n".into());

    let mut rows = Vec::new();
    for model in shown(results) {
        for row in &model.rows {
            let score = |metric| results.score(row, metric).map_or(NOTHING.into(), interval);
            let collapse = if collapsed(results, model, row) { " *collapse*" } else { "" };
            let mut cells = vec![format!("{}{collapse}", model.name), model.objective.clone()];
            if orders {
                cells.push(if model.order.is_empty() { NOTHING.into() } else { model.order.clone() });
            }
            cells.push(row.steps.to_string());
            if orders {
                cells.push(row.steps_per_block.map_or(NOTHING.into(), short));
            }
            cells.extend([short(row.nfe), short(row.positions)]);
            if decoded {
                cells.push(row.decode_positions.map_or(NOTHING.into(), short));
            }
            if orders {
                cells.push(row.layer_positions.map_or(NOTHING.into(), short));
            }
            if own {
                cells.push(sampler_nll(row));
            }
            cells.push(score(Metric::Nll));
            if second {
                cells.push(score(Metric::SecondJudgeNll));
            }
            cells.extend([score(Metric::Entropy), likelihood(model)]);
            cells.extend(exact.iter().map(|m| score(*m)));
            cells.extend(variety.iter().map(|m| score(*m)));
            cells.push(row.speed.map_or(NOTHING.into(), |s| spread(s.latency_ms)));
            cells.push(
                row.speed.map_or(NOTHING.into(), |s| format!("{} (batch {})", measured(s.tokens_per_s), s.batch)),
            );
            cells.push(row.n.to_string());
            rows.push(cells);
        }
    }
    Table { title: "Quality against steps against speed".into(), header, rows }
}

/// NLL where a model's samples are as varied as the data, read off its temperatures; for studies that sample at several.
pub(super) fn matched(results: &Results) -> Option<Table> {
    let all = matched::all(results);
    let order = shown(results);
    let rank = |name: &str| order.iter().position(|m| m.name == name);
    let mut all: Vec<_> = all.iter().collect();
    all.sort_by_key(|m| rank(&m.model.name)); // stable: steps keep their order
    let rows = all.iter().map(|m| {
        let reading = match m.change {
            Some(e) if e.high < 0.0 => "better than its teacher",
            Some(e) if e.low > 0.0 => "worse than its teacher",
            Some(_) => "not told apart",
            None => NOTHING,
        };
        vec![
            m.model.name.clone(),
            m.steps.to_string(),
            m.nll.map_or("not reached".into(), interval),
            m.change.map_or(NOTHING.into(), interval),
            reading.into(),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let name = &results.data.nll_name;
    let title = format!("{name} at the data's entropy ({:.3} nats)", results.data.entropy.mean);
    let header = names(["model", "steps", "nll at that entropy ↓", "minus its teacher's, same steps", "reading"]);
    (!rows.is_empty()).then_some(Table { title, header, rows })
}

/// How far each row is from the language's entropy rate; known for the story language only.
pub(super) fn gap(results: &Results) -> Option<Table> {
    let rate = results.data.entropy_rate?;
    let name = &results.data.nll_name;
    let mut rows = Vec::new();
    if let Some(data) = results.data.reference.get(name) {
        rows.push(vec!["real data".into(), NOTHING.into(), interval(data.minus(rate)), "reference".into()]);
    }
    let mut add = |model: &str, steps: String, nll: Estimate| {
        let gap = nll.minus(rate);
        let reading = match (gap.low > 0.0, gap.high < 0.0) {
            (true, _) => "above",
            (_, true) => "below: mode seeking",
            _ => "not told apart",
        };
        rows.push(vec![model.into(), steps, interval(gap), reading.into()]);
    };
    for model in shown(results) {
        for row in &model.rows {
            if let Some(nll) = results.score(row, Metric::Nll) {
                add(&model.name, row.steps.to_string(), nll);
            }
        }
    }
    let title = format!("Gap of {name} to the entropy rate ({rate:.3} nats per token)");
    Some(Table { title, header: names(["model", "steps", "gap, nats per token", "reading"]), rows })
}

/// What real data scores.
pub(super) fn reference(results: &Results) -> Table {
    let n = results.data.n_reference.to_string();
    let row = |(key, e): (&String, &Estimate)| vec![key.clone(), interval(*e), n.clone()];
    Table {
        title: "Real data (held out)".into(),
        header: names(["metric", "value", "n"]),
        rows: results.data.reference.iter().map(row).collect(),
    }
}

/// Scores of whole sets of samples, which see copies between samples.
pub(super) fn corpus(results: &Results) -> Option<Table> {
    let models = shown(results);
    let mut keys: Vec<&String> = Vec::new();
    for key in models.iter().flat_map(|m| &m.rows).flat_map(|r| r.corpus.keys()) {
        // A mean over samples, which has a table of its own, or a column of the main table.
        let column = || models.iter().flat_map(|m| &m.rows).any(|row| row.scores.contains_key(key));
        if !keys.contains(&key) && key != copies::WITHOUT && !column() {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return None;
    }
    let mut header = names(["model", "steps"]);
    header.extend(keys.iter().map(|k| k.to_string()));
    header.push("n".into());
    let mut rows = Vec::new();
    if !results.data.corpus.is_empty() {
        let mut cells = vec!["real data".to_string(), NOTHING.into()];
        cells.extend(keys.iter().map(|k| results.data.corpus.get(*k).map_or(NOTHING.into(), |x| fixed(*x))));
        cells.push(results.data.n_reference.to_string());
        rows.push(cells);
    }
    for model in models {
        for row in &model.rows {
            let mut cells = vec![model.name.clone(), row.steps.to_string()];
            cells.extend(keys.iter().map(|k| row.corpus.get(*k).map_or(NOTHING.into(), |x| fixed(*x))));
            // Of several seeds it is the mean over sets of one seed.
            cells.push(row.by_seed.first().map_or(row.n, |s| s.n).to_string());
            rows.push(cells);
        }
    }
    Some(Table { title: "Between samples (comparable at equal n only)".into(), header, rows })
}

/// What each model is and what its training cost.
pub(super) fn models(results: &Results) -> Table {
    let mut models = shown(results);
    models.extend(results.models.iter().filter(|m| m.rows.is_empty()));
    let row = |m: &ModelResult| {
        let hash: String = m.weights_sha256.chars().take(12).collect();
        vec![
            m.name.clone(),
            role(m.role).into(),
            m.objective.clone(),
            m.teacher.clone().unwrap_or(NOTHING.into()),
            grouped(m.parameters),
            if m.varies() { joined(&m.seeds()) } else { m.seed.to_string() },
            grouped(m.train_steps),
            grouped(m.train_tokens),
            short(m.train_seconds),
            likelihood(m),
            hash,
        ]
    };
    Table {
        title: "Models".into(),
        header: names([
            "model",
            "role",
            "objective",
            "teacher",
            "parameters",
            "seed",
            "training steps",
            "training tokens",
            "training s ↓",
            "ELBO/NLL ↓",
            "weights sha256",
        ]),
        rows: models.into_iter().map(row).collect(),
    }
}

fn joined(seeds: &[u64]) -> String {
    seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Ar => "ar",
        Role::Teacher => "teacher",
        Role::Student => "student",
        Role::Oracle => "oracle",
        Role::Judge => "judge",
        Role::Codec => "codec",
        Role::Classifier => "classifier",
    }
}

fn likelihood(model: &ModelResult) -> String {
    model.likelihood.map_or(NOTHING.into(), |l| match l.kind {
        Bound::Exact => format!("{} exact", interval(l.estimate)),
        Bound::Elbo => format!("≤ {} elbo", interval(l.estimate)),
        Bound::None => format!("{} no bound", interval(l.estimate)),
    })
}

/// The sampler's own likelihood, marked where it is a bound, with its spread over partitions.
fn sampler_nll(row: &Row) -> String {
    row.sampler_nll.as_ref().map_or(NOTHING.into(), |s| match (s.kind, s.spread) {
        (Bound::Exact, _) => format!("{} exact", interval(s.estimate)),
        (_, Some(spread)) => format!("≤ {} ± {} over partitions", interval(s.estimate), fixed(spread)),
        (_, None) => format!("≤ {}", interval(s.estimate)),
    })
}

pub(super) fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_string).to_vec()
}

/// `mean [low, high]` with three decimals.
pub fn interval(e: Estimate) -> String {
    format!("{} [{}, {}]", fixed(e.mean), fixed(e.low), fixed(e.high))
}

pub(super) fn spread(s: Spread) -> String {
    format!("{} [{}, {}]", measured(s.median), measured(s.q1), measured(s.q3))
}

pub(super) fn fixed(x: f64) -> String {
    let text = format!("{x:.3}");
    if text == "-0.000" { "0.000".into() } else { text }
}

/// A count or a mean of counts: whole where it is whole.
pub(super) fn short(x: f64) -> String {
    if x.fract() == 0.0 && x.abs() < 100.0 { format!("{x}") } else { measured(x) }
}

/// Three digits that matter; whole numbers from 100 on, with groups of thousands.
pub(super) fn measured(x: f64) -> String {
    match x.abs() {
        a if a >= 99.95 => grouped(x.round().max(0.0) as u64),
        a if a >= 9.995 => format!("{x:.1}"),
        a if a >= 0.995 => format!("{x:.2}"),
        _ => format!("{x:.3}"),
    }
}

/// A whole number with a comma before every third digit.
pub(super) fn grouped(n: impl Display) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::results::fixture;

    #[test]
    fn columns_come_in_the_agreed_order() {
        let story = quality(&fixture::story(1)).header.join(" · ");
        assert_eq!(
            story,
            "model · objective · steps · NFE · positions · nll ↓ · entropy · ELBO/NLL ↓ · valid ↑ · distinct-2 · \
             repetition · latency ms ↓ · tok/s ↑ · n"
        );
        assert!(!quality(&fixture::text(1)).header.join(" ").contains("valid"));
    }

    #[test]
    fn what_a_decoder_costs_stands_beside_all_positions_where_there_is_one() {
        let mut results = fixture::story(1);
        results.models[2].rows[0].decode_positions = Some(40.0);
        let table = quality(&results);
        let at = table.header.iter().position(|h| h == "of them decoding").unwrap();
        assert_eq!(table.header[at - 1], "positions");
        let row = table.rows.iter().find(|r| r[0] == "student").unwrap();
        assert_eq!((row[at].as_str(), row.len()), ("40", table.header.len()));
        assert!(table.rows.iter().any(|r| r[0] == "teacher" && r[at] == NOTHING));
    }

    #[test]
    fn ar_and_teacher_come_first_then_the_oracle_then_students() {
        let mut results = fixture::story(1);
        results.models.reverse();
        let mut seen: Vec<String> = quality(&results).rows.iter().map(|r| r[0].replace(" *collapse*", "")).collect();
        seen.dedup();
        assert_eq!(seen, ["ar", "teacher", "oracle", "eager", "student"]);
    }

    #[test]
    fn only_a_row_below_the_teacher_and_the_data_has_collapsed() {
        let mut results = fixture::story(1);
        let marked = |results: &Results| -> Vec<(String, usize)> {
            let rows = |m| -> Vec<usize> {
                let m: &ModelResult = m;
                m.rows.iter().filter(|r| collapsed(results, m, r)).map(|r| r.steps).collect()
            };
            results.models.iter().flat_map(|m| rows(m).into_iter().map(|s| (m.name.clone(), s))).collect()
        };
        let eager = |steps: &[usize]| -> Vec<_> { steps.iter().map(|s| ("eager".to_string(), *s)).collect() };
        assert_eq!(marked(&results), eager(&fixture::STEPS));
        // A teacher without that number of steps is replaced by its full row.
        results.models[1].rows.retain(|r| r.steps == 256);
        assert_eq!(marked(&results), eager(&fixture::STEPS));
        // The one-step teacher is more random than the data: a student at the data's entropy has not collapsed.
        let results = fixture::story(1);
        let student = results.model("student").unwrap();
        let below_teacher = student.rows[0].scores["entropy"].wholly_below(results.models[1].rows[0].scores["entropy"]);
        assert!(below_teacher && !collapsed(&results, student, &student.rows[0]));
    }

    #[test]
    fn the_gap_to_the_entropy_rate_is_told_for_stories_only() {
        let table = gap(&fixture::story(1)).unwrap();
        assert_eq!(table.rows[0][0], "real data");
        assert!(table.rows.iter().any(|r| r[3] == "above"));
        assert!(gap(&fixture::text(1)).is_none());
    }

    #[test]
    fn numbers_are_short_and_grouped() {
        assert_eq!([short(8.0), short(7.96), short(12345.6), short(0.04)], ["8", "7.96", "12,346", "0.040"]);
        assert_eq!([measured(19.0), measured(9.0), measured(0.0)], ["19.0", "9.00", "0.000"]);
        assert_eq!([grouped(1), grouped(123), grouped(1234567)], ["1", "123", "1,234,567"]);
        assert_eq!(interval(Estimate { mean: 1.0, low: -0.0001, high: 2.0 }), "1.000 [0.000, 2.000]");
    }
}
