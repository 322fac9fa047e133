//! The laws of the softmax family: every pattern's mask is its definition, and every form computes the definition.

use std::ops::Range;

use longreach_attention::softmax::bigbird::BigBird;
use longreach_attention::softmax::dense::Dense;
use longreach_attention::softmax::dilated::{self, Dilated};
use longreach_attention::softmax::h_transformer_1d::{self, HTransformer1d};
use longreach_attention::softmax::hierarchical::{self, Hierarchical};
use longreach_attention::softmax::infllm_v2::{self, InfLlmV2};
use longreach_attention::softmax::longformer::{self, Longformer};
use longreach_attention::softmax::longnet::{self, LongNet, Mixture};
use longreach_attention::softmax::lsh::{self, Lsh};
use longreach_attention::softmax::mask::Entry;
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

mod choosing;
mod kernel;
mod patterns;
mod segments;

/// The sizes and options of a call.
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

    /// Small sizes, so that finite differences of long sequences stay fast.
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
        // The second sequence is padded on the right, the third on the left, and each has a gap.
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

/// Both forms agree with the definition.
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
        lse_close(&format!("lse of {form}: {what}"), &wide(&got.lse), &lse);
    }
}

/// The same rows have no keys, and the log-sum-exp of the others agrees.
#[track_caller]
pub(crate) fn lse_close(what: &str, got: &[f64], want: &[f64]) {
    let blind = |x: &[f64]| x.iter().map(|x| *x == f64::NEG_INFINITY).collect::<Vec<_>>();
    assert_eq!(blind(got), blind(want), "{what}: which rows see nothing");
    let others = |x: &[f64]| x.iter().copied().filter(|x| *x != f64::NEG_INFINITY).collect::<Vec<_>>();
    assert_close(what, &others(got), &others(want), FORWARD);
}

/// The derivative of `f` along a direction, by finite differences.
fn slope(f: impl Fn(f64) -> f64) -> f64 {
    (f(1e-5) - f(-1e-5)) / 2e-5
}

/// The gradient agrees with the derivative of `f` along random directions and single coordinates; `f` is given the
/// perturbation of the input.
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

/// The gradient agrees with finite differences of the definition.
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
    let gradient = softmax::backward(&inputs, pattern, got.view(), &d, cx).expect("valid inputs");
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

/// The mask and its partial blocks contain exactly the pairs of the definition.
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

/// All laws for a pattern that accepts any sizes.
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

/// A pattern whose pairs are computed individually.
#[derive(Debug)]
struct Alone<P>(P);

impl<P: Pattern> Pattern for Alone<P> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn count(&self, of: &Sizes, b: usize, h: usize, i: usize, j: usize) -> u32 {
        self.0.count(of, b, h, i, j)
    }

    fn visit(&self, _: &Sizes, _: usize, _: usize, _: Range<usize>, _: Range<usize>, _: &mut Vec<Entry>) {
        panic!("no blocks are visited");
    }

    fn scattered(&self) -> bool {
        true
    }
}

fn pattern_error<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error").to_string()
}

/// A square call of two sequences and two heads.
fn forward(pattern: &dyn Pattern, t: usize) -> Result<softmax::Output, Error> {
    let x = ndarray::Array4::from_elem((2, t, 2, 16), 0.5);
    softmax::chunk(&Inputs::new(x.view(), x.view(), x.view()), pattern, &Cx::new(1))
}

/// The two kernels of a pattern that has its own.
type Kernel<P> = fn(&Inputs<'_>, &P, &Cx) -> Result<softmax::Output, Error>;

fn kernel_is_naive<P: Pattern>(case: Case<'_>, pattern: &P, kernels: [Kernel<P>; 2], cx: &Cx) -> softmax::Output {
    let arrays = Arrays::of(&case);
    let (out, lse) = arrays.naive(&case, pattern);
    let (of, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
    let x = inputs(&case, &of, &arrays.keep, &slopes);
    let [chunk, step] = kernels.map(|kernel| kernel(&x, pattern, cx).expect("valid inputs"));
    for got in [&chunk, &step] {
        assert_close(pattern.name(), &wide(&got.out), &out, FORWARD);
        lse_close(pattern.name(), &wide(&got.lse), &lse);
    }
    chunk
}

/// The gradient of a pattern's own kernel is that of the family's kernel.
fn gradient_is_that_of_the_family_kernel<P: Pattern>(
    case: Case<'_>,
    pattern: &P,
    backward: fn(&Inputs<'_>, &P, softmax::OutputView<'_>, &Cotangent<'_>, &Cx) -> Result<softmax::Gradient, Error>,
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
    let want = softmax::backward(&x, pattern, output.view(), &d, cx).expect("valid");
    let got = backward(&x, pattern, output.view(), &d, cx).expect("valid");
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
