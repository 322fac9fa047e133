//! Learning from texts that are read in segments: the state is carried from each to the next, and gradients flow back through it or stop there.
//!
//! Only one segment's graph exists at a time. With [`Through::All`] the states between segments are kept, and on the way back each segment is read once more
//! from the state before it: the gradient is that of the whole text, for twice the reading and the memory of one segment and a state for each.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Gradients, Tensor};

use crate::{Cache, Decoder, OnTensors};

/// How far gradients flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// To the beginning of their segment: what was read before is taken as it is. Dai et al. 2019 (Transformer-XL), §3.2.
    Segment,
    /// To the beginning of the text.
    All,
}

/// How a text is learned from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Tokens of a segment; the last may be shorter.
    pub length: usize,
    /// How far gradients flow.
    pub through: Through,
}

/// What came of a text.
#[derive(Debug)]
pub struct Learnt {
    /// The mean loss of the targets, in nats, without what layers learn by besides.
    pub loss: f32,
    /// To the parameters.
    pub gradients: GradientsParams,
    /// After the last token; nothing flows back from it.
    pub cache: Cache,
}

/// Makes every tensor one that a gradient is wanted of.
struct Leaves;

impl OnTensors for Leaves {
    fn tensor<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        x.require_grad()
    }
}

/// Takes the gradient of every tensor, flat; zeros of which nothing depends.
struct Take<'a> {
    of: &'a Gradients,
    taken: Vec<Tensor<1>>,
}

impl OnTensors for Take<'_> {
    fn tensor<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        let n = x.shape().num_elements();
        let zeros = || Tensor::zeros([n], &x.device().inner());
        self.taken.push(x.grad(self.of).map_or_else(zeros, |gradient| gradient.reshape([n])));
        x
    }
}

/// The sum of every tensor times what is to flow into it.
struct Weigh {
    by: std::vec::IntoIter<Tensor<1>>,
    sum: Option<Tensor<1>>,
}

impl OnTensors for Weigh {
    fn tensor<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        let by = self.by.next().expect("a gradient for each tensor of a state");
        let n = x.shape().num_elements();
        if n > 0 {
            let product = (x.clone().reshape([n]) * Tensor::from_inner(by)).sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + product,
                None => product,
            });
        }
        x
    }
}

impl Segments {
    /// Learns from `ids`, rows of equal length for each of the cache's sequences, one behind the other, read after what the cache has. A target for each:
    /// negative ones do not count. Panics on segments of 0 tokens, and on ids that are not below the vocabulary's size.
    pub fn learn(&self, decoder: &Decoder, ids: &[u32], targets: &[i64], cache: Cache) -> Learnt {
        assert!(self.length > 0, "a segment of 0 tokens");
        let (batch, all) = (cache.batch, targets.iter().filter(|target| **target >= 0).count().max(1));
        let t = ids.len() / batch.max(1);
        let pieces: Vec<Piece> = (0..t)
            .step_by(self.length)
            .map(|from| {
                let to = t.min(from + self.length);
                let targets: Vec<i64> = targets.chunks(t).flat_map(|row| &row[from..to]).copied().collect();
                let counted = targets.iter().filter(|target| **target >= 0).count();
                let ids = ids.chunks(t).flat_map(|row| &row[from..to]).copied().collect();
                Piece { ids, targets, share: counted as f32 / all as f32 }
            })
            .collect();
        let mut learning = Learning { decoder, gradients: GradientsAccumulator::new(), loss: 0.0 };
        let cache = match self.through {
            Through::Segment => pieces.iter().fold(cache.detached(), |cache, piece| {
                let (after, _) = learning.piece(piece, cache, None);
                after.detached()
            }),
            Through::All => learning.twice(&pieces, cache),
        };
        Learnt { loss: learning.loss, gradients: learning.gradients.grads(), cache }
    }
}

/// A segment of every sequence.
struct Piece {
    ids: Vec<u32>,
    targets: Vec<i64>,
    /// Which part of all targets it has.
    share: f32,
}

struct Learning<'d> {
    decoder: &'d Decoder,
    gradients: GradientsAccumulator<Decoder>,
    loss: f32,
}

impl Learning<'_> {
    /// Reads a segment and flows back through it: from its own loss, and from the state after it by `after`, a gradient for each of its tensors. The state
    /// after it, and the gradients of the tensors of the one before it, where those are wanted of some.
    fn piece(&mut self, piece: &Piece, before: Cache, after: Option<Vec<Tensor<1>>>) -> (Cache, Vec<Tensor<1>>) {
        let mut cache = before.clone();
        let hidden = self.decoder.forward(&piece.ids, &mut cache, None);
        let mut weigh = Weigh { by: after.unwrap_or_default().into_iter(), sum: None };
        if weigh.by.len() > 0 {
            cache = cache.map(&mut weigh);
        }
        let mut objective = weigh.sum;
        if piece.share > 0.0 {
            let loss = self.decoder.loss(hidden, &piece.targets) * piece.share;
            self.loss += loss.clone().inner().into_data().iter::<f32>().sum::<f32>();
            objective = Some(match objective {
                Some(sum) => sum + loss,
                None => loss,
            });
        }
        // What layers learn by besides, at once and whatever the targets.
        if let Some(loss) = cache.loss.take() {
            objective = Some(match objective {
                Some(sum) => sum + loss,
                None => loss,
            });
        }
        let Some(objective) = objective else { return (cache, Vec::new()) };
        let mut gradients = objective.backward();
        let mut take = Take { of: &gradients, taken: Vec::new() };
        let _ = before.map(&mut take);
        let taken = take.taken;
        let of_parameters = GradientsParams::from_module(&mut gradients, self.decoder);
        self.gradients.accumulate(self.decoder, of_parameters);
        (cache, taken)
    }

    /// Forwards for the states between the segments, then backwards, each segment once more.
    fn twice(&mut self, pieces: &[Piece], cache: Cache) -> Cache {
        let mut states = vec![cache.detached()];
        for piece in &pieces[..pieces.len().saturating_sub(1)] {
            let mut cache = states[states.len() - 1].clone();
            self.decoder.forward(&piece.ids, &mut cache, None);
            cache.loss = None;
            states.push(cache.detached());
        }
        let (mut flowing, mut end) = (None, None);
        for (piece, before) in pieces.iter().zip(&states).rev() {
            let (after, taken) = self.piece(piece, before.clone().map(&mut Leaves), flowing);
            flowing = (!taken.is_empty()).then_some(taken);
            end.get_or_insert_with(|| after.detached());
        }
        end.unwrap_or_else(|| states.swap_remove(0))
    }
}
