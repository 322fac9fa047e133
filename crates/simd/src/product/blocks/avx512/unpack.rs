//! Steps of unpacking that several formats share.

use std::arch::x86_64::*;

/// Sixteen bytes at offset `AT` of each of four blocks of `STRIDE` bytes.
///
/// # Safety
/// The CPU has the features, and there are four blocks at the address.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(in super::super) unsafe fn quarters<const STRIDE: usize, const AT: usize>(blocks: *const u8) -> __m512i {
    // SAFETY: guaranteed by the caller.
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| unsafe { _mm_loadu_si128(blocks.add(i * STRIDE + AT).cast()) });
    let ab = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
    let cd = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(ab), cd)
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
    codes: [__m512i; 2],
) -> [__m512i; 2] {
    let half = |v: usize| {
        // SAFETY: guaranteed by the caller; the loads are unaligned.
        let bits = [0, 1, 2, 3]
            .map(|i| unsafe { u64::from(blocks.add(i * STRIDE + AT + 2 * v).cast::<u16>().read_unaligned()) });
        bits[0] | bits[1] << 16 | bits[2] << 32 | bits[3] << 48
    };
    let bit = _mm512_set1_epi8(16);
    [0, 1].map(|v| _mm512_mask_add_epi8(codes[v], half(v), codes[v], bit))
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
    let [[a, b], [c, d]] = [0, 64].map(|at| split(unsafe { _mm512_loadu_si512(bytes.add(at).cast()) }));
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
    let shifted = [bytes, _mm512_srli_epi16::<2>(bytes), _mm512_srli_epi16::<4>(bytes), _mm512_srli_epi16::<6>(bytes)];
    shifted.map(|codes| _mm512_and_si512(codes, mask))
}

/// Adds `value` to the codes whose bit is set in one of 32 bytes: `which[v]` has the bits for the halves of vector `v`.
///
/// # Safety
/// The CPU has the features, and there are 32 bytes at the address.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(in super::super) unsafe fn wide_bits(
    bytes: *const u8,
    codes: [__m512i; 4],
    which: [[u8; 2]; 4],
    value: i8,
) -> [__m512i; 4] {
    // SAFETY: guaranteed by the caller.
    let bytes = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(bytes.cast()) });
    let value = _mm512_set1_epi8(value);
    [0, 1, 2, 3].map(|v| {
        let [a, b] = which[v].map(|bits| _mm256_set1_epi8(bits as i8));
        let bits = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
        _mm512_mask_add_epi8(codes[v], _mm512_test_epi8_mask(bytes, bits), codes[v], value)
    })
}

/// One number in the 16-bit lanes of the lower half of a vector, and another in those of the upper one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(in super::super) fn halves(a: i16, b: i16) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm256_set1_epi16(a)), _mm256_set1_epi16(b))
}
