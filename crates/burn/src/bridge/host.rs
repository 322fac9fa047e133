//! The host: operators on Burn's CPU tensors, whose memory the kernels read in place.

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{BackendTensor, DispatchTensorKind, Flex};
use burn::tensor::{Bytes, DType, Shape, Tensor};
use half::{bf16, f16};
use longreach_attention::softmax::Segment;
use longreach_simd::norm::Rows;
use longreach_simd::product::{Q8, Weights};
use ndarray::{ArrayView, ArrayView4, Dimension, IxDyn, ShapeBuilder};

use super::{Bridge, Compute, Gradient, Op, Operator, Pack, Plain};
use crate::context;

impl Bridge for Flex {
    fn apply(op: Op, inputs: Pack<Self>) -> Pack<Self> {
        Pack::from_vec(Self::compute(&*op, inputs.into_vec()))
    }
}

impl Compute for Flex {
    fn compute(op: &dyn Operator, inputs: Vec<FlexTensor>) -> Vec<FlexTensor> {
        op.forward(&mut Inputs::new(inputs), &context()).into_iter().map(flex).collect()
    }

    fn gradients(op: &dyn Operator, of: Gradient<Self>) -> Vec<Option<FlexTensor>> {
        let Gradient { inputs, saved, shapes, d_out, wanted } = of;
        let inputs = Inputs { saved: saved.into_iter().map(tidy).collect(), ..Inputs::new(inputs) };
        let zeros = |shape: Shape| Plain::unwritten(shape.to_vec());
        let d_out = d_out.into_iter().zip(shapes);
        let d_out: Vec<_> = d_out.map(|(d, shape)| d.map_or_else(|| zeros(shape), Plain::from)).collect();
        let gradients = op.backward_to(&inputs, &d_out, &wanted, &context());
        let like = inputs.tensors.iter().map(|t| t.dtype());
        let gradients = gradients.into_iter().zip(like).zip(&wanted);
        gradients.map(|((g, dtype), wanted)| wanted.then(|| flex_as(g, dtype))).collect()
    }
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

    /// A tensor of blocks, see [`crate::to_q8`]. Panics if it has another rank or type, or its rows are no whole blocks.
    fn blocks(&self) -> ArrayView4<'_, Q8> {
        let (layout, words) = (self.0.layout(), self.0.storage::<f16>());
        let shape: [usize; 4] = layout.shape().to_vec().try_into().expect("a tensor of four axes");
        let whole = |words: usize| {
            assert!(words.is_multiple_of(Q8::WORDS), "{words} words are no whole number of blocks");
            words / Q8::WORDS
        };
        let [b, n, groups, width] = shape;
        let shape = (b, n, groups, whole(width));
        if b * n * groups * width == 0 {
            return ArrayView4::from_shape(shape, &[]).expect("an empty view");
        }
        // An axis of one place may have any stride.
        let stride =
            |axis: usize| if layout.shape().to_vec()[axis] > 1 { whole(layout.strides()[axis] as usize) } else { 0 };
        let strides = (stride(0), stride(1), stride(2), 1);
        let words = words.get(layout.start_offset()..).unwrap_or_default();
        let blocks = Q8::of_words(&words[..words.len() / Q8::WORDS * Q8::WORDS]);
        ArrayView4::from_shape(shape.strides(strides), blocks).expect("the layout is within its storage")
    }

    /// An f32 or bf16 tensor of four axes, or one of blocks. Panics if it has another rank or type.
    pub(crate) fn segment(&self) -> Segment<'_> {
        const RANK: &str = "a tensor of four axes";
        match self.0.dtype() {
            DType::BF16 => Segment::Bf16(shaped(self.0.layout(), self.0.storage()).into_dimensionality().expect(RANK)),
            DType::F16 => Segment::Q8(self.blocks()),
            _ => Segment::F32(self.view()),
        }
    }
}

/// The inputs of an operator, viewed as plain memory.
#[derive(Debug)]
pub struct Inputs {
    tensors: Vec<FlexTensor>,
    /// Outputs that the gradient reads.
    saved: Vec<FlexTensor>,
}

impl Inputs {
    pub(crate) fn new(tensors: Vec<FlexTensor>) -> Self {
        Self { tensors: tensors.into_iter().map(tidy).collect(), saved: Vec::new() }
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

    /// The `i`th of the outputs that [`Operator::saves`] lists, as an array view of rank `D`. Panics if it has another
    /// rank.
    pub fn saved<D: Dimension>(&self, i: usize) -> ArrayView<'_, f32, D> {
        let found = || format!("saved output {i} has shape {:?}", self.saved[i].layout().shape());
        view(&self.saved[i]).into_dimensionality().unwrap_or_else(|_| panic!("{}", found()))
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
