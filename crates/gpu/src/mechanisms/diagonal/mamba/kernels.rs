//! The kernels: a unit has a channel of a segment, with its `N` states in registers.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::too_many_arguments,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe; kernels take buffers one by one"
)]

use cubecl::prelude::*;

use crate::formula::kernel::{put, sigmoid, softplus};

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sizes {
    /// `D`
    pub(crate) channels: usize,
    /// `N`
    pub(crate) n: usize,
    /// Whether the output has a gate.
    pub(crate) gated: bool,
    /// The most tokens of a segment.
    pub(crate) segment: usize,
}

/// The matrix `A` of a channel.
#[cube]
fn decays(a: &[f32], c: usize, #[comptime] of: Sizes) -> Array<f32> {
    let mut rates = Array::<f32>::new(comptime!(of.n));
    #[unroll]
    for i in 0..comptime!(of.n) {
        rates[i] = a[i * comptime!(of.channels) + c];
    }
    rates
}

/// What segments reach from a state of zero, and the sums of their steps. In reverse the state is the gradient, which the
/// matrix C writes.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn local(
    x: Sequence<Box<[f32]>>,
    bounds: &[u32],
    local: &mut [f32],
    steps: &mut [f32],
    #[comptime] reverse: bool,
    #[comptime] of: Sizes,
) {
    let c = CUBE_POS_X as usize * 64 + UNIT_POS as usize;
    let p = CUBE_POS_Y as usize;
    if c < comptime!(of.channels) {
        let a = decays(&x[3], c, of);
        let bias = x[2][c];
        let mut h = Array::<f32>::new(comptime!(of.n));
        #[unroll]
        for i in 0..comptime!(of.n) {
            h[i] = 0.0f32;
        }
        let begin = bounds[p] as usize;
        let end = bounds[p + 1] as usize;
        let mut sum = 0.0f32;
        for step in 0..end - begin {
            let mut t = begin + step;
            if comptime!(reverse) {
                t = end - 1 - step;
            }
            let at = t * comptime!(of.channels) + c;
            let delta = softplus(x[1][at] + bias);
            sum += delta;
            if comptime!(reverse) {
                let mut dy = x[comptime!(if of.gated { 8usize } else { 7 })][at];
                if comptime!(of.gated) {
                    dy *= x[7][at] * sigmoid(x[7][at]);
                }
                #[unroll]
                for i in 0..comptime!(of.n) {
                    h[i] = (delta * a[i]).exp() * (h[i] + dy * x[5][t * comptime!(of.n) + i]);
                }
            } else {
                let input = delta * x[0][at];
                #[unroll]
                for i in 0..comptime!(of.n) {
                    h[i] = (delta * a[i]).exp() * h[i] + input * x[4][t * comptime!(of.n) + i];
                }
            }
        }
        #[unroll]
        for i in 0..comptime!(of.n) {
            local[(p * comptime!(of.n) + i) * comptime!(of.channels) + c] = h[i];
        }
        steps[p * comptime!(of.channels) + c] = sum;
    }
}

/// Chains the segments of a sequence.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn chained(
    local: &[f32],
    steps: &[f32],
    a: &[f32],
    first: &[f32],
    of_sequence: &[u32],
    starts: &mut [f32],
    last: &mut [f32],
    #[comptime] reverse: bool,
    #[comptime] of: Sizes,
) {
    let cells = comptime!(of.n * of.channels);
    let at = CUBE_POS_X as usize * 64 + UNIT_POS as usize;
    let s = CUBE_POS_Y as usize;
    if at < cells {
        let c = at % comptime!(of.channels);
        let rate = a[at];
        let begin = of_sequence[s] as usize;
        let end = of_sequence[s + 1] as usize;
        let mut h = first[s * cells + at];
        for step in 0..end - begin {
            let mut p = begin + step;
            if comptime!(reverse) {
                p = end - 1 - step;
            }
            starts[p * cells + at] = h;
            h = (rate * steps[p * comptime!(of.channels) + c]).exp() * h + local[p * cells + at];
        }
        last[s * cells + at] = h;
    }
}

/// The outputs of segments, each from its own state.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn outputs(x: Sequence<Box<[f32]>>, bounds: &[u32], starts: &[f32], out: &mut [f32], #[comptime] of: Sizes) {
    let c = CUBE_POS_X as usize * 64 + UNIT_POS as usize;
    let p = CUBE_POS_Y as usize;
    if c < comptime!(of.channels) {
        let a = decays(&x[3], c, of);
        let bias = x[2][c];
        let skip = x[6][c];
        let mut h = Array::<f32>::new(comptime!(of.n));
        #[unroll]
        for i in 0..comptime!(of.n) {
            h[i] = starts[(p * comptime!(of.n) + i) * comptime!(of.channels) + c];
        }
        for t in bounds[p] as usize..bounds[p + 1] as usize {
            let at = t * comptime!(of.channels) + c;
            let delta = softplus(x[1][at] + bias);
            let input = delta * x[0][at];
            let mut y = skip * x[0][at];
            #[unroll]
            for i in 0..comptime!(of.n) {
                h[i] = (delta * a[i]).exp() * h[i] + input * x[4][t * comptime!(of.n) + i];
                y += h[i] * x[5][t * comptime!(of.n) + i];
            }
            if comptime!(of.gated) {
                y *= x[7][at] * sigmoid(x[7][at]);
            }
            out[at] = y;
        }
    }
}

