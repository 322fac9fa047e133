//! Removing padding: each sequence is then read separately, so that padding has no effect on states and positions.

use std::ops::Range;

use burn::tensor::Tensor;
use ndarray::Array2;

use crate::State;
use crate::mixers::Shared;

/// The tokens of a batch that are not padding.
#[derive(Clone, Debug)]
pub(crate) struct Tokens(Vec<Vec<Range<usize>>>);

impl Tokens {
    /// The tokens of a mask `[B, T, 1]`; `None` if no token is padding.
    pub(crate) fn of(mask: &Tensor<3>) -> Option<Self> {
        let t = mask.dims()[1];
        let keep: Vec<bool> = mask.clone().into_data().iter::<f32>().map(|x| x != 0.0).collect();
        Self::kept(&keep, t)
    }

    /// The same of a mask `[B, T]`.
    pub(crate) fn of_rows(keep: &Array2<bool>) -> Option<Self> {
        let all: Vec<bool> = keep.iter().copied().collect();
        Self::kept(&all, keep.ncols())
    }

    fn kept(keep: &[bool], t: usize) -> Option<Self> {
        if keep.iter().all(|keep| *keep) {
            return None;
        }
        let runs = |row: &[bool]| {
            let mut runs: Vec<Range<usize>> = Vec::new();
            for at in (0..row.len()).filter(|at| row[*at]) {
                match runs.last_mut() {
                    Some(run) if run.end == at => run.end += 1,
                    _ => runs.push(at..at + 1),
                }
            }
            runs
        };
        Some(Self(keep.chunks(t).map(runs).collect()))
    }

    /// Whether token `i` of sequence `b` is not padding.
    pub(crate) fn contains(&self, b: usize, i: usize) -> bool {
        self.0[b].iter().any(|run| run.contains(&i))
    }

    /// The number of sequences.
    pub(crate) fn sequences(&self) -> usize {
        self.0.len()
    }

    /// The tokens of sequence `i` of `x: [B, T, D]` without padding, `[1, n, D]`; `None` if all of it is padding.
    pub(crate) fn gather(&self, x: &Tensor<3>, i: usize) -> Option<Tensor<3>> {
        let of = x.clone().narrow(0, i, 1);
        let parts: Vec<_> = self.0[i].iter().map(|run| of.clone().narrow(1, run.start, run.len())).collect();
        if parts.is_empty() { None } else { Some(Tensor::cat(parts, 1)) }
    }

    /// The inverse of `gather`: places the rows of sequence `i` at their positions among `t`, with zeros at padding.
    pub(crate) fn scatter(&self, x: Tensor<3>, i: usize, t: usize) -> Tensor<3> {
        let (d, device) = (x.dims()[2], x.device());
        let (mut parts, mut from, mut read) = (Vec::new(), 0, 0);
        for run in &self.0[i] {
            if from < run.start {
                parts.push(Tensor::zeros([1, run.start - from, d], &device));
            }
            parts.push(x.clone().narrow(1, read, run.len()));
            (from, read) = (run.end, read + run.len());
        }
        if from < t {
            parts.push(Tensor::zeros([1, t - from, d], &device));
        }
        Tensor::cat(parts, 1)
    }
}

/// Calls `read` with `x: [B, T, d]` and the state, or, if there is padding, with the tokens of each sequence and its state;
/// advances the positions. The outputs, of width `width`, are zeros at padding.
pub(crate) fn without_padding(
    x: Tensor<3>,
    width: usize,
    state: &mut State,
    shared: &mut Shared,
    mut read: impl FnMut(Tensor<3>, &mut State, &mut Shared) -> Tensor<3>,
) -> Tensor<3> {
    let mut read = |x: Tensor<3>, state: &mut State, shared: &mut Shared| {
        let t = x.dims()[1];
        let y = read(x, state, shared);
        match shared.packed.bounds() {
            Some(bounds) => state.advance_each(bounds.windows(2).map(|w| w[1] - w[0])),
            None => state.advance(t),
        }
        y
    };
    match shared.padding.take() {
        Some(tokens) => {
            let y = by_sequence(&tokens, &x, width, state, shared, read);
            shared.padding = Some(tokens);
            y
        }
        None => read(x, state, shared),
    }
}

/// Calls `read` with the tokens of each sequence and its state; `x: [B, T, d]`. The outputs at padding are zeros.
fn by_sequence(
    tokens: &Tokens,
    x: &Tensor<3>,
    width: usize,
    state: &mut State,
    shared: &mut Shared,
    mut read: impl FnMut(Tensor<3>, &mut State, &mut Shared) -> Tensor<3>,
) -> Tensor<3> {
    let t = x.dims()[1];
    let (mut out, mut states, mut first_values) = (Vec::new(), Vec::new(), Vec::new());
    shared.kv_of_sequences.resize_with(tokens.sequences(), Vec::new);
    for i in 0..tokens.sequences() {
        let mut own_state = state.select(&[i]);
        let Some(own) = tokens.gather(x, i) else {
            out.push(Tensor::zeros([1, t, width], &x.device()));
            states.push(own_state);
            first_values.push(None);
            continue;
        };
        let mut own_shared = Shared {
            first_values: shared.first_values.as_ref().and_then(|v| tokens.gather(v, i)),
            lower_bound: shared.lower_bound.clone(),
            loss: shared.loss.take(),
            kv: std::mem::take(&mut shared.kv_of_sequences[i]),
            angles: std::mem::take(&mut shared.angles),
            ..Shared::default()
        };
        let y = read(own, &mut own_state, &mut own_shared);
        out.push(tokens.scatter(y, i, t));
        states.push(own_state);
        (shared.loss, shared.angles) = (own_shared.loss, own_shared.angles);
        shared.kv_of_sequences[i] = own_shared.kv;
        first_values.push(own_shared.first_values.map(|v| tokens.scatter(v, i, t)));
    }
    if shared.first_values.is_none()
        && let Some(width) = first_values.iter().flatten().map(|v| v.dims()[2]).next()
    {
        let none = || Tensor::zeros([1, t, width], &x.device());
        let rows = first_values.into_iter().map(|v| v.unwrap_or_else(none)).collect();
        shared.first_values = Some(Tensor::cat(rows, 0));
    }
    *state = State::join(states);
    Tensor::cat(out, 0)
}
