//! The Hierarchical Memory Transformer around any decoder. He et al. 2025 (HMT), §3.
//!
//! The text is cut into segments. The decoder reads each by itself, between what was recalled for it and the same again: `[p | sensory | segment | p]`. The
//! output behind the last of these is the segment's memory embedding, which joins a queue. What is recalled for a segment is found in the queue by a summary:
//! the output behind a learned token that the decoder reads after some tokens, `[m | tokens | m]`.
//!
//! The authors summarise the first half of the segment itself, so that its first tokens are predicted with a hint of what follows them, and what a text's last,
//! unfinished segment recalls depends on how much of it is there. Here the summary is of the tokens *before* the segment: nothing is predicted with what
//! follows it, and it does not matter where a text is cut. With nothing in the queue nothing is recalled, and the output is the decoder's.
//!
//! Recalling is attention of one head whose values are the memories themselves ([`longreach_attention::memory::hmt`]); what they are compared by is made once,
//! when they join the queue.
//!
//! State: a queue of `[N, width + d]`, the ids of the last tokens, and the decoder's own state within the segment. A token costs what the decoder makes of it, times
//! `1 + (summary + sensory + 4) / segment`.

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
    /// Tokens of a segment.
    pub segment: usize,
    /// How many tokens before the segment the decoder reads again.
    pub sensory: usize,
    /// How many tokens before the segment the summary is of.
    pub summary: usize,
    /// `N`: how many memory embeddings are kept; the oldest are given up.
    pub queue: usize,
    /// Channels in which summaries and memories are compared.
    pub width: usize,
}

/// The most any of the sizes may be.
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

/// What is learned.
#[derive(Module, Debug)]
pub struct Hmt {
    /// What closes a segment for which nothing was recalled, `[1, d]`
    memory: Param<Tensor<2>>,
    /// What opens and closes tokens that are summarised, `[1, d]`
    summary: Param<Tensor<2>>,
    /// `[d, width]`
    wq: Param<Tensor<2>>,
    /// `[d, width]`
    wk: Param<Tensor<2>>,
    #[module(skip)]
    config: HmtConfig,
}

/// What is remembered between segments and within one.
#[derive(Clone, Debug)]
pub struct HmtState {
    /// Memory embeddings, oldest first, `[B, n, 1, d]`, as values, and as keys what they are compared by; some that have been given up may stand before them.
    queue: Keys,
    /// What was recalled for the segment under way, `[B, 1, d]`
    pub prompt: Option<Tensor<3>>,
    /// The ids of each sequence's last tokens.
    pub tail: Vec<Vec<u32>>,
    /// How many tokens were read.
    pub seen: usize,
    /// How many of them are in the segment under way, and how many stand before them in the decoder's state.
    under_way: (usize, usize),
    config: HmtConfig,
}

impl Hmt {
    /// What is learned, under the builder's scope.
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

    /// Reads `ids`, rows of equal length → `[B, T, d]`.
    pub(crate) fn forward(&self, decoder: &Decoder, ids: &[u32], cache: &mut Cache) -> Tensor<3> {
        let Some(mut state) = cache.hmt.take() else { panic!("a cache made by another model") };
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

    /// A learned row for each sequence.
    fn token(&self, of: &Param<Tensor<2>>, batch: usize) -> Tensor<3> {
        of.val().unsqueeze::<3>().repeat_dim(0, batch)
    }

    /// What stands before a segment.
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

    /// What stands behind a segment, and joins the queue.
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

/// `[B, 1, d]` by a projection, as a head's `[B, 1, 1, width]`
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

    /// The keys and values of those memories that have not been given up.
    fn held(&self) -> [Tensor<4>; 2] {
        let n = self.queue.len();
        let over = n.saturating_sub(self.config.queue);
        self.queue.get().map(|x| if over == 0 { x } else { x.narrow(1, over, n - over) })
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        let prompt = self.prompt.as_ref().map_or(0, |x| x.shape().num_elements());
        4 * (self.queue.numbers() + prompt + self.tail.iter().map(Vec::len).sum::<usize>())
    }

    /// How many tokens the decoder's own state has read.
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
        // A segment that has begun has recalled something, if there was something to recall.
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
