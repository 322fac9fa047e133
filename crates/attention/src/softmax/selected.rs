//! A pattern in which each query has its own list of key blocks.

use std::ops::Range;

use longreach_simd::product::{self, Accumulate, Matrix, Stored};
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Isa, Kernel, Lanes, math};
use ndarray::{Array4, ArrayView4, s};

use super::mask::{Entry, Packing, Pattern, Sizes, band, join, span};
use crate::{Error, error};

/// Query `i` attends to keys up to its own position in the blocks of its list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    op: &'static str,
    block: usize,
    batch: usize,
    groups: usize,
    queries: Range<usize>,
    start: Vec<usize>,
    blocks: Vec<u32>,
    /// Whether consecutive queries select so differently that pairs should be processed individually.
    scattered: bool,
}

/// Queries per block of the kernel, which visits the union of their selections.
const QUERIES: usize = 16;
/// The cost of a pair processed individually, relative to one in a block.
const SCATTERED_COST: usize = 8;

impl Selected {
    /// From lists of blocks of `block` keys, one for each sequence, group of heads and query, in that order; each list
    /// may be in any order. Errors if `block` is 0 or the number of lists is wrong.
    pub fn new(
        op: &'static str,
        block: usize,
        (batch, groups, queries): (usize, usize, Range<usize>),
        lists: impl IntoIterator<Item = Vec<u32>>,
    ) -> Result<Self, Error> {
        error::parameter(op, "block", block > 0, block, "at least 1")?;
        let (mut start, mut blocks) = (vec![0], Vec::new());
        for mut list in lists {
            list.sort_unstable();
            list.dedup();
            blocks.extend(list);
            start.push(blocks.len());
        }
        let want = batch * groups * queries.len();
        error::shape(op, "lists", &[want], &[start.len() - 1])?;
        let mut selected = Self { op, block, batch, groups, queries, start, blocks, scattered: false };
        selected.scattered = SCATTERED_COST * selected.blocks.len() < QUERIES * selected.visited();
        Ok(selected)
    }

    /// The blocks that query `i` of head `h` has selected, ascending.
    pub fn list(&self, of: &Sizes, b: usize, h: usize, i: usize) -> &[u32] {
        let row =
            (b % self.batch * self.groups + h * self.groups / of.heads) * self.queries.len() + i - self.queries.start;
        &self.blocks[self.start[row]..self.start[row + 1]]
    }

    /// The total number of key blocks visited by query blocks.
    fn visited(&self) -> usize {
        let mut visited = 0;
        let mut of_block: Vec<u32> = Vec::new();
        for plane in 0..self.batch * self.groups {
            for first in (0..self.queries.len()).step_by(QUERIES) {
                let row = |t: usize| self.start[plane * self.queries.len() + t];
                of_block.clear();
                of_block.extend(&self.blocks[row(first)..row((first + QUERIES).min(self.queries.len()))]);
                of_block.sort_unstable();
                of_block.dedup();
                visited += of_block.len();
            }
        }
        visited
    }

    fn kernel_block(&self) -> usize {
        if self.block.is_multiple_of(16) { (1usize << self.block.trailing_zeros()).min(64) } else { 16 }
    }
}

