//! Attention to selected blocks: the summaries of the keys, which are cached beside them, and the calls that select.

use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use super::config::{Blocks, Reach};
use super::{Attention, Kv, joined, row};
use crate::{KvCache, State};

/// Means of the keys in each complete window.
const SUMMARIES: &str = "summaries";
/// The keys from the first incomplete window on.
const TAIL: &str = "tail";

impl Attention {
    /// Adds the parts of the state that summaries need.
    pub(super) fn start_summaries(&self, state: State, device: &Device) -> State {
        let (batch, c) = (state.batch(), self.config());
        let keys = || KvCache::keys(batch, (c.groups, c.head_dim), device);
        state.with(SUMMARIES, keys()).with(TAIL, keys())
    }

    /// The heads' outputs `[B, T, H, D]` of queries `turned: [B, T, H, D]`, among the keys that they select. `scored` has
    /// the queries and the new keys by which blocks are selected; the keys and values of `kv` end with those of this call,
    /// before which each sequence has read `before` tokens.
    ///
    /// Each query selects by itself, from summaries that do not depend on how the text was divided into calls.
    pub(super) fn among_blocks(
        &self,
        turned: Tensor<4>,
        scored: [Tensor<4>; 2],
        kv: &Kv,
        (state, before): (&mut State, &[usize]),
    ) -> Tensor<4> {
        let Reach::Blocks(blocks) = self.config().reach else { panic!("the reach is another") };
        let [batch, t, _, _] = turned.dims();
        let (mut summaries, mut tail): (KvCache, KvCache) = (state.take(SUMMARIES), state.take(TAIL));
        let [q, k] = scored;
        (0..batch).for_each(|b| summarise(&blocks, b, before[b] + t, row(&k, b), [&mut summaries, &mut tail]));
        let dense = |b: usize| blocks.sizes.dense((before[b] + t).saturating_sub(1));
        let out = if (0..batch).all(dense) {
            self.attend(turned, kv, &ops::Packed::ROWS)
        } else {
            let rows = (0..batch).map(|b| match dense(b) {
                true => self.cached(row(&turned, b), &kv.cache, b),
                false => self.selecting([row(&turned, b), row(&q, b)], &kv.cache, &summaries, (b, before[b])),
            });
            joined(rows.collect(), 0)
        };
        state.put(SUMMARIES, summaries);
        state.put(TAIL, tail);
        out
    }

    /// Attention of sequence `b`, which has read `before` tokens, to the blocks that `q: [1, T, H, D]` selects.
    fn selecting(
        &self,
        [turned, q]: [Tensor<4>; 2],
        cache: &KvCache,
        summaries: &KvCache,
        (b, before): (usize, usize),
    ) -> Tensor<4> {
        let Reach::Blocks(blocks) = self.config().reach else { panic!("the reach is another") };
        let mut options = self.options(self.rest.mechanism.clone());
        options.offset = before;
        options.mechanism = ops::infllm_v2_selection(ops::InfLlmV2Selection {
            q,
            summaries: summaries.segments(b).into_iter().map(|[k, _]| k).collect(),
            of: blocks.sizes,
            scale: options.scale,
            offset: before,
        });
        cache.cut(ops::cached_attention(turned, cache.segments(b), self.learned_sinks(), options))
    }
}

/// Adds new keys `k: [1, T, G, D]` of sequence `b`, which has `tokens` tokens with them, to its tail, and summarises the
/// windows that they complete.
fn summarise(blocks: &Blocks, b: usize, tokens: usize, k: Tensor<4>, [summaries, tail]: [&mut KvCache; 2]) {
    tail.push_keys(b, k.detach());
    let complete = blocks.sizes.complete(tokens);
    if complete > summaries.rows(b) {
        let keys = tail.segments(b).into_iter().map(|[k, _]| k).collect();
        summaries.push_keys(b, ops::infllm_v2_summaries(Tensor::cat(keys, 1), &blocks.sizes));
    }
    tail.keep_last_of(b, tokens - complete * blocks.sizes.stride);
}
