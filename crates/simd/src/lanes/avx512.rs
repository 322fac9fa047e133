//! AVX-512 (F, BW, DQ, VL): sixteen lanes.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::Lanes;

const N: usize = 16;

/// Sixteen lanes in a `__m512`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The CPU must have AVX-512 F, BW, DQ and VL.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

// In this implementation every block is sound for the same two reasons: a value of `Avx512` exists only on a CPU with
// these instructions, and every pointer was checked to have N elements after it (or is masked to those it has).
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all of them, written above")]
impl Lanes for Avx512 {
    type V = __m512;
    const LANES: usize = N;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        assert!(x.len() >= N);
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        let mask = mask(x.len());
        unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr()) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> Self::V {
        assert!(x.len() >= N);
        unsafe {
            let raw = _mm256_loadu_si256(x.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(raw)))
        }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8]) -> Self::V {
        assert!(x.len() >= N);
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn splat_f16(self, x: f16) -> Self::V {
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(x.to_bits() as i16)) }
    }
    #[inline(always)]
    fn store(self, x: &mut [f32], v: Self::V) {
        assert!(x.len() >= N);
        unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn store_non_temporal(self, x: &mut [f32], v: Self::V) {
        assert!(x.len() >= N);
        match x.as_ptr().cast::<__m512>().is_aligned() {
            true => unsafe { _mm512_stream_ps(x.as_mut_ptr(), v) },
            false => unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v) },
        }
    }
    #[inline(always)]
    fn store_part(self, x: &mut [f32], v: Self::V) {
        let mask = mask(x.len());
        unsafe { _mm512_mask_storeu_ps(x.as_mut_ptr(), mask, v) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn reciprocal(self, x: Self::V) -> Self::V {
        // An estimate of 14 bits, and one Newton step.
        unsafe {
            let near = _mm512_rcp14_ps(x);
            _mm512_fmadd_ps(near, _mm512_fnmadd_ps(near, x, _mm512_set1_ps(1.0)), near)
        }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn scale_by_power_of_two(self, a: Self::V, n: Self::V) -> Self::V {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    fn select_bits(self, bits: u32, x: Self::V, y: Self::V) -> Self::V {
        unsafe { _mm512_mask_blend_ps(bits as u16, y, x) }
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    fn sums(self, [a, b, c, d]: [Self::V; 4]) -> [f32; 4] {
        // The halvings of `sum`, of several vectors in one addition: nine shuffles instead of sixteen.
        unsafe {
            let (low, high) =
                (_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
            let ab = _mm512_add_ps(low, high);
            let (low, high) =
                (_mm512_shuffle_f32x4::<0b01_00_01_00>(c, d), _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d));
            let cd = _mm512_add_ps(low, high);
            let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd);
            let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd);
            // A quarter for each vector.
            let x = _mm512_add_ps(even, odd);
            let x = _mm512_add_ps(x, _mm512_shuffle_ps::<0b01_00_11_10>(x, x));
            let x = _mm512_add_ps(x, _mm512_movehdup_ps(x));
            let first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps128(_mm512_permutexvar_ps(first, x)));
            out
        }
    }
    #[inline(always)]
    fn transpose(self, rows: &[Self::V], out: &mut [f32], stride: usize) {
        assert!(stride >= N && out.len() >= (N - 1) * stride + N);
        // Interleave pairs of rows, then pairs of pairs, then exchange 128-bit quarters twice.
        let r: &[__m512; N] = rows.try_into().expect("as many rows as lanes");
        unsafe {
            let mut t = *r;
            for i in (0..N).step_by(2) {
                t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
                t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
            }
            let mut u = t;
            for i in (0..N).step_by(4) {
                u[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
                u[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
                u[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
                u[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
            }
            // u[4q + c] holds, in quarter p, column 4p + c of rows 4q .. 4q + 4.
            for c in 0..4 {
                let a = _mm512_shuffle_f32x4::<0b10_00_10_00>(u[c], u[4 + c]);
                let b = _mm512_shuffle_f32x4::<0b11_01_11_01>(u[c], u[4 + c]);
                let d = _mm512_shuffle_f32x4::<0b10_00_10_00>(u[8 + c], u[12 + c]);
                let e = _mm512_shuffle_f32x4::<0b11_01_11_01>(u[8 + c], u[12 + c]);
                let columns = [
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(a, d),
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(b, e),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(a, d),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(b, e),
                ];
                for (p, v) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(out.as_mut_ptr().add((4 * p + c) * stride), v);
                }
            }
        }
    }
}

#[inline(always)]
fn mask(len: usize) -> __mmask16 {
    ((1u32 << len.min(N)) - 1) as __mmask16
}
