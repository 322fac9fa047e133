//! The generic bridge: an operator on plain memory as a differentiable operation on Burn tensors.
//!
//! Without autodiff, the outputs of an operator are returned directly, and an input with no other owner may become an
//! output: states are updated in place. With autodiff, whose nodes have a single output, several outputs are packed
//! in one buffer and sliced.

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, BackendTensor, Dispatch, DispatchTensor, DispatchTensorKind, ExtensionType,
    Flex, TensorMetadata, backend_extension,
};
use burn::tensor::{Bytes, DType, Shape, Slice, Tensor};
use half::bf16;
use longreach_attention::softmax::Segment;
use longreach_simd::Cx;
use longreach_simd::norm::Rows;
use longreach_simd::product::Weights;
use ndarray::{ArrayView, ArrayView4, ArrayViewMut, Dimension, IxDyn, ShapeBuilder};

use crate::context;

/// A tensor in plain memory: its shape, and its values in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain {
    /// The shape.
    pub shape: Vec<usize>,
    /// The values.
    pub data: Vec<f32>,
}

impl Plain {
    /// A tensor of `shape` with `data`.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self { shape: shape.into(), data }
    }

    /// A tensor of `shape` whose values are to be overwritten.
    pub fn unwritten(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let n = shape.iter().product();
        Self { shape, data: vec![0.0; n] }
    }

    /// An array view of rank `D`. Panics if the tensor has another rank.
    pub fn view<D: Dimension>(&self) -> ArrayView<'_, f32, D> {
        ArrayView::from_shape(IxDyn(&self.shape), &self.data)
            .expect("shape and data agree")
            .into_dimensionality()
            .unwrap_or_else(|_| panic!("shape {:?}, want {} axes", self.shape, D::NDIM.unwrap_or(0)))
    }

    /// A mutable array view of rank `D`. Panics if the tensor has another rank.
    pub fn view_mut<D: Dimension>(&mut self) -> ArrayViewMut<'_, f32, D> {
        let shape = self.shape.clone();
        ArrayViewMut::from_shape(IxDyn(&shape), &mut self.data)
            .expect("shape and data agree")
            .into_dimensionality()
            .unwrap_or_else(|_| panic!("shape {shape:?}, want {} axes", D::NDIM.unwrap_or(0)))
    }

    /// A tensor with the values of an array in row-major order.
    pub fn array<D: Dimension>(x: ndarray::Array<f32, D>) -> Self {
        let shape = x.shape().to_vec();
        let data = if x.is_standard_layout() { x.into_raw_vec_and_offset().0 } else { x.iter().copied().collect() };
        Self { shape, data }
    }
}

/// An operator on plain memory with its gradient: everything that a kernel must provide to become a Burn operation.
///
/// A value represents one call. It holds the arguments that are not tensors, and may store what the backward pass
/// needs.
pub trait Operator: Debug + Send + Sync + 'static {
    /// Computes the outputs. An input may be taken out of `inputs`, modified, and returned as an output.
    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain>;
    /// Called before [`Operator::forward`] if a backward pass will follow, so that the operator can store what it
    /// needs.
    fn will_be_differentiated(&self) {}
    /// The gradient of each input, in order, given the gradients of the outputs.
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
    /// Called before [`Operator::forward`] with the inputs whose gradients will be used, for operators that compute them
    /// together with their outputs.
    fn wants(&self, wanted: &[bool]) {
        let _ = wanted;
    }
    /// The shapes of the outputs if there are several, which are needed to split their packed gradient.
    fn output_shapes(&self, inputs: &[Shape]) -> Vec<Vec<usize>> {
        let _ = inputs;
        Vec::new()
    }
}

/// The gradients of a backward pass, to which an operator adds those of tensors that are not its inputs.
pub struct More<'a>(&'a mut Gradients);

impl More<'_> {
    /// Adds to the gradient of `of`, which must be a leaf of the graph.
    pub fn add<const D: usize>(&mut self, of: &Tensor<D>, gradient: Tensor<D>) {
        let of = of.clone().into_dispatch();
        let sum = match Dispatch::grad(&of, self.0) {
            Some(earlier) => gradient + Tensor::from_dispatch(earlier),
            None => gradient,
        };
        Dispatch::grad_replace(&of, self.0, sum.into_dispatch());
    }
}