impl Pattern for Selected {
    fn name(&self) -> &'static str {
        self.op
    }

    fn check(&self, of: &Sizes) -> Result<(), Error> {
        let divides = of.heads.is_multiple_of(self.groups);
        error::parameter(self.op, "groups", divides, self.groups, format!("a divisor of {} heads", of.heads))?;
        error::parameter(self.op, "queries", self.queries == of.queries, &of.queries, format!("{:?}", self.queries))?;
        error::parameter(self.op, "batch", self.batch == of.batch, of.batch, self.batch.to_string())
    }

    fn packing(&self) -> Packing {
        Packing::Refused
    }

    fn block(&self) -> (usize, usize) {
        // With few queries per block, a block visits the union of their lists.
        (QUERIES, self.kernel_block())
    }

    fn differs(&self) -> (bool, bool) {
        (self.batch > 1, self.groups > 1)
    }

    fn count(&self, of: &Sizes, b: usize, h: usize, i: usize, j: usize) -> u32 {
        let chosen = self.list(of, b, h, i).binary_search(&((j / self.block) as u32)).is_ok();
        (chosen && j <= i).into()
    }

    fn visit(&self, of: &Sizes, b: usize, h: usize, queries: Range<usize>, keys: Range<usize>, row: &mut Vec<Entry>) {
        let (at, block) = (row.len(), self.kernel_block());
        let mut chosen: Vec<u32> = queries.clone().flat_map(|i| self.list(of, b, h, i)).copied().collect();
        chosen.sort_unstable();
        for same in chosen.chunk_by(|a, b| a == b) {
            let first = same[0] as usize * self.block;
            let end = (first + self.block).min(of.keys);
            let by_all = same.len() == queries.len();
            let all = if by_all { first..end.min(queries.start + 1) } else { 0..0 };
            band(row, block, of.keys, first.max(keys.start)..end.min(queries.end).min(keys.end), all);
        }
        join(row, at);
    }

    fn seen(&self, of: &Sizes, b: usize, h: usize, i: usize, keys: Range<usize>) -> u64 {
        let list = self.list(of, b, h, i);
        let first = list.partition_point(|block| (*block as usize + 1) * self.block <= keys.start);
        let near = list[first..].iter().map(|block| *block as usize * self.block).take_while(|from| *from < keys.end);
        near.fold(0, |bits, from| bits | span(from..(from + self.block).min(i + 1), keys.clone()))
    }

    fn scattered(&self) -> bool {
        self.scattered
    }

    fn list(&self, of: &Sizes, b: usize, h: usize, i: usize, keys: &mut Vec<u32>) {
        for first in self.list(of, b, h, i).iter().map(|block| *block as usize * self.block) {
            keys.extend(first as u32..(first + self.block).min(i + 1).min(of.keys) as u32);
        }
    }
}

/// Means of windows of `size` tokens at a stride of `stride`, for all complete windows, and a last partial one if
/// `rest`: `[B, n, G, D]`.
pub(super) fn means<T: Stored>(x: ArrayView4<'_, T>, size: usize, stride: usize, rest: bool, cx: &Cx) -> Array4<f32> {
    let (b, t, g, d) = x.dim();
    let n = if rest { t.div_ceil(stride) } else { t.saturating_add(stride).saturating_sub(size) / stride };
    let mut out = super::tile::zeros((b, n, g, d));
    let tasks = out.as_slice_mut().unwrap_or_default().chunks_mut((g * d).max(1)).enumerate();
    cx.team.for_each(tasks, |(i, mean)| {
        let (b, n) = (i / n, i % n);
        let tokens = n * stride..(n * stride + size).min(t);
        let share = 1.0 / tokens.len() as f32;
        for t in tokens {
            for (mean, x) in mean.chunks_mut(d).zip(x.slice(s![b, t, .., ..]).rows()) {
                mean.iter_mut().zip(x).for_each(|(mean, x)| *mean += share * x.widen());
            }
        }
    });
    out
}

/// What the blocks of queries are chosen by.
pub(super) struct Scored<'a, T> {
    /// Queries, `[B, T, H, D]`
    pub(super) q: ArrayView4<'a, T>,
    /// The position of the first query.
    pub(super) offset: usize,
    /// The keys of blocks in segments, `[B, n, G, D]`.
    pub(super) keys: &'a [ArrayView4<'a, f32>],
    /// The groups of heads that choose together.
    pub(super) groups: usize,
}

