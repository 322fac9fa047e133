//! RWKV-4, forward and backward: a unit has a channel of a sequence.
//!
//! The sums are divided by `e^m`, with `m` the running maximum of exponents, and so are their gradients, by their own
//! maximum. Where a sum is empty `m` is −10³⁰, an exponent whose exponential is 0, so that no difference is NaN.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::too_many_arguments,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe; kernels take buffers one by one"
)]

use cubecl::prelude::*;
use longreach_attention::Sequences;

use super::UNITS;
use crate::convert::{narrowed_to, widened};
use crate::device::Device;
use crate::error::{Error, shape};
use crate::fast_weights::bounds;
use crate::formula::kernel::put;
use crate::formula::sum_of_tokens;
use crate::launch::{buffer, cubes, launch, words};
use crate::view::{DType, View, Words};

const OP: &str = "rwkv4";

/// The maximum exponent of an empty sum.
const NONE: f32 = -1e30;

/// The inputs, as in [`longreach_attention::diagonal::rwkv4`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, D]`
    pub k: &'a View,
    /// `[B, T, D]`
    pub v: &'a View,
    /// The logarithm of the decay, `[D]`
    pub w: &'a View,
    /// The bonus of the current token, `[D]`
    pub u: &'a View,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, D]`
    pub k: View,
    /// `[B, T, D]`
    pub v: View,
    /// `[D]`
    pub w: View,
    /// `[D]`
    pub u: View,
    /// To the state before the first token, `[S, 3, D]`; zero for its exponent
    pub state: View,
}

/// The inputs in f32.
struct Wide {
    k: View,
    v: View,
    w: View,
    u: View,
    bounds: Words,
    channels: usize,
}

impl Inputs<'_> {
    fn wide(&self, device: &Device, state: &View) -> Result<Wide, Error> {
        let &[b, t, d] = self.k.shape() else {
            return Err(Error::Shape { op: OP, input: "k", want: vec![0; 3], found: self.k.shape().to_vec() });
        };
        shape(OP, "v", &[b, t, d], self.v.shape())?;
        shape(OP, "w", &[d], self.w.shape())?;
        shape(OP, "u", &[d], self.u.shape())?;
        shape(OP, "state", &[self.sequences.count(b), 3, d], state.shape())?;
        let starts: Vec<u32> = bounds(OP, self.sequences, b, t)?.into_iter().map(|t| t as u32).collect();
        Ok(Wide {
            k: widened(OP, device, "k", self.k)?,
            v: widened(OP, device, "v", self.v)?,
            w: widened(OP, device, "w", self.w)?,
            u: widened(OP, device, "u", self.u)?,
            bounds: Words::upload(device, &starts),
            channels: d,
        })
    }
}

impl Wide {
    /// The outputs, the last states and, with `kept`, the states before all tokens, `[tokens, 3, D]`.
    fn forward(&self, device: &Device, state: &View, kept: bool) -> Result<(View, View, Option<View>), Error> {
        let out = View::empty(device, self.k.shape(), DType::F32);
        let last = View::empty(device, state.shape(), DType::F32);
        let states = kept.then(|| View::empty(device, &[3 * self.k.len()], DType::F32));
        if !last.is_empty() {
            launch!(
                "a unit has a channel below their number, and the tokens between two bounds",
                forward_kernel on device,
                cubes(OP, device, [self.channels.div_ceil(UNITS), self.bounds.len() - 1, 1])?,
                CubeDim::new_1d(UNITS as u32),
                buffer(device, &self.k),
                buffer(device, &self.v),
                buffer(device, &self.w),
                buffer(device, &self.u),
                buffer(device, state),
                words(&self.bounds),
                buffer(device, &out),
                buffer(device, &last),
                states.iter().map(|x| buffer(device, x)).collect(),
                self.channels,
                kept,
            );
        }
        Ok((out, last, states))
    }
}

/// Returns the outputs, `[B, T, D]`, and the states after the last tokens.
pub fn forward(device: &Device, x: &Inputs<'_>, state: &View) -> Result<(View, View), Error> {
    let (out, last, _) = x.wide(device, state)?.forward(device, state, false)?;
    Ok((narrowed_to(OP, device, &out, x.v.dtype())?, last))
}

/// Returns the gradients, given those to the output and to the states after the last tokens.
pub fn backward(device: &Device, x: &Inputs<'_>, state: &View, d_o: &View, d_state: &View) -> Result<Gradient, Error> {
    let wide = x.wide(device, state)?;
    shape(OP, "do", x.k.shape(), d_o.shape())?;
    shape(OP, "dstate", state.shape(), d_state.shape())?;
    let d_o = widened(OP, device, "do", d_o)?;
    let (_, last, states) = wide.forward(device, state, true)?;
    let [dk, dv] = [(); 2].map(|()| View::empty(device, x.k.shape(), DType::F32));
    let (channels, sequences) = (wide.channels, wide.bounds.len() - 1);
    let first = View::empty(device, state.shape(), DType::F32);
    let [dw, du] = [(); 2].map(|()| View::empty(device, &[sequences, channels], DType::F32));
    if !first.is_empty() {
        launch!(
            "a unit has a channel below their number, and the tokens between two bounds",
            backward_kernel on device,
            cubes(OP, device, [channels.div_ceil(UNITS), sequences, 1])?,
            CubeDim::new_1d(UNITS as u32),
            [&wide.k, &wide.v, &wide.w, &wide.u, state, &last, &d_o, d_state]
                .into_iter()
                .chain(&states)
                .map(|x| buffer(device, x))
                .collect(),
            words(&wide.bounds),
            [&dk, &dv, &first, &dw, &du].into_iter().map(|x| buffer(device, x)).collect(),
            channels,
        );
    }
    let of_channels = |d: &View, of: &View| -> Result<View, Error> {
        narrowed_to(OP, device, &sum_of_tokens(OP, device, d, sequences, channels, &[channels])?, of.dtype())
    };
    Ok(Gradient {
        k: narrowed_to(OP, device, &dk, x.k.dtype())?,
        v: narrowed_to(OP, device, &dv, x.v.dtype())?,
        w: of_channels(&dw, x.w)?,
        u: of_channels(&du, x.u)?,
        state: first,
    })
}