impl Debug for More<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("More").finish_non_exhaustive()
    }
}

/// A shared operator.
pub type Op = Arc<dyn Operator>;

/// The input or output tensors of an operator.
#[derive(ExtensionType)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Pack<B: Backend> {
    P1(FloatTensor<B>),
    P2(FloatTensor<B>, FloatTensor<B>),
    P3(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    P4(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    P5(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    P6(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    P7(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    P8(
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
    ),
    P9(
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
    ),
}

impl<B: Backend> Pack<B> {
    /// The tensors of a pack, in order.
    pub fn into_vec(self) -> Vec<FloatTensor<B>> {
        match self {
            Pack::P1(a) => vec![a],
            Pack::P2(a, b) => vec![a, b],
            Pack::P3(a, b, c) => vec![a, b, c],
            Pack::P4(a, b, c, d) => vec![a, b, c, d],
            Pack::P5(a, b, c, d, e) => vec![a, b, c, d, e],
            Pack::P6(a, b, c, d, e, f) => vec![a, b, c, d, e, f],
            Pack::P7(a, b, c, d, e, f, g) => vec![a, b, c, d, e, f, g],
            Pack::P8(a, b, c, d, e, f, g, h) => vec![a, b, c, d, e, f, g, h],
            Pack::P9(a, b, c, d, e, f, g, h, i) => vec![a, b, c, d, e, f, g, h, i],
        }
    }

    /// A pack of one to nine tensors. Panics on any other number.
    pub fn from_vec(tensors: Vec<FloatTensor<B>>) -> Self {
        let n = tensors.len();
        let mut t = tensors.into_iter();
        let mut x = || t.next().expect("the arm matches the number of tensors");
        match n {
            1 => Pack::P1(x()),
            2 => Pack::P2(x(), x()),
            3 => Pack::P3(x(), x(), x()),
            4 => Pack::P4(x(), x(), x(), x()),
            5 => Pack::P5(x(), x(), x(), x(), x()),
            6 => Pack::P6(x(), x(), x(), x(), x(), x()),
            7 => Pack::P7(x(), x(), x(), x(), x(), x(), x()),
            8 => Pack::P8(x(), x(), x(), x(), x(), x(), x(), x()),
            9 => Pack::P9(x(), x(), x(), x(), x(), x(), x(), x(), x()),
            _ => panic!("an operator takes one to nine tensors, not {n}"),
        }
    }
}

/// The backend extension: applies an operator, and computes its gradient.
#[backend_extension(Flex, Autodiff)]
pub trait Bridge: Backend {
    /// The outputs of an operator.
    fn apply(op: Op, #[extension_type] inputs: Pack<Self>) -> Pack<Self>;
    /// The gradients of an operator's inputs, given the gradient of its packed outputs. Those that are not `wanted` may be
    /// empty.
    fn gradients(
        op: Op,
        #[extension_type] inputs: Pack<Self>,
        d_out: FloatTensor<Self>,
        wanted: Vec<bool>,
    ) -> Pack<Self>;
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

impl Bridge for Flex {
    fn apply(op: Op, inputs: Pack<Self>) -> Pack<Self> {
        let outputs = op.forward(&mut Inputs::new(inputs.into_vec()), &context());
        Pack::from_vec(outputs.into_iter().map(flex).collect())
    }

    fn gradients(op: Op, inputs: Pack<Self>, d_out: FlexTensor, wanted: Vec<bool>) -> Pack<Self> {
        let inputs = Inputs::new(inputs.into_vec());
        let shapes = op.output_shapes(&inputs.tensors.iter().map(|t| t.layout().shape().clone()).collect::<Vec<_>>());
        let d_out = Plain::from(d_out);
        let d_out = if shapes.len() < 2 { vec![d_out] } else { unpack(d_out.data, shapes) };
        let gradients = op.backward_to(&inputs, &d_out, &wanted, &context());
        let like = inputs.tensors.iter().map(|t| t.dtype());
        Pack::from_vec(gradients.into_iter().zip(like).map(|(g, dtype)| flex_as(g, dtype)).collect())
    }
}

impl<B: Bridge, C: CheckpointStrategy> Bridge for Autodiff<B, C> {
    fn apply(op: Op, inputs: Pack<Self>) -> Pack<Self> {
        let inputs = inputs.into_vec();
        match inputs.len() {
            1 => tracked::<B, C, 1>(op, inputs),
            2 => tracked::<B, C, 2>(op, inputs),
            3 => tracked::<B, C, 3>(op, inputs),
            4 => tracked::<B, C, 4>(op, inputs),
            5 => tracked::<B, C, 5>(op, inputs),
            6 => tracked::<B, C, 6>(op, inputs),
            7 => tracked::<B, C, 7>(op, inputs),
            8 => tracked::<B, C, 8>(op, inputs),
            _ => tracked::<B, C, 9>(op, inputs),
        }
    }

    fn gradients(_: Op, _: Pack<Self>, _: FloatTensor<Self>, _: Vec<bool>) -> Pack<Self> {
        panic!("longreach's operators do not support second derivatives")
    }
}

/// The values of a call that the graph stores.
#[derive(Debug)]
struct Node<const N: usize>(Op);

impl<B: Bridge, const N: usize> Backward<B, N> for Node<N> {
    type State = [NodeId; N];

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, saved: &mut Checkpointer) {
        let d_out = grads.consume::<B>(&ops.node);
        let inputs = ops.state.iter().map(|id| saved.retrieve_node_output(*id)).collect();
        let wanted = ops.parents.iter().map(Option::is_some).collect();
        let d_in = B::gradients(self.0.clone(), Pack::from_vec(inputs), d_out, wanted).into_vec();
        for (parent, d) in ops.parents.into_iter().zip(d_in) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, d);
            }
        }
        self.0.more(&mut More(grads));
    }
}

fn tracked<B: Bridge, C: CheckpointStrategy, const N: usize>(
    op: Op,
    inputs: Vec<FloatTensor<Autodiff<B, C>>>,
) -> Pack<Autodiff<B, C>> {
    let nodes: Vec<_> = inputs.iter().map(|t| t.node()).collect();
    let wanted: Vec<bool> = inputs.iter().map(|t| t.is_tracked()).collect();
    let nodes: [_; N] = nodes.try_into().expect("one node per input");
    let mut shapes = Vec::new();
    let mut run = |op: Op, inputs: Vec<FloatTensor<Autodiff<B, C>>>| {
        let inputs = inputs.into_iter().map(|t| t.into_primitive()).collect();
        let mut outputs = B::apply(op, Pack::from_vec(inputs)).into_vec();
        shapes = outputs.iter().map(|t| t.shape()).collect::<Vec<_>>();
        if outputs.len() == 1 {
            return outputs.remove(0);
        }
        let flat = outputs.into_iter().map(|t| {
            let n = t.shape().num_elements();
            B::float_reshape(t, Shape::from([n]))
        });
        B::float_cat(flat.collect(), 0)
    };
    let packed = match Node::<N>(op.clone()).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let ids: Vec<_> = inputs.iter().map(|t| prep.checkpoint(t)).collect();
            op.will_be_differentiated();
            op.wants(&wanted);
            let out = run(op, inputs);
            prep.finish(ids.try_into().expect("one node per input"), out)
        }
        OpsKind::UnTracked(prep) => {
            let out = run(op, inputs);
            prep.finish(out)
        }
    };
    if shapes.len() == 1 {
        return Pack::P1(packed);
    }
    let mut at = 0;
    let parts = shapes.into_iter().map(|shape| {
        let from = at;
        at += shape.num_elements();
        let slice = [Slice::from(from..at)];
        let part = <Autodiff<B, C> as burn::backend::ops::FloatTensorOps<_>>::float_slice(packed.clone(), &slice);
        <Autodiff<B, C> as burn::backend::ops::FloatTensorOps<_>>::float_reshape(part, shape)
    });
    Pack::from_vec(parts.collect())
}

