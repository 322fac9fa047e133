//! Locality-sensitive hashing: queries equal keys and are sorted by bucket; a chunk of the sorted order attends to
//! itself and to the one before.
//!
//! $$ \hat k_j = \frac{x_j}{\sqrt{\overline{x_j^2} + 10^{-6}}\sqrt D}, \qquad y_{ij} = x_i^\top \hat k_j, \qquad
//!    o_i = \sum_n \frac{e^{\mathrm{lse}_{n,i}}}{\sum_m e^{\mathrm{lse}_{m,i}}} o_{n,i} $$
//!
//! over the rounds of hashing. A token attends to itself only if it attends to nothing else (that score is lowered by
//! 10⁵). The chunks of all rounds form a ring: the first chunk of a round attends to the last of the round before. If
//! the ring is so short that a chunk is adjacent on both sides, it counts once (Hugging Face counts it twice). O(rounds
//! × T × 2 chunk × H D + T log T) time. Kitaev et al. 2020 (Reformer), §2; the conventions are Hugging Face's.
//!
//! [`hash`] computes buckets from random rotations; [`chunk`] takes any buckets. Padding is hashed like any token, and
//! masked for the others; Hugging Face's models sort it after all tokens ([`Padding::Last`]), which changes the chunks.
//! A sequence no longer than a chunk is one chunk.

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use ndarray::{Array3, Array4, ArrayView2, ArrayView4, ArrayViewD, Axis, s};
use serde::Deserialize;

use super::gather::Places;
use super::{Cotangent, Inputs, Output, OutputView, merge};
use crate::{Error, error};

mod naive;
pub(crate) mod operation;
mod pattern;

pub use naive::naive;
use pattern::Sorted;

const OP: &str = "lsh";

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lsh {
    /// Tokens per chunk; divides the length of a longer sequence.
    #[serde(default = "sixty_four")]
    pub chunk: usize,
    /// The number of preceding chunks that a token attends to.
    #[serde(default = "one")]
    pub before: usize,
    /// The number of following chunks.
    #[serde(default)]
    pub after: usize,
    /// Whether attention is causal.
    #[serde(default)]
    pub causal: bool,
}

fn one() -> usize {
    1
}

fn sixty_four() -> usize {
    64
}

impl Default for Lsh {
    fn default() -> Self {
        Self { chunk: 64, before: 1, after: 0, causal: false }
    }
}

/// Buckets `[B, H, rounds, T]` as [`chunk`] takes them, with each round offset by the buckets of earlier ones: the
/// argmax over `x R` and `−x R`, for rotations `R: [H, D, rounds, n / 2]`. Factored buckets use several rotations:
/// `h = Σ h_f Π n` over the preceding factors. Errors on wrong shapes.
pub fn hash<T: Stored>(x: ArrayView4<'_, T>, rotations: &[ArrayViewD<'_, f32>]) -> Result<Array4<usize>, Error> {
    let (b, t, h, d) = x.dim();
    let rounds = rotations.first().map_or(0, |r| r.shape().get(2).copied().unwrap_or(0));
    error::parameter(OP, "rotations", rounds > 0, rotations.len(), "at least one, of at least one round")?;
    let mut buckets = Array4::zeros((b, h, rounds, t));
    let mut before = 1;
    for rotation in rotations {
        let half = rotation.shape().get(3).copied().unwrap_or(0);
        error::shape(OP, "rotations", &[h, d, rounds, half.max(1)], rotation.shape())?;
        for ((b, h, round, t), bucket) in buckets.indexed_iter_mut() {
            let token = x.slice(s![b, t, h, ..]);
            let of = rotation.slice(s![h, .., round, ..]);
            let rotated: Vec<f32> =
                (0..half).map(|n| token.iter().zip(of.column(n)).map(|(x, r)| x.widen() * r).sum()).collect();
            let all = rotated.iter().copied().chain(rotated.iter().map(|x| -x));
            let highest =
                all.enumerate().fold((0, f32::NEG_INFINITY), |best, (n, x)| if x > best.1 { (n, x) } else { best });
            *bucket += before * highest.0;
        }
        before *= 2 * half;
    }
    for (round, mut plane) in buckets.axis_iter_mut(Axis(2)).enumerate() {
        plane += round * before;
    }
    Ok(buckets)
}

/// The bucket of padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// The bucket of its vector.
    #[default]
    Own,
    /// A bucket after all others, as in Hugging Face's models: chunks of tokens then contain no padding.
    Last,
}