/// The gradients of segments. The states of a segment are computed first, and kept.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn gradients(
    x: Sequence<Box<[f32]>>,
    bounds: &[u32],
    starts: &[f32],
    d_ends: &[f32],
    // To x and dt; of B and C for each block of channels; of A, D and the bias for each segment; to z.
    mut to: Sequence<Box<[f32]>>,
    tokens: u32,
    #[comptime] of: Sizes,
) {
    let n = comptime!(of.n);
    let channels = comptime!(of.channels);
    let c = CUBE_POS_X as usize * 64 + UNIT_POS as usize;
    let inside = c < channels;
    // Units without a channel compute the last one, and write nothing.
    let c = min(c, channels - 1);
    let p = CUBE_POS_Y as usize;
    let begin = bounds[p] as usize;
    let count = bounds[p + 1] as usize - begin;
    let a = decays(&x[3], c, of);
    let bias = x[2][c];
    let skip = x[6][c];
    let mut h = Array::<f32>::new(comptime!((of.segment + 1) * of.n));
    let mut dh = Array::<f32>::new(comptime!(of.n));
    let mut da = Array::<f32>::new(comptime!(of.n));
    #[unroll]
    for i in 0..n {
        let at = (p * n + i) * channels + c;
        h[i] = starts[at];
        dh[i] = d_ends[at];
        da[i] = 0.0f32;
    }
    for step in 0..count {
        let at = (begin + step) * channels + c;
        let delta = softplus(x[1][at] + bias);
        let input = delta * x[0][at];
        #[unroll]
        for i in 0..n {
            h[(step + 1) * n + i] = (delta * a[i]).exp() * h[step * n + i] + input * x[4][(begin + step) * n + i];
        }
    }
    let mut sums = Shared::<[f32]>::new_slice(comptime!(64 * 2 * of.n));
    let mut d_skip = 0.0f32;
    let mut d_bias = 0.0f32;
    for back in 0..count {
        let step = count - 1 - back;
        let t = begin + step;
        let at = t * channels + c;
        let u = x[1][at] + bias;
        let delta = softplus(u);
        let value = x[0][at];
        let mut dy = x[comptime!(if of.gated { 8usize } else { 7 })][at];
        if comptime!(of.gated) {
            let z = x[7][at];
            let gate = sigmoid(z);
            let mut y = skip * value;
            #[unroll]
            for i in 0..n {
                y += h[(step + 1) * n + i] * x[5][t * n + i];
            }
            if inside {
                put(&mut to[4], at, dy * y * (gate * (1.0f32 + z * (1.0f32 - gate))));
            }
            dy *= z * gate;
        }
        d_skip += dy * value;
        let mut dx = dy * skip;
        let mut d_step = 0.0f32;
        #[unroll]
        for i in 0..n {
            let b = x[4][t * n + i];
            let g = dh[i] + dy * x[5][t * n + i];
            let decay = (delta * a[i]).exp();
            let decayed = decay * h[step * n + i];
            let row = UNIT_POS as usize * comptime!(2 * of.n);
            sums[row + i] = select(inside, g * (delta * value), 0.0f32);
            sums[row + n + i] = select(inside, dy * h[(step + 1) * n + i], 0.0f32);
            dx += g * (delta * b);
            d_step += g * (a[i] * decayed + b * value);
            da[i] += g * (delta * decayed);
            dh[i] = decay * g;
        }
        let du = d_step * sigmoid(u);
        d_bias += du;
        if inside {
            put(&mut to[0], at, dx);
            put(&mut to[1], at, du);
        }
        sync_cube();
        let sum_of = UNIT_POS as usize;
        for turn in 0..comptime!((2 * of.n).div_ceil(64)) {
            let column = sum_of + turn * 64;
            if column < comptime!(2 * of.n) {
                let mut sum = 0.0f32;
                for unit in 0..64usize {
                    sum += sums[unit * comptime!(2 * of.n) + column];
                }
                put(&mut to[2], (CUBE_POS_X as usize * tokens as usize + t) * comptime!(2 * of.n) + column, sum);
            }
        }
        sync_cube();
    }
    if inside {
        let row = p * comptime!((of.n + 2) * of.channels) + c;
        #[unroll]
        for i in 0..n {
            put(&mut to[3], row + i * channels, da[i]);
        }
        put(&mut to[3], row + n * channels, d_skip);
        put(&mut to[3], row + (n + 1) * channels, d_bias);
    }
}
