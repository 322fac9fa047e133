//! Quantising: rounds numbers to blocks, and looks for the factors that lose least.
//!
//! Rows are independent. Without importances, each error counts with a weight of its own number's size; with them, also
//! with the mean square of what the input channel carries.

use std::fmt;

use half::f16;

use super::layout::{Layout, Wide, with_layout};
use super::{Blocks, BlocksError, Format, row_bytes};
use crate::{Cx, Isa};

pub(super) mod fit;
pub(super) mod large;
pub(super) mod small;

/// Why numbers are not quantised.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum QuantiseError {
    /// The rows are no whole number of blocks, or the lengths do not agree.
    Shape(BlocksError),
    /// A number is infinite, or none.
    NotFinite {
        /// The row.
        row: usize,
        /// The place in the row.
        column: usize,
        /// The number.
        value: f32,
    },
    /// A number is so large that the format's factors cannot express it.
    TooLarge {
        /// The format.
        format: Format,
        /// The row.
        row: usize,
        /// The first place of the block in the row.
        column: usize,
    },
    /// There are not as many importances as a row has numbers.
    Importances {
        /// The number of numbers of a row.
        expected: usize,
        /// The number of importances.
        found: usize,
    },
    /// An importance is negative, infinite or no number.
    Importance {
        /// The place in the row.
        column: usize,
        /// The importance.
        value: f32,
    },
}

impl fmt::Display for QuantiseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => error.fmt(f),
            Self::NotFinite { row, column, value } => {
                write!(f, "number {column} of row {row} is {value}, which cannot be quantised")
            }
            Self::TooLarge { format, row, column } => {
                write!(f, "numbers from {column} on of row {row} are too large for {format}")
            }
            Self::Importances { expected, found } => {
                write!(f, "there are {found} importances for rows of {expected} numbers")
            }
            Self::Importance { column, value } => {
                write!(f, "the importance of channel {column} is {value}; importances are finite and not negative")
            }
        }
    }
}

impl std::error::Error for QuantiseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Shape(error) => Some(error),
            _ => None,
        }
    }
}

/// No format with factors in half precision has larger numbers, and the fourth powers of these do not overflow.
const LARGEST: f32 = 1e9;

/// What the errors of a row count.
#[derive(Clone, Copy)]
pub(super) struct Weighting<'a> {
    /// One for each number.
    pub(super) importance: Option<&'a [f32]>,
    /// The mean square of the row.
    pub(super) mean_square: f32,
    /// The instruction set of the searches, which all find the same.
    pub(super) isa: Isa,
}

/// A format to which numbers are rounded.
pub(super) trait Round: Layout {
    /// Writes a block of finite numbers, of which the importances of the weighting are those.
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]);
}

impl Blocks {
    /// Rounds `w: [out, in]`, with rows of `width` numbers, to blocks. `importance` has the mean square of what each input
    /// channel carries, and may be on any scale.
    pub fn quantise(
        cx: &Cx,
        format: Format,
        w: &[f32],
        width: usize,
        importance: Option<&[f32]>,
    ) -> Result<Self, QuantiseError> {
        let row_bytes = row_bytes(format, width).map_err(QuantiseError::Shape)?;
        let rows = w.len().checked_div(width).unwrap_or(0);
        let mut bytes = vec![0; rows * row_bytes];
        quantise_into(cx, format, w, width, importance, &mut bytes)?;
        Self::from_vec(format, [rows, width], bytes).map_err(QuantiseError::Shape)
    }
}

/// As [`Blocks::quantise`], into bytes of the caller's, as many as the blocks of the rows take: for matrices that are
/// written part by part.
pub fn quantise_into(
    cx: &Cx,
    format: Format,
    w: &[f32],
    width: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantiseError> {
    let row_bytes = row_bytes(format, width).map_err(QuantiseError::Shape)?;
    let rows = w.len().checked_div(width).unwrap_or(0);
    let expected = rows * row_bytes;
    if rows * width != w.len() || expected != out.len() {
        let error = BlocksError::Length { format, shape: [rows, width], expected, found: out.len() };
        return Err(QuantiseError::Shape(error));
    }
    if let Some(importance) = importance {
        if importance.len() != width {
            return Err(QuantiseError::Importances { expected: width, found: importance.len() });
        }
        if let Some(column) = importance.iter().position(|x| !(x.is_finite() && *x >= 0.0)) {
            return Err(QuantiseError::Importance { column, value: importance[column] });
        }
    }
    if let Some(at) = w.iter().position(|x| !x.is_finite()) {
        return Err(QuantiseError::NotFinite { row: at / width, column: at % width, value: w[at] });
    }
    if let Some(at) = w.iter().position(|x| x.abs() > LARGEST).filter(|_| format != Format::Mxfp4) {
        let column = at % width / format.block() * format.block();
        return Err(QuantiseError::TooLarge { format, row: at / width, column });
    }
    if expected == 0 {
        return Ok(());
    }
    // Their scale changes nothing, but sums of large ones might overflow.
    let importance = importance.map(|importance| {
        let by = inverse(importance.iter().fold(0.0, |a: f32, b| a.max(*b)));
        importance.iter().map(|x| x * by).collect::<Vec<f32>>()
    });
    let importance = importance.as_deref();
    cx.team.for_each(w.chunks_exact(width).zip(out.chunks_exact_mut(row_bytes)), |(x, out)| {
        with_layout!(format, L => row::<L>(cx.isa, x, importance, out));
    });
    // A factor beyond the largest half has become infinite.
    for (row, out) in out.chunks_exact(row_bytes).enumerate() {
        if let Some(block) = with_layout!(format, L => first_infinite::<L>(out)) {
            return Err(QuantiseError::TooLarge { format, row, column: block * format.block() });
        }
    }
    Ok(())
}

/// The first block whose factors are not finite.
fn first_infinite<L: Layout>(row: &[u8]) -> Option<usize> {
    let mut wide = Wide::EMPTY;
    row.chunks_exact(L::BYTES).position(|block| {
        L::read(block, &mut wide);
        !(wide.factor.is_finite() && wide.base.is_finite())
    })
}

/// Rounds a row.
fn row<L: Round>(isa: Isa, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let mean_square = match importance {
        Some(_) => x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32,
        None => 0.0,
    };
    for (b, (x, block)) in x.chunks_exact(L::BLOCK).zip(out.chunks_exact_mut(L::BYTES)).enumerate() {
        let importance = importance.map(|importance| &importance[b * L::BLOCK..][..L::BLOCK]);
        L::round(x, Weighting { importance, mean_square, isa }, block);
    }
}

/// Writes a number in half precision.
#[inline(always)]
pub(super) fn put_half(block: &mut [u8], at: usize, x: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}

/// A number as it is stored in half precision.
#[inline(always)]
pub(super) fn as_half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// `1 / x`, or 0 where that is infinite.
#[inline(always)]
pub(super) fn inverse(x: f32) -> f32 {
    let y = 1.0 / x;
    if y.is_finite() { y } else { 0.0 }
}

/// Writes the first half of the codes to the low nibbles of `bytes` and the second to the high ones.
#[inline(always)]
pub(super) fn put_nibbles(codes: &[u8], bytes: &mut [u8]) {
    let (low, high) = codes.split_at(bytes.len());
    for (byte, (low, high)) in bytes.iter_mut().zip(low.iter().zip(high)) {
        *byte = low & 15 | high << 4;
    }
}
