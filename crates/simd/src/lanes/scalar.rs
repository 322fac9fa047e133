//! Plain Rust: eight lanes in an array. Runs everywhere, and is the reference for the vector instruction sets.

use half::bf16;

use super::Lanes;

const N: usize = 8;

/// Eight lanes in an array.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

/// Counts an operation on vectors, in builds that count them.
#[inline(always)]
fn counted() {
    #[cfg(feature = "count")]
    crate::count::one();
}

#[inline(always)]
fn zip(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    counted();
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Lanes for Scalar {
    type V = [f32; N];
    const LANES: usize = N;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; N]
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        std::array::from_fn(|i| x[i])
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        std::array::from_fn(|i| x.get(i).copied().unwrap_or(0.0))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> Self::V {
        std::array::from_fn(|i| x[i].to_f32())
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8]) -> Self::V {
        std::array::from_fn(|i| f32::from(x[i]))
    }
    #[inline(always)]
    fn store(self, x: &mut [f32], v: Self::V) {
        x[..N].copy_from_slice(&v);
    }
    #[inline(always)]
    fn store_part(self, x: &mut [f32], v: Self::V) {
        let n = x.len().min(N);
        x[..n].copy_from_slice(&v[..n]);
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        counted();
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        counted();
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        counted();
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn scale_by_power_of_two(self, a: Self::V, n: Self::V) -> Self::V {
        counted();
        std::array::from_fn(|i| {
            // Two normal factors, so that a subnormal result is rounded once.
            let n = n[i] as i32;
            let half = n / 2;
            let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
            a[i] * power(half) * power(n - half)
        })
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        counted();
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn select_bits(self, bits: u32, x: Self::V, y: Self::V) -> Self::V {
        counted();
        std::array::from_fn(|i| if bits >> i & 1 == 1 { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        counted();
        let b = [a[0] + a[4], a[1] + a[5], a[2] + a[6], a[3] + a[7]];
        (b[0] + b[2]) + (b[1] + b[3])
    }
    #[inline(always)]
    fn transpose(self, rows: &[Self::V], out: &mut [f32], stride: usize) {
        for i in 0..N {
            for (k, x) in rows[i].into_iter().enumerate() {
                out[k * stride + i] = x;
            }
        }
    }
}
