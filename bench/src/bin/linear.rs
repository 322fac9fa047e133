//! Mechanisms with a matrix state: the time of every form, compared with the matrix products of a chunked form and
//! with dense attention.
//!
//! `cargo run --release -p longreach-bench --bin linear -- [TOKENS] [HEADS] [WIDTH] [NAME,…]`

use longreach_attention::Form;
use longreach_attention::operation::{Sample, named};
use longreach_bench::Times;
use longreach_simd::Cx;
use longreach_simd::product::{self, Accumulate, Matrix};
use serde_json::json;

// The allocator of the command-line program, which reuses freed memory. The system's allocator would return large
// blocks to the system, and every call would page in and clear new ones.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The chunk length with which operations are counted.
const CHUNK: f64 = 64.0;

/// The number of multiply-adds per token and head in the chunked form. The lower triangle of a chunk's scores counts
/// `C K`, and a product with the state `2 K²`.
#[derive(Clone, Copy)]
enum Rule {
    /// `q kᵀ` and its product with `v`; the state is read and written: `2 C K + 4 K²`.
    Write,
    /// Also `k kᵀ` and a triangular solve; the state is also read by the keys: `4 C K + 6 K²`.
    Own,
    /// `q kᵀ`, `q bᵀ`, `a kᵀ`, `a bᵀ`, each followed by a product with rows, or by a triangular solve for the last;
    /// the state is read and written twice: `8 C K + 8 K²`.
    General,
}

impl Rule {
    fn operations(self, k: f64) -> f64 {
        match self {
            Rule::Write => 2.0 * CHUNK * k + 4.0 * k * k,
            Rule::Own => 4.0 * CHUNK * k + 6.0 * k * k,
            Rule::General => 8.0 * CHUNK * k + 8.0 * k * k,
        }
    }
}

const NAMES: &[(&str, Rule)] = &[
    ("scan", Rule::Write),
    ("retention", Rule::Write),
    ("linear_attention", Rule::Write),
    ("gla", Rule::Write),
    ("hgrn2", Rule::Write),
    ("rwkv6", Rule::Write),
    ("delta_rule", Rule::Own),
    ("gated_delta", Rule::Own),
    ("kda", Rule::Own),
    ("rwkv7", Rule::General),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |default| args.next().map_or(Ok(default), |n| n.parse::<usize>());
    let (tokens, heads, width) = (next(4096)?, next(12)?, next(64)?);
    let wanted = args.next();
    let wanted = |name: &str| wanted.as_ref().is_none_or(|names| names.split(',').any(|n| n == name));
    let cx = Cx::new(2);
    let n = 1024;
    let (a, mut out) = (vec![0.5f32; n * n], vec![0.0f32; n * n]);
    let size = product::Sizes { m: n, n, k: n };
    let products = 2.0 * (n * n * n) as f64;
    let mut product =
        || product::matmul(&cx, size, Matrix::rows(&a, n), Matrix::rows(&a, n), Accumulate::Replace, &mut out, n);
    let sample = Sample { batch: 1, tokens, heads, width, seed: 1 };
    // Every measurement alternates with the same matrix product, so that other load on the machine slows both.
    let dense = {
        let (operation, parameters) = (named("dense")?, json!({"causal": true}));
        let inputs = operation.sample(&sample);
        let run = || drop(operation.forward(&inputs, &parameters, Form::Chunk, &cx).expect("valid"));
        let (dense, beside) = Times::in_turn(5, run, &mut product);
        println!("products of {n}: {:.0} GFLOP/s", products / beside.median() / 1e9);
        println!("dense, causal: {:.2} ms", 1e3 * dense.median());
        dense.median() / beside.median()
    };
    let k = width as f64;
    for (name, rule) in NAMES.iter().filter(|(name, _)| wanted(name)) {
        let operation = named(name)?;
        let inputs = operation.sample(&sample);
        let parameters = json!({});
        let work = rule.operations(k) * (tokens * heads) as f64;
        let report = |form: &str, (times, product): (Times, Times), work: f64, beside: bool| {
            let of_dense = match beside {
                true => format!(", {:.1} x dense", dense * product.median() / times.median()),
                false => String::new(),
            };
            println!(
                "{name:18} {form:10} {:8.2} ms ({:.2} to {:.2}), {:4.0} ns a token and head, {:3.0} % of the products' rate{of_dense}",
                1e3 * times.median(),
                1e3 * times.quartiles().0,
                1e3 * times.quartiles().1,
                1e9 * times.median() / (tokens * heads) as f64,
                100.0 * (work / times.median()) / (products / product.median()),
            );
        };
        for form in [Form::Chunk, Form::Recurrent] {
            if operation.signature().forms.contains(&form) {
                let run = || drop(operation.forward(&inputs, &parameters, form, &cx).expect("valid"));
                report(form.name(), Times::in_turn(9, run, &mut product), work, true);
            }
        }
        let outputs = operation.forward(&inputs, &parameters, Form::Recurrent, &cx)?;
        let mut given = inputs.clone();
        given.insert("do".into(), outputs["o"].clone());
        // The backward pass has two and a half times as many products.
        let run = || drop(operation.backward(&given, &parameters, &cx).expect("valid"));
        report("backward", Times::in_turn(7, run, &mut product), 2.5 * work, false);
    }
    Ok(())
}
