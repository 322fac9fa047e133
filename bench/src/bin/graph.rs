//! The cost of recording operators with several outputs: forward and backward of operators through Burn's autodiff, f32,
//! batch 1, 12 heads of 64 channels.
//!
//! `cargo run --release -p longreach-bench --bin graph -- [TOKENS]`; the peak is that of the whole process, so a single
//! operator is measured as `graph -- TOKENS NAME`.

use burn::tensor::{Distribution, Tensor};
use longreach_attention::softmax::Patterned;
use longreach_attention::softmax::window::Window;
use longreach_bench::Times;
use longreach_burn as ops;

/// The allocator of the command-line program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The heads and their width.
const HEADS: [usize; 2] = [12, 64];

fn random<const D: usize>(shape: [usize; D], least: f64, most: f64) -> Tensor<D> {
    let x = Tensor::random(shape, Distribution::Uniform(least, most), &longreach_burn::cpu());
    x.autodiff().require_grad()
}

fn attention(tokens: usize) -> Tensor<4> {
    let x = || random([1, tokens, HEADS[0], HEADS[1]], -1.0, 1.0);
    let options = ops::AttentionOptions::new(Patterned::new(Window { left: 64, right: 0 }), HEADS[1]);
    ops::attention(ops::Attention { q: x(), k: x(), v: x(), bias: None, sinks: None, options }).0
}

fn retention(tokens: usize) -> Tensor<4> {
    let x = || random([1, tokens, HEADS[0], HEADS[1]], -1.0, 1.0);
    let (g, state) = (random([HEADS[0]], -0.1, 0.0), random([1, HEADS[0], HEADS[1], HEADS[1]], -1.0, 1.0));
    ops::retention(ops::Retention { q: x(), k: x(), v: x(), g, state, scale: 0.125 }).0
}

fn short_conv(tokens: usize) -> Tensor<3> {
    let width = HEADS[0] * HEADS[1];
    ops::short_conv(ops::Conv {
        x: random([1, tokens, width], -1.0, 1.0),
        weight: random([4, width], -1.0, 1.0),
        bias: None,
        state: random([1, 3, width], -1.0, 1.0),
        activation: ops::ConvActivation::Silu,
    })
    .0
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tokens: usize = std::env::args().nth(1).map_or(Ok(2048), |n| n.parse())?;
    let only = std::env::args().nth(2);
    let asked = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let report = |name: &str, times: Times| {
        let (low, high) = times.quartiles();
        println!("{name}, {tokens} tokens: {:.2} ms ({:.2} to {:.2})", times.median() * 1e3, low * 1e3, high * 1e3);
    };
    if asked("attention") {
        report("attention", Times::of(40, || drop(attention(tokens).sum().backward())));
    }
    if asked("retention") {
        report("retention", Times::of(40, || drop(retention(tokens).sum().backward())));
    }
    if asked("short_conv") {
        report("short_conv", Times::of(40, || drop(short_conv(tokens).sum().backward())));
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown");
    println!("peak {}", peak.trim());
    Ok(())
}
