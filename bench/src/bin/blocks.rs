//! The speed of products with block-quantised weights: for one row of `x`, the bytes of weights read in a second,
//! compared with reading alone; for many rows, multiplications and additions in a second.
//!
//! `cargo run --release -p longreach-bench --bin blocks -- [THREADS] [FORMAT,…]`

use longreach_bench::{Memory, Times};
use longreach_simd::Cx;
use longreach_simd::norm::Rows;
use longreach_simd::product::{Blocks, Format, Weights, linear};

/// `[out, in]`
const SHAPE: [usize; 2] = [4096, 14336];

/// Bytes of weights that are walked, more than the caches hold.
const WALKED: usize = 400 << 20;

/// Numbers of rows that are measured with many of them.
const MANY: [usize; 2] = [192, 512];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let threads = args.next().map_or(Ok(2), |n| n.parse())?;
    let wanted: Vec<Format> = match args.next() {
        Some(names) => names.split(',').map(str::parse).collect::<Result<_, _>>()?,
        None => Format::ALL.to_vec(),
    };
    let cx = Cx::new(threads);
    let memory = Memory::new(WALKED);
    let [n, k] = SHAPE;
    println!("{n} × {k}, {threads} threads, {}; medians", cx.isa);
    println!("| format | one row, GB/s | of reading | four rows, GB/s | {} rows, GOP/s | {} rows |", MANY[0], MANY[1]);
    println!("| --- | --- | --- | --- | --- | --- |");
    for format in wanted {
        let matrices = matrices(&cx, format)?;
        let bytes: usize = matrices.iter().map(|w| w.bytes().len()).sum();
        let x: Vec<f32> = (0..MANY[1] * k).map(|i| ((i * 7919 + 13) % 2003) as f32 / 1001.5 - 1.0).collect();
        let mut out = vec![0.0; MANY[1] * n];
        let mut run = |w: &Blocks, rows: usize| {
            let x = Rows { data: &x, count: rows, width: k, stride: k };
            linear(&cx, x, Weights::Blocks(w), None, &mut out[..rows * n]);
        };
        let (one, reading) = Times::in_turn(11, || matrices.iter().for_each(|w| run(w, 1)), || memory.read(&cx));
        let four = Times::of(5, || matrices.iter().for_each(|w| run(w, 4)));
        let rate = |times: &Times, bytes: usize| bytes as f64 / times.median() / 1e9;
        let many = MANY.map(|rows| {
            let times = Times::of(5, || run(&matrices[0], rows));
            2.0 * (rows * n * k) as f64 / times.median() / 1e9
        });
        println!(
            "| {format} | {:.1} | {:.2} of {:.1} | {:.1} | {:.0} | {:.0} |",
            rate(&one, bytes),
            rate(&one, bytes) / rate(&reading, WALKED),
            rate(&reading, WALKED),
            rate(&four, bytes),
            many[0],
            many[1],
        );
    }
    Ok(())
}

/// As many matrices as are walked, of random numbers; copies of one, as the numbers do not matter.
fn matrices(cx: &Cx, format: Format) -> Result<Vec<Blocks>, Box<dyn std::error::Error>> {
    let [n, k] = SHAPE;
    let some: Vec<f32> =
        (0..64 * k).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 8 & 0xffff) as f32 / 32768.0 - 1.0).collect();
    let rows = Blocks::quantise(cx, format, &some, k, None)?;
    let matrix = || Blocks::from_vec(format, SHAPE, rows.bytes().repeat(n / 64));
    let count = WALKED.div_ceil(rows.bytes().len() * n / 64);
    Ok(std::iter::repeat_with(matrix).take(count).collect::<Result<_, _>>()?)
}
