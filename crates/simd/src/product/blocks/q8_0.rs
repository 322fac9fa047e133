//! Q8_0: `d: f16`, `c: [i8; 32]`; weight `i` is `d c[i]`.

use super::layout::{Layout, Wide, half_at};
use super::round::{Round, Weighting, inverse, put_half};

/// The layout.
pub(super) struct Q8_0;

impl Layout for Q8_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 34;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 0);
        for (code, byte) in to.codes.iter_mut().zip(&block[2..34]) {
            *code = *byte as i8;
        }
    }
}

impl Round for Q8_0 {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        // 8 bits leave nothing to search for.
        let _ = weighting;
        let d = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
        let by = inverse(d);
        put_half(block, 0, d);
        for (byte, x) in block[2..34].iter_mut().zip(x) {
            *byte = (x * by).round() as i8 as u8;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Small;
    use super::super::avx512::unpack::quarters;

    impl Small for super::Q8_0 {
        const OFFSET: i32 = 128;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(blocks: *const u8) -> [__m512i; 2] {
            let raise = _mm512_set1_epi8(i8::MIN);
            // SAFETY: guaranteed by the caller.
            let [a, b] = unsafe { [quarters::<34, 2>(blocks), quarters::<34, 18>(blocks)] };
            [_mm512_xor_si512(a, raise), _mm512_xor_si512(b, raise)]
        }
    }
}
