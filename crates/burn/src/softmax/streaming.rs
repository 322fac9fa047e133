//! Attention sinks and a rolling window, with positions within the cache.

use burn::tensor::Tensor;
use longreach_attention::softmax::streaming::{self, Rolling, Streaming};
use longreach_attention::softmax::{self, Cotangent, Output, Segment};
use longreach_simd::Cx;

use super::{Kept, held, outputs};
use crate::bridge::{Call, Held, Inputs, Operator, Plain};
use crate::device::is_on_host;
use crate::q8::{as_wide_as, widened};

/// The inputs of [`streaming_attention`]: see [`Rolling`].
#[derive(Clone, Debug)]
pub struct StreamingAttention {
    /// Queries rotated to their positions in the text, `[B, T, H, D]`
    pub q: Tensor<4>,
    /// Queries rotated to their positions in the cache, `[B, T, H, D]`
    pub far: Tensor<4>,
    /// The most recent keys and values in segments, ending with those of the queries.
    pub near: Vec<[Tensor<4>; 2]>,
    /// The keys and values of the first tokens.
    pub sinks: [Tensor<4>; 2],
    /// The numbers of sinks and of recent keys that a query attends to.
    pub streaming: Streaming,
    /// The position of the first query in the text.
    pub position: usize,
    /// The factor of the scores.
    pub scale: f32,
    /// The soft-cap of the scores.
    pub softcap: Option<f32>,
}

/// The output `[B, T, H, E]`, filled up with zeros where keys and values are Q8_0 blocks: see
/// [`cached_attention`](crate::cached_attention). Panics where [`streaming::chunk`] fails.
pub fn streaming_attention(x: StreamingAttention) -> Tensor<4> {
    let StreamingAttention { q, far, near, sinks, streaming, position, scale, softcap } = x;
    let hold = !q.is_autodiff() && is_on_host(&q);
    let [q, far] = [q, far].map(|q| as_wide_as(&sinks[0], q));
    let (earlier, near) = held(near, hold);
    let sinks = sinks.map(widened);
    let call = [q, far].into_iter().chain(near).chain(sinks).fold(Call::new(), Call::with);
    call.run(Op { streaming, position, scale, softcap, earlier, kept: Kept::default() }).output()
}

#[derive(Debug)]
struct Op {
    streaming: Streaming,
    position: usize,
    scale: f32,
    softcap: Option<f32>,
    /// Recent keys and values before those among the inputs.
    earlier: Vec<[Held; 2]>,
    kept: Kept<Output>,
}

impl Op {
    fn inputs<'a>(&self, x: &'a Inputs, earlier: &'a [[Segment<'a>; 2]]) -> Rolling<'a> {
        let near = softmax::Inputs::scaled(x.view(0), x.view(2), x.view(3), self.scale);
        let keys = near.k.dim().1 + earlier.iter().map(|[k, _]| k.shape()[1]).sum::<usize>();
        let offset = keys.saturating_sub(near.q.dim().1);
        let near = softmax::Inputs { earlier, offset, softcap: self.softcap, ..near };
        Rolling { near, far: x.view(1), k: x.view(4), v: x.view(5), position: self.position }
    }

    fn run(&self, x: &Inputs, cx: &Cx) -> Output {
        let earlier: Vec<_> = self.earlier.iter().map(|[k, v]| [k.segment(), v.segment()]).collect();
        streaming::chunk(&self.inputs(x, &earlier), &self.streaming, cx).unwrap_or_else(|e| panic!("{e}"))
    }
}

impl Operator for Op {
    fn name(&self) -> &str {
        "streaming_attention"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        self.kept.pass(self.run(inputs, cx), |output| outputs(output).into_iter().take(1).collect())
    }

    fn will_be_differentiated(&self, _: &[bool]) {
        self.kept.want();
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let output = self.kept.get(|| self.run(inputs, cx));
        let d = Cotangent { out: d_out[0].view(), lse: None };
        let g = streaming::backward(&self.inputs(inputs, &[]), &self.streaming, output.view(), &d, cx);
        let streaming::Gradients { near, far } = g.unwrap_or_else(|e| panic!("{e}"));
        [near.q, far.q, near.k, near.v, far.k, far.v].map(Plain::array).into()
    }
}
