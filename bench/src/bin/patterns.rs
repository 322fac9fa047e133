//! Every static pattern of the softmax family: the time per visible pair, compared with dense attention in the same
//! run.
//!
//! `cargo run --release -p longreach-bench --bin patterns -- [TOKENS] [NAME]`

use longreach_attention::softmax::bigbird::BigBird;
use longreach_attention::softmax::dense::Dense;
use longreach_attention::softmax::dilated::{self, Dilated};
use longreach_attention::softmax::longformer::Longformer;
use longreach_attention::softmax::masked::Masked;
use longreach_attention::softmax::sparse_transformer::{self, SparseTransformer, Which};
use longreach_attention::softmax::streaming::Streaming;
use longreach_attention::softmax::window::Window;
use longreach_attention::softmax::{self, BlockMask, Cotangent, Inputs, Pattern, Sizes, deepspeed};
use longreach_bench::Times;
use longreach_simd::Cx;
use ndarray::{Array2, Array4};

const HEADS: usize = 12;

/// The number of visible pairs, over all heads.
fn pairs(pattern: &dyn Pattern, of: &Sizes) -> f64 {
    let heads = if pattern.differs().1 { of.heads } else { 1 };
    let mask = BlockMask::of(pattern, of).expect("valid sizes");
    let block = mask.block().1;
    let mut pairs = 0usize;
    for h in 0..heads {
        for n in mask.rows() {
            for entry in mask.row(0, h, n) {
                let keys = entry.keys as usize * block..((entry.keys as usize + 1) * block).min(of.keys);
                for i in mask.positions(n) {
                    if !entry.cut {
                        pairs += keys.len();
                        continue;
                    }
                    let from = keys.start / 64 * 64;
                    for at in (from..keys.end).step_by(64) {
                        let seen = pattern.seen(of, 0, h, i, at..(at + 64).min(of.keys));
                        pairs += (at..at + 64).filter(|j| keys.contains(j) && seen >> (j - at) & 1 == 1).count();
                    }
                }
            }
        }
    }
    (pairs * of.heads / heads) as f64
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let t: usize = args.next().map_or(Ok(16384), |n| n.parse())?;
    let only = args.next().unwrap_or_default();
    let cx = Cx::new(2);
    let x = Array4::from_shape_fn((1, t, HEADS, 64), |(_, t, h, d)| ((t * 31 + h * 7 + d) as f32 * 0.713).sin());
    let inputs = Inputs::new(x.view(), x.view(), x.view());
    let of = Sizes { batch: 1, heads: HEADS, queries: 0..t, keys: t };
    let root = (t as f64).sqrt() as usize / 64;
    let ds = |json: String| deepspeed::Config::parse(&json).and_then(|config| config.layout(&of, 0));
    let fixed = |direction| {
        ds(format!(r#"{{"mode":"fixed","block":64,"num_local_blocks":{},"attention":"{direction}"}}"#, root.max(1)))
    };
    let longformer = r#"{"mode":"bslongformer","block":64,"num_sliding_window_blocks":9}"#;
    let marks = Array2::from_shape_fn((1, t), |(_, i)| i == 0 || i % 4096 == 1);
    let summary = SparseTransformer::Fixed { stride: 128, columns: 16, positions: 4, which: Which::Merged };
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33).is_multiple_of(100)
    };
    let rows: Vec<Vec<usize>> = (0..t).map(|_| (0..t).filter(|_| random()).collect()).collect();
    let starts = rows.iter().scan(0, |at, row| {
        *at += row.len();
        Some(*at)
    });
    let masked = Masked::compressed(&std::iter::once(0).chain(starts).collect::<Vec<_>>(), &rows.concat(), t)?;
    let patterns: Vec<(&str, Box<dyn Pattern>)> = vec![
        ("dense", Box::new(Dense { causal: false })),
        ("dense causal", Box::new(Dense { causal: true })),
        ("window (256, 256)", Box::new(Window { left: 256, right: 256 })),
        ("window (1023, 0)", Box::new(Window { left: 1023, right: 0 })),
        ("window (64, 64)", Box::new(Window { left: 64, right: 64 })),
        ("streaming 4 + 1024", Box::new(Streaming { sinks: 4, recent: 1024 })),
        ("longformer 256", Box::new(Longformer::new(256, marks.view()))),
        ("bigbird 64", Box::new(BigBird::default().layout(&of)?)),
        ("bigbird 64 random", Box::new(BigBird { seed: Some(0), max_length: t, ..BigBird::default() }.layout(&of)?)),
        ("deepspeed bslongformer 64 x 9", Box::new(ds(longformer.into())?)),
        ("deepspeed fixed, both ways", Box::new(fixed("bidirectional")?)),
        ("deepspeed fixed, past", Box::new(fixed("unidirectional")?)),
        ("deepspeed bigbird 16", Box::new(ds(r#"{"mode":"bigbird","num_random_blocks":3,"block":16}"#.into())?)),
        ("sparse transformer fixed 128/16", Box::new(summary)),
        ("masked, one pair of a hundred", Box::new(masked)),
    ];
    let strided = SparseTransformer::Strided { stride: 128, which: Which::Merged };
    let dilation = Dilated { left: 256, right: 256, dilation: vec![4] };
    let mut of_dense = [0.0; 2];
    let mut report = |name: &str,
                      pairs: f64,
                      mask: f64,
                      forward: &mut dyn FnMut() -> softmax::Output,
                      back: &mut dyn FnMut(&softmax::Output)| {
        let runs = ((4e10 / pairs) as usize).clamp(3, 20);
        let output = forward();
        let times = [Times::of(runs, || drop(forward())), Times::of(runs, || back(&output))];
        let each = [0, 1].map(|i| times[i].median() / pairs);
        if of_dense[0] == 0.0 {
            of_dense = each;
        }
        let density = pairs / (HEADS * t * t) as f64;
        println!(
            "{name:34} {:7.3} % {:9.2} ms {:9.2} ms   a pair, of dense's: {:.2}, {:.2}   mask {:.1} % of forward",
            100.0 * density,
            1e3 * times[0].median(),
            1e3 * times[1].median(),
            each[0] / of_dense[0],
            each[1] / of_dense[1],
            100.0 * mask / times[0].median(),
        );
    };
    let d = Cotangent { out: x.view(), lse: None };
    for (name, pattern) in &patterns {
        if *name != "dense" && !name.contains(&only) {
            continue;
        }
        let mask = Times::of(3, || drop(BlockMask::of(&**pattern, &of).expect("valid")));
        report(
            name,
            pairs(&**pattern, &of),
            mask.median(),
            &mut || softmax::chunk(&inputs, &**pattern, &cx).expect("valid"),
            &mut |output| drop(softmax::backward(&inputs, &**pattern, output.view(), &d, &cx).expect("valid")),
        );
    }
    if "sparse transformer strided 128".contains(&only) {
        report(
            "sparse transformer strided 128",
            pairs(&strided, &of),
            0.0,
            &mut || sparse_transformer::chunk(&inputs, &strided, &cx).expect("valid"),
            &mut |output| drop(sparse_transformer::backward(&inputs, &strided, output.view(), &d, &cx).expect("valid")),
        );
    }
    if "dilated".contains(&only) {
        report(
            "dilated 4 x (256, 256)",
            pairs(&dilation, &of),
            0.0,
            &mut || dilated::chunk(&inputs, &dilation, &cx).expect("valid"),
            &mut |output| drop(dilated::backward(&inputs, &dilation, output.view(), &d, &cx).expect("valid")),
        );
    }
    Ok(())
}
