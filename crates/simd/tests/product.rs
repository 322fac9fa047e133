//! Matrix products and norms against f64, for every partial vector and on every instruction set of this machine.

use half::bf16;
use longreach_simd::norm::{Layer, Rms, Rows, layer, layer_backward, rms, rms_backward};
use longreach_simd::product::{
    Accumulate, Int8, Matrix, Order, STREAMED_ROWS, Sizes, Weights, linear, linear_in, matmul,
};
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
                let rounded: Vec<f32> = x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
                let rounds = isa.rounds_to_bf16() && m > STREAMED_ROWS;
                let left = if rounds { &rounded } else { &x };
                for (stored, exact, x) in [(Weights::F32(&w), &w, &x), (Weights::Bf16(&half), &widened, left)] {
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
                    for (into, add) in [(Accumulate::Replace, false), (Accumulate::Add, true)] {
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
        assert_eq!(whole[7 * n..(7 + STREAMED_ROWS + 9) * n], run(2, 7, STREAMED_ROWS + 9));
        let few = run(1, 5, STREAMED_ROWS);
        assert_eq!(few[n..2 * n], run(3, 6, 1));
        // Any number of rows may be streamed, of which none changes another.
        let half: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
        for w in [Weights::F32(&w), Weights::Bf16(&half)] {
            for order in [Order::Streamed, Order::Packed] {
                let run = |threads: usize, from: usize, count: usize| {
                    let mut y = vec![f32::NAN; count * n];
                    let rows = Rows { data: &x[from * k..], count, width: k, stride: k };
                    linear_in(&Cx::with_isa(isa, threads), order, rows, w, None, &mut y);
                    y
                };
                let all = run(2, 0, 40);
                for (from, count) in [(0, 1), (3, 2), (7, 5), (20, 19), (39, 1)] {
                    assert_eq!(all[from * n..(from + count) * n], run(1, from, count), "{order:?} {from} {count}");
                }
            }
        }
    }
}