fn unpack(data: Vec<f32>, shapes: Vec<Vec<usize>>) -> Vec<Plain> {
    let mut rest = &data[..];
    let mut take = |n: usize| {
        let (mine, others) = rest.split_at(n);
        rest = others;
        mine.to_vec()
    };
    shapes.into_iter().map(|shape| Plain::new(shape.clone(), take(shape.iter().product()))).collect()
}

pub(crate) fn flex(x: Plain) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(x.data), Layout::contiguous(Shape::from(x.shape)), DType::F32)
}

fn flex_as(x: Plain, dtype: DType) -> FlexTensor {
    match dtype {
        DType::BF16 => {
            let half: Vec<bf16> = x.data.into_iter().map(bf16::from_f32).collect();
            FlexTensor::new(Bytes::from_elems(half), Layout::contiguous(Shape::from(x.shape)), DType::BF16)
        }
        _ => flex(x),
    }
}

impl From<FlexTensor> for Plain {
    fn from(x: FlexTensor) -> Self {
        let shape = x.layout().shape().to_vec();
        let data = x.into_data().try_into_vec().expect("an f32 tensor");
        Self { shape, data }
    }
}

/// The tensor with a contiguous last axis, adjacent heads of a token, and non-negative strides, as kernels require.
fn tidy(t: FlexTensor) -> FlexTensor {
    let (shape, strides) = (t.layout().shape().to_vec(), t.layout().strides());
    let last = strides.last().copied().unwrap_or(1);
    let wide = shape.last().copied().unwrap_or(1) > 1;
    let apart =
        matches!((&shape[..], strides), ([_, _, heads, d], [_, _, head, _]) if *heads > 1 && *head != *d as isize);
    if (wide && last != 1) || apart || !t.layout().has_positive_strides() { t.to_contiguous() } else { t }
}

