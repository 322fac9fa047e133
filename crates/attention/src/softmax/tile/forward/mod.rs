//! Forward pass: a task owns a range of queries of the heads that share keys.
//!
//! Where a tile of queries visits few keys, they are packed on demand into a cache of blocks with LRU replacement, and
//! each tile is completed before the next, `STEP` gathered keys at a time. Where it visits many, the keys are processed
//! `STEP` at a time: those that some query visits are packed, and every tile is advanced over them. Either way a step
//! computes scores, their running maximum, exponentials and weighted values (online softmax). Milakov and Gimelshein
//! 2018; Dao et al. 2022 (FlashAttention), algorithm 1.

use std::ops::Range;

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use longreach_simd::split::Part;
use ndarray::Array3;

use super::super::mask::Pattern;
use super::super::{Inputs, packed_sequences};
use super::{Call, Dims, Output, scattered, zeros};
use crate::Error;

mod online_softmax;
mod packed;
mod task;

use task::Task;

/// Queries per task, over all heads that share its keys and hence the packing.
const RANGE: usize = 1024;
/// As [`RANGE`], with packing on demand, where only keys at the boundary of two tasks are packed twice.
const ON_DEMAND_RANGE: usize = 1024;
/// Bytes of packed keys and values that fit in cache.
const CACHE_BYTES: usize = 3 << 18;

/// Attention of all queries over the keys that the pattern selects.
///
/// O(visited pairs × (D + E)) time; allocates little more than the outputs. Rows that attend to no key are zero, with a
/// log-sum-exp of −∞. Errors on wrong shapes and sizes.
pub fn forward<T: Stored>(x: &Inputs<'_, T>, pattern: &dyn Pattern, cx: &Cx) -> Result<Output, Error> {
    if packed_sequences::needed(x, pattern)? {
        return packed_sequences::forward(pattern.name(), x, |x| forward(x, pattern, cx));
    }
    let call = Call::new(x, pattern)?;
    if pattern.scattered() {
        return scattered::forward(&call, cx);
    }
    let Dims { b, t, h, g, e, .. } = call.dims;
    let mut out = zeros((b, t, h, e));
    let mut lse = Array3::zeros((b, t, h));
    let mut tasks = Vec::new();
    let per_row = (out.as_slice_mut().unwrap_or_default(), lse.as_slice_mut().unwrap_or_default());
    let outs = per_row.0.chunks_mut((t * h * e).max(1));
    let heads = h / g;
    for (b, (out, lse)) in outs.zip(per_row.1.chunks_mut((t * h).max(1))).enumerate() {
        let parts = Part::whole(out, h * e).columns(heads * e).zip(Part::whole(lse, h).columns(heads));
        for (g, (mut out, mut lse)) in parts.enumerate() {
            for (blocks, fits_in_cache) in ranges(&call, b, g, cx.team.threads()) {
                let first = call.queries(blocks.start).start;
                let rows = call.queries(blocks.end - 1).end - first;
                let (out, lse) = (out.take(rows), lse.take(rows));
                tasks.push(Task { call: &call, b, g, blocks, fits_in_cache, first, out, lse });
            }
        }
    }
    // Under a causal mask the last queries have the most work, so they start first.
    tasks.reverse();
    cx.team.for_each(tasks, |task| cx.isa.run(task));
    Ok(Output { out, lse })
}

/// Splits the query blocks of a group into ranges, each with whether all keys that one of its blocks visits fit in
/// cache. There are enough ranges for every thread.
fn ranges(call: &Call<'_>, b: usize, g: usize, threads: usize) -> Vec<(Range<usize>, bool)> {
    let Dims { b: batch, h, g: groups, .. } = call.dims;
    let heads = g * (h / groups)..(g + 1) * (h / groups);
    let most = cached_blocks(call);
    let all = call.mask.rows();
    let enough = (batch * groups * all.len()).div_ceil(4 * threads);
    let longest = |on_demand: bool| {
        let range = if on_demand { ON_DEMAND_RANGE } else { RANGE };
        (range / (heads.len() * call.mask.block().0).max(1)).min(enough).max(1)
    };
    let mut ranges: Vec<(Range<usize>, bool)> = Vec::new();
    for i in all {
        let fits = heads.clone().all(|h| call.mask.row(b, h, i).len() <= most);
        match ranges.last_mut() {
            Some((last, same)) if *same == fits && last.len() < longest(fits) => last.end = i + 1,
            _ => ranges.push((i..i + 1, fits)),
        }
    }
    ranges
}

/// The number of packed blocks of keys and values that fit in cache.
fn cached_blocks(call: &Call<'_>) -> usize {
    let Dims { d, e, .. } = call.dims;
    (CACHE_BYTES / (4 * (d + e) * call.mask.block().1)).max(1)
}
