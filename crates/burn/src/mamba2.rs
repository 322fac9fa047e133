//! The scan of Mamba-2 with its state.

use burn::tensor::Tensor;
use longreach_attention::Error;
use longreach_attention::linear::mamba2 as scan;
use longreach_simd::Cx;
use longreach_simd::product::STREAMED_ROWS;
use ndarray::{ArrayView, Axis, Dimension, Slice};

use crate::Packed;
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
    x.packed(&Packed::ROWS)
}

impl Mamba2 {
    /// As [`mamba2()`], for sequences that may be packed in one row; the state has a row for each.
    pub fn packed(self, sequences: &Packed) -> (Tensor<3>, Tensor<4>) {
        let (heads, sequences) = (self.state.dims()[1], sequences.clone());
        let call = Call::new().with(self.x).with(self.dt).with(self.dt_bias).with(self.a).with(self.b).with(self.c);
        let scan = Scan { dt_limit: self.dt_limit, form: self.form, heads, groups: self.groups, sequences };
        let mut out = call.with(self.d).with(self.state).run(scan);
        (out.output(), out.output())
    }
}

#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) dt_limit: (f32, f32),
    form: Mamba2Form,
    pub(crate) heads: usize,
    pub(crate) groups: usize,
    pub(crate) sequences: Packed,
}

pub(crate) const STATE: usize = 7;

impl Scan {
    fn inputs<'a>(&'a self, x: &'a Inputs) -> scan::Inputs<'a> {
        scan::Inputs {
            x: x.view_split(0, self.heads),
            dt: x.view(1),
            dt_bias: x.view(2),
            dt_limit: self.dt_limit,
            a: x.view(3),
            b: x.view_split(4, self.groups),
            c: x.view_split(5, self.groups),
            d: x.view(6),
            sequences: self.sequences.sequences(),
        }
    }
}

/// Token `t` of `[B, T, ..]`.
fn token<D: Dimension>(mut x: ArrayView<'_, f32, D>, t: usize) -> ArrayView<'_, f32, D> {
    x.slice_axis_inplace(Axis(1), Slice::from(t..t + 1));
    x
}

/// Few tokens, one after the other, which have the bits of a text that grows by one token at a time: see
/// docs/decisions/few-tokens-are-steps.md. `y: [B, T, H P]`
fn steps(x: &scan::Inputs<'_>, state: &mut Plain, y: &mut Plain, cx: &Cx) -> Result<(), Error> {
    let [batch, tokens, width] = y.shape[..] else { panic!("an output [B, T, H P]") };
    if tokens == 1 {
        return scan::step_into(x, state.view_mut(), &mut y.data, cx);
    }
    let mut out = vec![0.0; batch * width];
    for t in 0..tokens {
        let one = scan::Inputs { x: token(x.x, t), dt: token(x.dt, t), b: token(x.b, t), c: token(x.c, t), ..*x };
        scan::step_into(&one, state.view_mut(), &mut out, cx)?;
        for (to, out) in y.data.chunks_mut(tokens * width).zip(out.chunks(width)) {
            to[t * width..(t + 1) * width].copy_from_slice(out);
        }
    }
    Ok(())
}

impl Operator for Scan {
    fn name(&self) -> &str {
        "mamba2"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let mut state = inputs.take(STATE);
        let mut y = Plain::unwritten(inputs.shape(0));
        let x = self.inputs(inputs);
        match self.form {
            Mamba2Form::Recurrent if self.sequences == Packed::ROWS && y.shape[1] <= STREAMED_ROWS => {
                steps(&x, &mut state, &mut y, cx)
            }
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
}
