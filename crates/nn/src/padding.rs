//! Removing padding, so that each sequence can be read separately.

use std::ops::Range;

use burn::tensor::Tensor;

/// The tokens of a batch that are not padding.
#[derive(Clone, Debug)]
pub(crate) struct Tokens(Vec<Vec<Range<usize>>>);

impl Tokens {
    /// The tokens of a mask `[B, T, 1]`; `None` if no token is padding.
    pub(crate) fn of(mask: &Tensor<3>) -> Option<Self> {
        let t = mask.dims()[1];
        let keep: Vec<bool> = mask.clone().into_data().iter::<f32>().map(|x| x != 0.0).collect();
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
