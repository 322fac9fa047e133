//! The definition.

use ndarray::{Array1, Array2, Array4, Axis, s};

use super::{Inputs, Padding, Start, gathered, segments};
use crate::Error;

fn softmax(mut x: Array2<f64>) -> Array2<f64> {
    for mut row in x.rows_mut() {
        let top = row.fold(f64::NEG_INFINITY, |top, x| top.max(*x));
        row.mapv_inplace(|x| (x - top).exp());
        let sum = row.sum();
        row /= sum;
    }
    x
}

/// As the equations read, in f64.
pub fn naive(x: &Inputs<'_, f64>) -> Result<Array4<f64>, Error> {
    x.check()?;
    let ((b, t, h, _), m) = (x.q.dim(), x.landmarks);
    let mut out = Array4::zeros(x.v.dim());
    let means = |x: &Array2<f64>| {
        let mut out = Array2::zeros((m, x.dim().1));
        for (mut row, tokens) in out.rows_mut().into_iter().zip(segments(x.dim().0, m)) {
            row.assign(&x.slice(s![tokens, ..]).mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(0)));
        }
        out
    };
    // For every sequence and head: its tokens and the three matrices, or two and the values.
    let mut parts = Vec::new();
    let mut most = f64::NEG_INFINITY;
    for (b, h) in (0..b).flat_map(|b| (0..h).map(move |h| (b, h))) {
        let tokens = x.tokens(b);
        let of = |x| -> Array2<f64> { gathered(&x, b, &tokens).slice(s![0, .., h, ..]).to_owned() };
        let [q, k, v] = [x.q, x.k, x.v].map(of);
        let hidden = |scores: Array2<f64>| {
            let mut scores = scores * x.scale;
            for (mut column, t) in scores.columns_mut().into_iter().zip(&tokens) {
                if !x.kept(b, *t) {
                    column.fill(f64::NEG_INFINITY);
                }
            }
            softmax(scores)
        };
        if tokens.len() <= m {
            let values = hidden(q.dot(&k.t())).dot(&v);
            parts.push((b, h, tokens, None, values));
            continue;
        }
        let (ql, kl) = (means(&q), means(&k));
        let a = softmax(ql.dot(&kl.t()) * x.scale);
        let c = a.sum_axis(Axis(0)).fold(f64::NEG_INFINITY, |most, x| most.max(*x));
        most = most.max(c);
        let to = softmax(q.dot(&kl.t()) * x.scale);
        let values = hidden(ql.dot(&k.t())).dot(&v);
        parts.push((b, h, tokens, Some((to, a, c)), values));
    }
    for (b, h, tokens, matrices, values) in parts {
        let values = match matrices {
            None => values,
            Some((to, a, c)) => {
                let mut z = &a.t() / if x.start == Start::Own { c } else { most };
                let one = Array2::<f64>::eye(m);
                for _ in 0..x.iterations {
                    let az = a.dot(&z);
                    let inner = 13.0 * &one - az.dot(&(15.0 * &one - az.dot(&(7.0 * &one - &az))));
                    z = z.dot(&inner) / 4.0;
                }
                to.dot(&z).dot(&values)
            }
        };
        for (row, t) in values.rows().into_iter().zip(tokens) {
            out.slice_mut(s![b, t, h, ..]).assign(&row);
        }
    }
    for ((b, i, h, e), o) in out.indexed_iter_mut() {
        let line = |j: usize| x.padding == Padding::Seen || x.kept(b, j);
        for (j, w) in x.conv.iter().flat_map(|conv| conv.row(h).into_iter().enumerate()) {
            if let Some(j) =
                (i + j).checked_sub(x.conv.map_or(0, |conv| conv.dim().1 / 2)).filter(|j| *j < t && line(*j))
            {
                *o += w * x.v[[b, j, h, e]];
            }
        }
        if x.padding == Padding::Neutral && !x.kept(b, i) {
            *o = 0.0;
        }
    }
    Ok(out)
}
