//! Blocks of Q8_0 as elements of rows that are cached: 32 codes of 8 bits and a factor, as the format of the same name in
//! GGUF files ([`Format::Q8_0`](super::Format::Q8_0)).

use half::f16;

use super::streamed::Cached;
use crate::Lanes;
use crate::lanes::widen_f16;

/// 32 numbers `d c[i]` in 34 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Q8 {
    /// `d`
    pub factor: f16,
    /// `c`
    pub codes: [i8; Self::BLOCK],
}

impl Q8 {
    /// Numbers of a block.
    pub const BLOCK: usize = 32;
    /// Words of 16 bits that a block takes.
    pub const WORDS: usize = size_of::<Self>() / 2;

    /// The number of blocks of a row of `width` numbers, the last of which may be filled up with zeros.
    pub const fn blocks(width: usize) -> usize {
        width.div_ceil(Self::BLOCK)
    }

    /// Rounds at most 32 numbers, and fills them up with zeros: `d` is the largest magnitude / 127 in half precision, and
    /// `c[i]` the integer nearest to `x[i] / d`, halves away from zero.
    ///
    /// A number is wrong by at most `0.57 d`: by `d / 2`, and the largest ones also by what `d` was rounded. In blocks below 8e-3
    /// in magnitude `d` is subnormal, which adds up to 4e-6. If a number is not finite, or `d` is beyond half precision, the
    /// whole block is NaN. Panics if there are more than 32 numbers.
    pub fn round(x: &[f32]) -> Self {
        assert!(x.len() <= Self::BLOCK, "{} numbers in a block of {}", x.len(), Self::BLOCK);
        let mut most = 0.0f32;
        for x in x {
            // A NaN is kept: nothing is larger than it.
            most = if most >= x.abs() || most.is_nan() { most } else { x.abs() };
        }
        let factor = f16::from_f32(most / 127.0);
        if !factor.is_finite() {
            return Self { factor: f16::NAN, codes: [1; Self::BLOCK] };
        }
        let by = if factor == f16::ZERO { 0.0 } else { 1.0 / widen_f16(factor) };
        let mut codes = [0; Self::BLOCK];
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (x * by).round() as i8;
        }
        Self { factor, codes }
    }

    /// Rounds a row to [`Q8::blocks`] blocks. Panics if there are not as many.
    pub fn round_row(x: &[f32], out: &mut [Self]) {
        assert_eq!(out.len(), Self::blocks(x.len()), "blocks of a row");
        for (block, x) in out.iter_mut().zip(x.chunks(Self::BLOCK)) {
            *block = Self::round(x);
        }
    }

    /// Blocks in the memory of words of 16 bits, [`Q8::WORDS`] each. Panics if that is no whole number of blocks.
    pub fn of_words(words: &[f16]) -> &[Self] {
        assert!(words.len().is_multiple_of(Self::WORDS), "{} words are no whole number of blocks", words.len());
        // SAFETY: a block has no padding, every pattern of bits is one, and its alignment is that of a word.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() / Self::WORDS) }
    }

    /// As [`Q8::of_words`], to be written.
    pub fn of_words_mut(words: &mut [f16]) -> &mut [Self] {
        assert!(words.len().is_multiple_of(Self::WORDS), "{} words are no whole number of blocks", words.len());
        // SAFETY: as in `of_words`; every block is some words, too.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() / Self::WORDS) }
    }
}

const _: () = assert!(size_of::<Q8>() == 34 && align_of::<Q8>() == align_of::<f16>());

impl Cached for Q8 {
    const NUMBERS: usize = Self::BLOCK;

    #[inline(always)]
    fn load_at<S: Lanes>(s: S, row: &[Self], at: usize) -> S::V {
        let block = &row[at / Self::BLOCK];
        let first = at % Self::BLOCK;
        s.mul(s.splat_f16(block.factor), s.load_i8(&block.codes[first..first + S::LANES]))
    }

    #[inline(always)]
    fn number(row: &[Self], at: usize) -> f32 {
        let block = &row[at / Self::BLOCK];
        widen_f16(block.factor) * f32::from(block.codes[at % Self::BLOCK])
    }
}
