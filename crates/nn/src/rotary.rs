//! The angles of rotary positions, which the layers of a model share.

use std::sync::Arc;

use burn::tensor::Tensor;
use longreach_attention::rotary::{Angles, Rotary};
use longreach_burn as ops;
use longreach_simd::product::STREAMED_ROWS;
use ndarray::Array2;

/// The angles of the tokens of a forward pass. They are computed by the first layer that needs them and used by all
/// layers with the same frequencies.
#[derive(Clone, Debug, Default)]
pub struct RotaryCache(Vec<Cached>);

#[derive(Clone, Debug)]
struct Cached {
    rotary: Rotary,
    positions: Array2<usize>,
    length: usize,
    angles: Arc<Angles>,
}

/// More sets of angles than this are not kept: a model has few kinds of layers.
const MOST: usize = 8;

impl RotaryCache {
    /// The angles at `positions: [B or 1, T]` in a sequence of `length` tokens, on which some scalings depend. Panics if
    /// an angle is not finite, which the builder of a layer checks.
    pub fn at(&mut self, rotary: &Rotary, positions: Array2<usize>, length: usize) -> Arc<Angles> {
        let same = |c: &&Cached| c.length == length && c.positions == positions && c.rotary == *rotary;
        if let Some(found) = self.0.iter().find(same) {
            return found.angles.clone();
        }
        let angles = rotary.angles(positions.view(), length, &ops::context()).unwrap_or_else(|e| panic!("{e}"));
        let angles = Arc::new(angles);
        if self.0.len() == MOST {
            self.0.remove(0);
        }
        self.0.push(Cached { rotary: rotary.clone(), positions, length, angles: angles.clone() });
        angles
    }

    /// As [`RotaryCache::turn`], in a cache of `length` tokens, on which some scalings depend instead of the text's
    /// length.
    pub fn turn_within(&mut self, rotary: &Rotary, x: Tensor<4>, before: &[usize], length: usize) -> Tensor<4> {
        let (positions, _) = following(before, x.dims()[1]);
        ops::rotary(x, &self.at(rotary, positions, length))
    }

    /// Rotates `x: [B, T, H, D]` by the angles of the next `T` positions of each sequence after `before`.
    pub fn turn(&mut self, rotary: &Rotary, x: Tensor<4>, before: &[usize]) -> Tensor<4> {
        let (positions, length) = following(before, x.dims()[1]);
        let by_length = rotary.scaling.depends_on_length();
        if by_length && positions.nrows() > 1 {
            // The frequencies of each sequence depend on its own length.
            let one = |b: usize| self.turn(rotary, x.clone().narrow(0, b, 1), &before[b..=b]);
            return Tensor::cat((0..before.len()).map(one).collect(), 0);
        }
        let tokens = x.dims()[1];
        if by_length && !before.is_empty() && (2..=STREAMED_ROWS).contains(&tokens) {
            // Few tokens continue a text as one at a time do, each with the frequencies of the text up to it.
            let one = |i: usize| self.turn(rotary, x.clone().narrow(1, i, 1), &[before[0] + i]);
            return Tensor::cat((0..tokens).map(one).collect(), 1);
        }
        ops::rotary(x, &self.at(rotary, positions, length))
    }
}

/// Errors, with a message, if positions do not fit heads of `width` channels or their angles cannot be computed.
pub(crate) fn fits(rotary: &Rotary, width: usize) -> Result<(), String> {
    if rotary.width > width || !rotary.width.is_multiple_of(2) {
        return Err(format!("rotary positions of {} channels in heads of {width}", rotary.width));
    }
    let angles = rotary.angles(Array2::zeros((1, 1)).view(), 1, &ops::context());
    angles.map(|_| ()).map_err(|error| error.to_string())
}

/// The positions of the next `t` tokens of sequences that have read `before` tokens, `[B, t]`, or `[1, t]` if they are
/// the same; and the length of the longest sequence.
pub(crate) fn following(before: &[usize], t: usize) -> (Array2<usize>, usize) {
    let same = before.windows(2).all(|w| w[0] == w[1]);
    let rows = if same { before.len().min(1) } else { before.len() };
    let positions = Array2::from_shape_fn((rows, t), |(b, i)| before[b] + i);
    (positions, before.iter().max().map_or(0, |most| most + t))
}
