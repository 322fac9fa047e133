//! Matrix products.
//!
//! [`linear`] is `y = x Wᵀ (+ b)`, with `W: [out, in]` as checkpoints store it, in f32, bf16 (widened in registers,
//! unless [`Isa::rounds_to_bf16`](crate::Isa::rounds_to_bf16)), int8 ([`Int8`]) or the blocks of GGUF files
//! ([`Blocks`]). Few rows of `x` are multiplied in one pass over the weights, at memory bandwidth
//! ([`Order::Streamed`]); many by the packed product ([`Order::Packed`]). [`matmul`] is the general product of strided f32 matrices on all threads;
//! [`tile`] is the same on the calling thread, for use inside a kernel.
//!
//! Every element of the packed product is one chain of multiply-adds over `k` in ascending order, independent of
//! blocking, number of rows and threads: splitting a long input into chunks of more than [`STREAMED_ROWS`] rows changes
//! no bit. Neither do other rows change a row of the streamed product.

use half::bf16;

use crate::norm::Rows;
use crate::team::Scratch;
use crate::{Cx, Kernel, Lanes};

mod blocks;
mod int8;
mod packed;
mod q8;
mod quantised;
#[cfg(any(target_arch = "x86_64", test))]
mod rounded;
mod streamed;
mod strip;
#[cfg(test)]
mod tests;

pub use blocks::{Blocks, BlocksError, Format, QuantiseError, SharedBytes, UnknownFormat, quantise_into};
pub use int8::Int8;
pub use q8::Q8;
pub use quantised::Quantised;
pub use streamed::{Cached, STREAMED_ROWS, Stored, StoredSlices};
pub use strip::{pack_transposed, strip, widen};

