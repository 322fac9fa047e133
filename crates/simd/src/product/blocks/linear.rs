//! Which kernel multiplies what, and how the work is divided among threads.

use super::operand::Operand;
use super::{Blocks, portable};
use crate::norm::Rows;
use crate::{Cx, split};

/// The most bytes of weights per task of the kernels that read the blocks where they lie.
const MAX_TASK_BYTES: usize = 4 << 20;

/// Such a task gets at least this many bytes, times rows.
const MIN_TASK_BYTES: usize = 64 << 10;

/// Such tasks per thread: more than one, as the OS may delay a thread.
const TASKS_PER_THREAD: usize = 3;

/// `out = x Wᵀ + b`, with lengths that agree.
pub(in crate::product) fn linear(cx: &Cx, x: Rows<'_>, w: &Blocks, bias: Option<&[f32]>, out: &mut [f32]) {
    if x.count == 0 || w.rows == 0 {
        return;
    }
    if w.width == 0 {
        out.chunks_mut(w.rows).for_each(|row| row.copy_from_slice(bias.unwrap_or(&vec![0.0; w.rows])));
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if cx.isa.has_vnni() {
        return with_vnni(cx, x, w, bias, out);
    }
    let operand = Operand::new(cx, x, portable::plan(w.format));
    #[cfg(target_arch = "x86_64")]
    if cx.isa.has_avx2() {
        return streamed(cx, x.count, w, bias, out, |_, w, bias, out| {
            // SAFETY: `has_avx2` implies AVX2, FMA and F16C, and the operand is made by `plan`.
            unsafe { super::avx2::product(&operand, w, bias, out) }
        });
    }
    streamed(cx, x.count, w, bias, out, |_, w, bias, out| {
        cx.isa.run(portable::Portable { x: &operand, w, bias, out });
    });
}

/// Runs a kernel on ranges of rows of the weights, with the columns of the bias and the output that belong to them, in
/// one pass over the weights. The kernel is also given the first of these columns.
fn streamed(
    cx: &Cx,
    count: usize,
    w: &Blocks,
    bias: Option<&[f32]>,
    out: &mut [f32],
    kernel: impl Fn(usize, &Blocks, Option<&[f32]>, &mut [&mut [f32]]) + Sync,
) {
    let tasks = (w.bytes().len() * count / MIN_TASK_BYTES).clamp(1, TASKS_PER_THREAD) * cx.team.threads();
    let block = w.rows.div_ceil(tasks).min(MAX_TASK_BYTES.div_ceil(w.row_bytes)).next_multiple_of(4);
    let one = |j: usize, out: &mut [&mut [f32]]| {
        let range = j * block..j * block + out[0].len();
        let bias = bias.map(|bias| &bias[range.clone()]);
        kernel(range.start, &w.rows(range), bias, out);
    };
    if count == 1 {
        return cx.team.for_each(out.chunks_mut(block).enumerate(), |(j, out)| one(j, &mut [out]));
    }
    let columns = split::columns(out, w.rows, block);
    cx.team.for_each(columns.into_iter().enumerate(), |(j, mut out)| one(j, &mut out));
}

/// Columns per task of the kernel for many rows.
#[cfg(target_arch = "x86_64")]
const COLUMNS: usize = 128;

/// The product with AVX-512 and VNNI.
#[cfg(target_arch = "x86_64")]
fn with_vnni(cx: &Cx, x: Rows<'_>, w: &Blocks, bias: Option<&[f32]>, out: &mut [f32]) {
    use super::avx512::{FEW, Task, few, many, plan};
    let operand = &Operand::new(cx, x, plan(w.format));
    if x.count <= FEW {
        return streamed(cx, x.count, w, bias, out, |_, w, bias, out| {
            let task = Task { x: operand, row: 0, w: w.bytes(), row_bytes: w.row_bytes, bias };
            // SAFETY: `has_vnni` implies AVX-512 and VNNI, and the operand is made by `plan`.
            unsafe { few(w.format, &task, out) }
        });
    }
    let columns = w.rows.div_ceil(COLUMNS);
    let cuts = (4 * cx.team.threads()).div_ceil(columns).min(x.count.div_ceil(96)).max(1);
    let rows = x.count.div_ceil(cuts).next_multiple_of(6);
    let mut tasks = Vec::with_capacity(columns * cuts);
    for (i, block) in out.chunks_mut(rows * w.rows).enumerate() {
        let parts = split::columns(block, w.rows, COLUMNS);
        tasks.extend(parts.into_iter().enumerate().map(|(j, part)| (i * rows, j * COLUMNS, part)));
    }
    cx.team.for_each(tasks, |(row, column, mut out)| {
        let n = out[0].len();
        let bias = bias.map(|bias| &bias[column..column + n]);
        let w_bytes = &w.bytes()[column * w.row_bytes..][..n * w.row_bytes];
        let task = Task { x: operand, row, w: w_bytes, row_bytes: w.row_bytes, bias };
        // SAFETY: as above.
        unsafe { many(w.format, &task, &mut out) }
    });
}
