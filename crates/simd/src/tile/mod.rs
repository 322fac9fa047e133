//! Products of blocks with the instructions that multiply pairs of bf16 or groups of four bytes.
//!
//! A tile has 16 rows of 64 bytes. A block is 32 by 32 sums, four tiles, and one step of it multiplies two tiles of the
//! left factor by two of the right: 32 numbers of bf16, or 64 bytes, in the dimension of the sum.
//!
//! $$ c_{ij} \leftarrow c_{ij} + \sum_{q} \sum_{p} a_{i,\,qP + p}\; b_{q,\,jP + p}, \qquad P = 2 \text{ for bf16}, 4 \text{ for bytes} $$
//!
//! [`amx`] does it with the tile registers, [`dots`] in bf16 with AVX-512. What the instructions compute is defined in
//! `emulated`, to which the tests compare them bit for bit, and with which they run where the machine lacks them.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod dots;
#[cfg(test)]
pub(crate) mod emulated;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

/// Rows of a tile; also how many groups of 4 bytes a row has.
pub(crate) const TILE: usize = 16;
/// Rows and columns of a block.
pub(crate) const SIDE: usize = 2 * TILE;
/// Sums of a block.
pub(crate) const SUMS: usize = SIDE * SIDE;
/// Groups of 4 bytes in two tiles, which is one step of a factor.
pub(crate) const STEP: usize = 2 * TILE * TILE;
/// Numbers of bf16 of one row in a step.
pub(crate) const STEP_BF16: usize = 2 * TILE;
/// Bytes of one row in a step.
pub(crate) const STEP_BYTES: usize = 4 * TILE;

/// The sums of a block, `[32, 32]`: f32, or the bits of i32.
pub(crate) type Sums = [f32; SUMS];

/// Where the sums of a block start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At zero.
    Zero,
    /// At the values they have.
    Sums,
}

/// Which of the rows (or columns) of a block are computed; the others keep or get arbitrary values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All 32.
    Whole,
    /// The first 16.
    Half,
}

impl Part {
    /// The part that has the first `n`.
    #[inline(always)]
    pub(crate) fn with(n: usize) -> Self {
        if n > TILE { Part::Whole } else { Part::Half }
    }
}

/// Block products of pairs of bf16, added up in f32.
pub(crate) trait Bf16Blocks {
    /// Adds the product of the steps of `a` and `b` to `sums`.
    ///
    /// `a` is `[step][32 rows][16]` and `b` is `[step][2 tiles][16][16 columns]`, where each element is a pair of bf16
    /// that are neighbours in the dimension of the sum. Of the columns, only those in `columns` are computed. Panics if
    /// `a` and `b` are not whole steps or have different numbers of them.
    fn multiply(&self, a: &[f32], b: &[f32], columns: Part, start: Start, sums: &mut Sums);
}

/// Four bytes of each of 32 columns, which are neighbours in the dimension of the sum.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quads(pub(crate) [[i8; 4]; SIDE]);

impl Quads {
    /// Zeros.
    pub(crate) const ZERO: Self = Self([[0; 4]; SIDE]);
}

/// Block products of bytes, added up in i32, with wrap-around.
pub(crate) trait ByteBlocks {
    /// Adds the product of rows of unsigned bytes, `stride` bytes apart, and columns of signed bytes to `sums`, as bits
    /// of i32. `b` has 16 quads for every step. Of the rows, only those in `rows` are computed. Panics if `b` is not
    /// whole steps, or a row is too short.
    fn multiply(&self, a: &[u8], stride: usize, b: &[Quads], rows: Part, start: Start, sums: &mut Sums);
}

/// Steps of the factors that are multiplied before the next: those of 32 rows of one factor stay in the first-level
/// cache, and those of a task's part of the other in the second.
const DEEP: usize = 16;
/// Up to so many steps are multiplied at once: that the sums do not wait in memory is worth more than the first-level
/// cache.
const AT_ONCE: usize = 2 * DEEP;
/// The most columns of a product per task.
const COLUMNS: usize = 256;
/// The most rows of a product per task, whose sums fit in the second-level cache.
const ROWS: usize = 512;

/// How many of `steps` steps are multiplied before the next.
pub(crate) fn depth(steps: usize) -> usize {
    if steps <= AT_ONCE { steps } else { steps.div_ceil(steps.div_ceil(DEEP)) }
}

/// The rows and columns of a task of a product: whole blocks, and enough tasks that every thread has work.
pub(crate) fn cuts(threads: usize, rows: usize, columns: usize) -> [usize; 2] {
    let tasks = if threads == 1 { 1 } else { 4 * threads };
    let by_rows = rows.div_ceil(ROWS).max(1);
    let by_columns = tasks.div_ceil(by_rows);
    let width = columns.div_ceil(by_columns).next_multiple_of(SIDE).clamp(2 * SIDE, COLUMNS);
    [rows.div_ceil(by_rows).next_multiple_of(SIDE), width]
}

/// Panics unless `a` and `b` are equally many whole steps, whose number it returns.
#[inline(always)]
fn bf16_steps(a: &[f32], b: &[f32]) -> usize {
    assert!(a.len() == b.len() && a.len().is_multiple_of(STEP), "a block product of {} and {}", a.len(), b.len());
    a.len() / STEP
}

/// Panics unless `b` is whole steps, whose number it returns, and the rows in `rows` have as many.
#[inline(always)]
fn byte_steps(a: &[u8], stride: usize, b: &[Quads], rows: Part) -> usize {
    let (steps, last) = (b.len() / TILE, if rows == Part::Whole { SIDE - 1 } else { TILE - 1 });
    let needed = last.checked_mul(stride).and_then(|start| start.checked_add(steps * STEP_BYTES));
    assert!(b.len().is_multiple_of(TILE) && needed.is_some_and(|needed| needed <= a.len()), "a block product of bytes");
    steps
}
