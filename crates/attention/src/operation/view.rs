//! Borrowed tensors by name, each in its own type and with any strides.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;

use half::bf16;
use ndarray::{Array, ArrayBase, ArrayView, Axis, CowArray, Dimension, IxDyn, ShapeBuilder, ViewRepr};

use super::{Shapes, Tensors};

/// An array view whose lifetime can be shortened: the element type is written out, because by default it is an
/// associated type.
type Borrowed<'a, T> = ArrayBase<ViewRepr<&'a T>, IxDyn, T>;

/// A tensor that a call borrows.
///
/// Kernels compute in f32. Tensors in bf16, integers and booleans that a kernel does not read in their own type are
/// converted, which copies them. Tensors in f64 are read by the definition only.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum View<'a> {
    /// In f32.
    F32(Borrowed<'a, f32>),
    /// In f64.
    F64(Borrowed<'a, f64>),
    /// In bf16.
    Bf16(Borrowed<'a, bf16>),
    /// Integers: positions and buckets.
    I64(Borrowed<'a, i64>),
    /// Flags: masks.
    Bool(Borrowed<'a, bool>),
}

impl View<'_> {
    /// The shape.
    pub fn shape(&self) -> &[usize] {
        match self {
            View::F32(x) => x.shape(),
            View::F64(x) => x.shape(),
            View::Bf16(x) => x.shape(),
            View::I64(x) => x.shape(),
            View::Bool(x) => x.shape(),
        }
    }

    /// The name of the element type.
    pub fn dtype(&self) -> &'static str {
        match self {
            View::F32(_) => "f32",
            View::F64(_) => "f64",
            View::Bf16(_) => "bf16",
            View::I64(_) => "i64",
            View::Bool(_) => "bool",
        }
    }
}

/// Converts arrays and views of each element type.
macro_rules! converted {
    ($($variant:ident $type:ty),+) => {$(
        impl<'a, D: Dimension> From<ArrayView<'a, $type, D>> for View<'a> {
            fn from(x: ArrayView<'a, $type, D>) -> Self {
                View::$variant(x.into_dyn())
            }
        }

        impl<'a, D: Dimension> From<&'a Array<$type, D>> for View<'a> {
            fn from(x: &'a Array<$type, D>) -> Self {
                x.view().into()
            }
        }
    )+};
}

converted!(F32 f32, F64 f64, Bf16 bf16, I64 i64, Bool bool);

/// Tensors by name that a call borrows.
///
/// ```
/// use longreach_attention::operation::Views;
/// use ndarray::{Array2, Array4};
///
/// let (q, keep) = (Array4::<f32>::zeros((1, 8, 2, 4)), Array2::from_elem((1, 8), true));
/// let mut inputs: Views<'_> = [("q", q.view().permuted_axes([0, 2, 1, 3]))].into_iter().collect();
/// inputs.insert("keep", &keep);
/// assert_eq!(inputs.get("q").map(|q| q.shape()), Some(&[1, 2, 8, 4][..]));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Views<'a>(BTreeMap<&'a str, View<'a>>);

impl<'a> Views<'a> {
    /// Adds a tensor, or replaces the one of this name.
    pub fn insert(&mut self, name: &'a str, tensor: impl Into<View<'a>>) {
        self.0.insert(name, tensor.into());
    }

    /// The tensor of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<&View<'a>> {
        self.0.get(name)
    }

    /// The tensors and their names, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &View<'a>)> {
        self.0.iter().map(|(name, tensor)| (*name, tensor))
    }

    /// The shapes, by name.
    pub fn shapes(&self) -> Shapes {
        self.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec())).collect()
    }
}

impl<'a, T: Into<View<'a>>> FromIterator<(&'a str, T)> for Views<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a str, T)>>(tensors: I) -> Self {
        Self(tensors.into_iter().map(|(name, tensor)| (name, tensor.into())).collect())
    }
}

impl<'a> From<&'a Tensors> for Views<'a> {
    fn from(tensors: &'a Tensors) -> Self {
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }
}

impl<'a> From<&Views<'a>> for Views<'a> {
    fn from(views: &Views<'a>) -> Self {
        views.clone()
    }
}

/// A view of this shape whose elements are all one zero: shapes are computed from such views.
pub(super) fn zeros(shape: &[usize]) -> Option<View<'static>> {
    static ZERO: [f32; 1] = [0.0];
    let strides = IxDyn(shape).strides(IxDyn(&vec![0; shape.len()]));
    ArrayView::from_shape(strides, &ZERO[..usize::from(!shape.contains(&0))]).ok().map(View::F32)
}

/// A type that calls compute in: f32, or f64 for the definition.
pub(crate) trait Number: Copy + PartialOrd + Default + Debug + Into<f64> + 'static {
    /// The elements of a view, copied if they are in another type; `None` if they do not fit.
    fn read<'a>(x: &View<'a>) -> Option<CowArray<'a, Self, IxDyn>>;

    /// The nearest number.
    fn nearest(x: f64) -> Self;
}

