//! Segments of sequences that are read side by side, and the states between them.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::too_many_arguments,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe; kernels take buffers one by one"
)]

use cubecl::prelude::*;
use longreach_attention::Sequences;

use super::plan::GateAxis;
use crate::device::Device;
use crate::error::Error;
use crate::launch::{buffer, cubes, launch, words};
use crate::view::{DType, View, Words};

/// Cubes that a launch should have for a large card to be busy.
const CUBES: usize = 512;
/// The fewest tokens of a segment, unless a sequence has fewer. The gradient to a gate is summed within a segment, whose
/// rounding all its tokens share.
const LEAST: usize = 32;

/// The sequences of a call, and their segments.
#[derive(Debug)]
pub(crate) struct Cut {
    /// `[S + 1]`, tokens at which sequences begin.
    pub(crate) sequences: Words,
    /// `[P + 1]`, tokens at which segments begin.
    pub(crate) segments: Words,
    /// `[S + 1]`, the first segment of each sequence.
    pub(crate) of_sequence: Words,
}

/// The first token of each sequence, and the number of tokens.
pub(crate) fn bounds(
    op: &'static str,
    sequences: Sequences<'_>,
    batch: usize,
    tokens: usize,
) -> Result<Vec<usize>, Error> {
    match sequences {
        Sequences::Batch => Ok((0..=batch).map(|row| row * tokens).collect()),
        Sequences::Packed(found) => {
            let rises = found.windows(2).all(|w| w[0] <= w[1]);
            if batch != 1 || !rises || found.first() != Some(&0) || found.last() != Some(&tokens) {
                let found = found.to_vec();
                return Err(longreach_attention::Error::Boundaries { op, tokens, batch, found }.into());
            }
            Ok(found.to_vec())
        }
    }
}

impl Cut {
    /// Cuts sequences so that a launch with `cubes` cubes a segment fills a card.
    pub(crate) fn of(device: &Device, bounds: &[usize], cubes: usize) -> Self {
        let sequences = bounds.len() - 1;
        let segments = CUBES.div_ceil((cubes * sequences).max(1));
        let (mut starts, mut first) = (Vec::new(), vec![0]);
        for range in bounds.windows(2) {
            let length = (range[1] - range[0]).div_ceil(segments).next_multiple_of(16).max(LEAST);
            starts.extend((range[0]..range[1].max(range[0] + 1)).step_by(length).map(|t| t as u32));
            first.push(starts.len() as u32);
        }
        starts.push(bounds[sequences] as u32);
        let of_sequences: Vec<u32> = bounds.iter().map(|t| *t as u32).collect();
        Self {
            sequences: Words::upload(device, &of_sequences),
            segments: Words::upload(device, &starts),
            of_sequence: Words::upload(device, &first),
        }
    }

    /// The same sequences, whole.
    pub(crate) fn whole(&self, device: &Device) -> Self {
        let each: Vec<u32> = (0..self.sequences.len() as u32).collect();
        Self {
            sequences: self.sequences.clone(),
            segments: self.sequences.clone(),
            of_sequence: Words::upload(device, &each),
        }
    }

    /// The number of sequences.
    pub(crate) fn count(&self) -> usize {
        self.sequences.len() - 1
    }

    /// The number of segments.
    pub(crate) fn segment_count(&self) -> usize {
        self.segments.len() - 1
    }

    /// Whether a sequence has more than one segment.
    pub(crate) fn is_cut(&self) -> bool {
        self.segment_count() > self.count()
    }
}

/// The gates of a recurrence.
#[derive(Debug)]
pub(crate) struct Gates<'a> {
    pub(crate) gate: Option<&'a View>,
    pub(crate) axis: GateAxis,
    pub(crate) tokens: usize,
}

/// How [`chain`] is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Chain {
    heads: usize,
    inner: usize,
    outer: usize,
    axis: GateAxis,
    gate_stride: usize,
    reverse: bool,
    swapped: bool,
}

