//! The short convolution with its state.

use burn::tensor::Tensor;
use longreach_attention::short_conv::{self, Activation};
use longreach_simd::Cx;

use crate::Packed;
use crate::bridge::{Call, Inputs, Operator, Plain};

/// The inputs of [`short_conv()`]: shapes as in [`longreach_attention::short_conv`].
#[derive(Clone, Debug)]
pub struct Conv {
    /// `[B, T, D]`
    pub x: Tensor<3>,
    /// `[W, D]`
    pub weight: Tensor<2>,
    /// `[D]`
    pub bias: Option<Tensor<1>>,
    /// `[B, W - 1, D]`
    pub state: Tensor<3>,
    /// The activation of the output.
    pub activation: Activation,
}

/// The convolution with its activation, and the state after the last token.
pub fn short_conv(x: Conv) -> (Tensor<3>, Tensor<3>) {
    x.packed(&Packed::ROWS)
}

impl Conv {
    /// As [`short_conv()`], for sequences that may be packed in one row; the state has a row for each.
    pub fn packed(self, sequences: &Packed) -> (Tensor<3>, Tensor<3>) {
        let call = Call::new().with(self.x).with(self.weight).with(self.state);
        let operator = ShortConv { activation: self.activation, sequences: sequences.clone() };
        let mut out = match self.bias {
            Some(bias) => call.with(bias).run(operator),
            None => call.run(operator),
        };
        (out.output(), out.output())
    }
}

#[derive(Debug)]
pub(crate) struct ShortConv {
    pub(crate) activation: Activation,
    pub(crate) sequences: Packed,
}

impl ShortConv {
    fn inputs<'a>(&'a self, x: &'a Inputs) -> short_conv::Inputs<'a> {
        short_conv::Inputs {
            x: x.view(0),
            w: x.view(1),
            bias: (x.len() > 3).then(|| x.view(3)),
            activation: self.activation,
            sequences: self.sequences.sequences(),
        }
    }
}

impl Operator for ShortConv {
    fn name(&self) -> &str {
        "short_conv"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let mut state = inputs.take(2);
        let mut y = Plain::unwritten(inputs.shape(0));
        short_conv::chunk_into(&self.inputs(inputs), state.view_mut(), &mut y.data, cx)
            .unwrap_or_else(|e| panic!("{e}"));
        vec![y, state]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let g = short_conv::backward(&self.inputs(inputs), inputs.view(2), d_out[0].view(), d_out[1].view(), cx)
            .unwrap_or_else(|e| panic!("{e}"));
        let mut gradients = vec![Plain::array(g.x), Plain::array(g.w), Plain::array(g.state)];
        if inputs.len() > 3 {
            gradients.push(Plain::array(g.bias));
        }
        gradients
    }
}
