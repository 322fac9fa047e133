//! Joins the shards of an embedding job, each made by a machine of its own, in the order of the documents.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;

use crate::Error;
use crate::documents::Shard;
use crate::ipc::Table;
use crate::output::{Existing, check_joined};
use crate::table::{Columns, Row};
use crate::vectors::{Format, save};

/// The names of a shard's metadata: its number, a hash of the job, and how many documents the input has.
pub(crate) const SHARD: &str = "shard";
pub(crate) const JOB: &str = "job";
pub(crate) const COUNT: &str = "documents";

/// Rows of a batch of the output.
const ROWS: usize = 4096;

/// Writes the rows of all shards of a job to `out`, in the order of the documents, atomically, and returns their number.
/// Errors if a shard is missing, given twice, or of another job.
pub fn join(shards: &[PathBuf], out: &Path, existing: Existing) -> Result<u64, Error> {
    let format = check_joined(out, shards, existing)?;
    let Opened { columns, tables } = opened(shards, out)?;
    if format == Format::Npy && (columns.late || columns.text || !columns.fields.is_empty()) {
        let message = "token vectors, texts and fields cannot be stored in .npy: want .parquet, .arrow or .jsonl";
        return Err(Error::file(out, message));
    }
    let schema = columns.schema();
    let mut rows = 0;
    for (_, table) in &tables {
        for batch in table.batches(&schema)? {
            rows += batch?.num_rows();
        }
    }
    let mut readers = Vec::with_capacity(tables.len());
    for (path, table) in &tables {
        let batches: Box<dyn Iterator<Item = Result<RecordBatch, Error>> + '_> = Box::new(table.batches(&schema)?);
        readers.push(Reader { path, columns: &columns, batches, rows: VecDeque::new() });
    }
    let joined = Joined { columns: &columns, readers, next: 0, ended: false };
    save(out, format, &schema, rows, joined)?;
    Ok(rows as u64)
}

/// The shards in their order, and what they have in common.
struct Opened<'a> {
    columns: Columns,
    tables: Vec<(&'a Path, Table)>,
}

/// Opens shards, and checks that they are all those of one job.
fn opened<'a>(shards: &'a [PathBuf], out: &Path) -> Result<Opened<'a>, Error> {
    let mut found: Vec<(Shard, &Path, Table)> = Vec::with_capacity(shards.len());
    let mut columns = None;
    for path in shards {
        let table = Table::open(path)?;
        let none = || Error::file(path, "is no shard: want an output of `longreach embed --shard`");
        let shard: Shard = table.metadata(SHARD).ok_or_else(none)?.parse().map_err(|_| none())?;
        let own = Columns::of(table.schema()).ok_or_else(none)?;
        if let Some((first, other, before)) = found.first() {
            let same = before.metadata(JOB) == table.metadata(JOB) && columns.as_ref() == Some(&own);
            if !same {
                let message = format!("is of another job than {}: another model, input or option", other.display());
                return Err(Error::file(path, message));
            }
            let [there, here] = [before, &table].map(|table| table.metadata(COUNT).unwrap_or("unknown"));
            if there != here {
                let message = format!("is of an input of {here} documents, but {} of one of {there}", other.display());
                return Err(Error::file(path, message));
            }
            if first.of() != shard.of() {
                let (there, here) = (first.of(), shard.of());
                let message = format!("is one of {here} shards, but {} is one of {there}", other.display());
                return Err(Error::file(path, message));
            }
        }
        if let Some((_, other, _)) = found.iter().find(|(other, ..)| *other == shard) {
            return Err(Error::file(path, format!("is shard {shard}, and so is {}", other.display())));
        }
        columns = Some(own);
        found.push((shard, path, table));
    }
    found.sort_by_key(|(shard, ..)| shard.index());
    let (Some(columns), Some((first, ..))) = (columns, found.first()) else {
        return Err(Error::file(out, "there are no shards to join"));
    };
    let of = first.of();
    let missing: Vec<String> = (0..of.min(found.len() as u64 + 1))
        .filter(|i| found.binary_search_by_key(i, |(shard, ..)| shard.index()).is_err())
        .map(|i| format!("{}/{of}", i + 1))
        .collect();
    if let Some(first) = missing.first() {
        let message = format!("{} of {of} shards are given; shard {first} is missing", found.len());
        return Err(Error::file(out, message));
    }
    Ok(Opened { columns, tables: found.into_iter().map(|(_, path, table)| (path, table)).collect() })
}

/// The rows of a shard.
struct Reader<'a> {
    path: &'a Path,
    columns: &'a Columns,
    batches: Box<dyn Iterator<Item = Result<RecordBatch, Error>> + 'a>,
    rows: VecDeque<Row>,
}

impl Reader<'_> {
    /// The document of the next row, which is not taken.
    fn peek(&mut self) -> Result<Option<u64>, Error> {
        while self.rows.is_empty() {
            let Some(batch) = self.batches.next() else { return Ok(None) };
            self.rows.extend(self.columns.rows(&batch?));
        }
        Ok(self.rows.front().map(|row| row.row))
    }
}

/// The rows of all shards, as batches.
struct Joined<'a> {
    columns: &'a Columns,
    readers: Vec<Reader<'a>>,
    /// The document whose rows come next.
    next: u64,
    ended: bool,
}

impl Joined<'_> {
    fn read(&mut self) -> Result<Vec<Row>, Error> {
        let (mut rows, of) = (Vec::new(), self.readers.len() as u64);
        while rows.len() < ROWS {
            let reader = &mut self.readers[(self.next % of) as usize];
            match reader.peek()? {
                None => return self.end(rows),
                Some(found) if found != self.next => {
                    let message = format!("holds document {found}, want {}: it is damaged", self.next);
                    return Err(Error::file(reader.path, message));
                }
                Some(_) => {}
            }
            // A document may have several rows, and they may stand in several batches.
            while reader.peek()? == Some(self.next) {
                rows.extend(reader.rows.pop_front());
            }
            self.next += 1;
        }
        Ok(rows)
    }

    /// The last rows. Where the next document would be, its shard has ended, and so must have the others.
    fn end(&mut self, rows: Vec<Row>) -> Result<Vec<Row>, Error> {
        self.ended = true;
        for reader in &mut self.readers {
            if let Some(found) = reader.peek()? {
                let message =
                    format!("holds document {found}, but there is no document {}: did the inputs differ?", self.next);
                return Err(Error::file(reader.path, message));
            }
        }
        Ok(rows)
    }
}

impl Iterator for Joined<'_> {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.read() {
            Ok(rows) if rows.is_empty() => None,
            Ok(rows) => Some(Ok(self.columns.batch(&rows))),
            Err(e) => {
                self.ended = true;
                Some(Err(e))
            }
        }
    }
}
