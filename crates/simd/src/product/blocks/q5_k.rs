//! Q5_K: `d: f16`, `m: f16`, twelve bytes of scales and minima as in Q4_K, 32 bytes of fifth bits, 128 bytes of nibbles
//! ordered as in Q4_K; weight `i` is `d s[i/32] c[i] - m n[i/32]`. The fifth bit of weight `32 k + l` is bit `k` of byte
//! `l`.

use super::layout::{Layout, Wide, half_at, nibbles};
use super::q4_k::scales_and_minima;

/// The layout.
pub(super) struct Q5K;

impl Layout for Q5K {
    const BLOCK: usize = 256;
    const BYTES: usize = 176;
    const SUB: usize = 32;
    const MINIMA: bool = true;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 0);
        to.base = -half_at(block, 2);
        let both = scales_and_minima(block);
        for k in 0..8 {
            to.scales[k] = both[k] as i8;
            to.minima[k] = both[8 + k] as i8;
        }
        let fifth = &block[16..48];
        for (n, (bytes, codes)) in block[48..176].chunks_exact(32).zip(to.codes.chunks_exact_mut(64)).enumerate() {
            nibbles(bytes, codes, |i, c| (c | (fifth[i % 32] >> (2 * n + i / 32) & 1) << 4) as i8);
        }
    }
}
