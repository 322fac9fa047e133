//! Native sparse attention.

use burn::tensor::Tensor;
use longreach_attention::softmax;
use longreach_attention::softmax::nsa::{self, Attended, Nsa};
use longreach_simd::Cx;

use super::Kept;
use crate::bridge::{Call, Inputs, Operator, Plain};

/// The inputs of [`nsa_attention`].
#[derive(Clone, Debug)]
pub struct NsaAttention {
    /// `[B, T, H, D]`
    pub q: Tensor<4>,
    /// `[B, S, G, D]`
    pub k: Tensor<4>,
    /// `[B, S, G, E]`
    pub v: Tensor<4>,
    /// The gates of the three branches, `[B, T, H, 3]`
    pub gates: Tensor<4>,
    /// The sizes of blocks and window.
    pub nsa: Nsa,
    /// The factor of the scores.
    pub scale: f32,
    /// The position of the first query among the keys.
    pub offset: usize,
}

/// The output `[B, T, H, E]`. Panics where [`nsa::chunk`] fails.
pub fn nsa_attention(x: NsaAttention) -> Tensor<4> {
    let NsaAttention { q, k, v, gates, nsa, scale, offset } = x;
    let op = Op { nsa, scale, offset, kept: Kept::default() };
    Call::new().with(q).with(k).with(v).with(gates).run(op).output()
}

#[derive(Debug)]
struct Op {
    nsa: Nsa,
    scale: f32,
    offset: usize,
    kept: Kept<Attended>,
}

impl Op {
    fn inputs<'a>(&self, x: &'a Inputs) -> softmax::Inputs<'a> {
        softmax::Inputs { offset: self.offset, ..softmax::Inputs::scaled(x.view(0), x.view(1), x.view(2), self.scale) }
    }

    fn run(&self, x: &Inputs, cx: &Cx) -> Attended {
        nsa::chunk(&self.inputs(x), x.view(3), &self.nsa, cx).unwrap_or_else(|e| panic!("{e}"))
    }
}

impl Operator for Op {
    fn name(&self) -> &str {
        "nsa_attention"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        self.kept.pass(self.run(inputs, cx), |attended| vec![Plain::array(attended.out)])
    }

    fn will_be_differentiated(&self, _: &[bool]) {
        self.kept.want();
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let attended = self.kept.get(|| self.run(inputs, cx));
        let x = self.inputs(inputs);
        let (g, gates) = nsa::backward(&x, inputs.view(3), &self.nsa, attended, d_out[0].view(), cx)
            .unwrap_or_else(|e| panic!("{e}"));
        [g.q, g.k, g.v, gates].map(Plain::array).into()
    }
}
