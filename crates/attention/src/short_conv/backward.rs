//! The backward pass: the same convolution with the taps reversed, applied to the gradient before the activation.

use longreach_simd::{Cx, Kernel, Lanes, math, split};
use ndarray::{Array1, Array2, Array3, ArrayView3};

use super::{Activation, Inputs, OP};
use crate::sequences::tokens;
use crate::{Error, error};

/// The gradients with respect to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, D]`
    pub x: Array3<f32>,
    /// `[W, D]`
    pub w: Array2<f32>,
    /// `[D]`; zero without a bias
    pub bias: Array1<f32>,
    /// With respect to the initial state, `[S, W - 1, D]`
    pub state: Array3<f32>,
}

/// Channels per task.
const BLOCK: usize = 64;

/// The gradients, given those of the output, `dy: [B, T, D]`, and of the final state, `d_state`.
///
/// `state` is the initial state, as the forward call received it. Errors on wrong shapes.
pub fn backward(
    x: &Inputs<'_>,
    state: ArrayView3<'_, f32>,
    dy: ArrayView3<'_, f32>,
    d_state: ArrayView3<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    x.check(state.shape())?;
    let (b, t, d, w) = x.dims();
    error::shape(OP, "dy", x.x.shape(), dy.shape())?;
    error::shape(OP, "d_state", state.shape(), d_state.shape())?;
    let ranges = x.sequences.ranges(OP, b, t)?;
    let rows = tokens(OP, "x", &x.x)?;
    let dy = tokens(OP, "dy", &dy)?;
    let mut dx = vec![0.0; b * t * d];
    // dw and db of a channel block: one row per tap and one for the bias.
    let mut dw = vec![0.0; (w + 1) * d];
    let mut d_past = d_state.to_owned().into_raw_vec_and_offset().0;
    let past = state.as_standard_layout();
    let past = past.as_slice().unwrap_or_default();
    let taps = x.w.as_standard_layout();
    let tasks: Vec<_> =
        (split::columns(&mut dx, d, BLOCK).into_iter()).zip(split::columns(&mut dw, d, BLOCK)).enumerate().collect();
    let mut pasts = split::columns(&mut d_past, d, BLOCK).into_iter();
    let tasks: Vec<_> = tasks.into_iter().map(|(i, (dx, dw))| (i, dx, dw, pasts.next().unwrap_or_default())).collect();
    cx.team.for_each(tasks, |(i, dx, dw, d_past)| {
        cx.isa.run(Block {
            rows: &rows,
            dy: &dy,
            ranges: &ranges,
            past,
            taps: taps.as_slice().unwrap_or_default(),
            bias: x.bias.as_ref().and_then(|b| b.to_slice()),
            act: x.activation,
            d,
            w,
            c: i * BLOCK,
            dx,
            dw,
            d_past,
        });
    });
    let bias = if x.bias.is_some() { dw.split_off(w * d) } else { vec![0.0; d] };
    dw.truncate(w * d);
    let shaped = "sizes were computed from the same dimensions";
    Ok(Gradient {
        x: Array3::from_shape_vec((b, t, d), dx).expect(shaped),
        w: Array2::from_shape_vec((w, d), dw).expect(shaped),
        bias: Array1::from_vec(bias),
        state: Array3::from_shape_vec(state.dim(), d_past).expect(shaped),
    })
}

struct Block<'a, 'o> {
    rows: &'a [&'a [f32]],
    dy: &'a [&'a [f32]],
    ranges: &'a [std::ops::Range<usize>],
    past: &'a [f32],
    taps: &'a [f32],
    bias: Option<&'a [f32]>,
    act: Activation,
    d: usize,
    w: usize,
    /// The first channel of the block.
    c: usize,
    dx: Vec<&'o mut [f32]>,
    dw: Vec<&'o mut [f32]>,
    /// On entry the gradient of the final state, on return that of the initial one.
    d_past: Vec<&'o mut [f32]>,
}

impl Kernel for Block<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let (d, w) = (self.d, self.w);
        let width = self.dw[0].len();
        for (n, range) in self.ranges.iter().enumerate() {
            let base = n * (w - 1);
            for at in (0..width).step_by(S::LANES) {
                let end = (at + S::LANES).min(width);
                let (c, c_end) = (self.c + at, self.c + end);
                // The final state's gradient flows to the last tokens and, if there are few, to the initial state.
                let len = range.len();
                let carried: Vec<S::V> = (0..w - 1).map(|j| s.load_part(&self.d_past[base + j][at..end])).collect();
                for j in 0..w - 1 {
                    s.store_part(&mut self.d_past[base + j][at..end], s.splat(0.0));
                }
                for (j, carried) in carried.into_iter().enumerate() {
                    let from = len + j;
                    let out = if from < w - 1 {
                        &mut self.d_past[base + from]
                    } else {
                        &mut self.dx[range.start + from - (w - 1)]
                    };
                    let v = s.add(s.load_part(&out[at..end]), carried);
                    s.store_part(&mut out[at..end], v);
                }
                for t in 0..len {
                    let input = |j: usize| {
                        let from = t + j;
                        if from < w - 1 {
                            &self.past[(base + from) * d + c..(base + from) * d + c_end]
                        } else {
                            &self.rows[range.start + from - (w - 1)][c..c_end]
                        }
                    };
                    let mut du = s.load_part(&self.dy[range.start + t][c..c_end]);
                    if self.act == Activation::Silu {
                        let mut u = self.bias.map_or(s.splat(0.0), |b| s.load_part(&b[c..c_end]));
                        for j in 0..w {
                            u = s.fma(s.load_part(&self.taps[j * d + c..j * d + c_end]), s.load_part(input(j)), u);
                        }
                        du = s.mul(du, math::silu_slope(s, u));
                    }
                    for j in 0..w {
                        let dw = s.fma(du, s.load_part(input(j)), s.load_part(&self.dw[j][at..end]));
                        s.store_part(&mut self.dw[j][at..end], dw);
                        let from = t + j;
                        let tap = s.load_part(&self.taps[j * d + c..j * d + c_end]);
                        let out = if from < w - 1 {
                            &mut self.d_past[base + from]
                        } else {
                            &mut self.dx[range.start + from - (w - 1)]
                        };
                        let v = s.fma(du, tap, s.load_part(&out[at..end]));
                        s.store_part(&mut out[at..end], v);
                    }
                    let db = s.add(s.load_part(&self.dw[w][at..end]), du);
                    s.store_part(&mut self.dw[w][at..end], db);
                }
            }
        }
    }
}
