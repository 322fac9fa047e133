//! The product with VNNI, which multiplies four pairs of bytes and accumulates them in each lane with one
//! instruction.

use std::arch::x86_64::*;

use super::{MC, MR, NR, QUAD, Task, scale_and_inverse};

/// # Safety
/// The CPU must have AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn product(task: &Task<'_>, out: &mut [&mut [f32]]) {
    let rows = out.len();
    let width = out.first().map_or(0, |row| row.len());
    for top in (0..rows).step_by(MC) {
        let bottom = rows.min(top + MC);
        for j in (0..width).step_by(NR) {
            for i in (top..bottom).step_by(MR) {
                // SAFETY: the features are enabled in this function, as its caller guarantees.
                unsafe { tile(task, i, &mut out[i..bottom.min(i + MR)], j) };
            }
        }
    }
}

/// Multiplies at most [`MR`] rows by a panel. Missing rows repeat the last one.
///
/// # Safety
/// As [`product`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn tile(task: &Task<'_>, i: usize, out: &mut [&mut [f32]], j: usize) {
    let (m, panel) = (out.len(), task.panel(j));
    let quads = task.w.quads();
    assert!((1..=MR).contains(&m) && panel.len() >= quads);
    let rows: [*const u8; MR] = std::array::from_fn(|r| task.row(i + r.min(m - 1)).as_ptr());
    let (scales, ones) = task.columns(j);
    let width = NR.min(out[0].len() - j);
    // The lanes of the two vectors that are inside the output.
    let masks = [0, 16].map(|first| (1u32 << width.saturating_sub(first).min(16)).wrapping_sub(1) as u16);
    // SAFETY: every row has `quads` groups of four bytes and the panel as many groups of 128 (asserted), and the
    // loads are unaligned; `scales` and `ones` have 32 elements each; the masks restrict accesses to the output and
    // the bias to existing columns.
    unsafe {
        let none = _mm512_setzero_si512();
        let starts = [0, 16].map(|at| {
            // Start at −128 Σ w, which cancels the offset of x.
            _mm512_sub_epi32(none, _mm512_slli_epi32::<7>(_mm512_loadu_si512(ones.as_ptr().add(at).cast())))
        });
        let mut acc = [starts; MR];
        let mut w = panel.as_ptr().cast::<i8>();
        for k in 0..quads {
            let b0 = _mm512_loadu_si512(w.cast());
            let b1 = _mm512_loadu_si512(w.add(64).cast());
            w = w.add(NR * QUAD);
            for r in 0..MR {
                let x = _mm512_set1_epi32(rows[r].add(k * QUAD).cast::<i32>().read_unaligned());
                acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], x, b0);
                acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], x, b1);
            }
        }
        let scales = [0, 16].map(|at| _mm512_loadu_ps(scales.as_ptr().add(at)));
        let bias = task.bias.map(|bias| {
            let bias = bias[task.column + j..][..width].as_ptr();
            [0, 1].map(|v| _mm512_maskz_loadu_ps(masks[v], bias.wrapping_add(16 * v)))
        });
        for r in 0..MR {
            if r < m {
                let by = _mm512_set1_ps(task.bytes.scales[task.row + i + r]);
                let to = out[r][j..j + width].as_mut_ptr();
                for v in 0..2 {
                    let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[r][v]), _mm512_mul_ps(by, scales[v]));
                    let y = bias.map_or(sum, |bias| _mm512_add_ps(sum, bias[v]));
                    _mm512_mask_storeu_ps(to.wrapping_add(16 * v), masks[v], y);
                }
            }
        }
    }
}

/// As [`super::QuantiseRow`], with AVX-512.
///
/// # Safety
/// As [`product`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn quantise_row(row: &[f32], data: &mut [u8]) -> f32 {
    assert_eq!(row.len(), data.len());
    let mask = |at: usize| (1u32 << (row.len() - at).min(16)).wrapping_sub(1) as u16;
    let mut most = _mm512_setzero_ps();
    let mut finite = true;
    let limit = _mm512_set1_ps(f32::MAX);
    for at in (0..row.len()).step_by(16) {
        // SAFETY: the mask restricts the load to the row.
        let x = _mm512_abs_ps(unsafe { _mm512_maskz_loadu_ps(mask(at), row.as_ptr().add(at)) });
        finite &= _mm512_cmp_ps_mask::<_CMP_LE_OQ>(x, limit) == u16::MAX;
        // `max` returns its second operand, the maximum so far, where x is NaN.
        most = _mm512_max_ps(x, most);
    }
    let (by, inverse) = scale_and_inverse(_mm512_reduce_max_ps(most), finite);
    let (inverse, shift) = (_mm512_set1_ps(inverse), _mm512_set1_epi32(128));
    for at in (0..row.len()).step_by(16) {
        // SAFETY: as above, and `data` is as long as the row.
        unsafe {
            let x = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask(at), row.as_ptr().add(at)), inverse);
            let bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(x), shift));
            _mm_mask_storeu_epi8(data.as_mut_ptr().add(at).cast(), mask(at), bytes);
        }
    }
    by
}
