//! Norms, activations, rotary positions, rows of a table, cross-entropy and linear layers of few rows.

use longreach_attention::operation::{Sample, named};
use longreach_gpu::norm::{self, Norm};
use longreach_gpu::rotary::{self, Angles};
use longreach_gpu::{DType, Device, View, activation, cross_entropy, linear, rows};
use longreach_simd::Cx;
use longreach_simd::activation::Activation;
use ndarray::{Array2, ArrayD, Axis};
use serde_json::json;

use crate::harness::{DTYPES, agrees, devices, gradient_agrees, rounded, upload};

/// Numbers in `−2 .. 2`, the same on every machine.
fn wave(shape: &[usize], seed: f32) -> ArrayD<f32> {
    let mut n = seed;
    ArrayD::from_shape_simple_fn(shape, || {
        n += 0.37;
        2.0 * f32::sin(n * n)
    })
}

/// Runs on the device with each type that it has: `(device, type)`.
fn each(run: impl Fn(&Device, DType)) {
    let Some([device, _]) = devices() else { return };
    for dtype in DTYPES {
        if dtype != DType::F16 || device.facts().f16 {
            run(device, dtype);
        }
    }
}

/// The slope of `f` along the element `at` of `x`.
fn slope(x: &ArrayD<f64>, at: usize, f: impl Fn(&ArrayD<f64>) -> f64) -> f64 {
    const STEP: f64 = 1e-5;
    let moved = |by: f64| {
        let mut moved = x.clone();
        moved.as_slice_mut().expect("contiguous")[at] += by;
        f(&moved)
    };
    (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
}

/// The gradient of `Σ f(x) ⊙ d` with respect to each element of `x`.
fn slopes(x: &ArrayD<f64>, d: &ArrayD<f64>, f: impl Fn(&ArrayD<f64>) -> ArrayD<f64>) -> ArrayD<f32> {
    let slopes = (0..x.len()).map(|at| slope(x, at, |x| (f(x) * d).sum()) as f32).collect();
    ArrayD::from_shape_vec(x.shape(), slopes).expect("as many elements")
}

fn wide(x: &ArrayD<f32>) -> ArrayD<f64> {
    x.mapv(f64::from)
}

fn norm64(x: &ArrayD<f64>, w: &ArrayD<f64>, b: &ArrayD<f64>, centred: bool) -> ArrayD<f64> {
    let mut out = x.clone();
    for mut row in out.lanes_mut(Axis(x.ndim() - 1)) {
        let n = row.len() as f64;
        let mean = if centred { row.sum() / n } else { 0.0 };
        row -= mean;
        let scale = 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / n + 1e-5).sqrt();
        for (c, x) in row.iter_mut().enumerate() {
            *x = *x * scale * w[c] + b[c];
        }
    }
    out
}

#[test]
fn gpu_agrees_norm() {
    each(|device, dtype| {
        for centred in [false, true] {
            for (rows, width) in [(3, 5), (2, 64), (300, 7), (4, 130)] {
                let x = rounded(&wave(&[rows, width], 1.0), dtype);
                let d = rounded(&wave(&[rows, width], 2.0), dtype);
                let (w, b) = (wave(&[width], 3.0), wave(&[width], 4.0));
                let f32s = |x: &ArrayD<f32>| upload(device, x, DType::F32);
                let norm = Norm { centred, epsilon: 1e-5, weight: Some(f32s(&w)), bias: Some(f32s(&b)) };
                let what = format!("norm {} {rows} {width} {centred}", dtype.name());
                let of = upload(device, &x, dtype);
                let out = norm::forward(device, &of, &norm).expect("valid");
                let run = |x: &ArrayD<f64>, w: &ArrayD<f64>, b: &ArrayD<f64>| norm64(x, w, b, centred);
                let (x, d64, w, b) = (wide(&x), wide(&d), wide(&w), wide(&b));
                agrees(&what, device, &out, &run(&x, &w, &b));
                let gradient = norm::backward(device, &of, &norm, &upload(device, &d, dtype)).expect("valid");
                // Each element takes two norms of all rows; more rows have no other kernel.
                if rows < 100 {
                    gradient_agrees(&what, device, &gradient.x, &slopes(&x, &d64, |x| run(x, &w, &b)));
                }
                gradient_agrees(&what, device, &gradient.weight, &slopes(&w, &d64, |w| run(&x, w, &b)));
                gradient_agrees(&what, device, &gradient.bias, &slopes(&b, &d64, |b| run(&x, &w, b)));
            }
        }
    });
}

