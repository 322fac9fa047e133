//! How a block is read, whatever its format: as 8-bit codes, integer scales and two factors.
//!
//! Weight `i` of a block, in sub-block `k`, is `d s[k] c[i] + m n[k]`; formats of 32 weights have one sub-block, whose
//! `s` and `n` are 1, and formats without minima have no second term.

use half::f16;

/// A block that was read. What a format does not have is not touched: the minima of most, the later sub-blocks of those
/// of 32 weights.
#[derive(Clone, Debug)]
pub(super) struct Wide {
    /// `d`
    pub(super) factor: f32,
    /// `m`, negative in the formats of 256 weights, which subtract their minima.
    pub(super) base: f32,
    /// `c`
    pub(super) codes: [i8; 256],
    /// `s`
    pub(super) scales: [i8; 16],
    /// `n`
    pub(super) minima: [i8; 16],
}

impl Wide {
    /// A block of zeros, with scales of 1.
    pub(super) const EMPTY: Self = Self { factor: 0.0, base: 0.0, codes: [0; 256], scales: [1; 16], minima: [1; 16] };
}

/// A format.
pub(super) trait Layout {
    /// Weights of a block.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Weights of a sub-block.
    const SUB: usize;
    /// Whether there are minima.
    const MINIMA: bool;

    /// Reads a block of [`Layout::BYTES`] bytes.
    fn read(block: &[u8], to: &mut Wide);
}

/// Evaluates an expression with `$L` the layout of a [`Format`](super::Format).
macro_rules! with_layout {
    ($format:expr, $L:ident => $value:expr) => {
        match $format {
            $crate::product::blocks::Format::Q4_0 => {
                type $L = $crate::product::blocks::q4_0::Q4_0;
                $value
            }
            $crate::product::blocks::Format::Q4_1 => {
                type $L = $crate::product::blocks::q4_1::Q4_1;
                $value
            }
            $crate::product::blocks::Format::Q5_0 => {
                type $L = $crate::product::blocks::q5_0::Q5_0;
                $value
            }
            $crate::product::blocks::Format::Q5_1 => {
                type $L = $crate::product::blocks::q5_1::Q5_1;
                $value
            }
            $crate::product::blocks::Format::Q8_0 => {
                type $L = $crate::product::blocks::q8_0::Q8_0;
                $value
            }
            $crate::product::blocks::Format::Iq4Nl => {
                type $L = $crate::product::blocks::iq4_nl::Iq4Nl;
                $value
            }
            $crate::product::blocks::Format::Mxfp4 => {
                type $L = $crate::product::blocks::mxfp4::Mxfp4;
                $value
            }
            $crate::product::blocks::Format::Q2K => {
                type $L = $crate::product::blocks::q2_k::Q2K;
                $value
            }
            $crate::product::blocks::Format::Q3K => {
                type $L = $crate::product::blocks::q3_k::Q3K;
                $value
            }
            $crate::product::blocks::Format::Q4K => {
                type $L = $crate::product::blocks::q4_k::Q4K;
                $value
            }
            $crate::product::blocks::Format::Q5K => {
                type $L = $crate::product::blocks::q5_k::Q5K;
                $value
            }
            $crate::product::blocks::Format::Q6K => {
                type $L = $crate::product::blocks::q6_k::Q6K;
                $value
            }
            $crate::product::blocks::Format::Iq4Xs => {
                type $L = $crate::product::blocks::iq4_xs::Iq4Xs;
                $value
            }
        }
    };
}
pub(super) use with_layout;

/// Writes the weights of a block.
pub(super) fn dequantise<L: Layout>(block: &[u8], out: &mut [f32]) {
    let mut wide = Wide::EMPTY;
    L::read(block, &mut wide);
    for (k, (codes, out)) in wide.codes[..L::BLOCK].chunks(L::SUB).zip(out.chunks_mut(L::SUB)).enumerate() {
        let factor = wide.factor * f32::from(wide.scales[k]);
        let base = wide.base * f32::from(wide.minima[k]);
        for (c, y) in codes.iter().zip(out) {
            // Without minima nothing is added, which would turn -0 into 0.
            let product = factor * f32::from(*c);
            *y = if L::MINIMA { product + base } else { product };
        }
    }
}

/// The half-precision number at `at`.
#[inline(always)]
pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 32-bit integer at `at`.
#[inline(always)]
pub(super) fn word_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Writes the low nibbles of `bytes` to the first half of `codes` and the high ones to the second, each through `f`,
/// which is also given the place of the code.
#[inline(always)]
pub(super) fn nibbles(bytes: &[u8], codes: &mut [i8], f: impl Fn(usize, u8) -> i8) {
    let half = bytes.len();
    for (i, byte) in bytes.iter().enumerate() {
        codes[i] = f(i, byte & 15);
        codes[half + i] = f(half + i, byte >> 4);
    }
}
