//! The cost of a token against the depth of a text: a small random MiniCPM 4 whose attention is sparse beyond 8,192 tokens,
//! and the same model with dense attention.
//!
//! `cargo run --release -p longreach-bench --bin minicpm -- [LONGEST]`

use std::time::Instant;

use longreach_bench::Times;
use longreach_models::Model;
use longreach_nn::Cache;

/// The allocator of the command-line program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tokens of a chunk of a prompt, as the engine reads it.
const CHUNK: usize = 512;

/// A model with the heads of MiniCPM4-0.5B and a sixth of its layers.
fn model(sparse: &str) -> Result<Model, longreach_models::Error> {
    let config = format!(
        r#"{{"model_type": "minicpm", "vocab_size": 1024, "hidden_size": 1024, "intermediate_size": 4096,
            "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 2, "max_position_embeddings": 131072,
            "sparse_config": {sparse}}}"#
    );
    Model::random("config.json", &config, 7, &longreach_burn::cpu())
}

/// Reads the tokens from `from` to `to` and returns the seconds that it took.
fn read(model: &Model, cache: &mut Cache, from: usize, to: usize) -> f64 {
    let ids: Vec<u32> = (from..to).map(|i| (i * 7919 + 13) as u32 % 1024).collect();
    let start = Instant::now();
    std::hint::black_box(model.decoder.forward(&ids, cache, None));
    start.elapsed().as_secs_f64()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let longest: usize = std::env::args().nth(1).map_or(Ok(32_768), |n| n.parse())?;
    let models = [model("null")?, model("{}")?];
    let mut caches = [0, 1].map(|i| models[i].decoder.start(1));
    let cx = longreach_burn::context();
    println!("{} threads, {}", cx.team.threads(), cx.isa);
    println!("depth   a token: dense, sparse, ratio      {CHUNK} tokens: dense, sparse, ratio");
    let (mut depth, mut next) = (0, CHUNK);
    while depth < longest {
        let chunk = [0, 1].map(|i| read(&models[i], &mut caches[i], depth, depth + CHUNK));
        depth += CHUNK;
        if depth < next.min(longest) {
            continue;
        }
        next *= 2;
        let [mut dense, mut sparse] = caches.clone();
        let mut at = [depth; 2];
        let mut step = |i: usize, cache: &mut Cache| {
            read(&models[i], cache, at[i], at[i] + 1);
            at[i] += 1;
        };
        let step = std::cell::RefCell::new(&mut step);
        let (dense, sparse) =
            Times::in_turn(32, || step.borrow_mut()(0, &mut dense), || step.borrow_mut()(1, &mut sparse));
        let (dense, sparse) = (1e3 * dense.median(), 1e3 * sparse.median());
        let [of_dense, of_sparse] = chunk.map(|seconds| 1e3 * seconds);
        println!(
            "{depth:6}  {dense:8.2} ms {sparse:8.2} ms {:6.2}      {of_dense:8.1} ms {of_sparse:8.1} ms {:6.2}",
            sparse / dense,
            of_sparse / of_dense
        );
    }
    Ok(())
}
