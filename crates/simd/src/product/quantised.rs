//! A quantised matrix of either kind.

use std::ops::Range;

use super::{Blocks, Int8, Weights};
use crate::Cx;

/// A matrix `[out, in]` in integers of a few bits. It is multiplied by, and not trained.
#[derive(Clone, Debug)]
pub enum Quantised {
    /// 8-bit integers with one scale per row.
    Int8(Int8),
    /// Blocks of a few bits with scales of their own.
    Blocks(Blocks),
}

impl Quantised {
    /// `[out, in]`
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Int8(w) => w.shape(),
            Self::Blocks(w) => w.shape(),
        }
    }

    /// The factor of a product.
    pub fn weights(&self) -> Weights<'_> {
        match self {
            Self::Int8(w) => Weights::Int8(w),
            Self::Blocks(w) => Weights::Blocks(w),
        }
    }

    /// The matrix of some of the rows; `None` for 8-bit integers, whose rows are packed together. Panics if the range is
    /// not inside the rows.
    pub fn rows(&self, rows: Range<usize>) -> Option<Self> {
        match self {
            Self::Int8(_) => None,
            Self::Blocks(w) => Some(Self::Blocks(w.rows(rows))),
        }
    }

    /// Writes the weights of row `i`, as many as the matrix is wide. Panics if there is no such row.
    pub fn dequantise_row(&self, i: usize, out: &mut [f32]) {
        match self {
            Self::Int8(w) => w.dequantise_row(i, out),
            Self::Blocks(w) => w.dequantise_row(i, out),
        }
    }

    /// The weights in f32, row after row.
    pub fn dequantise(&self, cx: &Cx) -> Vec<f32> {
        let [rows, width] = self.shape();
        let mut out = vec![0.0; rows * width];
        if width > 0 {
            cx.team.for_each(out.chunks_mut(width).enumerate(), |(i, row)| self.dequantise_row(i, row));
        }
        out
    }
}
