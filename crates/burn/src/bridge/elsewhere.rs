//! Backends whose tensors are not in the host's memory: kernels of their own for some operators, and for the others those
//! of the host on copies of the tensors, which are counted.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata};
use burn::tensor::read_sync;

use super::{Compute, Gradient, Operator};

/// A kernel of an operator for the tensors of a backend that is not the host's.
pub trait Run<B: Backend>: Operator {
    /// The outputs. Gives the inputs back if the kernel does not take them: the host then computes the outputs.
    fn run(&self, inputs: Vec<FloatTensor<B>>) -> Result<Vec<FloatTensor<B>>, Vec<FloatTensor<B>>>;
    /// The gradient of each input, in order; `None` where it is not wanted. Gives the argument back if there is no kernel
    /// for it: the host then computes the gradients.
    fn run_back(&self, of: Gradient<B>) -> Result<Vec<Option<FloatTensor<B>>>, Gradient<B>> {
        Err(of)
    }
}

/// An entry of a backend's list of kernels: the operator, if it is of the type that the kernel computes.
pub type Kernel<B> = fn(&dyn Operator) -> Option<&dyn Run<B>>;

/// The entry of operators of type `O`.
pub fn kernel<B: Backend, O: Run<B>>(op: &dyn Operator) -> Option<&dyn Run<B>> {
    (op as &dyn Any).downcast_ref::<O>().map(|op| op as &dyn Run<B>)
}

/// An operator that was computed on the host although its tensors are on another device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fallback {
    /// The backend of the tensors, as Burn names it.
    pub backend: String,
    /// The operator.
    pub operator: String,
    /// Whether its gradient was computed, rather than its outputs.
    pub gradient: bool,
}

static FALLBACKS: Mutex<BTreeMap<Fallback, usize>> = Mutex::new(BTreeMap::new());
static NOTICE: OnceLock<fn(&Fallback)> = OnceLock::new();

/// What has been computed on the host for other devices since the process began, with the number of calls of each. A model
/// that is to run on a device alone leaves this empty.
pub fn fallbacks() -> Vec<(Fallback, usize)> {
    let found = FALLBACKS.lock().unwrap_or_else(PoisonError::into_inner);
    found.iter().map(|(of, calls)| (of.clone(), *calls)).collect()
}

/// Calls `notice` at the first fallback of each operator, once. The first caller of this function in a process decides.
pub fn on_fallback(notice: fn(&Fallback)) {
    NOTICE.get_or_init(|| notice);
}

fn count<B: Backend>(op: &dyn Operator, device: &B::Device, gradient: bool) {
    let of = Fallback { backend: B::name(device), operator: op.name().to_owned(), gradient };
    let mut found = FALLBACKS.lock().unwrap_or_else(PoisonError::into_inner);
    let calls = found.entry(of.clone()).or_default();
    *calls += 1;
    let first = *calls == 1;
    drop(found);
    if let (true, Some(notice)) = (first, NOTICE.get()) {
        notice(&of);
    }
}

fn to_host<B: Backend>(x: FloatTensor<B>) -> FlexTensor {
    let data = read_sync(B::float_into_data(x));
    FlexTensor::from_data(data.unwrap_or_else(|e| panic!("a tensor could not be read from its device: {e:?}")))
}

fn all_to_host<B: Backend>(tensors: Vec<FloatTensor<B>>) -> Vec<FlexTensor> {
    tensors.into_iter().map(to_host::<B>).collect()
}

fn from_host<B: Backend>(x: FlexTensor, device: &B::Device) -> FloatTensor<B> {
    B::float_from_data(x.into_data(), device)
}

/// [`Compute::compute`] by the first of `kernels` that takes the operator and its inputs, or else by the host. Panics if a
/// tensor cannot be read from its device.
pub fn compute<B: Backend>(
    kernels: &[Kernel<B>],
    op: &dyn Operator,
    mut inputs: Vec<FloatTensor<B>>,
) -> Vec<FloatTensor<B>> {
    for kernel in kernels.iter().filter_map(|kernel| kernel(op)) {
        match kernel.run(inputs) {
            Ok(outputs) => return outputs,
            Err(back) => inputs = back,
        }
    }
    let device = inputs.first().expect("an operator has inputs").device();
    count::<B>(op, &device, false);
    let outputs = Flex::compute(op, all_to_host::<B>(inputs));
    outputs.into_iter().map(|x| from_host::<B>(x, &device)).collect()
}

/// [`Compute::gradients`] by the first of `kernels` that has them, or else by the host. Panics if a tensor cannot be read
/// from its device.
pub fn gradients<B: Backend>(
    kernels: &[Kernel<B>],
    op: &dyn Operator,
    mut of: Gradient<B>,
) -> Vec<Option<FloatTensor<B>>> {
    for kernel in kernels.iter().filter_map(|kernel| kernel(op)) {
        match kernel.run_back(of) {
            Ok(gradients) => return gradients,
            Err(back) => of = back,
        }
    }
    let device = of.inputs.first().expect("an operator has inputs").device();
    count::<B>(op, &device, true);
    let host = Gradient {
        inputs: all_to_host::<B>(of.inputs),
        saved: all_to_host::<B>(of.saved),
        shapes: of.shapes,
        d_out: of.d_out.into_iter().map(|d| d.map(to_host::<B>)).collect(),
        wanted: of.wanted,
    };
    let gradients = Flex::gradients(op, host).into_iter();
    gradients.map(|d| d.map(|d| from_host::<B>(d, &device))).collect()
}
