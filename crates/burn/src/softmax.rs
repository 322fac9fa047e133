//! Exact weights over chosen keys: every mechanism of the family that takes queries, keys and values.

use std::sync::{Arc, OnceLock};

use burn::tensor::{Shape, Tensor};
use longreach_attention::Sequences;
use longreach_attention::softmax::{self, Attend, Cotangent, Output};
use longreach_simd::Cx;
use ndarray::Array2;

use crate::bridge::{Call, Inputs, Operator, Plain};

/// The inputs of [`attention()`]: shapes as in [`softmax::Inputs`].
#[derive(Clone, Debug)]
pub struct Attention {
    /// `[B, T, H, D]`
    pub q: Tensor<4>,
    /// `[B, S, G, D]`
    pub k: Tensor<4>,
    /// `[B, S, G, E]`
    pub v: Tensor<4>,
    /// Added to the scores, `[B or 1, H or 1, T, S]`
    pub bias: Option<Tensor<4>>,
    /// A score a head that competes with the keys, `[H]`
    pub sinks: Option<Tensor<1>>,
    /// The rest.
    pub options: Options,
}

/// What is not a tensor of a call.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who sees whom.
    pub mechanism: Arc<dyn Attend>,
    /// The factor of the scores.
    pub scale: f32,
    /// The position of the first query among the keys.
    pub offset: usize,
    /// The soft-cap of the scores.
    pub softcap: Option<f32>,
    /// The slopes of ALiBi, `[H]`
    pub alibi: Option<Vec<f32>>,
    /// Which keys are there, `[B, S]`
    pub keep: Option<Array2<bool>>,
    /// The bounds of packed sequences.
    pub packed: Option<Vec<usize>>,
}

impl Options {
    /// A mechanism with scale `D^{-1/2}` for `width` channels a head, and nothing else.
    pub fn new(mechanism: impl Attend + 'static, width: usize) -> Self {
        Self {
            mechanism: Arc::new(mechanism),
            scale: (width as f32).powf(-0.5),
            offset: 0,
            softcap: None,
            alibi: None,
            keep: None,
            packed: None,
        }
    }
}

/// Fewer queries than this are better divided by their keys.
const FEW: usize = 8;

/// The output `[B, T, H, E]`, and the log-sum-exp `[B, T, H]`.
pub fn attention(x: Attention) -> (Tensor<4>, Tensor<3>) {
    let mut call = Call::new().with(x.q).with(x.k).with(x.v);
    let (bias, sinks) = (x.bias.is_some(), x.sinks.is_some());
    if let Some(bias) = x.bias {
        call = call.with(bias);
    }
    if let Some(sinks) = x.sinks {
        call = call.with(sinks);
    }
    let mut out = call.run(Softmax { options: x.options, bias, sinks, output: OnceLock::new() });
    (out.output(), out.output())
}

#[derive(Debug)]
struct Softmax {
    options: Options,
    bias: bool,
    sinks: bool,
    /// What the gradient needs.
    output: OnceLock<Output>,
}

impl Softmax {
    fn inputs<'a>(&'a self, x: &'a Inputs) -> softmax::Inputs<'a> {
        let Options { scale, offset, softcap, alibi, keep, packed, .. } = &self.options;
        softmax::Inputs {
            offset: *offset,
            softcap: *softcap,
            bias: self.bias.then(|| x.view(3)),
            alibi: alibi.as_ref().map(|slopes| slopes[..].into()),
            sinks: self.sinks.then(|| x.view(3 + usize::from(self.bias))),
            keep: keep.as_ref().map(|keep| keep.view()),
            sequences: packed.as_ref().map_or(Sequences::Batch, |bounds| Sequences::Packed(bounds)),
            ..softmax::Inputs::scaled(x.view(0), x.view(1), x.view(2), *scale)
        }
    }
}

impl Operator for Softmax {
    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let x = self.inputs(inputs);
        let mechanism = &self.options.mechanism;
        let output = if x.q.dim().1 < FEW { mechanism.step(&x, cx) } else { mechanism.chunk(&x, cx) };
        let output = output.unwrap_or_else(|e| panic!("{e}"));
        let outputs = vec![Plain::array(output.out.clone()), Plain::array(output.lse.clone())];
        let _ = self.output.set(output);
        outputs
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let x = self.inputs(inputs);
        let output = self.output.get_or_init(|| self.options.mechanism.chunk(&x, cx).unwrap_or_else(|e| panic!("{e}")));
        let d = Cotangent { out: d_out[0].view(), lse: Some(d_out[1].view()) };
        let g = self.options.mechanism.backward(&x, output, &d, cx).unwrap_or_else(|e| panic!("{e}"));
        let mut gradients = vec![Plain::array(g.q), Plain::array(g.k), Plain::array(g.v)];
        gradients.extend(g.bias.map(Plain::array));
        gradients.extend(g.sinks.map(Plain::array));
        gradients
    }

    fn output_shapes(&self, inputs: &[Shape]) -> Vec<Vec<usize>> {
        let (q, v) = (&inputs[0], &inputs[2]);
        vec![vec![q[0], q[1], q[2], v[3]], vec![q[0], q[1], q[2]]]
    }
}
