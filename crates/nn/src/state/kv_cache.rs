//! The KV cache of an attention layer.

use burn::tensor::{DType, Device, Tensor};

use super::kv_dtype::{KvDtype, stored, stored_anew};
use super::rows::copied;
use super::sequence::{ALIGNED, MarkedSequence, New, Segment, Sequence};
use super::{Find, OnTensors, StateError, StateTensor};

/// The keys and values of each sequence of a batch.
///
/// Those of a sequence are a list of segments, of which only the last grows. Full segments do not change any more: a
/// clone shares them, and copies no more than the last segment when it appends to it. The sequences of a batch may have
/// different lengths.
#[derive(Clone, Debug)]
pub struct KvCache {
    sequences: Vec<Sequence>,
    /// Which tokens the last call of [`KvCache::keep_last`] or [`KvCache::keep_window`] kept.
    kept: Kept,
    /// Whether there is a row for each token, but for those at the beginning that are no longer kept.
    by_token: bool,
    /// `[1, 0, G, D]` and `[1, 0, G, E]`: the widths, and the device.
    empty: [Tensor<4>; 2],
    values: Values,
    dtype: KvDtype,
}

/// Which tokens a cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Last(usize),
    Window(usize),
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

/// What a cache was, to which [`KvCache::rewind`] takes it back.
#[derive(Clone, Debug)]
pub(super) struct KvMark(Vec<MarkedSequence>);

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
        match self.kept {
            Kept::Last(rows) if more > 0 => self.keep_last(rows),
            Kept::Window(past) if more > 0 => self.keep_window(past),
            _ => {}
        }
    }

    /// An empty cache of `batch` sequences; `(groups, d, e)` are the KV heads, the width of a key, and that of a
    /// value.
    pub fn new(batch: usize, (groups, d, e): (usize, usize, usize), device: &Device) -> Self {
        let empty = [d, e].map(|width| Tensor::zeros([1, 0, groups, width], device));
        let sequences = vec![Sequence::default(); batch];
        Self {
            sequences,
            kept: Kept::Last(usize::MAX),
            by_token: true,
            empty,
            values: Values::Own,
            dtype: KvDtype::F32,
        }
    }

    /// An empty cache of `batch` sequences with one KV head, keys of width `d`, and values that are their first `e`
    /// channels.
    pub fn latent(batch: usize, [d, e]: [usize; 2], device: &Device) -> Self {
        Self { values: Values::OfKeys, ..Self::new(batch, (1, d, e), device) }
    }

    /// An empty cache of `batch` sequences of keys alone, which stay in f32; `(groups, d)` are the KV heads and the width of a
    /// key.
    pub fn keys(batch: usize, (groups, d): (usize, usize), device: &Device) -> Self {
        Self { values: Values::None, by_token: false, ..Self::new(batch, (groups, d, d), device) }
    }

    /// The same cache, whose rows are those of some tokens only, such as the first of a text.
    #[must_use]
    pub(crate) fn of_some(self) -> Self {
        Self { by_token: false, ..self }
    }

    /// The same keys and values, stored in another type, unless they are keys alone.
    #[must_use]
    pub fn stored_as(mut self, dtype: KvDtype) -> Self {
        if dtype != self.dtype && self.values != Values::None {
            for segment in self.sequences.iter_mut().flat_map(|sequence| &mut sequence.segments) {
                let [d, e] = self.empty.each_ref().map(|x| x.dims()[3]);
                segment.k = stored_anew(segment.k.clone(), d, dtype);
                segment.v = segment.v.take().map(|v| stored_anew(v, e, dtype));
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
        self.dtype.of_tensors().size() * elements.sum::<usize>()
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
        self.kept = Kept::Last(rows);
        self.sequences.iter_mut().for_each(|sequence| sequence.keep_last(rows));
    }

    /// Keeps the last `past` tokens of every sequence, and those before them down to a multiple of 64 tokens of the text: where
    /// the first key is then depends on the text, and not on the calls in which it was read.
    pub fn keep_window(&mut self, past: usize) {
        self.kept = Kept::Window(past);
        self.sequences.iter_mut().for_each(|sequence| sequence.keep_window(past));
    }

    /// Keeps the last `rows` tokens of sequence `b`.
    pub fn keep_last_of(&mut self, b: usize, rows: usize) {
        self.sequences[b].keep_last(rows);
    }

    /// The keys and values of sequence `b` as segments `[1, n, G, D]` and `[1, n, G, E]`, oldest first, as they are stored:
    /// in Q8_0 rows are of words ([`longreach_burn::to_q8`]). There is at least one, which may be empty.
    pub fn segments(&self, b: usize) -> Vec<[Tensor<4>; 2]> {
        let segments = self.sequences[b].segments(self.dtype.elements(self.empty[1].dims()[3]));
        if segments.is_empty() { vec![self.empty.clone().map(|x| stored(x, self.dtype))] } else { segments }
    }

    /// What attention to these segments returns, `[B, T, H, E]`, without the channels of values that blocks are filled up with.
    pub(crate) fn cut(&self, out: Tensor<4>) -> Tensor<4> {
        let width = self.empty[1].dims()[3];
        if out.dims()[3] == width { out } else { out.narrow(3, 0, width) }
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
        let Self { kept, by_token, empty, values, dtype, .. } = &caches[0];
        assert!(caches.iter().all(|cache| cache.dtype == *dtype), "the caches store different types");
        let (kept, by_token, empty, values, dtype) = (*kept, *by_token, empty.clone(), *values, *dtype);
        let sequences = caches.into_iter().flat_map(|cache| cache.sequences).collect();
        Self { sequences, kept, by_token, empty, values, dtype }
    }

    /// How many tokens back its rows are kept, `usize::MAX` for all; `None` if there is no row for each token, or the first one is
    /// at no multiple of [`ALIGNED`].
    pub(super) fn reach(&self) -> Option<usize> {
        match self.kept {
            Kept::Last(usize::MAX) if self.by_token => Some(usize::MAX),
            Kept::Window(past) if self.by_token => Some(past),
            _ => None,
        }
    }

    /// Drops the rows of a single sequence, but for those behind the last multiple of [`ALIGNED`] tokens of the text.
    pub(super) fn clear_rows(&mut self) {
        if self.reach().is_none() {
            return;
        }
        let seen = self.sequences[0].seen;
        self.sequences[0].keep_last(seen % ALIGNED);
        let (rows, mut segments) = (self.sequences[0].rows, Vec::new());
        if rows > 0 {
            let all = self.segments(0);
            let part = |part: usize| Tensor::cat(all.iter().map(|segment| segment[part].clone()).collect(), 1);
            let v = (self.values == Values::Own).then(|| part(1));
            segments.push(Segment { k: part(0), v, rows });
        }
        self.sequences[0] = Sequence { segments, rows, seen, ..Sequence::default() };
    }

    /// A copy of [`ALIGNED`] rows of a single sequence from the token `first` on; `None` if they are not cached.
    pub(super) fn rows_of(&self, first: usize) -> Option<New> {
        let sequence = &self.sequences[0];
        let from = first.checked_sub(sequence.seen - sequence.rows)?;
        if from + ALIGNED > sequence.rows {
            return None;
        }
        let (mut before, mut pieces) = (0, Vec::new());
        for segment in self.segments(0) {
            let n = segment[0].dims()[1];
            let (start, end) = (from.max(before), (from + ALIGNED).min(before + n));
            if start < end {
                pieces.push(segment.map(|x| x.narrow(1, start - before, end - start)));
            }
            before += n;
        }
        let all = |part: usize| copied(Tensor::cat(pieces.iter().map(|piece| piece[part].clone()).collect(), 1));
        Some((all(0), (self.values == Values::Own).then(|| all(1))))
    }

    /// Puts rows of a single sequence before the others; they are stored as the cache stores its own.
    pub(super) fn adopt(&mut self, rows: New) {
        self.sequences[0].adopt(rows);
    }

    /// The shapes of [`ALIGNED`] rows of keys, and of values where they are stored.
    pub(super) fn shapes_of_rows(&self) -> ([usize; 4], Option<[usize; 4]>) {
        let [k, v] = self.empty.each_ref().map(|x| {
            let [_, _, groups, width] = x.dims();
            [1, ALIGNED, groups, self.dtype.elements(width)]
        });
        (k, (self.values == Values::Own).then_some(v))
    }

    /// The device and the type of what is stored.
    pub(super) fn kind(&self) -> (Device, DType) {
        (self.empty[0].device(), self.dtype.of_tensors())
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
            let width = self.dtype.elements(width);
            (format!("{name}.{}", ["k", "v"][part]), [Some(1), None, Some(groups), Some(width)])
        });
        let device = self.empty[0].device();
        // Blocks are kept as they are. Others are read in f32, which holds every number of bf16, and stored when they are appended.
        let blocks = self.dtype == KvDtype::Q8_0 && self.values != Values::None;
        let mut read = |(name, shape): &(String, [Option<usize>; 4])| {
            let data = find(name, shape)?;
            if blocks != (data.dtype() == DType::F16) {
                return Err(StateError(format!(
                    "`{name}` is in {:?}: want keys in {}",
                    data.dtype(),
                    self.dtype.name()
                )));
            }
            let dtype = if blocks { DType::F16 } else { DType::F32 };
            Ok::<Tensor<4>, StateError>(Tensor::from_data(data, (&device, dtype)))
        };
        let k = read(&k)?;
        if self.values != Values::Own {
            let rows = k.dims()[1];
            if rows > tokens {
                return Err(StateError(format!("`{name}.k` has {rows} rows: want at most {tokens}")));
            }
            self.append(k, None);
            self.sequences[0].seen = tokens;
            return Ok(self);
        }
        let v = read(&v)?;
        let [of_keys, of_values] = [&k, &v].map(|x| x.dims()[1]);
        if of_keys != of_values || of_keys > tokens {
            return Err(StateError(format!(
                "`{name}.k` has {of_keys} rows and `{name}.v` {of_values}: want equal numbers, at most {tokens}"
            )));
        }
        self.append(k, Some(v));
        self.sequences[0].seen = tokens;
        Ok(self)
    }

    /// Appends what was saved to a single sequence.
    fn append(&mut self, k: Tensor<4>, v: Option<Tensor<4>>) {
        if k.dims()[1] == 0 {
        } else if k.dtype() == DType::F16 {
            self.sequences[0].adopt((k, v));
        } else {
            self.sequences[0].push((k, v), self.dtype);
        }
    }
}

/// Applies `f` to one tensor.
fn tensor(f: &mut impl OnTensors, x: Tensor<4>) -> Tensor<4> {
    f.tensor(x)
}
