//! The product with AVX2, for CPUs without VNNI.
//!
//! Codes of weights are unpacked to signed bytes in their own order, 32 to a vector. `vpmaddubsw` multiplies unsigned by signed
//! bytes, so that a product is `|c|` by `x` with the sign of `c`: pairs of products are at most 2 · 128 · 127, which 16 bits hold, and
//! `vpmaddwd` multiplies them by their scale and adds pairs in 32 bits. All sums within a block are exact.
//!
//! Four rows of weights are multiplied at a time, which share the additions across lanes, by up to [`ROWS`] rows of `x`. More
//! rows meet the same four rows of weights in turns, while these are in the first cache.

use std::arch::x86_64::*;

use super::layout::Layout;
use super::operand::{Operand, SLOTS};
use super::{Blocks, Format, iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};
use crate::cache::prefetch_ahead;

mod unpack;

/// Rows of `x` that meet codes while these are in registers.
const ROWS: usize = 4;

/// Rows of `x` that meet all rows of weights of a task before the next ones do, so that they stay in the second cache.
const CHUNK: usize = 32;

/// Rows of weights that are multiplied together.
const COLUMNS: usize = 4;

/// How a format is unpacked.
trait Unpack: Layout {
    /// Whether codes may be negative.
    const SIGNED: bool = true;
    /// Where the factor is.
    const FACTOR: usize = 0;
    /// Where the factor of the minima is.
    const BASE: usize = 2;

    /// The codes, 32 to a vector; a block of 32 has the first alone.
    ///
    /// # Safety
    /// The CPU has the features, and there is a block at the address.
    unsafe fn codes(block: *const u8) -> [__m256i; 8];

    /// The scales and minima in 16 bits, in the order of the sub-blocks; those that a format does not have are 0. Blocks of 32 have
    /// none.
    ///
    /// # Safety
    /// As [`Unpack::codes`].
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(block: *const u8) -> [__m256i; 2] {
        let _ = block;
        [_mm256_setzero_si256(); 2]
    }

    /// The factors of four blocks.
    ///
    /// # Safety
    /// As [`Unpack::codes`], for each address.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factors(blocks: [*const u8; COLUMNS]) -> __m128 {
        // SAFETY: guaranteed by the caller.
        unsafe { halves(blocks, Self::FACTOR) }
    }
}

/// Which bytes of the scales, 16 bits each, belong to the pairs of each vector of codes: the same for all 32 codes, or one for each
/// half. Blocks of 256 in sub-blocks of 16 find those of the last four vectors among the upper eight.
const fn spread(sub: usize) -> [[u8; 32]; 8] {
    let mut spread = [[0; 32]; 8];
    let mut v = 0;
    while v < 8 {
        let mut at = 0;
        while at < 32 {
            let scale = if sub == 32 { v } else { (2 * v + at / 16) % 8 };
            spread[v][at] = (2 * scale + at % 2) as u8;
            at += 1;
        }
        v += 1;
    }
    spread
}

/// The half-precision numbers at an offset of four blocks.
///
/// # Safety
/// The CPU has the features, and there are two bytes at the offset of each block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn halves(blocks: [*const u8; COLUMNS], at: usize) -> __m128 {
    let mut bits = 0;
    for (r, block) in blocks.into_iter().enumerate() {
        // SAFETY: guaranteed by the caller; the load is unaligned.
        bits |= u64::from(u16::from_le(unsafe { block.add(at).cast::<u16>().read_unaligned() })) << (16 * r);
    }
    _mm_cvtph_ps(_mm_cvtsi64_si128(bits as i64))
}

/// The sums of the lanes of four vectors.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sums([a, b, c, d]: [__m256i; COLUMNS]) -> __m128i {
    let all = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all))
}