/// An f32 tensor as an array view.
fn view(tensor: &FlexTensor) -> ArrayView<'_, f32, IxDyn> {
    shaped(tensor.layout(), tensor.storage())
}

/// The memory of a tensor as an array view.
fn shaped<'a, E>(layout: &Layout, storage: &'a [E]) -> ArrayView<'a, E, IxDyn> {
    let strides: Vec<usize> = layout.strides().iter().map(|s| *s as usize).collect();
    let shape: Vec<usize> = layout.shape().to_vec();
    // The strides of an empty tensor may be arbitrary.
    let strides = if shape.contains(&0) { vec![0; shape.len()] } else { strides };
    let data = storage.get(layout.start_offset()..).unwrap_or_default();
    ArrayView::from_shape(IxDyn(&shape).strides(IxDyn(&strides)), data).expect("the layout is within its storage")
}

/// A constant tensor that an operator holds, beside those of its call.
#[derive(Clone, Debug)]
pub(crate) struct Held(FlexTensor);

impl Held {
    /// Shares the memory of `x`; `None` if its backend records gradients.
    pub(crate) fn new<const D: usize>(x: Tensor<D>) -> Option<Self> {
        match x.into_dispatch().kind {
            DispatchTensorKind::Flex(BackendTensor::Float(x)) => Some(Self(tidy(x))),
            _ => None,
        }
    }

    /// An f32 tensor of four axes as an array view. Panics if it has another rank or type.
    pub(crate) fn view(&self) -> ArrayView4<'_, f32> {
        view(&self.0).into_dimensionality().expect("a tensor of four axes")
    }

    /// An f32 or bf16 tensor of four axes. Panics if it has another rank or type.
    pub(crate) fn segment(&self) -> Segment<'_> {
        const RANK: &str = "a tensor of four axes";
        match self.0.dtype() {
            DType::BF16 => Segment::Bf16(shaped(self.0.layout(), self.0.storage()).into_dimensionality().expect(RANK)),
            _ => Segment::F32(self.view()),
        }
    }
}

/// The inputs of an operator, viewed as plain memory.
#[derive(Debug)]
pub struct Inputs {
    tensors: Vec<FlexTensor>,
}

impl Inputs {
    pub(crate) fn new(tensors: Vec<FlexTensor>) -> Self {
        Self { tensors: tensors.into_iter().map(tidy).collect() }
    }

    /// The number of inputs.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no inputs.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The shape of input `i`.
    pub fn shape(&self, i: usize) -> Vec<usize> {
        self.tensors[i].layout().shape().to_vec()
    }

