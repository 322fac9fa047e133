//! Blocks of keys that each query has chosen for itself.

use std::ops::Range;

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use ndarray::{Array2, Array4, ArrayView2, ArrayView4, Axis, s};

use super::Inputs;
use super::mask::{Entry, Pattern, Sizes, band, join, span};
use crate::{Error, error};

/// Query `i` sees the keys up to its own position in the blocks of its list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    op: &'static str,
    block: usize,
    batch: usize,
    groups: usize,
    queries: Range<usize>,
    start: Vec<usize>,
    blocks: Vec<u32>,
}

impl Selected {
    /// Lists of blocks of `block` keys, one for each sequence, group of heads and query, in that order; each in any order.
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
        Ok(Self { op, block, batch, groups, queries, start, blocks })
    }

    /// The blocks that query `i` of head `h` has chosen, rising.
    pub fn list(&self, of: &Sizes, b: usize, h: usize, i: usize) -> &[u32] {
        let row =
            (b % self.batch * self.groups + h * self.groups / of.heads) * self.queries.len() + i - self.queries.start;
        &self.blocks[self.start[row]..self.start[row + 1]]
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
        let divides = self.groups > 0 && of.heads.is_multiple_of(self.groups);
        error::parameter(self.op, "groups", divides, self.groups, format!("a divisor of {} heads", of.heads))?;
        error::parameter(self.op, "queries", self.queries == of.queries, &of.queries, format!("{:?}", self.queries))?;
        error::parameter(self.op, "batch", self.batch == of.batch, of.batch, self.batch.to_string())
    }

    fn block(&self) -> (usize, usize) {
        // Few queries a block: each has a list of its own, and a block visits them all.
        (16, self.kernel_block())
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
}

/// Means of `size` tokens, `stride` apart, of the stretches that are there whole, and of a last one that is not if `rest`: `[B, n, G, D]`.
pub(super) fn means<T: Stored>(x: ArrayView4<'_, T>, size: usize, stride: usize, rest: bool) -> Array4<f32> {
    let (b, t, g, d) = x.dim();
    let n = if rest { t.div_ceil(stride) } else { (t + stride).saturating_sub(size) / stride };
    let mut out = Array4::zeros((b, n, g, d));
    for ((b, n, g, d), mean) in out.indexed_iter_mut() {
        let tokens = n * stride..(n * stride + size).min(t);
        let count = tokens.len() as f32;
        *mean = tokens.map(|t| x[[b, t, g, d]].widen()).sum::<f32>() / count;
    }
    out
}

/// For every sequence, group of heads and query, the list that `choose` makes of the products of its heads with keys: it is given the
/// query's position and the products `[heads, keys]`. Heads are divided among `groups`.
pub(super) fn choose<T: Stored>(
    x: &Inputs<'_, T>,
    keys: ArrayView4<'_, f32>,
    groups: usize,
    choose: impl Fn(usize, ArrayView2<'_, f32>) -> Vec<u32> + Sync,
    cx: &Cx,
) -> Vec<Vec<u32>> {
    const TILE: usize = 64;
    let (b, t, h, d) = x.q.dim();
    let (n, of_keys) = (keys.dim().1, keys.dim().2);
    let heads = h / groups;
    let mut lists = vec![Vec::new(); b * groups * t];
    let tasks: Vec<_> = lists
        .chunks_mut(t.max(1))
        .enumerate()
        .flat_map(|(plane, lists)| lists.chunks_mut(TILE).enumerate().map(move |(tile, lists)| (plane, tile, lists)))
        .collect();
    cx.team.for_each(tasks, |(plane, tile, lists)| {
        let (b, g) = (plane / groups, plane % groups);
        let mut products = ndarray::Array3::zeros((lists.len(), heads, n));
        for head in 0..heads {
            let h = g * heads + head;
            let q = x.q.slice(s![b, tile * TILE..tile * TILE + lists.len(), h, ..]);
            let q = Array2::from_shape_fn((lists.len(), d), |(r, i)| q[[r, i]].widen());
            let keys = keys.slice(s![b, .., h * of_keys / x.q.dim().2, ..]);
            products.index_axis_mut(Axis(1), head).assign(&q.dot(&keys.t()));
        }
        for (r, list) in lists.iter_mut().enumerate() {
            *list = choose(x.offset + tile * TILE + r, products.index_axis(Axis(0), r));
        }
    });
    lists
}

/// The `count` highest of some scores, by index; of equal ones the earlier.
pub(super) fn highest(scores: &[f32], count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let by = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    if count < order.len() {
        order.select_nth_unstable_by(count, by);
        order.truncate(count);
    }
    order
}
