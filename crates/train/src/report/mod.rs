//! What is written about a training: tables of its steps, event files of TensorBoard, pictures, and a page at the end.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::objective::Metrics;

pub(crate) mod curve;
mod events;
mod page;

pub(crate) use page::page;

use events::Events;

const HEAD: &str = "step,seconds,tokens,loss,rate,norm,skipped,tokens_per_second";

/// A step that was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) step: usize,
    pub(crate) seconds: f64,
    pub(crate) tokens: usize,
    pub(crate) loss: f32,
    pub(crate) rate: f64,
    pub(crate) norm: f64,
    pub(crate) skipped: usize,
    pub(crate) speed: f64,
}

/// The files that grow with every step.
pub(crate) struct Files {
    csv: (PathBuf, File),
    jsonl: (PathBuf, File),
    events: Option<Events>,
}

/// Opens a file for appending, after the lines of steps up to `step`, which `of` reads from a line.
fn kept(path: &Path, head: &str, step: usize, of: impl Fn(&str) -> Option<usize>) -> Result<File, Error> {
    let before = std::fs::read_to_string(path).unwrap_or_default();
    let mut text = head.to_owned();
    for line in before.lines().filter(|line| of(line).is_some_and(|found| found <= step)) {
        let _ = writeln!(text, "{line}");
    }
    longreach_models::write_atomically(path, |out| out.write_all(text.as_bytes()))?;
    File::options().append(true).open(path).map_err(|e| Error::io(path, e))
}

impl Files {
    /// Continues the files of a directory after step `step`; lines of later steps, which are done again, are dropped.
    pub(crate) fn open(directory: &Path, step: usize, tensorboard: bool) -> Result<Self, Error> {
        let (csv, jsonl) = (directory.join("metrics.csv"), directory.join("metrics.jsonl"));
        let of_csv = |line: &str| line.split(',').next()?.parse().ok();
        let of_jsonl = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            value.get("step")?.as_u64().map(|step| step as usize)
        };
        let table = kept(&csv, &format!("{HEAD}\n"), step, of_csv)?;
        let lines = kept(&jsonl, "", step, of_jsonl)?;
        let events = if tensorboard { Some(Events::create(&directory.join("events"), step)?) } else { None };
        Ok(Self { csv: (csv, table), jsonl: (jsonl, lines), events })
    }

    fn json(&mut self, value: &serde_json::Value) -> Result<(), Error> {
        writeln!(self.jsonl.1, "{value}").map_err(|e| Error::io(&self.jsonl.0, e))
    }

    /// Writes a step.
    pub(crate) fn step(&mut self, line: &Line) -> Result<(), Error> {
        let Line { step, seconds, tokens, loss, rate, norm, skipped, speed } = *line;
        writeln!(self.csv.1, "{step},{seconds:.3},{tokens},{loss},{rate},{norm},{skipped},{speed:.1}")
            .map_err(|e| Error::io(&self.csv.0, e))?;
        self.json(&serde_json::json!({
            "step": step, "seconds": seconds, "tokens": tokens, "loss": loss, "rate": rate, "norm": norm,
            "skipped": skipped, "tokens_per_second": speed,
        }))?;
        let Some(events) = &mut self.events else { return Ok(()) };
        let scalars = [
            ("train/loss", f64::from(loss)),
            ("train/rate", rate),
            ("train/norm", norm),
            ("train/tokens_per_second", speed),
        ];
        events.scalars(step, scalars.into_iter())
    }

    /// Writes an evaluation.
    pub(crate) fn evaluated(&mut self, step: usize, metrics: &Metrics) -> Result<(), Error> {
        let fields = metrics.iter().map(|(name, value)| (name.clone(), serde_json::json!(value)));
        let fields: serde_json::Map<_, _> = fields.collect();
        self.json(&serde_json::json!({ "step": step, "held_out": fields }))?;
        let Some(events) = &mut self.events else { return Ok(()) };
        let names: Vec<String> = metrics.iter().map(|(name, _)| format!("held_out/{name}")).collect();
        events.scalars(step, names.iter().map(String::as_str).zip(metrics.iter().map(|(_, value)| *value)))
    }

    /// Writes a text that the model continued.
    pub(crate) fn sample(&mut self, step: usize, text: &str) -> Result<(), Error> {
        self.json(&serde_json::json!({ "step": step, "sample": text }))?;
        match &mut self.events {
            Some(events) => events.text(step, "sample", text),
            None => Ok(()),
        }
    }
}
