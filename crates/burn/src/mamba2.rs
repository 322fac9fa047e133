//! The scan of Mamba-2 with its state.

use burn::tensor::{Shape, Tensor};
use longreach_attention::Sequences;
use longreach_attention::linear::mamba2 as scan;
use longreach_simd::Cx;

use crate::bridge::{Call, Inputs, Operator, Plain};

/// The inputs of [`mamba2()`]: shapes as in [`longreach_attention::linear::mamba2`].
#[derive(Clone, Debug)]
pub struct Mamba2 {
    /// `[B, T, H P]`: the heads are contiguous
    pub x: Tensor<3>,
    /// `[B, T, H]`, before softplus
    pub dt: Tensor<3>,
    /// `[H]`
    pub dt_bias: Tensor<1>,
    /// Bounds of the step size after softplus.
    pub dt_limit: (f32, f32),
    /// `[H]`, negative
    pub a: Tensor<1>,
    /// `[B, T, G N]`: the groups are contiguous
    pub b: Tensor<3>,
    /// `[B, T, G N]`
    pub c: Tensor<3>,
    /// `G`
    pub groups: usize,
    /// `[H]`
    pub d: Tensor<1>,
    /// `[B, H, N, P]`
    pub state: Tensor<4>,
    /// The form of the forward scan.
    pub form: Mamba2Form,
}

/// The two forms of the forward scan over many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mamba2Form {
    /// Token by token, with the state in registers.
    Recurrent,
    /// Chunks of tokens, as matrix products.
    Chunk,
}

/// The output `[B, T, H P]`, and the state after the last token.
pub fn mamba2(x: Mamba2) -> (Tensor<3>, Tensor<4>) {
    let heads = x.state.dims()[1];
    let call = Call::new().with(x.x).with(x.dt).with(x.dt_bias).with(x.a).with(x.b).with(x.c).with(x.d);
    let mut out = call.with(x.state).run(Scan { dt_limit: x.dt_limit, form: x.form, heads, groups: x.groups });
    (out.output(), out.output())
}

#[derive(Debug)]
struct Scan {
    dt_limit: (f32, f32),
    form: Mamba2Form,
    heads: usize,
    groups: usize,
}

const STATE: usize = 7;

impl Scan {
    fn inputs<'a>(&self, x: &'a Inputs) -> scan::Inputs<'a> {
        scan::Inputs {
            x: x.view_split(0, self.heads),
            dt: x.view(1),
            dt_bias: x.view(2),
            dt_limit: self.dt_limit,
            a: x.view(3),
            b: x.view_split(4, self.groups),
            c: x.view_split(5, self.groups),
            d: x.view(6),
            sequences: Sequences::Batch,
        }
    }
}

impl Operator for Scan {
    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let mut state = inputs.take(STATE);
        let mut y = Plain::unwritten(inputs.shape(0));
        let x = self.inputs(inputs);
        match self.form {
            Mamba2Form::Recurrent if y.shape[1] == 1 => scan::step_into(&x, state.view_mut(), &mut y.data, cx),
            Mamba2Form::Recurrent => scan::recurrent_into(&x, state.view_mut(), &mut y.data, cx),
            Mamba2Form::Chunk => scan::chunk_into(&x, state.view_mut(), &mut y.data, cx),
        }
        .unwrap_or_else(|e| panic!("{e}"));
        vec![y, state]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let [b, t, width] = d_out[0].shape[..] else { panic!("an output [B, T, H P]") };
        let dy = ndarray::ArrayView::from_shape((b, t, self.heads, width / self.heads), &d_out[0].data);
        let dy = dy.expect("heads divide the output");
        let g = scan::backward(&self.inputs(inputs), inputs.view(STATE), dy, d_out[1].view(), cx)
            .unwrap_or_else(|e| panic!("{e}"));
        vec![
            Plain::new(inputs.shape(0), Plain::array(g.x).data),
            Plain::array(g.dt),
            Plain::array(g.dt_bias),
            Plain::array(g.a),
            Plain::new(inputs.shape(4), Plain::array(g.b).data),
            Plain::new(inputs.shape(5), Plain::array(g.c).data),
            Plain::array(g.d),
            Plain::array(g.state),
        ]
    }

    fn output_shapes(&self, inputs: &[Shape]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec(), inputs[STATE].to_vec()]
    }
}
