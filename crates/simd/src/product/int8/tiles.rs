//! The product with tile registers.
//!
//! The panels of the weights are tiles of a right factor as they lie in memory, and the rows of `x` those of a left one.

use super::{Int8, NR, Quantised, Task, quantised, tasks};
use crate::norm::Rows;
use crate::team::Scratch;
use crate::tile::{ByteBlocks, Part, Quads, SIDE, STEP_BYTES, SUMS, Start, Sums, TILE, cuts, depth};
use crate::{Cx, Kernel, Lanes};

/// The product, where `open` prepares a thread to multiply blocks.
pub(in crate::product) fn linear<B: ByteBlocks>(
    cx: &Cx,
    open: impl Fn() -> B + Sync,
    x: Rows<'_>,
    w: &Int8,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    // An odd number of cache lines between rows, so that the rows of a tile are in different sets of the cache.
    let lines = x.width.div_ceil(STEP_BYTES) | 1;
    let bytes = quantised(cx, x, x.count.next_multiple_of(SIDE), lines * STEP_BYTES);
    let [rows, columns] = cuts(cx.team.threads(), x.count, w.rows);
    cx.team.for_each(tasks(out, w.rows, rows, columns), |(row, column, mut out)| {
        let task = Task { bytes: &bytes, w, bias, row, column };
        cx.isa.run(Tiled { task, blocks: &open(), out: &mut out });
    });
}

struct Tiled<'a, 'o, B> {
    task: Task<'a>,
    blocks: &'a B,
    out: &'a mut [&'o mut [f32]],
}

impl<B: ByteBlocks> Kernel for Tiled<'_, '_, B> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        let Self { task, blocks, out } = self;
        let width = out.first().map_or(0, |row| row.len());
        let (heights, panels, whole) = (out.len().div_ceil(SIDE), width.div_ceil(NR), task.w.quads() / TILE);
        let ends = ends(&task, panels);
        let (steps, deep) = (whole + usize::from(!ends.is_empty()), depth(whole).max(1));
        let waits = steps > deep;
        let mut sums = Scratch::new(if waits { heights * panels * SUMS } else { SUMS });
        let (mut first, mut next) = (0, 0);
        while next < steps {
            next = if first < whole { whole.min(first + deep) } else { steps };
            let start = if first == 0 { Start::Zero } else { Start::Sums };
            for i in 0..heights {
                let Quantised { data, stride, .. } = task.bytes;
                let a = &data.bytes()[(task.row + i * SIDE) * stride + first * STEP_BYTES..];
                let rows = i * SIDE..out.len().min((i + 1) * SIDE);
                for j in 0..panels {
                    let b = if first < whole { &task.panel(j * NR)[first * TILE..next * TILE] } else { &ends[j] };
                    let at = if waits { (i * panels + j) * SUMS } else { 0 };
                    let sums: &mut Sums = (&mut sums[at..at + SUMS]).try_into().expect("a block");
                    blocks.multiply(a, *stride, b, Part::with(rows.len()), start, sums);
                    if next == steps {
                        finish(&task, rows.start, j * NR, sums, &mut out[rows.clone()]);
                    }
                }
            }
            first = next;
        }
    }
}

/// The last quads of each panel, where they do not fill a tile, with zeros behind them.
#[inline(always)]
fn ends(task: &Task<'_>, panels: usize) -> Vec<[Quads; TILE]> {
    let quads = task.w.quads();
    if quads.is_multiple_of(TILE) {
        return Vec::new();
    }
    let end = |j: usize| {
        let mut end = [Quads::ZERO; TILE];
        end[..quads % TILE].copy_from_slice(&task.panel(j * NR)[quads / TILE * TILE..]);
        end
    };
    (0..panels).map(end).collect()
}

/// Dequantises the sums of a block and stores them in the columns from `column` on.
#[inline(always)]
fn finish(task: &Task<'_>, row: usize, column: usize, sums: &Sums, out: &mut [&mut [f32]]) {
    for (r, out) in out.iter_mut().enumerate() {
        let end = out.len().min(column + NR);
        let mut line = [0i32; NR];
        for (to, sum) in line.iter_mut().zip(&sums[r * SIDE..(r + 1) * SIDE]) {
            *to = sum.to_bits().cast_signed();
        }
        task.finish(row + r, column, &line, &mut out[column..end]);
    }
}
