//! Operators on GPUs: the kernels of [`longreach_gpu`] on Burn's tensors, and Burn's own operations where those are enough.
//!
//! Shapes and gradients are those of the operators' kernels on the host, which compute what has no kernel here.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType as BurnType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use longreach_gpu::{DType, Device, Error, View};

use crate::bridge::{Bridge, Compute, Gradient, Kernel, Op, Operator, Pack, kernel};
use crate::{conv, elementwise, embedding, linear, mamba2, norm, recurrence, rotary, softmax};

mod attention;
mod dense;
mod recurrent;
mod small;

/// The backend of all GPUs: a tensor's device says which runtime it is on.
pub(crate) type Cube = burn_cubecl::CubeBackend;

/// Tensors of an operator.
type Tensors = Vec<CubeTensor>;

const KERNELS: &[Kernel<Cube>] = &[
    kernel::<Cube, linear::Linear>,
    kernel::<Cube, embedding::Embedding>,
    kernel::<Cube, elementwise::Add>,
    kernel::<Cube, elementwise::Activate>,
    kernel::<Cube, elementwise::Gated>,
    kernel::<Cube, elementwise::SiluTimes>,
    kernel::<Cube, elementwise::NegExp>,
    kernel::<Cube, norm::Norm>,
    kernel::<Cube, norm::LayerNorm>,
    kernel::<Cube, rotary::Turn>,
    kernel::<Cube, conv::ShortConv>,
    kernel::<Cube, mamba2::Scan>,
    kernel::<Cube, recurrence::gla::Of>,
    kernel::<Cube, recurrence::delta_rule::Of>,
    kernel::<Cube, recurrence::gated_delta::Of>,
    kernel::<Cube, softmax::Softmax>,
];

impl Bridge for Cube {
    fn apply(op: Op, inputs: Pack<Self>) -> Pack<Self> {
        Pack::from_vec(Self::compute(&*op, inputs.into_vec()))
    }
}

impl Compute for Cube {
    fn compute(op: &dyn Operator, inputs: Tensors) -> Tensors {
        crate::bridge::compute(KERNELS, op, inputs)
    }

    fn gradients(op: &dyn Operator, of: Gradient<Self>) -> Vec<Option<CubeTensor>> {
        crate::bridge::gradients(KERNELS, op, of)
    }
}

/// The GPUs of a graphics interface: `vulkan`, or `metal` on Apple's systems; `webgpu` is whichever of them there is.
pub(crate) fn devices(kind: &str) -> Vec<burn::tensor::Device> {
    let own = if cfg!(target_vendor = "apple") { "metal" } else { "vulkan" };
    match kind == own || kind == "webgpu" {
        true => burn::tensor::Device::enumerate(burn::tensor::DeviceType::Wgpu).into_iter().collect(),
        false => Vec::new(),
    }
}

/// A tensor as the kernels take it: contiguous, in one of their types. `None` for other types.
fn view(x: &CubeTensor) -> Option<View> {
    let dtype = match x.dtype {
        BurnType::F32 => DType::F32,
        BurnType::F16 => DType::F16,
        BurnType::BF16 => DType::BF16,
        _ => return None,
    };
    let x = into_contiguous(x.clone());
    let shape: Vec<usize> = x.shape().iter().copied().collect();
    // The handle of a tensor that is a part of a larger buffer knows where it begins.
    View::over(x.handle, &shape, dtype).ok()
}

fn views(x: &[CubeTensor]) -> Option<Vec<View>> {
    x.iter().map(view).collect()
}

/// The result of a kernel as a tensor on the device of `like`.
fn tensor(x: &View, like: &CubeTensor) -> CubeTensor {
    let dtype = match x.dtype() {
        DType::F32 => BurnType::F32,
        DType::F16 => BurnType::F16,
        DType::BF16 => BurnType::BF16,
    };
    let shape = Shape::from(x.shape().to_vec());
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape, x.handle().clone(), dtype)
}

fn device(x: &CubeTensor) -> Device {
    Device::of(x.client.clone())
}

/// Outputs by kernels that take views. The inputs are given back if they are of other types, or if the kernel takes no such call.
fn run(inputs: Tensors, of: impl FnOnce(&Device, &[View]) -> Result<Vec<View>, Error>) -> Result<Tensors, Tensors> {
    let Some(views) = views(&inputs) else { return Err(inputs) };
    match of(&device(&inputs[0]), &views) {
        Ok(out) => Ok(out.iter().map(|x| tensor(x, &inputs[0])).collect()),
        Err(e) => Err(unless_failed(&e, inputs)),
    }
}

/// What the gradient of an operator is computed from, as views.
struct Back {
    device: Device,
    x: Vec<View>,
    saved: Vec<View>,
    /// Zeros where nothing was computed from an output.
    d: Vec<View>,
}

/// Gradients by kernels that take views; those that are not wanted are dropped. The argument is given back as by [`run`].
fn run_back(
    of: Gradient<Cube>,
    back: impl FnOnce(&Back) -> Result<Vec<View>, Error>,
) -> Result<Vec<Option<CubeTensor>>, Gradient<Cube>> {
    let like = of.inputs[0].clone();
    let zeros = |shape: &Shape| Cube::float_zeros(shape.clone(), &like.device, burn::tensor::FloatDType::F32);
    let d = of.d_out.iter().zip(&of.shapes).map(|(d, shape)| view(&d.clone().unwrap_or_else(|| zeros(shape))));
    let (Some(x), Some(saved), Some(d)) = (views(&of.inputs), views(&of.saved), d.collect::<Option<Vec<_>>>()) else {
        return Err(of);
    };
    match back(&Back { device: device(&like), x, saved, d }) {
        Ok(gradients) => {
            let pairs = gradients.iter().zip(&of.wanted);
            Ok(pairs.map(|(g, wanted)| wanted.then(|| tensor(g, &like))).collect())
        }
        Err(e) => Err(unless_failed(&e, of)),
    }
}

/// The argument of a call that a kernel does not take. Panics if the device failed, which the host would only hide.
fn unless_failed<T>(error: &Error, of: T) -> T {
    assert!(!matches!(error, Error::Device { .. }), "{error}");
    of
}

/// The shape of a tensor, as a list.
fn dims(x: &CubeTensor) -> Vec<usize> {
    x.shape().iter().copied().collect()
}
