//! The attention of one BERT-base layer, forward and backward: dense, and with DeepSpeed's published patterns.
//!
//! `cargo run --release -p longreach-bench --bin layer -- [LONGEST]`, in turn with `bench/peers/layer.py`

use longreach_attention::softmax::dense::Dense;
use longreach_attention::softmax::{self, Cotangent, Inputs, Pattern, Sizes, deepspeed};
use longreach_bench::Times;
use longreach_simd::Cx;
use ndarray::Array4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let longest: usize = std::env::args().nth(1).map_or(Ok(16384), |n| n.parse())?;
    let cx = Cx::new(2);
    let mut length = 4096;
    while length <= longest {
        let x = Array4::from_shape_fn((1, length, 12, 64), |(_, t, h, d)| ((t * 31 + h * 7 + d) as f32 * 0.713).sin());
        let inputs = Inputs::new(x.view(), x.view(), x.view());
        let of = Sizes { batch: 1, heads: 12, queries: 0..length, keys: length };
        let layout = |json: String| deepspeed::Config::parse(&json)?.layout(&of, 0);
        // Local windows of about √n tokens, rounded to blocks.
        let local = ((length as f64).sqrt() / 16.0).round() as usize;
        let patterns: [(String, Box<dyn Pattern>); 4] = [
            ("dense".into(), Box::new(Dense { causal: false })),
            ("bslongformer, blocks of 16".into(), Box::new(layout(r#"{"mode":"bslongformer","block":16}"#.into())?)),
            ("bslongformer, blocks of 64".into(), Box::new(layout(r#"{"mode":"bslongformer","block":64}"#.into())?)),
            (
                format!("fixed, {local} local blocks of 16"),
                Box::new(layout(format!(r#"{{"mode":"fixed","block":16,"num_local_blocks":{local}}}"#))?),
            ),
        ];
        for (name, pattern) in &patterns {
            let times = Times::of(3, || {
                let output = softmax::chunk(&inputs, &**pattern, &cx).expect("valid inputs");
                let d = Cotangent { out: x.view(), lse: None };
                softmax::backward(&inputs, &**pattern, output.view(), &d, &cx).expect("valid inputs");
            });
            let (least, most) = times.spread();
            let [median, least, most] = [times.median(), least, most].map(|seconds| 1e3 * seconds);
            println!("{length} tokens, {name}: {median:.0} ms ({least:.0} to {most:.0})");
        }
        length *= 2;
    }
    Ok(())
}
