//! Block-quantised weights, as GGUF files have them.
//!
//! A row of weights is a whole number of blocks, each of 32 or 256 codes of a few bits with factors of its own. [`Blocks`]
//! is a matrix of them in bytes that may be shared with a mapped file; it is multiplied where it lies, without unpacking
//! it first. Each format's file has its layout.
//!
//! # The product
//!
//! The rows of `x` are rounded to 8 bits in blocks as long as those of the weights:
//! \\( \hat x_i = \mathrm{round}(x_i / a) \\) with \\( a = \max_i |x_i| / 127 \\). With the codes `c`, scales `s`, minima
//! `n` and factors `d`, `m` of a block of weights (`s = n = 1` in formats of 32),
//!
//! $$ S = \sum_k s_k \sum_{i \in k} c_i \hat x_i, \qquad M = \sum_k n_k \sum_{i \in k} \hat x_i $$
//!
//! are exact integers, and an output is one chain of multiply-adds with a single rounding each, over the blocks in
//! ascending order: `y ← fma(d · a, S, y)`, and, in formats with minima, `y ← fma(m · a, M, y)`. The bias is added last.
//! That is the definition for every instruction set, any number of rows and any number of threads: they all give the same
//! bits.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::Cx;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod format;
mod iq4_nl;
mod iq4_xs;
mod layout;
mod linear;
mod mxfp4;
mod operand;
mod portable;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod round;

pub use format::{Format, UnknownFormat};
use layout::{Layout, dequantise, with_layout};
pub(super) use linear::linear;
pub use round::{QuantiseError, quantise_into};

/// Bytes that several matrices may share: a vector, or a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A matrix `[out, in]` of one block format. Clones, and ranges of its rows, share its bytes.
#[derive(Clone)]
pub struct Blocks {
    format: Format,
    rows: usize,
    width: usize,
    bytes: SharedBytes,
    /// Where the first row starts in the bytes.
    start: usize,
    row_bytes: usize,
}

/// Why bytes or numbers are not a matrix of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlocksError {
    /// A row is no whole number of blocks.
    Width {
        /// The format.
        format: Format,
        /// The number of weights of a row.
        width: usize,
    },
    /// The number of bytes does not fit into memory addresses.
    Size {
        /// The format.
        format: Format,
        /// `[out, in]`
        shape: [usize; 2],
    },
    /// The range of bytes is longer or shorter than the matrix, or reaches beyond the bytes there are.
    Length {
        /// The format.
        format: Format,
        /// `[out, in]`
        shape: [usize; 2],
        /// The number of bytes the matrix takes.
        expected: usize,
        /// The number of bytes there are.
        found: usize,
    },
}

impl fmt::Display for BlocksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Width { format, width } => {
                write!(f, "a row of {width} weights is no whole number of {format} blocks of {}", format.block())
            }
            Self::Size { format, shape: [rows, width] } => {
                write!(f, "a {format} matrix of {rows} by {width} weights is too large")
            }
            Self::Length { format, shape: [rows, width], expected, found } => {
                write!(f, "a {format} matrix of {rows} by {width} weights takes {expected} bytes, not {found}")
            }
        }
    }
}

impl std::error::Error for BlocksError {}

impl Blocks {
    /// The matrix `[out, in]` in a range of shared bytes, which it must fill.
    pub fn new(
        format: Format,
        shape: [usize; 2],
        bytes: SharedBytes,
        range: Range<usize>,
    ) -> Result<Self, BlocksError> {
        let [rows, width] = shape;
        let row_bytes = row_bytes(format, width)?;
        let expected = rows.checked_mul(row_bytes).ok_or(BlocksError::Size { format, shape })?;
        let found = (*bytes).as_ref().get(range.clone()).map_or(0, <[u8]>::len);
        if found != expected {
            return Err(BlocksError::Length { format, shape, expected, found });
        }
        Ok(Self { format, rows, width, bytes, start: range.start, row_bytes })
    }

    /// The matrix `[out, in]` of all of `bytes`.
    pub fn from_vec(format: Format, shape: [usize; 2], bytes: Vec<u8>) -> Result<Self, BlocksError> {
        let range = 0..bytes.len();
        Self::new(format, shape, Arc::new(bytes), range)
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// `[out, in]`
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.width]
    }

    /// The number of weights.
    pub fn len(&self) -> usize {
        self.rows * self.width
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The blocks, row after row.
    pub fn bytes(&self) -> &[u8] {
        &(*self.bytes).as_ref()[self.start..][..self.rows * self.row_bytes]
    }

    /// The matrix of some of the rows. Panics if the range is not inside the rows.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let start = self.start + rows.start * self.row_bytes;
        Self { rows: rows.len(), start, bytes: Arc::clone(&self.bytes), ..*self }
    }

    /// Writes the weights, row after row, to the `rows · width` elements of `out`. Panics if there are not as many.
    pub fn dequantise(&self, cx: &Cx, out: &mut [f32]) {
        assert_eq!(out.len(), self.len(), "dequantise: output");
        if self.is_empty() {
            return;
        }
        let rows = out.chunks_mut(self.width).zip(self.bytes().chunks(self.row_bytes));
        cx.team.for_each(rows, |(out, row)| dequantise_row(self.format, row, out));
    }

    /// Writes the weights of row `i`, as many as the matrix is wide. Panics if there is no such row.
    pub fn dequantise_row(&self, i: usize, out: &mut [f32]) {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        assert_eq!(out.len(), self.width, "dequantise: output");
        dequantise_row(self.format, &self.bytes()[i * self.row_bytes..][..self.row_bytes], out);
    }
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks").field("format", &self.format).field("shape", &self.shape()).finish()
    }
}

/// The number of bytes of a row.
fn row_bytes(format: Format, width: usize) -> Result<usize, BlocksError> {
    if !width.is_multiple_of(format.block()) {
        return Err(BlocksError::Width { format, width });
    }
    format.row_bytes(width).ok_or(BlocksError::Size { format, shape: [1, width] })
}

/// Writes the weights of a row of blocks.
fn dequantise_row(format: Format, row: &[u8], out: &mut [f32]) {
    with_layout!(format, L => {
        for (block, out) in row.chunks_exact(L::BYTES).zip(out.chunks_exact_mut(L::BLOCK)) {
            dequantise::<L>(block, out);
        }
    });
}
