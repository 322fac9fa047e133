//! The Hierarchical Memory Transformer around a decoder. He et al. 2025 (HMT), §3.
//!
//! The text is cut into segments. The decoder reads each segment separately, enclosed by the vector recalled for it:
//! `[p | sensory | segment | p]`. The output at the last position is the memory embedding of the segment, which is
//! pushed to a queue. The query that recalls memories for a segment is a summary of earlier tokens: the output at a
//! learned token after the decoder read `[m | tokens | m]`.
//!
//! The authors summarise the first half of the segment itself. Predictions of its first tokens then depend on later
//! tokens, and the recall for the last, incomplete segment depends on how much of it is present. Here the summary
//! covers the tokens *before* the segment instead: predictions are causal, and the result does not depend on how a
//! text is split across calls. While the queue is empty nothing is recalled, and the output is the decoder's.
//!
//! Recall is single-head attention whose values are the memory embeddings themselves
//! ([`longreach_attention::memory::hmt`]); their keys are computed once, when they are pushed to the queue.
//!
//! State of a sequence: a queue of `[N, width + d]`, the ids of the last tokens, and the decoder's own state within the segment.
//! The cost per token is that of the decoder times `1 + (summary + sensory + 4) / segment`.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use longreach_attention::softmax::Patterned;
use longreach_attention::softmax::dense::Dense;
use longreach_burn as ops;

use crate::mixers::Shared;
use crate::state::{Find, lookup};
use crate::{Builder, Cache, Decoder, Error, Init, Layout, OnTensors, Precision, StateError, StateTensor};

/// The sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HmtConfig {
    /// The number of tokens of a segment.
    pub segment: usize,
    /// The number of tokens before the segment that the decoder reads again.
    pub sensory: usize,
    /// The number of tokens before the segment that are summarised.
    pub summary: usize,
    /// `N`: the capacity of the queue of memory embeddings; the oldest are evicted.
    pub queue: usize,
    /// The width of the queries and keys of the recall.
    pub width: usize,
}

/// The upper limit of each size.
const MOST: usize = 1 << 20;

impl HmtConfig {
    fn check(&self, b: &Builder) -> Result<(), Error> {
        let Self { segment, sensory, summary, queue, width } = *self;
        for (name, least, found) in [
            ("segment", 1, segment),
            ("sensory", 0, sensory),
            ("summary", 0, summary),
            ("queue", 1, queue),
            ("width", 1, width),
        ] {
            if !(least..=MOST).contains(&found) {
                return Err(b.error(format!("`{name}` of {found}: want {least} to {MOST}")));
            }
        }
        Ok(())
    }
}

/// The learned parameters.
#[derive(Module, Debug)]
pub struct Hmt {
    /// The token that ends a segment for which nothing was recalled, `[1, d]`
    memory: Param<Tensor<2>>,
    /// The token that encloses the tokens to summarise, `[1, d]`
    summary: Param<Tensor<2>>,
    /// `[d, width]`
    wq: Param<Tensor<2>>,
    /// `[d, width]`
    wk: Param<Tensor<2>>,
    #[module(skip)]
    config: HmtConfig,
}

/// The state between segments and within the current one, of each sequence.
#[derive(Clone, Debug)]
pub struct HmtState {
    rows: Vec<Row>,
    config: HmtConfig,
}

/// The state of one sequence.
#[derive(Clone, Debug)]
struct Row {
    /// The keys and values of the memory embeddings, `[1, n, 1, width]` and `[1, n, 1, d]`, oldest first.
    queue: [Tensor<4>; 2],
    /// The vector recalled for the current segment, `[1, 1, d]`
    prompt: Option<Tensor<3>>,
    /// The ids of the last tokens.
    tail: Vec<u32>,
    /// The number of tokens read.
    seen: usize,
    /// The number of tokens of the current segment, and the number of positions before them in the decoder's state.
    under_way: (usize, usize),
}

impl Hmt {
    /// Builds the memory under the builder's scope. Errors if a size is out of range.
    pub fn new(b: &mut Builder, d: usize, c: &HmtConfig) -> Result<Self, Error> {
        c.check(b)?;
        let matrix =
            |b: &mut Builder, name: &str, shape, init| b.param(name, shape, Layout::Same, Precision::Full, init);
        let near = Init::Normal((d as f32).powf(-0.5));
        Ok(Self {
            memory: matrix(b, "memory", [1, d], Init::Normal(0.02))?,
            summary: matrix(b, "summary", [1, d], Init::Normal(0.02))?,
            wq: matrix(b, "wq", [d, c.width], near)?,
            wk: matrix(b, "wk", [d, c.width], near)?,
            config: *c,
        })
    }

    pub(crate) fn start(&self, batch: usize, device: &Device) -> HmtState {
        let d = self.memory.val().dims()[1];
        let queue = [self.config.width, d].map(|width| Tensor::zeros([1, 0, 1, width], device));
        let row = Row { queue, prompt: None, tail: Vec::new(), seen: 0, under_way: (0, 0) };
        HmtState { rows: vec![row; batch], config: self.config }
    }