/// The product of all rows of `x` with the rows `w` of weights, to the columns `out`.
///
/// # Safety
/// The CPU must have AVX2, FMA and F16C, and the left factor must be made by [`portable::plan`](super::portable::plan).
pub(super) unsafe fn product(x: &Operand, w: &Blocks, bias: Option<&[f32]>, out: &mut [&mut [f32]]) {
    macro_rules! by_format {
        ($($name:ident => $layout:ty),* $(,)?) => {
            match w.format {
                // SAFETY: guaranteed by the caller.
                $(Format::$name => unsafe { rows::<$layout>(x, w, bias, out) },)*
            }
        };
    }
    by_format!(
        Q4_0 => q4_0::Q4_0,
        Q4_1 => q4_1::Q4_1,
        Q5_0 => q5_0::Q5_0,
        Q5_1 => q5_1::Q5_1,
        Q8_0 => q8_0::Q8_0,
        Iq4Nl => iq4_nl::Iq4Nl,
        Mxfp4 => mxfp4::Mxfp4,
        Q2K => q2_k::Q2K,
        Q3K => q3_k::Q3K,
        Q4K => q4_k::Q4K,
        Q5K => q5_k::Q5K,
        Q6K => q6_k::Q6K,
        Iq4Xs => iq4_xs::Iq4Xs,
    );
}

/// As [`product`], for one format.
///
/// # Safety
/// As [`product`].
unsafe fn rows<F: Unpack>(x: &Operand, w: &Blocks, bias: Option<&[f32]>, out: &mut [&mut [f32]]) {
    assert!(x.plan.block == F::BLOCK && x.plan.group == F::BLOCK && x.groups * F::BYTES == w.row_bytes);
    for (n, out) in out.chunks_mut(CHUNK).enumerate() {
        for j in (0..w.rows).step_by(COLUMNS) {
            // SAFETY: guaranteed by the caller, and by the assertion.
            unsafe { columns::<F>(x, n * CHUNK, w, bias, j, out) };
        }
    }
}

/// The product of the rows of `x` from row `first` on, as many as `out` has, with four rows of weights from row `j` on.
///
/// # Safety
/// As [`product`]; the blocks of a row are as many as the left factor has groups, of one block each.
unsafe fn columns<F: Unpack>(
    x: &Operand,
    first: usize,
    w: &Blocks,
    bias: Option<&[f32]>,
    j: usize,
    out: &mut [&mut [f32]],
) {
    let bytes = w.bytes();
    let mut four = [bytes; COLUMNS];
    for (r, row) in four.iter_mut().enumerate() {
        // Missing rows repeat the last one.
        *row = &bytes[(j + r).min(w.rows - 1) * w.row_bytes..][..w.row_bytes];
    }
    for (n, out) in out.chunks_mut(ROWS).enumerate() {
        let (first, mut y) = (first + n * ROWS, [[0.0; COLUMNS]; ROWS]);
        // SAFETY: guaranteed by the caller.
        unsafe {
            match out.len() {
                1 => tile::<F, 1>(x, first, four, &mut y),
                2 => tile::<F, 2>(x, first, four, &mut y),
                3 => tile::<F, 3>(x, first, four, &mut y),
                _ => tile::<F, ROWS>(x, first, four, &mut y),
            }
        }
        for (y, out) in y.iter().zip(out) {
            for (c, (to, y)) in out[j..].iter_mut().zip(y).enumerate() {
                *to = bias.map_or(*y, |bias| y + bias[j + c]);
            }
        }
    }
}

