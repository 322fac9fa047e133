//! The laws of the softmax family: every pattern's mask is its definition, and every form computes the definition.

use longreach_attention::softmax::bigbird::BigBird;
use longreach_attention::softmax::dense::Dense;
use longreach_attention::softmax::dilated::{self, Dilated};
use longreach_attention::softmax::hierarchical::{self, Hierarchical};
use longreach_attention::softmax::infllm_v2::{self, InfLlmV2};
use longreach_attention::softmax::longformer::{self, Longformer};
use longreach_attention::softmax::longnet::{self, LongNet};
use longreach_attention::softmax::lsh::{self, Lsh};
use longreach_attention::softmax::masked::Masked;
use longreach_attention::softmax::moba::{self, Moba};
use longreach_attention::softmax::nsa::{self, Nsa};
use longreach_attention::softmax::streaming::Streaming;
use longreach_attention::softmax::window::Window;
use longreach_attention::softmax::{self, BlockMask, Cotangent, Inputs, Pattern, Sizes};
use longreach_attention::softmax::{deepspeed, sparse_transformer};
use longreach_attention::{Error, Sequences};
use longreach_simd::Cx;
use longreach_testkit::Kind::{Shared, Token};
use longreach_testkit::laws::LENGTHS;
use longreach_testkit::tolerance::{FORMS, FORWARD, GRADIENT, assert_close};
use longreach_testkit::{Tensor, numbers};
use ndarray::{Array2, ArrayD};

use crate::{array, contexts, exact, v, wide};

/// Sizes and options of a call.
#[derive(Clone, Copy)]
struct Case<'a> {
    batch: usize,
    queries: usize,
    keys: usize,
    offset: usize,
    heads: usize,
    groups: usize,
    width: (usize, usize),
    softcap: Option<f64>,
    bias: Option<(usize, usize)>,
    alibi: bool,
    sinks: bool,
    padding: bool,
    packed: Option<&'a [usize]>,
}

const PLAIN: Case<'static> = Case {
    batch: 2,
    queries: 100,
    keys: 100,
    offset: 0,
    heads: 2,
    groups: 2,
    width: (64, 64),
    softcap: None,
    bias: None,
    alibi: false,
    sinks: false,
    padding: false,
    packed: None,
};
/// Small enough for finite differences.
const SMALL: Case<'static> = Case { batch: 1, queries: 70, keys: 70, width: (5, 3), ..PLAIN };

impl Case<'_> {
    fn square(self, t: usize) -> Self {
        Case { queries: t, keys: t, ..self }
    }

    /// Sized so that finite differences of long sequences stay quick.
    fn few(self) -> Self {
        Case { heads: 4, groups: 4, width: (2, 2), ..self }
    }
}

/// The arrays of a case: q, k, v, then those of the options.
#[derive(Clone)]
struct Arrays {
    of: Vec<Tensor>,
    keep: Array2<bool>,
}

const NAMES: [&str; 5] = ["q", "k", "v", "bias", "sinks"];

impl Arrays {
    fn of(case: &Case<'_>) -> Self {
        let Case { batch: b, queries: t, keys: s, heads: h, groups: g, width: (d, e), .. } = *case;
        let (bb, bh) = case.bias.unwrap_or((1, 1));
        let of = vec![
            Tensor::random("q", Token, &[b, t, h, d], -2.0..2.0, 1),
            Tensor::random("k", Token, &[b, s, g, d], -2.0..2.0, 2),
            Tensor::random("v", Token, &[b, s, g, e], -2.0..2.0, 3),
            Tensor::random("bias", Shared, &[bb, bh, t, s], -3.0..3.0, 4),
            Tensor::random("sinks", Shared, &[h], -1.0..3.0, 5),
        ];
        // The second sequence is padded on the right, the third on the left; and a hole in each.
        let kept = |(b, j): (usize, usize)| match b % 3 {
            0 => j != 3,
            1 => j < s - s / 3 && j != 20,
            _ => j >= s / 2 && j != s - 2,
        };
        Self { of, keep: Array2::from_shape_fn((b, s), kept) }
    }

    fn naive(&self, case: &Case<'_>, pattern: &dyn Pattern) -> (Vec<f64>, Vec<f64>) {
        let of: Vec<_> = self.of.iter().map(exact).collect();
        let slopes: Vec<f64> = softmax::alibi(case.heads).into_iter().map(f64::from).collect();
        let inputs = Inputs {
            offset: case.offset,
            softcap: case.softcap,
            bias: case.bias.map(|_| v!(of[3])),
            alibi: case.alibi.then(|| slopes[..].into()),
            sinks: case.sinks.then(|| v!(of[4])),
            keep: case.padding.then(|| self.keep.view()),
            sequences: case.packed.map_or(Sequences::Batch, Sequences::Packed),
            ..Inputs::scaled(v!(of[0]), v!(of[1]), v!(of[2]), (case.width.0 as f64).powf(-0.5))
        };
        let (out, lse) = softmax::naive(&inputs, pattern).expect("valid inputs");
        (out.into_iter().collect(), lse.into_iter().collect())
    }

    fn narrow(&self) -> Vec<ArrayD<f32>> {
        self.of.iter().map(array).collect()
    }
}

fn inputs<'a>(case: &Case<'a>, of: &'a [ArrayD<f32>], keep: &'a Array2<bool>, slopes: &'a [f32]) -> Inputs<'a> {
    Inputs {
        offset: case.offset,
        softcap: case.softcap.map(|c| c as f32),
        bias: case.bias.map(|_| v!(of[3])),
        alibi: case.alibi.then(|| slopes.into()),
        sinks: case.sinks.then(|| v!(of[4])),
        keep: case.padding.then(|| keep.view()),
        sequences: case.packed.map_or(Sequences::Batch, Sequences::Packed),
        ..Inputs::new(v!(of[0]), v!(of[1]), v!(of[2]))
    }
}

