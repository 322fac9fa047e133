//! Longformer with separate projections for global tokens.

use std::sync::Arc;

use burn::tensor::{Shape, Tensor};
use longreach_attention::softmax::longformer::{self, Global, Longformer};
use longreach_attention::softmax::{self, Cotangent, Output};
use longreach_simd::Cx;
use ndarray::Array2;

use super::{Kept, outputs};
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
    let mut out = call.run(Op { pattern, scale, keep, kept: Kept::default() });
    (out.output(), out.output())
}

#[derive(Debug)]
struct Op {
    pattern: Arc<Longformer>,
    scale: f32,
    keep: Option<Array2<bool>>,
    kept: Kept<Output>,
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
    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        self.kept.pass(self.run(inputs, cx), outputs)
    }

    fn will_be_differentiated(&self) {
        self.kept.want();
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let output = self.kept.get(|| self.run(inputs, cx));
        let (local, global) = self.inputs(inputs);
        let d = Cotangent { out: d_out[0].view(), lse: Some(d_out[1].view()) };
        let g = longformer::backward(&local, &global, &self.pattern, output.view(), &d, cx)
            .unwrap_or_else(|e| panic!("{e}"));
        [g.local, g.global].into_iter().flat_map(|g| [g.q, g.k, g.v]).map(Plain::array).collect()
    }

    fn output_shapes(&self, inputs: &[Shape]) -> Vec<Vec<usize>> {
        let (q, v) = (&inputs[0], &inputs[2]);
        vec![vec![q[0], q[1], q[2], v[3]], vec![q[0], q[1], q[2]]]
    }
}
