//! Element-wise state: every channel keeps numbers of its own that decay and are written to.

use longreach_simd::Cx;

pub mod mamba;
pub mod rg_lru;
pub mod rwkv4;

/// Channels that a thread takes at a time where one token passes each, of so many: long pieces of a state's rows, which the processor sees coming;
/// but not so many that a thread has none.
fn channels(all: usize, cx: &Cx) -> usize {
    const MOST: usize = 4096;
    const LINES: usize = 64;
    all.div_ceil(2 * cx.team.threads()).next_multiple_of(LINES).min(MOST)
}
