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
