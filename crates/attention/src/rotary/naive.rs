//! The definition.

use ndarray::{Array4, ArrayView2, ArrayView4};

use super::{OP, Rotary};
use crate::{Error, error};

/// Returns `x: [B, T, H, D]` rotated, in f64; `positions: [B or 1, T]`, in a sequence of `length` tokens.
pub fn naive(
    x: ArrayView4<'_, f64>,
    positions: ArrayView2<'_, usize>,
    length: usize,
    rotary: &Rotary,
) -> Result<Array4<f64>, Error> {
    let (frequencies, d) = (rotary.frequencies(&positions, length)?, x.dim().3);
    error::parameter(OP, "width", rotary.width <= d, rotary.width, format!("at most the {d} channels of a head"))?;
    let half = rotary.width / 2;
    let mut out = x.to_owned();
    for ((b, t, h, d), out) in out.indexed_iter_mut().filter(|((.., d), _)| *d < rotary.width) {
        // The channel's pair, the other channel of the pair, and whether this channel is the first of the two.
        let (pair, other, first) = if rotary.interleaved {
            (d / 2, d ^ 1, d % 2 == 0)
        } else {
            (d % half, (d + half) % rotary.width, d < half)
        };
        let angle = positions[[b % positions.dim().0, t]] as f64 * frequencies.inverse[pair];
        let sign = if first { -1.0 } else { 1.0 };
        *out = frequencies.factor * (x[[b, t, h, d]] * angle.cos() + sign * x[[b, t, h, other]] * angle.sin());
    }
    Ok(out)
}
