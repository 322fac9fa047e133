//! The selective scan with its state.

use burn::tensor::Tensor;
use longreach_attention::diagonal::mamba as scan;
use longreach_simd::Cx;

use crate::Packed;
use crate::bridge::{Call, Inputs, Operator, Plain};

/// The inputs of [`mamba()`]: shapes as in [`longreach_attention::diagonal::mamba`].
#[derive(Clone, Debug)]
pub struct Mamba {
    /// `[B, T, D]`
    pub x: Tensor<3>,
    /// `[B, T, D]`, before softplus
    pub dt: Tensor<3>,
    /// `[D]`
    pub dt_bias: Tensor<1>,
    /// `[N, D]`, negative
    pub a: Tensor<2>,
    /// `[B, T, N]`
    pub b: Tensor<3>,
    /// `[B, T, N]`
    pub c: Tensor<3>,
    /// `[D]`
    pub d: Tensor<1>,
    /// `[B, T, D]`
    pub z: Tensor<3>,
    /// `[B, N, D]`
    pub state: Tensor<3>,
}

/// The gated output `[B, T, D]`, and the state after the last token.
pub fn mamba(x: Mamba) -> (Tensor<3>, Tensor<3>) {
    x.packed(&Packed::ROWS)
}

impl Mamba {
    /// As [`mamba()`], for sequences that may be packed in one row; the state has a row for each.
    pub fn packed(self, sequences: &Packed) -> (Tensor<3>, Tensor<3>) {
        let call = Call::new().with(self.x).with(self.dt).with(self.dt_bias).with(self.a).with(self.b).with(self.c);
        let mut out = call.with(self.d).with(self.z).with(self.state).run(Scan(sequences.clone()));
        (out.output(), out.output())
    }
}

#[derive(Debug)]
struct Scan(Packed);

const STATE: usize = 8;

impl Scan {
    fn inputs<'a>(&'a self, x: &'a Inputs) -> scan::Inputs<'a> {
        scan::Inputs {
            x: x.view(0),
            dt: x.view(1),
            dt_bias: x.view(2),
            a: x.view(3),
            b: x.view(4),
            c: x.view(5),
            d: x.view(6),
            z: Some(x.view(7)),
            sequences: self.0.sequences(),
        }
    }
}

impl Operator for Scan {
    fn name(&self) -> &str {
        "mamba"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let mut state = inputs.take(STATE);
        let mut y = Plain::unwritten(inputs.shape(0));
        scan::recurrent_into(&self.inputs(inputs), state.view_mut(), &mut y.data, cx).unwrap_or_else(|e| panic!("{e}"));
        vec![y, state]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let g = scan::backward(&self.inputs(inputs), inputs.view(STATE), d_out[0].view(), d_out[1].view(), cx)
            .unwrap_or_else(|e| panic!("{e}"));
        vec![
            Plain::array(g.x),
            Plain::array(g.dt),
            Plain::array(g.dt_bias),
            Plain::array(g.a),
            Plain::array(g.b),
            Plain::array(g.c),
            Plain::array(g.d),
            Plain::array(g.z),
            Plain::array(g.state),
        ]
    }
}
