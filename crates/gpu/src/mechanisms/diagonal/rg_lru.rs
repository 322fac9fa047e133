//! The real-gated linear recurrent unit, forward and backward: a unit has a channel of a sequence.
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
use crate::formula::kernel::{exp_m1, put, sigmoid};
use crate::formula::{Access, Formula, Sizes, formula, sum_of_tokens};
use crate::launch::{buffer, cubes, launch, words};
use crate::view::{DType, View, Words};

const OP: &str = "rg_lru";

/// The inputs, as in [`longreach_attention::diagonal::rg_lru`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, D]`
    pub x: &'a View,
    /// The recurrence gate before its sigmoid, `[B, T, D]`
    pub r: &'a View,
    /// The input gate before its sigmoid, `[B, T, D]`
    pub i: &'a View,
    /// `λ`, `[D]`
    pub lambda: &'a View,
    /// Non-zero where a text starts, `[B, T]`, in f32
    pub reset: Option<&'a View>,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, D]`
    pub x: View,
    /// `[B, T, D]`
    pub r: View,
    /// `[B, T, D]`
    pub i: View,
    /// `[D]`
    pub lambda: View,
    /// To the state before the first token, `[S, D]`
    pub state: View,
}

/// The inputs in f32.
struct Wide<'a> {
    x: View,
    r: View,
    i: View,
    /// `−8 softplus(λ)`
    rate: View,
    reset: Option<&'a View>,
    bounds: Words,
    channels: usize,
}

impl Inputs<'_> {
    fn wide(&self, device: &Device, state: &View) -> Result<Wide<'_>, Error> {
        let &[b, t, d] = self.x.shape() else {
            return Err(Error::Shape { op: OP, input: "x", want: vec![0; 3], found: self.x.shape().to_vec() });
        };
        shape(OP, "r", &[b, t, d], self.r.shape())?;
        shape(OP, "i", &[b, t, d], self.i.shape())?;
        shape(OP, "lambda", &[d], self.lambda.shape())?;
        if let Some(reset) = self.reset {
            shape(OP, "reset", &[b, t], reset.shape())?;
        }
        shape(OP, "state", &[self.sequences.count(b), d], state.shape())?;
        let starts: Vec<u32> = bounds(OP, self.sequences, b, t)?.into_iter().map(|t| t as u32).collect();
        let lambda = widened(OP, device, "lambda", self.lambda)?;
        let of = Access::rows(0, 1, d).get().softplus() * -8.0;
        Ok(Wide {
            x: widened(OP, device, "x", self.x)?,
            r: widened(OP, device, "r", self.r)?,
            i: widened(OP, device, "i", self.i)?,
            rate: formula(OP, device, &[&lambda], &of, Sizes::new(1, 1, d), &[d])?,
            reset: self.reset,
            bounds: Words::upload(device, &starts),
            channels: d,
        })
    }
}

impl Wide<'_> {
    /// The outputs in f32, which are the states of all tokens, and the last states.
    fn forward(&self, device: &Device, state: &View) -> Result<(View, View), Error> {
        let out = View::empty(device, self.x.shape(), DType::F32);
        let last = View::empty(device, state.shape(), DType::F32);
        if !last.is_empty() {
            launch!(
                "a unit has a channel below their number, and the tokens between two bounds",
                forward_kernel on device,
                cubes(OP, device, [self.channels.div_ceil(UNITS), self.bounds.len() - 1, 1])?,
                CubeDim::new_1d(UNITS as u32),
                buffer(device, &self.x),
                buffer(device, &self.r),
                buffer(device, &self.i),
                buffer(device, &self.rate),
                self.reset.iter().map(|x| buffer(device, x)).collect(),
                buffer(device, state),
                words(&self.bounds),
                buffer(device, &out),
                buffer(device, &last),
                self.channels,
                self.reset.is_some(),
            );
        }
        Ok((out, last))
    }
}

/// Returns the outputs, `[B, T, D]`, and the states after the last tokens.
pub fn forward(device: &Device, x: &Inputs<'_>, state: &View) -> Result<(View, View), Error> {
    let (out, last) = x.wide(device, state)?.forward(device, state)?;
    Ok((narrowed_to(OP, device, &out, x.x.dtype())?, last))
}

