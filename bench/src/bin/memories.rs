//! Infini-attention compared with its local attention alone, forward and backward, and each with itself on longer
//! texts.
//!
//! `cargo run --release -p longreach-bench --bin memories [TOKENS]`

use longreach_attention::memory::infini::{self, Inputs, State};
use longreach_attention::softmax::{self, Cotangent, dense::Dense};
use longreach_bench::Times;
use longreach_simd::Cx;
use ndarray::{Array1, Array4, ArrayView4};

const HEADS: usize = 12;
const WIDTH: usize = 64;

fn wave(seed: usize, tokens: usize) -> Array4<f32> {
    Array4::from_shape_fn((1, tokens, HEADS, WIDTH), |(_, t, h, c)| ((seed + t * 31 + h * 7 + c) as f32 * 0.713).sin())
}

fn cut(x: &Array4<f32>, segment: usize) -> ArrayView4<'_, f32> {
    let shape = (x.dim().1 / segment, segment, HEADS, WIDTH);
    x.view().into_shape_with_order(shape).expect("whole segments")
}

fn main() {
    let tokens: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1 << 14);
    let cx = Cx::new(std::thread::available_parallelism().map_or(1, usize::from));
    let [q, k, v, d_o] = [1, 2, 3, 4].map(|seed| wave(seed, tokens));
    let gate = Array1::zeros(HEADS);
    println!("{tokens} tokens, {HEADS} heads of {WIDTH}, {} on {} threads", cx.isa, cx.team.threads());
    println!(
        "segment  update  forward ms  ratio  backward ms  ratio   (ratio: over attention inside the segments alone)"
    );
    for segment in [512, 1024, 2048] {
        let local = softmax::Inputs::new(cut(&q, segment), cut(&k, segment), cut(&v, segment));
        let d_local = cut(&d_o, segment);
        let past = Dense { causal: true };
        for delta in [false, true] {
            let scale = (WIDTH as f32).powf(-0.5);
            let x = Inputs {
                q: q.view(),
                k: k.view(),
                v: v.view(),
                local: None,
                gate: gate.view(),
                segment,
                delta,
                epsilon: 1e-10,
                scale,
            };
            let state = || State::new(1, HEADS, WIDTH, WIDTH);
            let forward = Times::in_turn(
                9,
                || drop(softmax::chunk(&local, &past, &cx).expect("attention")),
                || drop(infini::chunk(&x, &mut state(), &cx).expect("attention and memory")),
            );
            let d = Cotangent { out: d_local.view(), lse: None };
            let before = state();
            let zeros = before.memory.view();
            // The backward pass recomputes its attention.
            let back = Times::in_turn(
                9,
                || {
                    let output = softmax::chunk(&local, &past, &cx).expect("attention");
                    drop(softmax::backward(&local, &past, output.view(), &d, &cx).expect("a gradient"));
                },
                || drop(infini::backward(&x, &before, d_o.view(), zeros, zeros, &cx).expect("a gradient")),
            );
            let update = if delta { "delta" } else { "linear" };
            let [forward, back] = [forward, back].map(|(near, all)| (1e3 * all.median(), all.median() / near.median()));
            println!("{segment:7}  {update:6}  {:10.1}  {:5.2}  {:11.1}  {:5.2}", forward.0, forward.1, back.0, back.1);
        }
    }
}
