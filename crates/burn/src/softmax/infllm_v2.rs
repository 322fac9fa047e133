//! The selection of InfLLM v2, from summaries that a cache keeps. It is a constant in the gradient.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use longreach_attention::softmax::infllm_v2::{self, InfLlmV2, Summarised};
use longreach_attention::softmax::{Attend, Patterned};
use ndarray::ArrayView4;

use crate::bridge::Held;
use crate::context;
use crate::device::{cpu, is_on_host};

/// The inputs of [`infllm_v2_selection`].
#[derive(Clone, Debug)]
pub struct InfLlmV2Selection {
    /// Queries, `[B, T, H, D]`
    pub q: Tensor<4>,
    /// The [`infllm_v2_summaries`] of the keys up to the last query in segments `[B, n, G, D]`, oldest first.
    pub summaries: Vec<Tensor<4>>,
    /// The sizes of blocks and window.
    pub of: InfLlmV2,
    /// The factor of the scores.
    pub scale: f32,
    /// The position of the first query in the text.
    pub offset: usize,
}

/// Attention to the keys that the queries select, for queries at these positions. No gradient flows through the selection.
/// Panics where [`infllm_v2::select_from`] fails.
pub fn infllm_v2_selection(x: InfLlmV2Selection) -> Arc<dyn Attend> {
    let q = constant(x.q);
    let summaries: Vec<_> = x.summaries.into_iter().map(constant).collect();
    let summaries: Vec<_> = summaries.iter().map(Held::view).collect();
    let k = Summarised { summaries: &summaries, scale: x.scale, offset: x.offset };
    let selected = infllm_v2::select_from(q.view(), &k, &x.of, &context());
    Arc::new(Patterned::new(selected.unwrap_or_else(|e| panic!("{e}"))))
}

/// The means of the complete windows of keys `k: [B, S, G, D]`, `[B, n, G, D]`, without a gradient: see
/// [`infllm_v2::summaries`]. Panics where that fails.
pub fn infllm_v2_summaries(k: Tensor<4>, of: &InfLlmV2) -> Tensor<4> {
    let device = k.device();
    let k = constant(k);
    let k: ArrayView4<'_, f32> = k.view();
    let means = infllm_v2::summaries(k, of, &context()).unwrap_or_else(|e| panic!("{e}"));
    let shape = means.shape().to_vec();
    Tensor::from_data(TensorData::new(means.into_raw_vec_and_offset().0, shape), &device)
}

/// The values of a tensor on the host, without its graph.
fn constant(x: Tensor<4>) -> Held {
    let x = if x.device().is_autodiff() { x.inner() } else { x };
    let x = if is_on_host(&x) { x } else { x.to_device(&cpu()) };
    Held::new(x).expect("a tensor on the host that records no gradients")
}
