//! The training log: one JSON line a step in metrics.jsonl, one line of text every `log_every` steps, a bar on a terminal.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{TrainConfig, TrainState};
use crate::error::{Error, Result, typed};
use crate::term::bar::{Bar, Counts};
use crate::{fs, term};

/// The file of the log in a model's directory.
pub const FILE: &str = "metrics.jsonl";
/// Bytes of a log, at most: some hundred million steps.
const MAX_BYTES: u64 = 64 << 30;

/// How much of a log was written when a checkpoint was saved, and its hash: what was logged before is bound to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    pub bytes: u64,
    pub sha256: String,
}

/// The open log of one training.
pub struct Log {
    file: fs::Appender,
    bytes: u64,
    hash: Sha256,
    bar: Option<Bar>,
    name: String,
    /// Loss sum, steps, tokens and seconds since the last line of text.
    sum: f64,
    count: usize,
    seconds: f64,
    tokens: u64,
}

impl Log {
    /// Opens metrics.jsonl in `dir` for a run that stands at `step`, whose checkpoint says how the log was then: what follows,
    /// left by a run that was killed after its last save, is dropped, so that the file of a resumed run is the
    /// uninterrupted one's.
    ///
    /// # Errors
    /// A part that is kept and is not as it was (input).
    pub fn open(dir: &Path, name: &str, config: &TrainConfig, step: usize, mark: Option<&Mark>) -> Result<Log> {
        let path = dir.join(FILE);
        let kept = match path.exists() {
            true => {
                let all = fs::read_limited(&path, MAX_BYTES)?;
                let kept = kept(&path, &all, step, mark)?;
                if kept.len() < all.len() {
                    fs::write_atomic(&path, kept)?;
                }
                kept.to_vec()
            }
            false => {
                if step > 0 {
                    term::warn(&format!("{} is gone: the log begins at step {}", path.display(), step + 1));
                }
                Vec::new()
            }
        };
        fs::not_a_link(&path)?;
        let file = fs::Appender::open(&path)?;
        let bar = Bar::new(name, Counts::Steps, step as u64, config.steps as u64);
        if step > 0 && step < config.steps {
            term::note(&format!("{name}: resumed at step {step} of {}", config.steps));
        }
        let (bytes, hash) = (kept.len() as u64, Sha256::new_with_prefix(&kept));
        let name = name.to_string();
        Ok(Log { file, bytes, hash, bar, name, sum: 0.0, count: 0, seconds: -1.0, tokens: 0 })
    }

    /// What is logged so far, on disk: a checkpoint must not outlive the lines before it.
    ///
    /// # Errors
    /// A refused write (I/O).
    pub fn mark(&self) -> Result<Mark> {
        self.file.sync()?;
        let sha256 = fs::hex(&self.hash.clone().finalize());
        Ok(Mark { bytes: self.bytes, sha256 })
    }

    /// Records a finished step.
    ///
    /// # Errors
    /// A refused write (I/O).
    pub fn step(
        &mut self,
        term_name: &str,
        state: &TrainState,
        config: &TrainConfig,
        loss: f64,
        norm: f64,
    ) -> Result<()> {
        let lr = config.learning_rate(state.step - 1);
        let mut line = json!({ "step": state.step, "loss": loss, term_name: loss, "lr": lr, "grad_norm": norm });
        if let Some(round) = state.training.round() {
            line["round"] = json!(round);
        }
        let line = format!("{}\n", fs::sorted(line));
        self.file.add(line.as_bytes())?;
        self.bytes += line.len() as u64;
        self.hash.update(&line);
        self.sum += loss;
        self.count += 1;
        if self.seconds < 0.0 {
            // The first step warms caches up; speed is counted from its end.
            (self.seconds, self.tokens) = (state.seconds, state.tokens);
        }
        if let Some(bar) = &self.bar {
            bar.at(state.step as u64);
            bar.say(format!("loss {:.4}", self.sum / self.count as f64));
        }
        if state.step.is_multiple_of(config.log_every) || state.step == config.steps {
            let (dt, dn) = (state.seconds - self.seconds, (state.tokens - self.tokens) as f64);
            let rate = if dt > 0.0 { dn / dt } else { 0.0 };
            let per_step = if state.step > 0 { state.tokens as f64 / state.step as f64 } else { 0.0 };
            let left = if rate > 0.0 { (config.steps - state.step) as f64 * per_step / rate } else { 0.0 };
            let text = format!(
                "{:<10} step {:>6}/{}  loss {:.4}  lr {:.1e}  grad {:.2}  {} tok/s  {} left",
                self.name,
                state.step,
                config.steps,
                self.sum / self.count as f64,
                lr,
                norm,
                thousands(rate),
                clock(left)
            );
            match &self.bar {
                Some(bar) => bar.line(text),
                None => term::note(&text),
            }
            (self.sum, self.count, self.seconds, self.tokens) = (0.0, 0, state.seconds, state.tokens);
        }
        Ok(())
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

/// The part of the log `all`, read from `path`, that a run at `step` keeps.
///
/// # Errors
/// A part that is not as it was (input).
pub fn kept<'a>(path: &Path, all: &'a [u8], step: usize, mark: Option<&Mark>) -> Result<&'a [u8]> {
    let Some(mark) = mark else {
        // A checkpoint of fewstep 0.1.0, or none: there is one line for each step before it.
        let end = all.split_inclusive(|b| *b == b'\n').take(step).map(<[u8]>::len).sum();
        return match broken_line(&all[..end]) {
            None if all[..end].iter().filter(|b| **b == b'\n').count() == step => Ok(&all[..end]),
            line => Err(changed(path, step, line, "it has no line for each step before that")),
        };
    };
    let length = usize::try_from(mark.bytes).unwrap_or(usize::MAX);
    match all.get(..length) {
        Some(kept) if fs::sha256_hex(kept) == mark.sha256 => Ok(kept),
        Some(kept) => {
            let why = format!("the sha256 of its first {length} bytes is not {}", mark.sha256);
            Err(changed(path, step, broken_line(kept), &why))
        }
        None => {
            let why = format!("it had {length} bytes then, and has {} now", all.len());
            Err(changed(path, step, broken_line(all), &why))
        }
    }
}

