//! What an operation is, whatever computes it.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use longreach_simd::Cx;

use super::{Inputs, More, Plain};

/// An operator with its gradient: everything that a kernel must provide to become a Burn operation.
///
/// A value represents one call. It holds the arguments that are not tensors, such as masks and positions, which stay on
/// the host whatever the device of the tensors. The kernels here are those of the host, which read memory in place.
/// Another backend may have kernels of its own for an operator ([`Run`](super::Run)); where it has none, these are
/// called on copies of its tensors.
pub trait Operator: Any + Debug + Send + Sync {
    /// The name in messages: that of the function that applies it.
    fn name(&self) -> &str;
    /// The outputs that the gradient reads, by index. They are stored for it where they were computed, as the inputs
    /// are.
    fn saves(&self) -> Vec<usize> {
        Vec::new()
    }
    /// Computes the outputs. An input may be taken out of `inputs`, modified, and returned as an output.
    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain>;
    /// Called before the outputs are computed if a backward pass will follow, with the inputs whose gradients will be
    /// used, so that the operator can store what it needs beside inputs and outputs.
    fn will_be_differentiated(&self, wanted: &[bool]) {
        let _ = wanted;
    }
    /// The gradient of each input, in order, given the gradients of the outputs. The outputs that the operator
    /// [`saves`](Operator::saves) are at [`Inputs::saved`].
    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain>;
    /// As [`Operator::backward`], where only the gradients of the inputs that are `wanted` are used: an operator may leave
    /// the others empty. Weights that are not trained are not wanted.
    fn backward_to(&self, inputs: &Inputs, d_out: &[Plain], wanted: &[bool], cx: &Cx) -> Vec<Plain> {
        let _ = wanted;
        self.backward(inputs, d_out, cx)
    }
    /// Adds the gradients of tensors that are not inputs, after [`Operator::backward`]: of the parameters of a module that the
    /// operator holds.
    fn more(&self, gradients: &mut More<'_>) {
        let _ = gradients;
    }
}

/// A shared operator.
pub type Op = Arc<dyn Operator>;
