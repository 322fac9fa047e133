//! Loading, prefill and decoding of a checkpoint, with the machine's read bandwidth measured in the same run.
//!
//! `cargo run --release -p longreach-bench --bin models -- DIR [f32|bf16] [TOKENS] [RUNS]`

use std::time::Instant;

use longreach_bench::{Memory, Times};
use longreach_engine::Engine;
use longreach_models::{DType, Progress};

/// The allocator of the command-line program.
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
    // Decoding a token reads every weight once, except an embedding that is not tied to the head, of which it reads
    // one row.
    let c = &engine.model.description.decoder;
    let looked_up =
        if c.words == (longreach_nn::WordsConfig::Table { tied: true }) { 0 } else { c.vocabulary * c.hidden };
    let bytes = (engine.model.parameters() - looked_up) * dtype.bytes();
    let memory = Memory::new(bytes);
    let mut session = engine.session();
    session.read(&ids[..16.min(tokens)])?;
    let mut next = ids.iter().cycle();
    let (decode, reading) = Times::in_turn(
        32 * runs,
        || {
            let id = next.next().expect("a cycle does not end");
            session.read(&[*id]).expect("ids below the vocabulary");
        },
        || memory.read(&longreach_burn::context()),
    );
    let rate = |times: &Times, n: usize| {
        let (least, most) = times.spread();
        format!("{:.1} tok/s ({:.1} to {:.1})", n as f64 / times.median(), n as f64 / most, n as f64 / least)
    };
    println!("{} {} on {threads} threads, {}", engine.name, dtype.name(), longreach_burn::context().isa);
    println!("load    {loading:.3} s");
    println!("prefill {} over {tokens} tokens", rate(&prefill, tokens));
    let (fast, slow) = decode.quartiles();
    println!("decode  {:.1} tok/s (quartiles {:.1} and {:.1})", 1.0 / decode.median(), 1.0 / slow, 1.0 / fast);
    println!(
        "roof    {:.1} tok/s: {:.0} MB of weights at {:.1} GB/s, read in turn with the decoding; reached {:.0} %",
        1.0 / reading.median(),
        bytes as f64 / 1e6,
        bytes as f64 / reading.median() / 1e9,
        100.0 * reading.median() / decode.median()
    );
    Ok(())
}
