//! Block products of bf16 with AVX-512 BF16, whose instruction adds the products of two pairs to a lane.
//!
//! The second pair is added first, each with one rounding; numbers below the normal range count as zero. Intel SDM,
//! volume 2, `VDPBF16PS`.

use std::arch::x86_64::*;

use super::{Bf16Blocks, Part, SIDE, STEP, Start, Sums, TILE, bf16_steps};

/// Proves that the CPU has AVX-512 F and BF16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Dots(());

/// Rows of the left factor that are multiplied at once.
const ROWS: usize = 8;

impl Dots {
    /// `Some` if the CPU has the instructions.
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")).then_some(Self(()))
    }
}

impl Bf16Blocks for Dots {
    #[inline(always)]
    fn multiply(&self, a: &[f32], b: &[f32], columns: Part, start: Start, sums: &mut Sums) {
        // SAFETY: the CPU has the instructions, as `self` proves.
        unsafe {
            match columns {
                Part::Whole => multiply::<2>(a, b, start, sums),
                Part::Half => multiply::<1>(a, b, start, sums),
            }
        }
    }
}

/// Multiplies all rows of `a` by `V` vectors of columns.
#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply<const V: usize>(a: &[f32], b: &[f32], start: Start, sums: &mut Sums) {
    let steps = bf16_steps(a, b);
    for top in (0..SIDE).step_by(ROWS) {
        let mut acc = [[_mm512_setzero_ps(); V]; ROWS];
        let at = |r: usize, v: usize| (top + r) * SIDE + v * TILE;
        if start == Start::Sums {
            for r in 0..ROWS {
                for v in 0..V {
                    // SAFETY: a row of the sums has two vectors.
                    acc[r][v] = unsafe { _mm512_loadu_ps(sums[at(r, v)..][..TILE].as_ptr()) };
                }
            }
        }
        for step in 0..steps {
            for pair in 0..TILE {
                let mut right = [_mm512_setzero_si512(); V];
                for (v, right) in right.iter_mut().enumerate() {
                    // SAFETY: `b` has `steps` steps of two tiles of 16 vectors.
                    *right =
                        unsafe { _mm512_loadu_si512(b.as_ptr().add(step * STEP + (v * TILE + pair) * TILE).cast()) };
                }
                for r in 0..ROWS {
                    // SAFETY: `a` has `steps` steps of 32 rows of 16 pairs.
                    let left = unsafe { a.as_ptr().add(step * STEP + (top + r) * TILE + pair).cast::<i32>().read() };
                    let left = pairs(_mm512_set1_epi32(left));
                    for v in 0..V {
                        acc[r][v] = _mm512_dpbf16_ps(acc[r][v], pairs(right[v]), left);
                    }
                }
            }
        }
        for r in 0..ROWS {
            for v in 0..V {
                // SAFETY: as for the loads of the sums.
                unsafe { _mm512_storeu_ps(sums[at(r, v)..][..TILE].as_mut_ptr(), acc[r][v]) };
            }
        }
    }
}

/// A vector of pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(x: __m512i) -> __m512bh {
    // SAFETY: both types are 512 bits, of which every pattern is valid.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(x) }
}