/// Both forms give what the definition gives.
fn forms_are_naive(case: Case<'_>, pattern: &dyn Pattern, cx: &Cx) {
    let arrays = Arrays::of(&case);
    let (out, lse) = arrays.naive(&case, pattern);
    let (of, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
    let inputs = inputs(&case, &of, &arrays.keep, &slopes);
    let what = format!("{}, T = {}, S = {}, {:?}, {}", pattern.name(), case.queries, case.keys, case.width, cx.isa);
    for (form, got) in [("chunk", softmax::chunk(&inputs, pattern, cx)), ("step", softmax::step(&inputs, pattern, cx))]
    {
        let got = got.expect("valid inputs");
        assert_close(&format!("{form}: {what}"), &wide(&got.out), &out, FORWARD);
        // Rows that see nothing have −∞ in both.
        let finite =
            |x: Vec<f64>| x.into_iter().map(|x| if x == f64::NEG_INFINITY { -1e6 } else { x }).collect::<Vec<_>>();
        assert_close(&format!("lse of {form}: {what}"), &finite(wide(&got.lse)), &finite(lse.clone()), FORWARD);
    }
}

/// The slope of `f` along a direction.
fn slope(f: impl Fn(f64) -> f64) -> f64 {
    (f(1e-5) - f(-1e-5)) / 2e-5
}

/// A gradient along random directions and single numbers is the slope of `f`, which is given what is added to the input.
fn is_slope(what: &str, gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    let n = gradient.len();
    let scale = gradient.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    let random: Vec<f64> = numbers(n, 7).into_iter().map(|x| 2.0 * x - 1.0).collect();
    let norm = random.iter().map(|x| x * x).sum::<f64>().sqrt();
    let single = |at: usize| (0..n).map(|i| f64::from(u8::from(i == at))).collect::<Vec<_>>();
    for direction in [random.iter().map(|x| x / norm).collect(), single(0), single(n / 2), single(n - 1)] {
        let want = slope(|h| f(&direction.iter().map(|x| h * x).collect::<Vec<_>>()));
        let got: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let error = (got - want).abs() / scale;
        assert!(error <= GRADIENT, "{what}: {got}, slope {want}, error {error:.1e}");
    }
}

/// The gradient is the slope of the definition.
fn gradient_is_slope(case: Case<'_>, pattern: &dyn Pattern, cx: &Cx) {
    let arrays = Arrays::of(&case);
    let (out, lse) = arrays.naive(&case, pattern);
    let some = |n, seed| numbers(n, seed).into_iter().map(|x| (2.0 * x - 1.0) as f32).collect::<Vec<_>>();
    let (d_out, d_lse) = (some(out.len(), 1), some(lse.len(), 2));
    let (of, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
    let inputs = inputs(&case, &of, &arrays.keep, &slopes);
    let got = softmax::chunk(&inputs, pattern, cx).expect("valid inputs");
    let d = Cotangent {
        out: ndarray::ArrayView::from_shape(got.out.raw_dim(), &d_out).expect("shape"),
        lse: Some(ndarray::ArrayView::from_shape(got.lse.raw_dim(), &d_lse).expect("shape")),
    };
    let gradient = softmax::backward(&inputs, pattern, &got, &d, cx).expect("valid inputs");
    let gradients = [
        Some(wide(&gradient.q)),
        Some(wide(&gradient.k)),
        Some(wide(&gradient.v)),
        gradient.bias.map(|x| wide(&x)),
        gradient.sinks.map(|x| wide(&x)),
    ];
    assert_eq!((gradients[3].is_some(), gradients[4].is_some()), (case.bias.is_some(), case.sinks));
    for (i, gradient) in gradients.iter().enumerate() {
        let Some(gradient) = gradient else { continue };
        let at = |moved: &[f64]| {
            let mut arrays = arrays.clone();
            arrays.of[i].data.iter_mut().zip(moved).for_each(|(x, d)| *x += d);
            let (out, lse) = arrays.naive(&case, pattern);
            let dot = |a: &[f64], b: &[f32]| {
                a.iter().zip(b).filter(|(a, _)| a.is_finite()).map(|(a, b)| a * f64::from(*b)).sum::<f64>()
            };
            dot(&out, &d_out) + dot(&lse, &d_lse)
        };
        is_slope(&format!("{} to {}", pattern.name(), NAMES[i]), gradient, at);
    }
}

/// What the mask lists, and what its cut blocks show, is what the definition counts.
fn mask_is_definition(pattern: &dyn Pattern, of: &Sizes) {
    let mask = BlockMask::of(pattern, of).expect("valid sizes");
    let block = mask.block().1;
    for b in 0..of.batch {
        for h in 0..of.heads {
            for n in mask.rows() {
                let row = mask.row(b, h, n);
                assert!(row.is_sorted_by(|a, b| a.keys < b.keys), "{}: block row {n}", pattern.name());
                for i in mask.positions(n) {
                    for first in (0..of.keys).step_by(block) {
                        let keys = first..(first + block).min(of.keys);
                        let entry = row.iter().find(|entry| entry.keys as usize * block == first);
                        for part in keys.step_by(64) {
                            let from = part / 64 * 64;
                            let seen = match entry {
                                None => 0,
                                Some(entry) if !entry.cut => u64::MAX,
                                Some(_) => pattern.seen(of, b, h, i, from..(from + 64).min(of.keys)),
                            };
                            for j in part..(part + block.min(64)).min(of.keys) {
                                let bit = j - from;
                                let count = pattern.count(of, b, h, i, j);
                                let weight = entry.map_or(1.0, |entry| entry.log_weight.exp());
                                let what = format!("{}: head {h}, query {i}, key {j}", pattern.name());
                                assert_eq!(seen >> bit & 1 == 1, count > 0, "{what}");
                                assert!(count == 0 || (weight - count as f32).abs() < 1e-5, "{what}: weight {weight}");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Everything there is to say of a pattern that takes any sizes.
fn prove(pattern: &dyn Pattern) {
    for &t in LENGTHS {
        for (queries, keys) in [(0..t, t), (300..300 + t.min(70), 300 + t.min(70))] {
            mask_is_definition(pattern, &Sizes { batch: 1, heads: 4, queries, keys });
        }
    }
    for cx in contexts() {
        for &t in LENGTHS {
            forms_are_naive(Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(t) }, pattern, &cx);
        }
        let late = Case { queries: 7, keys: 307, offset: 300, width: (16, 16), ..PLAIN };
        forms_are_naive(late, pattern, &cx);
        forms_are_naive(Case { padding: true, batch: 3, width: (16, 16), ..PLAIN.square(130) }, pattern, &cx);
        gradient_is_slope(SMALL, pattern, &cx);
    }
}

#[test]
fn dense() {
    prove(&Dense { causal: false });
    prove(&Dense { causal: true });
}

#[test]
fn window() {
    for (left, right) in [(0, 0), (4, 0), (0, 3), (16, 16), (63, 64), (1000, 1)] {
        prove(&Window { left, right });
    }
}

#[test]
fn streaming() {
    for (sinks, recent) in [(4, 10), (0, 1), (70, 64), (1, 1000)] {
        prove(&Streaming { sinks, recent });
    }
    let cache = |seen| Streaming { sinks: 2, recent: 3 }.cache(seen).collect::<Vec<_>>();
    assert_eq!([cache(1), cache(4), cache(7)], [vec![0], vec![0, 1, 2, 3], vec![0, 1, 4, 5, 6]]);
}

#[test]
fn masked() {
    // Sparse, dense and regular; a predicate does not know the queries' offset.
    let scattered = |h: usize, i: usize, j: usize| (i * 31 + j * 17 + h * 5).is_multiple_of(23);
    let blocks = |_: usize, i: usize, j: usize| (i / 64 + j / 64).is_multiple_of(2) && i > 5;
    for cx in contexts() {
        for keep in [&scattered as &dyn Fn(usize, usize, usize) -> bool, &blocks] {
            for &t in LENGTHS {
                let pattern = Masked::predicate(2, t, t, keep);
                mask_is_definition(&pattern, &Sizes { batch: 1, heads: 2, queries: 0..t, keys: t });
                forms_are_naive(Case { width: (16, 16), ..PLAIN.square(t) }, &pattern, &cx);
            }
            gradient_is_slope(SMALL, &Masked::predicate(2, 70, 70, keep), &cx);
        }
    }
    let dense = ndarray::Array4::from_shape_fn((2, 1, 40, 90), |(b, _, i, j)| (b + i * j) % 7 == 1);
    let pattern = Masked::dense(dense.view());
    assert_eq!(pattern.kept(), dense.iter().filter(|kept| **kept).count());
    mask_is_definition(&pattern, &Sizes { batch: 2, heads: 3, queries: 50..90, keys: 90 });
    let compressed = Masked::compressed(&[0, 2, 2, 5], &[3, 0, 4, 2, 1], 5).expect("rows");
    let wide = ndarray::arr2(&[[1, 0, 0, 1, 0], [0; 5], [0, 1, 1, 0, 1]]).mapv(|x| x == 1);
    assert_eq!(compressed, Masked::dense(wide.view().insert_axis(ndarray::Axis(0)).insert_axis(ndarray::Axis(0))));
    assert!(Masked::compressed(&[0, 2], &[3, 5], 5).expect_err("beyond").to_string().contains("indices"));
    let error = forward(&pattern, 20).expect_err("another size").to_string();
    assert_eq!(error, "masked: `mask` has shape [2, 1, 40, 90], want [2, 1, 20, 20]");
}

/// What a pattern says to a square call of two sequences and two heads.
fn forward(pattern: &dyn Pattern, t: usize) -> Result<softmax::Output, Error> {
    let x = ndarray::Array4::from_elem((2, t, 2, 16), 0.5);
    softmax::chunk(&Inputs::new(x.view(), x.view(), x.view()), pattern, &Cx::new(1))
}

#[test]
fn layouts() {
    let of = |t: usize| Sizes { batch: 1, heads: 4, queries: 0..t, keys: t };
    for (json, block) in [
        (r#"{"mode": "fixed", "block": 8, "attention": "unidirectional"}"#, 8),
        (r#"{"mode": "fixed", "different_layout_per_head": true, "num_different_global_patterns": 4}"#, 16),
        (r#"{"mode": "bigbird", "block": 24, "num_random_blocks": 1, "num_sliding_window_blocks": 1}"#, 24),
        (r#"{"mode": "bslongformer", "block": 10, "attention": "unidirectional", "num_sliding_window_blocks": 1}"#, 10),
        (r#"{"mode": "variable", "block": 100, "local_window_blocks": [1]}"#, 100),
        (r#"{"mode": "localslidingwindow", "block": 64, "num_sliding_window_blocks": 1}"#, 64),
    ] {
        let config = deepspeed::Config::parse(json).expect("a configuration");
        for blocks in [1, 2, 5, 9] {
            let t = blocks * block;
            let layout = config.layout(&of(t), 1).expect("a layout");
            mask_is_definition(&layout, &of(t));
            mask_is_definition(&layout, &Sizes { queries: t / 3..t / 2, ..of(t - t / 4) });
            for cx in contexts() {
                forms_are_naive(Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(t) }, &layout, &cx);
            }
        }
        gradient_is_slope(
            SMALL.square(5 * block).few(),
            &config.layout(&of(5 * block), 1).expect("a layout"),
            &Cx::new(2),
        );
    }
    for seed in [None, Some(3)] {
        let pattern = BigBird { block: 16, random_blocks: 2, seed, ..BigBird::default() };
        for t in [160, 203, 257] {
            let layout = pattern.layout(&of(t)).expect("a layout");
            mask_is_definition(&layout, &of(t));
            for cx in contexts() {
                forms_are_naive(
                    Case { heads: 4, groups: 4, padding: true, width: (16, 16), ..PLAIN.square(t) },
                    &layout,
                    &cx,
                );
            }
        }
        gradient_is_slope(SMALL.square(190).few(), &pattern.layout(&of(190)).expect("a layout"), &Cx::new(2));
    }
    assert!(pattern_error(BigBird::default().layout(&of(192))).contains("`tokens` is 192, want at least 193"));
}

fn pattern_error<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error").to_string()
}

/// Patterns with kernels of their own, and the calls of them.
type Kernel<P> = fn(&Inputs<'_>, &P, &Cx) -> Result<softmax::Output, Error>;

fn kernel_is_naive<P: Pattern>(case: Case<'_>, pattern: &P, kernels: [Kernel<P>; 2], cx: &Cx) -> softmax::Output {
    let arrays = Arrays::of(&case);
    let (out, lse) = arrays.naive(&case, pattern);
    let (of, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
    let x = inputs(&case, &of, &arrays.keep, &slopes);
    let [chunk, step] = kernels.map(|kernel| kernel(&x, pattern, cx).expect("valid inputs"));
    for got in [&chunk, &step] {
        assert_close(pattern.name(), &wide(&got.out), &out, FORWARD);
        let finite = |x: Vec<f64>| x.into_iter().map(|x| x.max(-1e6)).collect::<Vec<_>>();
        assert_close(pattern.name(), &finite(wide(&got.lse)), &finite(lse.clone()), FORWARD);
    }
    chunk
}

/// The gradient of a kernel of its own is that of the family's kernel.
fn gradient_is_the_family_s<P: Pattern>(
    case: Case<'_>,
    pattern: &P,
    backward: fn(&Inputs<'_>, &P, &softmax::Output, &Cotangent<'_>, &Cx) -> Result<softmax::Gradient, Error>,
    cx: &Cx,
) {
    let arrays = Arrays::of(&case);
    let (of, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
    let x = inputs(&case, &of, &arrays.keep, &slopes);
    let output = softmax::chunk(&x, pattern, cx).expect("valid");
    let some = |n, seed| numbers(n, seed).into_iter().map(|x| (2.0 * x - 1.0) as f32).collect::<Vec<_>>();
    let (d_out, d_lse) = (some(output.out.len(), 1), some(output.lse.len(), 2));
    let d = Cotangent {
        out: ndarray::ArrayView::from_shape(output.out.raw_dim(), &d_out).expect("shape"),
        lse: Some(ndarray::ArrayView::from_shape(output.lse.raw_dim(), &d_lse).expect("shape")),
    };
    let want = softmax::backward(&x, pattern, &output, &d, cx).expect("valid");
    let got = backward(&x, pattern, &output, &d, cx).expect("valid");
    for (got, want) in [(&got.q, &want.q), (&got.k, &want.k), (&got.v, &want.v)] {
        assert_close(pattern.name(), &wide(got), &wide(want), FORMS);
    }
    for (got, want) in [
        (got.bias.map(|x| wide(&x)), want.bias.map(|x| wide(&x))),
        (got.sinks.map(|x| wide(&x)), want.sinks.map(|x| wide(&x))),
    ] {
        assert_eq!(got.is_some(), want.is_some());
        assert_close(pattern.name(), &got.unwrap_or_default(), &want.unwrap_or_default(), FORMS);
    }
}

/// Cases with every option.
fn rich() -> [Case<'static>; 4] {
    let case = Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN };
    [
        case.square(130),
        Case { heads: 4, groups: 1, bias: Some((1, 4)), sinks: true, softcap: Some(5.0), ..case.square(77) },
        Case { queries: 9, keys: 200, offset: 191, alibi: true, bias: Some((2, 1)), padding: true, ..case },
        Case { batch: 1, packed: Some(&[0, 40, 41, 41, 99]), sinks: true, ..case.square(99) },
    ]
}

#[test]
fn dilated() {
    let of = |left, right, dilation: &[usize]| Dilated { left, right, dilation: dilation.to_vec() };
    for pattern in [of(5, 5, &[1]), of(5, 0, &[3]), of(20, 7, &[1, 1, 2, 2]), of(3, 100, &[1, 4, 4, 200])] {
        mask_is_definition(&pattern, &Sizes { batch: 1, heads: 4, queries: 0..150, keys: 150 });
        for cx in contexts() {
            for case in rich() {
                forms_are_naive(case, &pattern, &cx);
                kernel_is_naive(case, &pattern, [dilated::chunk, dilated::step], &cx);
                gradient_is_the_family_s(case, &pattern, dilated::backward, &cx);
            }
        }
        gradient_is_slope(Case { heads: 4, groups: 4, ..SMALL.square(30) }, &pattern, &Cx::new(2));
    }
    assert!(pattern_error(forward(&of(5, 5, &[0]), 20)).contains("`dilation` is [0], want one for all"));
    assert!(pattern_error(forward(&of(5, 5, &[1, 2, 3]), 20)).contains("each of 2 heads"));
}

#[test]
fn sparse_transformer() {
    use sparse_transformer::SparseTransformer::{Fixed, Strided};
    use sparse_transformer::{Which, backward, chunk, step};
    for which in [Which::Merged, Which::Near, Which::Far, Which::Alternating] {
        for pattern in [
            Strided { stride: 7, which },
            Strided { stride: 64, which },
            Strided { stride: 500, which },
            Fixed { stride: 20, columns: 3, positions: 1, which },
            Fixed { stride: 64, columns: 16, positions: 4, which },
            Fixed { stride: 128, columns: 64, positions: 2, which },
        ] {
            for t in [1, 64, 257] {
                mask_is_definition(&pattern, &Sizes { batch: 1, heads: 4, queries: 0..t, keys: t });
            }
            mask_is_definition(&pattern, &Sizes { batch: 1, heads: 4, queries: 100..130, keys: 130 });
            for cx in contexts() {
                for case in rich() {
                    kernel_is_naive(case, &pattern, [chunk, step], &cx);
                    gradient_is_the_family_s(case, &pattern, backward, &cx);
                }
            }
            gradient_is_slope(Case { heads: 4, groups: 4, ..SMALL.square(30) }, &pattern, &Cx::new(2));
        }
    }
    assert!(pattern_error(forward(&Strided { stride: 0, which: Which::Merged }, 20)).contains("`stride` is 0"));
    let wide = Fixed { stride: 8, columns: 5, positions: 2, which: Which::Merged };
    assert!(
        pattern_error(forward(&wide, 20)).contains("`columns` is 5, want at least 1, and at most 8 with 2 positions")
    );
}

#[test]
fn longformer() {
    let global =
        |b: usize, t: usize, every: usize| Array2::from_shape_fn((b, t), |(b, i)| (i + b) % every == 0 || i == 2 * b);
    for (window, every) in [(3, 1000), (20, 40), (64, 3), (0, 7)] {
        for t in [1, 64, 100, 257] {
            let marks = global(2, t, every);
            let pattern = Longformer::new(window, marks.view());
            mask_is_definition(&pattern, &Sizes { batch: 2, heads: 2, queries: 0..t, keys: t });
            for cx in contexts() {
                let case = Case { width: (16, 16), ..PLAIN.square(t) };
                forms_are_naive(case, &pattern, &cx);
                forms_are_naive(Case { padding: true, ..case }, &pattern, &cx);
            }
        }
        let marks = global(1, 70, every);
        gradient_is_slope(SMALL, &Longformer::new(window, marks.view()), &Cx::new(2));
    }
}

/// With projections of their own, local queries are those of the pattern and global ones those of dense attention.
#[test]
fn longformer_has_two_sets_of_projections() {
    let case = Case { padding: true, ..PLAIN.square(90) };
    let (arrays, slopes) = (Arrays::of(&case), softmax::alibi(2));
    let (of, cx) = (arrays.narrow(), Cx::new(2));
    let other = |x: &ArrayD<f32>| x.mapv(|x| 1.5 - x).into_dimensionality::<ndarray::Ix4>().expect("rank");
    let [q, k, value] = [other(&of[0]), other(&of[1]), other(&of[2])];
    let x = inputs(&case, &of, &arrays.keep, &slopes);
    let marks = Array2::from_shape_fn((2, 90), |(b, i)| i == 0 || b == 0 && i % 30 == 7);
    let pattern = Longformer::new(8, marks.view());
    let global = longformer::Global { q: q.view(), k: k.view(), v: value.view() };
    let got = longformer::chunk(&x, &global, &pattern, &cx).expect("valid");
    let shared = softmax::chunk(&x, &pattern, &cx).expect("valid");
    let theirs = Inputs { keep: x.keep, ..Inputs::new(q.view(), k.view(), value.view()) };
    let dense = softmax::chunk(&theirs, &Dense { causal: false }, &cx).expect("valid");
    let pick = |b: usize, i: usize| if marks[[b, i]] { &dense } else { &shared };
    for b in 0..2 {
        for i in 0..90 {
            let at = ndarray::s![b, i, .., ..];
            assert_close("out", &wide(got.out.slice(at)), &wide(pick(b, i).out.slice(at)), FORMS);
        }
    }
    // The gradient is the sum over both kinds of rows.
    let d = shared.out.mapv(|x| (3.0 * x).sin());
    let of_rows = |global: bool| {
        let mut d = d.clone();
        for ((b, i), marked) in marks.indexed_iter() {
            if *marked != global {
                d.slice_mut(ndarray::s![b, i, .., ..]).fill(0.0);
            }
        }
        d
    };
    let cotangent = Cotangent { out: d.view(), lse: None };
    let gradients = longformer::backward(&x, &global, &pattern, &got, &cotangent, &cx).expect("valid");
    let (local_rows, global_rows) = (of_rows(false), of_rows(true));
    let local = Cotangent { out: local_rows.view(), lse: None };
    let local = softmax::backward(&x, &pattern, &shared, &local, &cx).expect("valid");
    let all = Cotangent { out: global_rows.view(), lse: None };
    let all = softmax::backward(&theirs, &Dense { causal: false }, &dense, &all, &cx).expect("valid");
    for (got, want) in [(&gradients.local, &local), (&gradients.global, &all)] {
        assert_close("q", &wide(&got.q), &wide(&want.q), FORMS);
        assert_close("k", &wide(&got.k), &wide(&want.k), FORMS);
        assert_close("v", &wide(&got.v), &wide(&want.v), FORMS);
    }
}

#[test]
fn moba() {
    let cases = [
        PLAIN.square(150),
        Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(257) },
        Case { queries: 3, keys: 200, offset: 197, ..PLAIN },
    ];
    for case in cases {
        let arrays = Arrays::of(&case);
        let (of, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
        let x = inputs(&case, &of, &arrays.keep, &slopes);
        let sizes =
            Sizes { batch: 2, heads: case.heads, queries: case.offset..case.offset + case.queries, keys: case.keys };
        for moba in [Moba { block: 16, top: 3 }, Moba { block: 10, top: 1 }, Moba { block: 64, top: 9 }] {
            let (q, k) = (exact(&arrays.of[0]), exact(&arrays.of[1]));
            let want = moba::naive(v!(q), v!(k), case.offset, &moba);
            for cx in contexts() {
                let chosen = moba::select(&x, &moba, &cx).expect("valid");
                let mut lists = want.iter();
                for b in 0..2 {
                    for h in 0..case.heads {
                        for i in sizes.queries.clone() {
                            assert_eq!(
                                chosen.list(&sizes, b, h, i),
                                lists.next().expect("a list"),
                                "{moba:?}: {b} {h} {i}"
                            );
                        }
                    }
                }
                mask_is_definition(&chosen, &sizes);
                forms_are_naive(case, &chosen, &cx);
            }
        }
        // With all blocks it is dense.
        let all = moba::select(&x, &Moba { block: 16, top: 100 }, &Cx::new(1)).expect("valid");
        forms_are_naive(case, &all, &Cx::new(1));
        let (a, b) = (softmax::chunk(&x, &all, &Cx::new(1)), softmax::chunk(&x, &Dense { causal: true }, &Cx::new(1)));
        assert_close("all blocks", &wide(&a.expect("valid").out), &wide(&b.expect("valid").out), FORMS);
    }
    let small = Arrays::of(&SMALL);
    let (of, slopes) = (small.narrow(), softmax::alibi(2));
    let x = inputs(&SMALL, &of, &small.keep, &slopes);
    gradient_is_slope(SMALL, &moba::select(&x, &Moba { block: 16, top: 2 }, &Cx::new(2)).expect("valid"), &Cx::new(2));
    assert!(pattern_error(moba::select(&x, &Moba { block: 0, top: 2 }, &Cx::new(2))).contains("`block` is 0"));
    assert!(pattern_error(moba::select(&x, &Moba { block: 8, top: 0 }, &Cx::new(2))).contains("`top` is 0"));
}

#[test]
fn infllm_v2() {
    let small = InfLlmV2 { kernel: 8, stride: 4, block: 16, init_blocks: 1, window: 32, top: 3, dense_below: 0 };
    for case in [
        Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(257) },
        Case { heads: 4, groups: 1, width: (16, 16), queries: 2, keys: 203, offset: 201, ..PLAIN },
    ] {
        let arrays = Arrays::of(&case);
        let (of, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
        let x = inputs(&case, &of, &arrays.keep, &slopes);
        let sizes =
            Sizes { batch: 2, heads: case.heads, queries: case.offset..case.offset + case.queries, keys: case.keys };
        for pattern in [
            small,
            InfLlmV2 { window: 0, ..small },
            InfLlmV2 { top: 0, ..small },
            InfLlmV2 { dense_below: 999, ..small },
        ] {
            let (q, k) = (exact(&arrays.of[0]), exact(&arrays.of[1]));
            let want = infllm_v2::naive(v!(q), v!(k), 0.25, case.offset, &pattern);
            let chosen = infllm_v2::select(&x, &pattern, &Cx::new(2)).expect("valid");
            let per_group = case.heads / case.groups;
            for b in 0..2 {
                for h in 0..case.heads {
                    for (t, i) in sizes.queries.clone().enumerate() {
                        let list = &want[(b * case.groups + h / per_group) * case.queries + t];
                        assert_eq!(chosen.list(&sizes, b, h, i), list, "{pattern:?}: {b} {h} {i}");
                    }
                }
            }
            mask_is_definition(&chosen, &sizes);
            forms_are_naive(case, &chosen, &Cx::new(1));
        }
        let error = pattern_error(infllm_v2::select(&x, &InfLlmV2 { stride: 5, ..small }, &Cx::new(1)));
        assert!(error.contains("`block` is 16, want a multiple of the stride, 5"), "{error}");
    }
}

/// Parameters as large as they can be written are one more value or an error: they neither panic nor run for ever.
#[test]
fn huge_parameters_are_no_trouble() {
    let huge = usize::MAX;
    let of = Sizes { batch: 2, heads: 2, queries: 0..70, keys: 70 };
    for (name, parameters) in [
        ("window", format!(r#"{{"left": {huge}, "right": {huge}}}"#)),
        ("streaming", format!(r#"{{"sinks": {huge}, "recent": {huge}}}"#)),
        ("longformer", format!(r#"{{"window": {huge}, "global": [{huge}]}}"#)),
        ("dilated", format!(r#"{{"left": {huge}, "right": {huge}, "dilation": [{huge}]}}"#)),
        ("sparse_transformer", format!(r#"{{"kind": "strided", "stride": {huge}}}"#)),
        ("sparse_transformer", format!(r#"{{"kind": "fixed", "stride": {huge}, "columns": {huge}}}"#)),
        ("longnet", format!(r#"{{"segments": [{huge}, {huge}], "dilations": [1, {huge}]}}"#)),
        ("bigbird", format!(r#"{{"block": 16, "random_blocks": {huge}}}"#)),
        ("bigbird", format!(r#"{{"block": {huge}}}"#)),
        ("bigbird", format!(r#"{{"block": 16, "seed": 1, "max_length": {huge}}}"#)),
        ("deepspeed", format!(r#"{{"mode": "variable", "block": 10, "local_window_blocks": [{huge}, {huge}]}}"#)),
        ("deepspeed", format!(r#"{{"block": 10, "num_local_blocks": {huge}, "num_global_blocks": {huge}}}"#)),
        ("deepspeed", format!(r#"{{"mode": "bslongformer", "block": 10, "global_block_indices": [{huge}]}}"#)),
    ] {
        let parameters: serde_json::Value = serde_json::from_str(&parameters).expect("JSON");
        if let Ok(pattern) = softmax::named(name, &parameters, &of) {
            mask_is_definition(&*pattern, &of);
            forward(&*pattern, 70).expect("valid");
        }
    }
    let x = ndarray::Array4::from_elem((1, 70, 2, 16), 0.5);
    let few = Inputs::new(x.view(), x.slice(ndarray::s![.., ..20, .., ..]), x.slice(ndarray::s![.., ..20, .., ..]));
    let x = Inputs::new(x.view(), x.view(), x.view());
    let cx = &Cx::new(1);
    let dilated = Dilated { left: huge, right: huge, dilation: vec![huge] };
    dilated::chunk(&x, &dilated, cx).expect("valid");
    // More queries than keys: some phases have none.
    let case = Case { queries: 70, keys: 20, width: (8, 8), ..PLAIN };
    kernel_is_naive(case, &Dilated { left: 1, right: 1, dilation: vec![30] }, [dilated::chunk, dilated::step], cx);
    dilated::chunk(&few, &dilated, cx).expect("valid");
    let strided = sparse_transformer::SparseTransformer::Strided { stride: huge, which: Default::default() };
    sparse_transformer::chunk(&x, &strided, cx).expect("valid");
    hierarchical::chunk(&x, &Hierarchical { block: huge / 16 * 16, causal: false }, cx).expect("valid");
    moba::select(&x, &Moba { block: huge, top: huge }, cx).expect("valid");
    let of = InfLlmV2 {
        stride: huge,
        kernel: huge,
        block: huge,
        window: huge,
        top: huge,
        dense_below: 0,
        init_blocks: huge,
    };
    infllm_v2::select(&x, &of, cx).expect("valid");
}

#[test]
fn patterns_have_names_and_pictures() {
    let of = Sizes { batch: 1, heads: 4, queries: 0..512, keys: 512 };
    for (name, parameters) in softmax::STATIC.iter().filter(|(name, _)| *name != "masked") {
        let parameters = serde_json::from_str(parameters).expect("JSON");
        let pattern = softmax::named(name, &parameters, &of).expect("valid");
        assert_eq!(pattern.name(), *name);
        for h in [0, 3] {
            let fine = softmax::picture(&*pattern, &of, (0, h), (512, 512)).expect("valid");
            let seen = |(i, j): (usize, usize)| u64::from(pattern.count(&of, 0, h, i, j) > 0);
            assert!(fine.indexed_iter().all(|(at, cell)| *cell == seen(at)), "{name}, head {h}");
            let coarse = softmax::picture(&*pattern, &of, (0, h), (3, 7)).expect("valid");
            assert_eq!(coarse.sum(), fine.sum());
        }
    }
}

#[test]
fn hierarchical() {
    for (of, case) in [
        (Hierarchical { block: 16, causal: true }, Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(257) }),
        (Hierarchical { block: 16, causal: false }, Case { width: (16, 8), padding: true, ..PLAIN.square(150) }),
        (
            Hierarchical { block: 48, causal: false },
            Case { width: (8, 8), sinks: true, softcap: Some(3.0), ..PLAIN.square(200) },
        ),
        (Hierarchical { block: 64, causal: true }, PLAIN.square(50)),
        (Hierarchical { block: 16, causal: true }, Case { queries: 3, keys: 200, offset: 197, ..PLAIN }),
        (Hierarchical { block: 16, causal: false }, PLAIN.square(1)),
    ] {
        let arrays = Arrays::of(&case);
        let (narrow, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
        let x = inputs(&case, &narrow, &arrays.keep, &slopes);
        let exactly = |arrays: &Arrays| {
            let wide: Vec<_> = arrays.of.iter().map(exact).collect();
            let x = Inputs {
                offset: case.offset,
                softcap: case.softcap,
                sinks: case.sinks.then(|| v!(wide[4])),
                keep: case.padding.then(|| arrays.keep.view()),
                ..Inputs::scaled(v!(wide[0]), v!(wide[1]), v!(wide[2]), (case.width.0 as f64).powf(-0.5))
            };
            hierarchical::naive(&x, &of).expect("sizes that fit").0
        };
        let want: Vec<f64> = exactly(&arrays).into_iter().collect();
        for cx in contexts() {
            let got = hierarchical::chunk(&x, &of, &cx).expect("valid");
            assert_close("hierarchical", &wide(&got.out), &want, FORWARD);
            let d = got.out.mapv(|x| (x * 5.0).cos());
            let cotangent = Cotangent { out: d.view(), lse: None };
            let gradient = hierarchical::backward(&x, &of, &got, &cotangent, &cx).expect("valid");
            for (i, gradient) in [&gradient.q, &gradient.k, &gradient.v].into_iter().enumerate() {
                is_slope(NAMES[i], &wide(gradient), |moved| {
                    let mut arrays = arrays.clone();
                    arrays.of[i].data.iter_mut().zip(moved).for_each(|(x, d)| *x += d);
                    exactly(&arrays).iter().zip(&d).map(|(a, b)| a * f64::from(*b)).sum()
                });
            }
        }
        // With one block it is dense.
        let all = Hierarchical { block: 512, causal: of.causal };
        let got = hierarchical::chunk(&x, &all, &Cx::new(1)).expect("valid");
        let dense = softmax::chunk(&x, &Dense { causal: of.causal }, &Cx::new(1)).expect("valid");
        assert_close("one block", &wide(&got.out), &wide(&dense.out), FORMS);
    }
    let x = ndarray::Array4::<f32>::zeros((1, 8, 2, 4));
    let x = Inputs::new(x.view(), x.view(), x.view());
    let error = pattern_error(hierarchical::chunk(&x, &Hierarchical { block: 8, causal: true }, &Cx::new(1)));
    assert!(error.contains("`block` is 8, want a multiple of 16"), "{error}");
}

#[test]
fn nsa() {
    for (nsa, case) in [
        (Nsa { block: 16, top: 4, window: 10 }, Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(130) }),
        (
            Nsa { block: 10, top: 1, window: 1 },
            Case { heads: 2, groups: 1, width: (8, 4), softcap: Some(4.0), ..PLAIN.square(65) },
        ),
        (Nsa { block: 8, top: 3, window: 70 }, Case { queries: 2, keys: 90, offset: 88, width: (8, 8), ..PLAIN }),
        (Nsa::default(), Case { width: (8, 8), ..PLAIN.square(17) }),
    ] {
        let arrays = Arrays::of(&case);
        let gates = Tensor::random("gates", Token, &[2, case.queries, case.heads, 3], 0.0..1.0, 9);
        let (narrow, slopes, narrow_gates) = (arrays.narrow(), softmax::alibi(case.heads), array(&gates));
        let x = inputs(&case, &narrow, &arrays.keep, &slopes);
        let exactly = |arrays: &Arrays, gates: &Tensor| {
            let wide: Vec<_> = arrays.of.iter().map(exact).collect();
            let x = Inputs {
                offset: case.offset,
                softcap: case.softcap,
                ..Inputs::scaled(v!(wide[0]), v!(wide[1]), v!(wide[2]), (case.width.0 as f64).powf(-0.5))
            };
            let gates = exact(gates);
            nsa::naive(&x, v!(gates), &nsa)
        };
        let want: Vec<f64> = exactly(&arrays, &gates).into_iter().collect();
        for cx in contexts() {
            let got = nsa::chunk(&x, v!(narrow_gates), &nsa, &cx).expect("valid");
            assert_close("nsa", &wide(&got.out), &want, FORWARD);
            let d = got.out.mapv(|x| (x * 5.0).cos());
            let (gradient, of_gates) = nsa::backward(&x, v!(narrow_gates), &nsa, &got, d.view(), &cx).expect("valid");
            let dot = |out: ndarray::Array4<f64>| out.iter().zip(&d).map(|(a, b)| a * f64::from(*b)).sum::<f64>();
            for (i, gradient) in [&gradient.q, &gradient.k, &gradient.v].into_iter().enumerate() {
                is_slope(NAMES[i], &wide(gradient), |moved| {
                    let mut arrays = arrays.clone();
                    arrays.of[i].data.iter_mut().zip(moved).for_each(|(x, d)| *x += d);
                    dot(exactly(&arrays, &gates))
                });
            }
            is_slope("gates", &wide(&of_gates), |moved| {
                let mut gates = gates.clone();
                gates.data.iter_mut().zip(moved).for_each(|(x, d)| *x += d);
                dot(exactly(&arrays, &gates))
            });
        }
    }
    let x = ndarray::Array4::<f32>::zeros((1, 8, 2, 4));
    let x = Inputs::new(x.view(), x.view(), x.view());
    let gates = ndarray::Array4::zeros((1, 8, 2, 2));
    assert!(pattern_error(nsa::chunk(&x, gates.view(), &Nsa::default(), &Cx::new(1))).contains("`gates`"));
}

#[test]
fn longnet() {
    for (segments, dilations, causal) in [
        (&[1000][..], &[1][..], true),
        (&[16, 64, 300], &[1, 2, 4], true),
        (&[16, 64, 300], &[1, 2, 4], false),
        (&[20, 50], &[3, 7], false),
        (&[7], &[2], true),
    ] {
        let longnet = LongNet { segments: segments.to_vec(), dilations: dilations.to_vec(), causal };
        for case in [
            Case { heads: 4, groups: 2, width: (16, 16), padding: true, ..PLAIN.square(150) },
            Case { heads: 3, groups: 1, width: (16, 8), softcap: Some(4.0), ..PLAIN.square(64) },
            Case { heads: 2, groups: 2, width: (4, 4), ..PLAIN.square(1) },
        ] {
            let arrays = Arrays::of(&case);
            let (of, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
            let x = inputs(&case, &of, &arrays.keep, &slopes);
            let exactly = |arrays: &Arrays| {
                let of: Vec<_> = arrays.of.iter().map(exact).collect();
                let x = Inputs {
                    softcap: case.softcap,
                    keep: case.padding.then(|| arrays.keep.view()),
                    ..Inputs::scaled(v!(of[0]), v!(of[1]), v!(of[2]), (case.width.0 as f64).powf(-0.5))
                };
                longnet::naive(&x, &longnet).expect("valid")
            };
            let (out, lse) = exactly(&arrays);
            for cx in contexts() {
                let got = longnet::chunk(&x, &longnet, &cx).expect("valid");
                assert_close("longnet", &wide(&got.out), &out.iter().copied().collect::<Vec<_>>(), FORWARD);
                let finite = |x: f64| x.max(-1e6);
                let want: Vec<f64> = lse.iter().map(|x| finite(*x)).collect();
                assert_close("longnet", &wide(&got.lse).into_iter().map(finite).collect::<Vec<_>>(), &want, FORWARD);
                let d = got.out.mapv(|x| (x * 5.0).cos());
                let cotangent = Cotangent { out: d.view(), lse: None };
                let gradient = longnet::backward(&x, &longnet, &got, &cotangent, &cx).expect("valid");
                for (i, gradient) in [&gradient.q, &gradient.k, &gradient.v].into_iter().enumerate() {
                    is_slope(NAMES[i], &wide(gradient), |moved| {
                        let mut arrays = arrays.clone();
                        arrays.of[i].data.iter_mut().zip(moved).for_each(|(x, d)| *x += d);
                        exactly(&arrays).0.iter().zip(&d).map(|(a, b)| a * f64::from(*b)).sum()
                    });
                }
            }
        }
    }
    let x = ndarray::Array4::<f32>::zeros((1, 8, 2, 4));
    let x = Inputs::new(x.view(), x.view(), x.view());
    let refused = |segments: &[usize], dilations: &[usize]| {
        let longnet = LongNet { segments: segments.to_vec(), dilations: dilations.to_vec(), causal: true };
        pattern_error(longnet::chunk(&x, &longnet, &Cx::new(1)))
    };
    assert!(refused(&[], &[]).contains("`segments`"));
    assert!(refused(&[4, 0], &[1, 1]).contains("`segments`"));
    assert!(refused(&[4], &[1, 2]).contains("`dilations`"));
}

#[test]
fn lsh() {
    for (t, heads, rounds, lsh, padding) in [
        (40, 2, 1, Lsh { chunk: 8, ..Lsh::default() }, false),
        (64, 2, 3, Lsh { chunk: 16, causal: true, ..Lsh::default() }, true),
        (60, 1, 2, Lsh { chunk: 20, before: 1, after: 1, causal: true }, false),
        (30, 2, 2, Lsh { chunk: 30, causal: true, ..Lsh::default() }, true),
        (20, 1, 1, Lsh { chunk: 5, before: 9, after: 9, causal: false }, false),
    ] {
        let x = Tensor::random("x", Token, &[3, t, heads, 8], -2.0..2.0, 1);
        let value = Tensor::random("v", Token, &[3, t, heads, 6], -2.0..2.0, 2);
        let rotations = array(&Tensor::random("r", Shared, &[heads, 8, rounds, 3], -1.0..1.0, 3));
        let kept = Array2::from_shape_fn((3, t), |(b, j)| b == 0 || j < t - t / 4 && j != 1);
        let keep = padding.then(|| kept.view());
        let (nx, nv) = (array(&x), array(&value));
        let (nx, nv): (ndarray::ArrayView4<'_, f32>, ndarray::ArrayView4<'_, f32>) = (v!(nx), v!(nv));
        let buckets = lsh::hash(nx, &[rotations.view()]).expect("rotations");
        assert!(buckets.iter().all(|b| *b < 6 * rounds));
        let exactly = |x: &Tensor, value: &Tensor| {
            let (x, value) = (exact(x), exact(value));
            lsh::naive(v!(x), v!(value), buckets.view(), keep, &lsh)
        };
        let want: Vec<f64> = exactly(&x, &value).into_iter().collect();
        for cx in contexts() {
            let got = lsh::chunk(nx, nv, buckets.view(), keep, &lsh, &cx).expect("valid");
            assert_close("lsh", &wide(&got.out), &want, FORWARD);
            let d = got.out.mapv(|x| (x * 5.0).cos());
            let gradient = lsh::backward(nx, nv, buckets.view(), keep, &lsh, &got, d.view(), &cx).expect("valid");
            let dot = |out: ndarray::Array4<f64>| out.iter().zip(&d).map(|(a, b)| a * f64::from(*b)).sum::<f64>();
            let moved = |of: &Tensor, by: &[f64]| {
                let mut of = of.clone();
                of.data.iter_mut().zip(by).for_each(|(x, d)| *x += d);
                of
            };
            is_slope("x", &wide(&gradient.x), |by| dot(exactly(&moved(&x, by), &value)));
            is_slope("v", &wide(&gradient.v), |by| dot(exactly(&x, &moved(&value, by))));
        }
    }
    let x = ndarray::Array4::<f32>::zeros((1, 10, 2, 4));
    let buckets = ndarray::Array4::zeros((1, 2, 1, 10));
    let refused =
        lsh::chunk(x.view(), x.view(), buckets.view(), None, &Lsh { chunk: 4, ..Lsh::default() }, &Cx::new(1));
    assert!(pattern_error(refused).contains("`chunk` is 4, want a divisor of the 10 tokens"));
}

/// With one bucket and chunks that see everything, hashing is dense attention of the vectors to their normed selves; with more rounds it comes
/// closer to it.
#[test]
fn lsh_approaches_dense() {
    let (t, cx) = (256, Cx::new(2));
    let x = array(&Tensor::random("x", Token, &[1, t, 1, 16], -3.0..3.0, 1));
    let x: ndarray::ArrayView4<'_, f32> = v!(x);
    let dense =
        lsh::chunk(x, x, ndarray::Array4::zeros((1, 1, 1, t)).view(), None, &Lsh { chunk: t, ..Lsh::default() }, &cx);
    let dense = dense.expect("valid").out;
    let mut keys = x.to_owned();
    for mut row in keys.rows_mut() {
        let norm = (row.dot(&row) / 16.0 + 1e-6).sqrt() * 4.0;
        row /= norm;
    }
    let others = Masked::predicate(1, t, t, |_, i, j| i != j);
    let plain = softmax::chunk(&Inputs::scaled(x, keys.view(), x, 1.0), &others, &cx).expect("valid");
    assert_close("one bucket", &wide(&dense), &wide(&plain.out), FORMS);
    let error = |rounds: usize| {
        let rotations = array(&Tensor::random("r", Shared, &[1, 16, rounds, 4], -1.0..1.0, 5));
        let buckets = lsh::hash(x, &[rotations.view()]).expect("rotations");
        let got = lsh::chunk(x, x, buckets.view(), None, &Lsh { chunk: 32, ..Lsh::default() }, &cx).expect("valid");
        (got.out - &dense).mapv(|x| x * x).mean().expect("not empty")
    };
    let errors = [1, 4, 16].map(error);
    assert!(errors[0] > 2.0 * errors[1] && errors[1] > 1.5 * errors[2], "{errors:?}");
}

#[test]
fn every_width_and_group_is_naive() {
    let causal = Dense { causal: true };
    for cx in contexts() {
        for width in [(16, 16), (33, 17), (80, 96), (128, 128), (256, 40), (1, 1)] {
            forms_are_naive(Case { width, ..PLAIN }, &causal, &cx);
            gradient_is_slope(Case { width: (width.0.min(40), width.1.min(36)), ..SMALL.square(20) }, &causal, &cx);
        }
        forms_are_naive(Case { heads: 6, groups: 2, ..PLAIN }, &causal, &cx);
        forms_are_naive(Case { heads: 5, groups: 1, queries: 70, keys: 600, ..PLAIN }, &Dense { causal: false }, &cx);
        gradient_is_slope(Case { heads: 6, groups: 2, ..SMALL.square(20) }, &causal, &cx);
    }
}

#[test]
fn every_option_is_naive() {
    let causal = Dense { causal: true };
    let packed = [0, 37, 37, 38, 130];
    for cx in contexts() {
        for (long, small) in [
            (PLAIN, SMALL),
            (Case { queries: 90, keys: 300, offset: 210, ..PLAIN }, Case { queries: 9, keys: 30, offset: 21, ..SMALL }),
        ] {
            let options = |case| {
                [
                    Case { softcap: Some(3.0), ..case },
                    Case { bias: Some((1, 2)), ..case },
                    Case { bias: Some((case.batch, 1)), ..case },
                    Case { alibi: true, ..case },
                    Case { sinks: true, ..case },
                    Case { padding: true, ..case },
                    Case { softcap: Some(20.0), bias: Some((1, 1)), alibi: true, sinks: true, padding: true, ..case },
                ]
            };
            options(long).into_iter().for_each(|case| forms_are_naive(case, &causal, &cx));
            options(small).into_iter().for_each(|case| gradient_is_slope(case, &causal, &cx));
        }
        forms_are_naive(Case { batch: 1, packed: Some(&packed), ..PLAIN.square(130) }, &causal, &cx);
        forms_are_naive(Case { batch: 1, packed: Some(&packed), ..PLAIN.square(130) }, &Dense { causal: false }, &cx);
        gradient_is_slope(Case { packed: Some(&packed[..4]), ..SMALL.square(38) }, &causal, &cx);
    }
}

/// A gradient whose keys are divided into parts, and whose ranges begin within them.
#[test]
fn long_gradients_are_slopes() {
    let case = Case { heads: 1, groups: 1, width: (2, 2), ..SMALL };
    let cx = &Cx::new(2);
    gradient_is_slope(Case { queries: 30, keys: 1100, offset: 1060, ..case }, &Dense { causal: true }, cx);
    gradient_is_slope(Case { queries: 600, keys: 20, ..case }, &Dense { causal: false }, cx);
}

#[test]
fn bf16_is_f32_of_the_same_numbers() {
    let half =
        |name, seed| array(&Tensor::random(name, Token, &[1, 70, 2, 33], -2.0..2.0, seed)).mapv(half::bf16::from_f32);
    let (q, k, value) = (half("q", 1), half("k", 2), half("v", 3));
    let (wq, wk, wv) = (q.mapv(|x| x.to_f32()), k.mapv(|x| x.to_f32()), value.mapv(|x| x.to_f32()));
    let causal = Dense { causal: true };
    for cx in contexts() {
        let narrow = Inputs { scale: 0.2, ..Inputs::new(v!(q), v!(k), v!(value)) };
        let wide = Inputs { scale: 0.2, ..Inputs::new(v!(wq), v!(wk), v!(wv)) };
        let (a, b) = (softmax::chunk(&narrow, &causal, &cx), softmax::chunk(&wide, &causal, &cx));
        assert_eq!(a.clone().expect("valid"), b.expect("valid"), "{}", cx.isa);
        let (c, d) = (softmax::step(&narrow, &causal, &cx), softmax::step(&wide, &causal, &cx));
        assert_eq!(c.expect("valid"), d.expect("valid"), "{}", cx.isa);
        let output = a.expect("valid");
        let d = Cotangent { out: output.out.view(), lse: None };
        let (a, b) = (
            softmax::backward(&narrow, &causal, &output, &d, &cx),
            softmax::backward(&wide, &causal, &output, &d, &cx),
        );
        assert_eq!(a.expect("valid"), b.expect("valid"), "{}", cx.isa);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let case = Case { heads: 4, groups: 2, ..PLAIN.square(700) };
    let (arrays, slopes) = (Arrays::of(&case), softmax::alibi(4));
    let of = arrays.narrow();
    let x = inputs(&case, &of, &arrays.keep, &slopes);
    let causal = Dense { causal: true };
    let all = |cx: &Cx| {
        let output = softmax::chunk(&x, &causal, cx).expect("valid");
        let d = Cotangent { out: output.out.view(), lse: None };
        let gradient = softmax::backward(&x, &causal, &output, &d, cx).expect("valid");
        (softmax::step(&x, &causal, cx).expect("valid"), gradient, output)
    };
    assert_eq!(all(&Cx::new(1)), all(&Cx::new(3)));
}

/// What is not a number spoils the rows that see it and no others.
#[test]
fn nan_stays_in_its_rows() {
    let case = PLAIN.square(90);
    let causal = Dense { causal: true };
    for cx in contexts() {
        let (arrays, slopes) = (Arrays::of(&case), softmax::alibi(case.heads));
        let mut of = arrays.narrow();
        let clean = [
            softmax::chunk(&inputs(&case, &of, &arrays.keep, &slopes), &causal, &cx).expect("valid"),
            softmax::step(&inputs(&case, &of, &arrays.keep, &slopes), &causal, &cx).expect("valid"),
        ];
        of[0][[0, 5, 0, 3]] = f32::NAN;
        of[1][[0, 70, 0, 3]] = f32::NAN;
        of[2][[0, 60, 1, 3]] = f32::INFINITY;
        of[2][[1, 80, 1, 7]] = f32::NAN;
        let x = inputs(&case, &of, &arrays.keep, &slopes);
        for (got, clean) in [softmax::chunk(&x, &causal, &cx), softmax::step(&x, &causal, &cx)].into_iter().zip(clean) {
            for ((at, got), clean) in got.expect("valid").out.indexed_iter().zip(&clean.out) {
                let spoilt = match at {
                    (0, t, 0, _) => t == 5 || t >= 70,
                    (0, t, 1, 3) => t >= 60,
                    (1, t, 1, 7) => t >= 80,
                    _ => false,
                };
                assert_eq!(spoilt, !got.is_finite(), "{at:?}: {got}, {}", cx.isa);
                assert!(spoilt || (got - clean).abs() < 1e-5, "{at:?}: {got}, {clean}, {}", cx.isa);
            }
        }
    }
}

/// In the gradient, a query that is spoilt spoils the keys it sees, and they nothing else.
#[test]
fn nan_stays_among_those_who_see_it() {
    let case = Case { softcap: Some(20.0), ..PLAIN.square(200) };
    let window = Window { left: 10, right: 0 };
    for cx in contexts() {
        let (arrays, slopes) = (Arrays::of(&case), softmax::alibi(case.heads));
        let mut of = arrays.narrow();
        let dout = of[2].mapv(|x| 0.3 - x);
        let gradient = |of: &Vec<ArrayD<f32>>, dout: &ArrayD<f32>| {
            let x = inputs(&case, of, &arrays.keep, &slopes);
            let output = softmax::chunk(&x, &window, &cx).expect("valid");
            let d = Cotangent { out: dout.view().into_dimensionality().expect("four axes"), lse: None };
            softmax::backward(&x, &window, &output, &d, &cx).expect("valid")
        };
        let clean = gradient(&of, &dout);
        of[0][[0, 5, 0, 3]] = f32::NAN;
        of[1][[0, 70, 0, 3]] = f32::NAN;
        of[2][[0, 60, 1, 3]] = f32::INFINITY;
        let mut odd = dout;
        odd[[1, 130, 1, 7]] = f32::NAN;
        let got = gradient(&of, &odd);
        let query = |b: usize, t: usize, h: usize| match (b, h) {
            (0, 0) => t == 5 || (70..=80).contains(&t),
            (0, 1) => (60..=70).contains(&t),
            (1, 1) => t == 130,
            _ => false,
        };
        let key = |b: usize, j: usize, h: usize| (j..=j + 10).any(|t| query(b, t, h));
        let spoilt: [&dyn Fn(usize, usize, usize) -> bool; 3] = [&query, &key, &key];
        for (n, (got, clean)) in [(&got.q, &clean.q), (&got.k, &clean.k), (&got.v, &clean.v)].into_iter().enumerate() {
            for (((b, t, h, c), got), clean) in got.indexed_iter().zip(clean) {
                let spoilt = spoilt[n](b, t, h);
                assert_eq!(spoilt, got.is_nan(), "{n}, {b} {t} {h} {c}: {got}, {}", cx.isa);
                assert!(spoilt || (got - clean).abs() < 1e-5, "{n}, {b} {t} {h} {c}: {got}, {clean}, {}", cx.isa);
            }
        }
    }
}

#[test]
fn parts_merge_into_the_whole() {
    let case = Case { keys: 200, ..PLAIN };
    let (arrays, slopes, cx) = (Arrays::of(&case), softmax::alibi(2), Cx::new(2));
    let of = arrays.narrow();
    let x = inputs(&case, &of, &arrays.keep, &slopes);
    let all = Dense { causal: false };
    let whole = softmax::chunk(&x, &all, &cx).expect("valid");
    let part = |range: std::ops::Range<usize>| {
        let mut part = x;
        part.k.slice_collapse(ndarray::s![.., range.clone(), .., ..]);
        part.v.slice_collapse(ndarray::s![.., range, .., ..]);
        part
    };
    let parts = [part(0..30), part(30..199), part(199..200)];
    let merged: Vec<_> = parts.iter().map(|x| softmax::chunk(x, &all, &cx).expect("valid")).collect();
    let merged = softmax::merge("test", merged, &Cx::new(2)).expect("valid");
    assert_close("merged", &wide(&merged.out), &wide(&whole.out), FORMS);
    assert_close("merged", &wide(&merged.lse), &wide(&whole.lse), FORMS);
    let d = Cotangent { out: whole.out.view(), lse: None };
    let gradient = softmax::backward(&x, &all, &whole, &d, &cx).expect("valid");
    let gradients: Vec<_> =
        parts.iter().map(|x| softmax::backward(x, &all, &merged, &d, &cx).expect("valid")).collect();
    let q = gradients.iter().map(|g| g.q.clone()).reduce(|a, b| a + b).expect("some");
    assert_close("dq", &wide(&q), &wide(&gradient.q), FORMS);
    let k: Vec<_> = gradients.iter().map(|g| g.k.view()).collect();
    let k = ndarray::concatenate(ndarray::Axis(1), &k).expect("shapes agree");
    assert_close("dk", &wide(&k), &wide(&gradient.k), FORMS);
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let case = PLAIN.square(20);
    let (arrays, slopes, cx) = (Arrays::of(&case), softmax::alibi(2), Cx::new(1));
    let of = arrays.narrow();
    let x = inputs(&case, &of, &arrays.keep, &slopes);
    let all = Dense { causal: false };
    let refused = |x: Inputs<'_>| softmax::chunk(&x, &all, &cx).expect_err("does not fit").to_string();
    let narrow = x.k.slice_move(ndarray::s![.., .., .., ..60]);
    assert_eq!(refused(Inputs { k: narrow, ..x }), "dense: `k` has shape [2, 20, 2, 60], want [2, 20, 2, 64]");
    let short = x.k.slice_move(ndarray::s![.., ..19, .., ..]);
    assert_eq!(refused(Inputs { k: short, ..x }), "dense: `k` has shape [2, 19, 2, 64], want [2, 20, 2, 64]");
    assert_eq!(refused(Inputs { sinks: Some(slopes[..1].into()), ..x }), "dense: `sinks` has shape [1], want [2]");
    let three = ndarray::Array4::zeros((2, 20, 3, 64));
    assert_eq!(refused(Inputs { q: three.view(), ..x }), "dense: 3 heads cannot share 2 groups");
    let strided = x.v.slice_move(ndarray::s![.., .., .., ..;2]);
    assert!(matches!(softmax::chunk(&Inputs { v: strided, ..x }, &all, &cx), Err(Error::Layout { input: "v", .. })));
    let packed = Inputs { sequences: Sequences::Packed(&[0, 20]), ..x };
    assert!(matches!(softmax::chunk(&packed, &all, &cx), Err(Error::Boundaries { batch: 2, .. })));
}