#[test]
fn rounding_x_to_bf16_costs_no_more_than_its_last_bit() {
    let [m, n, k] = [33, 50, 700];
    let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
    let w: Vec<bf16> = w.into_iter().map(bf16::from_f32).collect();
    for isa in Isa::available() {
        let mut y = vec![f32::NAN; m * n];
        let (cx, rows) = (Cx::with_isa(isa, 2), Rows::contiguous(&x, k));
        linear_in(&cx, Order::Packed, rows, Weights::Bf16(&w), None, &mut y);
        let mut farthest = 0.0f64;
        for (e, y) in y.iter().enumerate() {
            let terms = x[e / n * k..][..k].iter().zip(&w[e % n * k..]).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let (want, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let error = (f64::from(*y) - want).abs();
            // Rounding to eight bits changes a number by at most one part in 2⁸; the sums are as in f32.
            let rounding = if isa.rounds_to_bf16() { size / 256.0 } else { 0.0 };
            assert!(error <= rounding + 2e-6 * (k as f64).sqrt() + 1e-6, "{isa}: element {e}: {y}, want {want}");
            farthest = farthest.max(error);
        }
        assert_eq!(farthest > 1e-3, isa.rounds_to_bf16(), "{isa}: {farthest}");
    }
}

#[test]
fn instructions_on_bf16_do_not_touch_products_of_f32_nor_of_few_rows() {
    let [m, n, k] = [20, 50, 70];
    let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
    let half: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
    let run = |isa: Isa, order: Order, w: Weights<'_>| {
        let mut y = vec![f32::NAN; m * n];
        linear_in(&Cx::with_isa(isa, 1), order, Rows::contiguous(&x, k), w, None, &mut y);
        y
    };
    for isa in Isa::available().into_iter().filter(|isa| isa.rounds_to_bf16()) {
        let plain: Isa = "avx512".parse().expect("it has the instructions of AVX-512");
        for (order, w) in [
            (Order::Packed, Weights::F32(&w)),
            (Order::Streamed, Weights::F32(&w)),
            (Order::Streamed, Weights::Bf16(&half)),
        ] {
            assert_eq!(run(isa, order, w), run(plain, order, w), "{isa} {order:?}");
        }
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

#[test]
fn products_of_bytes_are_exact_on_every_instruction_set() {
    for (m, n, k) in [(1, 1, 1), (3, 33, 5), (13, 130, 64), (40, 300, 515)] {
        let (x, w, bias) = (numbers(m * (k + 2), 1), numbers(n * k, 2), numbers(n, 3));
        let rows = Rows { data: &x, count: m, width: k, stride: k + 2 };
        let byte = |row: &[f32]| {
            let by = row.iter().fold(0.0f32, |a, b| a.max(b.abs())) / 127.0;
            (by, row.iter().map(|x| (x * (1.0 / by)).round_ties_even() as i32).collect::<Vec<_>>())
        };
        let (xs, ws): (Vec<_>, Vec<_>) = ((0..m).map(|i| byte(rows.row(i))).collect(), w.chunks(k).map(byte).collect());
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            for threads in [1, 3] {
                let cx = Cx::with_isa(isa, threads);
                let packed = Int8::new(&cx, &w, k);
                assert_eq!(packed.shape(), [n, k]);
                let mut y = vec![f32::NAN; m * n];
                linear(&cx, rows, Weights::Int8(&packed), Some(&bias), &mut y);
                for (e, y) in y.iter().enumerate() {
                    let ((a, x), (c, w)) = (&xs[e / n], &ws[e % n]);
                    let sum: i32 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                    assert_eq!(*y, sum as f32 * (a * c) + bias[e % n], "{isa}: element {e} of {m} by {n} by {k}");
                }
                assert_eq!(*first.get_or_insert_with(|| y.clone()), y, "{isa}");
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_in_its_row_of_bytes() {
    let cx = Cx::new(1);
    let w = Int8::new(&cx, &numbers(20 * 30, 2), 30);
    let mut x = numbers(3 * 30, 1);
    x[31] = f32::NAN;
    x[60..].fill(0.0);
    let mut y = vec![1.0; 60];
    linear(&cx, Rows::contiguous(&x, 30), Weights::Int8(&w), None, &mut y);
    assert!(y[..20].iter().all(|y| y.is_finite()) && y[20..40].iter().all(|y| y.is_nan()));
    assert!(y[40..].iter().all(|y| *y == 0.0));
}

#[test]
fn layer_norm_and_its_gradient() {
    for (count, width) in [(19, 24), (3, 5), (40, 33)] {
        let stride = width + 3;
        let (x, r) = (numbers(count * stride, 9), numbers(count * stride, 10));
        let (w, b, dy) = (numbers(width, 11), numbers(width, 12), numbers(count * width, 13));
        let rows = |data| Rows { data, count, width, stride };
        let wide = |x: &[f32]| x.iter().map(|x| *x as f64).collect::<Vec<_>>();
        let exact = |x: &[f64], r: Option<&[f64]>, w: &[f64], b: &[f64]| -> Vec<f64> {
            let row = |i: usize| {
                let z: Vec<f64> =
                    (0..width).map(|j| x[i * stride + j] + r.map_or(0.0, |r| r[i * stride + j])).collect();
                let mean = z.iter().sum::<f64>() / width as f64;
                let variance = z.iter().map(|z| (z - mean) * (z - mean)).sum::<f64>() / width as f64;
                z.into_iter().enumerate().map(move |(j, z)| w[j] * (z - mean) / (variance + 1e-3).sqrt() + b[j])
            };
            (0..count).flat_map(row).collect()
        };
        for isa in Isa::available() {
            let cx = Cx::with_isa(isa, 2);
            for with in [false, true] {
                let norm = Layer { weight: &w, bias: Some(&b), eps: 1e-3 };
                let other = with.then(|| rows(&r[..]));
                let mut y = vec![f32::NAN; count * width];
                layer(&cx, norm, rows(&x), other, &mut y);
                let wide_r = wide(&r);
                let residual = with.then_some(&wide_r[..]);
                close(&y, &exact(&wide(&x), residual, &wide(&w), &wide(&b)), 3e-6);
                let g = layer_backward(&cx, norm, rows(&x), other, &dy);
                let slope = |which: usize, at: usize| {
                    let f = |h: f64| {
                        let mut v = [wide(&x), wide(&w), wide(&b)];
                        v[which][at] += h;
                        let y = exact(&v[0], residual, &v[1], &v[2]);
                        y.iter().zip(&dy).map(|(y, d)| y * *d as f64).sum::<f64>()
                    };
                    (f(1e-6) - f(-1e-6)) / 2e-6
                };
                for (i, j) in [(0, 0), (1, width / 2), (count - 1, width - 1)] {
                    assert!((g.x[i * width + j] as f64 - slope(0, i * stride + j)).abs() < 2e-5);
                    assert!((g.weight[j] as f64 - slope(1, j)).abs() < 1e-4);
                    assert!((g.bias[j] as f64 - slope(2, j)).abs() < 1e-4);
                }
            }
        }
    }
}

#[test]
fn a_sum_over_nothing_is_the_bias() {
    let cx = Cx::new(1);
    let (bias, mut y) = (numbers(3, 1), vec![f32::NAN; 12 * 3]);
    linear(&cx, Rows { data: &[], count: 12, width: 0, stride: 0 }, Weights::F32(&[]), Some(&bias), &mut y);
    assert!(y.chunks(3).all(|row| row == bias));
    for isa in Isa::available() {
        let (cx, bytes) = (Cx::with_isa(isa, 2), Int8::new(&cx, &[], 0));
        let nothing = Rows { data: &[], count: 12, width: 0, stride: 0 };
        let mut y = vec![f32::NAN; 12 * 3];
        linear_in(&cx, Order::Packed, nothing, Weights::Bf16(&[]), Some(&bias), &mut y);
        assert!(y.chunks(3).all(|row| row == bias), "{isa}");
        let one = numbers(5, 1);
        let (no_rows, row) = (Rows { count: 0, ..Rows::contiguous(&one, 5) }, Rows::contiguous(&one, 5));
        linear_in(&cx, Order::Packed, row, Weights::Bf16(&[]), None, &mut []);
        linear_in(&cx, Order::Packed, row, Weights::Int8(&bytes), None, &mut []);
        linear_in(&cx, Order::Packed, no_rows, Weights::Bf16(&[]), None, &mut []);
        linear_in(&cx, Order::Packed, no_rows, Weights::Int8(&bytes), None, &mut []);
    }
    let size = Sizes { m: 12, n: 3, k: 0 };
    let nothing = Matrix::rows(&[], 0);
    matmul(&cx, size, nothing, nothing, Accumulate::Add, &mut y, 3);
    assert!(y.chunks(3).all(|row| row == bias));
}