/// `erf`, by its series: for arguments of moderate size in f64.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..80 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn activation64(x: f64, f: Activation) -> f64 {
    match f {
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Relu2 => x.max(0.0).powi(2),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
    }
}

#[test]
fn gpu_agrees_activation() {
    use Activation::{Gelu, GeluTanh, Relu, Relu2, Silu, Tanh};
    each(|device, dtype| {
        for f in [Gelu, GeluTanh, Relu, Relu2, Silu, Tanh] {
            let [a, b, d] = [1.0, 2.0, 3.0].map(|seed| rounded(&wave(&[5, 33], seed), dtype));
            let what = format!("{f:?} {}", dtype.name());
            let up = |x: &ArrayD<f32>| upload(device, x, dtype);
            let (x, y, dy) = (up(&a), up(&b), up(&d));
            let (a, b, d) = (wide(&a), wide(&b), wide(&d));
            let run = |x: &ArrayD<f64>| x.mapv(|x| activation64(x, f));
            agrees(&what, device, &activation::forward(device, &x, f).expect("valid"), &run(&a));
            agrees(&what, device, &activation::gated(device, &x, &y, f).expect("valid"), &(run(&a) * &b));
            let dx = activation::backward(device, &x, f, &dy).expect("valid");
            gradient_agrees(&what, device, &dx, &slopes(&a, &d, run));
            let [da, db] = activation::gated_backward(device, &x, &y, f, &dy).expect("valid");
            gradient_agrees(&what, device, &da, &slopes(&a, &d, |a| run(a) * &b));
            gradient_agrees(&what, device, &db, &(run(&a) * &d).mapv(|x| x as f32));
        }
    });
}

#[test]
fn gpu_agrees_rotary() {
    each(|device, dtype| {
        for (width, interleaved) in [(16, false), (16, true), (12, false)] {
            let sample = Sample { batch: 2, tokens: 19, heads: 3, width: 16, seed: 1 };
            let rotary = named("rotary").expect("a mechanism");
            let mut inputs = rotary.sample(&sample);
            let x = rounded(&inputs["x"], dtype);
            inputs.insert("x".into(), x.clone());
            let positions = ArrayD::from_shape_fn(vec![2, 19], |at| (3 * at[1] + 40 * at[0]) as f32);
            inputs.insert("positions".into(), positions.clone());
            let parameters = json!({"width": width, "interleaved": interleaved});
            let want = rotary.naive(&inputs, &parameters, &Cx::new(1)).expect("valid");
            let half = width / 2;
            let angle = |at: &ndarray::IxDyn| {
                f64::from(positions[[at[0], at[1]]]) * 10_000f64.powf(-2.0 * at[2] as f64 / width as f64)
            };
            let of = |f: fn(f64) -> f64| ArrayD::from_shape_fn(vec![2, 19, half], |at| f(angle(&at)) as f32);
            let up = |x: &ArrayD<f32>| upload(device, x, DType::F32);
            let angles = Angles { cos: up(&of(f64::cos)), sin: up(&of(f64::sin)), interleaved };
            let what = format!("rotary {} {width} {interleaved}", dtype.name());
            let out = rotary::forward(device, &upload(device, &x, dtype), &angles).expect("valid");
            agrees(&what, device, &out, &want["o"]);
            inputs.insert("do".into(), x.clone());
            let want = rotary.backward(&inputs, &parameters, &Cx::new(1)).expect("valid");
            let back = rotary::backward(device, &upload(device, &x, dtype), &angles).expect("valid");
            gradient_agrees(&what, device, &back, &want["dx"]);
        }
    });
}

