//! The decay within a chunk.

use longreach_simd::{Lanes, math};

use super::{CHUNK, LIMIT, Tokens};

/// The decay within a chunk, in runs; `G` is 0 at the first token of each.
pub(super) struct Decay {
    /// `e^{G}`
    pub(super) cumulative: [f32; CHUNK],
    /// `e^{-G}`
    pub(super) inverse: [f32; CHUNK],
    /// The number of runs.
    pub(super) runs: usize,
    /// The end of each run.
    pub(super) end: [usize; CHUNK],
    /// The factor `e^g` of each run's first token, by which the state is multiplied before the run.
    pub(super) entry: [f32; CHUNK],
}

impl Decay {
    #[inline(always)]
    pub(super) fn of<S: Lanes>(s: S, x: &Tokens<'_>, h: usize, first: usize, len: usize) -> Self {
        // Each sum is kept as a rounded f32 and the remainder, so that differences keep all digits.
        let (mut high, mut low) = ([0.0; CHUNK], [0.0; CHUNK]);
        let mut decay =
            Self { cumulative: [1.0; CHUNK], inverse: [1.0; CHUNK], runs: 0, end: [0; CHUNK], entry: [0.0; CHUNK] };
        let mut sum = 0.0f64;
        for i in 0..len {
            let g = x.g(first + i, h) as f64;
            if i == 0 || sum + g < -LIMIT {
                decay.entry[decay.runs] = g as f32;
                decay.runs += 1;
                sum = 0.0;
            } else {
                sum += g;
            }
            decay.end[decay.runs - 1] = i + 1;
            high[i] = sum as f32;
            low[i] = (sum - sum as f32 as f64) as f32;
        }
        for at in (0..len).step_by(S::LANES) {
            let (high, low) = (s.load(&high[at..]), s.load(&low[at..]));
            let cumulative = math::exp(s, high);
            s.store(&mut decay.cumulative[at..], s.fma(cumulative, low, cumulative));
            let (high, low) = (s.sub(s.splat(0.0), high), s.sub(s.splat(0.0), low));
            let inverse = math::exp(s, high);
            s.store(&mut decay.inverse[at..], s.fma(inverse, low, inverse));
        }
        for part in decay.entry[..decay.runs].chunks_mut(S::LANES) {
            let e = math::exp(s, s.load_part(part));
            s.store_part(part, e);
        }
        decay
    }
}
