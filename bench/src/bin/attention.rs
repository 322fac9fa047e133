//! Softmax attention: throughput of forward and backward by length, and of one query against a KV cache.
//!
//! `cargo run --release -p longreach-bench --bin attention -- [LONGEST] [WIDTH]`

use longreach_attention::softmax::{self, Cotangent, Inputs, dense::Dense};
use longreach_bench::{Memory, Times};
use longreach_simd::Cx;
use ndarray::{Array4, s};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let longest: usize = args.next().map_or(Ok(16384), |n| n.parse())?;
    let width: usize = args.next().map_or(Ok(64), |n| n.parse())?;
    let heads = 768 / width;
    let cx = Cx::new(2);
    let causal = Dense { causal: true };
    let mut length = 1024;
    while length <= longest {
        let x = Array4::from_shape_fn((1, length, heads, width), |(_, t, h, d)| {
            ((t * 31 + h * 7 + d) as f32 * 0.713).sin()
        });
        let inputs = Inputs::new(x.view(), x.view(), x.view());
        let runs = (1 << 28) / (length * length) + 3;
        let flops = 2.0 * (length * length * heads * width) as f64;
        let report = |what: &str, work: f64, unit: &str, times: Times| {
            let (least, most) = times.spread();
            let [median, low, high] = [times.median(), most, least].map(|seconds| work / seconds / 1e9);
            println!("{what}, {heads} x {width}, {length} tokens: {median:.1} {unit} ({low:.1} to {high:.1})");
        };
        let mut output = softmax::chunk(&inputs, &causal, &cx)?;
        let times = Times::of(runs, || output = softmax::chunk(&inputs, &causal, &cx).expect("valid inputs"));
        report("dense causal forward", flops, "GFLOP/s", times);
        let narrow = x.mapv(half::bf16::from_f32);
        let (single, narrow) = (&inputs, Inputs::new(narrow.view(), narrow.view(), narrow.view()));
        let of_f32 = || drop(softmax::chunk(single, &causal, &cx).expect("valid inputs"));
        let of_bf16 = || drop(softmax::chunk(&narrow, &causal, &cx).expect("valid inputs"));
        let (single, narrow) = Times::in_turn(runs, of_f32, of_bf16);
        println!("inputs in bf16: {:.2} times as fast as in f32, in turn", single.median() / narrow.median());
        let d = Cotangent { out: x.view(), lse: None };
        let times = Times::of(runs, || {
            softmax::backward(&inputs, &causal, output.view(), &d, &cx).expect("valid inputs");
        });
        report("dense causal backward", 2.5 * flops, "GFLOP/s", times);
        length *= 4;
    }
    cache(32768, heads, width, &cx)
}

/// One query against a KV cache, compared with reading the same amount of memory.
fn cache(length: usize, heads: usize, width: usize, cx: &Cx) -> Result<(), Box<dyn std::error::Error>> {
    let wave = |seed: f32| {
        Array4::from_shape_fn((1, length, heads, width), |(_, t, h, d)| ((t * 31 + h * 7 + d) as f32 * seed).sin())
    };
    let (k, v) = (wave(0.713), wave(0.317));
    let x = Inputs { offset: length - 1, ..Inputs::new(k.slice(s![.., ..1, .., ..]), k.view(), v.view()) };
    softmax::step(&x, &Dense { causal: true }, cx)?;
    let bytes = 8 * length * heads * width;
    let memory = Memory::new(bytes);
    let step = || drop(softmax::step(&x, &Dense { causal: true }, cx).expect("valid inputs"));
    let (steps, reads) = Times::in_turn(60, step, || memory.read(cx));
    let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
    println!(
        "one query against a cache of {length}, {heads} x {width}: {:.1} GB/s, reading as much {:.1} GB/s: {:.0} % ({:.0} to {:.0} by quartiles)",
        rate(steps.median()),
        rate(reads.median()),
        100.0 * reads.median() / steps.median(),
        100.0 * reads.quartiles().0 / steps.quartiles().1,
        100.0 * reads.quartiles().1 / steps.quartiles().0,
    );
    Ok(())
}
