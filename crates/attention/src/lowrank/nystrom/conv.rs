//! A depthwise convolution along the sequence, with one filter per head.

use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array2, Array4, ArrayView2};

/// `out_t += Σ_j w_j x_{t + j − half}`; with `back` its transpose, with `x_{t − j + half}`.
pub(super) fn add(x: &Array4<f32>, w: ArrayView2<'_, f32>, back: bool, out: &mut Array4<f32>, cx: &Cx) {
    let (b, t, h, e) = x.dim();
    const TOKENS: usize = 64;
    let (x, filters) = (x.as_slice().unwrap_or_default(), w.as_standard_layout());
    let filters = filters.as_slice().unwrap_or_default();
    let row = h * e;
    if b * t * row == 0 {
        return;
    }
    let texts = out.as_slice_mut().unwrap_or_default().chunks_mut(t * row).zip(x.chunks(t * row));
    let parts = texts.flat_map(|(out, x)| out.chunks_mut(TOKENS * row).enumerate().map(move |(i, out)| (i, out, x)));
    cx.team.for_each(parts.collect::<Vec<_>>(), |(i, out, x)| {
        cx.isa.run(Filter { x, filters, heads: h, width: e, back, first: i * TOKENS, out });
    });
}

struct Filter<'a> {
    /// The sequence, `[T, H, E]`.
    x: &'a [f32],
    /// `[H, width]`
    filters: &'a [f32],
    heads: usize,
    width: usize,
    back: bool,
    /// The first token.
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Filter<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let row = self.heads * self.width;
        let (taps, texts) = (self.filters.len() / self.heads, self.x.len() / row);
        let half = taps / 2;
        for (i, out) in self.out.chunks_mut(row).enumerate() {
            let t = self.first + i;
            for (h, out) in out.chunks_mut(self.width).enumerate() {
                let filter = &self.filters[h * taps..(h + 1) * taps];
                // Four vectors at a time, which stay in registers.
                for (n, out) in out.chunks_mut(4 * S::LANES).enumerate() {
                    let at = h * self.width + n * 4 * S::LANES;
                    let mut sum = [s.splat(0.0); 4];
                    for (j, w) in filter.iter().enumerate() {
                        let other = if self.back { t + half } else { t + j };
                        let Some(other) = other.checked_sub(if self.back { j } else { half }) else { continue };
                        if other >= texts {
                            continue;
                        }
                        let (w, x) = (s.splat(*w), &self.x[other * row + at..][..out.len()]);
                        for m in 0..4 {
                            let part = s.load_part(&x[(m * S::LANES).min(x.len())..]);
                            sum[m] = s.fma(w, part, sum[m]);
                        }
                    }
                    for (m, out) in out.chunks_mut(S::LANES).enumerate() {
                        let all = s.add(sum[m], s.load_part(out));
                        s.store_part(out, all);
                    }
                }
            }
        }
    }
}

/// The gradient of the filters.
pub(super) fn filters(x: &Array4<f32>, d: &Array4<f32>, (heads, taps): (usize, usize), cx: &Cx) -> Array2<f32> {
    let (_, t, _, e) = x.dim();
    let mut out = Array2::zeros((heads, taps));
    let (x, d) = (x.as_slice().unwrap_or_default(), d.as_slice().unwrap_or_default());
    let parts = out.as_slice_mut().unwrap_or_default().chunks_mut(taps.max(1)).enumerate();
    cx.team
        .for_each(parts, |(h, out)| cx.isa.run(OfFilter { x, d, texts: t, row: heads * e, at: h * e, width: e, out }));
    out
}

struct OfFilter<'a> {
    x: &'a [f32],
    d: &'a [f32],
    texts: usize,
    row: usize,
    at: usize,
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for OfFilter<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let (half, text) = (self.out.len() / 2, (self.texts * self.row).max(1));
        for (x, d) in self.x.chunks(text).zip(self.d.chunks(text)) {
            for t in 0..self.texts {
                let d = &d[t * self.row + self.at..][..self.width];
                for (j, out) in self.out.iter_mut().enumerate() {
                    let Some(other) = (t + j).checked_sub(half).filter(|other| *other < self.texts) else { continue };
                    *out += math::dot(s, d, &x[other * self.row + self.at..][..self.width]);
                }
            }
        }
    }
}
