//! The generic bridge: an operator as a differentiable operation on Burn tensors.
//!
//! An [`Operator`] says what an operation is: its arguments, its kernels on the host, and what its gradient reads. What
//! computes it is chosen by the backend of the tensors ([`Compute`]): the host reads and updates their memory in place,
//! and another backend has kernels of its own or falls back on those of the host ([`Run`]). `graph` makes either
//! differentiable.

mod compute;
mod elsewhere;
mod graph;
mod host;
mod operator;
mod pack;
mod plain;
#[cfg(test)]
#[allow(deprecated, reason = "a plain backend for tests, whatever its future")]
mod second;

use std::sync::Arc;

use burn::backend::{Backend, Dispatch, DispatchTensor, backend_extension};
use burn::tensor::Tensor;

pub use compute::{Compute, Gradient};
pub use elsewhere::{Fallback, Kernel, Run, compute, fallbacks, gradients, kernel, on_fallback};
pub use graph::More;
pub(crate) use host::Held;
pub use host::Inputs;
#[cfg(test)]
pub(crate) use host::flex;
pub use operator::{Op, Operator};
pub use pack::Pack;
pub use plain::Plain;

/// The backend extension: applies an operator to the tensors of a backend.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait Bridge: Backend {
    /// The outputs of an operator.
    fn apply(op: Op, #[extension_type] inputs: Pack<Self>) -> Pack<Self>;
}

/// Collects the inputs of a call and applies an operator to them.
#[derive(Debug, Default)]
pub struct Call {
    inputs: Vec<DispatchTensor>,
}

impl Call {
    /// A call without inputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an input.
    #[must_use]
    pub fn with<const D: usize>(mut self, input: Tensor<D>) -> Self {
        self.inputs.push(input.into_dispatch());
        self
    }

    /// Applies `op` to the inputs.
    pub fn run(self, op: impl Operator) -> Results {
        let pack = Pack::from_vec(self.inputs);
        Results(<Dispatch as Bridge>::apply(Arc::new(op), pack).into_vec().into_iter())
    }
}

/// The outputs of a call, which are taken in order.
#[derive(Debug)]
pub struct Results(std::vec::IntoIter<DispatchTensor>);

impl Results {
    /// The next output. Panics if there are no more outputs, or if it has another rank.
    pub fn output<const D: usize>(&mut self) -> Tensor<D> {
        Tensor::from_dispatch(self.0.next().expect("the operator has another output"))
    }
}
