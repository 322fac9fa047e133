//! Softmax attention: arithmetic rate forward and backward against length, and one query against a cache.
//!
//! `cargo run --release -p longreach-bench --bin attention -- [LONGEST] [WIDTH]`

use longreach_attention::softmax::{self, Cotangent, Inputs, dense::Dense};
use longreach_bench::Times;
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
        let d = Cotangent { out: x.view(), lse: None };
        let times = Times::of(runs, || {
            softmax::backward(&inputs, &causal, &output, &d, &cx).expect("valid inputs");
        });
        report("dense causal backward", 2.5 * flops, "GFLOP/s", times);
        let last = Inputs { q: x.slice(s![.., length - 1.., .., ..]), offset: length - 1, ..inputs };
        let times = Times::of(4 * runs, || {
            softmax::step(&last, &causal, &cx).expect("valid inputs");
        });
        report("one query against the cache", 8.0 * (length * heads * width) as f64, "GB/s", times);
        length *= 4;
    }
    Ok(())
}
