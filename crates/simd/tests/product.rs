//! Matrix products and norms against f64, at every tail and on every instruction set of this machine.

use half::bf16;
use longreach_simd::norm::{Rms, Rows, rms, rms_backward};
use longreach_simd::product::{FEW, Into, Matrix, Sizes, Weights, linear, matmul};
use longreach_simd::{Cx, Isa};

/// Numbers in [-1, 1) from a fixed linear congruential generator.
fn numbers(n: usize, mut seed: u64) -> Vec<f32> {
    (0..n)
        .map(|_| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((seed >> 40) as f32) / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

fn close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((*g as f64 - w).abs() <= tolerance, "element {i}: {g}, want {w}");
    }
}

#[test]
fn linear_is_the_sum_of_products() {
    for isa in Isa::available() {
        for threads in [1, 3] {
            let cx = Cx::with_isa(isa, threads);
            for (m, n, k) in [
                (1, 1, 1),
                (1, 70, 33),
                (2, 5, 64),
                (3, 129, 47),
                (4, 64, 100),
                (5, 1, 16),
                (13, 33, 17),
                (25, 130, 257),
                (100, 80, 300),
                (64, 300, 520),
            ] {
                let stride = k + 3;
                let x = numbers(m * stride, 1);
                let w = numbers(n * k, 2);
                let bias = numbers(n, 3);
                let rows = Rows { data: &x, count: m, width: k, stride };
                let half: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
                let widened: Vec<f32> = half.iter().map(|w| w.to_f32()).collect();
                for (stored, exact) in [(Weights::F32(&w), &w), (Weights::Bf16(&half), &widened)] {
                    let mut y = vec![f32::NAN; m * n];
                    linear(&cx, rows, stored, Some(&bias), &mut y);
                    let want: Vec<f64> = (0..m * n)
                        .map(|e| {
                            let (i, j) = (e / n, e % n);
                            let sum: f64 = (0..k).map(|c| x[i * stride + c] as f64 * exact[j * k + c] as f64).sum();
                            sum + bias[j] as f64
                        })
                        .collect();
                    close(&y, &want, 2e-6 * (k as f64).sqrt() + 1e-6);
                }
            }
        }
    }
}

#[test]
fn matmul_takes_any_strides_and_adds() {
    for isa in Isa::available() {
        let cx = Cx::with_isa(isa, 2);
        for (m, n, k) in [(1, 1, 1), (7, 33, 20), (50, 31, 300), (130, 65, 12)] {
            let a = numbers(m * k, 4);
            let b = numbers(k * n, 5);
            let base = numbers(m * (n + 2), 6);
            let want = |a: Matrix<'_>, b: Matrix<'_>, add: bool| -> Vec<f64> {
                let mut out: Vec<f64> = base.iter().map(|x| *x as f64).collect();
                for i in 0..m {
                    for j in 0..n {
                        let sum: f64 = (0..k)
                            .map(|c| a.data[i * a.row + c * a.col] as f64 * b.data[c * b.row + j * b.col] as f64)
                            .sum();
                        let o = &mut out[i * (n + 2) + j];
                        *o = if add { *o + sum } else { sum };
                    }
                }
                out
            };
            for a in [Matrix::rows(&a, k), Matrix::rows(&a, m).t()] {
                for b in [Matrix::rows(&b, n), Matrix::rows(&b, k).t()] {
                    for (into, add) in [(Into::Set, false), (Into::Add, true)] {
                        let mut out = base.clone();
                        matmul(&cx, Sizes { m, n, k }, a, b, into, &mut out, n + 2);
                        close(&out, &want(a, b, add), 2e-6 * (k as f64).sqrt() + 1e-6);
                    }
                }
            }
        }
    }
}

#[test]
fn rows_are_independent_of_their_company_and_of_threads() {
    let (n, k) = (150, 270);
    let w = numbers(n * k, 7);
    let x = numbers(40 * k, 8);
    for isa in Isa::available() {
        let run = |threads: usize, from: usize, count: usize| {
            let mut y = vec![f32::NAN; count * n];
            let rows = Rows { data: &x[from * k..], count, width: k, stride: k };
            linear(&Cx::with_isa(isa, threads), rows, Weights::F32(&w), None, &mut y);
            y
        };
        let whole = run(1, 0, 40);
        assert_eq!(whole, run(4, 0, 40));
        assert_eq!(whole[7 * n..(7 + FEW + 9) * n], run(2, 7, FEW + 9));
        let few = run(1, 5, FEW);
        assert_eq!(few[n..2 * n], run(3, 6, 1));
    }
}

#[test]
fn norm_and_its_gradient() {
    let (count, width, stride) = (19, 24, 30);
    let x = numbers(count * stride, 9);
    let z = numbers(count * stride, 10);
    let w = numbers(width, 11);
    let dy = numbers(count * width, 12);
    let rows = |data| Rows { data, count, width, stride };
    let exact = |x: &[f64], z: &[f64], w: &[f64], gated: bool, group: usize| -> Vec<f64> {
        let mut out = Vec::new();
        for i in 0..count {
            let u: Vec<f64> = (0..width)
                .map(|j| {
                    let (x, z) = (x[i * stride + j], z[i * stride + j]);
                    if gated { x * z / (1.0 + (-z).exp()) } else { x }
                })
                .collect();
            for j in 0..width {
                let g = &u[j / group * group..][..group];
                let mean = g.iter().map(|x| x * x).sum::<f64>() / group as f64;
                out.push(w[j] * u[j] / (mean + 1e-5).sqrt());
            }
        }
        out
    };
    let wide = |x: &[f32]| x.iter().map(|x| *x as f64).collect::<Vec<_>>();
    for isa in Isa::available() {
        let cx = Cx::with_isa(isa, 2);
        for gated in [false, true] {
            for group in [24, 8] {
                let norm = Rms { weight: Some(&w), eps: 1e-5, group };
                let gate = gated.then(|| rows(&z[..]));
                let mut y = vec![f32::NAN; count * width];
                rms(&cx, norm, rows(&x), gate, &mut y);
                close(&y, &exact(&wide(&x), &wide(&z), &wide(&w), gated, group), 2e-6);
                let grad = rms_backward(&cx, norm, rows(&x), gate, &dy);
                let inner = |y: Vec<f64>| y.iter().zip(&dy).map(|(y, d)| y * *d as f64).sum::<f64>();
                let slope = |which: usize, at: usize| {
                    let f = |h: f64| {
                        let mut v = [wide(&x), wide(&z), wide(&w)];
                        v[which][at] += h;
                        inner(exact(&v[0], &v[1], &v[2], gated, group))
                    };
                    (f(1e-6) - f(-1e-6)) / 2e-6
                };
                for (i, j) in [(0, 0), (3, 7), (18, 23)] {
                    assert!((grad.x[i * width + j] as f64 - slope(0, i * stride + j)).abs() < 1e-5);
                    assert!((grad.weight[j] as f64 - slope(2, j)).abs() < 1e-4);
                    if gated {
                        assert!((grad.gate[i * width + j] as f64 - slope(1, i * stride + j)).abs() < 1e-5);
                    }
                }
            }
        }
    }
}
