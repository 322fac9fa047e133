//! Matrices of 4- or 8-bit integers with scales and zero points of groups of columns, as GPTQ, AWQ and compressed-tensors
//! store them: a weight is `scale · (code − zero)`. Matrices of 8-bit floats with scales: a weight is `scale · code`.
//!
//! With symmetric codes these are the numbers of the block formats Q4_0 and Q8_0, and the same products run; with stored
//! zero points those of Q4_1, whose minimum `−scale · zero` is rounded to f16. Otherwise, and if the codes are floats, they
//! are read as floats.

use std::ops::Range;

use bytes::Bytes;
use half::{bf16, f16};
use longreach_simd::product::Format;
use safetensors::Dtype;

mod codes;
mod join;
mod packing;

pub(crate) use self::packing::Packing;

/// Columns of a block.
const BLOCK: usize = 32;
/// Rows that are unpacked together: the codes of GPTQ and AWQ of as many rows share cache lines.
const TILE: usize = 16;

/// A range of bytes of one of the files.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) range: Range<usize>,
}

impl Place {
    fn of<'a>(&self, files: &'a [(String, Bytes)]) -> &'a [u8] {
        &files[self.file].1[self.range.clone()]
    }
}

/// How the codes, scales and zero points of a matrix lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// compressed-tensors, packed: codes row after row in `[rows, words]`, scales `[rows, groups]`, zero points packed
    /// along rows in `[words, groups]`.
    Rows,
    /// compressed-tensors, 8-bit integers with sign: codes `[rows, width]`, scales and zero points `[rows, groups]`.
    Signed,
    /// GPTQ: codes packed along columns in `[words, rows]`, scales `[groups, rows]`, zero points packed along rows in
    /// `[groups, words]`. Whether the stored zero points are less by one.
    Gptq {
        /// The format is `gptq`, not `gptq_v2`.
        less_by_one: bool,
    },
    /// 8-bit floats, E4M3 without infinities: codes `[rows, width]`, scales `[blocks of rows, groups]`.
    Float8,
    /// AWQ: codes `[width, words]` and zero points `[groups, words]` packed along rows, eight rows a word in the order
    /// 0 2 4 6 1 3 5 7; scales `[groups, rows]`.
    Awq,
}

/// A matrix `[rows, width]` of codes. Its sizes agree with those of the tensors.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    order: Order,
    shape: [usize; 2],
    /// 4 or 8.
    bits: usize,
    /// Scales of a row.
    groups: usize,
    /// The columns of a group; the last may have fewer.
    columns: usize,
    /// The rows that share their scales; the last may be fewer.
    rows: usize,
    codes: Place,
    scales: Place,
    /// The type of the scales: F32, F16 or BF16.
    scale_type: Dtype,
    /// Zero points; without them every one is half of the range of codes.
    zeros: Option<Place>,
    /// The group of every column, as i32 below `groups`; without them a group is a range of columns.
    groups_of: Option<Place>,
    /// The block format of the same numbers.
    format: Option<Format>,
}

impl Packed {
    /// The block format in which its products run; `None` if there is none.
    pub(super) fn format(&self) -> Option<Format> {
        self.format
    }

    /// Its name and the bytes it takes.
    pub(super) fn type_and_bytes(&self) -> (String, u64) {
        let all = [Some(&self.codes), Some(&self.scales), self.zeros.as_ref(), self.groups_of.as_ref()];
        let name = if self.order == Order::Float8 { "float8".to_owned() } else { format!("int{}", self.bits) };
        (name, all.into_iter().flatten().map(|place| place.range.len() as u64).sum())
    }

    /// Where the codes are.
    pub(super) fn codes(&self) -> &Place {
        &self.codes
    }

