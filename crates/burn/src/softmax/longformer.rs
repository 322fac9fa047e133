//! Longformer with separate projections for global tokens.

use std::sync::Arc;

use burn::tensor::Tensor;
use longreach_attention::softmax::longformer::{self, Global, Longformer};
use longreach_attention::softmax::{self, Cotangent, Output};
use longreach_simd::Cx;
use ndarray::Array2;

use super::{outputs, saved_output};
use crate::bridge::{Call, Inputs, Operator, Plain};

/// The inputs of [`longformer_attention`]. If global tokens share the projections of the others, use
/// [`attention`](super::attention()).
#[derive(Clone, Debug)]
pub struct LongformerAttention {
    /// `[B, T, H, D]`, `[B, T, G, D]`, `[B, T, G, E]`
    pub qkv: [Tensor<4>; 3],
    /// Queries, keys and values from the projections of global tokens.
    pub global: [Tensor<4>; 3],
    /// The window and the global tokens.
    pub pattern: Arc<Longformer>,
    /// The factor of the scores.
    pub scale: f32,
    /// Which tokens are not padding, `[B, T]`
    pub keep: Option<Array2<bool>>,
}

/// The output `[B, T, H, E]`, and the log-sum-exp `[B, T, H]`.
pub fn longformer_attention(x: LongformerAttention) -> (Tensor<4>, Tensor<3>) {
    let LongformerAttention { qkv, global, pattern, scale, keep } = x;
    let call = qkv.into_iter().chain(global).fold(Call::new(), Call::with);
    let mut out = call.run(Op { pattern, scale, keep });
    (out.output(), out.output())
}

#[derive(Debug)]
struct Op {
    pattern: Arc<Longformer>,
    scale: f32,
    keep: Option<Array2<bool>>,
}

impl Op {
    fn inputs<'a>(&'a self, x: &'a Inputs) -> (softmax::Inputs<'a>, Global<'a>) {
        let keep = self.keep.as_ref().map(|keep| keep.view());
        let local = softmax::Inputs { keep, ..softmax::Inputs::scaled(x.view(0), x.view(1), x.view(2), self.scale) };
        (local, Global { q: x.view(3), k: x.view(4), v: x.view(5) })
    }

    fn run(&self, x: &Inputs, cx: &Cx) -> Output {
        let (local, global) = self.inputs(x);
        longformer::chunk(&local, &global, &self.pattern, cx).unwrap_or_else(|e| panic!("{e}"))
    }
}

impl Operator for Op {
    fn name(&self) -> &str {
        "longformer_attention"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        outputs(self.run(inputs, cx))
    }

    fn saves(&self) -> Vec<usize> {
        vec![0, 1]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let (local, global) = self.inputs(inputs);
        let d = Cotangent { out: d_out[0].view(), lse: Some(d_out[1].view()) };
        let g = longformer::backward(&local, &global, &self.pattern, saved_output(inputs), &d, cx)
            .unwrap_or_else(|e| panic!("{e}"));
        [g.local, g.global].into_iter().flat_map(|g| [g.q, g.k, g.v]).map(Plain::array).collect()
    }
}
