//! Functions of rows, in parallel.

use longreach_simd::{Cx, Kernel, Lanes, memory};
use ndarray::{Array4, ArrayView4, ArrayViewMut4, Axis};

/// A function of rows that computes one row at a time.
pub(crate) trait OfRows<const N: usize>: Sync {
    /// Computes row `i` of the output from row `i` of each input.
    fn row<S: Lanes>(&self, s: S, i: usize, rows: [&[f32]; N], out: &mut [f32]);
}

/// Computes every row of `out` in parallel.
pub(crate) fn each<R: OfRows<N>, const N: usize>(
    cx: &Cx,
    of: &R,
    inputs: [ArrayView4<'_, f32>; N],
    out: &mut Array4<f32>,
) {
    const ROWS: usize = 512;
    struct Several<'a, 'o, R, const N: usize> {
        of: &'a R,
        first: usize,
        inputs: [&'a [f32]; N],
        widths: [usize; N],
        out: &'o mut [f32],
        width: usize,
    }
    impl<R: OfRows<N>, const N: usize> Kernel for Several<'_, '_, R, N> {
        type Output = ();
        #[inline(always)]
        fn run<S: Lanes>(self, s: S) {
            for (i, out) in self.out.chunks_mut(self.width).enumerate() {
                let mut rows = [&[][..]; N];
                for n in 0..N {
                    rows[n] = &self.inputs[n][(self.first + i) * self.widths[n]..][..self.widths[n]];
                }
                self.of.row(s, self.first + i, rows, out);
            }
        }
    }
    let width = out.dim().3.max(1);
    let widths = inputs.each_ref().map(|x| x.dim().3);
    let inputs = inputs.each_ref().map(|x| x.as_standard_layout());
    let inputs = inputs.each_ref().map(|x| x.as_slice().unwrap_or_default());
    let parts = out.as_slice_mut().unwrap_or_default().chunks_mut(ROWS * width).enumerate();
    cx.team.for_each(parts, |(i, out)| cx.isa.run(Several { of, first: i * ROWS, inputs, widths, out, width }));
}

/// Zeros whose pages are first touched by the threads that write them.
pub(crate) fn fresh(shape: (usize, usize, usize, usize)) -> Array4<f32> {
    let (a, b, c, d) = shape;
    Array4::from_shape_vec(shape, memory::zeros(a * b * c * d)).expect("as many numbers as the shape has")
}

/// As [`fresh`], with arbitrary contents; the caller overwrites all of it.
pub(crate) fn unwritten(shape: (usize, usize, usize, usize)) -> Array4<f32> {
    let (a, b, c, d) = shape;
    Array4::from_shape_vec(shape, memory::unwritten(a * b * c * d)).expect("as many numbers as the shape has")
}

/// The sum over tokens of `[B, T, width]`, accumulated in f64: the gradient to an input that all tokens share.
pub(in crate::linear) fn sum_of_tokens(x: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    for row in x.chunks_exact(width.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// Calls `each` with ranges of tokens and their part of `out`, in parallel.
pub(in crate::linear) fn by_tokens(
    cx: &Cx,
    out: &mut Array4<f32>,
    each: impl Fn(std::ops::Range<usize>, &mut ArrayViewMut4<'_, f32>) + Sync,
) {
    const TOKENS: usize = 64;
    let parts: Vec<_> = out.axis_chunks_iter_mut(Axis(1), TOKENS).enumerate().collect();
    cx.team.for_each(parts, |(i, mut out)| {
        let tokens = i * TOKENS..i * TOKENS + out.len_of(Axis(1));
        each(tokens, &mut out);
    });
}
