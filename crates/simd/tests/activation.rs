//! Activation functions against f64 on every instruction set of this machine, and their derivatives against finite
//! differences.

use longreach_simd::activation::Activation;
use longreach_simd::norm::Rows;
use longreach_simd::{Cx, Isa};

/// The error function, by its series or by the continued fraction of its complement.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum) = (a, a);
        for n in 1..200 {
            term *= -a * a / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..60).rev().fold(0.0, |tail, n| n as f64 / 2.0 / (a + tail));
        1.0 - (-a * a).exp() / (a + fraction) * std::f64::consts::FRAC_2_SQRT_PI / 2.0
    };
    value.copysign(x)
}

fn exact(which: Activation, x: f64) -> f64 {
    match which {
        Activation::Gelu => x * 0.5 * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Relu2 => x.max(0.0).powi(2),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
    }
}

const ALL: [Activation; 6] =
    [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Relu2, Activation::Silu, Activation::Tanh];

fn grid() -> Vec<f32> {
    (-1300..=1301).map(|i| i as f32 * 7.3e-3).collect()
}

#[test]
fn activations_and_their_slopes_are_those_of_f64() {
    for isa in Isa::available() {
        let cx = Cx::with_isa(isa, 2);
        for which in ALL {
            let x = grid();
            let mut y = x.clone();
            which.apply(&cx, &mut y);
            let mut dy = x.clone();
            which.slope_times(&cx, &mut dy, &vec![1.0; x.len()]);
            for ((x, y), dy) in x.into_iter().zip(y).zip(dy) {
                let (x, h) = (x as f64, 1e-5);
                let want = exact(which, x);
                assert!(
                    (y as f64 - want).abs() < 4e-7 * (1.0 + want.abs()),
                    "{isa}: {which:?}({x}) = {y}, want {want}"
                );
                if x.abs() > h {
                    let slope = (exact(which, x + h) - exact(which, x - h)) / (2.0 * h);
                    assert!((dy as f64 - slope).abs() < 1e-6, "{isa}: {which:?}'({x}) = {dy}, want {slope}");
                }
            }
        }
    }
}

#[test]
fn far_out_nothing_overflows_and_nan_stays() {
    for isa in Isa::available() {
        for which in ALL {
            let mut x = [1e30, -1e30, f32::INFINITY, f32::NAN, 0.0];
            which.apply(&Cx::with_isa(isa, 1), &mut x);
            let end = match which {
                Activation::Tanh => [1.0, -1.0, 1.0],
                Activation::Relu2 => [f32::INFINITY, 0.0, f32::INFINITY],
                _ => [1e30, 0.0, f32::INFINITY],
            };
            assert!(x[..3] == end && x[3].is_nan() && x[4] == 0.0, "{isa}: {which:?}: {x:?}");
        }
    }
}

#[test]
fn a_gate_is_the_function_of_one_half_times_the_other() {
    let (count, half) = (37, 21);
    let x: Vec<f32> = (0..count * 50).map(|i| ((i * 7919) % 1013) as f32 / 200.0 - 2.5).collect();
    let rows = Rows { data: &x, count, width: 2 * half, stride: 50 };
    let d: Vec<f32> = (0..count * half).map(|i| ((i * 31) % 17) as f32 / 8.0 - 1.0).collect();
    for isa in Isa::available() {
        let cx = Cx::with_isa(isa, 2);
        for which in ALL {
            let (mut y, mut dx) = (vec![f32::NAN; count * half], vec![f32::NAN; count * 2 * half]);
            which.gated(&cx, rows, &mut y);
            which.gated_backward(&cx, rows, &d, &mut dx);
            for (e, y) in y.iter().enumerate() {
                let (i, j) = (e / half, e % half);
                let (a, b) = (rows.row(i)[j] as f64, rows.row(i)[half + j] as f64);
                assert!((*y as f64 - exact(which, a) * b).abs() < 3e-6, "{isa}: {which:?}");
                let mut slope = [a as f32];
                which.slope_times(&cx, &mut slope, &[1.0]);
                let want = [d[e] as f64 * b * slope[0] as f64, d[e] as f64 * exact(which, a)];
                let got = [dx[i * 2 * half + j], dx[i * 2 * half + half + j]];
                assert!(got.iter().zip(want).all(|(g, w)| (*g as f64 - w).abs() < 3e-6), "{isa}: {which:?}");
            }
        }
    }
}
