//! AVX2 with FMA: eight lanes.

use std::arch::x86_64::*;

use half::bf16;

use super::Lanes;

const N: usize = 8;

/// Eight lanes in a `__m256`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The CPU must have AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

// In this implementation every block is sound for the same two reasons: a value of `Avx2` exists only on a CPU with
// these instructions, and every pointer was checked to have N elements after it (or is masked to those it has).
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all of them, written above")]
impl Lanes for Avx2 {
    type V = __m256;
    const LANES: usize = N;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        assert!(x.len() >= N);
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        unsafe { _mm256_maskload_ps(x.as_ptr(), mask(x.len())) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> Self::V {
        assert!(x.len() >= N);
        unsafe {
            let raw = _mm_loadu_si128(x.as_ptr().cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(raw)))
        }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8]) -> Self::V {
        assert!(x.len() >= N);
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn store(self, x: &mut [f32], v: Self::V) {
        assert!(x.len() >= N);
        unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn store_non_temporal(self, x: &mut [f32], v: Self::V) {
        assert!(x.len() >= N);
        match x.as_ptr().cast::<__m256>().is_aligned() {
            true => unsafe { _mm256_stream_ps(x.as_mut_ptr(), v) },
            false => unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v) },
        }
    }
    #[inline(always)]
    fn store_part(self, x: &mut [f32], v: Self::V) {
        unsafe { _mm256_maskstore_ps(x.as_mut_ptr(), mask(x.len()), v) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn scale_by_power_of_two(self, a: Self::V, n: Self::V) -> Self::V {
        unsafe {
            // Two normal factors, so that a subnormal result is rounded once.
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let rest = _mm256_sub_epi32(n, half);
            let power = |n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))));
            _mm256_mul_ps(_mm256_mul_ps(a, power(half)), power(rest))
        }
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        unsafe { _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn select_bits(self, bits: u32, x: Self::V, y: Self::V) -> Self::V {
        unsafe {
            let lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits as i32), lanes), lanes);
            _mm256_blendv_ps(y, x, _mm256_castsi256_ps(set))
        }
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        unsafe {
            let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)))
        }
    }
    #[inline(always)]
    fn sums(self, [a, b, c, d]: [Self::V; 4]) -> [f32; 4] {
        // The halvings of `sum`, of several vectors in one addition.
        unsafe {
            let (low, high) = (_mm256_permute2f128_ps::<0x20>(a, c), _mm256_permute2f128_ps::<0x31>(a, c));
            let ac = _mm256_add_ps(low, high);
            let (low, high) = (_mm256_permute2f128_ps::<0x20>(b, d), _mm256_permute2f128_ps::<0x31>(b, d));
            let bd = _mm256_add_ps(low, high);
            // Pairs: of a, b, c and d.
            let low = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(ac), _mm256_castps_pd(bd)));
            let high = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(ac), _mm256_castps_pd(bd)));
            let x = _mm256_add_ps(low, high);
            let x = _mm256_add_ps(x, _mm256_movehdup_ps(x));
            let x = _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 2, 4, 6, 0, 0, 0, 0));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), _mm256_castps256_ps128(x));
            out
        }
    }
    #[inline(always)]
    fn transpose(self, rows: &[Self::V], out: &mut [f32], stride: usize) {
        assert!(stride >= N && out.len() >= (N - 1) * stride + N);
        let r: &[__m256; N] = rows.try_into().expect("as many rows as lanes");
        unsafe {
            let mut t = *r;
            for i in (0..N).step_by(2) {
                t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
                t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
            }
            let mut u = t;
            for i in (0..N).step_by(4) {
                u[i] = _mm256_shuffle_ps::<0b01_00_01_00>(t[i], t[i + 2]);
                u[i + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(t[i], t[i + 2]);
                u[i + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(t[i + 1], t[i + 3]);
                u[i + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(t[i + 1], t[i + 3]);
            }
            // u[4q + c] holds, in half p, column 4p + c of rows 4q .. 4q + 4.
            for c in 0..4 {
                let low = _mm256_permute2f128_ps::<0x20>(u[c], u[4 + c]);
                let high = _mm256_permute2f128_ps::<0x31>(u[c], u[4 + c]);
                _mm256_storeu_ps(out.as_mut_ptr().add(c * stride), low);
                _mm256_storeu_ps(out.as_mut_ptr().add((4 + c) * stride), high);
            }
        }
    }
}

#[inline(always)]
fn mask(len: usize) -> __m256i {
    const TABLE: [i32; 2 * N] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the offset N - min(len, N) is in 0..=N, so the eight integers are read inside the table; this function
    // is called from methods of `Avx2` only.
    unsafe { _mm256_loadu_si256(TABLE.as_ptr().add(N - len.min(N)).cast()) }
}
