//! The product with AVX-512 and VNNI, which multiplies unsigned by signed bytes and adds four products to a lane.
//!
//! The codes of weights are the unsigned side. Those of signed formats are raised by an offset, which the sums of `x`
//! take off again. A vector holds the codes in the order in which they unpack with the fewest instructions, and `x` is
//! brought into that order when it is rounded: in pieces of sixteen numbers, [`Large::PIECES`] and [`SMALL_PIECES`].
//!
//! Few rows are multiplied by the blocks where they lie, four rows of weights at a time, which share the last additions
//! across lanes ([`few_large`], [`few_small`]). For many rows, the codes of 32 rows of weights are first unpacked into a
//! panel that stays in the cache ([`many_large`], [`many_small`]).

use std::arch::x86_64::*;

use super::layout::Layout;
use super::operand::{Operand, Plan, SLOTS};
use super::{Format, iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

mod few_large;
mod few_small;
mod many_large;
mod many_small;
mod pack;
pub(super) mod unpack;

/// The most rows of `x` that meet the blocks where they lie.
pub(super) const FEW: usize = 4;

/// Columns of a panel.
pub(super) const PANEL: usize = 32;

/// A format with 256 weights in a block, which is a group of its own.
pub(super) trait Large: Layout {
    /// What is added to the codes to make them unsigned: a power of two, or 0.
    const OFFSET: i32;
    /// Whether scales may be negative.
    const SIGNED: bool;
    /// Whether four products of a code and a rounded `x` add up to 16 bits.
    const NARROW: bool;
    /// Whether the products of half a block, with their scales, add up to 24 bits, so that f32 hold the sums exactly.
    const HALVES: bool;
    /// Adjacent pieces that share a scale: 1 or 2.
    const RUN: usize;
    /// Which sixteen weights of the block are at which place of the four vectors.
    const PIECES: [u8; 16];
    /// Where the factor is; the minima's follows it.
    const FACTORS: usize;
    /// Which bytes of the scales go to which 16-bit lanes, for the sums of two vectors, see [`spread`].
    const SPREAD: [[u8; 64]; 2] = spread(&Self::PIECES, Self::RUN, Self::SIGNED);

    /// The codes, unsigned.
    ///
    /// # Safety
    /// There are [`Layout::BYTES`] bytes at the address, and the CPU has the features.
    unsafe fn codes(block: *const u8) -> [__m512i; 4];

    /// The scales and the minima, bytes in the order of the sub-blocks; the latter only in formats that have them.
    ///
    /// # Safety
    /// As [`Large::codes`].
    unsafe fn scales(block: *const u8) -> (__m128i, __m128i);
}

/// A format with 32 weights in a block; four blocks are a group. Their factor comes first, and the minimum second.
pub(super) trait Small: Layout {
    /// What is added to the codes to make them unsigned.
    const OFFSET: i32;

    /// The codes of four blocks, unsigned: the first halves of each, and the second ones.
    ///
    /// # Safety
    /// There are four blocks at the address, and the CPU has the features.
    unsafe fn codes(blocks: *const u8) -> [__m512i; 2];

    /// The bits of a block's factor.
    ///
    /// # Safety
    /// There is a block at the address.
    #[inline(always)]
    unsafe fn factor(block: *const u8) -> u16 {
        // SAFETY: a block has more than two bytes.
        u16::from_le(unsafe { block.cast::<u16>().read_unaligned() })
    }

    /// Factors from their bits.
    ///
    /// # Safety
    /// The CPU has the features.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    unsafe fn widen(bits: __m256i) -> __m512 {
        _mm512_cvtph_ps(bits)
    }
}

/// The pieces of a group of four blocks of 32.
const SMALL_PIECES: [u8; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Where the sums of pairs of vectors find their scales.
///
/// The lanes of two vectors of 32-bit sums, narrowed to 16 bits, alternate: four of the first vector's place, four of
/// the second's, for each quarter of the vectors. Signed scales go to the upper bytes, from which a shift extends them.
const fn spread(pieces: &[u8; 16], run: usize, signed: bool) -> [[u8; 64]; 2] {
    let mut spread = [[0x80; 64]; 2];
    let mut at = 0;
    while at < 64 {
        let (pair, quarter, slot) = (at / 32, at / 8 % 4, at % 8);
        let place = 4 * (2 * pair + slot / 4) + quarter;
        spread[pair][16 * quarter + 2 * slot + signed as usize] = pieces[place] / run as u8;
        at += 1;
    }
    spread
}

/// A block of the product: some rows of `x` by some rows of weights.
pub(super) struct Task<'a> {
    pub(super) x: &'a Operand,
    /// The first row of `x`.
    pub(super) row: usize,
    /// The rows of weights.
    pub(super) w: &'a [u8],
    pub(super) row_bytes: usize,
    pub(super) bias: Option<&'a [f32]>,
}

impl Task<'_> {
    /// The number of rows of weights.
    #[inline(always)]
    fn columns(&self) -> usize {
        self.w.len() / self.row_bytes
    }

    /// The addresses of `N` rows of weights from `j` on. Missing rows repeat the last one.
    #[inline(always)]
    fn rows<const N: usize>(&self, j: usize) -> [*const u8; N] {
        let last = self.columns() - 1;
        let mut rows = [self.w.as_ptr(); N];
        for (r, at) in rows.iter_mut().enumerate() {
            *at = self.w[(j + r).min(last) * self.row_bytes..][..self.row_bytes].as_ptr();
        }
        rows
    }
}

/// Rows of the left factor, from one of their groups on.
///
/// This and what is below have no vectors and enable no instructions: closures in functions that do are not inlined.
#[derive(Clone, Copy)]
struct Left<const N: usize> {
    codes: [*const i8; N],
    sums: [*const i16; N],
    starts: [*const i32; N],
    factors: [*const f32; N],
}