    /// Reads `ids`, contiguous rows of equal length → `[B, T, d]`.
    pub(crate) fn forward(&self, decoder: &Decoder, ids: &[u32], cache: &mut Cache) -> Tensor<3> {
        let batch = cache.batch;
        let t = ids.len() / batch.max(1);
        let Some(mut state) = cache.hmt.take() else { panic!("the cache belongs to another model") };
        if !state.in_step() {
            // The segments of the sequences end at different tokens.
            cache.hmt = Some(state);
            let mut rows: Vec<Cache> = (0..batch).map(|b| cache.select(&[b])).collect();
            let out = rows.iter_mut().zip(ids.chunks(t)).map(|(row, ids)| self.forward(decoder, ids, row)).collect();
            *cache = Cache::join(rows);
            return Tensor::cat(out, 0);
        }
        let (mut out, mut at) = (Vec::new(), 0);
        while at < t {
            if state.segment() == 0 {
                self.open(decoder, &mut state, cache);
            }
            let n = (t - at).min(self.config.segment - state.segment());
            let rows: Vec<&[u32]> = ids.chunks(t).map(|row| &row[at..at + n]).collect();
            out.push(decoder.through(decoder.embed(&rows.concat(), batch), cache, Shared::default()));
            state.read(&rows);
            at += n;
            if state.segment() == self.config.segment {
                self.close(decoder, &mut state, cache);
            }
        }
        cache.hmt = Some(state);
        Tensor::cat(out, 1)
    }

    /// A learned token, repeated for each sequence.
    fn token(&self, of: &Param<Tensor<2>>, batch: usize) -> Tensor<3> {
        of.val().unsqueeze::<3>().repeat_dim(0, batch)
    }

    /// Recalls memories and reads the tokens that precede a segment.
    fn open(&self, decoder: &Decoder, state: &mut HmtState, cache: &mut Cache) {
        let batch = cache.batch;
        let last = |state: &HmtState, n: usize| {
            let tails = state.rows.iter().map(|row| &row.tail);
            let ids: Vec<u32> = tails.flat_map(|tail| &tail[tail.len().saturating_sub(n)..]).copied().collect();
            (!ids.is_empty()).then(|| decoder.embed(&ids, batch))
        };
        let prompt = (state.memories() > 0).then(|| {
            let m = self.token(&self.summary, batch);
            let parts = [Some(m.clone()), last(state, self.config.summary), Some(m)];
            let read = Tensor::cat(parts.into_iter().flatten().collect(), 1);
            let n = read.dims()[1];
            cache.layers = decoder.start_layers(batch);
            let summary = decoder.through(read, cache, Shared::default()).narrow(1, n - 1, 1);
            let [k, v] =
                [0, 1].map(|part| Tensor::cat(state.rows.iter().map(|row| row.queue[part].clone()).collect(), 0));
            let mechanism = Arc::new(Patterned::new(Dense { causal: false }));
            let options = ops::AttentionOptions::shared(mechanism, self.config.width);
            let q = compared(summary, &self.wq);
            let [batch, _, _, d] = v.dims();
            ops::attention(ops::Attention { q, k, v, bias: None, sinks: None, options }).0.reshape([batch, 1, d])
        });
        cache.layers = decoder.start_layers(batch);
        let before: Vec<_> = [prompt.clone(), last(state, self.config.sensory)].into_iter().flatten().collect();
        let positions = before.iter().map(|x| x.dims()[1]).sum();
        for (b, row) in state.rows.iter_mut().enumerate() {
            row.prompt = prompt.as_ref().map(|prompt| prompt.clone().narrow(0, b, 1));
            row.under_way.1 = positions;
        }
        if !before.is_empty() {
            decoder.through(Tensor::cat(before, 1), cache, Shared::default());
        }
    }

    /// Reads the token that ends a segment and pushes its output to the queue.
    fn close(&self, decoder: &Decoder, state: &mut HmtState, cache: &mut Cache) {
        let batch = cache.batch;
        let prompts: Option<Vec<_>> = state.rows.iter_mut().map(|row| row.prompt.take()).collect();
        let last = match prompts {
            Some(prompts) if batch > 0 => Tensor::cat(prompts, 0),
            _ => self.token(&self.memory, batch),
        };
        let memory = decoder.through(last, cache, Shared::default());
        let new: [Tensor<4>; 2] = [compared(memory.clone(), &self.wk), memory.unsqueeze_dim(2)];
        for (b, row) in state.rows.iter_mut().enumerate() {
            let kept = row.queue[0].dims()[1].min(self.config.queue - 1);
            row.queue = [0, 1].map(|part| {
                let (before, new) = (row.queue[part].clone(), new[part].clone().narrow(0, b, 1));
                let n = before.dims()[1];
                if kept == 0 { new } else { Tensor::cat(vec![before.narrow(1, n - kept, kept), new], 1) }
            });
            row.under_way = (0, 0);
        }
        cache.layers = decoder.start_layers(batch);
    }
}

