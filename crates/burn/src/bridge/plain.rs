//! Tensors in plain memory, which the kernels of the host return.

use ndarray::{ArrayView, ArrayViewMut, Dimension, IxDyn};

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
