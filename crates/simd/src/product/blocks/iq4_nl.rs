//! IQ4_NL: `d: f16`, sixteen bytes of nibbles ordered as in Q4_0; weight `i` is `d K[c[i]]`, with the unevenly spaced values [`VALUES`].

use super::layout::{Layout, Wide, half_at, nibbles};

/// The layout.
pub(super) struct Iq4Nl;

impl Layout for Iq4Nl {
    const BLOCK: usize = 32;
    const BYTES: usize = 18;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 0);
        nibbles(&block[2..18], &mut to.codes, |_, c| VALUES[usize::from(c)]);
    }
}

/// `K`: denser around zero, where most weights of a bell-shaped distribution are.
pub(super) const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Small;
    use super::super::avx512::unpack::{nibbles, table};
    use super::VALUES;

    impl Small for super::Iq4Nl {
        const OFFSET: i32 = 128;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(blocks: *const u8) -> [__m512i; 2] {
            let values = table(&VALUES, Self::OFFSET);
            // SAFETY: guaranteed by the caller.
            let [a, b] = unsafe { nibbles::<18, 2>(blocks) };
            [_mm512_shuffle_epi8(values, a), _mm512_shuffle_epi8(values, b)]
        }
    }
}
