//! Which kernel multiplies what, and how the work is divided among threads.

use super::operand::Operand;
use super::{Blocks, portable};
use crate::norm::Rows;
use crate::{Cx, split};

/// A task of the portable kernel gets at least this many bytes of weights.
const MIN_TASK_BYTES: usize = 64 << 10;

/// Tasks per thread, as the OS may delay one of them.
const TASKS_PER_THREAD: usize = 3;

/// `out = x Wᵀ + b`, with lengths that agree.
pub(in crate::product) fn linear(cx: &Cx, x: Rows<'_>, w: &Blocks, bias: Option<&[f32]>, out: &mut [f32]) {
    if x.count == 0 || w.rows == 0 {
        return;
    }
    let operand = Operand::new(cx, x, portable::plan(w.format));
    let tasks = (w.bytes().len() * x.count / MIN_TASK_BYTES).clamp(1, TASKS_PER_THREAD) * cx.team.threads();
    let block = w.rows.div_ceil(tasks);
    let columns = split::columns(out, w.rows, block);
    cx.team.for_each(columns.into_iter().enumerate(), |(j, mut out)| {
        let range = j * block..j * block + out[0].len();
        let bias = bias.map(|bias| &bias[range.clone()]);
        cx.isa.run(portable::Portable { x: &operand, w: &w.rows(range), bias, out: &mut out });
    });
}