impl Number for f32 {
    fn read<'a>(x: &View<'a>) -> Option<CowArray<'a, Self, IxDyn>> {
        Some(match x {
            View::F32(x) => x.clone().into(),
            View::F64(_) => return None,
            View::Bf16(x) => x.mapv(bf16::to_f32).into(),
            View::I64(x) => x.mapv(|x| x as f32).into(),
            View::Bool(x) => x.mapv(|x| f32::from(u8::from(x))).into(),
        })
    }

    fn nearest(x: f64) -> Self {
        x as f32
    }
}

impl Number for f64 {
    fn read<'a>(x: &View<'a>) -> Option<CowArray<'a, Self, IxDyn>> {
        Some(match x {
            View::F32(x) => x.mapv(f64::from).into(),
            View::F64(x) => x.clone().into(),
            View::Bf16(x) => x.mapv(bf16::to_f64).into(),
            View::I64(x) => x.mapv(|x| x as f64).into(),
            View::Bool(x) => x.mapv(|x| f64::from(u8::from(x))).into(),
        })
    }

    fn nearest(x: f64) -> Self {
        x
    }
}

/// A tensor as a kernel reads it: where it is, or a copy.
#[derive(Debug)]
pub(crate) struct Tensor<'a, F, D: Dimension> {
    /// Axes along which all elements are the same have a length of 1 in a copy.
    array: CowArray<'a, F, D>,
    shape: D,
}

impl<'a, F: Copy, D: Dimension> Tensor<'a, F, D> {
    /// A tensor whose first `free` axes may have any strides, while the others are contiguous; copied unless it is so.
    /// Axes of stride 0, which broadcast a tensor, are not expanded in a copy.
    pub(super) fn new(array: CowArray<'a, F, D>, free: usize) -> Self {
        let shape = array.raw_dim();
        if contiguous(array.shape(), array.strides(), free) {
            return Self { array, shape };
        }
        let mut distinct = array;
        for axis in 0..free.min(distinct.ndim()) {
            if distinct.strides()[axis] == 0 && distinct.len_of(Axis(axis)) > 1 {
                distinct.slice_axis_inplace(Axis(axis), (..1).into());
            }
        }
        Self { array: distinct.as_standard_layout().into_owned().into(), shape }
    }

    pub(crate) fn view(&self) -> ArrayView<'_, F, D> {
        if self.array.shape() == self.shape.slice() {
            return self.array.view();
        }
        self.array.broadcast(self.shape.clone()).expect("axes of length 1 broadcast to those they stand for")
    }

    pub(crate) fn dim(&self) -> D::Pattern {
        self.shape.clone().into_pattern()
    }

    pub(crate) fn shape(&self) -> &[usize] {
        self.shape.slice()
    }
}

/// Whether the axes from `free` on are contiguous and in row-major order.
fn contiguous(shape: &[usize], strides: &[isize], free: usize) -> bool {
    let mut want = 1;
    for (n, stride) in shape.iter().zip(strides).skip(free).rev() {
        if *n > 1 && *stride != want {
            return false;
        }
        want *= *n as isize;
    }
    true
}

/// Flags as a kernel reads them: those of a boolean view, or which numbers are not 0.
pub(super) fn flags<'a>(x: &View<'a>) -> CowArray<'a, bool, IxDyn> {
    match x {
        View::F32(x) => x.mapv(|x| x != 0.0).into(),
        View::F64(x) => x.mapv(|x| x != 0.0).into(),
        View::Bf16(x) => x.mapv(|x| x.to_f32() != 0.0).into(),
        View::I64(x) => x.mapv(|x| x != 0).into(),
        View::Bool(x) => x.clone().into(),
    }
}

/// Non-negative integers, or the first element that is none, as text. Integers in f32 are exact up to 2²⁴, and larger
/// ones are refused.
pub(super) fn indices(x: &View<'_>) -> Result<Array<usize, IxDyn>, Cow<'static, str>> {
    let mut wrong = None;
    let mut of_real = |x: f64, most: u64| {
        if x.fract() != 0.0 || x < 0.0 || x > most as f64 {
            wrong.get_or_insert(x.to_string());
        }
        x as usize
    };
    let indices = match x {
        View::F32(x) => x.mapv(|x| of_real(f64::from(x), 1 << 24)),
        View::F64(x) => x.mapv(|x| of_real(x, 1 << 53)),
        View::Bf16(x) => x.mapv(|x| of_real(x.to_f64(), 1 << 8)),
        View::I64(x) => x.mapv(|x| {
            usize::try_from(x).unwrap_or_else(|_| {
                wrong.get_or_insert(x.to_string());
                0
            })
        }),
        View::Bool(_) => return Err("a tensor of flags".into()),
    };
    wrong.map_or(Ok(indices), |wrong| Err(wrong.into()))
}