/// A contiguous row-major weight matrix `[out, in]`.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// f32.
    F32(&'a [f32]),
    /// bf16, the upper halves of f32. In [`Order::Packed`] the left factor is rounded to bf16 as well, if
    /// [`Isa::rounds_to_bf16`](crate::Isa::rounds_to_bf16).
    Bf16(&'a [bf16]),
    /// 8-bit integers; the left factor is quantised to 8 bits as well.
    Int8(&'a Int8),
    /// Blocks of a few bits; the left factor is rounded to 8 bits in blocks as well.
    Blocks(&'a Blocks),
}

impl Weights<'_> {
    /// The number of weights.
    pub fn len(&self) -> usize {
        match self {
            Weights::F32(w) => w.len(),
            Weights::Bf16(w) => w.len(),
            Weights::Int8(w) => w.len(),
            Weights::Blocks(w) => w.len(),
        }
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Weights::F32(w) => size_of_val(*w),
            Weights::Bf16(w) => size_of_val(*w),
            Weights::Int8(w) => w.bytes(),
            Weights::Blocks(w) => w.bytes().len(),
        }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A strided matrix of f32: element `(i, j)` is `data[i * row + j * col]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The elements, starting at (0, 0).
    pub data: &'a [f32],
    /// Distance between rows, in elements.
    pub row: usize,
    /// Distance between columns, in elements.
    pub col: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix with contiguous rows, `row` elements apart.
    pub fn rows(data: &'a [f32], row: usize) -> Self {
        Self { data, row, col: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { data: self.data, row: self.col, col: self.row }
    }

    /// The submatrix that starts at row `i` and column `j`.
    #[inline(always)]
    pub fn from(self, i: usize, j: usize) -> Self {
        Self { data: &self.data[i * self.row + j * self.col..], ..self }
    }
}

/// The sizes of a product `[m, k] · [k, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of the left factor and of the product.
    pub m: usize,
    /// Columns of the right factor and of the product.
    pub n: usize,
    /// Columns of the left factor and rows of the right one: the dimension of the sum.
    pub k: usize,
}

/// Whether a product overwrites its output or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// `out ← a b`
    Replace,
    /// `out ← out + a b`
    Add,
}

/// How a product with f32 or bf16 weights adds up. In either order, a row of the product depends on no other row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Partial sums in vector lanes, in one pass over the weights: for few rows.
    Streamed,
    /// One chain over `k` in ascending order, with packed weights: for many rows. Products in bf16 add up 32 products
    /// at a time.
    Packed,
}

impl Order {
    /// The faster order for `rows` rows.
    pub fn of_rows(rows: usize) -> Self {
        if rows > STREAMED_ROWS { Order::Packed } else { Order::Streamed }
    }
}

/// [`linear_in`] in the faster order for the number of rows.
pub fn linear(cx: &Cx, x: Rows<'_>, w: Weights<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    linear_in(cx, Order::of_rows(x.count), x, w, bias, out);
}

/// `out = x Wᵀ + b`: `x: [rows, in]`, `W: [out, in]`, `b: [out]`, `out: [rows, out]` contiguous.
///
/// Panics if the lengths do not agree; callers validate shapes with the names their users know.
pub fn linear_in(cx: &Cx, order: Order, x: Rows<'_>, w: Weights<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    let n = out.len().checked_div(x.count).unwrap_or(0);
    assert_eq!(w.len(), n * x.width, "linear: weights");
    assert_eq!(out.len(), n * x.count, "linear: output");
    match w {
        Weights::Int8(w) => return int8::linear(cx, x, w, bias, out),
        Weights::Blocks(w) => {
            assert_eq!(w.shape(), [n, x.width], "linear: weights");
            return blocks::linear(cx, x, w, bias, out);
        }
        Weights::F32(_) | Weights::Bf16(_) => {}
    }
    if order == Order::Packed {
        return many_rows(cx, x, w, bias, out);
    }
    streamed::linear(cx, x, w, out);
    if let Some(bias) = bias {
        for row in out.chunks_mut(n.max(1)) {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    }
}

/// The product of f32 or bf16 weights in the packed order, in bf16 where the instruction set multiplies in it. That
/// does not depend on the number of rows, so that no row depends on it either.
fn many_rows(cx: &Cx, x: Rows<'_>, w: Weights<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if let Weights::Bf16(w) = w
        && x.width > 0
    {
        if let Some(amx) = cx.isa.amx().filter(|_| cx.isa.rounds_to_bf16()) {
            return rounded::linear(cx, || amx.configure(), x, w, bias, out);
        }
        if let Some(dots) = cx.isa.dots() {
            return rounded::linear(cx, || dots, x, w, bias, out);
        }
    }
    packed::linear(cx, x, w, bias, out);
}

/// `out ← a b` or `out ← out + a b`, on all threads; `out` has contiguous rows `ld` apart.
pub fn matmul(cx: &Cx, size: Sizes, a: Matrix<'_>, b: Matrix<'_>, accumulate: Accumulate, out: &mut [f32], ld: usize) {
    if size.m == 0 || size.n == 0 {
        return;
    }
    // Blocks of rows are disjoint slices of the output, and each is a product of its own.
    let threads = cx.team.threads();
    let block = if threads == 1 { size.m } else { (size.m.div_ceil(4 * threads)).next_multiple_of(24).max(48) };
    cx.team.for_each(out.chunks_mut(block * ld).take(size.m.div_ceil(block)).enumerate(), |(i, out)| {
        let m = block.min(size.m - i * block);
        cx.isa.run(Tile { size: Sizes { m, ..size }, a: a.from(i * block, 0), b, accumulate, out, ld });
    });
}

struct Tile<'a> {
    size: Sizes,
    a: Matrix<'a>,
    b: Matrix<'a>,
    accumulate: Accumulate,
    out: &'a mut [f32],
    ld: usize,
}

impl Kernel for Tile<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        tile(s, self.size, self.a, self.b, self.accumulate, self.out, self.ld);
    }
}

/// As [`matmul`], on the calling thread.
#[inline(always)]
pub fn tile<S: Lanes>(
    s: S,
    size: Sizes,
    a: Matrix<'_>,
    b: Matrix<'_>,
    accumulate: Accumulate,
    out: &mut [f32],
    ld: usize,
) {
    packed::tile(s, size, a, b, accumulate, out, ld, &mut Scratch::new(packed::panel_scratch::<S>(size)));
}
