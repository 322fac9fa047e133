//! The vector operations kernels are written with: one trait, implemented once per instruction set.
//!
//! A value of a type that implements [`Lanes`] proves that the CPU supports its instructions, so every method is safe.
//! Loads and stores check lengths; the `_part` forms access at most a vector and fill missing lanes with zero.

use half::{bf16, f16};

mod scalar;
pub use scalar::Scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

/// An instruction set's vectors of f32 and their operations.
pub trait Lanes: Copy + Send + Sync + 'static {
    /// The vector type.
    type V: Copy + Send + Sync;
    /// The number of lanes.
    const LANES: usize;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::V;
    /// Loads the first [`Lanes::LANES`] elements of `x`. Panics if there are fewer.
    fn load(self, x: &[f32]) -> Self::V;
    /// Loads up to [`Lanes::LANES`] elements of `x`, with zero in the lanes beyond its end.
    fn load_part(self, x: &[f32]) -> Self::V;
    /// As [`Lanes::load`], widened from bf16.
    fn load_bf16(self, x: &[bf16]) -> Self::V;
    /// As [`Lanes::load`], from integers of 8 bits.
    fn load_i8(self, x: &[i8]) -> Self::V;
    /// A half-precision number in every lane.
    #[inline(always)]
    fn splat_f16(self, x: f16) -> Self::V {
        self.splat(widen_f16(x))
    }
    /// Stores to the first [`Lanes::LANES`] elements of `x`. Panics if there are fewer.
    fn store(self, x: &mut [f32], v: Self::V);
    /// As [`Lanes::store`], with a non-temporal store if the instruction set has one and the address is aligned: for
    /// outputs that are not read soon. Other threads see such a store only after
    /// [`store_fence`](crate::cache::store_fence).
    #[inline(always)]
    fn store_non_temporal(self, x: &mut [f32], v: Self::V) {
        self.store(x, v);
    }
    /// Stores the first lanes, as many as `x` has elements.
    fn store_part(self, x: &mut [f32], v: Self::V);

    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `1 / x` within two units in the last place, for `x` between 2⁻¹²⁶ and 2¹²⁶.
    #[inline(always)]
    fn reciprocal(self, x: Self::V) -> Self::V {
        self.div(self.splat(1.0), x)
    }
    /// `a · b + c`, with a single rounding where the instruction set has one.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The minimum, lane by lane.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The maximum, lane by lane.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `a · 2^n` for an integral `n` in `[-252, 254]`; underflows gradually, overflows to infinity.
    fn scale_by_power_of_two(self, a: Self::V, n: Self::V) -> Self::V;
    /// `a < b ? x : y`, lane by lane.
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// `x` in the lanes whose bit of `bits` is set, `y` in the others; bit `n` is lane `n`.
    fn select_bits(self, bits: u32, x: Self::V, y: Self::V) -> Self::V;
    /// The sum of all lanes by halving: the order depends on the number of lanes alone.
    fn sum(self, a: Self::V) -> f32;
    /// The sums of four vectors, each bit for bit as [`Lanes::sum`] computes it.
    #[inline(always)]
    fn sums(self, x: [Self::V; 4]) -> [f32; 4] {
        // No closure: one would not be compiled for the instruction set.
        [self.sum(x[0]), self.sum(x[1]), self.sum(x[2]), self.sum(x[3])]
    }
    /// Transposes a tile of [`Lanes::LANES`] rows into `out`: `out[k * stride + i] = rows[i][k]`.
    fn transpose(self, rows: &[Self::V], out: &mut [f32], stride: usize);
}

/// A half-precision number as f32, without a call or a question to the CPU.
#[inline(always)]
pub(crate) fn widen_f16(x: f16) -> f32 {
    let bits = u32::from(x.to_bits());
    let sign = (bits & 0x8000) << 16;
    // Exponent and mantissa in their places of an f32 are 2⁻¹¹² of the number, also where it is subnormal.
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    let not_finite = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | sign | not_finite)
}
