//! Conversion of a tensor's bytes to numbers.

use std::ops::Range;

use half::{bf16, f16};
use safetensors::Dtype;

/// Rounds a tensor to bf16 in parallel, block by block, without a full f32 copy. `done` is called with the ranges of
/// bytes that have been read.
pub(super) fn narrow(dtype: Dtype, bytes: &[u8], done: impl Fn(Range<usize>)) -> Option<Vec<bf16>> {
    const BLOCK: usize = 1 << 16;
    const BLOCKS: usize = 64;
    let size = dtype.bitsize() / 8;
    widen(dtype, &[])?;
    let mut half = vec![bf16::ZERO; bytes.len() / size];
    let parts = half.chunks_mut(BLOCKS * BLOCK).zip(bytes.chunks(BLOCKS * BLOCK * size));
    for (i, (half, bytes)) in parts.enumerate() {
        let blocks = half.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK * size));
        longreach_burn::context().team.for_each(blocks, |(half, bytes)| {
            let numbers = widen(dtype, bytes).unwrap_or_default();
            half.iter_mut().zip(numbers).for_each(|(half, x)| *half = bf16::from_f32(x));
        });
        let from = i * BLOCKS * BLOCK * size;
        done(from..from + bytes.len());
    }
    Some(half)
}

/// Converts a tensor to f32; the bytes may be unaligned.
pub(super) fn widen(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let halves = || bytes.as_chunks::<2>().0.iter().copied();
    Some(match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::BF16 => halves().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        Dtype::F16 => halves().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        _ => return None,
    })
}

/// The values of the codes of MXFP4: a sign, two bits of exponent, one of mantissa. OCP Microscaling Formats 1.0.
const MXFP4: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Converts a range of a tensor of MXFP4 to bf16: two codes a byte, the lower four bits first, and for every 32 of them a
/// byte `e` that stands for the factor 2^(e − 127).
pub(super) fn mxfp4(codes: &[u8], scales: &[u8], elements: Range<usize>) -> Vec<bf16> {
    let one = |i: usize| {
        let code = codes[i / 2] >> (4 * (i % 2)) & 15;
        // Exact but for factors near the largest, where the product is infinite.
        let factor = 2f64.powi(i32::from(scales[i / 32]) - 127);
        bf16::from_f64(f64::from(MXFP4[usize::from(code)]) * factor)
    };
    elements.map(one).collect()
}