/// The maximum exponent of a sum: that of the state, unless it is empty.
#[cube]
fn exponent(den: f32, top: f32) -> f32 {
    select(den == 0.0f32, NONE, max(top, NONE))
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn forward_kernel(
    k: &[f32],
    v: &[f32],
    w: &[f32],
    u: &[f32],
    first: &[f32],
    bounds: &[u32],
    out: &mut [f32],
    last: &mut [f32],
    mut states: Sequence<Box<[f32]>>,
    #[comptime] channels: usize,
    #[comptime] kept: bool,
) {
    let c = CUBE_POS_X as usize * 64 + UNIT_POS as usize;
    let n = CUBE_POS_Y as usize;
    if c < channels {
        let base = n * 3 * channels + c;
        let mut num = first[base];
        let mut den = first[base + channels];
        let mut top = exponent(den, first[base + 2 * channels]);
        for t in bounds[n] as usize..bounds[n + 1] as usize {
            let at = t * channels + c;
            if comptime!(kept) {
                put(&mut states[0], 3 * t * channels + c, num);
                put(&mut states[0], (3 * t + 1) * channels + c, den);
                put(&mut states[0], (3 * t + 2) * channels + c, top);
            }
            let most = max(top, u[c] + k[at]);
            let old = (top - most).exp();
            let new = (u[c] + k[at] - most).exp();
            out[at] = (old * num + new * v[at]) / (old * den + new);
            let next = max(k[at], top + w[c]);
            let kept_by = (top + w[c] - next).exp();
            let own = (k[at] - next).exp();
            num = kept_by * num + own * v[at];
            den = kept_by * den + own;
            top = next;
        }
        last[base] = num;
        last[base + channels] = den;
        // An untouched state keeps its exponent.
        last[base + 2 * channels] = select(bounds[n] == bounds[n + 1], first[base + 2 * channels], top);
    }
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn backward_kernel(
    // k, v, w, u, the first and last states, do, the gradient to the last states, and the states before tokens.
    x: Sequence<Box<[f32]>>,
    bounds: &[u32],
    // To k, v, the first states, w and u.
    mut to: Sequence<Box<[f32]>>,
    #[comptime] channels: usize,
) {
    let c = CUBE_POS_X as usize * 64 + UNIT_POS as usize;
    let n = CUBE_POS_Y as usize;
    if c < channels {
        let base = n * 3 * channels + c;
        let begin = bounds[n] as usize;
        let end = bounds[n + 1] as usize;
        let w = x[2][c];
        let u = x[3][c];
        // The gradients of the sums are α e^r and β e^r.
        let mut alpha = x[7][base];
        let mut beta = x[7][base + channels];
        let mut r = 0.0f32 - exponent(x[5][base + channels], x[5][base + 2 * channels]);
        let mut dw = 0.0f32;
        let mut du = 0.0f32;
        for step in 0..end - begin {
            let t = end - 1 - step;
            let at = t * channels + c;
            let k = x[0][at];
            let v = x[1][at];
            let num = x[8][3 * t * channels + c];
            let den = x[8][(3 * t + 1) * channels + c];
            let top = x[8][(3 * t + 2) * channels + c];
            let most = max(top, u + k);
            let old = (top - most).exp();
            let new = (u + k - most).exp();
            let total = old * den + new;
            let out = (old * num + new * v) / total;
            let d = x[6][at] / total;
            let own = new * d;
            let through = own * (v - out);
            let kept = (k + r).exp();
            put(&mut to[0], at, kept * (alpha * v + beta) + through);
            put(&mut to[1], at, kept * alpha + own);
            du += through;
            dw += (w + r + top).exp() * (alpha * num + beta * den);
            let next = max(w + r, 0.0f32 - most);
            let later = (w + r - next).exp();
            let now = (0.0f32 - most - next).exp() * d;
            alpha = later * alpha + now;
            beta = later * beta - now * out;
            r = next;
        }
        let back = (r + exponent(x[4][base + channels], x[4][base + 2 * channels])).exp();
        put(&mut to[2], base, back * alpha);
        put(&mut to[2], base + channels, back * beta);
        put(&mut to[2], base + 2 * channels, 0.0f32);
        put(&mut to[3], n * channels + c, dw);
        put(&mut to[4], n * channels + c, du);
    }
}
