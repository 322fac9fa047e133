//! Matrix products.
//!
//! [`linear`] is `y = x Wᵀ (+ b)` with `W` as checkpoints store it, `[out, in]`, in f32 or bf16, and never widened in
//! memory: for a few rows a stream over the weights at memory speed, for many a packed product at
//! arithmetic speed; or with `W` rounded to 8 bits ([`Int8`]). [`matmul`] is the general product of strided matrices in f32, over all threads; [`tile`] the same
//! on the calling thread, for kernels that are themselves a task.
//!
//! Every element of the packed product is one chain of multiply-adds over `k` in ascending order, whatever the blocking,
//! the number of rows or the threads: cutting a long input into chunks of more than [`FEW`] rows changes no bit.

use half::bf16;

use crate::norm::Rows;
use crate::team::Scratch;
use crate::{Cx, Kernel, Lanes};

mod few;
mod int8;
mod packed;
mod strip;

pub use few::{FEW, Stored};
pub use int8::Int8;
pub use strip::{columns, strip, widen};

/// A weight matrix `[out, in]`, rows contiguous and one behind the other.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// The upper halves of 32-bit floats.
    Bf16(&'a [bf16]),
    /// 8-bit integers; rows of the left factor are rounded to such, too.
    Int8(&'a Int8),
}

impl Weights<'_> {
    /// How many numbers it holds.
    pub fn len(&self) -> usize {
        match self {
            Weights::F32(w) => w.len(),
            Weights::Bf16(w) => w.len(),
            Weights::Int8(w) => w.len(),
        }
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        match self {
            Weights::F32(w) => size_of_val(*w),
            Weights::Bf16(w) => size_of_val(*w),
            Weights::Int8(w) => w.bytes(),
        }
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A strided matrix of f32: element `(i, j)` is `data[i * row + j * col]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The numbers, from element (0, 0) on.
    pub data: &'a [f32],
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub col: usize,
}

impl<'a> Matrix<'a> {
    /// Rows contiguous, `row` apart.
    pub fn rows(data: &'a [f32], row: usize) -> Self {
        Self { data, row, col: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { data: self.data, row: self.col, col: self.row }
    }

    /// The matrix from row `i` and column `j` on.
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
    /// What is summed over.
    pub k: usize,
}

/// What the product does with what stands in its place already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// Overwrites it.
    Set,
    /// Adds to it.
    Add,
}

/// `out = x Wᵀ + b`: `x` rows of width `in`, `W [out, in]`, `b [out]`, `out` contiguous `[rows, out]`.
///
/// Panics if the lengths do not agree; callers check shapes where users can see the names.
pub fn linear(cx: &Cx, x: Rows<'_>, w: Weights<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    let n = out.len().checked_div(x.count).unwrap_or(0);
    assert_eq!(w.len(), n * x.width, "linear: weights");
    assert_eq!(out.len(), n * x.count, "linear: output");
    if let Weights::Int8(w) = w {
        return int8::linear(cx, x, w, bias, out);
    }
    if x.count > FEW {
        return packed::linear(cx, x, w, bias, out);
    }
    few::linear(cx, x, w, out);
    if let Some(bias) = bias {
        for row in out.chunks_mut(n.max(1)) {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    }
}

/// `out ← a b` or `out ← out + a b`, over all threads; `out` has contiguous rows `ld` apart.
pub fn matmul(cx: &Cx, size: Sizes, a: Matrix<'_>, b: Matrix<'_>, into: Into, out: &mut [f32], ld: usize) {
    if size.m == 0 || size.n == 0 {
        return;
    }
    // Row blocks are disjoint slices of the output; each is a whole product of its own.
    let threads = cx.team.threads();
    let block = if threads == 1 { size.m } else { (size.m.div_ceil(4 * threads)).next_multiple_of(24).max(48) };
    cx.team.for_each(out.chunks_mut(block * ld).take(size.m.div_ceil(block)).enumerate(), |(i, out)| {
        let m = block.min(size.m - i * block);
        cx.isa.run(Tile { size: Sizes { m, ..size }, a: a.from(i * block, 0), b, into, out, ld });
    });
}

struct Tile<'a> {
    size: Sizes,
    a: Matrix<'a>,
    b: Matrix<'a>,
    into: Into,
    out: &'a mut [f32],
    ld: usize,
}

impl Kernel for Tile<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        tile(s, self.size, self.a, self.b, self.into, self.out, self.ld);
    }
}

/// [`matmul`] on the calling thread, inside a kernel.
#[inline(always)]
pub fn tile<S: Lanes>(s: S, size: Sizes, a: Matrix<'_>, b: Matrix<'_>, into: Into, out: &mut [f32], ld: usize) {
    packed::tile(s, size, a, b, into, out, ld, &mut Scratch::new(packed::panel_scratch::<S>(size)));
}
