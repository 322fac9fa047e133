//! The kernel of the family: block-sparse attention with online softmax, its gradient, and decoding against a KV cache.
//!
//! $$ o_i = \sum_j p_{ij} v_j, \quad p_{ij} = n_{ij} e^{y_{ij} - \mathrm{lse}_i}, \quad
//!    \mathrm{lse}_i = \ln \textstyle\sum_j n_{ij} e^{y_{ij}}, \quad y_{ij} = \tau(s\,q_i^\top k_j) + b_{ij} $$
//!
//! where the pattern defines `n`, how often a query counts a key. No `T × S` matrix is materialised.

use std::borrow::Cow;
use std::ops::Range;

use longreach_simd::cache::prefetch;
use longreach_simd::product::{Stored, StoredSlices};
use longreach_simd::{Lanes, math, memory};
use ndarray::{Array3, Array4, ArrayView3, ArrayView4, Ix1};

use super::limits::Limits;
use super::mask::{BlockMask, Pattern, Sizes};
use super::{Inputs, Segment, View};
use crate::{Error, error};

mod backward;
mod few_queries;
mod forward;
mod panels;
mod scattered;
mod step;

pub use backward::{Gradient, backward};
pub use forward::forward;
use panels::{Epilogue, Panel, ScaledStore, Visibility, pack_columns, pack_rows, products, push_panels, run};
pub use step::step;

/// Keys per step.
const STEP: usize = 256;
/// Queries of a register tile.
const ROWS: usize = 8;
/// Queries per tile, which share packed keys.
const TILE: usize = 64;
/// The score of a masked pair: finite, so that differences are not NaN.
const HIDDEN: f32 = -1e30;
/// Prefetch distance in tokens.
const PREFETCH_TOKENS: usize = 16;
const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// The output, and its log-sum-exp: −∞ for queries that attend to no key, whose output is zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// `[B, T, H, E]`
    pub out: Array4<f32>,
    /// `[B, T, H]`
    pub lse: Array3<f32>,
}

/// A borrowed [`Output`], which gradients read.
#[derive(Clone, Copy, Debug)]
pub struct OutputView<'a> {
    /// `[B, T, H, E]`
    pub out: ArrayView4<'a, f32>,
    /// `[B, T, H]`
    pub lse: ArrayView3<'a, f32>,
}

impl Output {
    /// A view of both.
    pub fn view(&self) -> OutputView<'_> {
        OutputView { out: self.out.view(), lse: self.lse.view() }
    }
}

/// The sizes of a call.
#[derive(Clone, Copy, Debug)]
struct Dims {
    b: usize,
    t: usize,
    s: usize,
    h: usize,
    g: usize,
    d: usize,
    e: usize,
}

/// Zeros, whose pages are committed on first write.
pub(in crate::softmax) fn zeros((b, t, h, d): (usize, usize, usize, usize)) -> Array4<f32> {
    let n = b * t * h * d;
    Array4::from_shape_vec((b, t, h, d), memory::zeros(n)).unwrap_or_else(|_| Array4::zeros((b, t, h, d)))
}

/// A view `[B, T, H, D]`, one slice per token, in the type that it is stored in.
struct Slices<'a> {
    tokens: StoredSlices<'a>,
    length: usize,
    width: usize,
}

/// The tokens of a segment.
fn stored<'a>(op: &'static str, input: &'static str, x: &'a Segment<'_>) -> Result<StoredSlices<'a>, Error> {
    Ok(match x {
        Segment::F32(x) => StoredSlices::F32(crate::sequences::tokens(op, input, x)?),
        Segment::Bf16(x) => StoredSlices::Bf16(crate::sequences::tokens(op, input, x)?),
        Segment::Q8(x) => StoredSlices::Q8(crate::sequences::tokens(op, input, x)?),
    })
}

/// Concatenates the tokens of segments, for each of `batch` sequences.
fn joined<T>(batch: usize, segments: Vec<Vec<&[T]>>) -> Vec<&[T]> {
    let mut tokens = Vec::with_capacity(segments.iter().map(Vec::len).sum());
    for b in 0..batch {
        for segment in &segments {
            let n = segment.len() / batch;
            tokens.extend_from_slice(&segment[b * n..(b + 1) * n]);
        }
    }
    tokens
}

impl<'a> Slices<'a> {
    fn of<T: Stored>(op: &'static str, input: &'static str, x: &'a ArrayView4<'_, T>) -> Result<Self, Error> {
        let (_, length, _, width) = x.dim();
        Ok(Self { tokens: T::slices(crate::sequences::tokens(op, input, x)?), length, width })
    }

