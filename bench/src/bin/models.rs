//! Loading, prefill and decoding of a checkpoint, with the machine's read bandwidth measured in the same run.
//!
//! `cargo run --release -p longreach-bench --bin models -- DIR [f32|bf16] [TOKENS] [RUNS]`

use std::time::Instant;

use longreach_bench::{Times, read_bandwidth};
use longreach_engine::Engine;
use longreach_models::{DType, Progress};

/// The program's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let model = args.first().ok_or("usage: models DIR [f32|bf16] [TOKENS] [RUNS]")?;
    let dtype = match args.get(1).map(String::as_str) {
        Some("bf16") => DType::Bf16,
        _ => DType::F32,
    };
    let tokens: usize = args.get(2).map_or(Ok(1024), |n| n.parse())?;
    let runs: usize = args.get(3).map_or(Ok(5), |n| n.parse())?;
    let start = Instant::now();
    let engine = Engine::load(model, Some(dtype), Progress::Hidden)?;
    let loading = start.elapsed().as_secs_f64();
    let vocabulary = engine.model.decoder.vocabulary() as u32;
    let ids: Vec<u32> = (0..tokens as u32).map(|i| (i * 7919 + 13) % vocabulary).collect();
    let threads = longreach_burn::context().team.threads();

    let prefill = Times::of(runs, || engine.session().read(&ids).expect("ids below the vocabulary"));
    let mut session = engine.session();
    session.read(&ids[..16.min(tokens)])?;
    let steps = 64;
    let decode = Times::of(runs, || {
        for id in ids.iter().cycle().take(steps) {
            session.read(&[*id]).expect("ids below the vocabulary");
        }
    });
    let bandwidth = read_bandwidth(threads);
    // A token reads every weight once, but of an embedding that is not the head also only its own row.
    let c = &engine.model.description.decoder;
    let looked_up = if c.tied { 0 } else { c.vocabulary * c.hidden };
    let bytes = (engine.model.parameters() - looked_up) * dtype.bytes();
    let roof = bandwidth / bytes as f64;
    let rate = |times: &Times, n: usize| {
        let (least, most) = times.spread();
        format!("{:.1} tok/s ({:.1} to {:.1})", n as f64 / times.median(), n as f64 / most, n as f64 / least)
    };
    println!("{} {} on {threads} threads, {}", engine.name, dtype.name(), longreach_burn::context().isa);
    println!("load    {loading:.3} s");
    println!("prefill {} over {tokens} tokens", rate(&prefill, tokens));
    println!("decode  {}", rate(&decode, steps));
    println!(
        "read bandwidth {:.1} GB/s, weights {:.0} MB: roof of decoding {roof:.1} tok/s, reached {:.0} %",
        bandwidth / 1e9,
        bytes as f64 / 1e6,
        100.0 * steps as f64 / decode.median() / roof
    );
    Ok(())
}
