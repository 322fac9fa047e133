//! The compressed memory of the Compressive Transformer: tokens evicted from the first memory are compressed by a
//! factor of `c`.
//!
//! Tokens are grouped by `c` such that the last group ends at the last token; the first may be shorter. Each group
//! becomes one memory:
//!
//! $$ o_n = b + \sum_i W_i\, x_{e_n - (\tau - 1 - i)\,\delta} $$
//!
//! This is a convolution of `τ` taps with dilation `δ` that ends at the group's last token `e_n` and is padded with
//! zeros before the first token. Alternatives are the group's mean, its maximum, or keeping the most attended tokens of
//! all unchanged. Attention over both memories and the segment is [`transformer_xl`](super::transformer_xl)'s without
//! biases. [`reconstruction`] is the auxiliary loss that trains the compression. O(N C² τ / c) time. Rae et al. 2020
//! (Compressive Transformer).

use ndarray::{Array2, ArrayView1, ArrayView3, ArrayView4};
use serde::Deserialize;

use crate::{Error, error};

mod backward;
mod chunk;
mod naive;
pub(crate) mod operation;
mod reconstruction;

pub use backward::{Gradient, backward};
pub use chunk::chunk;
pub use naive::naive;
pub use reconstruction::{Reconstruction, reconstruction};

const OP: &str = "compressive";

/// The compression function.
#[derive(Clone, Copy, Debug)]
pub enum Compression<'a, F = f32> {
    /// A strided, dilated convolution.
    Conv {
        /// `[C, C, taps]`, from the oldest tap to the newest
        w: ArrayView3<'a, F>,
        /// `[C]`
        b: ArrayView1<'a, F>,
        /// The dilation; at least 1.
        dilation: usize,
    },
    /// The mean.
    Mean,
    /// The maximum, per channel.
    Max,
    /// Keeps the tokens with the most attention, given as weights `[B, H, Q, N]`.
    Used(ArrayView4<'a, F>),
}

/// The name of a compression function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// [`Compression::Conv`]
    #[default]
    Conv,
    /// [`Compression::Mean`]
    Mean,
    /// [`Compression::Max`]
    Max,
    /// [`Compression::Used`]
    Used,
}

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// The tokens evicted from the first memory, oldest first, `[B, N, C]`
    pub x: ArrayView3<'a, F>,
    /// The compression function.
    pub by: Compression<'a, F>,
    /// The compression rate `c`.
    pub ratio: usize,
}

impl<F> Inputs<'_, F> {
    fn check(&self) -> Result<(), Error> {
        let (b, n, c) = self.x.dim();
        error::parameter(OP, "ratio", self.ratio > 0, self.ratio, "at least 1")?;
        match &self.by {
            Compression::Conv { w, b, dilation } => {
                let taps = w.dim().2;
                error::shape(OP, "w", &[c, c, taps], w.shape())?;
                error::shape(OP, "b", &[c], b.shape())?;
                error::parameter(OP, "w", taps > 0, taps, "at least one tap")?;
                error::parameter(OP, "dilation", *dilation > 0, dilation, "at least 1")
            }
            Compression::Used(p) => {
                let (_, heads, queries, _) = p.dim();
                error::shape(OP, "p", &[b, heads, queries, n], p.shape())
            }
            Compression::Mean | Compression::Max => Ok(()),
        }
    }

    /// The tokens of each group.
    fn groups(&self) -> Vec<std::ops::Range<usize>> {
        let (n, ratio) = (self.x.dim().1, self.ratio);
        let count = n.div_ceil(ratio);
        (0..count).map(|i| (n - (n.min((count - i) * ratio)))..(n - (count - 1 - i) * ratio)).collect()
    }
}

/// The tokens of each sequence with the largest weights, in their original order.
fn most_used(weights: &Array2<f64>, count: usize) -> Vec<Vec<usize>> {
    let of = |row: ndarray::ArrayView1<'_, f64>| {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        order.truncate(count);
        order.sort_unstable();
        order
    };
    weights.rows().into_iter().map(of).collect()
}