/// The number, from 1, of the first line that is no line of a log.
fn broken_line(text: &[u8]) -> Option<usize> {
    let sound = |line: &[u8]| serde_json::from_slice::<serde_json::Value>(line).is_ok_and(|v| v["step"].is_u64());
    let mut lines = text.split_inclusive(|b| *b == b'\n');
    lines.position(|line| !sound(line)).map(|i| i + 1)
}

fn changed(path: &Path, step: usize, line: Option<usize>, why: &str) -> Error {
    let shown = path.display().to_string();
    let error = Error::input(format!("{shown} was changed after step {step} was saved")).cause(why);
    let error = match line {
        Some(line) => error.cause(format!("line {line} is not a line of a log")),
        None => error,
    };
    error.hint(format!(
        "move it away, `mv {} {}`, then type the same command again: the log then begins at step {}",
        typed(&shown),
        typed(&format!("{shown}.old")),
        step + 1
    ))
}

/// The last step that the log in `dir` tells of, whatever else is wrong with it; 0 where there is none.
pub fn last_step(dir: &Path) -> u64 {
    let all = fs::read_limited(&dir.join(FILE), MAX_BYTES).unwrap_or_default();
    let step = |line: &[u8]| serde_json::from_slice::<serde_json::Value>(line).ok()?["step"].as_u64();
    all.split(|b| *b == b'\n').filter_map(step).max().unwrap_or(0)
}

/// 41200 as `41.2k`.
pub fn thousands(x: f64) -> String {
    match x {
        x if x >= 1e6 => format!("{:.2}M", x / 1e6),
        x if x >= 1e3 => format!("{:.1}k", x / 1e3),
        x => format!("{x:.0}"),
    }
}

/// Seconds as `m:ss` or `h:mm:ss`.
pub fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s >= 3600 {
        true => format!("{}:{:02}:{:02}", s / 3600, s % 3600 / 60, s % 60),
        false => format!("{}:{:02}", s / 60, s % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(steps: std::ops::RangeInclusive<usize>) -> Vec<u8> {
        steps.flat_map(|s| format!("{{\"step\":{s},\"loss\":0.{s}}}\n").into_bytes()).collect()
    }

    #[test]
    fn a_log_is_cut_where_its_checkpoint_was_saved_and_every_change_before_is_found() {
        let (all, path) = (text(1..=9), Path::new("runs/x/metrics.jsonl"));
        let head = text(1..=5);
        let mark = Mark { bytes: head.len() as u64, sha256: fs::sha256_hex(&head) };
        assert_eq!(kept(path, &all, 5, Some(&mark)).unwrap(), head);
        assert_eq!(kept(path, &all, 5, None).unwrap(), head, "of a checkpoint without a mark");
        assert_eq!(kept(path, &all, 0, None).unwrap(), b"");
        for at in 0..head.len() {
            let mut bad = all.clone();
            bad[at] ^= 1;
            let e = kept(path, &bad, 5, Some(&mark)).unwrap_err();
            assert!(e.message.contains("was changed after step 5 was saved"), "{e}");
        }
        let mut bad = all.clone();
        bad[30] = 0xff;
        for mark in [Some(&mark), None] {
            let e = kept(path, &bad, 5, mark).unwrap_err();
            assert!(e.to_string().contains("line 2 is not a line of a log"), "{e}");
            let hint = e.hint.unwrap();
            assert!(hint.contains("mv runs/x/metrics.jsonl runs/x/metrics.jsonl.old"), "{hint}");
        }
        assert!(kept(path, &all[..20], 5, Some(&mark)).is_err() && kept(path, &all[..20], 5, None).is_err());
    }
}
