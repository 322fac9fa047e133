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
        let positions = positions(once(before), x.dims()[1], &ops::Packed::ROWS);
        ops::rotary(x, &self.at(rotary, positions, length))
    }

    /// Rotates `x: [B, T, H, D]` by the angles of the next positions of each sequence after `before`.
    pub fn turn(&mut self, rotary: &Rotary, x: Tensor<4>, before: &[usize], packed: &ops::Packed) -> Tensor<4> {
        let rows = &ops::Packed::ROWS;
        let by_length = rotary.scaling.depends_on_length();
        if let (true, Some(bounds)) = (by_length, packed.bounds()) {
            let of = |w: &[usize]| x.clone().narrow(1, w[0], w[1] - w[0]);
            let texts = bounds.windows(2).enumerate();
            return Tensor::cat(texts.map(|(i, w)| self.turn(rotary, of(w), &before[i..=i], rows)).collect(), 1);
        }
        let own = if packed.bounds().is_some() { before } else { once(before) };
        let positions = positions(own, x.dims()[1], packed);
        let length = positions.iter().max().map_or(0, |most| most + 1);
        if by_length && positions.nrows() > 1 {
            // The frequencies of each sequence depend on its own length.
            let one = |b: usize| self.turn(rotary, x.clone().narrow(0, b, 1), &before[b..=b], rows);
            return Tensor::cat((0..before.len()).map(one).collect(), 0);
        }
        let tokens = x.dims()[1];
        if by_length && !before.is_empty() && (2..=STREAMED_ROWS).contains(&tokens) {
            // Few tokens continue a text as one at a time do, each with the frequencies of the text up to it.
            let one = |i: usize| self.turn(rotary, x.clone().narrow(1, i, 1), &[before[0] + i], rows);
            return Tensor::cat((0..tokens).map(one).collect(), 1);
        }
        ops::rotary(x, &self.at(rotary, positions, length))
    }
}

/// The first alone if all are the same: the angles of one row are then those of each.
fn once(before: &[usize]) -> &[usize] {
    let same = before.windows(2).all(|w| w[0] == w[1]);
    if same { &before[..before.len().min(1)] } else { before }
}

/// Errors, with a message, if positions do not fit heads of `width` channels or their angles cannot be computed.
pub(crate) fn fits(rotary: &Rotary, width: usize) -> Result<(), String> {
    if rotary.width > width || !rotary.width.is_multiple_of(2) {
        return Err(format!("rotary positions of {} channels in heads of {width}", rotary.width));
    }
    let angles = rotary.angles(Array2::zeros((1, 1)).view(), 1, &ops::context());
    angles.map(|_| ()).map_err(|error| error.to_string())
}

/// The positions of the next `t` tokens of sequences that have read `before` tokens, `[B, t]`, or `[1, t]` where sequences are
/// packed in one row.
pub(crate) fn positions(before: &[usize], t: usize, packed: &ops::Packed) -> Array2<usize> {
    if let Some(bounds) = packed.bounds() {
        let texts = bounds.windows(2).zip(before);
        let all = texts.flat_map(|(w, before)| (0..w[1] - w[0]).map(move |i| before + i)).collect();
        return Array2::from_shape_vec((1, t), all).expect("the bounds cover the tokens");
    }
    Array2::from_shape_fn((before.len(), t), |(b, i)| before[b] + i)
}
