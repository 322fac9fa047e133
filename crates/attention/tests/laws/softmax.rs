//! The laws of the softmax family: every pattern's mask is its definition, and every form computes the definition.

use longreach_attention::softmax::dense::Dense;
use longreach_attention::softmax::{self, BlockMask, Cotangent, Inputs, Pattern, Sizes};
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
        let n = gradient.len();
        let scale = gradient.iter().fold(1.0f64, |m, x| m.max(x.abs()));
        let random: Vec<f64> = numbers(n, 7).into_iter().map(|x| 2.0 * x - 1.0).collect();
        let norm = random.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut directions = vec![random.into_iter().map(|x| x / norm).collect::<Vec<_>>()];
        for at in [0, n / 2, n - 1] {
            directions.push((0..n).map(|i| f64::from(u8::from(i == at))).collect());
        }
        for direction in directions {
            let along = |h: f64| direction.iter().map(|x| h * x).collect::<Vec<_>>();
            let want = (at(&along(1e-5)) - at(&along(-1e-5))) / 2e-5;
            let got: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let error = (got - want).abs() / scale;
            assert!(error <= GRADIENT, "{} to {}: {got}, slope {want}, error {error:.1e}", pattern.name(), NAMES[i]);
        }
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
                        for part in keys.step_by(16).map(|at| at..(at + 16).min(of.keys)) {
                            let seen = match entry {
                                None => 0,
                                Some(entry) if !entry.cut => u32::MAX,
                                Some(_) => pattern.seen(of, b, h, i, part.clone()),
                            };
                            for (bit, j) in part.enumerate() {
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
    let merged = softmax::merge("test", &merged).expect("valid");
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
