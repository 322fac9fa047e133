//! Few queries against a long KV cache: a task owns a part of the keys, and the parts are merged.
//!
//! The cache is read once, in memory order. The scores of a key block are computed first, then its values are
//! accumulated; blocks that are masked for all queries are not read. Dao et al. 2023 (Flash-Decoding).

use std::ops::Range;

use longreach_simd::product::{Stored, StoredSlices};
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes};
use ndarray::{Array3, Array4};

use super::super::mask::{Entry, Pattern, below};
use super::super::{Inputs, packed_sequences};
use super::few_queries::{Block, exponentials};
use super::{Call, Dims, HIDDEN, LOG2_E, Output, Panel, higher, scattered};
use crate::Error;

/// Keys per part: the upper bound, and a lower one below which merging would dominate.
const PART: Range<usize> = 64..2048;
/// How many parts of equal size as many keys have as lie before them.
const PARTS: usize = 16;

/// As [`forward`](super::forward), for few queries: the keys are split among the threads instead, and the cache is read
/// at memory bandwidth. Each query costs one pass over its keys, so above about eight queries
/// [`forward`](super::forward) is faster.
pub fn step<T: Stored>(x: &Inputs<'_, T>, pattern: &dyn Pattern, cx: &Cx) -> Result<Output, Error> {
    if packed_sequences::needed(x, pattern)? {
        return packed_sequences::forward(pattern.name(), x, |x| step(x, pattern, cx));
    }
    let call = Call::new(x, pattern)?;
    if pattern.scattered() {
        return scattered::forward(&call, cx);
    }
    let Dims { b, t, s, h, e, .. } = call.dims;
    let parts = parts(s, call.mask.block().1);
    let rows = h * t;
    // Per row: running maximum, sum of exponentials, weighted values.
    let mut partial = vec![f32::NAN; b * parts.len() * rows * (2 + e)];
    let tasks = partial.chunks_mut((rows * (2 + e)).max(1)).enumerate().map(|(i, out)| {
        let (b, n) = (i / parts.len(), i % parts.len());
        Task { call: &call, b, keys: parts[n].clone(), out }
    });
    let tasks: Vec<_> = tasks.collect();
    cx.team.for_each(tasks, |task| cx.isa.run(task));

    let mut out = Array4::zeros((b, t, h, e));
    let mut lse = Array3::from_elem((b, t, h), f32::NEG_INFINITY);
    for b in 0..b {
        let parts = || partial.chunks(rows * (2 + e)).skip(b * parts.len()).take(parts.len());
        for (row, (h, t)) in (0..h).flat_map(|h| (0..t).map(move |t| (h, t))).enumerate() {
            let sink = x.sinks.map_or(HIDDEN, |sinks| sinks[h] * LOG2_E);
            let of = |part: &[f32]| (part[2 * row], part[2 * row + 1]);
            let top = parts().fold(sink, |top, part| higher(top, of(part).0));
            if top <= HIDDEN {
                continue;
            }
            let mut sum = if sink <= HIDDEN { 0.0 } else { (sink - top).exp2() };
            let mut values = out.slice_mut(ndarray::s![b, t, h, ..]);
            for part in parts() {
                let weight = (of(part).0 - top).exp2();
                if weight == 0.0 {
                    continue;
                }
                sum += weight * of(part).1;
                let from = &part[2 * rows + row * e..2 * rows + (row + 1) * e];
                values.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
            }
            values.mapv_inplace(|x| x / sum);
            lse[[b, t, h]] = top / LOG2_E + sum.ln();
        }
    }
    Ok(Output { out, lse })
}

/// The parts of `keys` keys, which are whole blocks of `block`. Where a part begins and ends does not depend on how many keys
/// follow: sums for a query are the same in every bit, however many later tokens are in the call.
fn parts(keys: usize, block: usize) -> Vec<Range<usize>> {
    let (mut parts, mut first) = (Vec::new(), 0usize);
    while first < keys {
        // A power of two, as long as a sixteenth of the keys before it.
        let part = (first / PARTS + 1).next_power_of_two() / 2;
        let end = first + part.clamp(PART.start, PART.end).next_multiple_of(block.max(1));
        parts.push(first..end.min(keys));
        first = end;
    }
    parts
}

/// A part of the keys of a sequence, for all its queries.
struct Task<'a, 'o> {
    call: &'a Call<'a>,
    b: usize,
    keys: Range<usize>,
    /// The running maximum and the sum of exponentials of each row, `[H T, 2]`, and the weighted values, `[H T, E]`.
    out: &'o mut [f32],
}

