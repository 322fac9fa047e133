//! The backward pass: states at chunk starts are checkpointed, those inside a chunk recomputed, and the recursion
//! `dh_t = C_t dy_t + e^{Δ_{t+1} A} ⊙ dh_{t+1}` runs backwards.

use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math, split};
use ndarray::{Array1, Array2, Array3, ArrayView3};

use super::recurrent::{CHUNK, Tokens};
use super::{Inputs, OP};
use crate::sequences::tokens;
use crate::{Error, error};

/// The gradients with respect to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, D]`
    pub x: Array3<f32>,
    /// With respect to `dt`, before softplus, `[B, T, D]`
    pub dt: Array3<f32>,
    /// `[D]`
    pub dt_bias: Array1<f32>,
    /// `[N, D]`
    pub a: Array2<f32>,
    /// `[B, T, N]`
    pub b: Array3<f32>,
    /// `[B, T, N]`
    pub c: Array3<f32>,
    /// `[D]`
    pub d: Array1<f32>,
    /// `[B, T, D]`; empty without a gate
    pub z: Array3<f32>,
    /// With respect to the initial state, `[S, N, D]`
    pub state: Array3<f32>,
}

/// Channels per task.
const BLOCK: usize = 64;

/// The gradients, given those of the output, `dy: [B, T, D]`, and of the final state, `d_state: [S, N, D]`.
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
    let (batch, t, d, n) = x.dims();
    error::shape(OP, "dy", x.x.shape(), dy.shape())?;
    error::shape(OP, "d_state", state.shape(), d_state.shape())?;
    let ranges = x.sequences.ranges(OP, batch, t)?;
    let input = Tokens::of(x)?;
    let dy = tokens(OP, "dy", &dy)?;
    let tokens = batch * t;
    let blocks = d.div_ceil(BLOCK);
    let mut dx = vec![0.0; tokens * d];
    let mut ddt = vec![0.0; tokens * d];
    let mut dz = vec![0.0; if x.z.is_some() { tokens * d } else { 0 }];
    // Rows of A, then D, then the bias.
    let mut per_channel = vec![0.0; (n + 2) * d];
    // B and C are shared by all channels: one partial sum per block, reduced in order below.
    let mut shared = vec![0.0; blocks * tokens * 2 * n];
    let mut dh = d_state.iter().copied().collect::<Vec<f32>>();
    let state: Vec<f32> = state.iter().copied().collect();
    {
        let mut tasks = Vec::new();
        let mut dz = split::columns(&mut dz, d, BLOCK).into_iter();
        let mut ddt = split::columns(&mut ddt, d, BLOCK).into_iter();
        let mut per_channel = split::columns(&mut per_channel, d, BLOCK).into_iter();
        let mut dh = split::columns(&mut dh, d, BLOCK).into_iter();
        let mut shared = shared.chunks_mut((tokens * 2 * n).max(1));
        for (i, dx) in split::columns(&mut dx, d, BLOCK).into_iter().enumerate() {
            tasks.push(Block {
                x: &input,
                dy: &dy,
                ranges: &ranges,
                state: &state,
                c: i * BLOCK,
                n,
                dx,
                ddt: ddt.next().unwrap_or_default(),
                dz: dz.next().unwrap_or_default(),
                per_channel: per_channel.next().unwrap_or_default(),
                shared: shared.next().unwrap_or_default(),
                dh: dh.next().unwrap_or_default(),
            });
        }
        cx.team.for_each(tasks, |block| cx.isa.run(block));
    }
    let (mut db, mut dc) = (vec![0.0; tokens * n], vec![0.0; tokens * n]);
    for partial in shared.chunks((tokens * 2 * n).max(1)) {
        for (i, pair) in partial.chunks(2 * n.max(1)).enumerate() {
            db[i * n..(i + 1) * n].iter_mut().zip(&pair[..n]).for_each(|(sum, p)| *sum += p);
            dc[i * n..(i + 1) * n].iter_mut().zip(&pair[n..]).for_each(|(sum, p)| *sum += p);
        }
    }
    let dt_bias = per_channel.split_off((n + 1) * d);
    let dd = per_channel.split_off(n * d);
    let shaped = "sizes were computed from the same dimensions";
    let wide = |v: Vec<f32>, last: usize| Array3::from_shape_vec((batch, t, last), v).expect(shaped);
    Ok(Gradient {
        x: wide(dx, d),
        dt: wide(ddt, d),
        dt_bias: Array1::from_vec(dt_bias),
        a: Array2::from_shape_vec((n, d), per_channel).expect(shaped),
        b: wide(db, n),
        c: wide(dc, n),
        d: Array1::from_vec(dd),
        z: if x.z.is_some() { wide(dz, d) } else { Array3::zeros((0, 0, 0)) },
        state: Array3::from_shape_vec((ranges.len(), n, d), dh).expect(shaped),
    })
}

