//! Runs packed sequences one by one, for mechanisms that count sinks, strides or blocks from a sequence's start.

use std::ops::Range;

use ndarray::{Array1, Array3, Array4, s};

use super::mask::Packing;
use super::{Cotangent, Gradient, Inputs, Output, OutputView, Pattern};
use crate::{Error, Sequences, error};

/// A packed sequence: its keys in the row, and which of the call's queries belong to it.
struct PackedSequence {
    keys: Range<usize>,
    queries: Range<usize>,
}

/// Whether a call's sequences must be run one by one under this pattern. An error if they are packed and the pattern
/// was built for a single sequence.
pub(super) fn needed<T, F>(x: &Inputs<'_, T, F>, pattern: &(impl Pattern + ?Sized)) -> Result<bool, Error> {
    let packed = matches!(x.sequences, Sequences::Packed(_));
    if packed && pattern.packing() == Packing::Refused {
        reject(pattern.name(), x)?;
    }
    Ok(packed && pattern.packing() == Packing::Sequence)
}

/// An error if sequences are packed.
pub(super) fn reject<T, F>(op: &'static str, x: &Inputs<'_, T, F>) -> Result<(), Error> {
    let one = matches!(x.sequences, Sequences::Batch);
    error::parameter(op, "sequences", one, x.sequences, "rows of one sequence: what a query sees was made for one")
}

/// The sequences that have queries. An error if the bounds do not cover the keys in order, or a query is after the last
/// key.
fn sequences<T, F: Copy + Into<f64>>(op: &'static str, x: &Inputs<'_, T, F>) -> Result<Vec<PackedSequence>, Error> {
    let (of, _) = x.sizes(op)?;
    let ranges = x.sequences.ranges(op, of.batch, of.keys)?;
    if let (Sequences::Packed(bounds), true) = (x.sequences, of.queries.end > of.keys) {
        return Err(Error::Boundaries { op, tokens: of.queries.end, batch: of.batch, found: bounds.to_vec() });
    }
    let first = of.queries.start;
    let own = |keys: &Range<usize>| keys.start.max(first)..keys.end.min(of.queries.end);
    let with_queries = ranges.into_iter().filter(|keys| !own(keys).is_empty());
    Ok(with_queries
        .map(|keys| PackedSequence { queries: own(&keys).start - first..own(&keys).end - first, keys })
        .collect())
}

impl PackedSequence {
    /// Calls `run` with the inputs of this sequence alone.
    fn run_alone<T: Copy, F: Copy, R>(&self, x: &Inputs<'_, T, F>, run: impl FnOnce(&Inputs<'_, T, F>) -> R) -> R {
        let (keys, queries) = (self.keys.clone(), self.queries.clone());
        let bias =
            x.bias.map(|bias| bias.slice(s![.., .., queries.clone(), keys.clone()]).as_standard_layout().into_owned());
        run(&Inputs {
            q: x.q.slice(s![.., queries.clone(), .., ..]),
            k: x.k.slice(s![.., keys.clone(), .., ..]),
            v: x.v.slice(s![.., keys.clone(), .., ..]),
            earlier: &[],
            scale: x.scale,
            offset: x.offset + queries.start - keys.start,
            softcap: x.softcap,
            bias: bias.as_ref().map(|bias| bias.view()),
            alibi: x.alibi.as_ref().map(|alibi| alibi.view()),
            sinks: x.sinks.as_ref().map(|sinks| sinks.view()),
            weights: x.weights.as_ref().map(|weights| weights.slice(s![.., keys.clone()])),
            keep: x.keep.as_ref().map(|keep| keep.slice(s![.., keys])),
            sequences: Sequences::Batch,
        })
    }
}

