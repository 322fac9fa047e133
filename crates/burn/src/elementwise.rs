//! Fused element-wise operations.

use burn::tensor::Tensor;
use longreach_simd::activation::Activation;
use longreach_simd::norm::Rows;
use longreach_simd::{Cx, Kernel, Lanes, math};

use crate::bridge::{Call, Inputs, Operator, Plain};

/// `silu(x) ⊙ y`: the gate of SwiGLU (Shazeer, 2020), and of every block with a `z`.
pub fn silu_times<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
    Call::new().with(x).with(y).run(SiluTimes).output()
}

/// `−eˣ`: the matrix A of a state-space model from its logarithm.
pub fn neg_exp<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Call::new().with(x).run(NegExp).output()
}

/// `f(x)`, elementwise; in place if `x` has no other owner.
pub fn activate<const D: usize>(x: Tensor<D>, f: Activation) -> Tensor<D> {
    Call::new().with(x).run(Activate(f)).output()
}

/// `f(a) ⊙ b` for `x = [a | b]` along its last axis: `[.., 2 n]` → `[.., n]`. Shazeer 2020. Panics if the last axis
/// is odd.
pub fn gated<const D: usize>(x: Tensor<D>, f: Activation) -> Tensor<D> {
    assert!(x.dims()[D - 1].is_multiple_of(2), "gated: the last axis of {:?} is odd", x.dims());
    Call::new().with(x).run(Gated(f)).output()
}

/// `x + y`, in place of `x` if it has no other owner. Panics unless the shapes agree.
pub fn add<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
    assert_eq!(x.dims(), y.dims(), "add");
    Call::new().with(x).with(y).run(Add).output()
}

#[derive(Debug)]
pub(crate) struct Activate(pub(crate) Activation);

impl Operator for Activate {
    fn name(&self) -> &str {
        "activate"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let mut x = inputs.take(0);
        self.0.apply(cx, &mut x.data);
        vec![x]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let mut dx = inputs.contiguous(0).into_owned();
        self.0.slope_times(cx, &mut dx, &d_out[0].data);
        vec![Plain::new(inputs.shape(0), dx)]
    }
}

#[derive(Debug)]
pub(crate) struct Gated(pub(crate) Activation);

impl Operator for Gated {
    fn name(&self) -> &str {
        "gated"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        inputs.make_rows(0);
        let mut shape = inputs.shape(0);
        shape.last_mut().into_iter().for_each(|width| *width /= 2);
        let mut out = Plain::unwritten(shape);
        self.0.gated(cx, inputs.rows(0), &mut out.data);
        vec![out]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let (x, shape) = (inputs.contiguous(0), inputs.shape(0));
        let mut dx = vec![0.0; x.len()];
        let width = shape.last().copied().unwrap_or(0);
        self.0.gated_backward(cx, Rows::contiguous(&x, width), &d_out[0].data, &mut dx);
        vec![Plain::new(shape, dx)]
    }
}

#[derive(Debug)]
pub(crate) struct Add;

/// Elements per task.
const GRAIN: usize = 64 * 1024;

impl Operator for Add {
    fn name(&self) -> &str {
        "add"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let mut x = inputs.take(0);
        let y = inputs.contiguous(1);
        let parts = x.data.chunks_mut(GRAIN).zip(y.chunks(GRAIN));
        cx.team.for_each(parts, |(x, y)| cx.isa.run(AddPart { x, y }));
        vec![x]
    }

    fn backward(&self, _: &Inputs, d_out: &[Plain], _: &Cx) -> Vec<Plain> {
        vec![d_out[0].clone(), d_out[0].clone()]
    }
}

struct AddPart<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for AddPart<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        math::axpy(s, 1.0, self.y, self.x);
    }
}

#[derive(Debug)]
pub(crate) struct SiluTimes;

impl Operator for SiluTimes {
    fn name(&self) -> &str {
        "silu_times"
    }

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
pub(crate) struct NegExp;

impl Operator for NegExp {
    fn name(&self) -> &str {
        "neg_exp"
    }

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
