//! The shard of a job that is being filled: its documents, their parts, and the rows that they become.

use std::ops::ControlFlow;
use std::path::Path;

use longreach_engine::{Long, Part, TextEncoder, batches, normalize};

use crate::Error;
use crate::documents::Document;
use crate::job::{Blank, Job, LongDocument, Progress};
use crate::table::Row;

/// The documents of the shard being filled.
#[derive(Default)]
pub(crate) struct Piece {
    pub(crate) documents: Vec<Document>,
    /// For each part, the index of its document.
    of: Vec<usize>,
    parts: Vec<Part>,
    pub(crate) tokens: usize,
    /// Documents that exceed the input limit, and the largest overlap of two parts in tokens.
    pub(crate) long: u64,
    pub(crate) shared: u64,
    /// Blank documents.
    pub(crate) blank: u64,
}

/// The overlap of two consecutive parts, in tokens.
fn shared(before: &Part, part: &Part) -> u64 {
    let places = part.places.iter().flatten();
    places.filter(|(start, end)| start < end && *start < before.bytes.end).count() as u64
}

impl Piece {
    pub(crate) fn add(&mut self, job: &Job<'_>, encoder: &TextEncoder, document: Document) -> Result<(), Error> {
        let blank = document.text.trim().is_empty();
        self.blank += u64::from(blank);
        if blank && job.blank == Blank::LeaveOut {
            self.documents.push(document);
            return Ok(());
        }
        let long = match job.long {
            LongDocument::Truncate => Long::Truncate,
            LongDocument::Mean { overlap } | LongDocument::Parts { overlap } => Long::Split { overlap },
        };
        let parts = if encoder.is_late() {
            encoder.late_parts(&document.text, long)?
        } else {
            encoder.parts(&document.text, job.prompt, long)?
        };
        let cut = parts.last().is_some_and(|part| document.text[part.bytes.end..].chars().any(|c| !c.is_whitespace()));
        self.long += u64::from(parts.len() > 1 || cut);
        self.shared = parts.windows(2).map(|two| shared(&two[0], &two[1])).fold(self.shared, u64::max);
        self.of.extend(std::iter::repeat_n(self.documents.len(), parts.len()));
        self.tokens += parts.iter().map(|part| part.ids.len()).sum::<usize>();
        self.parts.extend(parts);
        self.documents.push(document);
        Ok(())
    }

    pub(crate) fn embed(
        &self,
        job: &Job<'_>,
        encoder: &TextEncoder,
        done: &mut Progress,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
        folder: &Path,
    ) -> Result<Vec<Row>, Error> {
        let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); self.parts.len()];
        for batch in batches(&self.parts, job.batch) {
            let chosen: Vec<&Part> = batch.iter().map(|i| &self.parts[*i]).collect();
            let made: Vec<Vec<f32>> = if encoder.is_late() {
                encoder.late_documents(&chosen)?
            } else {
                encoder.vectors(&chosen).chunks(encoder.width()).map(<[f32]>::to_vec).collect()
            };
            for (i, vector) in batch.iter().zip(made) {
                vectors[*i] = vector;
            }
            done.tokens += chosen.iter().map(|part| part.ids.len() as u64).sum::<u64>();
            if progress(done).is_break() {
                return Err(Error::Interrupted { rows: done.documents, path: folder.to_owned() });
            }
        }
        let (width, keep) = (encoder.width(), job.keep.unwrap_or(usize::MAX));
        let finish = |mut vector: Vec<f32>| {
            if keep < width {
                vector = vector.chunks(width).flat_map(|v| v[..keep].iter().copied()).collect();
            }
            if encoder.pipeline.normalizes() || encoder.is_late() {
                normalize(&mut vector, keep.min(width));
            }
            vector
        };
        let row = |document: usize, parts: &[usize], vector: Vec<f32>| {
            let of = &self.documents[document];
            let (first, last) = (&self.parts[parts[0]].bytes, &self.parts[parts[parts.len() - 1]].bytes);
            let tokens: usize = parts.iter().map(|i| self.parts[*i].ids.len()).sum();
            let place = done.documents + document as u64;
            Row {
                row: job.options.shard.map_or(place, |shard| shard.place(place)),
                file: of.file.clone(),
                start: of.start + first.start as u64,
                end: of.start + last.end as u64,
                tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
                text: if job.text { of.text[first.start..last.end].to_owned() } else { String::new() },
                fields: of.fields.clone(),
                vector: finish(vector),
            }
        };
        let mut rows = Vec::new();
        let mut first = 0;
        while first < self.parts.len() {
            let document = self.of[first];
            let n = self.of[first..].iter().take_while(|of| **of == document).count();
            let parts: Vec<usize> = (first..first + n).collect();
            if matches!(job.long, LongDocument::Mean { .. }) && !encoder.is_late() {
                let mut mean = vec![0.0f64; width];
                let all: f64 = parts.iter().map(|i| self.parts[*i].ids.len() as f64).sum();
                for i in &parts {
                    let share = self.parts[*i].ids.len() as f64 / all;
                    mean.iter_mut().zip(&vectors[*i]).for_each(|(sum, x)| *sum += share * f64::from(*x));
                }
                rows.push(row(document, &parts, mean.into_iter().map(|x| x as f32).collect()));
            } else {
                parts.iter().for_each(|i| rows.push(row(document, &[*i], std::mem::take(&mut vectors[*i]))));
            }
            first += n;
        }
        if let Some(row) = rows.iter().find(|row| row.vector.iter().any(|x| !x.is_finite())) {
            let place = job.options.shard.map_or(row.row, |shard| row.row / shard.of());
            let document = &self.documents[(place - done.documents) as usize];
            return Err(Error::NotFinite { origin: document.origin() });
        }
        Ok(rows)
    }
}
