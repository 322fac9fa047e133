//! The Mamba-2 scan on plain arrays, without a framework: 100 tokens in chunked form, then one decoding step.
//!
//! `cargo run --release --example scan`

use longreach_attention::linear::mamba2::{Inputs, chunk, step};
use longreach_attention::{Error, Sequences};
use longreach_simd::Cx;
use ndarray::{Array, Array1, Array4, s};

fn main() -> Result<(), Error> {
    let cx = Cx::new(2);
    let (batch, tokens, heads, width, groups, rows) = (1, 101, 4, 16, 1, 8);
    let wave = |i: usize| (i as f32 * 0.37).sin();
    let x = Array4::from_shape_fn((batch, tokens, heads, width), |(_, t, h, p)| wave(t * 7 + h * 3 + p));
    let dt = Array::from_shape_fn((batch, tokens, heads), |(_, t, h)| wave(t + h) - 1.0);
    let b = Array4::from_shape_fn((batch, tokens, groups, rows), |(_, t, _, n)| wave(t * 5 + n));
    let c = Array4::from_shape_fn((batch, tokens, groups, rows), |(_, t, _, n)| wave(t * 11 + n));
    let (a, d) = (Array1::from_elem(heads, -1.0), Array1::ones(heads));
    let dt_bias = Array1::zeros(heads);
    let part = |from: usize, to: usize| Inputs {
        x: x.slice(s![.., from..to, .., ..]),
        dt: dt.slice(s![.., from..to, ..]),
        dt_bias: dt_bias.view(),
        dt_limit: (0.0, f32::INFINITY),
        a: a.view(),
        b: b.slice(s![.., from..to, .., ..]),
        c: c.slice(s![.., from..to, .., ..]),
        d: d.view(),
        sequences: Sequences::Batch,
    };

    let mut state = Array4::zeros(part(0, tokens).state_shape());
    let whole = chunk(&part(0, tokens), state.view_mut(), &cx)?;

    let mut carried = Array4::zeros(state.raw_dim());
    chunk(&part(0, 100), carried.view_mut(), &cx)?;
    let last = step(&part(100, 101), carried.view_mut(), &cx)?;

    let difference = (&whole.slice(s![.., 100.., .., ..]) - &last).mapv(f32::abs).fold(0.0f32, |m, x| m.max(*x));
    println!("one step after a chunk differs from the whole by {difference:e}");
    assert!(difference < 1e-4);
    Ok(())
}
