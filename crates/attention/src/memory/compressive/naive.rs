//! The definition.

use ndarray::{Array1, Array3, Axis, s};

use super::{Compression, Inputs, most_used};
use crate::Error;

/// Group by group as the equations read, in f64: `[B, ⌈N / c⌉, C]`.
pub fn naive(x: &Inputs<'_, f64>) -> Result<Array3<f64>, Error> {
    x.check()?;
    let ((batch, _, c), groups) = (x.x.dim(), x.groups());
    let mut out = Array3::zeros((batch, groups.len(), c));
    if let Compression::Used(p) = &x.by {
        let weights = p.mean_axis(Axis(1)).and_then(|p| p.mean_axis(Axis(1)));
        for (b, kept) in most_used(&weights.unwrap_or_default(), groups.len()).into_iter().enumerate() {
            for (n, t) in kept.into_iter().enumerate() {
                out.slice_mut(s![b, n, ..]).assign(&x.x.slice(s![b, t, ..]));
            }
        }
        return Ok(out);
    }
    for ((b, n), group) in (0..batch).flat_map(|b| groups.iter().enumerate().map(move |(n, group)| ((b, n), group))) {
        let rows = x.x.slice(s![b, group.clone(), ..]);
        let row = match &x.by {
            Compression::Conv { w, b: bias, dilation } => {
                let (mut sum, taps) = (bias.to_owned(), w.dim().2);
                for i in 0..taps {
                    if let Some(t) = (group.end - 1).checked_sub((taps - 1 - i).saturating_mul(*dilation)) {
                        sum += &w.slice(s![.., .., i]).dot(&x.x.slice(s![b, t, ..]));
                    }
                }
                sum
            }
            Compression::Max => rows.fold_axis(Axis(0), f64::NEG_INFINITY, |most, x| most.max(*x)),
            _ => rows.mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(c)),
        };
        out.slice_mut(s![b, n, ..]).assign(&row);
    }
    Ok(out)
}
