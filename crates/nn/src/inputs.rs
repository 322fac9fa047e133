//! What matrices are multiplied by: sums of squares over the rows of their inputs, which say how much each input channel
//! matters.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;

/// The squares of the inputs of a matrix, added up while a model runs. A clone is the same sum.
#[derive(Clone, Debug)]
pub struct Inputs(Arc<Mutex<Squares>>);

/// Sums over rows of inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Squares {
    /// For each channel the sum of the squares.
    pub sums: Vec<f64>,
    /// The number of rows.
    pub rows: u64,
}

impl Inputs {
    /// Nothing yet, of this many channels.
    pub fn new(channels: usize) -> Self {
        Self(Arc::new(Mutex::new(Squares { sums: vec![0.0; channels], rows: 0 })))
    }

    /// The sums so far.
    pub fn squares(&self) -> Squares {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds the rows `[.., in]` of an input, but those of zeros.
    pub(crate) fn add<const D: usize>(&self, x: &Tensor<D>) {
        let mut squares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let width = squares.sums.len().max(1);
        let numbers: Vec<f32> = x.to_data().iter::<f32>().collect();
        // Rows of zeros pad what few tokens an expert has.
        for row in numbers.chunks(width).filter(|row| row.iter().any(|x| *x != 0.0)) {
            squares.sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x).powi(2));
            squares.rows += 1;
        }
    }
}
