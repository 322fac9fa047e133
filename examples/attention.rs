//! Sparse attention on plain arrays: a window forward and backward, then one query against a KV cache.
//!
//! `cargo run --release --example attention`

use longreach_attention::Error;
use longreach_attention::softmax::{self, Cotangent, Inputs, window::Window};
use longreach_simd::Cx;
use ndarray::{Array4, s};

fn main() -> Result<(), Error> {
    let cx = Cx::new(2);
    let (tokens, heads, width) = (4096, 4, 64);
    let wave = |seed: usize| {
        Array4::from_shape_fn((1, tokens, heads, width), move |(_, t, h, d)| {
            ((t * 31 + h * 7 + d * seed) as f32 * 0.71).sin()
        })
    };
    let (q, k, v) = (wave(1), wave(3), wave(5));
    let x = Inputs::new(q.view(), k.view(), v.view());

    // Each query attends to the last 512 tokens, including its own.
    let window = Window::causal(512)?;
    let attended = softmax::chunk(&x, &window, &cx)?;
    let d = Cotangent { out: attended.out.view(), lse: None };
    let gradient = softmax::backward(&x, &window, attended.view(), &d, &cx)?;
    println!("output {:?}, gradient to the keys {:?}", attended.out.shape(), gradient.k.shape());

    // Decoding: only the last token is a query, and `offset` is its position among the keys.
    let last = Inputs { q: q.slice(s![.., tokens - 1.., .., ..]), offset: tokens - 1, ..x };
    let one = softmax::step(&last, &window, &cx)?;
    let difference = (&one.out - &attended.out.slice(s![.., tokens - 1.., .., ..])).fold(0.0f32, |m, x| m.max(x.abs()));
    println!("decoding the last token differs from the whole by {difference:e}");
    Ok(())
}
