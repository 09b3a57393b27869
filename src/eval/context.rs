//! The measured cost of one token against the length of the text: points of the bench `context`, and of a study's results.
//!
//! L length, K steps.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::stats::Spread;
use crate::error::{Error, Result};
use crate::fs;

/// What is compared, on networks of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Paradigm {
    /// Token by token through the cache.
    Ar,
    /// All positions at once.
    Parallel,
    /// Block by block, finished blocks in the cache.
    Blocks,
    /// Block by block, where the first layers read finished text once and the last ones alone iterate.
    Deeper,
}

impl Paradigm {
    /// All of them, in the order in which they are measured and shown.
    pub const ALL: [Paradigm; 4] = [Paradigm::Ar, Paradigm::Parallel, Paradigm::Blocks, Paradigm::Deeper];

    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Paradigm::Ar => "ar",
            Paradigm::Parallel => "parallel",
            Paradigm::Blocks => "blocks",
            Paradigm::Deeper => "deeper",
        }
    }
}

/// One paradigm at one length, one text at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextPoint {
    pub paradigm: Paradigm,
    /// Tokens that are generated, L.
    pub length: usize,
    /// Denoising steps of the whole text, K.
    pub steps: usize,
    /// Positions of a block.
    pub block: usize,
    pub seconds_per_token: Spread,
    /// Timed runs behind it, each in a process of its own.
    pub repeats: usize,
    /// Maximum resident size of such a process, KiB: the median over them.
    pub peak_kib: u64,
    /// Network passes.
    pub nfe: f64,
    /// Positions computed for each token, as the sampler counted them.
    pub positions_per_token: f64,
    /// The same times the layers that each position passed.
    pub layer_positions_per_token: f64,
    /// Positions for each token where every step of the table reveals something.
    pub table_positions_per_token: f64,
    /// The same times the layers.
    pub table_layer_positions_per_token: f64,
}

/// The points in the file `path`.
///
/// # Errors
/// A file that is not such a list, or holds no point (input).
pub fn load(path: &Path) -> Result<Vec<ContextPoint>> {
    let hint = "`cargo bench --bench context -- --out DIR` writes DIR/context.json";
    let bytes = fs::read_limited(path, 16 << 20).map_err(|e| e.hint(hint))?;
    let points: Vec<ContextPoint> = serde_json::from_slice(&bytes).map_err(|e| {
        Error::input(format!("{}: not the points of `eval.context`", path.display())).cause(e.to_string()).hint(hint)
    })?;
    match points.is_empty() {
        true => Err(Error::input(format!("{}: `eval.context` has no point", path.display())).hint(hint)),
        false => Ok(points),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_back_and_what_is_none_is_refused_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("context.json");
        let spread = Spread { median: 2e-3, q1: 1e-3, q3: 3e-3 };
        let points = Paradigm::ALL.map(|paradigm| ContextPoint {
            paradigm,
            length: 64,
            steps: 16,
            block: 32,
            seconds_per_token: spread,
            repeats: 3,
            peak_kib: 1000,
            nfe: 16.0,
            positions_per_token: 8.0,
            layer_positions_per_token: 16.0,
            table_positions_per_token: 8.5,
            table_layer_positions_per_token: 17.0,
        });
        let text = serde_json::to_string(&points).unwrap();
        assert!(Paradigm::ALL.iter().all(|p| text.contains(&format!("\"{}\"", p.name()))));
        std::fs::write(&path, text).unwrap();
        assert_eq!(load(&path).unwrap(), points);
        for (text, want) in [("[]", "has no point"), ("{}", "not the points"), ("[{\"length\": 1}]", "not the points")]
        {
            std::fs::write(&path, text).unwrap();
            let e = load(&path).unwrap_err();
            assert!(e.to_string().contains("context.json") && e.message.contains(want), "{e}");
        }
        let e = load(&dir.path().join("nowhere.json")).unwrap_err();
        assert!(e.to_string().contains("nowhere.json") && e.hint.unwrap().contains("--bench context"));
    }
}
