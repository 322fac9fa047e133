//! Every law for every mechanism, on every instruction set of this machine.

use longreach_simd::{Cx, Isa};
use longreach_testkit::{Tensor, laws};
use ndarray::{ArrayD, ArrayViewD, IxDyn};

mod channels;
mod corners;
mod goldens;
mod layouts;
mod mamba;
mod mamba2;
mod matrix;
mod memories;
mod operations;
mod peers;
mod rotary;
mod scan;
mod short_conv;
mod signatures;
mod softmax;
mod stateful;
mod streaming;
mod tree;
mod views;

fn contexts() -> Vec<Cx> {
    Isa::available().into_iter().rev().enumerate().map(|(i, isa)| Cx::with_isa(isa, 1 + i % 2)).collect()
}

fn prove(subject: &impl longreach_testkit::Subject<Cx = Cx>) {
    laws::all(subject, &contexts());
    laws::threads_agree(subject, &Cx::new(1), &Cx::new(3));
}

/// The array of a tensor in f32.
fn array(x: &Tensor) -> ArrayD<f32> {
    ArrayD::from_shape_vec(IxDyn(&x.shape), x.f32()).expect("shape and data agree")
}

fn exact(x: &Tensor) -> ArrayViewD<'_, f64> {
    ArrayViewD::from_shape(IxDyn(&x.shape), &x.data).expect("shape and data agree")
}

fn wide<'a>(x: impl IntoIterator<Item = &'a f32>) -> Vec<f64> {
    x.into_iter().map(|x| *x as f64).collect()
}

fn narrow(shape: &[usize], x: &[f64]) -> ArrayD<f32> {
    ArrayD::from_shape_vec(IxDyn(shape), x.iter().map(|x| *x as f32).collect()).expect("shape and data agree")
}

/// A view of an owned array, in the rank of the field it is passed to.
macro_rules! v {
    ($x:expr) => {
        $x.view().into_dimensionality().expect("rank")
    };
}
pub(crate) use v;