#[test]
fn gpu_agrees_rows() {
    each(|device, dtype| {
        let table = rounded(&wave(&[11, 7], 1.0), dtype);
        let places = [3u32, 0, 3, 10, 3, 9];
        let indices = rows::Indices::new(device, &places, 11).expect("below 11");
        let out = rows::forward(device, &upload(device, &table, dtype), &indices).expect("valid");
        let picked = |at: ndarray::IxDyn| f64::from(table[[places[at[0]] as usize, at[1]]]);
        agrees("rows", device, &out, &ArrayD::from_shape_fn(vec![6, 7], picked));
        let d = rounded(&wave(&[6, 7], 2.0), dtype);
        let mut want = ArrayD::<f32>::zeros(vec![11, 7]);
        for (place, row) in places.iter().enumerate() {
            for c in 0..7 {
                want[[*row as usize, c]] += d[[place, c]];
            }
        }
        let found = rows::backward(device, &upload(device, &d, dtype), &indices).expect("valid");
        gradient_agrees("rows", device, &found, &want);
    });
    let Some([device, _]) = devices() else { return };
    let error = rows::Indices::new(device, &[3, 11], 11).expect_err("an index beyond the table");
    assert_eq!(error.to_string(), "rows: `index` is 11, want below the 11 rows of the table");
}

#[test]
fn gpu_agrees_cross_entropy() {
    each(|device, dtype| {
        for classes in [3, 64, 201] {
            let x = rounded(&(wave(&[5, classes], 1.0) * 4.0), dtype);
            let targets = [1, 0, cross_entropy::IGNORED, classes as u32 - 1, 2];
            let of = cross_entropy::Targets::new(device, &targets, classes).expect("below the classes");
            let (loss, gradient) = cross_entropy::forward(device, &upload(device, &x, dtype), &of, 0.2).expect("valid");
            let loss64 = |x: &ArrayD<f64>| {
                ArrayD::from_shape_fn(vec![5], |row| match targets[row[0]] {
                    cross_entropy::IGNORED => 0.0,
                    target => {
                        let row = x.index_axis(Axis(0), row[0]);
                        row.mapv(f64::exp).sum().ln() - row[target as usize]
                    }
                })
            };
            let x = wide(&x);
            agrees("cross-entropy", device, &loss, &loss64(&x));
            gradient_agrees("cross-entropy", device, &gradient, &slopes(&x, &ArrayD::from_elem(vec![5], 0.2), loss64));
        }
    });
}

#[test]
fn gpu_agrees_linear_of_few_rows() {
    each(|device, dtype| {
        for (rows, inputs, outputs) in [(1, 64, 70), (3, 33, 5), (8, 130, 9)] {
            let x = rounded(&wave(&[rows, inputs], 1.0), dtype);
            let (w, b) = (rounded(&(wave(&[outputs, inputs], 2.0) * 0.1), dtype), wave(&[outputs], 3.0));
            let up = |x: &ArrayD<f32>| upload(device, x, dtype);
            let bias = upload(device, &b, DType::F32);
            let out = linear::few_rows(device, &up(&x), &up(&w), Some(&bias)).expect("valid");
            let two = |x: &ArrayD<f32>| -> Array2<f64> { wide(x).into_dimensionality().expect("two axes") };
            let want = two(&x).dot(&two(&w).t()) + wide(&b).into_dimensionality::<ndarray::Ix1>().expect("one axis");
            agrees(&format!("linear {}", dtype.name()), device, &out, &want.into_dyn());
        }
        let nine: View = upload(device, &wave(&[9, 4], 1.0), dtype);
        assert!(linear::few_rows(device, &nine, &nine, None).is_err(), "nine rows");
    });
}
