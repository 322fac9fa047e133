//! NEON: four lanes.

use std::arch::aarch64::*;

use half::bf16;

use super::Lanes;

const N: usize = 4;

/// Four lanes in a `float32x4_t`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(());

impl Neon {
    /// # Safety
    /// The CPU must have NEON (every aarch64 CPU does).
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

// In this implementation every block is sound for the same two reasons: NEON is part of the aarch64 baseline, and every
// pointer was checked to have N elements after it.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all of them, written above")]
impl Lanes for Neon {
    type V = float32x4_t;
    const LANES: usize = N;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        assert!(x.len() >= N);
        unsafe { vld1q_f32(x.as_ptr()) }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        let mut full = [0.0; N];
        let n = x.len().min(N);
        full[..n].copy_from_slice(&x[..n]);
        self.load(&full)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> Self::V {
        assert!(x.len() >= N);
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(x.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8]) -> Self::V {
        assert!(x.len() >= N);
        let x: [f32; N] = [f32::from(x[0]), f32::from(x[1]), f32::from(x[2]), f32::from(x[3])];
        unsafe { vld1q_f32(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, x: &mut [f32], v: Self::V) {
        assert!(x.len() >= N);
        unsafe { vst1q_f32(x.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn store_part(self, x: &mut [f32], v: Self::V) {
        let mut full = [0.0; N];
        self.store(&mut full, v);
        let n = x.len().min(N);
        x[..n].copy_from_slice(&full[..n]);
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        unsafe { vsqrtq_f32(a) }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    fn scale_by_power_of_two(self, a: Self::V, n: Self::V) -> Self::V {
        unsafe {
            // Two normal factors, so that a subnormal result is rounded once.
            let n = vcvtnq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            let rest = vsubq_s32(n, half);
            let power = |n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))));
            vmulq_f32(vmulq_f32(a, power(half)), power(rest))
        }
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        unsafe { vbslq_f32(vcltq_f32(a, b), x, y) }
    }
    #[inline(always)]
    fn select_bits(self, bits: u32, x: Self::V, y: Self::V) -> Self::V {
        unsafe {
            let lanes = vld1q_u32([1u32, 2, 4, 8].as_ptr());
            vbslq_f32(vtstq_u32(vdupq_n_u32(bits), lanes), x, y)
        }
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        unsafe { vaddvq_f32(a) }
    }
    #[inline(always)]
    fn transpose(self, rows: &[Self::V], out: &mut [f32], stride: usize) {
        assert!(stride >= N && out.len() >= (N - 1) * stride + N);
        for i in 0..N {
            let mut r = [0.0; N];
            self.store(&mut r, rows[i]);
            for (k, x) in r.into_iter().enumerate() {
                out[k * stride + i] = x;
            }
        }
    }
}
