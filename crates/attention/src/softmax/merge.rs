//! Attention over disjoint keys is merged exactly from its parts.

use ndarray::Zip;

use super::Output;
use crate::{Error, error};

/// What attention over all the keys gives, from what it gave over parts of them: `o = Σ e^{lse_n − lse} o_n`. A key in two parts
/// counts twice. Panics if there is no part.
///
/// The gradient needs no function of its own: [`backward`](super::backward) of each part, with the merged output, gives its share.
pub fn merge(op: &'static str, parts: &[Output]) -> Result<Output, Error> {
    let mut merged = parts[0].clone();
    for part in &parts[1..] {
        error::shape(op, "out", merged.out.shape(), part.out.shape())?;
        error::shape(op, "lse", merged.lse.shape(), part.lse.shape())?;
        Zip::from(merged.out.rows_mut()).and(part.out.rows()).and(&mut merged.lse).and(&part.lse).for_each(
            |mut out, more, lse, &other| {
                let top = lse.max(other);
                if top == f32::NEG_INFINITY {
                    return;
                }
                let (mine, theirs) = ((*lse - top).exp(), (other - top).exp());
                let sum = mine + theirs;
                out.zip_mut_with(&more, |o, m| *o = (*o * mine + m * theirs) / sum);
                *lse = top + sum.ln();
            },
        );
    }
    Ok(merged)
}