    /// Input `i`, an f32 tensor, as an array view of rank `D`. Panics if it has another rank.
    pub fn view<D: Dimension>(&self, i: usize) -> ArrayView<'_, f32, D> {
        let found = || format!("input {i} has shape {:?}, want {} axes", self.shape(i), D::NDIM.unwrap_or(0));
        view(&self.tensors[i]).into_dimensionality().unwrap_or_else(|_| panic!("{}", found()))
    }

    /// Input `i`, f32 `[B, T, D]`, viewed as `[B, T, parts, D / parts]`. Panics if `parts` does not divide `D`.
    pub fn view_split(&self, i: usize, parts: usize) -> ArrayView4<'_, f32> {
        let layout = self.tensors[i].layout();
        let (shape, strides) = (layout.shape().to_vec(), layout.strides());
        let width = shape[2] / parts;
        assert_eq!(width * parts, shape[2], "{} channels cannot be divided into {parts} parts", shape[2]);
        let data = &self.tensors[i].storage::<f32>()[layout.start_offset()..];
        let split = (shape[0], shape[1], parts, width).strides((strides[0] as usize, strides[1] as usize, width, 1));
        ArrayView::from_shape(split, data).expect("the layout is within its storage")
    }

    /// Input `i` as a contiguous slice; copied only if it is not contiguous.
    pub fn contiguous(&self, i: usize) -> std::borrow::Cow<'_, [f32]> {
        match self.tensors[i].as_slice::<f32>() {
            Some(slice) => slice.into(),
            None => Plain::from(self.tensors[i].clone()).data.into(),
        }
    }

    /// Input `i` as a weight matrix, in its stored precision. Panics unless it is f32 or bf16.
    pub fn weights(&self, i: usize) -> Weights<'_> {
        let tensor = &self.tensors[i];
        match tensor.dtype() {
            DType::F32 => Weights::F32(tensor.as_slice().expect("weights are stored contiguously")),
            DType::BF16 => Weights::Bf16(tensor.as_slice().expect("weights are stored contiguously")),
            other => panic!("weights are f32 or bf16, not {other:?}"),
        }
    }

    /// The stride between the rows of input `i` along its last axis; `None` if it is not constant.
    fn row_stride(&self, i: usize) -> Option<usize> {
        let layout = self.tensors[i].layout();
        let (shape, strides) = (layout.shape().to_vec(), layout.strides());
        let n = shape.len();
        let mut stride = None;
        // From the innermost to the outermost axis: the stride of each must equal the extent of the axes inside it.
        let mut inside = 1;
        for axis in (0..n.saturating_sub(1)).rev() {
            if shape[axis] == 1 {
                continue;
            }
            let step = strides[axis] as usize;
            let base = *stride.get_or_insert(step);
            if step != base * inside {
                return None;
            }
            inside *= shape[axis];
        }
        Some(stride.unwrap_or(shape[n - 1]))
    }

    /// Makes input `i` readable by [`Inputs::rows`], copying it only if necessary.
    pub fn make_rows(&mut self, i: usize) {
        if self.row_stride(i).is_none() {
            self.tensors[i] = self.tensors[i].to_contiguous();
        }
    }

    /// Input `i` as rows along its last axis. Panics unless the rows have a constant stride: see
    /// [`Inputs::make_rows`].
    pub fn rows(&self, i: usize) -> Rows<'_> {
        let tensor = &self.tensors[i];
        let shape = tensor.layout().shape().to_vec();
        let (width, outer) = shape.split_last().expect("at least one axis");
        let stride = self.row_stride(i).expect("make_rows was called");
        let data = &tensor.storage::<f32>()[tensor.layout().start_offset()..];
        Rows { data, count: outer.iter().product(), width: *width, stride }
    }

    /// Takes input `i` out, leaving an empty tensor. Its memory is reused if it has no other owner, and copied
    /// otherwise.
    pub fn take(&mut self, i: usize) -> Plain {
        let empty = FlexTensor::empty(Shape::from([0]), DType::F32);
        Plain::from(std::mem::replace(&mut self.tensors[i], empty))
    }
}