/// Returns the gradients, given those to the output and to the states after the last tokens.
pub fn backward(device: &Device, x: &Inputs<'_>, state: &View, d_o: &View, d_state: &View) -> Result<Gradient, Error> {
    let wide = x.wide(device, state)?;
    shape(OP, "do", x.x.shape(), d_o.shape())?;
    shape(OP, "dstate", state.shape(), d_state.shape())?;
    let d_o = widened(OP, device, "do", d_o)?;
    let (h, _) = wide.forward(device, state)?;
    let [dx, dr, di] = [(); 3].map(|()| View::empty(device, x.x.shape(), DType::F32));
    let (first, rates) =
        (View::empty(device, state.shape(), DType::F32), View::empty(device, state.shape(), DType::F32));
    let (channels, sequences) = (wide.channels, wide.bounds.len() - 1);
    if !first.is_empty() {
        launch!(
            "a unit has a channel below their number, and the tokens between two bounds",
            backward_kernel on device,
            cubes(OP, device, [channels.div_ceil(UNITS), sequences, 1])?,
            CubeDim::new_1d(UNITS as u32),
            buffer(device, &wide.x),
            buffer(device, &wide.r),
            buffer(device, &wide.i),
            buffer(device, &wide.rate),
            wide.reset.iter().map(|x| buffer(device, x)).collect(),
            buffer(device, state),
            words(&wide.bounds),
            buffer(device, &h),
            buffer(device, &d_o),
            buffer(device, d_state),
            [&dx, &dr, &di, &first, &rates].into_iter().map(|x| buffer(device, x)).collect(),
            channels,
            wide.reset.is_some(),
        );
    }
    let all = sum_of_tokens(OP, device, &rates, sequences, channels, &[channels])?;
    let lambda = widened(OP, device, "lambda", x.lambda)?;
    let row = |n| Access::rows(n, 1, channels).get();
    let of: Formula = row(0) * row(1).sigmoid() * -8.0;
    let lambda = formula(OP, device, &[&all, &lambda], &of, Sizes::new(1, 1, channels), &[channels])?;
    Ok(Gradient {
        x: narrowed_to(OP, device, &dx, x.x.dtype())?,
        r: narrowed_to(OP, device, &dr, x.r.dtype())?,
        i: narrowed_to(OP, device, &di, x.i.dtype())?,
        lambda: narrowed_to(OP, device, &lambda, x.lambda.dtype())?,
        state: first,
    })
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn forward_kernel(
    x: &[f32],
    r: &[f32],
    i: &[f32],
    rate: &[f32],
    reset: Sequence<Box<[f32]>>,
    first: &[f32],
    bounds: &[u32],
    out: &mut [f32],
    last: &mut [f32],
    #[comptime] channels: usize,
    #[comptime] has_reset: bool,
) {
    let c = CUBE_POS_X as usize * 64 + UNIT_POS as usize;
    let n = CUBE_POS_Y as usize;
    if c < channels {
        let mut h = first[n * channels + c];
        for t in bounds[n] as usize..bounds[n + 1] as usize {
            let at = t * channels + c;
            let log = rate[c] * sigmoid(r[at]);
            let mut a = log.exp();
            let mut left = 0.0f32 - exp_m1(2.0f32 * log);
            if comptime!(has_reset) {
                if reset[0][t] != 0.0f32 {
                    a = 0.0f32;
                    left = 1.0f32;
                }
            }
            h = a * h + left.sqrt() * (sigmoid(i[at]) * x[at]);
            out[at] = h;
        }
        last[n * channels + c] = h;
    }
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn backward_kernel(
    x: &[f32],
    r: &[f32],
    i: &[f32],
    rate: &[f32],
    reset: Sequence<Box<[f32]>>,
    first: &[f32],
    bounds: &[u32],
    h: &[f32],
    d_o: &[f32],
    d_last: &[f32],
    // To x, r, i, the first state and the rates.
    mut to: Sequence<Box<[f32]>>,
    #[comptime] channels: usize,
    #[comptime] has_reset: bool,
) {
    let c = CUBE_POS_X as usize * 64 + UNIT_POS as usize;
    let n = CUBE_POS_Y as usize;
    if c < channels {
        let begin = bounds[n] as usize;
        let end = bounds[n + 1] as usize;
        let mut d = d_last[n * channels + c];
        let mut rates = 0.0f32;
        for step in 0..end - begin {
            let t = end - 1 - step;
            let at = t * channels + c;
            d += d_o[at];
            let gate = sigmoid(r[at]);
            let input = sigmoid(i[at]);
            let log = rate[c] * gate;
            let mut a = log.exp();
            let mut left = 0.0f32 - exp_m1(2.0f32 * log);
            let mut before = first[n * channels + c];
            if t > begin {
                before = h[at - channels];
            }
            // The slope of the root is at most 1000.
            let slope = 1.0f32 / max(4.0f32 * left, 1e-6f32).sqrt();
            let mut d_log = d * (a * before - 2.0f32 * a * a * slope * (input * x[at]));
            if comptime!(has_reset) {
                if reset[0][t] != 0.0f32 {
                    a = 0.0f32;
                    left = 1.0f32;
                    d_log = 0.0f32;
                }
            }
            let d_gated = d * left.sqrt();
            rates += d_log * gate;
            put(&mut to[0], at, d_gated * input);
            put(&mut to[1], at, d_log * rate[c] * gate * (1.0f32 - gate));
            put(&mut to[2], at, d_gated * x[at] * input * (1.0f32 - input));
            d = a * d;
        }
        put(&mut to[3], n * channels + c, d);
        put(&mut to[4], n * channels + c, rates);
    }
}
