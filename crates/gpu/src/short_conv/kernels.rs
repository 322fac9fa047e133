//! The kernels.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::too_many_arguments,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe; kernels take buffers one by one"
)]

use cubecl::prelude::*;

use crate::formula::kernel::sigmoid;

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sizes {
    /// `D`
    pub(crate) channels: usize,
    /// `W`
    pub(crate) taps: usize,
    /// Whether there is a bias.
    pub(crate) has_bias: bool,
    /// Whether the activation is silu; otherwise there is none.
    pub(crate) silu: bool,
}

/// The token of a unit.
#[cube]
fn token() -> usize {
    CUBE_POS_Z as usize * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize
}

/// Its channel.
#[cube]
fn channel() -> usize {
    CUBE_POS_X as usize * 64 + UNIT_POS as usize
}

/// The input `back` tokens before token `t` of the sequence `s`, which begins at `begin`.
#[cube]
fn input(
    x: &[f32],
    state: &[f32],
    begin: usize,
    s: usize,
    t: usize,
    back: usize,
    c: usize,
    #[comptime] of: Sizes,
) -> f32 {
    if t >= begin + back {
        x[(t - back) * comptime!(of.channels) + c]
    } else {
        let row = comptime!(of.taps - 1) + t - begin - back;
        state[(s * comptime!(of.taps - 1) + row) * comptime!(of.channels) + c]
    }
}

/// The sum before the activation.
#[cube]
fn before(x: &Sequence<Box<[f32]>>, begin: usize, s: usize, t: usize, c: usize, #[comptime] of: Sizes) -> f32 {
    let mut u = 0.0f32;
    if comptime!(of.has_bias) {
        u = x[3][c];
    }
    #[unroll]
    for j in 0..comptime!(of.taps) {
        let back = comptime!(of.taps - 1) - j;
        u += x[1][j * comptime!(of.channels) + c] * input(&x[0], &x[2], begin, s, t, back, c, of);
    }
    u
}

#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn forward(
    x: Sequence<Box<[f32]>>,
    bounds: &[u32],
    sequence: &[u32],
    out: &mut [f32],
    tokens: u32,
    #[comptime] of: Sizes,
) {
    let (t, c) = (token(), channel());
    if t < tokens as usize && c < comptime!(of.channels) {
        let s = sequence[t] as usize;
        let mut u = before(&x, bounds[s] as usize, s, t, c, of);
        if comptime!(of.silu) {
            u *= sigmoid(u);
        }
        out[t * comptime!(of.channels) + c] = u;
    }
}

#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn last(x: &[f32], state: &[f32], bounds: &[u32], last: &mut [f32], #[comptime] of: Sizes) {
    let (s, row, c) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize, channel());
    if c < comptime!(of.channels) {
        // The input that lies `back` tokens before the one after the last.
        let back = comptime!(of.taps - 1) - row;
        let begin = bounds[s] as usize;
        let end = bounds[s + 1] as usize;
        last[(s * comptime!(of.taps - 1) + row) * comptime!(of.channels) + c] =
            input(x, state, begin, s, end, back, c, of);
    }
}

#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn before_activation(
    x: Sequence<Box<[f32]>>,
    bounds: &[u32],
    sequence: &[u32],
    d_o: &[f32],
    du: &mut [f32],
    tokens: u32,
    #[comptime] of: Sizes,
) {
    let (t, c) = (token(), channel());
    if t < tokens as usize && c < comptime!(of.channels) {
        let at = t * comptime!(of.channels) + c;
        let mut d = d_o[at];
        if comptime!(of.silu) {
            let s = sequence[t] as usize;
            let u = before(&x, bounds[s] as usize, s, t, c, of);
            let gate = sigmoid(u);
            d *= gate * (1.0f32 + u * (1.0f32 - gate));
        }
        du[at] = d;
    }
}

/// The gradient to what lies at token `t`, which may be before the sequence, by `ahead` less than `taps − 1` tokens.
#[cube]
fn through(
    w: &[f32],
    du: &[f32],
    begin: usize,
    end: usize,
    t: usize,
    before: usize,
    c: usize,
    #[comptime] of: Sizes,
) -> f32 {
    // Token `t − before + ahead` reads it by tap `taps − 1 − ahead`.
    let mut d = 0.0f32;
    #[unroll]
    for ahead in 0..comptime!(of.taps) {
        let later = t + ahead;
        if later >= begin + before && later - before < end {
            d += w[(comptime!(of.taps - 1) - ahead) * comptime!(of.channels) + c]
                * du[(later - before) * comptime!(of.channels) + c];
        }
    }
    d
}

#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn inputs(
    w: &[f32],
    bounds: &[u32],
    sequence: &[u32],
    du: &[f32],
    d_last: &[f32],
    dx: &mut [f32],
    tokens: u32,
    #[comptime] of: Sizes,
) {
    let (t, c) = (token(), channel());
    if t < tokens as usize && c < comptime!(of.channels) {
        let s = sequence[t] as usize;
        let end = bounds[s + 1] as usize;
        let mut d = through(w, du, bounds[s] as usize, end, t, 0, c, of);
        // The last inputs are the state.
        let kept = comptime!(of.taps - 1);
        if t + kept >= end {
            d += d_last[(s * kept + (t + kept - end)) * comptime!(of.channels) + c];
        }
        dx[t * comptime!(of.channels) + c] = d;
    }
}

#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn first(w: &[f32], bounds: &[u32], du: &[f32], d_last: &[f32], first: &mut [f32], #[comptime] of: Sizes) {
    let (s, row, c) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize, channel());
    if c < comptime!(of.channels) {
        let kept = comptime!(of.taps - 1);
        let begin = bounds[s] as usize;
        let end = bounds[s + 1] as usize;
        let mut d = through(w, du, begin, end, begin, kept - row, c, of);
        // Of a short sequence the state after it has inputs from before it.
        if row >= end - begin {
            d += d_last[(s * kept + (row - (end - begin))) * comptime!(of.channels) + c];
        }
        first[(s * kept + row) * comptime!(of.channels) + c] = d;
    }
}

#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn taps(
    x: &[f32],
    state: &[f32],
    bounds: &[u32],
    sequence: &[u32],
    du: &[f32],
    dw: &mut [f32],
    tokens: u32,
    #[comptime] of: Sizes,
) {
    let (block, tap, c) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize, channel());
    if c < comptime!(of.channels) {
        let mut sum = 0.0f32;
        let first = block * 64;
        for step in 0..min(64usize, tokens as usize - first) {
            let t = first + step;
            let d = du[t * comptime!(of.channels) + c];
            // The row after the taps is the bias.
            let mut by = 1.0f32;
            if tap < comptime!(of.taps) {
                let s = sequence[t] as usize;
                by = input(x, state, bounds[s] as usize, s, t, comptime!(of.taps - 1) - tap, c, of);
            }
            sum += d * by;
        }
        dw[(block * comptime!(of.taps + 1) + tap) * comptime!(of.channels) + c] = sum;
    }
}