/// The states before each segment and after each sequence, given those that segments reach from zero.
#[allow(clippy::too_many_arguments, reason = "one place calls it")]
pub(crate) fn chain(
    op: &'static str,
    device: &Device,
    cut: &Cut,
    [heads, inner, outer]: [usize; 3],
    gates: &Gates<'_>,
    (reverse, swapped): (bool, bool),
    local: &View,
    first: &View,
) -> Result<(View, View), Error> {
    let (starts, last) =
        (View::empty(device, local.shape(), DType::F32), View::empty(device, first.shape(), DType::F32));
    let cells = heads * inner * outer;
    if cells * cut.count() == 0 {
        return Ok((starts, last));
    }
    let axis = if gates.gate.is_some() { gates.axis } else { GateAxis::None };
    let width = match axis {
        GateAxis::None => 1,
        GateAxis::Token => heads,
        GateAxis::Inner => heads * inner,
        GateAxis::Outer => heads * outer,
    };
    let gate_stride = gates
        .gate
        .map_or(0, |x| if x.len() == gates.tokens * width && x.shape()[0] == gates.tokens { width } else { 0 });
    let of = Chain { heads, inner, outer, axis, gate_stride, reverse, swapped };
    let totals = View::empty(device, &[cut.segment_count(), width], DType::F32);
    if let Some(gate) = gates.gate {
        launch!(
            "a unit sums the gates of the tokens between two bounds",
            totals_of on device,
            cubes(op, device, [width.div_ceil(64), cut.segment_count(), 1])?,
            CubeDim::new_1d(64),
            buffer(device, gate),
            words(&cut.segments),
            buffer(device, &totals),
            width,
            gate_stride,
        );
    }
    launch!(
        "a unit has one cell of the states of a sequence",
        chained on device,
        cubes(op, device, [cells.div_ceil(64), cut.count(), 1])?,
        CubeDim::new_1d(64),
        buffer(device, local),
        buffer(device, &totals),
        buffer(device, first),
        words(&cut.of_sequence),
        buffer(device, &starts),
        buffer(device, &last),
        of,
    );
    Ok((starts, last))
}

/// The sums of a segment's gates.
#[cube(launch_unchecked, create_dummy_kernel)]
fn totals_of(
    gate: &[f32],
    bounds: &[u32],
    totals: &mut [f32],
    #[comptime] width: usize,
    #[comptime] gate_stride: usize,
) {
    let at = CUBE_POS_X as usize * 64 + UNIT_POS as usize;
    let n = CUBE_POS_Y as usize;
    if at < width {
        let mut sum = 0.0f32;
        for t in bounds[n] as usize..bounds[n + 1] as usize {
            sum += gate[t * gate_stride + at];
        }
        totals[n * width + at] = sum;
    }
}

/// Chains the states of the segments.
#[cube(launch_unchecked, create_dummy_kernel)]
fn chained(
    local: &[f32],
    totals: &[f32],
    first: &[f32],
    of_sequence: &[u32],
    starts: &mut [f32],
    last: &mut [f32],
    #[comptime] of: Chain,
) {
    let cells = comptime!(of.heads * of.inner * of.outer);
    let at = CUBE_POS_X as usize * 64 + UNIT_POS as usize;
    let sequence = CUBE_POS_Y as usize;
    if at < cells {
        let cell = at % comptime!(of.inner * of.outer);
        let h = at / comptime!(of.inner * of.outer);
        let mut gate = h;
        if comptime!(of.axis == GateAxis::Inner) {
            let mut row = cell / comptime!(of.outer);
            if comptime!(of.swapped) {
                row = cell % comptime!(of.inner);
            }
            gate = h * comptime!(of.inner) + row;
        }
        if comptime!(of.axis == GateAxis::Outer) {
            let mut column = cell % comptime!(of.outer);
            if comptime!(of.swapped) {
                column = cell / comptime!(of.inner);
            }
            gate = h * comptime!(of.outer) + column;
        }
        let begin = of_sequence[sequence] as usize;
        let end = of_sequence[sequence + 1] as usize;
        let mut state = first[sequence * cells + at];
        for step in 0..end - begin {
            let mut n = begin + step;
            if comptime!(of.reverse) {
                n = end - 1 - step;
            }
            starts[n * cells + at] = state;
            if comptime!(of.axis == GateAxis::Token) {
                state *= totals[n * comptime!(of.heads) + gate].exp();
            }
            if comptime!(of.axis == GateAxis::Inner) {
                state *= totals[n * comptime!(of.heads * of.inner) + gate].exp();
            }
            if comptime!(of.axis == GateAxis::Outer) {
                state *= totals[n * comptime!(of.heads * of.outer) + gate].exp();
            }
            state += local[n * cells + at];
        }
        last[sequence * cells + at] = state;
    }
}
