//! Texts that are packed in one row, each with a state of its own: none sees another.
//!
//! Projections, norms and feed-forward layers read the row as one sequence. Mixers begin anew at each bound: attention by its
//! mask, convolutions, token shifts and recurrences with the state of the next text, positions with its own.

use burn::tensor::Tensor;
use longreach_burn as ops;

use crate::mixers::Shared;
use crate::{Cache, Decoder, State};

/// Calls `read` with the tokens of each text of `x: [1, T, d]` and its state.
pub(crate) fn text_by_text(
    x: Tensor<3>,
    state: &mut State,
    shared: &mut Shared,
    mut read: impl FnMut(Tensor<3>, &mut State, &mut Shared) -> Tensor<3>,
) -> Tensor<3> {
    let packed = std::mem::take(&mut shared.packed);
    let (mut out, mut states) = (Vec::new(), Vec::new());
    for (i, w) in packed.bounds().unwrap_or_default().windows(2).enumerate() {
        let mut own = state.select(&[i]);
        out.push(read(x.clone().narrow(1, w[0], w[1] - w[0]), &mut own, shared));
        states.push(own);
    }
    *state = State::join(states);
    shared.packed = packed;
    Tensor::cat(out, 1)
}

/// The row of the table of positions for each token of packed texts.
fn places(cache: &Cache, bounds: &[usize]) -> Vec<u32> {
    let texts = bounds.windows(2).zip(cache.positions());
    texts.flat_map(|(w, before)| (0..w[1] - w[0]).map(move |i| (before + i) as u32)).collect()
}

impl Decoder {
    /// Reads texts that are packed in one row, one for each sequence of the cache, and returns the normed hidden states
    /// `[1, T, d]`: those of each text alone, up to rounding. Text `i` is `ids[bounds[i] .. bounds[i + 1]]`.
    ///
    /// Panics as [`Decoder::forward`] does, and if the bounds do not cover the ids in order, or not with as many texts of at
    /// least one token as there are sequences.
    pub fn forward_packed(&self, ids: &[u32], bounds: &[usize], cache: &mut Cache) -> Tensor<3> {
        let covers = bounds.first() == Some(&0) && bounds.last() == Some(&ids.len());
        let texts = bounds.windows(2).filter(|w| w[0] < w[1]).count();
        assert!(
            covers && texts + 1 == bounds.len() && texts == cache.batch,
            "bounds {bounds:?} of {} tokens for {} sequences",
            ids.len(),
            cache.batch
        );
        if texts == 1 {
            return self.forward(ids, cache, None);
        }
        if self.has_memory() {
            let loss = cache.loss.take();
            let mut each: Vec<Cache> = (0..texts).map(|i| cache.select(&[i])).collect();
            let read = |(cache, w): (&mut Cache, &[usize])| self.forward(&ids[w[0]..w[1]], cache, None);
            let out = each.iter_mut().zip(bounds.windows(2)).map(read).collect();
            let losses: Vec<Tensor<1>> = each.iter_mut().filter_map(|cache| cache.loss.take()).chain(loss).collect();
            *cache = Cache::join(each);
            cache.loss = losses.into_iter().reduce(|sum, loss| sum + loss);
            return Tensor::cat(out, 1);
        }
        let mut x = self.embed(ids, 1);
        if let Some(table) = self.positions() {
            x = ops::add(x, table.forward(&places(cache, bounds), 1));
        }
        let per_layer = self.per_layer(ids, &x);
        let (packed, drops) = (ops::Packed::new(bounds), self.drops(ids));
        self.through(x, cache, Shared { packed, per_layer, drops, ..Shared::default() })
    }
}
