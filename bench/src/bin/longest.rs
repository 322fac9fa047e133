//! Peak memory of one training step of attention through Burn: 12 heads of width 64, f32, a window of 256 on both
//! sides.
//!
//! `cargo run --release -p longreach-bench --bin longest -- TOKENS`; `bench/peers/longest.py` is eager dense attention in PyTorch.

use burn::tensor::{Distribution, Tensor};
use longreach_attention::softmax::Patterned;
use longreach_attention::softmax::window::Window;
use longreach_burn::{Attention, AttentionOptions, attention};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tokens: usize = std::env::args().nth(1).ok_or("TOKENS is missing")?.parse()?;
    let device = longreach_burn::cpu();
    let random = || {
        let x: Tensor<4> = Tensor::random([1, tokens, 12, 64], Distribution::Uniform(-1.0, 1.0), &device);
        x.autodiff().require_grad()
    };
    let (q, k, v) = (random(), random(), random());
    let options = AttentionOptions::new(Patterned::new(Window { left: 256, right: 256 }), 64);
    let (q_, k_, v_) = (q.clone(), k.clone(), v.clone());
    let (out, _) = attention(Attention { q: q_, k: k_, v: v_, bias: None, sinks: None, options });
    let gradients = (out.clone() * out).sum().backward();
    assert!(q.grad(&gradients).is_some() && k.grad(&gradients).is_some() && v.grad(&gradients).is_some());
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    println!("{tokens} tokens: peak {:.2} GiB", kilobytes / (1 << 20) as f64);
    Ok(())
}
