//! What decides the numbers of a model, stored with its weights: the settings of the recipe, and the hashes of what lies
//! outside of it (the data's tokens, the tokenizer, the models and checkpoints that it is made of).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What decides the numbers of one model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// The values of the recipe by dotted key, written-out defaults among them; places of files are not, their content is
    /// below.
    pub settings: BTreeMap<String, String>,
    /// SHA-256 of what lies outside of the recipe, by what it is.
    pub sources: BTreeMap<String, String>,
    /// Optimiser steps: a training may be made longer.
    pub steps: usize,
    /// The settings as fewstep 0.1.0 wrote them, to compare with its files.
    #[serde(skip)]
    pub before: String,
}

/// A fingerprint as it lies beside weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stored {
    Whole(Fingerprint),
    /// Of fewstep 0.1.0: the settings alone, as text.
    Settings(String),
}

impl Default for Stored {
    fn default() -> Self {
        Stored::Whole(Fingerprint::default())
    }
}

/// In what a stored fingerprint differs from the one at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Lines `- key = old` and `+ key = new`.
    Settings(Vec<String>),
    /// What lies outside of the recipe, with its hashes then and now; none: it was not there.
    Sources(Vec<Changed>),
}

/// One thing outside of the recipe whose content changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Changed {
    pub what: String,
    pub then: Option<String>,
    pub now: Option<String>,
}

impl Changed {
    /// What changed, with both hashes.
    pub fn line(&self) -> String {
        let hash = |h: &Option<String>| h.as_ref().map_or("absent".to_string(), |h| format!("sha256 {h}"));
        format!("{}: {} then, {} now", self.what, hash(&self.then), hash(&self.now))
    }
}

/// Prefix of the sources that are other models of the study, which are known only when they are trained.
pub const MODEL: &str = "model ";
/// Prefix of the sources that are files of a public checkpoint. Where none of them is known the checkpoint is gone, which a
/// model with weights of its own survives.
pub const BASE: &str = "base ";

/// Whether a stored setting decides no number, though earlier versions stored it: computing what a block keeps a second time
/// gives the same.
fn is_free(key: &str) -> bool {
    key.rsplit('.').next() == Some("checkpoint")
}

/// The lines of a text of fewstep 0.1.0 that decide numbers.
fn decisive(text: &str) -> String {
    let key = |line: &&str| line.split(" = ").next().and_then(|key| key.rsplit(": ").next()).map(str::to_string);
    text.lines().filter(|line| !key(line).is_some_and(|key| is_free(&key))).map(|line| format!("{line}\n")).collect()
}

impl Fingerprint {
    /// In what `stored` differs, if it does; the number of steps aside.
    pub fn mismatch(&self, stored: &Stored) -> Option<Mismatch> {
        let then = match stored {
            Stored::Settings(text) => {
                let (then, now) = (decisive(text), decisive(&self.before));
                return (then != now).then(|| Mismatch::Settings(difference(&then, &now)));
            }
            Stored::Whole(then) => then,
        };
        let text = |all: &BTreeMap<String, String>| {
            let decide = all.iter().filter(|(key, _)| !is_free(key));
            decide.map(|(key, value)| format!("{key} = {value}\n")).collect::<String>()
        };
        let (before, now) = (text(&then.settings), text(&self.settings));
        if before != now {
            return Some(Mismatch::Settings(difference(&before, &now)));
        }
        let of = |all: &BTreeMap<String, String>, what: &String| all.get(what).cloned();
        let mut whats: Vec<&String> = then.sources.keys().chain(self.sources.keys()).collect();
        whats.sort();
        whats.dedup();
        let no_base = !self.sources.keys().any(|what| what.starts_with(BASE));
        let unknown = |what: &str| what.starts_with(MODEL) || (what.starts_with(BASE) && no_base);
        let changed: Vec<Changed> = whats
            .into_iter()
            .map(|what| Changed { what: what.clone(), then: of(&then.sources, what), now: of(&self.sources, what) })
            .filter(|c| c.then != c.now && !(c.now.is_none() && unknown(&c.what)))
            .collect();
        (!changed.is_empty()).then_some(Mismatch::Sources(changed))
    }
}