/// Moves padding to a separate bucket after the `count` buckets of each round; does nothing without padding.
fn padding_last(buckets: &mut Array4<usize>, count: usize, keep: ArrayView2<'_, bool>) -> Result<(), Error> {
    let (b, _, _, t) = buckets.dim();
    error::shape(OP, "keep", &[b, t], keep.shape())?;
    if keep.iter().all(|there| *there) {
        return Ok(());
    }
    for ((b, _, round, t), bucket) in buckets.indexed_iter_mut() {
        let within = if keep[[b, t]] { *bucket - round * count } else { count };
        *bucket = round * (count + 1) + within;
    }
    Ok(())
}

/// The sorted order, and its pattern.
struct Order {
    places: Places,
    pattern: Sorted,
}

impl Order {
    fn of(tokens: usize, buckets: ArrayView4<'_, usize>, lsh: &Lsh, keep: Option<ArrayView2<'_, bool>>) -> Self {
        let (b, h, rounds, t) = buckets.dim();
        let mut places = Array3::from_elem((b, h, rounds * t), None);
        for ((b, h), mut row) in ndarray::indices((b, h)).into_iter().zip(places.lanes_mut(Axis(2))) {
            let mut order: Vec<(usize, usize)> =
                (0..rounds * t).map(|n| (buckets[[b, h, n / t, n % t]], n % t)).collect();
            if tokens > lsh.chunk {
                // Rounds have disjoint buckets, so one sort keeps them apart.
                order.sort_unstable();
            }
            row.iter_mut().zip(order).for_each(|(place, (_, t))| *place = Some(t));
        }
        let tokens_at =
            places.lanes(Axis(2)).into_iter().map(|row| row.iter().map(|t| t.unwrap_or(0) as u32).collect());
        let pattern = Sorted {
            lsh: *lsh,
            tokens,
            heads: h,
            at: tokens_at.collect(),
            keep: keep.map(|keep| keep.outer_iter().map(|row| row.to_vec()).collect()),
        };
        Self { places: Places(places), pattern }
    }
}

/// The keys: vectors normalised to unit RMS and divided by √D, as the scores need them.
fn keys(x: &Array4<f32>) -> Array4<f32> {
    let mut keys = x.clone();
    let d = x.dim().3 as f32;
    for mut row in keys.rows_mut() {
        let by = norm(row.view()) / d.sqrt();
        row *= by;
    }
    keys
}

/// `1 / √(mean x² + 10⁻⁶)`
fn norm(row: ndarray::ArrayView1<'_, f32>) -> f32 {
    (row.dot(&row) / row.len() as f32 + 1e-6).powf(-0.5)
}

fn check<T>(
    x: ArrayView4<'_, T>,
    v: ArrayView4<'_, T>,
    buckets: ArrayView4<'_, usize>,
    keep: Option<ArrayView2<'_, bool>>,
    lsh: &Lsh,
) -> Result<(), Error> {
    let (b, t, h, _) = x.dim();
    if let Some(keep) = keep {
        error::shape(OP, "keep", &[b, t], keep.shape())?;
    }
    error::shape(OP, "v", &[b, t, h, v.dim().3], v.shape())?;
    error::shape(OP, "buckets", &[b, h, buckets.dim().2, t], buckets.shape())?;
    error::some(OP, [("H", h), ("D", x.dim().3), ("E", v.dim().3)])?;
    error::parameter(OP, "rounds", buckets.dim().2 > 0, buckets.dim().2, "at least 1")?;
    for (name, chunks) in [("before", lsh.before), ("after", lsh.after)] {
        error::parameter(OP, name, chunks <= 1 << 16, chunks, "at most 65536")?;
    }
    let divides = lsh.chunk > 0 && (t <= lsh.chunk || t % lsh.chunk == 0);
    error::parameter(OP, "chunk", divides, lsh.chunk, format!("a divisor of the {t} tokens"))
}