impl Task<'_> {
    /// `count` rows of the left factor, from row `i` of the task and group `g` on. Missing rows repeat the last one.
    #[inline(always)]
    fn left<const N: usize>(&self, i: usize, count: usize, g: usize) -> Left<N> {
        let Plan { block, group, offset, .. } = self.x.plan;
        let mut left = Left {
            codes: [std::ptr::null(); N],
            sums: [std::ptr::null(); N],
            starts: [std::ptr::null(); N],
            factors: [std::ptr::null(); N],
        };
        for r in 0..N {
            let row = self.row + i + r.min(count - 1);
            left.codes[r] = self.x.codes(row)[g * group..].as_ptr();
            left.sums[r] = self.x.sums(row)[g * SLOTS..].as_ptr();
            left.factors[r] = self.x.factors(row)[g * (group / block)..].as_ptr();
            if offset != 0 {
                left.starts[r] = self.x.starts(row)[g * SLOTS..].as_ptr();
            }
        }
        left
    }
}

/// Addresses, each moved by as many elements.
#[inline(always)]
fn moved<T, const N: usize>(at: [*const T; N], by: usize) -> [*const T; N] {
    at.map(|at| at.wrapping_add(by))
}

/// The numbers of 16 bits at an offset of four blocks, in one of 64.
///
/// # Safety
/// There are two bytes at the offset of each block.
#[inline(always)]
unsafe fn words(blocks: [*const u8; 4], at: usize) -> i64 {
    // SAFETY: guaranteed by the caller; the loads are unaligned.
    packed(blocks.map(|block| unsafe { block.add(at).cast::<u16>().read_unaligned() }))
}

/// As [`words`], of the factors of blocks of 32.
///
/// # Safety
/// There is a block at the offset of each.
#[inline(always)]
unsafe fn factors<F: Small>(blocks: [*const u8; 4], at: usize) -> i64 {
    // SAFETY: guaranteed by the caller.
    packed(blocks.map(|block| unsafe { F::factor(block.add(at)) }))
}

/// Four numbers of 16 bits in one of 64.
#[inline(always)]
fn packed(bits: [u16; 4]) -> i64 {
    let [a, b, c, d] = bits.map(|bits| u64::from(u16::from_le(bits)));
    (a | b << 16 | c << 32 | d << 48) as i64
}

/// Calls a generic function with the format's layout, `$large` or `$small`.
macro_rules! by_kind {
    ($format:expr, $large:ident, $small:ident $(, $argument:expr)*) => {
        match $format {
            Format::Q4_0 => $small::<q4_0::Q4_0>($($argument),*),
            Format::Q4_1 => $small::<q4_1::Q4_1>($($argument),*),
            Format::Q5_0 => $small::<q5_0::Q5_0>($($argument),*),
            Format::Q5_1 => $small::<q5_1::Q5_1>($($argument),*),
            Format::Q8_0 => $small::<q8_0::Q8_0>($($argument),*),
            Format::Iq4Nl => $small::<iq4_nl::Iq4Nl>($($argument),*),
            Format::Mxfp4 => $small::<mxfp4::Mxfp4>($($argument),*),
            Format::Q2K => $large::<q2_k::Q2K>($($argument),*),
            Format::Q3K => $large::<q3_k::Q3K>($($argument),*),
            Format::Q4K => $large::<q4_k::Q4K>($($argument),*),
            Format::Q5K => $large::<q5_k::Q5K>($($argument),*),
            Format::Q6K => $large::<q6_k::Q6K>($($argument),*),
            Format::Iq4Xs => $large::<iq4_xs::Iq4Xs>($($argument),*),
        }
    };
}

/// How these kernels read the left factor.
pub(super) fn plan(format: Format) -> Plan {
    fn large<F: Large>() -> Plan {
        Plan { block: 256, group: 256, sub: 16 * F::RUN, pieces: const { &F::PIECES }, offset: F::OFFSET }
    }
    fn small<F: Small>() -> Plan {
        Plan { block: 32, group: 128, sub: 32, pieces: &SMALL_PIECES, offset: F::OFFSET }
    }
    by_kind!(format, large, small)
}

/// The product of at most [`FEW`] rows.
///
/// # Safety
/// The CPU must have AVX-512 F, BW, DQ, VL and VNNI, and the left factor must be made by [`plan`].
pub(super) unsafe fn few(format: Format, task: &Task<'_>, out: &mut [&mut [f32]]) {
    unsafe fn large<F: Large>(task: &Task<'_>, out: &mut [&mut [f32]]) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match out.len() {
                1 => few_large::product::<F, 1>(task, out),
                2 => few_large::product::<F, 2>(task, out),
                3 => few_large::product::<F, 3>(task, out),
                _ => few_large::product::<F, FEW>(task, out),
            }
        }
    }
    unsafe fn small<F: Small>(task: &Task<'_>, out: &mut [&mut [f32]]) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match out.len() {
                1 => few_small::product::<F, 1>(task, out),
                2 => few_small::product::<F, 2>(task, out),
                3 => few_small::product::<F, 3>(task, out),
                _ => few_small::product::<F, FEW>(task, out),
            }
        }
    }
    // SAFETY: guaranteed by the caller.
    unsafe { by_kind!(format, large, small, task, out) }
}

/// The product of many rows.
///
/// # Safety
/// As [`few`].
pub(super) unsafe fn many(format: Format, task: &Task<'_>, out: &mut [&mut [f32]]) {
    use many_large::product as large;
    use many_small::product as small;
    // SAFETY: guaranteed by the caller.
    unsafe { by_kind!(format, large, small, task, out) }
}
