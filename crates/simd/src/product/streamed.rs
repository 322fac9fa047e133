//! `y = x Wᵀ` for a few rows of `x`: one pass over the weights, at memory bandwidth.

use half::bf16;

use super::{Q8, Weights};
use crate::cache::prefetch_ahead;
use crate::norm::Rows;
use crate::{Cx, Kernel, Lanes, split};

/// With at most this many rows of `x` it is faster to stream the weights; with more, to pack them. Rows are also
/// multiplied in groups of this many.
pub const STREAMED_ROWS: usize = 4;

/// The most bytes of weights per task.
const MAX_TASK_BYTES: usize = 4 << 20;

/// A task gets at least this many bytes of weights.
const MIN_TASK_BYTES: usize = 512 << 10;

/// Tasks per thread: few, because each starts with a cold stream at memory latency; more than one, because the OS may
/// delay a thread.
const TASKS_PER_THREAD: usize = 3;

/// Bytes of weights that several groups of rows share while they are in cache.
const BLOCK_BYTES: usize = 16 << 10;

/// Prefetch distance in bytes, beyond that of the hardware prefetcher.
const PREFETCH_DISTANCE: usize = 4096;

pub(super) fn linear(cx: &Cx, x: Rows<'_>, w: Weights<'_>, out: &mut [f32]) {
    if x.count == 0 {
        return;
    }
    let n = out.len() / x.count;
    let row = w.bytes() / n.max(1);
    let tasks = (w.bytes() / MIN_TASK_BYTES).clamp(1, TASKS_PER_THREAD) * cx.team.threads();
    let block = n.div_ceil(tasks).min(MAX_TASK_BYTES.div_ceil(row.max(1))).max(1);
    let stream = |j: usize, out: &mut [&mut [f32]]| {
        let range = j * block * x.width..(j * block + out[0].len()) * x.width;
        match w {
            Weights::F32(w) => cx.isa.run(Stream { x, w: &w[range], out }),
            Weights::Bf16(w) => cx.isa.run(Stream { x, w: &w[range], out }),
            Weights::Int8(_) | Weights::Blocks(_) => unreachable!("rounded weights have products of their own"),
        }
    };
    if x.count == 1 {
        return cx.team.for_each(out.chunks_mut(block).enumerate(), |(j, out)| stream(j, &mut [out]));
    }
    let columns = split::columns(out, n, block);
    cx.team.for_each(columns.into_iter().enumerate(), |(j, mut out)| stream(j, &mut out));
}

/// A stored element type: f32, or bf16, which is widened on load.
pub trait Stored: Copy + Send + Sync {
    /// Loads the first [`Lanes::LANES`] elements of `x`. Panics if there are fewer.
    fn load<S: Lanes>(s: S, x: &[Self]) -> S::V;
    /// The element as f32.
    fn widen(self) -> f32;
    /// Slices of this type.
    fn slices(slices: Vec<&[Self]>) -> StoredSlices<'_>;
}

/// What a row of cached keys or values consists of: numbers, or blocks of them.
pub trait Cached: Copy + Send + Sync {
    /// Numbers of an element.
    const NUMBERS: usize;
    /// Loads [`Lanes::LANES`] numbers of a row from number `at` on, which is a multiple of as many. Panics if there are fewer.
    fn load_at<S: Lanes>(s: S, row: &[Self], at: usize) -> S::V;
    /// Number `at` of a row.
    fn number(row: &[Self], at: usize) -> f32;
}

impl<T: Stored> Cached for T {
    const NUMBERS: usize = 1;
    #[inline(always)]
    fn load_at<S: Lanes>(s: S, row: &[Self], at: usize) -> S::V {
        T::load(s, &row[at..at + S::LANES])
    }
    #[inline(always)]
    fn number(row: &[Self], at: usize) -> f32 {
        row[at].widen()
    }
}

/// Slices of one stored type, which a kernel chooses at run time.
#[derive(Clone, Debug)]
pub enum StoredSlices<'a> {
    /// f32.
    F32(Vec<&'a [f32]>),
    /// bf16.
    Bf16(Vec<&'a [bf16]>),
    /// Blocks of Q8_0.
    Q8(Vec<&'a [Q8]>),
}

impl Stored for f32 {
    #[inline(always)]
    fn load<S: Lanes>(s: S, x: &[Self]) -> S::V {
        s.load(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    fn slices(slices: Vec<&[Self]>) -> StoredSlices<'_> {
        StoredSlices::F32(slices)
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn load<S: Lanes>(s: S, x: &[Self]) -> S::V {
        s.load_bf16(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn slices(slices: Vec<&[Self]>) -> StoredSlices<'_> {
        StoredSlices::Bf16(slices)
    }
}

struct Stream<'a, 'o, W> {
    x: Rows<'a>,
    w: &'a [W],
    out: &'a mut [&'o mut [f32]],
}

impl<W: Stored> Kernel for Stream<'_, '_, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { x, w, out } = self;
        // More rows take turns at a block of weights, which stays in cache meanwhile.
        let block =
            if x.count <= STREAMED_ROWS { w.len() } else { x.width * (BLOCK_BYTES / size_of::<W>()).div_ceil(x.width) };
        for (i, w) in w.chunks(block.max(1)).enumerate() {
            let column = i * block / x.width;
            for (i, out) in out.chunks_mut(STREAMED_ROWS).enumerate() {
                let x = Rows { data: &x.data[i * STREAMED_ROWS * x.stride..], count: out.len(), ..x };
                match x.count {
                    1 => stream::<S, W, 1>(s, x, w, column, out),
                    2 => stream::<S, W, 2>(s, x, w, column, out),
                    3 => stream::<S, W, 3>(s, x, w, column, out),
                    _ => stream::<S, W, 4>(s, x, w, column, out),
                }
            }
        }
    }
}

/// Dot products of every row of `w` with `M` rows of `x`, to the columns of `out` from `column` on. Each has four partial sums, to hide the latency of the
/// multiply-adds.
#[inline(always)]
fn stream<S: Lanes, W: Stored, const M: usize>(s: S, x: Rows<'_>, w: &[W], column: usize, out: &mut [&mut [f32]]) {
    let width = x.width;
    let x: [&[f32]; M] = std::array::from_fn(|i| x.row(i));
    let step = 4 * S::LANES;
    prefetch_ahead(&w[..w.len().min(PREFETCH_DISTANCE / size_of::<W>())], 0);
    for (j, w) in w.chunks_exact(width).enumerate() {
        let mut acc = [[s.splat(0.0); 4]; M];
        let mut k = 0;
        while k + step <= width {
            prefetch_ahead(&w[k..k + step], PREFETCH_DISTANCE);
            for u in 0..4 {
                let at = k + u * S::LANES;
                let w = W::load(s, &w[at..at + S::LANES]);
                for i in 0..M {
                    acc[i][u] = s.fma(w, s.load(&x[i][at..at + S::LANES]), acc[i][u]);
                }
            }
            k += step;
        }
        while k + S::LANES <= width {
            let w = W::load(s, &w[k..k + S::LANES]);
            for i in 0..M {
                acc[i][0] = s.fma(w, s.load(&x[i][k..k + S::LANES]), acc[i][0]);
            }
            k += S::LANES;
        }
        for i in 0..M {
            let mut sum = s.sum(s.add(s.add(acc[i][0], acc[i][1]), s.add(acc[i][2], acc[i][3])));
            for k in k..width {
                sum += w[k].widen() * x[i][k];
            }
            out[i][column + j] = sum;
        }
    }
}