    /// The numbers of a range of rows.
    pub(super) fn numbers(&self, files: &[(String, Bytes)], rows: Range<usize>) -> Vec<f32> {
        let width = self.shape[1];
        let mut numbers = vec![0.0; rows.len() * width];
        let groups = self.columns(files);
        let of_code: [f32; 256] =
            std::array::from_fn(|code| if self.order == Order::Float8 { float8(code as u8) } else { code as f32 });
        let cx = longreach_burn::context();
        cx.team.for_each(numbers.chunks_mut(TILE * width).enumerate(), |(tile, numbers)| {
            let first = rows.start + tile * TILE;
            let mut codes = vec![0; numbers.len()];
            self.unpack(files, first..first + numbers.len() / width, &mut codes);
            for (i, (numbers, codes)) in numbers.chunks_mut(width).zip(codes.chunks(width)).enumerate() {
                let of: Vec<(f32, f32)> = (0..self.groups)
                    .map(|group| (self.scale(files, first + i, group), self.zero(files, first + i, group) as f32))
                    .collect();
                for ((x, code), group) in numbers.iter_mut().zip(codes).zip(&groups) {
                    let (scale, zero) = of[*group];
                    *x = scale * (of_code[usize::from(*code)] - zero);
                }
            }
        });
        numbers
    }

    /// The blocks of rows, one row after another; `None` if there is no format for them.
    pub(super) fn blocks(&self, files: &[(String, Bytes)], rows: Range<usize>) -> Option<Vec<u8>> {
        let (format, width) = (self.format?, self.shape[1]);
        let row = format.row_bytes(width)?;
        let mut bytes = vec![0; rows.len() * row];
        let cx = longreach_burn::context();
        cx.team.for_each(bytes.chunks_mut(TILE * row).enumerate(), |(tile, bytes)| {
            let first = rows.start + tile * TILE;
            let mut codes = vec![0; bytes.len() / row * width];
            self.unpack(files, first..first + bytes.len() / row, &mut codes);
            for (i, (bytes, codes)) in bytes.chunks_mut(row).zip(codes.chunks(width)).enumerate() {
                let blocks = bytes.chunks_mut(row / (width / BLOCK)).zip(codes.chunks(BLOCK)).enumerate();
                blocks.for_each(|(block, (bytes, codes))| {
                    let group = block * BLOCK / self.columns;
                    let (scale, zero) = (self.scale(files, first + i, group), self.zero(files, first + i, group));
                    write_block(format, scale, zero, codes, bytes);
                });
            }
        });
        Some(bytes)
    }

    /// The group of every column.
    fn columns(&self, files: &[(String, Bytes)]) -> Vec<usize> {
        let width = self.shape[1];
        match &self.groups_of {
            Some(place) => place.of(files).as_chunks::<4>().0.iter().map(|x| i32::from_le_bytes(*x) as usize).collect(),
            None => (0..width).map(|column| column / self.columns).collect(),
        }
    }

    fn scale(&self, files: &[(String, Bytes)], row: usize, group: usize) -> f32 {
        let at = match self.order {
            Order::Rows | Order::Signed | Order::Float8 => row / self.rows * self.groups + group,
            Order::Gptq { .. } | Order::Awq => group * self.shape[0] + row,
        };
        number(self.scales.of(files), self.scale_type, at)
    }
}

/// The number at an index of a tensor of floats.
fn number(bytes: &[u8], dtype: Dtype, at: usize) -> f32 {
    let two = || [bytes[2 * at], bytes[2 * at + 1]];
    match dtype {
        Dtype::F16 => f16::from_le_bytes(two()).to_f32(),
        Dtype::BF16 => bf16::from_le_bytes(two()).to_f32(),
        _ => bytes.as_chunks::<4>().0.get(at).map_or(f32::NAN, |x| f32::from_le_bytes(*x)),
    }
}

/// The number of a code of E4M3: a sign, four bits of exponent, three of mantissa; no infinities, and NaN where all bits but
/// the sign are set. OCP 8-bit Floating Point Specification 1.0.
fn float8(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code < 0x80 { size } else { -size }
}

/// Writes the block of 32 codes.
fn write_block(format: Format, scale: f32, zero: i32, codes: &[u8], bytes: &mut [u8]) {
    bytes[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    let halves = match format {
        Format::Q8_0 => {
            bytes[2..].iter_mut().zip(codes).for_each(|(byte, code)| *byte = code.wrapping_sub(128));
            return;
        }
        Format::Q4_1 => {
            bytes[2..4].copy_from_slice(&f16::from_f32(-scale * zero as f32).to_le_bytes());
            &mut bytes[4..]
        }
        _ => &mut bytes[2..],
    };
    let (low, high) = codes.split_at(BLOCK / 2);
    halves.iter_mut().zip(low.iter().zip(high)).for_each(|(byte, (low, high))| *byte = low | high << 4);
}