/// The product of `M` rows of `x`, from row `first` on, with four rows of weights.
///
/// # Safety
/// The CPU has the features; the rows of weights have as many blocks as the left factor has groups, of one block each.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<F: Unpack, const M: usize>(
    x: &Operand,
    first: usize,
    rows: [&[u8]; COLUMNS],
    out: &mut [[f32; COLUMNS]; ROWS],
) {
    let (mut codes, mut factors, mut sums_of_x) = ([std::ptr::null(); M], [&[][..]; M], [std::ptr::null(); M]);
    for i in 0..M {
        codes[i] = x.codes(first + i).as_ptr();
        factors[i] = x.factors(first + i);
        sums_of_x[i] = x.sums(first + i).as_ptr();
    }
    let ahead = COLUMNS * rows[0].len().max(1024);
    let mut y = [_mm_setzero_ps(); M];
    for b in 0..x.groups {
        let mut blocks = [std::ptr::null(); COLUMNS];
        for (block, row) in blocks.iter_mut().zip(rows) {
            let bytes = &row[b * F::BYTES..][..F::BYTES];
            // The hardware follows a row, but not to the next.
            prefetch_ahead(bytes, ahead);
            *block = bytes.as_ptr();
        }
        let (mut products, mut minima) =
            ([[_mm256_setzero_si256(); COLUMNS]; M], [[_mm256_setzero_si256(); COLUMNS]; M]);
        for r in 0..COLUMNS {
            // SAFETY: there is a block at the address, and a group of every row of the left factor.
            unsafe { block::<F, M>(blocks[r], codes, sums_of_x, b, r, &mut products, &mut minima) };
        }
        // SAFETY: there is a block at each address.
        let d = unsafe { F::factors(blocks) };
        for i in 0..M {
            let a = _mm_set1_ps(factors[i][b]);
            y[i] = _mm_fmadd_ps(_mm_mul_ps(d, a), _mm_cvtepi32_ps(sums(products[i])), y[i]);
            if F::MINIMA {
                // SAFETY: there is a block at each address, in which the minima have a factor.
                let m = _mm_mul_ps(unsafe { halves(blocks, F::BASE) }, a);
                y[i] = match F::BLOCK {
                    // SAFETY: there is a sum for the block.
                    32 => _mm_fmadd_ps(m, _mm_set1_ps(f32::from(unsafe { *sums_of_x[i].add(b * SLOTS) })), y[i]),
                    _ => _mm_fnmadd_ps(m, _mm_cvtepi32_ps(sums(minima[i])), y[i]),
                };
            }
        }
    }
    for (y, out) in y.into_iter().zip(out) {
        // SAFETY: there is room for four.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), y) };
    }
}

/// The products of a block of weights, of row `r` of four, with a group of each row of `x`, and their minima with its sums; lanes
/// are yet to be added.
///
/// # Safety
/// The CPU has the features; there is a block at the address, and group `b` of each row of the left factor.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn block<F: Unpack, const M: usize>(
    block: *const u8,
    x: [*const i8; M],
    sums_of_x: [*const i16; M],
    b: usize,
    r: usize,
    products: &mut [[__m256i; COLUMNS]; M],
    minima: &mut [[__m256i; COLUMNS]; M],
) {
    // SAFETY: guaranteed by the caller.
    let codes = unsafe { F::codes(block) };
    let mut scale = _mm256_set1_epi16(1);
    let mut scales = [scale; 2];
    if F::BLOCK == 256 {
        // SAFETY: guaranteed by the caller.
        let [s, n] = unsafe { F::scales(block) };
        scales = [_mm256_permute2x128_si256::<0x00>(s, s), _mm256_permute2x128_si256::<0x11>(s, s)];
        if F::MINIMA {
            for i in 0..M {
                // SAFETY: there are as many sums as slots.
                let sums = unsafe { _mm256_loadu_si256(sums_of_x[i].add(b * SLOTS).cast()) };
                minima[i][r] = _mm256_madd_epi16(n, sums);
            }
        }
    }
    let mut all = [_mm256_setzero_si256(); M];
    for v in 0..F::BLOCK / 32 {
        if F::BLOCK == 256 {
            let half = if F::SUB == 16 { v / 4 } else { 0 };
            // SAFETY: there are 32 bytes.
            let which = unsafe { _mm256_loadu_si256(const { spread(F::SUB) }[v].as_ptr().cast()) };
            scale = _mm256_shuffle_epi8(scales[half], which);
        }
        let c = codes[v];
        let size = if F::SIGNED { _mm256_abs_epi8(c) } else { c };
        for i in 0..M {
            // SAFETY: there are as many codes in a group as in a block.
            let mut x = unsafe { _mm256_loadu_si256(x[i].add(b * F::BLOCK + 32 * v).cast()) };
            if F::SIGNED {
                x = _mm256_sign_epi8(x, c);
            }
            all[i] = _mm256_add_epi32(all[i], _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), scale));
        }
    }
    for i in 0..M {
        products[i][r] = all[i];
    }
}
