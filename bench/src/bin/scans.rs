//! The scans alone: Mamba against a scalar loop, the two forms of Mamba-2 against each other, and the cost per token
//! by length.
//!
//! `cargo run --release -p longreach-bench --bin scans [LONGEST]`

use longreach_attention::Sequences;
use longreach_attention::diagonal::mamba;
use longreach_attention::linear::mamba2;
use longreach_bench::Times;
use longreach_simd::{Cx, Isa};
use ndarray::{Array1, Array2, Array3, Array4};

fn wave(i: usize) -> f32 {
    (i as f32 * 0.713).sin()
}

/// The inputs of a Mamba scan at the size of the 130M model.
struct Mamba {
    x: Array3<f32>,
    dt: Array3<f32>,
    b: Array3<f32>,
    c: Array3<f32>,
    a: Array2<f32>,
    d: Array1<f32>,
}

impl Mamba {
    fn new(t: usize, d: usize, n: usize) -> Self {
        Self {
            x: Array3::from_shape_fn((1, t, d), |(_, t, c)| wave(t * 31 + c)),
            dt: Array3::from_shape_fn((1, t, d), |(_, t, c)| wave(t * 17 + c) - 3.0),
            b: Array3::from_shape_fn((1, t, n), |(_, t, i)| wave(t * 13 + i)),
            c: Array3::from_shape_fn((1, t, n), |(_, t, i)| wave(t * 11 + i)),
            a: Array2::from_shape_fn((n, d), |(i, _)| -(i as f32 + 1.0)),
            d: Array1::ones(d),
        }
    }

    fn inputs(&self) -> mamba::Inputs<'_> {
        mamba::Inputs {
            x: self.x.view(),
            dt: self.dt.view(),
            dt_bias: self.d.view(),
            a: self.a.view(),
            b: self.b.view(),
            c: self.c.view(),
            d: self.d.view(),
            z: Some(self.x.view()),
            sequences: Sequences::Batch,
        }
    }

    /// A straightforward scalar loop.
    fn scalar(&self) -> f32 {
        let (_, t, d) = self.x.dim();
        let n = self.a.dim().0;
        let mut h = vec![0.0f32; d * n];
        let mut sum = 0.0;
        for t in 0..t {
            for c in 0..d {
                let u = self.dt[[0, t, c]] + self.d[c];
                let delta = if u > 20.0 { u } else { u.exp().ln_1p() };
                let x = self.x[[0, t, c]];
                let mut y = self.d[c] * x;
                for i in 0..n {
                    let h = &mut h[c * n + i];
                    *h = (delta * self.a[[i, c]]).exp() * *h + delta * self.b[[0, t, i]] * x;
                    y += self.c[[0, t, i]] * *h;
                }
                sum += y * x / (1.0 + (-x).exp());
            }
        }
        sum
    }
}

fn main() {
    let longest: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1 << 20);
    let (d, n) = (1536, 16);
    let x = Mamba::new(1024, d, n);
    let loop_time = Times::of(5, || {
        std::hint::black_box(x.scalar());
    });
    println!("mamba, 1024 tokens of {d} channels by {n}: a scalar loop {:.1} ms", 1e3 * loop_time.median());
    for (isa, threads) in Isa::available().into_iter().map(|isa| (isa, 1)).chain([(Isa::detect(), 2)]) {
        let cx = Cx::with_isa(isa, threads);
        let ours = Times::of(5, || {
            let mut state = Array3::zeros((1, n, d));
            mamba::recurrent(&x.inputs(), state.view_mut(), &cx).expect("valid inputs");
        });
        let ratio = loop_time.median() / ours.median();
        println!("  {isa}, {threads} threads: {:.2} ms, {ratio:.1} times the loop", 1e3 * ours.median());
    }

    println!("mamba, cost of a token as the text grows (chunks of 512, the state carried on)");
    let cx = Cx::new(2);
    let x = Mamba::new(512, d, n);
    let mut length = 1024;
    while length <= longest {
        let time = Times::of(3, || {
            let mut state = Array3::zeros((1, n, d));
            for _ in 0..length / 512 {
                mamba::recurrent(&x.inputs(), state.view_mut(), &cx).expect("valid inputs");
            }
        });
        println!("  {length:8} tokens: {:.2} µs a token", 1e6 * time.median() / length as f64);
        length *= 4;
    }

    println!("mamba-2, 24 heads of 128 by 64: the two forms");
    for t in [1, 16, 64, 256, 1024] {
        let (h, p, n) = (24, 64, 128);
        let x = Array4::from_shape_fn((1, t, h, p), |(_, t, h, p)| wave(t * 7 + h * 3 + p));
        let dt = Array3::from_shape_fn((1, t, h), |(_, t, h)| wave(t + h) - 2.0);
        let b = Array4::from_shape_fn((1, t, 1, n), |(_, t, _, i)| wave(t * 5 + i));
        let c = Array4::from_shape_fn((1, t, 1, n), |(_, t, _, i)| wave(t * 11 + i));
        let (a, d) = (Array1::from_elem(h, -1.0), Array1::ones(h));
        let inputs = mamba2::Inputs {
            x: x.view(),
            dt: dt.view(),
            dt_bias: d.view(),
            dt_limit: (0.0, f32::INFINITY),
            a: a.view(),
            b: b.view(),
            c: c.view(),
            d: d.view(),
            sequences: Sequences::Batch,
        };
        let mut state = Array4::zeros(inputs.state_shape());
        let recurrent = Times::of(9, || {
            mamba2::recurrent(&inputs, state.view_mut(), &cx).expect("valid inputs");
        });
        let chunk = Times::of(9, || {
            mamba2::chunk(&inputs, state.view_mut(), &cx).expect("valid inputs");
        });
        let each = |times: &Times| 1e6 * times.median() / t as f64;
        println!("  {t:5} tokens: recurrent {:.2} µs a token, chunk {:.2}", each(&recurrent), each(&chunk));
    }
}
