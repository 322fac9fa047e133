//! Rows of tables that are read while they are learnt, so that memory does not grow with the files.
//!
//! Rows are taken in blocks, and the examples of a block are shuffled by the number of the block. Without weights the sources
//! are read one after the other, and behind the last row follows the first. With weights each block has rows of every source,
//! in proportion, and each source begins anew by itself. The examples of a step are thus a function of its number: a cursor says
//! where a block begins, so that an interrupted training reads on from there.

use std::collections::HashSet;

use longreach_search::documents::{Documents, Input};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Example;
use super::records::{Record, hash, options};
use crate::Error;
use crate::config::Data;
use crate::objective::{Objective, Row};
use crate::texts::Texts;

/// Where a block begins.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Cursor {
    block: u64,
    /// The number of examples of the blocks before it.
    first: u64,
    /// Where sources are read one after the other: the source, and the number of its rows that come before.
    source: usize,
    row: u64,
    /// Where sources are drawn by weight: the same number for each.
    #[serde(default)]
    rows: Vec<u64>,
}

/// The rows of the sources, read in order.
pub(crate) struct Streamed {
    data: Data,
    roles: Vec<String>,
    /// The hashes of held-out rows that are files of their own.
    held: HashSet<u64>,
    seed: u64,
    /// The block in memory, and the one behind it.
    at: Cursor,
    next: Cursor,
    examples: Vec<Example>,
    /// The sources that are open, each at the row of `next`.
    open: Vec<Option<Documents>>,
    /// The share of each source in a block; `None` if the sources are read one after the other.
    shares: Option<Vec<f64>>,
}

/// Rows with their numbers, and the sources that have ended with them.
type Block = (Vec<(u64, Record)>, Vec<usize>);

impl Streamed {
    pub(crate) fn new(data: Data, roles: Vec<String>, held: HashSet<u64>, seed: u64) -> Self {
        let (at, next) = (Cursor::default(), Cursor::default());
        let weights: Vec<f64> = data.sources.iter().map(|source| source.weight.unwrap_or(1.0)).collect();
        let all: f64 = weights.iter().sum();
        let given = data.sources.iter().any(|source| source.weight.is_some());
        let shares = given.then(|| weights.into_iter().map(|weight| weight / all).collect());
        let open = data.sources.iter().map(|_| None).collect();
        Self { data, roles, held, seed, at, next, examples: Vec::new(), open, shares }
    }

    /// Where the block in memory begins.
    pub(crate) fn cursor(&self) -> Cursor {
        self.at.clone()
    }

    /// Goes to where a block begins.
    pub(crate) fn seek(&mut self, to: Cursor) {
        (self.at, self.next) = (to.clone(), to);
        self.examples.clear();
        self.open.iter_mut().for_each(|open| *open = None);
    }

    /// The examples of a step. Errors if a row cannot be read, or no row has anything to learn.
    pub(crate) fn step(
        &mut self,
        step: usize,
        batch: usize,
        (objective, texts): (&dyn Objective, &Texts),
    ) -> Result<Vec<Example>, Error> {
        let from = step as u64 * batch as u64;
        if from < self.at.first {
            self.seek(Cursor::default());
        }
        (from..from + batch as u64)
            .map(|k| {
                while k >= self.at.first + self.examples.len() as u64 {
                    self.load(objective, texts)?;
                }
                Ok(self.examples[(k - self.at.first) as usize].clone())
            })
            .collect()
    }