struct Block<'a, 'o> {
    x: &'a Tokens<'a>,
    dy: &'a [&'a [f32]],
    ranges: &'a [std::ops::Range<usize>],
    state: &'a [f32],
    /// The first channel.
    c: usize,
    n: usize,
    dx: Vec<&'o mut [f32]>,
    ddt: Vec<&'o mut [f32]>,
    dz: Vec<&'o mut [f32]>,
    per_channel: Vec<&'o mut [f32]>,
    /// `[tokens, 2, N]`: dB and dC of this block's channels.
    shared: &'o mut [f32],
    /// On entry the gradient of the final state, on return that of the initial one; row `s N + i` of sequence `s`.
    dh: Vec<&'o mut [f32]>,
}

impl Kernel for Block<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let width = self.per_channel[0].len();
        for at in (0..width).step_by(S::LANES) {
            for sequence in 0..self.ranges.len() {
                self.lanes(s, sequence, at, (at + S::LANES).min(width));
            }
        }
    }
}

impl Block<'_, '_> {
    /// The recursion of one sequence for one vector of channels, `at .. end` within the block.
    #[inline(always)]
    fn lanes<S: Lanes>(&mut self, s: S, sequence: usize, at: usize, end: usize) {
        let (x, n, l) = (self.x, self.n, S::LANES);
        let c = self.c + at..self.c + end;
        let channels = x.d.len();
        let range = self.ranges[sequence].clone();
        let starts = range.len().div_ceil(CHUNK);
        // States at chunk starts, states within a chunk, A, dh and dA: one vector each.
        let scratch = &mut Scratch::new((starts + 1 + CHUNK + 3) * n * l);
        let (start, rest) = scratch.split_at_mut((starts + 1) * n * l);
        let (inside, rest) = rest.split_at_mut(CHUNK * n * l);
        let (a, rest) = rest.split_at_mut(n * l);
        let (dh, da) = rest.split_at_mut(n * l);
        for i in 0..n {
            let row = i * channels..(i + 1) * channels;
            s.store(&mut a[i * l..], s.load_part(&x.a[row.clone()][c.clone()]));
            s.store(&mut start[i * l..], s.load_part(&self.state[sequence * n * channels..][row][c.clone()]));
            s.store(&mut dh[i * l..], s.load_part(&self.dh[sequence * n + i][at..end]));
            s.store(&mut da[i * l..], s.splat(0.0));
        }
        let bias = s.load_part(&x.dt_bias[c.clone()]);
        let skip = s.load_part(&x.d[c.clone()]);
        for k in 0..starts {
            let (before, after) = start[k * n * l..].split_at_mut(n * l);
            after[..n * l].copy_from_slice(before);
            for t in range.start + k * CHUNK..(range.start + (k + 1) * CHUNK).min(range.end) {
                let step = math::softplus(s, s.add(s.load_part(&x.dt.get(t)[c.clone()]), bias));
                let input = s.mul(step, s.load_part(&x.x.get(t)[c.clone()]));
                for i in 0..n {
                    let decay = math::exp(s, s.mul(step, s.load(&a[i * l..])));
                    let h = s.fma(decay, s.load(&after[i * l..]), s.mul(input, s.splat(x.b.get(t)[i])));
                    s.store(&mut after[i * l..], h);
                }
            }
        }
        let (mut d_skip, mut d_bias) = (s.splat(0.0), s.splat(0.0));
        for k in (0..starts).rev() {
            let first = range.start + k * CHUNK;
            let last = (first + CHUNK).min(range.end);
            let start = &start[k * n * l..(k + 1) * n * l];
            for t in first..last {
                let step = math::softplus(s, s.add(s.load_part(&x.dt.get(t)[c.clone()]), bias));
                let input = s.mul(step, s.load_part(&x.x.get(t)[c.clone()]));
                let (earlier, now) = inside.split_at_mut((t - first) * n * l);
                let earlier = if t == first { start } else { &earlier[(t - first - 1) * n * l..] };
                for i in 0..n {
                    let decay = math::exp(s, s.mul(step, s.load(&a[i * l..])));
                    let h = s.fma(decay, s.load(&earlier[i * l..]), s.mul(input, s.splat(x.b.get(t)[i])));
                    s.store(&mut now[i * l..], h);
                }
            }
            for t in (first..last).rev() {
                let u = s.add(s.load_part(&x.dt.get(t)[c.clone()]), bias);
                let step = math::softplus(s, u);
                let xt = s.load_part(&x.x.get(t)[c.clone()]);
                let mut dy = s.load_part(&self.dy[t][c.clone()]);
                let now = &inside[(t - first) * n * l..(t - first + 1) * n * l];
                let earlier = if t == first { start } else { &inside[(t - first - 1) * n * l..] };
                if let Some(z) = &x.z {
                    let z = s.load_part(&z.get(t)[c.clone()]);
                    let mut y = s.mul(skip, xt);
                    for i in 0..n {
                        y = s.fma(s.splat(x.c.get(t)[i]), s.load(&now[i * l..]), y);
                    }
                    s.store_part(&mut self.dz[t][at..end], s.mul(s.mul(dy, y), math::silu_slope(s, z)));
                    dy = s.mul(dy, math::silu_lanes(s, z));
                }
                d_skip = s.fma(dy, xt, d_skip);
                let mut dx = s.mul(dy, skip);
                let mut d_step = s.splat(0.0);
                let shared = &mut self.shared[t * 2 * n..(t + 1) * 2 * n];
                for i in 0..n {
                    let a = s.load(&a[i * l..]);
                    let b = s.splat(x.b.get(t)[i]);
                    let g = s.fma(dy, s.splat(x.c.get(t)[i]), s.load(&dh[i * l..])); // dh_t
                    let decay = math::exp(s, s.mul(step, a));
                    let decayed = s.mul(decay, s.load(&earlier[i * l..])); // e^{ΔA} h_{t-1}
                    shared[n + i] += s.sum(s.mul(dy, s.load(&now[i * l..])));
                    shared[i] += s.sum(s.mul(g, s.mul(step, xt)));
                    dx = s.fma(g, s.mul(step, b), dx);
                    d_step = s.fma(g, s.fma(a, decayed, s.mul(b, xt)), d_step);
                    let da = &mut da[i * l..];
                    let sum = s.fma(g, s.mul(step, decayed), s.load(da));
                    s.store(da, sum);
                    s.store(&mut dh[i * l..], s.mul(decay, g));
                }
                let du = s.mul(d_step, math::sigmoid(s, u));
                d_bias = s.add(d_bias, du);
                s.store_part(&mut self.ddt[t][at..end], du);
                s.store_part(&mut self.dx[t][at..end], dx);
            }
        }
        for i in 0..n {
            s.store_part(&mut self.dh[sequence * n + i][at..end], s.load(&dh[i * l..]));
            let out = &mut self.per_channel[i][at..end];
            let sum = s.add(s.load_part(out), s.load(&da[i * l..]));
            s.store_part(out, sum);
        }
        for (row, d) in [(n, d_skip), (n + 1, d_bias)] {
            let out = &mut self.per_channel[row][at..end];
            let sum = s.add(s.load_part(out), d);
            s.store_part(out, sum);
        }
    }
}
