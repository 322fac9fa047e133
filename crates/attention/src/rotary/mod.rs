//! Rotary positions: pairs of channels turned by an angle that grows with the position.
//!
//! $$ (a, b) \mapsto m\,(a \cos\varphi - b \sin\varphi,\; b \cos\varphi + a \sin\varphi), \qquad \varphi = p\,\omega_i,\quad
//!    \omega_i = \theta^{-2i/r} $$
//!
//! for the first `r` channels of every head; the rest pass. Channel `i` is paired with `i + r/2`, or `2i` with `2i + 1` where they are interleaved.
//! [`Scaling`] changes the frequencies `ω` and the magnitude `m` for contexts longer than those of training. Angles are computed in f64.
//! O(T H r). Su et al. 2021 (RoFormer), eq. 34; the scalings are Hugging Face's, by their names.

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
    /// `r`, how many channels of a head are turned; even
    pub width: usize,
    /// `θ`
    #[serde(default = "ten_thousand")]
    pub theta: f64,
    /// Whether neighbouring channels are pairs, not the halves.
    #[serde(default)]
    pub interleaved: bool,
    /// How frequencies are scaled.
    #[serde(default)]
    pub scaling: Scaling,
}

fn ten_thousand() -> f64 {
    10_000.0
}

/// Cosines and sines, times the magnitude, of every position.
#[derive(Clone, Debug, PartialEq)]
pub struct Angles {
    /// `[B or 1, T, r / 2]`, flat over the first two
    cos: Array2<f32>,
    sin: Array2<f32>,
    batch: usize,
    interleaved: bool,
}

/// The largest width of a head: frequencies are computed before the width is compared with the input.
const WIDEST: usize = 1 << 16;

impl Rotary {
    /// The frequencies, with which every position has an angle.
    fn frequencies(&self, positions: &ArrayView2<'_, usize>, length: usize) -> Result<Frequencies, Error> {
        error::parameter(OP, "width", self.width <= WIDEST, self.width, format!("at most {WIDEST} channels"))?;
        let frequencies = self.scaling.frequencies(self.width, self.theta, length)?;
        let last = positions.iter().max().copied().unwrap_or(0) as f64;
        let fits = frequencies.inverse.iter().all(|w| (w * last).is_finite());
        let fits = fits && frequencies.factor.abs() <= f64::from(f32::MAX) / 2.0;
        let found = (self.theta, &self.scaling);
        error::parameter(OP, "theta and scaling", fits, found, "angles and a magnitude that are finite in f32")?;
        Ok(frequencies)
    }

    /// The angles at `positions: [B or 1, T]`, in a sequence of `length` tokens: some scalings depend on it.
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

    /// The cosines and sines of token `t` of sequence `b`, of `length`.
    #[inline]
    fn row(&self, b: usize, t: usize, length: usize) -> (&[f32], &[f32]) {
        let row = if self.batch == 1 { t } else { b * length + t };
        let half = self.cos.dim().1;
        let part = row * half..(row + 1) * half;
        (&self.cos.as_slice().unwrap_or_default()[part.clone()], &self.sin.as_slice().unwrap_or_default()[part])
    }
}
