//! The forward pass of a decoder, and what happens between its layers: where several processes share the work, the states of the
//! layers come from one and go to another there.

use std::convert::Infallible;

use burn::tensor::Tensor;
use longreach_burn as ops;

use super::Decoder;
use crate::mixers::Shared;
use crate::padding::Tokens;
use crate::{Block, Cache, LayerState};

/// When [`Decoder::forward_between`] calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before a layer reads the tokens.
    Before,
    /// Once it has read them.
    After,
}

/// What happens between the layers of a forward pass: it is given the moment, the layer's index and the layer's state.
pub type Between<'a, E> = dyn FnMut(Moment, usize, &mut LayerState) -> Result<(), E> + 'a;

impl Decoder {
    /// Reads `ids`, contiguous rows of equal length for the sequences of the cache, and returns the normed hidden
    /// states `[B, T, d]`.
    ///
    /// A sequence may be read at once, in chunks, or token by token: the cache carries the state from one call to the
    /// next. `mask: [B, T, 1]` is 0 at padding. Panics if a token id exceeds the vocabulary, if a mask is given
    /// although [`Decoder::takes_padding`] is false, and if a sequence exceeds [`Decoder::longest`].
    pub fn forward(&self, ids: &[u32], cache: &mut Cache, mask: Option<Tensor<3>>) -> Tensor<3> {
        let all: Result<_, Infallible> = self.forward_between(ids, cache, mask, &mut |_, _, _| Ok(()));
        let Ok(all) = all;
        all
    }

    /// As [`Decoder::forward`]. `between` is called with each layer's index and state before the layer reads the tokens, when it may replace
    /// the state by another one, and once it has read them; its error ends the call. A hierarchical memory runs the layers several times in
    /// a call, and its decoder never calls `between`.
    pub fn forward_between<E>(
        &self,
        ids: &[u32],
        cache: &mut Cache,
        mask: Option<Tensor<3>>,
        between: &mut Between<'_, E>,
    ) -> Result<Tensor<3>, E> {
        if let (Some(hmt), Some(_)) = (&self.hmt, &cache.hmt) {
            assert!(mask.is_none(), "a hierarchical memory does not support padding");
            return Ok(hmt.forward(self, ids, cache));
        }
        let padding = mask.as_ref().and_then(Tokens::of);
        let mut x = self.embed(ids, cache.batch);
        if let Some(table) = &self.positions {
            // The positions are those of the state of the first layer.
            if let Some(state) = cache.layers.first_mut() {
                between(Moment::Before, 0, state)?;
            }
            let places = places(cache, ids.len() / cache.batch.max(1), padding.as_ref());
            x = ops::add(x, table.forward(&places, cache.batch));
        }
        let per_layer = self.per_layer(ids, &x);
        let shared = Shared { padding, per_layer, drops: self.drops(ids), ..Shared::default() };
        let first = self.positions.is_some();
        self.through_between(x, cache, shared, &mut |moment, i, state| match (moment, i) {
            (Moment::Before, 0) if first => Ok(()),
            _ => between(moment, i, state),
        })
    }

    /// Passes embeddings `[B, T, d]` through the layers and the final norm, with padding and embeddings for each layer as in
    /// `shared`.
    pub(crate) fn through(&self, x: Tensor<3>, cache: &mut Cache, shared: Shared) -> Tensor<3> {
        let all: Result<_, Infallible> = self.through_between(x, cache, shared, &mut |_, _, _| Ok(()));
        let Ok(all) = all;
        all
    }

    /// As [`Decoder::through`], with a call of `between` before and after each layer.
    fn through_between<E>(
        &self,
        mut x: Tensor<3>,
        cache: &mut Cache,
        shared: Shared,
        between: &mut Between<'_, E>,
    ) -> Result<Tensor<3>, E> {
        if let Some(norm) = &self.first_norm {
            x = norm.forward(x);
        }
        let mut shared = shared;
        x = shared.dropped(x);
        let embedded = self.blocks.iter().any(Block::reads_embeddings).then(|| x.clone());
        let mut shared = Shared { loss: cache.loss.take(), embedded, ..shared };
        let layers = self.layers.iter().zip(&mut cache.layers).zip(self.bounds());
        for (i, ((block, state), bound)) in layers.enumerate() {
            shared.lower_bound = bound;
            between(Moment::Before, i, state)?;
            let block = &self.blocks[*block];
            // Segments of a memory pass gradients on through the state.
            x = match self.recompute && self.hmt.is_none() {
                true => block.recomputed(x, state, &mut shared),
                false => block.forward(x, state, &mut shared),
            };
            between(Moment::After, i, state)?;
        }
        cache.loss = shared.loss;
        Ok(match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        })
    }
}

/// The position of each of the next `t` tokens of each sequence: the number of tokens before it, without padding.
fn places(cache: &Cache, t: usize, padding: Option<&Tokens>) -> Vec<u32> {
    let mut places = Vec::with_capacity(cache.batch * t);
    for (b, before) in cache.positions().into_iter().enumerate() {
        let mut next = before as u32;
        for i in 0..t {
            places.push(next);
            next += u32::from(padding.is_none_or(|tokens| tokens.contains(b, i)));
        }
    }
    places
}