    /// Reads the next block that has an example.
    fn load(&mut self, objective: &dyn Objective, texts: &Texts) -> Result<(), Error> {
        let mut passes = vec![0; self.open.len()];
        loop {
            let start = self.next.clone();
            let (rows, ended) = match self.shares.clone() {
                Some(shares) => self.drawn(&shares)?,
                None => self.in_turn()?,
            };
            let mut examples = Vec::new();
            for (number, record) in &rows {
                let row = Row { number: *number, roles: &self.roles, record };
                let found = objective.examples(&row, texts);
                examples.extend(found.map_err(|message| Error::Text(format!("{}: {message}", record.origin)))?);
            }
            examples.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed ^ (start.block + 1)));
            (self.next.block, self.next.first) = (start.block + 1, start.first + examples.len() as u64);
            if !examples.is_empty() {
                (self.at, self.examples) = (start, examples);
                return Ok(());
            }
            ended.into_iter().for_each(|source| passes[source] += 1);
            if passes.iter().all(|passes| *passes > 1) {
                let paths: Vec<&str> = self.data.sources.iter().map(|source| source.path.as_str()).collect();
                return Err(Error::Text(format!("{}: no row has anything to learn", paths.join(", "))));
            }
        }
    }

    /// The rows of the next block.
    fn in_turn(&mut self) -> Result<Block, Error> {
        let mut rows = Vec::new();
        while rows.len() < self.data.shuffle {
            let source = self.next.source;
            match self.record(source, self.next.row)? {
                Some(record) => {
                    rows.extend(self.learnt(source, self.next.row, record));
                    self.next.row += 1;
                }
                None => {
                    self.next.source = (source + 1) % self.data.sources.len();
                    self.next.row = 0;
                    if self.next.source == 0 {
                        return Ok((rows, (0..self.open.len()).collect()));
                    }
                }
            }
        }
        Ok((rows, Vec::new()))
    }

    /// The rows of the next block, as many of each source as its share wants. Of a share that is no whole number of rows, the rest
    /// goes to later blocks. Errors if a source has no row to learn.
    fn drawn(&mut self, shares: &[f64]) -> Result<Block, Error> {
        self.next.rows.resize(shares.len(), 0);
        let (mut rows, mut ended) = (Vec::new(), Vec::new());
        for (source, share) in shares.iter().enumerate() {
            let until = |block: u64| (block as f64 * share * self.data.shuffle as f64).round() as usize;
            let wanted = until(self.next.block + 1) - until(self.next.block);
            let (mut found, mut passes) = (0, 0);
            while found < wanted {
                match self.record(source, self.next.rows[source])? {
                    Some(record) => {
                        let learnt = self.learnt(source, self.next.rows[source], record);
                        found += usize::from(learnt.is_some());
                        rows.extend(learnt);
                        self.next.rows[source] += 1;
                    }
                    None => {
                        self.next.rows[source] = 0;
                        passes += 1;
                        ended.push(source);
                        if passes > 1 && found == 0 {
                            let path = &self.data.sources[source].path;
                            return Err(Error::Text(format!("{path}: there is no row that is not held out")));
                        }
                    }
                }
            }
        }
        Ok((rows, ended))
    }

    /// A row with its number, unless it is held out.
    fn learnt(&self, source: usize, row: u64, record: Record) -> Option<(u64, Record)> {
        let hash = hash(&record);
        let held = self.held.contains(&hash) || self.data.held_out.chooses(hash);
        (!held).then_some(((source as u64) << 40 | row, record))
    }

    /// The row of this number of a source, which is read in order; `None` behind the last.
    fn record(&mut self, source: usize, row: u64) -> Result<Option<Record>, Error> {
        if self.open[source].is_none() {
            let column = |role: &str| self.data.columns.get(role).cloned().unwrap_or_else(|| role.to_owned());
            let roles: Vec<&str> = self.roles.iter().map(String::as_str).collect();
            let mut documents = Input::of(&self.data.sources[source].path)?.read(&options(&roles, &column))?;
            documents.skip(row)?;
            self.open[source] = Some(documents);
        }
        let Some(documents) = &mut self.open[source] else { return Ok(None) };
        let Some((document, _)) = documents.next()? else {
            self.open[source] = None;
            return Ok(None);
        };
        Ok(Some(Record { origin: document.origin(), values: document.fields }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty blocks of five rows with weights 3 to 1 have 75 and 25 rows, no source is ever more than a row off, each source is read in its order
    /// and begins anew behind its last row, and a cursor goes back to where a block begins.
    #[test]
    fn blocks_have_rows_by_weight() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = |name: &str| folder.path().join(name).display().to_string();
        for (name, count) in [("a.jsonl", 7), ("b.jsonl", 4)] {
            let lines: String = (0..count).map(|i| format!("{{\"text\": \"{name} {i}\"}}\n")).collect();
            std::fs::write(path(name), lines).expect("written");
        }
        let data = format!(
            "format = \"table\"\nheld_out = 0.0\nstream = true\nshuffle = 5\nsources = [{{ path = {:?}, weight = 3.0 }}, {{ path = {:?}, weight = 1 }}]",
            path("a.jsonl"),
            path("b.jsonl")
        );
        let data: Data = toml::from_str(&data).expect("valid");
        let mut all = Streamed::new(data, vec!["text".into()], HashSet::new(), 3);
        let mut read = vec![Vec::new(); 2];
        let (mut sixth, mut again) = (Vec::new(), None);
        for block in 0..20 {
            if block == 5 {
                again = Some(all.next.clone());
            }
            let (rows, _) = all.drawn(&[0.75, 0.25]).expect("read");
            all.next.block += 1;
            assert!((4..=6).contains(&rows.len()), "{}", rows.len());
            rows.iter().for_each(|(number, _)| read[(number >> 40) as usize].push(number & 0xff_ffff));
            assert!((read[0].len() as f64 - 3.75 * (block + 1) as f64).abs() <= 1.0);
            if block == 5 {
                sixth = rows.iter().map(|(number, _)| *number).collect();
            }
        }
        assert_eq!((read[0].len(), read[1].len()), (75, 25));
        for (rows, count) in read.iter().zip([7, 4]) {
            assert!(rows.iter().enumerate().all(|(i, row)| *row == i as u64 % count), "{rows:?}");
        }
        all.seek(again.expect("a cursor"));
        let (rows, _) = all.drawn(&[0.75, 0.25]).expect("read");
        assert_eq!(rows.iter().map(|(number, _)| *number).collect::<Vec<_>>(), sixth);
    }
}