impl Stored {
    /// The optimiser steps that the training was to have; unknown of fewstep 0.1.0, whose settings hold them.
    pub fn steps(&self) -> Option<usize> {
        match self {
            Stored::Whole(of) => Some(of.steps),
            Stored::Settings(_) => None,
        }
    }
}

/// The lines in which two texts differ.
fn difference(before: &str, now: &str) -> Vec<String> {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), now.lines().collect());
    let gone = a.iter().filter(|l| !b.contains(l)).map(|l| format!("- {l}"));
    let new = b.iter().filter(|l| !a.contains(l)).map(|l| format!("+ {l}"));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(settings: &[(&str, &str)], sources: &[(&str, &str)]) -> Fingerprint {
        let map = |all: &[(&str, &str)]| all.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Fingerprint { settings: map(settings), sources: map(sources), steps: 3, before: "lr = 1\n".into() }
    }

    #[test]
    fn settings_differ_by_key_and_sources_by_both_hashes() {
        let now = of(&[("model.a.lr", "1")], &[("tokens", "aa")]);
        assert_eq!(now.mismatch(&Stored::Whole(Fingerprint { steps: 9, ..now.clone() })), None);
        let lr = now.mismatch(&Stored::Whole(of(&[("model.a.lr", "2")], &[])));
        assert_eq!(lr, Some(Mismatch::Settings(vec!["- model.a.lr = 2".into(), "+ model.a.lr = 1".into()])));
        let Some(Mismatch::Sources(changed)) =
            now.mismatch(&Stored::Whole(of(&[("model.a.lr", "1")], &[("tokens", "bb"), ("x", "cc")])))
        else {
            panic!("other tokens")
        };
        let lines: Vec<String> = changed.iter().map(Changed::line).collect();
        assert_eq!(lines, ["tokens: sha256 bb then, sha256 aa now", "x: sha256 cc then, absent now"]);
    }

    #[test]
    fn what_is_computed_twice_to_save_memory_is_no_difference_whichever_version_stored_it() {
        let now = of(&[("model.a.lr", "1")], &[]);
        for key in ["model.a.network.checkpoint", "model.a.checkpoint"] {
            let then = of(&[("model.a.lr", "1"), (key, "true")], &[]);
            assert_eq!(now.mismatch(&Stored::Whole(then.clone())), None, "{key}");
            assert_eq!(then.mismatch(&Stored::Whole(now.clone())), None, "{key}");
        }
        let text = "checkpoint = true\nlr = 1\nteacher: checkpoint = false\n";
        assert_eq!(now.mismatch(&Stored::Settings(text.into())), None);
    }

    #[test]
    fn a_model_that_is_not_there_yet_is_no_difference_and_text_of_an_older_version_is_compared_as_text() {
        let now = of(&[], &[]);
        assert_eq!(now.mismatch(&Stored::Whole(of(&[], &[("model teacher", "aa")]))), None);
        assert_eq!(now.mismatch(&Stored::Whole(of(&[], &[("base weights", "aa")]))), None, "the checkpoint is gone");
        let base = of(&[], &[("base weights", "aa")]);
        let one_more = of(&[], &[("base weights", "aa"), ("base vocab.json", "bb")]);
        assert!(base.mismatch(&Stored::Whole(one_more.clone())).is_some());
        assert!(one_more.mismatch(&Stored::Whole(base)).is_some());
        assert_eq!(now.mismatch(&Stored::Settings("lr = 1\n".into())), None);
        assert!(matches!(now.mismatch(&Stored::Settings("lr = 2\n".into())), Some(Mismatch::Settings(_))));
        let text = serde_json::to_string(&Stored::Whole(now.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Stored>(&text).unwrap().steps(), Some(3));
        assert_eq!(serde_json::from_str::<Stored>("\"old\"").unwrap(), Stored::Settings("old".into()));
    }
}
