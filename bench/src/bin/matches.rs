//! MaxSim, the sum of best matches, over many passages, compared with the rate of matrix products.
//!
//! `cargo run --release -p longreach-bench --bin matches -- [PASSAGES] [TOKENS] [WIDTH] [QUERIES]`

use longreach_bench::Times;
use longreach_search::matches;
use longreach_simd::Cx;
use longreach_simd::product::{self, Accumulate, Matrix};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(|n| n.parse::<usize>());
    let mut next = |default| args.next().unwrap_or(Ok(default));
    let (passages, tokens, width, queries) = (next(100_000)?, next(128)?, next(128)?, next(32)?);
    let cx = Cx::new(2);
    let number = |i: usize| ((i * 7919 + 13) % 2003) as f32 / 1001.5 - 1.0;
    let query: Vec<f32> = (0..queries * width).map(number).collect();
    let all: Vec<f32> = (0..passages * tokens * width).map(number).collect();
    let bounds: Vec<usize> = (0..=passages).map(|p| p * tokens).collect();
    let n = 1024;
    let (a, mut out) = (vec![0.5f32; n * n], vec![0.0f32; n * n]);
    let size = product::Sizes { m: n, n, k: n };
    let (mut shares, mut seconds) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let product = Times::of(5, || {
            product::matmul(&cx, size, Matrix::rows(&a, n), Matrix::rows(&a, n), Accumulate::Replace, &mut out, n);
        });
        let rate = 2.0 * (n * n * n) as f64 / product.median();
        let found = Times::of(1, || {
            std::hint::black_box(matches::scores(&cx, &query, width, &all, &bounds));
        });
        let own = 2.0 * (passages * tokens * width * queries) as f64 / found.median();
        println!("{:.0} of {:.0} GFLOP/s, {:.3} s a query", own / 1e9, rate / 1e9, found.median());
        shares.push(own / rate);
        seconds.push(found.median());
    }
    shares.sort_by(f64::total_cmp);
    seconds.sort_by(f64::total_cmp);
    println!(
        "{passages} passages of {tokens} tokens, {queries} by {width}: {:.0} % of the products' rate ({:.0} to {:.0}), {:.3} s",
        100.0 * shares[2],
        100.0 * shares[0],
        100.0 * shares[4],
        seconds[2]
    );
    Ok(())
}
