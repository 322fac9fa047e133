//! The attention of the Compressive Transformer: rows evicted from the memory are compressed and remain visible. Rae
//! et al. 2020.
//!
//! The text is cut into segments, independently of how it is split across calls. A query attends to compressed
//! memories, to the memory, and to its own segment, with content and relative-position scores as in Transformer-XL.
//! At the end of a segment the oldest rows leave the memory, and every `rate` of them become one compressed row. A
//! compressing convolution is trained by the attention-reconstruction loss, the difference between attention to the
//! original rows and to the compressed ones. It is added to the loss and has no gradient to any other parameter.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_attention::softmax::Patterned;
use longreach_attention::softmax::dense::Dense;
use longreach_burn as ops;

use super::transformer_xl::{ByDistance, LONGEST};
use super::{Mix, Shared, parts};
use crate::linear::Bias;
use crate::{Builder, Error, Linear, State};

/// How `rate` rows are compressed to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compressed {
    /// By a convolution whose kernel size equals its stride.
    Conv,
    /// By their mean.
    Mean,
    /// By the maximum of each channel.
    Max,
}

/// The sizes and options of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct CompressiveConfig {
    /// `d`: width of the model; even.
    pub hidden: usize,
    /// The number of heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The number of tokens of a segment.
    pub segment: usize,
    /// The number of tokens of the memory.
    pub memory: usize,
    /// The maximum number of compressed rows.
    pub compressed: usize,
    /// `c`: the number of rows compressed to one; divides `segment` and `memory`.
    pub rate: usize,
    /// The compression function.
    pub how: Compressed,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Compressive {
    attention: ByDistance,
    compress: Option<Linear>,
    #[module(skip)]
    config: CompressiveConfig,
}

impl Compressive {
    /// Builds the mixer under the builder's scope. Errors if a size is out of range or no multiple of the rate.
    pub fn new(b: &mut Builder, c: &CompressiveConfig) -> Result<Self, Error> {
        let CompressiveConfig { segment, memory, compressed, rate, .. } = *c;
        for (name, least, found) in
            [("segment", 1, segment), ("memory", 0, memory), ("compressed", 1, compressed), ("rate", 1, rate)]
        {
            if !(least..=LONGEST).contains(&found) {
                return Err(b.error(format!("`{name}` of {found}: want {least} to {LONGEST}")));
            }
        }
        if !segment.is_multiple_of(rate) || !memory.is_multiple_of(rate) {
            let found = format!("a segment of {segment} and a memory of {memory} tokens");
            return Err(b.error(format!("{found}: want multiples of the compression rate, {rate}")));
        }
        let conv = |b: &mut Builder| Linear::new(b, "compress", rate * c.hidden, c.hidden, Bias::Yes);
        Ok(Self {
            attention: ByDistance::new(b, [c.hidden, c.heads, c.head_dim], None, None)?,
            compress: if c.how == Compressed::Conv { Some(conv(b)?) } else { None },
            config: c.clone(),
        })
    }

    /// Rows `[B, n, d]` → `[B, n / rate, d]`
    fn compressed(&self, rows: Tensor<3>) -> Tensor<3> {
        let (rate, [batch, n, d]) = (self.config.rate, rows.dims());
        match (&self.compress, self.config.how) {
            (Some(conv), _) => conv.forward(rows.reshape([batch, n / rate, rate * d])),
            (None, Compressed::Max) => {
                rows.reshape([batch, n / rate, rate, d]).max_dim(2).reshape([batch, n / rate, d])
            }
            (None, _) => rows.reshape([batch, n / rate, rate, d]).mean_dim(2).reshape([batch, n / rate, d]),
        }
    }

    /// Adds the attention-reconstruction loss if the compressing convolution is being trained.
    fn reconstruct(&self, old: &Tensor<3>, new: Tensor<3>, shared: &mut Shared) {
        if self.compress.is_none() || !old.is_autodiff() {
            return;
        }
        let old = old.clone().detach();
        let [q, ..] = self.attention.given(new.detach());
        let attend = |rows: Tensor<3>| {
            let [_, k, v] = self.attention.given(rows);
            let mechanism = Arc::new(Patterned::new(Dense { causal: false }));
            let options = ops::AttentionOptions::shared(mechanism, self.config.head_dim);
            ops::attention(ops::Attention { q: q.clone(), k, v, bias: None, sinks: None, options }).0
        };
        let apart = attend(old.clone()).detach() - attend(self.compressed(old));
        let loss = (apart.clone() * apart).mean();
        shared.loss = Some(match shared.loss.take() {
            Some(sum) => sum + loss,
            None => loss,
        });
    }
}

impl Mix for Compressive {
    /// `recent` has the rows of the memory followed by those of the current segment.
    fn start(&self, batch: usize, device: &Device) -> State {
        let c = &self.config;
        let state = State::new(batch).with_rows("recent", [c.memory + c.segment, c.hidden], device);
        state.with_rows("compressed", [c.compressed, c.hidden], device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let t = x.dims()[1];
        if state.positions().iter().any(|seen| *seen != state.positions()[0]) {
            return parts::one_by_one(x, state, |x, state| self.forward(x, state, shared));
        }
        let c = &self.config;
        let (mut rows, mut compressed): (Tensor<3>, Tensor<3>) = (state.take("recent"), state.take("compressed"));
        let (mut seen, mut at, mut out) = (state.positions().first().copied().unwrap_or(0), 0, Vec::new());
        while at < t {
            let under_way = seen % c.segment;
            let n = (t - at).min(c.segment - under_way);
            let before = seen - under_way;
            let memory = before.min(c.memory);
            let older = ((before - memory) / c.rate).min(c.compressed);
            let new = x.clone().narrow(1, at, n);
            let (last, held) = (under_way + memory, c.memory + c.segment);
            let mut seen_rows = Vec::new();
            if older > 0 {
                seen_rows.push(compressed.clone().narrow(1, c.compressed - older, older));
            }
            if last > 0 {
                seen_rows.push(rows.clone().narrow(1, held - last, last));
            }
            seen_rows.push(new.clone());
            out.push(self.attention.forward(Tensor::cat(seen_rows, 1), older + last, None));
            rows = Tensor::cat(vec![rows, new.clone()], 1).narrow(1, n, held);
            (seen, at) = (seen + n, at + n);
            if seen.is_multiple_of(c.segment) {
                // The first rows have left the memory; fewer while the memory is not full.
                let left = (seen - seen.min(c.memory)).min(c.segment);
                if left > 0 {
                    let old = rows.clone().narrow(1, c.segment - left, left);
                    self.reconstruct(&old, new, shared);
                    let all = Tensor::cat(vec![compressed, self.compressed(old)], 1);
                    compressed = all.narrow(1, left / c.rate, c.compressed);
                }
            }
        }
        state.put("recent", rows);
        state.put("compressed", compressed);
        Tensor::cat(out, 1)
    }
}
