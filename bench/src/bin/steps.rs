//! One token through states beyond the cache, in turn with reading and writing as many bytes.
//!
//! `cargo run --release -p longreach-bench --bin steps -- [HEADS] [WIDTH] [NAME,…]`

use longreach_attention::Sequences;
use longreach_attention::delta::{delta_rule, rwkv7};
use longreach_attention::linear::{gla, scan};
use longreach_bench::Times;
use longreach_simd::Cx;
use ndarray::{Array3, Array4, ArrayViewMut4};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |default: usize| args.next().map_or(Ok(default), |n| n.parse::<usize>());
    let (h, k) = (next(8192)?, next(64)?);
    let names = args.next();
    let asked = |name: &str| names.as_ref().is_none_or(|names| names.split(',').any(|n| n == name));
    let cx = Cx::new(2);
    let row = |by: f32| Array4::from_shape_fn((1, 1, h, k), |(_, _, h, d)| by * ((h * 7 + d) as f32).sin());
    let (q, key, v, g, a) = (row(1.0), row(0.1), row(1.0), row(0.1).mapv(|x| -0.2 - x), row(0.1).mapv(f32::abs));
    let (beta, of_token) = (Array3::from_elem((1, 1, h), 0.5), Array3::from_elem((1, 1, h), -0.1));
    let mut state = Array4::<f32>::ones((1, h, k, k));
    let mut other = vec![1.0f32; h * k * k];
    let bytes = (2 * h * k * k * size_of::<f32>()) as f64;
    println!("{h} heads of {k} by {k}: {:.0} MB of state", bytes / 2e6);
    let (scale, sequences) = (0.1, Sequences::Batch);
    type Step<'a> = Box<dyn Fn(ArrayViewMut4<'_, f32>, &mut [f32]) + 'a>;
    let (q, key, v, g, a) = (q.view(), key.view(), v.view(), g.view(), a.view());
    let cx = &cx;
    let steps: Vec<(&str, Step<'_>)> = vec![
        ("scan", {
            let (g, beta) = (Some(of_token.view()), None);
            let x = scan::Inputs { q, k: key, v, g, beta, skip: None, scale, sequences };
            Box::new(move |state, out| scan::step_into(&x, state, out, cx).expect("valid"))
        }),
        ("gla", {
            let x = gla::Inputs { q, k: key, v, g, scale, sequences };
            Box::new(move |state, out| gla::step_into(&x, state, out, cx).expect("valid"))
        }),
        ("delta_rule", {
            let x = delta_rule::Inputs { q, k: key, v, beta: beta.view(), scale, sequences };
            Box::new(move |state, out| delta_rule::step_into(&x, state, out, cx).expect("valid"))
        }),
        ("rwkv7", {
            let x = rwkv7::Inputs { q, k: key, v, g, kappa: key, a, scale, sequences };
            Box::new(move |state, out| rwkv7::step_into(&x, state, out, cx).expect("valid"))
        }),
    ];
    let mut out = vec![0.0f32; h * k];
    for (name, step) in steps.iter().filter(|(name, _)| asked(name)) {
        let piece = other.len().div_ceil(64);
        let copy = || {
            cx.team.for_each(other.chunks_mut(piece), |part| part.iter_mut().for_each(|x| *x *= 1.000_001));
        };
        let (of_step, of_copy) = Times::in_turn(15, || step(state.view_mut(), &mut out), copy);
        println!(
            "{name:12} {:.1} GB/s of {:.1}: {:.0} % of reading and writing as much",
            bytes / of_step.median() / 1e9,
            bytes / of_copy.median() / 1e9,
            100.0 * of_copy.median() / of_step.median()
        );
    }
    Ok(())
}
