//! The KV cache of an attention layer.

use burn::tensor::{DType, Device, Tensor};
use longreach_burn as ops;

use super::{Find, OnTensors, StateError, StateTensor};

/// The capacity of a full segment, in tokens.
const SEGMENT: usize = 512;
/// The capacity of the first segment that is filled token by token.
const FIRST_SEGMENT: usize = 32;
/// At least this many new tokens become a segment of their own, without being copied.
const ADOPTED: usize = 128;

/// How cached keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// As they are computed.
    #[default]
    F32,
    /// Rounded to bf16, in half the memory.
    Bf16,
}

impl KvDtype {
    /// Its name, as in files and options.
    pub fn name(self) -> &'static str {
        match self {
            KvDtype::F32 => "f32",
            KvDtype::Bf16 => "bf16",
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            KvDtype::F32 => 4,
            KvDtype::Bf16 => 2,
        }
    }

    fn of_tensors(self) -> DType {
        match self {
            KvDtype::F32 => DType::F32,
            KvDtype::Bf16 => DType::BF16,
        }
    }
}

/// The keys and values of each sequence of a batch.
///
/// Those of a sequence are a list of segments, of which only the last grows. Full segments do not change any more: a
/// clone shares them, and copies no more than the last segment when it appends to it. The sequences of a batch may have
/// different lengths.
#[derive(Clone, Debug)]
pub struct KvCache {
    sequences: Vec<Sequence>,
    /// How many tokens the last call of [`KvCache::keep_last`] kept.
    kept: usize,
    /// `[1, 0, G, D]` and `[1, 0, G, E]`: the widths, and the device.
    empty: [Tensor<4>; 2],
    values: Values,
    dtype: KvDtype,
}

/// What the values of a cache are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    /// Stored beside the keys.
    Own,
    /// The first channels of the keys, and not stored.
    OfKeys,
    /// There are none.
    None,
}

/// The cached keys and values of a sequence.
#[derive(Clone, Debug, Default)]
struct Sequence {
    segments: Vec<Segment>,
    /// How many rows at the front of the first segment are no longer needed.
    dropped: usize,
    /// The number of cached tokens, without those.
    rows: usize,
    /// How many segments were freed at the front.
    freed: usize,
}

/// The first `rows` rows of `k: [1, capacity, G, D]` and `v: [1, capacity, G, E]` are in use. There is no `v` where the
/// values are part of the keys.
#[derive(Clone, Debug)]
struct Segment {
    k: Tensor<4>,
    v: Option<Tensor<4>>,
    rows: usize,
}

/// Keys, and values where they are stored.
type New = (Tensor<4>, Option<Tensor<4>>);

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
    fn push(&mut self, new: New, dtype: KvDtype) {
        let n = new.0.dims()[1];
        self.rows += n;
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
            Tensor::zeros([1, capacity, groups, width], (&x.device(), dtype.of_tensors()))
        };
        let segment = Segment { k: room(&k), v: v.as_ref().map(room), rows: 0 };
        self.segments.push(segment.push((k, v)));
    }

    /// Keeps the last `rows` tokens. Segments without any of them are freed.
    fn keep_last(&mut self, rows: usize) {
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

    fn segments(&self, width: usize) -> Vec<[Tensor<4>; 2]> {
        let segments = self.segments.iter().enumerate();
        segments.map(|(i, segment)| segment.used(if i == 0 { self.dropped } else { 0 }, width)).collect()
    }
}

/// What a cache was, to which [`KvCache::rewind`] takes it back.
#[derive(Clone, Debug)]
pub(super) struct KvMark(Vec<MarkedSequence>);

#[derive(Clone, Debug)]
enum MarkedSequence {
    /// All of it.
    Whole(Sequence),
    /// The segments but for the last, which is not shared, so that it can grow in place; `rows` of its rows were in use.
    Growing { earlier: Sequence, rows: usize },
}

/// A sequence with fewer rows is marked whole, as its window may be so short that its last segment is freed soon.
const LEAST_GROWING: usize = 64;

impl Sequence {
    fn mark(&self) -> MarkedSequence {
        match self.segments.split_last() {
            Some((last, earlier)) if self.rows >= LEAST_GROWING => {
                let earlier = Sequence { segments: earlier.to_vec(), ..*self };
                MarkedSequence::Growing { earlier, rows: last.rows }
            }
            _ => MarkedSequence::Whole(self.clone()),
        }
    }

