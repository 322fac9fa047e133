//! The vector operations a kernel is written in: one trait, an implementation per instruction set.
//!
//! A value of a type that implements [`Lanes`] proves that the CPU has its instructions, so every method is safe.
//! Loads and stores check lengths; the `_part` forms read and write fewer than a vector's worth, zero beyond the end.

use half::bf16;

mod scalar;
pub use scalar::Scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

/// A vector of f32 and what can be done with it.
pub trait Lanes: Copy + Send + Sync + 'static {
    /// The vector.
    type V: Copy + Send + Sync;
    /// How many numbers it holds.
    const LANES: usize;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::V;
    /// The first [`Lanes::LANES`] numbers of `x`. Panics if there are fewer.
    fn load(self, x: &[f32]) -> Self::V;
    /// Up to [`Lanes::LANES`] numbers of `x`, zero in the lanes beyond its end.
    fn load_part(self, x: &[f32]) -> Self::V;
    /// As [`Lanes::load`], widened from bf16.
    fn load_bf16(self, x: &[bf16]) -> Self::V;
    /// Writes to the first [`Lanes::LANES`] places of `x`. Panics if there are fewer.
    fn store(self, x: &mut [f32], v: Self::V);
    /// As [`Lanes::store`], past the caches where the instruction set can and the address allows it: for what nobody reads soon. Such a write
    /// waits for [`settle`](crate::cache::settle) to be seen by other threads.
    #[inline(always)]
    fn store_past(self, x: &mut [f32], v: Self::V) {
        self.store(x, v);
    }
    /// Writes as many lanes as `x` has room for.
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
    /// `1 / x`, within a unit in the last place or two, for numbers between 2⁻¹²⁶ and 2¹²⁶.
    #[inline(always)]
    fn reciprocal(self, x: Self::V) -> Self::V {
        self.div(self.splat(1.0), x)
    }
    /// `a · b + c`, rounded once where the instruction set can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller, lane by lane.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger, lane by lane.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `a · 2^n` for an integral `n` in `[-252, 254]`; underflows gradually, overflows to infinity.
    fn scale_by_power_of_two(self, a: Self::V, n: Self::V) -> Self::V;
    /// `a < b ? x : y`, lane by lane.
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// `x` in the lanes whose bits are set, `y` in the others: bit `n` for the `n`th.
    fn select_bits(self, bits: u32, x: Self::V, y: Self::V) -> Self::V;
    /// The sum of all lanes, halves first: the order depends on the number of lanes alone.
    fn sum(self, a: Self::V) -> f32;
    /// Writes to `out` the transpose of the tile of [`Lanes::LANES`] rows: `out[k * stride + i] = rows[i][k]`.
    fn transpose(self, rows: &[Self::V], out: &mut [f32], stride: usize);
}
