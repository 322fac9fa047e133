//! Truncated and full backpropagation through time. A text is read in segments that carry the state, and gradients
//! are either cut at segment boundaries or flow through the state.
//!
//! The graph of only one segment exists at a time. With [`Through::All`] the states between segments are stored, and
//! the backward pass reads each segment again from the state before it. The result is the gradient of the whole text,
//! at the cost of a second forward pass and the memory of one segment's graph and one state per segment.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Gradients, Tensor};

use crate::{Cache, Decoder, OnTensors};

/// How far gradients flow back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// To the start of the segment: truncated BPTT. Earlier states are constants. Dai et al. 2019 (Transformer-XL),
    /// §3.2.
    Segment,
    /// To the start of the text: full BPTT.
    All,
}

/// Backpropagation through time in segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// The number of tokens of a segment; the last one may be shorter.
    pub length: usize,
    /// How far gradients flow back.
    pub through: Through,
}

/// The result of learning from a text.
#[derive(Debug)]
pub struct Learnt {
    /// The mean cross-entropy of the targets in nats, without auxiliary losses.
    pub loss: f32,
    /// The gradients of the parameters.
    pub gradients: GradientsParams,
    /// The state after the last token, detached from the graph.
    pub cache: Cache,
}

/// Makes every tensor of a state a leaf whose gradient is recorded.
struct Leaves;

impl OnTensors for Leaves {
    fn tensor<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        x.require_grad()
    }
}

/// Collects the gradient of every tensor, flattened; zeros if the loss does not depend on it.
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

/// The inner product of every tensor with its incoming gradient, summed over all tensors.
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
    /// Reads `ids`, contiguous rows of equal length for the sequences of `cache`, after what the cache already
    /// contains, and returns the loss and the gradients. `targets` has one target per id; negative targets are
    /// ignored. Panics if `length` is 0 or an id exceeds the vocabulary.
    pub fn learn(&self, decoder: &Decoder, ids: &[u32], targets: &[i64], cache: Cache) -> Learnt {
        assert!(self.length > 0, "the length of a segment is 0");
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

/// One segment of every sequence.
struct Piece {
    ids: Vec<u32>,
    targets: Vec<i64>,
    /// The fraction of all targets that are in this segment.
    share: f32,
}

struct Learning<'d> {
    decoder: &'d Decoder,
    gradients: GradientsAccumulator<Decoder>,
    loss: f32,
}

impl Learning<'_> {
    /// Reads a segment and backpropagates its own loss and `after`, the gradients of the state after it. Returns the
    /// state after the segment and the gradients of the state before it, if any of its tensors records them.
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
        // Auxiliary losses are backpropagated immediately, independently of the targets.
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

    /// A forward pass that stores the states between the segments, then a backward pass that reads each segment
    /// again.
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