    /// Takes the sequence back to the mark and `more` rows behind it.
    fn rewind(&mut self, mark: MarkedSequence, more: usize) {
        let (mut to, mut left) = match mark {
            MarkedSequence::Whole(to) => {
                assert_eq!(more, 0, "{WHOLE}");
                *self = to;
                return;
            }
            MarkedSequence::Growing { earlier, rows } => (earlier, rows + more),
        };
        to.rows += more;
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

impl KvMark {
    /// Whether rows behind the mark are kept, see [`KvCache::rewind`].
    pub(super) fn keeps_rows(&self) -> bool {
        self.0.iter().all(|sequence| matches!(sequence, MarkedSequence::Growing { .. }))
    }
}

impl KvCache {
    /// Marks the cache, so that it can be taken back to here.
    pub(super) fn mark(&self) -> KvMark {
        KvMark(self.sequences.iter().map(Sequence::mark).collect())
    }

    /// Takes the cache back to the mark and the first `more` of the rows that were appended since, a few at a time. Panics if
    /// there are such rows and the mark does not keep them: see [`KvMark::keeps_rows`].
    pub(super) fn rewind(&mut self, mark: KvMark, more: usize) {
        self.sequences.iter_mut().zip(mark.0).for_each(|(sequence, mark)| sequence.rewind(mark, more));
        if more > 0 {
            self.keep_last(self.kept);
        }
    }

    /// An empty cache of `batch` sequences; `(groups, d, e)` are the KV heads, the width of a key, and that of a
    /// value.
    pub fn new(batch: usize, (groups, d, e): (usize, usize, usize), device: &Device) -> Self {
        let empty = [d, e].map(|width| Tensor::zeros([1, 0, groups, width], device));
        let sequences = vec![Sequence::default(); batch];
        Self { sequences, kept: usize::MAX, empty, values: Values::Own, dtype: KvDtype::F32 }
    }

    /// An empty cache of `batch` sequences with one KV head, keys of width `d`, and values that are their first `e`
    /// channels.
    pub fn latent(batch: usize, [d, e]: [usize; 2], device: &Device) -> Self {
        Self { values: Values::OfKeys, ..Self::new(batch, (1, d, e), device) }
    }

    /// An empty cache of `batch` sequences of keys alone, which stay in f32; `(groups, d)` are the KV heads and the width of a
    /// key.
    pub fn keys(batch: usize, (groups, d): (usize, usize), device: &Device) -> Self {
        Self { values: Values::None, ..Self::new(batch, (groups, d, d), device) }
    }

    /// The same keys and values, stored in another type, unless they are keys alone.
    #[must_use]
    pub fn stored_as(mut self, dtype: KvDtype) -> Self {
        if dtype != self.dtype && self.values != Values::None {
            for segment in self.sequences.iter_mut().flat_map(|sequence| &mut sequence.segments) {
                segment.k = stored(segment.k.clone(), dtype);
                segment.v = segment.v.take().map(|v| stored(v, dtype));
            }
            self.dtype = dtype;
        }
        self
    }

    /// How they are stored. Queries attend to what is stored, those of the same call, too: so one text has the same outputs
    /// in one call and in several.
    pub fn dtype(&self) -> KvDtype {
        self.dtype
    }

    /// The number of cached tokens of sequence `b`.
    pub fn rows(&self, b: usize) -> usize {
        self.sequences[b].rows
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.sequences.iter().all(|sequence| sequence.rows == 0)
    }

    /// The number of bytes allocated, including unused capacity.
    pub fn bytes(&self) -> usize {
        let segments = self.sequences.iter().flat_map(|sequence| &sequence.segments);
        let elements = |x: &Tensor<4>| x.shape().num_elements();
        let elements = segments.map(|segment| elements(&segment.k) + segment.v.as_ref().map_or(0, elements));
        self.dtype.bytes() * elements.sum::<usize>()
    }

    /// Appends `k: [1, n, G, D]` and `v: [1, n, G, E]` to sequence `b`.
    pub fn push(&mut self, b: usize, k: Tensor<4>, v: Tensor<4>) {
        if k.dims()[1] > 0 {
            self.sequences[b].push((k, (self.values == Values::Own).then_some(v)), self.dtype);
        }
    }

    /// Appends `k: [1, n, G, D]` to sequence `b` of a cache that stores no values.
    pub fn push_keys(&mut self, b: usize, k: Tensor<4>) {
        if k.dims()[1] > 0 {
            self.sequences[b].push((k, None), self.dtype);
        }
    }

    /// Keeps the last `rows` tokens of every sequence.
    pub fn keep_last(&mut self, rows: usize) {
        self.kept = rows;
        self.sequences.iter_mut().for_each(|sequence| sequence.keep_last(rows));
    }

    /// Keeps the last `rows` tokens of sequence `b`.
    pub fn keep_last_of(&mut self, b: usize, rows: usize) {
        self.sequences[b].keep_last(rows);
    }

    /// The keys and values of sequence `b` as segments `[1, n, G, D]` and `[1, n, G, E]`, oldest first, as they are stored.
    /// There is at least one, which may be empty.
    pub fn segments(&self, b: usize) -> Vec<[Tensor<4>; 2]> {
        let segments = self.sequences[b].segments(self.empty[1].dims()[3]);
        if segments.is_empty() { vec![self.empty.clone().map(|x| stored(x, self.dtype))] } else { segments }
    }

    /// The keys and values of the sequences `rows`, in this order.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let sequences = rows.iter().map(|i| self.sequences[*i].clone()).collect();
        Self { sequences, empty: self.empty.clone(), ..*self }
    }

    /// Joins the sequences of several caches. Panics if there are none.
    #[must_use]
    pub fn join(caches: Vec<Self>) -> Self {
        let Self { kept, empty, values, dtype, .. } = &caches[0];
        assert!(caches.iter().all(|cache| cache.dtype == *dtype), "the caches store different types");
        let (kept, empty, values, dtype) = (*kept, empty.clone(), *values, *dtype);
        Self { sequences: caches.into_iter().flat_map(|cache| cache.sequences).collect(), kept, empty, values, dtype }
    }

    pub(super) fn map(self, f: &mut impl OnTensors) -> Self {
        let segment = |s: Segment, f: &mut _| Segment { k: tensor(f, s.k), v: s.v.map(|v| tensor(f, v)), rows: s.rows };
        let sequences = self.sequences.into_iter().map(|sequence| Sequence {
            segments: sequence.segments.into_iter().map(|s| segment(s, f)).collect(),
            ..sequence
        });
        Self { sequences: sequences.collect(), ..self }
    }

    /// The tensors of a single sequence, each in pieces.
    pub(super) fn tensors(&self, name: &str, to: &mut Vec<StateTensor>) {
        let segments = self.segments(0);
        let stored = if self.values == Values::Own { &["k", "v"][..] } else { &["k"] };
        for (part, suffix) in stored.iter().enumerate() {
            let pieces = segments.iter().map(|segment| segment[part].clone()).collect();
            to.push(StateTensor::pieces(format!("{name}.{suffix}"), pieces));
        }
    }

    /// Restores the last keys and values of a single sequence after `tokens` tokens. There may be fewer rows than
    /// tokens if a window has moved on.
    pub(super) fn restored(mut self, tokens: usize, name: &str, find: &mut Find<'_>) -> Result<Self, StateError> {
        let [k, v] = [0, 1].map(|part| {
            let [_, _, groups, width] = self.empty[part].dims();
            (format!("{name}.{}", ["k", "v"][part]), [Some(1), None, Some(groups), Some(width)])
        });
        let device = self.empty[0].device();
        // In f32, which holds every number of bf16: they are stored when they are appended.
        let mut read = |(name, shape): &(String, [Option<usize>; 4])| {
            Ok::<Tensor<4>, StateError>(Tensor::from_data(find(name, shape)?, (&device, DType::F32)))
        };
        let k = read(&k)?;
        if self.values != Values::Own {
            let rows = k.dims()[1];
            if rows > tokens {
                return Err(StateError(format!("`{name}.k` has {rows} rows: want at most {tokens}")));
            }
            self.push_keys(0, k);
            return Ok(self);
        }
        let v = read(&v)?;
        let [of_keys, of_values] = [&k, &v].map(|x| x.dims()[1]);
        if of_keys != of_values || of_keys > tokens {
            return Err(StateError(format!(
                "`{name}.k` has {of_keys} rows and `{name}.v` {of_values}: want equal numbers, at most {tokens}"
            )));
        }
        self.push(0, k, v);
        Ok(self)
    }
}

/// The tensor in the type that it is stored in.
fn stored(x: Tensor<4>, dtype: KvDtype) -> Tensor<4> {
    if x.dtype() == dtype.of_tensors() { x } else { x.cast(dtype.of_tensors()) }
}

/// Applies `f` to one tensor.
fn tensor(f: &mut impl OnTensors, x: Tensor<4>) -> Tensor<4> {
    f.tensor(x)
}