    /// The keys (`part` 0) or values (1) of a call, of all its segments.
    fn of_segments<T: Stored>(
        op: &'static str,
        input: &'static str,
        earlier: &'a [[Segment<'_>; 2]],
        part: usize,
        last: &'a ArrayView4<'_, T>,
    ) -> Result<Self, Error> {
        if earlier.is_empty() {
            return Self::of(op, input, last);
        }
        let (batch, n, _, width) = last.dim();
        let length = n + earlier.iter().map(|segment| segment[part].shape()[1]).sum::<usize>();
        let (mut floats, mut halves, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
        let segments = earlier.iter().map(|segment| stored(op, input, &segment[part]));
        for segment in segments.chain([Ok(T::slices(crate::sequences::tokens(op, input, last)?))]) {
            match segment? {
                StoredSlices::F32(tokens) if !tokens.is_empty() => floats.push(tokens),
                StoredSlices::Bf16(tokens) if !tokens.is_empty() => halves.push(tokens),
                StoredSlices::Q8(tokens) if !tokens.is_empty() => blocks.push(tokens),
                _ => {}
            }
        }
        let there = [("f32", !floats.is_empty()), ("bf16", !halves.is_empty()), ("Q8_0", !blocks.is_empty())];
        let types: Vec<&str> = there.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
        let found = format!("keys and values in {}", types.join(" and in "));
        error::parameter(op, "earlier", types.len() < 2, found, "one type")?;
        let tokens = match types.first() {
            Some(&"bf16") => StoredSlices::Bf16(joined(batch, halves)),
            Some(&"Q8_0") => StoredSlices::Q8(joined(batch, blocks)),
            _ => StoredSlices::F32(joined(batch, floats)),
        };
        Ok(Self { tokens, length, width })
    }

    /// Token `t` of sequence `b`, head `h`, times a factor; `out` is filled up with zeros.
    #[inline(always)]
    fn load(&self, (b, t, h): (usize, usize, usize), factor: f32, out: &mut [f32]) {
        let (at, part) = (b * self.length + t, h * self.width..(h + 1) * self.width);
        out.fill(0.0);
        match &self.tokens {
            StoredSlices::F32(tokens) => scaled(&tokens[at][part], factor, out),
            StoredSlices::Bf16(tokens) => scaled(&tokens[at][part], factor, out),
            StoredSlices::Q8(_) => unreachable!("queries are numbers"),
        }
    }
}

#[inline(always)]
fn scaled<T: Stored>(x: &[T], factor: f32, out: &mut [f32]) {
    for (to, x) in out.iter_mut().zip(x) {
        *to = factor * x.widen();
    }
}

/// Prefetches the row `PREFETCH_TOKENS` tokens after token `t` of a sequence: rows are strided.
#[inline(always)]
fn prefetch_after<T>(tokens: &[&[T]], t: usize, part: Range<usize>) {
    if let Some(token) = tokens.get(t + PREFETCH_TOKENS) {
        prefetch(&token[part]);
    }
}

/// The bias, one plane `[T, S]` per sequence and head.
struct Bias<'a> {
    planes: Vec<&'a [f32]>,
    batch: usize,
    heads: usize,
    keys: usize,
}

impl<'a> Bias<'a> {
    fn of(op: &'static str, x: &'a ArrayView4<'_, f32>) -> Result<Self, Error> {
        let (batch, heads, _, keys) = x.dim();
        Ok(Self { planes: crate::sequences::tokens(op, "bias", x)?, batch, heads, keys })
    }

    #[inline(always)]
    fn row(&self, b: usize, h: usize, t: usize) -> &'a [f32] {
        let plane = self.planes[(b % self.batch) * self.heads + h % self.heads];
        &plane[t * self.keys..(t + 1) * self.keys]
    }
}

/// The options of a call's scores.
struct Options<'a> {
    scale: f32,
    softcap: Option<f32>,
    alibi: Option<View<'a, f32, Ix1>>,
    sinks: Option<View<'a, f32, Ix1>>,
}

/// A call: its inputs, one slice per token, and its mask.
struct Call<'a> {
    x: Options<'a>,
    dims: Dims,
    q: Slices<'a>,
    k: Slices<'a>,
    v: Slices<'a>,
    bias: Option<Bias<'a>>,
    weights: Option<Cow<'a, [f32]>>,
    pattern: &'a dyn Pattern,
    of: Sizes,
    mask: BlockMask,
    limits: Limits,
}

