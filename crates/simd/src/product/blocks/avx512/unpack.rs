//! Steps of unpacking that several formats share.

use std::arch::x86_64::*;

/// Sixteen bytes at offset `AT` of each of four blocks of `STRIDE` bytes.
///
/// # Safety
/// The CPU has the features, and there are four blocks at the address.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(in super::super) unsafe fn quarters<const STRIDE: usize, const AT: usize>(blocks: *const u8) -> __m512i {
    let mut parts = [_mm_setzero_si128(); 4];
    for (i, part) in parts.iter_mut().enumerate() {
        // SAFETY: guaranteed by the caller.
        *part = unsafe { _mm_loadu_si128(blocks.add(i * STRIDE + AT).cast()) };
    }
    let first = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(parts[0]), parts[1]);
    let second = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(parts[2]), parts[3]);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
}

/// The low and the high nibbles of [`quarters`].
///
/// # Safety
/// As [`quarters`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(in super::super) unsafe fn nibbles<const STRIDE: usize, const AT: usize>(blocks: *const u8) -> [__m512i; 2] {
    // SAFETY: guaranteed by the caller.
    split(unsafe { quarters::<STRIDE, AT>(blocks) })
}

/// The low and the high nibbles of bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn split(bytes: __m512i) -> [__m512i; 2] {
    let mask = _mm512_set1_epi8(15);
    [_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask)]
}

/// Adds the fifth bits of four blocks, which are at offset `AT` of each: those of the first halves, and of the second.
///
/// # Safety
/// As [`quarters`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(in super::super) unsafe fn fifth<const STRIDE: usize, const AT: usize>(
    blocks: *const u8,
    mut codes: [__m512i; 2],
) -> [__m512i; 2] {
    let bit = _mm512_set1_epi8(16);
    for (v, codes) in codes.iter_mut().enumerate() {
        let mut bits = 0;
        for i in 0..4 {
            // SAFETY: guaranteed by the caller; the load is unaligned.
            let of_block = unsafe { blocks.add(i * STRIDE + AT + 2 * v).cast::<u16>().read_unaligned() };
            bits |= u64::from(of_block) << (16 * i);
        }
        *codes = _mm512_mask_add_epi8(*codes, bits, *codes, bit);
    }
    codes
}

/// A table of sixteen values, raised by the offset, in every quarter.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(in super::super) fn table(values: &[i8; 16], offset: i32) -> __m512i {
    // SAFETY: there are sixteen bytes.
    let values = unsafe { _mm_loadu_si128(values.as_ptr().cast()) };
    _mm512_broadcast_i32x4(_mm_add_epi8(values, _mm_set1_epi8(offset as i8)))
}

/// The low and the high nibbles of 64 bytes, and those of the next 64.
///
/// # Safety
/// The CPU has the features, and there are 128 bytes at the address.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(in super::super) unsafe fn wide_nibbles(bytes: *const u8) -> [__m512i; 4] {
    // SAFETY: guaranteed by the caller.
    let bytes = unsafe { [_mm512_loadu_si512(bytes.cast()), _mm512_loadu_si512(bytes.add(64).cast())] };
    let ([a, b], [c, d]) = (split(bytes[0]), split(bytes[1]));
    [a, b, c, d]
}

/// The four pairs of bits of 64 bytes.
///
/// # Safety
/// The CPU has the features, and there are 64 bytes at the address.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(in super::super) unsafe fn wide_pairs(bytes: *const u8) -> [__m512i; 4] {
    let mask = _mm512_set1_epi8(3);
    // SAFETY: guaranteed by the caller.
    let bytes = unsafe { _mm512_loadu_si512(bytes.cast()) };
    let mut codes = [bytes; 4];
    codes[1] = _mm512_srli_epi16::<2>(bytes);
    codes[2] = _mm512_srli_epi16::<4>(bytes);
    codes[3] = _mm512_srli_epi16::<6>(bytes);
    for codes in &mut codes {
        *codes = _mm512_and_si512(*codes, mask);
    }
    codes
}

/// Adds `value` to the codes whose bit is set in one of 32 bytes: `which[v]` has the bits for the halves of vector `v`.
///
/// # Safety
/// The CPU has the features, and there are 32 bytes at the address.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(in super::super) unsafe fn wide_bits(
    bytes: *const u8,
    mut codes: [__m512i; 4],
    which: [[u8; 2]; 4],
    value: i8,
) -> [__m512i; 4] {
    // SAFETY: guaranteed by the caller.
    let bytes = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(bytes.cast()) });
    let value = _mm512_set1_epi8(value);
    for (codes, [a, b]) in codes.iter_mut().zip(which) {
        let bits = halves(i16::from_le_bytes([a, a]), i16::from_le_bytes([b, b]));
        *codes = _mm512_mask_add_epi8(*codes, _mm512_test_epi8_mask(bytes, bits), *codes, value);
    }
    codes
}

/// One number in the 16-bit lanes of the lower half of a vector, and another in those of the upper one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(in super::super) fn halves(a: i16, b: i16) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm256_set1_epi16(a)), _mm256_set1_epi16(b))
}
