//! The training log: one JSON line a step in metrics.jsonl, one line of text every `log_every` steps, a bar on a terminal.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{TrainConfig, TrainState};
use crate::error::{Error, Result};
use crate::{fs, term};

/// The open log of one training.
pub struct Log {
    file: fs::Appender,
    bar: Option<ProgressBar>,
    name: String,
    /// Loss sum, steps, tokens and seconds since the last line of text.
    sum: f64,
    count: usize,
    seconds: f64,
    tokens: u64,
}

impl Log {
    /// Opens metrics.jsonl in `dir` for a run that stands at `step`: lines of later steps, left by a run that was killed
    /// after its last save, are dropped, so that the file of a resumed run is the uninterrupted one's.
    pub fn open(dir: &Path, name: &str, config: &TrainConfig, step: usize) -> Result<Log> {
        let path = dir.join("metrics.jsonl");
        let io = |doing: &'static str| {
            let path = path.clone();
            move |e: std::io::Error| Error::io(doing, &path, &e)
        };
        if path.exists() {
            let mut kept = String::new();
            for line in BufReader::new(File::open(&path).map_err(io("read"))?).lines() {
                let line = line.map_err(io("read"))?;
                // A half-written last line does not parse and goes with the lost steps.
                let at = serde_json::from_str::<serde_json::Value>(&line).ok().and_then(|v| v["step"].as_u64());
                if at.is_some_and(|s| s <= step as u64) {
                    kept.push_str(&line);
                    kept.push('\n');
                }
            }
            fs::write_atomic(&path, kept.as_bytes())?;
        }
        fs::not_a_link(&path)?;
        let file = fs::Appender::open(&path)?;
        let bar = term::bars().then(|| {
            let bar = ProgressBar::new(config.steps as u64).with_position(step as u64);
            if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}  {msg}  {eta} left") {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_string());
            bar
        });
        if step > 0 && step < config.steps {
            term::note(&format!("{name}: resumed at step {step} of {}", config.steps));
        }
        Ok(Log { file, bar, name: name.to_string(), sum: 0.0, count: 0, seconds: -1.0, tokens: 0 })
    }

    /// Records a finished step.
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
        if state.teacher.is_some() {
            line["round"] = json!(state.round);
        }
        self.file.add(format!("{line}\n").as_bytes())?;
        self.sum += loss;
        self.count += 1;
        if self.seconds < 0.0 {
            // The first step warms caches up; speed is counted from its end.
            (self.seconds, self.tokens) = (state.seconds, state.tokens);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(state.step as u64);
            bar.set_message(format!("loss {:.4}", self.sum / self.count as f64));
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
                Some(bar) => bar.println(text),
                None => term::note(&text),
            }
            (self.sum, self.count, self.seconds, self.tokens) = (0.0, 0, state.seconds, state.tokens);
        }
        Ok(())
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
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