impl<'a> Call<'a> {
    fn new<T: Stored>(x: &'a Inputs<'_, T>, pattern: &'a dyn Pattern) -> Result<Self, Error> {
        let op = pattern.name();
        let (of, groups) = x.sizes_of_segments(op)?;
        let ((_, t, _, d), e) = (x.q.dim(), x.v.dim().3);
        let dims = Dims { b: of.batch, t, s: of.keys, h: of.heads, g: groups, d, e };
        pattern.check(&of)?;
        let limits = Limits::of(op, &of, x.keep, x.sequences)?;
        let mask = if pattern.scattered() { BlockMask::empty() } else { BlockMask::limited(pattern, &of, &limits) };
        Ok(Self {
            x: Options { scale: x.scale, softcap: x.softcap, alibi: x.alibi, sinks: x.sinks },
            dims,
            q: Slices::of(op, "q", &x.q)?,
            k: Slices::of_segments(op, "k", x.earlier, 0, &x.k)?,
            v: Slices::of_segments(op, "v", x.earlier, 1, &x.v)?,
            bias: x.bias.as_ref().map(|bias| Bias::of(op, bias)).transpose()?,
            weights: x.weights.as_ref().map(crate::sequences::contiguous),
            pattern,
            of,
            mask,
            limits,
        })
    }

    /// The queries of a block, by index.
    fn queries(&self, i: usize) -> Range<usize> {
        let positions = self.mask.positions(i);
        positions.start - self.of.queries.start..positions.end - self.of.queries.start
    }

    /// Whether scores are the scaled products alone.
    fn plain(&self) -> bool {
        self.x.softcap.is_none() && self.bias.is_none() && self.x.alibi.is_none() && self.weights.is_none()
    }

    /// The factor of queries. `exp2` is cheaper than `exp`: log₂ e is folded into the queries if scores are plain, and
    /// otherwise applied to the final scores.
    fn factor(&self) -> f32 {
        if self.plain() { self.x.scale * LOG2_E } else { self.x.scale }
    }

    /// Which of `keys` query `t` attends to, as a bit mask.
    #[inline(always)]
    fn seen(&self, (b, h, t): (usize, usize, usize), keys: Range<usize>) -> u64 {
        let i = self.of.queries.start + t;
        self.pattern.seen(&self.of, b, h, i, keys.clone()) & self.limits.seen(b, i, keys)
    }

    /// Turns the products of query `t` with the keys of a panel into scores in base 2: soft-cap, bias, ALiBi, weight
    /// and mask. For a cut panel, `seen` is the bit mask of its keys. Stores the soft-cap's derivative in `slope`, if
    /// given.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "where the scores stand")]
    fn adjust<S: Lanes>(
        &self,
        s: S,
        (b, h, t): (usize, usize, usize),
        panel: Panel,
        seen: u32,
        scores: &mut [f32],
        slope: Option<&mut [f32]>,
    ) {
        let first = panel.key;
        let mut y = s.load(scores);
        if let Some(cap) = self.x.softcap {
            let r = math::tanh(s, s.mul(y, s.splat(1.0 / cap)));
            y = s.mul(s.splat(cap), r);
            if let Some(slope) = slope {
                s.store(slope, s.sub(s.splat(1.0), s.mul(r, r)));
            }
        }
        if let Some(bias) = &self.bias {
            y = s.add(y, s.load_part(&bias.row(b, h, t)[first..]));
        }
        if let Some(alibi) = &self.x.alibi {
            // |i − j| is computed on integers, which are exact in f32 up to 2²⁴.
            let position = (self.of.queries.start + t) as isize - first as isize;
            let ahead = s.sub(s.splat(position as f32), s.load(&COUNT));
            let far = s.max(ahead, s.sub(s.splat(0.0), ahead));
            y = s.sub(y, s.mul(s.splat(alibi[h]), far));
        }
        if let Some(weights) = &self.weights {
            y = s.add(y, s.load_part(&weights[b * self.dims.s + first..(b + 1) * self.dims.s]));
        }
        if !self.plain() {
            y = s.mul(y, s.splat(LOG2_E));
        }
        y = s.add(y, s.splat(panel.log_weight * LOG2_E));
        if panel.cut {
            y = s.select_bits(seen, y, s.splat(HIDDEN));
        }
        s.store(scores, y);
    }

    /// Whether scores of this panel differ from the scaled products.
    #[inline(always)]
    fn changes(&self, panel: &Panel) -> bool {
        panel.cut || panel.log_weight != 0.0 || !self.plain()
    }
}

/// `0 1 2 …`
static COUNT: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];

/// Whether all elements are finite.
#[inline(always)]
fn finite<S: Lanes>(s: S, x: &[f32]) -> bool {
    let zero = s.splat(0.0);
    let mut sum = zero;
    for part in x.chunks_exact(S::LANES) {
        sum = s.fma(s.load(part), zero, sum);
    }
    s.sum(sum) == 0.0
}

/// The maximum of two scores, where NaN is greater than all.
#[inline(always)]
fn higher(a: f32, b: f32) -> f32 {
    if a >= b || a.is_nan() { a } else { b }
}

/// The gradients of an output and of its log-sum-exp.
#[derive(Clone, Copy, Debug)]
pub struct Cotangent<'a> {
    /// `[B, T, H, E]`
    pub out: ArrayView4<'a, f32>,
    /// `[B, T, H]`, if the log-sum-exp was used
    pub lse: Option<ArrayView3<'a, f32>>,
}