/// For every sequence, group of heads and query, the list that `choose` returns, given the query's position and its
/// heads' products with the keys, one slice per head. `seen` returns how many keys a position may use.
pub(super) fn choose<T: Stored>(
    x: &Scored<'_, T>,
    seen: impl Fn(usize) -> usize + Sync,
    choose: impl Fn(usize, &mut [&mut [f32]]) -> Vec<u32> + Sync,
    cx: &Cx,
) -> Vec<Vec<u32>> {
    const TILE: usize = 64;
    let ((b, t, h, d), groups) = (x.q.dim(), x.groups);
    if groups == 0 {
        return Vec::new();
    }
    let all: usize = x.keys.iter().map(|keys| keys.dim().1).sum();
    let segments: Vec<_> =
        x.keys.iter().filter(|keys| !keys.is_empty()).map(|keys| keys.as_standard_layout()).collect();
    let heads = h / groups;
    let mut lists = vec![Vec::new(); b * groups * t];
    let tasks = lists
        .chunks_mut(t.max(1))
        .enumerate()
        .flat_map(|(plane, lists)| lists.chunks_mut(TILE).enumerate().map(move |(tile, lists)| (plane, tile, lists)));
    cx.team.for_each(tasks.collect::<Vec<_>>(), |(plane, tile, lists)| {
        let (b, g) = (plane / groups, plane % groups);
        let first = x.offset + tile * TILE;
        let n = seen(first + lists.len() - 1).min(all);
        let scratch = &mut Scratch::new(TILE * (d + heads * n));
        let (q, products) = scratch.split_at_mut(TILE * d);
        for (head, products) in products.chunks_mut((TILE * n).max(1)).enumerate().take(heads) {
            let h = g * heads + head;
            let rows = x.q.slice(s![b, tile * TILE..tile * TILE + lists.len(), h, ..]);
            for (to, row) in q.chunks_mut(d).zip(rows.rows()) {
                to.iter_mut().zip(row).for_each(|(to, x)| *to = x.widen());
            }
            let mut at = 0;
            for keys in &segments {
                if at == n {
                    break;
                }
                let (_, rows, of_keys, _) = keys.dim();
                let sizes = product::Sizes { m: lists.len(), n: rows.min(n - at), k: d };
                let keys = Matrix::rows(keys.as_slice().unwrap_or_default(), of_keys * d);
                let keys = keys.from(b * rows, h * of_keys / x.q.dim().2 * d).t();
                product::matmul(cx, sizes, Matrix::rows(q, d), keys, Accumulate::Replace, &mut products[at..], n);
                at += sizes.n;
            }
        }
        for (r, list) in lists.iter_mut().enumerate() {
            let of_query = seen(first + r).min(n);
            let rows = products.chunks_mut((TILE * n).max(1)).map(|of_head| &mut of_head[r * n..r * n + of_query]);
            let mut rows: Vec<&mut [f32]> = if n == 0 { Vec::new() } else { rows.take(heads).collect() };
            *list = choose(first + r, &mut rows);
        }
    });
    lists
}

/// Adds the softmax of some scores to the start of `sum`. Overwrites the scores.
pub(super) fn add_softmax(isa: Isa, scores: &mut [f32], sum: &mut [f32]) {
    isa.run(Softmax { scores, sum });
}

struct Softmax<'a> {
    scores: &'a mut [f32],
    sum: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let mut top = f32::NEG_INFINITY;
        for y in self.scores.iter() {
            top = if *y > top { *y } else { top };
        }
        let mut total = 0.0;
        for part in self.scores.chunks_mut(S::LANES) {
            let e = math::exp(s, s.sub(s.load_part(part), s.splat(top)));
            s.store_part(part, e);
            for e in part.iter() {
                total += e;
            }
        }
        math::axpy(s, 1.0 / total, self.scores, &mut self.sum[..self.scores.len()]);
    }
}

/// The indices of the `count` highest scores; ties are broken in favour of the earlier.
pub(super) fn highest(scores: &[f32], count: usize) -> Vec<u32> {
    // Sort keys: integers that increase as scores decrease, then the index. Zeros of either sign are equal.
    let falling = |score: f32| {
        let bits = (score + 0.0).to_bits() as i32;
        let rising = bits ^ ((bits >> 31) as u32 >> 1) as i32;
        !(rising as u32 ^ 1 << 31)
    };
    let of = |(i, score): (usize, &f32)| u64::from(falling(*score)) << 32 | i as u64;
    let mut order: Vec<u64> = scores.iter().enumerate().map(of).collect();
    if count < order.len() {
        order.select_nth_unstable(count);
        order.truncate(count);
    }
    order.into_iter().map(|at| at as u32).collect()
}
