//! The definition.

use ndarray::{Array1, Array4, Axis, s};

use super::{Inputs, State, pieces};
use crate::Error;

fn phi(x: f64) -> f64 {
    if x > 0.0 { x + 1.0 } else { x.exp() }
}

/// Segment by segment as the equations read, in f64. `state` is updated in place.
pub fn naive(x: &Inputs<'_, f64>, state: &mut State<f64>) -> Result<Array4<f64>, Error> {
    let seen = x.check(state)?;
    let ((b, t, h, _), (_, _, g, width)) = (x.q.dim(), x.v.dim());
    let [ql, kl] = x.local();
    let mut out = Array4::zeros((b, t, h, width));
    for (b, g) in (0..b).flat_map(|b| (0..g).map(move |g| (b, g))) {
        let mut memory = state.memory.slice_mut(s![b, g, .., ..]);
        let mut pending = state.pending.slice_mut(s![b, g, .., ..]);
        for (tokens, ends) in pieces(t, seen, x.segment) {
            let before = memory.to_owned();
            let written = before.column(width).iter().any(|z| *z != 0.0);
            let from = |row: ndarray::ArrayView1<'_, f64>| -> Array1<f64> {
                let sums = before.t().dot(&row.mapv(phi));
                &sums.slice(s![..width]) / sums[width].max(x.epsilon)
            };
            // Cached tokens of this segment.
            let cached = if tokens.start == 0 { seen } else { 0 };
            for i in tokens.clone() {
                for head in (0..h).filter(|head| head * x.v.dim().2 / h == g) {
                    let query = ql.slice(s![b, i, head, ..]);
                    let mut rows = Vec::new();
                    for j in 0..cached {
                        rows.push((query.dot(&state.keys.slice(s![b, j, g, ..])), state.values.slice(s![b, j, g, ..])));
                    }
                    for j in tokens.start..=i {
                        rows.push((query.dot(&kl.slice(s![b, j, g, ..])), x.v.slice(s![b, j, g, ..])));
                    }
                    let top = rows.iter().fold(f64::NEG_INFINITY, |top, (y, _)| top.max(x.scale * y));
                    let total: f64 = rows.iter().map(|(y, _)| (x.scale * y - top).exp()).sum();
                    let mut local = Array1::<f64>::zeros(width);
                    for (y, value) in &rows {
                        local.scaled_add((x.scale * y - top).exp() / total, value);
                    }
                    let share = 1.0 / (1.0 + (-x.gate[head]).exp());
                    let got = match written {
                        true => share * from(x.q.slice(s![b, i, head, ..])) + (1.0 - share) * local,
                        false => local,
                    };
                    out.slice_mut(s![b, i, head, ..]).assign(&got);
                }
                let key = x.k.slice(s![b, i, g, ..]);
                let mut value = x.v.slice(s![b, i, g, ..]).to_owned();
                if x.delta && written {
                    value -= &from(key);
                }
                value.append(Axis(0), ndarray::aview1(&[1.0])).unwrap_or_default();
                pending += &crate::fast_weights::outer(key.mapv(phi).view(), value.view());
            }
            if ends {
                memory += &pending;
                pending.fill(0.0);
            }
        }
    }
    let [keys, values] = x.under_way(seen, state);
    (state.keys, state.values) = (keys, values);
    Ok(out)
}