/// Projects `[B, 1, d]` to a query or key of a single head, `[B, 1, 1, width]`.
fn compared(x: Tensor<3>, by: &Param<Tensor<2>>) -> Tensor<4> {
    x.matmul(by.val().unsqueeze::<3>()).unsqueeze_dim(2)
}

impl HmtState {
    /// Whether all sequences have read equally many tokens.
    fn in_step(&self) -> bool {
        self.rows.windows(2).all(|w| w[0].seen == w[1].seen)
    }

    /// The number of tokens of the current segment, of sequences in step.
    fn segment(&self) -> usize {
        self.rows.first().map_or(0, |row| row.under_way.0)
    }

    /// The number of memories, of sequences in step.
    fn memories(&self) -> usize {
        self.rows.first().map_or(0, |row| row.queue[0].dims()[1])
    }

    fn read(&mut self, ids: &[&[u32]]) {
        let keep = self.config.sensory.max(self.config.summary);
        for (row, ids) in self.rows.iter_mut().zip(ids) {
            row.tail.extend(*ids);
            row.tail.drain(..row.tail.len().saturating_sub(keep));
            row.seen += ids.len();
            row.under_way.0 += ids.len();
        }
    }

    /// The size of the state in bytes.
    pub fn bytes(&self) -> usize {
        let row = |row: &Row| {
            let queue = row.queue.iter().map(|x| x.shape().num_elements()).sum::<usize>();
            queue + row.prompt.as_ref().map_or(0, |x| x.shape().num_elements()) + row.tail.len()
        };
        4 * self.rows.iter().map(row).sum::<usize>()
    }

    /// The number of tokens read of each sequence.
    pub(crate) fn positions(&self) -> Vec<usize> {
        self.rows.iter().map(|row| row.seen).collect()
    }

    /// The number of positions in the decoder's own state of a single sequence.
    pub(crate) fn within(&self) -> usize {
        self.rows.first().map_or(0, |row| row.under_way.0 + row.under_way.1)
    }

    pub(crate) fn select(&self, rows: &[usize]) -> Self {
        Self { rows: rows.iter().map(|i| self.rows[*i].clone()).collect(), config: self.config }
    }

    pub(crate) fn join(states: Vec<Self>) -> Self {
        let config = states[0].config;
        Self { rows: states.into_iter().flat_map(|state| state.rows).collect(), config }
    }

    pub(crate) fn map(self, f: &mut impl OnTensors) -> Self {
        let row =
            |row: Row| Row { queue: row.queue.map(|x| f.tensor(x)), prompt: row.prompt.map(|x| f.tensor(x)), ..row };
        Self { rows: self.rows.into_iter().map(row).collect(), ..self }
    }

    /// The tensors of a single sequence.
    pub(crate) fn tensors(&self) -> Vec<StateTensor> {
        let row = &self.rows[0];
        let [k, v] = row.queue.clone();
        let tail: Vec<f32> = row.tail.iter().map(|id| *id as f32).collect();
        let tail = Tensor::<1>::from_data(&tail[..], &k.device()).reshape([1, row.tail.len()]);
        let mut tensors = vec![
            StateTensor::of("hmt.queue_k".into(), k),
            StateTensor::of("hmt.queue_v".into(), v),
            StateTensor::of::<2>("hmt.tail".into(), tail),
        ];
        tensors.extend(row.prompt.as_ref().map(|x| StateTensor::of("hmt.prompt".into(), x.clone())));
        tensors
    }

    /// Restores the state of a single sequence.
    pub(crate) fn restored(self, tokens: usize, find: &mut Find<'_>) -> Result<Self, StateError> {
        let (c, [k, v]) = (self.config, &self.rows[0].queue);
        let (device, [.., width], [.., d]) = (v.device(), k.dims(), v.dims());
        let n = (tokens / c.segment).min(c.queue);
        let queue = [("hmt.queue_k", width), ("hmt.queue_v", d)];
        let mut matrix = |(name, width): (&str, usize)| {
            Ok::<_, StateError>(Tensor::from_data(lookup(name, &[1, n, 1, width], find)?, (&device, DType::F32)))
        };
        let queue: [Tensor<4>; 2] = [matrix(queue[0])?, matrix(queue[1])?];
        // If a segment has begun and the queue was not empty, a vector was recalled for it.
        let inside = tokens % c.segment;
        let prompt = match inside > 0 && n > 0 {
            true => Some(Tensor::from_data(lookup("hmt.prompt", &[1, 1, d], find)?, (&device, DType::F32))),
            false => None,
        };
        let kept = tokens.min(c.sensory.max(c.summary));
        let tail = lookup("hmt.tail", &[1, kept], find)?.iter::<f32>().map(|id| id as u32).collect();
        let before = usize::from(prompt.is_some()) + (tokens - inside).min(c.sensory);
        let under_way = if inside == 0 { (0, 0) } else { (inside, before) };
        Ok(Self { rows: vec![Row { queue, prompt, tail, seen: tokens, under_way }], config: c })
    }
}
