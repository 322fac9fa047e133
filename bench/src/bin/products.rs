//! The speed of products with weights in the shapes of base-size encoders, compared with the machine's peak rate of
//! multiply-adds.
//!
//! `cargo run --release -p longreach-bench --bin products -- [ROWS] [THREADS]`

use half::bf16;
use longreach_bench::Times;
use longreach_simd::norm::Rows;
use longreach_simd::product::{self, Int8, Weights};
use longreach_simd::{Cx, Kernel, Lanes};

/// Multiply-adds in registers: the upper limit of every product.
struct Fma(usize);

impl Kernel for Fma {
    type Output = f32;
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> f32 {
        let mut acc = [s.splat(0.0); 24];
        let (x, y) = (s.splat(std::hint::black_box(1.0)), s.splat(std::hint::black_box(0.5)));
        for _ in 0..self.0 {
            for acc in &mut acc {
                *acc = s.fma(x, y, *acc);
            }
        }
        acc.into_iter().map(|acc| s.sum(acc)).sum::<f32>() / S::LANES as f32
    }
}

/// `(out, in)` of BERT's and ModernBERT's layers, and one shape whose rows are a page apart.
const SHAPES: [[usize; 2]; 5] = [[2304, 768], [768, 768], [768, 1152], [3072, 768], [768, 3072]];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(|n| n.parse::<usize>());
    let mut next = |default| args.next().unwrap_or(Ok(default));
    let (rows, threads) = (next(1024)?, next(2)?);
    let cx = Cx::new(threads);
    let number = |i: usize| ((i * 7919 + 13) % 2003) as f32 / 1001.5 - 1.0;
    println!("{rows} rows, {threads} threads; GFLOP/s, median (slowest–fastest)");
    println!("| out × in | f32 | bf16 | int8 | registers |\n| --- | --- | --- | --- | --- |");
    for [n, k] in SHAPES {
        let x: Vec<f32> = (0..rows * k).map(number).collect();
        let w: Vec<f32> = (0..n * k).map(number).collect();
        let half: Vec<bf16> = w.iter().map(|x| bf16::from_f32(*x)).collect();
        let int8 = Int8::new(&cx, &w, k);
        let mut out = vec![0.0; rows * n];
        let mut rate = |w: Weights<'_>| {
            let times = Times::of(15, || product::linear(&cx, Rows::contiguous(&x, k), w, None, &mut out));
            shown(2.0 * (rows * n * k) as f64, &times)
        };
        let (full, half, int8) = (rate(Weights::F32(&w)), rate(Weights::Bf16(&half)), rate(Weights::Int8(&int8)));
        let steps = 1 << 18;
        let lanes = cx.isa.run(Width) as f64;
        let roof = Times::of(5, || {
            cx.team.for_each(0..threads, |_| {
                std::hint::black_box(cx.isa.run(Fma(steps)));
            });
        });
        let roof = shown(2.0 * 24.0 * lanes * (steps * threads) as f64, &roof);
        println!("| {n} × {k} | {full} | {half} | {int8} | {roof} |");
    }
    Ok(())
}

fn shown(operations: f64, times: &Times) -> String {
    let rate = |seconds: f64| operations / seconds / 1e9;
    let (least, most) = times.spread();
    format!("{:.0} ({:.0}–{:.0})", rate(times.median()), rate(most), rate(least))
}

struct Width;

impl Kernel for Width {
    type Output = usize;
    #[inline(always)]
    fn run<S: Lanes>(self, _: S) -> usize {
        S::LANES
    }
}
