//! Fused element-wise operations.

use burn::tensor::Tensor;
use longreach_simd::{Cx, math};

use crate::bridge::{Call, Inputs, Operator, Plain};

/// `silu(x) ⊙ y`: the gate of SwiGLU (Shazeer, 2020), and of every block with a `z`.
pub fn silu_times<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
    Call::new().with(x).with(y).run(SiluTimes).output()
}

/// `−eˣ`: the matrix A of a state-space model from its logarithm.
pub fn neg_exp<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Call::new().with(x).run(NegExp).output()
}

#[derive(Debug)]
struct SiluTimes;

impl Operator for SiluTimes {
    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let mut x = Plain::new(inputs.shape(0), inputs.contiguous(0).into_owned());
        math::silu_times(cx, &mut x.data, &inputs.contiguous(1));
        vec![x]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let (x, y) = (inputs.contiguous(0), inputs.contiguous(1));
        let d = &d_out[0].data;
        let mut dx = x.to_vec();
        math::silu_slope_times(cx, &mut dx, d);
        math::multiply(cx, &mut dx, &y);
        let mut dy = x.into_owned();
        math::silu_times(cx, &mut dy, d);
        vec![Plain::new(inputs.shape(0), dx), Plain::new(inputs.shape(1), dy)]
    }
}

#[derive(Debug)]
struct NegExp;

impl Operator for NegExp {
    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let mut x = Plain::new(inputs.shape(0), inputs.contiguous(0).into_owned());
        math::neg_exp(cx, &mut x.data);
        vec![x]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let mut dx = inputs.contiguous(0).into_owned();
        math::neg_exp(cx, &mut dx);
        math::multiply(cx, &mut dx, &d_out[0].data);
        vec![Plain::new(inputs.shape(0), dx)]
    }
}
