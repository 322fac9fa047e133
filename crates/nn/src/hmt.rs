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
//! State: a queue of `[N, width + d]`, the ids of the last tokens, and the decoder's own state within the segment.
//! The cost per token is that of the decoder times `1 + (summary + sensory + 4) / segment`.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use longreach_attention::softmax::Patterned;
use longreach_attention::softmax::dense::Dense;
use longreach_burn as ops;

use crate::cache::{Find, OnTensors, keys};
use crate::{Builder, Cache, Decoder, Error, Init, Keys, Layout, Precision};

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

/// The state between segments and within the current one.
#[derive(Clone, Debug)]
pub struct HmtState {
    /// Memory embeddings as values and their keys, `[B, n, 1, d]` and `[B, n, 1, width]`, oldest first. Evicted ones
    /// may precede them.
    queue: Keys,
    /// The vector recalled for the current segment, `[B, 1, d]`
    pub prompt: Option<Tensor<3>>,
    /// The ids of each sequence's last tokens.
    pub tail: Vec<Vec<u32>>,
    /// The number of tokens read.
    pub seen: usize,
    /// The number of tokens of the current segment, and the number of positions before them in the decoder's state.
    under_way: (usize, usize),
    config: HmtConfig,
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
        let queue = Keys::none(batch, (1, self.config.width, d), device);
        HmtState { queue, prompt: None, tail: vec![Vec::new(); batch], seen: 0, under_way: (0, 0), config: self.config }
    }

    /// Reads `ids`, contiguous rows of equal length → `[B, T, d]`.
    pub(crate) fn forward(&self, decoder: &Decoder, ids: &[u32], cache: &mut Cache) -> Tensor<3> {
        let Some(mut state) = cache.hmt.take() else { panic!("the cache belongs to another model") };
        let batch = cache.batch;
        let t = ids.len() / batch.max(1);
        let (mut out, mut at) = (Vec::new(), 0);
        while at < t {
            if state.under_way.0 == 0 {
                self.open(decoder, &mut state, cache);
            }
            let n = (t - at).min(self.config.segment - state.under_way.0);
            let rows: Vec<&[u32]> = ids.chunks(t).map(|row| &row[at..at + n]).collect();
            out.push(decoder.through(decoder.embed(&rows.concat(), batch), cache, None));
            state.read(&rows);
            at += n;
            if state.under_way.0 == self.config.segment {
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
        let last = |n: usize| {
            let rows: Vec<u32> =
                state.tail.iter().flat_map(|row| &row[row.len().saturating_sub(n)..]).copied().collect();
            (!rows.is_empty()).then(|| decoder.embed(&rows, batch))
        };
        state.prompt = (!state.queue.is_empty()).then(|| {
            let m = self.token(&self.summary, batch);
            let parts = [Some(m.clone()), last(self.config.summary), Some(m)];
            let read = Tensor::cat(parts.into_iter().flatten().collect(), 1);
            let n = read.dims()[1];
            cache.layers = decoder.start_layers(batch);
            let summary = decoder.through(read, cache, None).narrow(1, n - 1, 1);
            let [k, v] = state.held();
            let mechanism = Arc::new(Patterned::new(Dense { causal: false }));
            let options = ops::AttentionOptions::shared(mechanism, self.config.width);
            let q = compared(summary, &self.wq);
            let [batch, _, _, d] = v.dims();
            ops::attention(ops::Attention { q, k, v, bias: None, sinks: None, options }).0.reshape([batch, 1, d])
        });
        cache.layers = decoder.start_layers(batch);
        let before: Vec<_> = [state.prompt.clone(), last(self.config.sensory)].into_iter().flatten().collect();
        state.under_way.1 = before.iter().map(|x| x.dims()[1]).sum();
        if !before.is_empty() {
            decoder.through(Tensor::cat(before, 1), cache, None);
        }
    }

    /// Reads the token that ends a segment and pushes its output to the queue.
    fn close(&self, decoder: &Decoder, state: &mut HmtState, cache: &mut Cache) {
        let batch = cache.batch;
        let last = state.prompt.take().unwrap_or_else(|| self.token(&self.memory, batch));
        let memory = decoder.through(last, cache, None);
        let (key, value) = (compared(memory.clone(), &self.wk), memory.unsqueeze_dim(2));
        let queue = std::mem::replace(&mut state.queue, Keys::none(0, (1, 0, 0), &decoder.device()));
        state.queue = queue.with(key, value, None, self.config.queue - 1);
        state.under_way = (0, 0);
        cache.layers = decoder.start_layers(batch);
    }
}

/// Projects `[B, 1, d]` to a query or key of a single head, `[B, 1, 1, width]`.
fn compared(x: Tensor<3>, by: &Param<Tensor<2>>) -> Tensor<4> {
    x.matmul(by.val().unsqueeze::<3>()).unsqueeze_dim(2)
}

impl HmtState {
    fn read(&mut self, rows: &[&[u32]]) {
        let keep = self.config.sensory.max(self.config.summary);
        for (tail, row) in self.tail.iter_mut().zip(rows) {
            tail.extend(*row);
            tail.drain(..tail.len().saturating_sub(keep));
        }
        let n = rows.first().map_or(0, |row| row.len());
        self.seen += n;
        self.under_way.0 += n;
    }

    /// The keys and values of the memories that are not evicted.
    fn held(&self) -> [Tensor<4>; 2] {
        let n = self.queue.len();
        let over = n.saturating_sub(self.config.queue);
        self.queue.get().map(|x| if over == 0 { x } else { x.narrow(1, over, n - over) })
    }

    /// The size of the state in bytes.
    pub fn bytes(&self) -> usize {
        let prompt = self.prompt.as_ref().map_or(0, |x| x.shape().num_elements());
        4 * (self.queue.numbers() + prompt + self.tail.iter().map(Vec::len).sum::<usize>())
    }

    /// The number of positions in the decoder's own state.
    pub(crate) fn within(&self) -> usize {
        self.under_way.0 + self.under_way.1
    }

    pub(crate) fn map(self, f: &mut impl OnTensors) -> Self {
        Self { queue: self.queue.map(f), prompt: self.prompt.map(|x| f.tensor(x)), ..self }
    }

    pub(crate) fn tensors(&self) -> Vec<(String, TensorData)> {
        let tail: Vec<f32> = self.tail.iter().flatten().map(|id| *id as f32).collect();
        let [k, v] = self.held().map(Tensor::into_data);
        let mut tensors = vec![
            ("hmt.queue_k".into(), k),
            ("hmt.queue_v".into(), v),
            ("hmt.tail".into(), TensorData::new(tail, [self.tail.len(), self.tail.first().map_or(0, Vec::len)])),
        ];
        tensors.extend(self.prompt.as_ref().map(|x| ("hmt.prompt".into(), x.clone().into_data())));
        tensors
    }

    pub(crate) fn restored(self, tokens: usize, find: &mut Find<'_>) -> Result<Self, String> {
        let (c, v) = (self.config, self.queue.get()[1].clone());
        let (device, [batch, _, _, d]) = (v.device(), v.dims());
        let float = |data: TensorData| Tensor::<3>::from_data(data, &device);
        let queue = keys(&self.queue, ["hmt.queue_k", "hmt.queue_v"], c.queue, find)?;
        let (n, want) = (queue.len(), (tokens / c.segment).min(c.queue));
        if n != want {
            return Err(format!("`hmt.queue_k` has {n} memories: want {want} after {tokens} tokens"));
        }
        // If a segment has begun and the queue was not empty, a vector was recalled for it.
        let inside = tokens % c.segment;
        let prompt = match inside > 0 && n > 0 {
            true => Some(float(find("hmt.prompt", &[Some(batch), Some(1), Some(d)])?)),
            false => None,
        };
        let kept = tokens.min(c.sensory.max(c.summary));
        let tail = find("hmt.tail", &[Some(batch), Some(kept)])?;
        let ids: Vec<u32> = tail.iter::<f32>().map(|id| id as u32).collect();
        let tail = (0..batch).map(|i| ids[i * kept..(i + 1) * kept].to_vec()).collect();
        let before = usize::from(prompt.is_some()) + (tokens - inside).min(c.sensory);
        let under_way = if inside == 0 { (0, 0) } else { (inside, before) };
        Ok(Self { queue, prompt, tail, seen: tokens, under_way, config: c })
    }
}
