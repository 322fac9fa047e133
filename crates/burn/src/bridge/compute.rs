//! What computes operators: the one thing that a backend has to provide.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;

use super::Operator;

/// A backend that computes operators and their gradients. Which kernels it calls is its own affair.
pub trait Compute: Backend {
    /// The outputs of an operator.
    fn compute(op: &dyn Operator, inputs: Vec<FloatTensor<Self>>) -> Vec<FloatTensor<Self>>;
    /// The gradient of each input, in order; `None` where it is not wanted.
    fn gradients(op: &dyn Operator, of: Gradient<Self>) -> Vec<Option<FloatTensor<Self>>>;
}

/// What the gradient of an operator is computed from.
#[derive(Debug)]
pub struct Gradient<B: Backend> {
    /// The inputs of the forward pass.
    pub inputs: Vec<FloatTensor<B>>,
    /// The outputs that [`Operator::saves`] lists.
    pub saved: Vec<FloatTensor<B>>,
    /// The shapes of all outputs.
    pub shapes: Vec<Shape>,
    /// The gradients of the outputs; `None` for one that nothing was computed from, whose gradient is zero.
    pub d_out: Vec<Option<FloatTensor<B>>>,
    /// The inputs whose gradients will be used.
    pub wanted: Vec<bool>,
}
