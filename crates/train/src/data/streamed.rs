//! Rows of tables that are read while they are learnt, so that memory does not grow with the files.
//!
//! Rows are taken in blocks, in the order of the files, and the examples of a block are shuffled by the number of the block.
//! Behind the last row follows the first. The examples of a step are thus a function of its number: a cursor says where a block
//! begins, so that an interrupted training reads on from there.

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
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Cursor {
    block: u64,
    /// The number of examples of the blocks before it.
    first: u64,
    /// The source, and the number of its rows that come before.
    source: usize,
    row: u64,
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
    open: Option<Documents>,
}

impl Streamed {
    pub(crate) fn new(data: Data, roles: Vec<String>, held: HashSet<u64>, seed: u64) -> Self {
        let (at, next) = (Cursor::default(), Cursor::default());
        Self { data, roles, held, seed, at, next, examples: Vec::new(), open: None }
    }

    /// Where the block in memory begins.
    pub(crate) fn cursor(&self) -> Cursor {
        self.at
    }

    /// Goes to where a block begins.
    pub(crate) fn seek(&mut self, to: Cursor) {
        (self.at, self.next) = (to, to);
        self.examples.clear();
        self.open = None;
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
        let mut passes = 0;
        loop {
            let start = self.next;
            let (rows, ended) = self.rows()?;
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
            passes += usize::from(ended);
            if passes > 1 {
                let paths: Vec<&str> = self.data.sources.iter().map(|source| source.path.as_str()).collect();
                return Err(Error::Text(format!("{}: no row has anything to learn", paths.join(", "))));
            }
        }
    }

    /// The rows of the next block with their numbers, and whether the last source has ended with it.
    fn rows(&mut self) -> Result<(Vec<(u64, Record)>, bool), Error> {
        let mut rows = Vec::new();
        while rows.len() < self.data.shuffle {
            let Some(record) = self.record()? else {
                self.open = None;
                self.next.source = (self.next.source + 1) % self.data.sources.len();
                self.next.row = 0;
                if self.next.source == 0 {
                    return Ok((rows, true));
                }
                continue;
            };
            let number = (self.next.source as u64) << 40 | self.next.row;
            self.next.row += 1;
            let hash = hash(&record);
            if !self.held.contains(&hash) && !self.data.held_out.chooses(hash) {
                rows.push((number, record));
            }
        }
        Ok((rows, false))
    }

    /// The next row of the current source.
    fn record(&mut self) -> Result<Option<Record>, Error> {
        if self.open.is_none() {
            let column = |role: &str| self.data.columns.get(role).cloned().unwrap_or_else(|| role.to_owned());
            let roles: Vec<&str> = self.roles.iter().map(String::as_str).collect();
            let mut documents =
                Input::of(&self.data.sources[self.next.source].path)?.read(&options(&roles, &column))?;
            documents.skip(self.next.row)?;
            self.open = Some(documents);
        }
        let Some(documents) = &mut self.open else { return Ok(None) };
        let document = documents.next()?;
        Ok(document.map(|(document, _)| Record { origin: document.origin(), values: document.fields }))
    }
}
