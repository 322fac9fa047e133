//! Tensors of Q8_0 blocks, for cached keys and values.
//!
//! Burn has no type for them. A row of `D` numbers is `ceil(D / 32)` blocks of 34 bytes, as words of 16 bits in a tensor of
//! f16: `[B, n, G, 17 ceil(D / 32)]`. These words are moved, cut along the axes before the last and joined like other numbers,
//! and never computed with; f16 stands for nothing else in a cache.

use burn::tensor::{DType, Tensor, TensorData};
use half::f16;
use longreach_simd::product::Q8;

use crate::context;

/// The number of words that a row of `width` numbers takes, see [`to_q8`].
pub fn q8_words(width: usize) -> usize {
    Q8::WORDS * Q8::blocks(width)
}

/// The number of numbers in rows of as many words: a multiple of 32.
fn numbers(words: usize) -> usize {
    words / Q8::WORDS * Q8::BLOCK
}

/// Whether the tensor is one of blocks.
pub(crate) fn is_q8(x: &Tensor<4>) -> bool {
    x.dtype() == DType::F16
}

/// Rounds the rows of `x: [B, n, G, D]` to blocks of 32 codes of 8 bits with a factor: see [`Q8::round`]. The last block of a
/// row is filled up with zeros. They are rounded on the host, and no gradient flows back.
pub fn to_q8(x: Tensor<4>) -> Tensor<4> {
    let ([b, n, groups, width], device) = (x.dims(), x.device());
    let shape = [b, n, groups, q8_words(width)];
    if b * n * groups * width == 0 {
        return Tensor::zeros(shape, (&device, DType::F16));
    }
    let numbers: Vec<f32> = x.into_data().try_into_vec().expect("a tensor of f32");
    let mut words = vec![f16::ZERO; shape.iter().product()];
    round_rows(&numbers, width, &mut words);
    Tensor::from_data(TensorData::new(words, shape), (&device, DType::F16))
}

/// Rounds contiguous rows of `width` numbers to as many rows of blocks.
pub(crate) fn round_rows(numbers: &[f32], width: usize, words: &mut [f16]) {
    let rows = numbers.chunks_exact(width.max(1));
    let blocks = Q8::of_words_mut(words).chunks_exact_mut(Q8::blocks(width).max(1));
    context().team.for_each(rows.zip(blocks).collect::<Vec<_>>(), |(row, blocks)| Q8::round_row(row, blocks));
}

/// The numbers of rows of blocks in f32: `[B, n, G, 32 blocks]`. Panics if `x` is none of [`to_q8`].
pub fn of_q8(x: Tensor<4>) -> Tensor<4> {
    assert!(is_q8(&x), "a tensor of {:?} where one of Q8_0 blocks is wanted", x.dtype());
    let ([b, n, groups, words], device) = (x.dims(), x.device());
    let shape = [b, n, groups, numbers(words)];
    if b * n * groups * words == 0 {
        return Tensor::zeros(shape, (&device, DType::F32));
    }
    let words: Vec<f16> = x.into_data().try_into_vec().expect("a tensor of blocks");
    let mut all = vec![0.0; shape.iter().product()];
    let blocks = Q8::of_words(&words);
    for (i, block) in all.chunks_exact_mut(Q8::BLOCK).enumerate() {
        let factor = blocks[i].factor.to_f32();
        block.iter_mut().zip(blocks[i].codes).for_each(|(x, code)| *x = factor * f32::from(code));
    }
    Tensor::from_data(TensorData::new(all, shape), (&device, DType::F32))
}

/// Queries as wide as the rows of cached keys: filled up with zeros where the keys are blocks.
pub(crate) fn as_wide_as(keys: &Tensor<4>, q: Tensor<4>) -> Tensor<4> {
    let ([b, t, heads, width], [.., words]) = (q.dims(), keys.dims());
    if !is_q8(keys) || numbers(words) <= width {
        return q;
    }
    let zeros = Tensor::zeros([b, t, heads, numbers(words) - width], (&q.device(), q.dtype()));
    Tensor::cat(vec![q, zeros], 3)
}

/// Keys or values without rows, in f32 and as wide as those that are stored.
pub(crate) fn none_like(x: &Tensor<4>) -> Tensor<4> {
    let [b, _, groups, width] = x.dims();
    let width = if is_q8(x) { numbers(width) } else { width };
    Tensor::zeros([b, 0, groups, width], (&x.device(), DType::F32))
}

/// Stored keys or values in f32.
pub(crate) fn widened(x: Tensor<4>) -> Tensor<4> {
    match x.dtype() {
        DType::F16 => of_q8(x),
        DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}