/// One query of one head.
struct Row<'a> {
    h: usize,
    t: usize,
    /// The entries that it has not processed yet.
    entries: &'a [Entry],
    /// Its entry for the current key block, if it visits it.
    here: Option<Entry>,
}

impl Kernel for Task<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let call = self.call;
        let Dims { t, s: all, h, g, d, e, .. } = call.dims;
        let block = call.mask.block().1;
        let per_group = h / g * t;
        let (wide_d, wide_e) = (d.next_multiple_of(S::LANES), e.next_multiple_of(S::LANES));
        let rows_per_block = block.next_multiple_of(S::LANES);
        let scratch = &mut Scratch::new(h * t * (wide_d + rows_per_block + wide_e));
        let (q, rest) = scratch.split_at_mut(h * t * wide_d);
        let (scores, rest) = rest.split_at_mut(h * t * rows_per_block);
        let sums = rest;
        sums.fill(0.0);
        let (state, out) = self.out.split_at_mut(2 * h * t);
        let mut rows = Vec::with_capacity(h * t);
        for h in 0..h {
            for t in 0..t {
                let i = (call.of.queries.start + t) / call.mask.block().0;
                let entries = call.mask.row(self.b, h, i);
                let first = entries.partition_point(|entry| (entry.keys as usize) * block < self.keys.start);
                let packed = &mut q[rows.len() * wide_d..(rows.len() + 1) * wide_d];
                call.q.load((self.b, t, h), call.factor(), packed);
                state[2 * rows.len()..2 * rows.len() + 2].copy_from_slice(&[HIDDEN, 0.0]);
                rows.push(Row { h, t, entries: &entries[first..], here: None });
            }
        }
        let (mut visiting, mut ends) = (Vec::with_capacity(h * t), Vec::with_capacity(g));
        for first in self.keys.clone().step_by(block) {
            let keys = first..(first + block).min(all);
            visiting.clear();
            ends.clear();
            for (i, row) in rows.iter_mut().enumerate() {
                row.here = row.entries.first().filter(|entry| entry.keys as usize * block == first).copied();
                row.entries = &row.entries[usize::from(row.here.is_some())..];
                visiting.extend(row.here.map(|_| i));
                if (i + 1) % per_group == 0 {
                    ends.push(visiting.len());
                }
            }
            if visiting.is_empty() {
                continue;
            }
            let block = Block { visiting: &visiting, ends: &ends, rows_per_block };
            let own = self.b * all + keys.start..self.b * all + keys.end;
            match &call.k.tokens {
                StoredSlices::F32(keys) => block.scores(s, &keys[own.clone()], (q, wide_d, d), scores),
                StoredSlices::Bf16(keys) => block.scores(s, &keys[own.clone()], (q, wide_d, d), scores),
                StoredSlices::Q8(keys) => block.scores(s, &keys[own.clone()], (q, wide_d, d), scores),
            }
            for (i, row) in rows.iter().enumerate() {
                if let Some(entry) = row.here {
                    let scores = &mut scores[i * rows_per_block..(i + 1) * rows_per_block];
                    for (n, part) in scores.chunks_exact_mut(S::LANES).enumerate() {
                        let at = first + n * S::LANES;
                        if at >= keys.end {
                            part.fill(HIDDEN);
                            continue;
                        }
                        let cut = entry.cut || at + S::LANES > all;
                        let panel = Panel { at: n, key: at, cut, log_weight: entry.log_weight, word: 0, shift: 0 };
                        if call.changes(&panel) {
                            let word_start = at / 64 * 64;
                            let seen = if cut {
                                call.seen((self.b, row.h, row.t), word_start..(word_start + 64).min(all))
                                    >> (at - word_start)
                            } else {
                                0
                            };
                            let there = below((all - at).min(S::LANES));
                            call.adjust(s, (self.b, row.h, row.t), panel, (seen & there) as u32, part, None);
                        }
                    }
                    let [high, total] = &mut state[2 * i..2 * i + 2] else { continue };
                    let sums = &mut sums[i * wide_e..(i + 1) * wide_e];
                    exponentials(s, scores, high, total, sums);
                }
            }
            match &call.v.tokens {
                StoredSlices::F32(values) => block.sums(s, &values[own], scores, (sums, wide_e, e)),
                StoredSlices::Bf16(values) => block.sums(s, &values[own], scores, (sums, wide_e, e)),
                StoredSlices::Q8(values) => block.sums(s, &values[own], scores, (sums, wide_e, e)),
            }
        }
        for (out, sums) in out.chunks_exact_mut(e).zip(sums.chunks_exact(wide_e)) {
            out.copy_from_slice(&sums[..e]);
        }
    }
}