/// Attention of all tokens: `x: [B, T, H, D]` holds queries and keys, `v: [B, T, H, E]`, `buckets: [B, H, rounds, T]`,
/// and `keep: [B, T]` is the padding mask, true for tokens. Errors on wrong shapes and parameters.
pub fn chunk(
    x: ArrayView4<'_, f32>,
    v: ArrayView4<'_, f32>,
    buckets: ArrayView4<'_, usize>,
    keep: Option<ArrayView2<'_, bool>>,
    lsh: &Lsh,
    cx: &Cx,
) -> Result<Output, Error> {
    check(x, v, buckets, keep, lsh)?;
    if x.dim().1 == 0 {
        return Ok(Output { out: Array4::zeros(v.dim()), lse: Array3::zeros((x.dim().0, 0, x.dim().2)) });
    }
    let order = Order::of(x.dim().1, buckets, lsh, keep);
    let (q, values) = (order.places.gather(x, cx), order.places.gather(v, cx));
    let k = keys(&q);
    let sorted = super::chunk(&Inputs::scaled(q.view(), k.view(), values.view(), 1.0), &order.pattern, cx)?;
    let mut output = merge(OP, rounds(&order, sorted, x.dim().1, cx), cx)?;
    // A token that attends to nothing else in any round attends to itself.
    for ((b, t, h), lse) in output.lse.indexed_iter_mut() {
        if *lse == f32::NEG_INFINITY && keep.is_none_or(|keep| keep[[b, t]]) {
            let row = x.slice(s![b, t, h, ..]);
            *lse = row.dot(&row) * norm(row) / (row.len() as f32).sqrt() - SELF_PENALTY;
            output.out.slice_mut(s![b, t, h, ..]).assign(&v.slice(s![b, t, h, ..]));
        }
    }
    Ok(output)
}

/// The output of each round, in the original order of tokens.
fn rounds(order: &Order, sorted: Output, t: usize, cx: &Cx) -> Vec<Output> {
    let (b, n, h, e) = sorted.out.dim();
    (0..n / t.max(1))
        .map(|round| {
            let places = Places(order.places.0.slice(s![.., .., round * t..(round + 1) * t]).to_owned());
            let mut part = Output { out: Array4::zeros((b, t, h, e)), lse: Array3::zeros((b, t, h)) };
            places.scatter(&sorted.out.slice(s![.., round * t..(round + 1) * t, .., ..]).to_owned(), &mut part.out, cx);
            places.scatter_rows(
                &sorted.lse.slice(s![.., round * t..(round + 1) * t, ..]).to_owned(),
                &mut part.lse,
                cx,
            );
            part
        })
        .collect()
}

/// The penalty on a token's score with itself.
const SELF_PENALTY: f32 = 1e5;

/// The gradients with respect to the inputs of [`chunk`].
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, H, D]`
    pub x: Array4<f32>,
    /// `[B, T, H, E]`
    pub v: Array4<f32>,
}

/// The gradient, given that of the output, from what [`chunk`] returned. Buckets are constants.
#[allow(clippy::too_many_arguments, reason = "the inputs, their output and its gradient")]
pub fn backward(
    x: ArrayView4<'_, f32>,
    v: ArrayView4<'_, f32>,
    buckets: ArrayView4<'_, usize>,
    keep: Option<ArrayView2<'_, bool>>,
    lsh: &Lsh,
    output: OutputView<'_>,
    dout: ArrayView4<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    check(x, v, buckets, keep, lsh)?;
    error::shape(OP, "d out", output.out.shape(), dout.shape())?;
    let order = Order::of(x.dim().1, buckets, lsh, keep);
    let (q, values) = (order.places.gather(x, cx), order.places.gather(v, cx));
    let k = keys(&q);
    let sorted = Output { out: order.places.gather(output.out, cx), lse: order.places.gather_rows(output.lse) };
    let dsorted = order.places.gather(dout, cx);
    let inputs = Inputs::scaled(q.view(), k.view(), values.view(), 1.0);
    let d = Cotangent { out: dsorted.view(), lse: None };
    let mut part = super::backward(&inputs, &order.pattern, sorted.view(), &d, cx)?;
    let mut gradient = Gradient { x: Array4::zeros(x.dim()), v: Array4::zeros(v.dim()) };
    // Through the keys: k = x n / √D, n = (mean x² + ε)^{-1/2}.
    let width = x.dim().3 as f32;
    for ((x, mut dk), mut dq) in q.rows().into_iter().zip(part.k.rows_mut()).zip(part.q.rows_mut()) {
        let n = norm(x);
        let along = x.dot(&dk) * n.powi(3) / (width * width.sqrt());
        dk *= n / width.sqrt();
        dk.scaled_add(-along, &x);
        dq += &dk;
    }
    order.places.scatter_add(&part.q, &mut gradient.x, cx);
    order.places.scatter_add(&part.v, &mut gradient.v, cx);
    // A token that attended only to itself received its own value.
    for ((b, t, h), _) in output.lse.indexed_iter().filter(|(_, lse)| **lse < -0.5 * SELF_PENALTY && lse.is_finite()) {
        let mut dv = gradient.v.slice_mut(s![b, t, h, ..]);
        dv += &dout.slice(s![b, t, h, ..]);
    }
    Ok(gradient)
}
