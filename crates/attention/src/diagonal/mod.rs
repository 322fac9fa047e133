//! Recurrences with an element-wise (diagonal) decay: every channel has its own state.

use longreach_simd::Cx;

pub mod mamba;
pub mod rg_lru;
pub mod rwkv4;

/// Channels per task in a decoding step: wide enough for the hardware prefetcher to follow a state's rows, but at least
/// two tasks per thread.
fn channels_per_task(all: usize, cx: &Cx) -> usize {
    const MOST: usize = 4096;
    const LINES: usize = 64;
    all.div_ceil(2 * cx.team.threads()).next_multiple_of(LINES).min(MOST)
}
