//! Rotary position embeddings: pairs of channels are rotated by an angle proportional to the position.
//!
//! $$ (a, b) \mapsto m\,(a \cos\varphi - b \sin\varphi,\; b \cos\varphi + a \sin\varphi), \qquad \varphi = p\,\omega_i,\quad
//!    \omega_i = \theta^{-2i/r} $$
//!
//! for the first `r` channels of every head; the others are unchanged. Channel `i` is paired with `i + r/2`, or `2i`
//! with `2i + 1` if interleaved. [`Scaling`] changes the frequencies `ω` and the magnitude `m` for contexts longer
//! than in training. Angles are computed in f64. O(T H r). Su et al. 2021 (RoFormer), eq. 34; the scalings are Hugging
//! Face's, by their names.

use longreach_simd::Cx;
use ndarray::{Array2, ArrayView2};
use serde::Deserialize;

use crate::{Error, error};

mod backward;
mod chunk;
mod naive;
pub(crate) mod operation;
mod scaling;

pub use backward::backward;
pub use chunk::chunk;
pub use naive::naive;
pub use scaling::{Frequencies, Scaling};

const OP: &str = "rotary";

/// The parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotary {
    /// `r`, the number of channels per head that are rotated; even
    pub width: usize,
    /// `θ`
    #[serde(default = "ten_thousand")]
    pub theta: f64,
    /// Whether pairs are neighbouring channels, instead of channels of the two halves.
    #[serde(default)]
    pub interleaved: bool,
    /// The scaling of the frequencies.
    #[serde(default)]
    pub scaling: Scaling,
}

fn ten_thousand() -> f64 {
    10_000.0
}

/// The cosines and sines of every position, times the magnitude.
#[derive(Clone, Debug, PartialEq)]
pub struct Angles {
    /// `[B or 1, T, r / 2]`, flat over the first two
    cos: Array2<f32>,
    sin: Array2<f32>,
    batch: usize,
    interleaved: bool,
}

impl Angles {
    /// The cosines and the sines, times the magnitude: `[B or 1, T, r / 2]`, contiguous.
    pub fn cos_sin(&self) -> [(&[f32], [usize; 3]); 2] {
        [&self.cos, &self.sin].map(|x| {
            let (rows, half) = x.dim();
            (x.as_slice().unwrap_or_default(), [self.batch, rows / self.batch.max(1), half])
        })
    }

    /// Whether pairs are neighbouring channels, instead of channels of the two halves.
    pub fn is_interleaved(&self) -> bool {
        self.interleaved
    }
}

/// The largest supported width. Frequencies are computed before the width is compared with the input.
const MAX_WIDTH: usize = 1 << 16;

impl Rotary {
    /// Computes the frequencies, and checks that all angles are finite.
    fn frequencies(&self, positions: &ArrayView2<'_, usize>, length: usize) -> Result<Frequencies, Error> {
        error::parameter(OP, "width", self.width <= MAX_WIDTH, self.width, format!("at most {MAX_WIDTH} channels"))?;
        let frequencies = self.scaling.frequencies(self.width, self.theta, length)?;
        let last = positions.iter().max().copied().unwrap_or(0) as f64;
        let fits = frequencies.inverse.iter().all(|w| (w * last).is_finite());
        let fits = fits && frequencies.factor.abs() <= f64::from(f32::MAX) / 2.0;
        let found = (self.theta, &self.scaling);
        error::parameter(OP, "theta and scaling", fits, found, "angles and a magnitude that are finite in f32")?;
        Ok(frequencies)
    }

    /// Computes the angles at `positions: [B or 1, T]` in a sequence of `length` tokens, on which some scalings depend.
    pub fn angles(&self, positions: ArrayView2<'_, usize>, length: usize, cx: &Cx) -> Result<Angles, Error> {
        let frequencies = self.frequencies(&positions, length)?;
        let half = self.width / 2;
        let flat: Vec<usize> = positions.iter().copied().collect();
        let (mut cos, mut sin) = (Array2::zeros((flat.len(), half)), Array2::zeros((flat.len(), half)));
        let rows = cos.as_slice_mut().unwrap_or_default().chunks_mut(64 * half.max(1));
        let rows = rows.zip(sin.as_slice_mut().unwrap_or_default().chunks_mut(64 * half.max(1)));
        let tasks: Vec<_> = rows.zip(flat.chunks(64)).collect();
        cx.team.for_each(tasks, |((cos, sin), positions)| {
            for (i, (cos, sin)) in cos.iter_mut().zip(sin).enumerate() {
                let angle = positions[i / half] as f64 * frequencies.inverse[i % half];
                (*cos, *sin) = ((angle.cos() * frequencies.factor) as f32, (angle.sin() * frequencies.factor) as f32);
            }
        });
        Ok(Angles { cos, sin, batch: positions.dim().0, interleaved: self.interleaved })
    }
}

impl Angles {
    fn check(&self, shape: &[usize]) -> Result<(), Error> {
        let (b, t, d) = (shape[0], shape[1], shape[3]);
        let rows = if self.batch == 1 { t } else { b * t };
        error::shape(OP, "angles", &[rows], &[self.cos.dim().0])?;
        let width = 2 * self.cos.dim().1;
        error::parameter(OP, "width", width <= d, width, format!("at most the {d} channels of a head"))
    }

    /// The cosines and sines of token `t` of sequence `b`; `length` is the number of tokens per sequence.
    #[inline]
    fn row(&self, b: usize, t: usize, length: usize) -> (&[f32], &[f32]) {
        let row = if self.batch == 1 { t } else { b * length + t };
        let half = self.cos.dim().1;
        let part = row * half..(row + 1) * half;
        (&self.cos.as_slice().unwrap_or_default()[part.clone()], &self.sin.as_slice().unwrap_or_default()[part])
    }
}
