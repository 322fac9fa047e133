//! Blocks near the diagonal, and blocks that contain summary columns.

use std::ops::Range;

use super::SparseTransformer::{Fixed, Strided};
use super::{OP, SparseTransformer, Which};
use crate::softmax::mask::{Entry, Packing, Pattern, Sizes, band, join};
use crate::{Error, error};

impl SparseTransformer {
    fn which(&self) -> Which {
        match *self {
            Strided { which, .. } | Fixed { which, .. } => which,
        }
    }
}

impl Pattern for SparseTransformer {
    fn name(&self) -> &'static str {
        OP
    }

    fn check(&self, _: &Sizes) -> Result<(), Error> {
        match *self {
            Strided { stride, .. } => error::parameter(OP, "stride", stride > 0, stride, "at least 1"),
            Fixed { stride, columns, positions, .. } => {
                error::parameter(OP, "stride", stride > 0, stride, "at least 1")?;
                error::parameter(OP, "positions", positions > 0, positions, "at least 1")?;
                let fits = columns > 0 && columns.checked_mul(positions).is_some_and(|n| n <= stride);
                let want = format!("at least 1, and at most {stride} with {positions} positions");
                error::parameter(OP, "columns", fits, columns, want)
            }
        }
    }

    fn packing(&self) -> Packing {
        match self {
            Strided { .. } => Packing::Row,
            Fixed { .. } => Packing::Sequence,
        }
    }

    fn block(&self) -> (usize, usize) {
        match *self {
            // Summary columns are narrow.
            Fixed { columns, .. } if columns < 64 => (64, (1 << columns.ilog2()).clamp(16, 64)),
            _ => (64, 64),
        }
    }

    fn differs(&self) -> (bool, bool) {
        let positions = matches!(self, Fixed { positions: 2.., .. });
        (false, positions || self.which() == Which::Alternating)
    }

    fn count(&self, _: &Sizes, _: usize, h: usize, i: usize, j: usize) -> u32 {
        self.sees(h, i, j).into()
    }

    fn visit(&self, of: &Sizes, _: usize, h: usize, queries: Range<usize>, keys: Range<usize>, row: &mut Vec<Entry>) {
        let (at, block) = (row.len(), self.block().1);
        let end = queries.end.min(keys.end);
        let (near, far) = self.which().of(h);
        match *self {
            Strided { stride, .. } => {
                let first = if far { 0 } else { (queries.start + 1).saturating_sub(stride) };
                // Distant blocks with summary columns are partial; a block is full if it is local to the first query
                // and to the last.
                let all = if near { queries.end.saturating_sub(stride)..queries.start + 1 } else { 0..0 };
                band(row, block, of.keys, first.max(keys.start)..end, all);
            }
            Fixed { stride, columns, positions, .. } => {
                if near {
                    let first = queries.start / stride * stride;
                    // A query block inside one window attends to all preceding keys of the window.
                    let one = (queries.end - 1) / stride * stride == first;
                    band(
                        row,
                        block,
                        of.keys,
                        first.max(keys.start)..end,
                        if one { first..queries.start + 1 } else { 0..0 },
                    );
                }
                if far {
                    let last = stride - h % positions * columns;
                    for stretch in (keys.start / stride * stride..end).step_by(stride) {
                        let summary = stretch + last - columns..stretch + last;
                        let some = summary.start.max(keys.start)..summary.end.min(end);
                        band(row, block, of.keys, some, summary.start..summary.end.min(queries.start + 1));
                    }
                }
                join(row, at);
            }
        }
    }
}
