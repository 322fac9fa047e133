//! MXFP4: an exponent `e: u8`, sixteen bytes of nibbles ordered as in Q4_0; weight `i` is `2^(e - 128) M[c[i]]`, with [`VALUES`] twice the four-bit floats of the OCP microscaling specification.

use super::layout::{Layout, Wide, nibbles};
use super::round::{Round, Weighting, put_nibbles};

/// The layout.
pub(super) struct Mxfp4;

impl Layout for Mxfp4 {
    const BLOCK: usize = 32;
    const BYTES: usize = 17;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = power(block[0]);
        nibbles(&block[1..17], &mut to.codes, |_, c| VALUES[usize::from(c)]);
    }
}

/// `M`: one sign bit, two exponent bits and one bit of mantissa, doubled.
pub(super) const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `2^(e - 128)`, of which the two least are subnormal.
#[inline(always)]
pub(super) fn power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

impl Round for Mxfp4 {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        // The factor is a power of two, which leaves nothing to search for.
        let _ = weighting;
        let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let e = if most > 0.0 { (most.log2().floor() + 125.0) as u8 } else { 0 };
        let d = power(e);
        let mut codes = [0; 32];
        for (code, x) in codes.iter_mut().zip(x) {
            let mut least = f32::INFINITY;
            for (c, value) in VALUES.iter().enumerate() {
                let error = (d * f32::from(*value) - x).abs();
                if error < least {
                    (*code, least) = (c as u8, error);
                }
            }
        }
        block[0] = e;
        put_nibbles(&codes, &mut block[1..17]);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Small;
    use super::super::avx512::unpack::{nibbles, table};
    use super::VALUES;

    impl Small for super::Mxfp4 {
        const OFFSET: i32 = 12;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(blocks: *const u8) -> [__m512i; 2] {
            let values = table(&VALUES, Self::OFFSET);
            // SAFETY: guaranteed by the caller.
            let [a, b] = unsafe { nibbles::<17, 1>(blocks) };
            [_mm512_shuffle_epi8(values, a), _mm512_shuffle_epi8(values, b)]
        }

        #[inline(always)]
        unsafe fn factor(block: *const u8) -> u16 {
            // SAFETY: a block has a byte.
            u16::from(unsafe { *block })
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn widen(bits: __m256i) -> __m512 {
            let e = _mm512_cvtepu16_epi32(bits);
            let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
            let subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), e);
            let least = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
            _mm512_castsi512_ps(_mm512_mask_blend_epi32(least, normal, subnormal))
        }
    }
}