/// Applies `run` to each packed sequence, or once to a batch.
pub(super) fn forward<T: Copy>(
    op: &'static str,
    x: &Inputs<'_, T>,
    run: impl Fn(&Inputs<'_, T>) -> Result<Output, Error>,
) -> Result<Output, Error> {
    if let Sequences::Batch = x.sequences {
        return run(x);
    }
    let sequences = sequences(op, x)?;
    let (b, t, h, _) = x.q.dim();
    let mut all = Output { out: Array4::zeros((b, t, h, x.v.dim().3)), lse: Array3::zeros((b, t, h)) };
    for sequence in sequences {
        let got = sequence.run_alone(x, &run)?;
        all.out.slice_mut(s![.., sequence.queries.clone(), .., ..]).assign(&got.out);
        all.lse.slice_mut(s![.., sequence.queries, ..]).assign(&got.lse);
    }
    Ok(all)
}

/// As [`forward`], for the definition.
pub(super) fn naive(
    op: &'static str,
    x: &Inputs<'_, f64, f64>,
    run: impl Fn(&Inputs<'_, f64, f64>) -> Result<(Array4<f64>, Array3<f64>), Error>,
) -> Result<(Array4<f64>, Array3<f64>), Error> {
    if let Sequences::Batch = x.sequences {
        return run(x);
    }
    let sequences = sequences(op, x)?;
    let (b, t, h, _) = x.q.dim();
    let (mut out, mut lse) = (Array4::zeros((b, t, h, x.v.dim().3)), Array3::zeros((b, t, h)));
    for sequence in sequences {
        let (part, part_lse) = sequence.run_alone(x, &run)?;
        out.slice_mut(s![.., sequence.queries.clone(), .., ..]).assign(&part);
        lse.slice_mut(s![.., sequence.queries, ..]).assign(&part_lse);
    }
    Ok((out, lse))
}

/// As [`forward`], for the gradient.
pub(super) fn backward<T: Copy>(
    op: &'static str,
    x: &Inputs<'_, T>,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    run: impl Fn(&Inputs<'_, T>, OutputView<'_>, &Cotangent<'_>) -> Result<Gradient, Error>,
) -> Result<Gradient, Error> {
    if let Sequences::Batch = x.sequences {
        return run(x, output, d);
    }
    let (sequences, (b, t, h, _)) = (sequences(op, x)?, x.q.dim());
    let shape = [b, t, h, x.v.dim().3];
    error::shape(op, "output", &shape, output.out.shape())?;
    error::shape(op, "lse", &shape[..3], output.lse.shape())?;
    error::shape(op, "d out", &shape, d.out.shape())?;
    if let Some(lse) = &d.lse {
        error::shape(op, "d lse", &shape[..3], lse.shape())?;
    }
    let mut all = Gradient {
        q: Array4::zeros(x.q.dim()),
        k: Array4::zeros(x.k.dim()),
        v: Array4::zeros(x.v.dim()),
        sinks: x.sinks.map(|sinks| Array1::zeros(sinks.dim())),
        bias: x.bias.map(|bias| Array4::zeros(bias.dim())),
    };
    for sequence in sequences {
        let (keys, queries) = (sequence.keys.clone(), sequence.queries.clone());
        let output = OutputView {
            out: output.out.slice_move(s![.., queries.clone(), .., ..]),
            lse: output.lse.slice_move(s![.., queries.clone(), ..]),
        };
        let d = Cotangent {
            out: d.out.slice_move(s![.., queries.clone(), .., ..]),
            lse: d.lse.map(|lse| lse.slice_move(s![.., queries.clone(), ..])),
        };
        let got = sequence.run_alone(x, |x| run(x, output, &d))?;
        all.q.slice_mut(s![.., queries.clone(), .., ..]).assign(&got.q);
        all.k.slice_mut(s![.., keys.clone(), .., ..]).assign(&got.k);
        all.v.slice_mut(s![.., keys.clone(), .., ..]).assign(&got.v);
        if let (Some(all), Some(got)) = (&mut all.sinks, &got.sinks) {
            *all += got;
        }
        if let (Some(all), Some(got)) = (&mut all.bias, &got.bias) {
            all.slice_mut(s![.., .., queries, keys]).assign(got);
        }
    }
    Ok(all)
}
