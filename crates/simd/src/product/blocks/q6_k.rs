//! Q6_K: 128 bytes of low nibbles, 64 bytes of high bits, `s: [i8; 16]`, `d: f16`; weight `i` is `d s[i/16] (c[i] - 32)`.
//! Weight `128 n + 32 j + l` has nibble `j / 2` of byte `64 n + 32 (j % 2) + l`, and bits `2 j` and `2 j + 1` of the
//! high byte `32 n + l`.

use super::layout::{Layout, Wide, half_at, nibbles};

/// The layout.
pub(super) struct Q6K;

impl Layout for Q6K {
    const BLOCK: usize = 256;
    const BYTES: usize = 210;
    const SUB: usize = 16;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 208);
        for (to, s) in to.scales.iter_mut().zip(&block[192..208]) {
            *to = *s as i8;
        }
        for (n, codes) in to.codes.chunks_exact_mut(128).enumerate() {
            let high = &block[128 + 32 * n..][..32];
            nibbles(&block[64 * n..][..64], codes, |i, c| (c | (high[i % 32] >> (2 * (i / 32)) & 3) << 4) as i8 - 32);
        }
    }
}
