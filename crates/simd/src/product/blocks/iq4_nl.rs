//! IQ4_NL: `d: f16`, sixteen bytes of nibbles ordered as in Q4_0; weight `i` is `d K[c[i]]`, with the unevenly spaced values [`VALUES`].

use super::layout::{Layout, Wide, half_at, nibbles};
use super::round::fit::{nearest_of, tabled, weights_at};
use super::round::{Round, Weighting, as_half, inverse, put_half, put_nibbles};

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

impl Round for Iq4Nl {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        let x: &[f32; 32] = x.try_into().expect("a block of 32");
        let d = tabled(weighting.isa, x, &weights_at(x, weighting, 0, |x| x * x), &VALUES);
        put_half(block, 0, d);
        put_nibbles(&places(x, as_half(d)), &mut block[2..18]);
    }
}

/// The places of the values nearest to `x / factor`.
#[inline(always)]
pub(super) fn places(x: &[f32; 32], factor: f32) -> [u8; 32] {
    let by = inverse(factor);
    x.map(|x| nearest_of(x * by, &VALUES) as u8)
}

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
