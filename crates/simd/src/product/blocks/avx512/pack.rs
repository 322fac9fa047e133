//! Vectors of 32 rows of weights, as columns of a panel.

use std::arch::x86_64::*;

use super::PANEL;
use crate::Lanes;
use crate::lanes::avx512::Avx512;

/// 32-bit words of a panel for one vector of each row.
pub(super) const VECTOR: usize = 16 * PANEL;

/// Writes a vector of each of 32 rows as sixteen rows of the panel: word `q` of row `r` to word `r` of row `q`.
///
/// # Safety
/// The CPU must have AVX-512 F, BW, DQ, VL and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn columns(rows: &[__m512i; PANEL], panel: &mut [f32]) {
    // SAFETY: guaranteed by the caller.
    let lanes = unsafe { Avx512::assume() };
    for (half, rows) in rows.as_chunks::<16>().0.iter().enumerate() {
        // Transposing moves words, whatever they are.
        let mut words = [_mm512_setzero_ps(); 16];
        for (word, row) in words.iter_mut().zip(rows) {
            *word = _mm512_castsi512_ps(*row);
        }
        lanes.transpose(&words, &mut panel[16 * half..], PANEL);
    }
}

/// Widens the half-precision numbers of 32 rows to a row of the panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) fn halves(bits: &[u16; PANEL], panel: &mut [f32]) {
    for (bits, to) in bits.as_chunks::<16>().0.iter().zip(panel.as_chunks_mut::<16>().0) {
        // SAFETY: there are sixteen of either.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(bits.as_ptr().cast()))) };
    }
}

/// Two vectors, one after the other.
///
/// # Safety
/// The CPU has the features, and there are 32 words at the address.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn pair(at: *const f32) -> [__m512i; 2] {
    // SAFETY: guaranteed by the caller.
    unsafe { [_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(16).cast())] }
}

/// The lanes of the two vectors of a panel's columns that exist, of `width` columns.
pub(super) fn masks(width: usize) -> [u16; 2] {
    [0, 16].map(|first| (1u32 << width.saturating_sub(first).min(16)).wrapping_sub(1) as u16)
}
