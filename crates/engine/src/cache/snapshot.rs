//! A kept state: what is left of it without cached keys, and the rows of keys that it shares with other states.

use std::sync::Arc;

use longreach_nn::{Cache, KvRows, ROWS, first_row};

use super::key::{Key, Path};

/// Rows of keys with their key.
#[derive(Clone)]
pub(super) struct Rows {
    pub(super) key: Key,
    pub(super) rows: Arc<KvRows>,
}

/// The rows that the layers of one reach need, in the order of the text.
#[derive(Clone)]
pub(super) struct Reached {
    pub(super) reach: usize,
    pub(super) rows: Vec<Rows>,
}

/// A state after some tokens. Its tensors are its own, apart from the rows.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) tokens: usize,
    pub(super) rest: Cache,
    pub(super) logits: Option<Vec<f32>>,
    pub(super) reached: Vec<Reached>,
}

/// What a row costs in a list, beside its numbers.
const OVERHEAD: usize = size_of::<Rows>() + 64;

impl Snapshot {
    /// Takes a state apart. `known` returns rows that are kept already. `None` if the rows do not begin where they should, as
    /// after a text that was not read in the calls of the model.
    pub(super) fn of(
        cache: &Cache,
        path: &Path<'_>,
        (tokens, logits): (usize, Option<Vec<f32>>),
        known: impl Fn(&Key) -> Option<Arc<KvRows>>,
    ) -> Option<Self> {
        let mut reached = Vec::new();
        for reach in cache.reaches() {
            let mut rows = Vec::new();
            for first in (first_row(reach, tokens)..tokens / ROWS * ROWS).step_by(ROWS) {
                let key = path.rows(reach, first);
                let found = known(&key).or_else(|| cache.rows(reach, first).map(Arc::new))?;
                rows.push(Rows { key, rows: found });
            }
            reached.push(Reached { reach, rows });
        }
        Some(Self { tokens, rest: cache.without_rows(), logits, reached })
    }

    /// The state, put together again. Nothing is copied.
    pub(super) fn cache(&self) -> Cache {
        let mut cache = self.rest.clone();
        for Reached { reach, rows } in &self.reached {
            rows.iter().rev().for_each(|rows| cache.put_rows_before(*reach, &rows.rows));
        }
        cache
    }

    /// The bytes that are its own.
    pub(super) fn own_bytes(&self) -> usize {
        let rows: usize = self.rows().count();
        self.rest.bytes() + 4 * self.logits.as_ref().map_or(0, Vec::len) + rows * OVERHEAD + size_of::<Self>()
    }

    /// Its rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Rows> {
        self.reached.iter().flat_map(|reached| &reached.rows)
    }
}
