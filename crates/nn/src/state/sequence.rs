//! The cached keys and values of one sequence: segments, of which only the last grows.

use burn::tensor::Tensor;
use longreach_burn as ops;

use super::kv_dtype::{KvDtype, stored};

/// The capacity of a full segment, in tokens.
const SEGMENT: usize = 512;
/// The capacity of the first segment that is filled token by token.
const FIRST_SEGMENT: usize = 32;
/// At least this many new tokens become a segment of their own, without being copied.
const ADOPTED: usize = 128;

/// The beginning of a window is a multiple of this many tokens: sums over keys begin at the first cached key, and tiles of
/// keys are counted from there.
pub(super) const ALIGNED: usize = 64;

/// The cached keys and values of a sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Sequence {
    pub(super) segments: Vec<Segment>,
    /// How many rows at the front of the first segment are no longer needed.
    pub(super) dropped: usize,
    /// The number of cached tokens, without those.
    pub(super) rows: usize,
    /// The number of tokens of the text, those that are no longer cached included.
    pub(super) seen: usize,
    /// How many segments were freed at the front.
    pub(super) freed: usize,
}

/// The first `rows` rows of `k: [1, capacity, G, D]` and `v: [1, capacity, G, E]` are in use. There is no `v` where the
/// values are part of the keys.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) k: Tensor<4>,
    pub(super) v: Option<Tensor<4>>,
    pub(super) rows: usize,
}

/// Keys, and values where they are stored.
pub(super) type New = (Tensor<4>, Option<Tensor<4>>);

impl Segment {
    fn capacity(&self) -> usize {
        self.k.dims()[1]
    }

    /// The rows `from ..` that are in use; values are `width` wide.
    fn used(&self, from: usize, width: usize) -> [Tensor<4>; 2] {
        let part = |x: &Tensor<4>| match (from, self.rows) {
            (0, rows) if rows == x.dims()[1] => x.clone(),
            (from, rows) => x.clone().narrow(1, from, rows - from),
        };
        let k = part(&self.k);
        let v = self.v.as_ref().map_or_else(|| k.clone().narrow(3, 0, width), part);
        [k, v]
    }

    fn push(self, (k, v): New) -> Self {
        let n = k.dims()[1];
        let values = self.v.zip(v).map(|(all, v)| ops::put_rows(all, v, self.rows));
        Self { k: ops::put_rows(self.k, k, self.rows), v: values, rows: self.rows + n }
    }
}

impl Sequence {
    pub(super) fn push(&mut self, new: New, dtype: KvDtype) {
        let n = new.0.dims()[1];
        self.rows += n;
        self.seen += n;
        if let Some(last) = self.segments.pop_if(|last| last.rows + n <= last.capacity()) {
            return self.segments.push(last.push(new));
        }
        let (k, v) = new;
        if n >= ADOPTED {
            let [k, v] = [Some(k), v].map(|x| x.map(|x| stored(x, dtype)));
            return self.segments.extend(k.map(|k| Segment { k, v, rows: n }));
        }
        let capacity = self.rows.clamp(FIRST_SEGMENT, SEGMENT).max(n);
        let room = |x: &Tensor<4>| {
            let [_, _, groups, width] = x.dims();
            Tensor::zeros([1, capacity, groups, dtype.elements(width)], (&x.device(), dtype.of_tensors()))
        };
        let segment = Segment { k: room(&k), v: v.as_ref().map(room), rows: 0 };
        self.segments.push(segment.push((k, v)));
    }

    /// Keeps the last `rows` tokens. Segments without any of them are freed.
    pub(super) fn keep_last(&mut self, rows: usize) {
        let mut over = self.rows.saturating_sub(rows);
        self.rows -= over;
        over += self.dropped;
        let mut gone = 0;
        while let Some(first) = self.segments.get(gone).filter(|first| first.rows <= over) {
            over -= first.rows;
            gone += 1;
        }
        self.segments.drain(..gone);
        self.freed += gone;
        self.dropped = over;
    }

    /// Keeps the last `past` tokens, and those before them down to a multiple of [`ALIGNED`].
    pub(super) fn keep_window(&mut self, past: usize) {
        let first = self.seen.saturating_sub(past) / ALIGNED * ALIGNED;
        self.keep_last(self.seen - first);
    }

    /// Puts rows before the others, as a segment of its own, which is full: nothing is copied.
    pub(super) fn adopt(&mut self, (k, v): New) {
        let rows = k.dims()[1];
        self.rows += rows;
        self.segments.insert(0, Segment { k, v, rows });
    }

    pub(super) fn segments(&self, width: usize) -> Vec<[Tensor<4>; 2]> {
        let segments = self.segments.iter().enumerate();
        segments.map(|(i, segment)| segment.used(if i == 0 { self.dropped } else { 0 }, width)).collect()
    }
}

#[derive(Clone, Debug)]
pub(super) enum MarkedSequence {
    /// All of it.
    Whole(Sequence),
    /// The segments but for the last, which is not shared, so that it can grow in place; `rows` of its rows were in use.
    Growing { earlier: Sequence, rows: usize },
}

/// A sequence with fewer rows is marked whole, as its window may be so short that its last segment is freed soon.
const LEAST_GROWING: usize = 64;

impl Sequence {
    pub(super) fn mark(&self) -> MarkedSequence {
        match self.segments.split_last() {
            Some((last, earlier)) if self.rows >= LEAST_GROWING => {
                let earlier = Sequence { segments: earlier.to_vec(), ..*self };
                MarkedSequence::Growing { earlier, rows: last.rows }
            }
            _ => MarkedSequence::Whole(self.clone()),
        }
    }

    /// Takes the sequence back to the mark and `more` rows behind it.
    pub(super) fn rewind(&mut self, mark: MarkedSequence, more: usize) {
        let (mut to, mut left) = match mark {
            MarkedSequence::Whole(to) => {
                assert_eq!(more, 0, "{WHOLE}");
                *self = to;
                return;
            }
            MarkedSequence::Growing { earlier, rows } => (earlier, rows + more),
        };
        to.rows += more;
        to.seen += more;
        // Segments that were freed since are among the earlier ones.
        let from = (to.freed + to.segments.len()).saturating_sub(self.freed);
        for segment in self.segments.drain(from.min(self.segments.len())..) {
            let rows = segment.rows.min(left);
            left -= rows;
            if rows > 0 {
                to.segments.push(Segment { rows, ..segment });
            }
        }
        assert_eq!(left, 0, "the cache was not marked, or has moved on too far");
        *self = to;
    }
}

const WHOLE: &str = "rows behind the mark of a short cache are not kept";
