//! Softmax attention: arithmetic rate against length.
//!
//! `cargo run --release -p longreach-bench --bin attention -- [LONGEST] [WIDTH]`

use longreach_attention::softmax::dense;
use longreach_bench::Times;
use longreach_simd::Cx;
use ndarray::Array4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let longest: usize = args.next().map_or(Ok(16384), |n| n.parse())?;
    let width: usize = args.next().map_or(Ok(64), |n| n.parse())?;
    let heads = 768 / width;
    let cx = Cx::new(2);
    let mut length = 1024;
    while length <= longest {
        let x = Array4::from_shape_fn((1, length, heads, width), |(_, t, h, d)| {
            ((t * 31 + h * 7 + d) as f32 * 0.713).sin()
        });
        let inputs = dense::Inputs {
            q: x.view(),
            k: x.view(),
            v: x.view(),
            scale: (width as f32).powf(-0.5),
            softcap: None,
            bias: None,
            sinks: None,
            causal: Some(0),
        };
        let runs = (1 << 28) / (length * length) + 3;
        let times = Times::of(runs, || {
            dense::chunk(&inputs, &cx).expect("valid inputs");
        });
        let flops = 2.0 * (length * length * heads * width) as f64;
        let (least, most) = times.spread();
        println!(
            "dense causal, {heads} x {width}, {length} tokens: {:.0} GFLOP/s ({:.0} to {:.0})",
            flops / times.median() / 1e9,
            flops / most / 1e9,
            flops / least / 1e9
        );
        length *= 4;
    }
    Ok(())
}
