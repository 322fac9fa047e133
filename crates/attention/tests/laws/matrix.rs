//! Mechanisms with a matrix state whose kernel is that of `fast_weights`, or which share its laws.

use longreach_attention::linear::performer::Kernel;
use longreach_attention::linear::{lightning, performer, retention};
use longreach_attention::operation::named;
use longreach_attention::{MECHANISMS, Mechanism, Sequences};
use longreach_simd::Cx;
use longreach_testkit::Kind::{State, Token};
use longreach_testkit::tolerance::{FORMS, FORWARD, assert_close};
use longreach_testkit::{Output, Subject, Tensor, laws, numbers};
use ndarray::ArrayD;
use serde_json::{Value, json};

use crate::stateful::{Sizes, Stateful};
use crate::{array, contexts, prove, v};

const SIZES: Sizes = [2, 4, 21, 70];
const EVEN: Sizes = [3, 3, 16, 32];

/// The index of an input among the tensors.
fn at(x: &[Tensor], name: &str) -> usize {
    x.iter().position(|x| x.name == name).expect("an input of that name")
}

/// The mechanisms of a family whose state is a matrix `[K, V]` per head.
fn matrices(family: &str) -> impl Iterator<Item = &'static str> {
    let matrix = |m: &&Mechanism| {
        let outputs = named(m.name).expect("a mechanism").signature().outputs;
        outputs.iter().any(|output| output.axes == ["sequences", "H", "K", "V"])
    };
    MECHANISMS.iter().filter(move |m| m.family == family).filter(matrix).map(|m| m.name)
}

fn linear(parameters: Value, sizes: Sizes) -> Stateful {
    Stateful::new("linear_attention", sizes, 1.0).with(parameters)
}

fn elu(sizes: Sizes) -> Stateful {
    linear(json!({"map": "elu"}), sizes)
}

fn based(sizes: Sizes) -> Stateful {
    linear(json!({"map": "based"}), sizes)
}

fn performer(parameters: Value) -> Stateful {
    Stateful::new("performer", [1, 2, 7, 18], 1.0).with(parameters)
}

fn relu() -> Stateful {
    let ranges = &[("q", 0.1, 1.0), ("k", 0.1, 1.0), ("w", 0.1, 1.0)];
    performer(json!({"kernel": "relu", "epsilon": 1e-3})).between(ranges).changed(signed)
}

/// Queries, keys and random rows with all elements of one sign, alternating between rows: features switch on and off
/// from token to token, and no projection is near zero, where their derivative is discontinuous.
fn signed(mut x: Tensor) -> Tensor {
    let every = match x.name {
        "q" | "w" => 2,
        "k" => 3,
        _ => return x,
    };
    let width = x.shape[x.shape.len() - 1];
    x.data.chunks_mut(width).step_by(every).flatten().for_each(|x| *x = -*x);
    x
}

/// Every law, with odd and with even sizes, and with gates a hundred times as strong.
fn prove_matrices(family: &str) {
    for name in matrices(family) {
        for (sizes, strength) in [(SIZES, 1.0), (EVEN, 1.0), (EVEN, 100.0)] {
            prove(&Stateful::new(name, sizes, strength));
        }
    }
}

#[test]
fn laws_of_linear_matrices() {
    prove_matrices("linear");
}

#[test]
fn laws_of_delta_rules() {
    prove_matrices("delta");
}

/// Small heads, for which a sequence is one segment of the gradient, and ordinary ones, which need several segments.
const SMALL: Sizes = [2, 4, 12, 8];
const WIDE: Sizes = [1, 2, 24, 72];

/// The gradient of decays of every strength.
fn prove_decays(family: &str) {
    let decays = |name: &&str| named(name).expect("a mechanism").signature().inputs.iter().any(|x| x.name == "g");
    for name in matrices(family).filter(decays) {
        for sizes in [SMALL, WIDE] {
            laws::gradient_of_decays_is_slope(&Stateful::new(name, sizes, 1.0), "g", 97, &contexts());
        }
    }
}

#[test]
fn decays_of_linear_matrices() {
    prove_decays("linear");
}

#[test]
fn decays_of_delta_rules() {
    prove_decays("delta");
}

/// The walk meets the mechanisms of this state that there are.
#[test]
fn every_matrix_is_a_subject() {
    let all: Vec<&str> = ["linear", "delta"].into_iter().flat_map(matrices).collect();
    for name in
        ["scan", "retention", "gla", "hgrn2", "rwkv5", "rwkv6", "delta_rule", "gated_delta", "kda", "dplr", "rwkv7"]
    {
        assert!(all.contains(&name), "{name} is not among {all:?}");
    }
}

/// One token with rows of any width: of whole vectors or not, and of more than fit in registers.
#[test]
fn step_is_naive_for_every_width() {
    for width in [1, 3, 8, 16, 24, 31, 32, 48, 64, 70, 80, 96, 127, 128, 129, 192, 255, 256, 300] {
        for cx in contexts() {
            laws::step_is_naive(&elu([1, 2, 3, width]), &cx);
            for name in ["gla", "rwkv6", "delta_rule", "dplr"] {
                laws::step_is_naive(&Stateful::new(name, [1, 2, 3, width], 1.0), &cx);
            }
        }
    }
}

/// Every law, for mechanisms without gates.
macro_rules! laws_of_features {
    ($($test:ident $subject:expr),+) => {
        $(#[test]
        fn $test() {
            prove(&$subject);
        })+
    };
}

const NARROW: Sizes = [1, 2, 7, 18];

laws_of_features!(
    elu_laws elu(NARROW),
    taylor_laws linear(json!({"map": "taylor", "scale": 0.5}), NARROW).between(&[("q", -0.5, 0.5), ("k", -0.5, 0.5)]),
    based_laws based(NARROW),
    relu2_laws linear(json!({"map": "relu2", "normalize": false, "scale": 0.1}), NARROW),
    softmax_features_laws performer(json!({})),
    hyperbolic_features_laws performer(json!({"kernel": "hyperbolic"})),
    relu_features_laws relu(),
    cosformer_laws Stateful::new("cosformer", NARROW, 1.0).with(json!({"length": 512.0}))
);

/// The features of Based weigh a key by the second-order series of the exponential of the scaled product.
#[test]
fn based_features_are_the_series_of_a_scaled_product() {
    let subject = based([1, 1, 7, 3]);
    let mut x = subject.sample(1, 20, 1);
    let last = x.len() - 1;
    x[last].data.fill(0.0);
    let out = subject.run("recurrent", &x, None, &Cx::new(1)).out;
    let rows = |name: &str, width: usize| x[at(&x, name)].data.chunks(width).map(<[f64]>::to_vec).collect::<Vec<_>>();
    let (q, k, v) = (rows("q", 7), rows("k", 7), rows("v", 3));
    let mut want = Vec::new();
    for (i, q) in q.iter().enumerate() {
        let weight = |k: &Vec<f64>| {
            let z = q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / 7f64.sqrt();
            1.0 + z + z * z / 2.0
        };
        let total: f64 = k[..=i].iter().map(weight).sum();
        want.extend((0..3).map(|c| k[..=i].iter().zip(&v).map(|(k, v)| weight(k) * v[c]).sum::<f64>() / total));
    }
    assert_close("based", &out, &want, FORWARD);
}

/// Finite differences do not cross the discontinuity of the features' derivative, and there are projections on either
/// side.
#[test]
fn no_projection_is_near_zero() {
    let x = relu().sample(2, 130, 1);
    let rows = |name: &str| x[at(&x, name)].data.chunks(7);
    let mut products = Vec::new();
    for row in rows("q").chain(rows("k")) {
        for w in rows("w") {
            products.push(row.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() * 7f64.powf(-0.25));
        }
    }
    let least = products.iter().fold(f64::INFINITY, |least, x| x.abs().min(least));
    assert!(least > 1e-2, "{least}");
    let (on, all) = (products.iter().filter(|x| **x > 0.0).count(), products.len());
    assert!((all / 4..all - all / 4).contains(&on), "{on} of {all} features are on");
}

/// Without causality every query reads all keys, so the last token changes the first output; the state is still
/// carried on.
#[test]
fn non_causal_queries_read_all_keys() {
    let subject = linear(json!({"causal": false}), NARROW);
    for cx in contexts() {
        laws::forms_are_naive(&subject, &cx);
        laws::rows_are_independent(&subject, &cx);
        laws::packed_is_padded(&subject, &cx);
        laws::gradient_is_slope(&subject, &cx);
    }
}

/// Special cases equal the general mechanisms: with a gate of 0 the gated rules are the delta rule, with one gate for
/// all channels Kimi's rule is the gated one, and so on.
#[test]
fn special_cases_equal_the_general_mechanism() {
    let kda = Stateful::new("kda", EVEN, 1.0);
    let mut x = kda.sample(2, 40, 3);
    let cx = &Cx::new(2);
    let named = |x: &[Tensor], name: &str| x[at(x, name)].clone();
    let without = |x: &[Tensor], name: &str| x.iter().filter(|x| x.name != name).cloned().collect::<Vec<_>>();
    let same = |what: &str, a: Output, b: Output| {
        assert_close(what, &a.out, &b.out, FORMS);
        assert_close(what, &a.state, &b.state, FORMS);
    };
    // One gate per token.
    let mut scalar = x.clone();
    let (g, gate) = (at(&x, "g"), Tensor::random("g", Token, &[2, 40, 3], -0.5..-0.01, 5));
    x[g].data = gate.data.iter().flat_map(|g| [*g; 16]).collect();
    scalar[g] = gate;
    same(
        "kda",
        kda.run("recurrent", &x, None, cx),
        Stateful::new("gated_delta", EVEN, 1.0).run("recurrent", &scalar, None, cx),
    );
    // No gate.
    scalar[g].data.fill(0.0);
    let plain = Stateful::new("delta_rule", EVEN, 1.0).run("recurrent", &without(&scalar, "g"), None, cx);
    same("gated_delta", Stateful::new("gated_delta", EVEN, 1.0).run("recurrent", &scalar, None, cx), plain);
    // The general transition, given the erasure of the delta rule.
    let (k, beta, decay) = (named(&x, "k"), named(&x, "beta"), named(&x, "g"));
    let mut general = without(&x, "beta");
    let state = general.pop().expect("a state");
    let by_beta = |data: &[f64], width: usize| {
        data.iter().enumerate().map(|(i, x)| beta.data[i / width] * x).collect::<Vec<f64>>()
    };
    let mut a = k.clone();
    (a.name, a.data) = ("a", k.data.iter().zip(&decay.data).map(|(k, g)| k * g.exp()).collect());
    let mut b = k.clone();
    (b.name, b.data) = ("b", by_beta(&k.data, 16).into_iter().map(|x| -x).collect());
    let v = at(&general, "v");
    general[v].data = by_beta(&general[v].data, 32);
    general.extend([a, b, state]);
    same(
        "dplr",
        kda.run("recurrent", &x, None, cx),
        Stateful::new("dplr", EVEN, 1.0).run("recurrent", &general, None, cx),
    );
    // Without `β` nothing is erased.
    let beta = at(&x, "beta");
    x[beta].data.fill(0.0);
    let silent = kda.run("recurrent", &x, None, cx);
    let mut gla = without(&x, "beta");
    let v = at(&gla, "v");
    gla[v].data.fill(0.0);
    same("gla", Stateful::new("gla", EVEN, 1.0).run("recurrent", &gla, None, cx), silent);
}

#[test]
fn decays_are_those_of_the_papers() {
    let gamma: Vec<f64> = retention::decays(4).into_iter().map(f64::exp).collect();
    assert_close(
        "retention",
        &gamma,
        &[1.0 - 1.0 / 32.0, 1.0 - 1.0 / 64.0, 1.0 - 1.0 / 128.0, 1.0 - 1.0 / 256.0],
        FORMS,
    );
    let slopes = lightning::decays(2, 0, 3);
    assert_close("lightning", &slopes, &[-(1.00001 / 16.0), -(1.00001 / 256.0)], FORMS);
    let last = lightning::decays(2, 2, 3);
    assert!(last.iter().all(|slope| *slope < 0.0 && *slope > -2e-6), "{last:?}");
}

/// A gate above 0 that is found in the middle of a sequence is refused too, and the state is restored.
#[test]
fn late_positive_gate_leaves_the_state_unchanged() {
    let subject = Stateful::new("kda", EVEN, 1.0);
    let mut x = subject.sample(2, 150, 3);
    let last = x[3].data.len() - 1;
    x[3].data[last] = 0.25;
    let mut state = array(&x[x.len() - 1]);
    let before = state.clone();
    let refused = "kda: `g` is 0.25, want the logarithm of a factor of at most 1: 0 or less";
    let d = Output { out: x[2].data.clone(), state: x[x.len() - 1].data.clone() };
    for threads in [1, 2] {
        let cx = Cx::new(threads);
        assert_eq!(subject.in_place(&x, &mut state, &cx).expect_err("an error"), refused);
        assert_eq!(state, before);
        assert_eq!(subject.gradients(&x, None, &d, &cx).expect_err("an error"), refused);
    }
}

/// Errors name the expected and the given shape, and leave the state unchanged.
#[test]
fn invalid_inputs_are_named() {
    let subject = Stateful::new("kda", EVEN, 1.0);
    let x = subject.sample(2, 5, 3);
    let refused = |change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut x = x.clone();
        change(&mut x);
        let mut state = array(&x[x.len() - 1]);
        let before = state.clone();
        let error = subject.in_place(&x, &mut state, &Cx::new(1)).expect_err("an error");
        assert_eq!(state, before);
        error
    };
    let above = refused(&|x| x[3].data[7] = 0.25);
    assert_eq!(above, "kda: `g` is 0.25, want the logarithm of a factor of at most 1: 0 or less");
    let beta = refused(&|x| x[4] = Tensor::random("beta", Token, &[2, 5, 2], 0.0..1.0, 1));
    assert_eq!(beta, "kda: `beta` has shape [2, 5, 2], want [2, 5, 3]");
    let state = refused(&|x| x[5] = Tensor::random("state", State, &[2, 3, 16, 31], 0.0..1.0, 1));
    assert_eq!(state, "kda: `state` has shape [2, 3, 16, 31], want [2, 3, 16, 32]");
    let heads = refused(&|x| {
        for at in [0, 1] {
            x[at] = Tensor::random(x[at].name, Token, &[2, 5, 2, 16], 0.0..1.0, 1);
        }
    });
    assert_eq!(heads, "kda: 3 heads cannot share 2 groups");
}

/// NaN stays in its sequence and head, and in the tokens after it.
#[test]
fn nan_stays_in_its_row_and_head() {
    let subject = Stateful::new("kda", EVEN, 1.0);
    let mut x = subject.sample(2, 80, 3);
    let clean = subject.run("recurrent", &x, None, &Cx::new(2));
    // Sequence 0, token 70, head 1.
    x[0].data[(70 * 3 + 1) * 16] = f64::NAN;
    let spoilt = subject.run("recurrent", &x, None, &Cx::new(2));
    for (i, (got, clean)) in spoilt.out.iter().zip(&clean.out).enumerate() {
        let (row, h) = (i / 32 / 3, i / 32 % 3);
        assert_eq!(got.is_nan(), (row, h) == (70, 1), "token {row}, head {h}");
        assert!(got.is_nan() || got == clean);
    }
    x[1].data[(70 * 3 + 1) * 16] = f64::NAN;
    let spoilt = subject.run("recurrent", &x, None, &Cx::new(2));
    for (i, got) in spoilt.out.iter().enumerate() {
        let (row, h) = (i / 32 / 3, i / 32 % 3);
        assert_eq!(got.is_nan(), (70..80).contains(&row) && h == 1, "token {row}, head {h}");
    }
}

/// Performer's estimate of the softmax kernel is unbiased, its error falls with the number of features, and positive
/// features stay accurate where the kernel is small, while trigonometric ones do not.
#[test]
fn random_features_estimate_softmax() {
    let (k, draws) = (16, 100);
    let mut uniform = numbers(1 << 21, 7).into_iter();
    let mut normal = || {
        let (a, b) = (uniform.next().expect("enough"), uniform.next().expect("enough"));
        (-2.0 * a.max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    };
    let (q, key) = (numbers(k, 1), numbers(k, 2));
    // A pair with a large softmax weight, and one with a small weight.
    let mut pair = |sign: f64, size: f64, features: usize| {
        let x: Vec<f64> = q.iter().map(|x| size * (2.0 * x - 1.0)).collect();
        let y: Vec<f64> = key.iter().zip(&x).map(|(y, x)| sign * x + 0.3 * (2.0 * y - 1.0)).collect();
        let by = (k as f64).powf(-0.25);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let want = (by * by * dot(&x, &y)).exp();
        let (mut sums, mut squares, mut waves) = (0.0, 0.0, 0.0);
        for _ in 0..draws {
            let w = performer::projection(features, k, &mut normal);
            let of = |x: &[f64]| -> Vec<f64> {
                let half = by * by * dot(x, x) / 2.0;
                w.outer_iter()
                    .map(|w| (by * w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>() - half).exp())
                    .collect()
            };
            let got = dot(&of(&x), &of(&y)) / features as f64;
            let far: Vec<f64> = x.iter().zip(&y).map(|(x, y)| by * (x - y)).collect();
            let wave: f64 =
                w.outer_iter().map(|w| w.iter().zip(&far).map(|(w, x)| f64::from(*w) * x).sum::<f64>().cos()).sum();
            let lifted = (by * by * (dot(&x, &x) + dot(&y, &y)) / 2.0).exp();
            sums += got;
            squares += (got - want).powi(2);
            waves += (lifted * wave / features as f64 - want).powi(2);
        }
        let error = |squares: f64| (squares / draws as f64).sqrt() / want;
        (sums / draws as f64 / want, error(squares), error(waves))
    };
    let (few, many) = (pair(1.0, 1.0, 16), pair(1.0, 1.0, 128));
    assert!((many.0 - 1.0).abs() < 4.0 * many.1 / (draws as f64).sqrt(), "mean {} of the kernel", many.0);
    assert!(many.1 < few.1 / 2.0, "error {} with 128 features, {} with 16", many.1, few.1);
    let far = pair(-1.0, 2.0, 64);
    assert!(far.1 < 2.0 && far.2 > 10.0 * far.1, "positive {}, trigonometric {}", far.1, far.2);
}

/// The random rows are orthogonal in blocks and have the norms of normal vectors.
#[test]
fn random_rows_are_orthogonal() {
    let mut uniform = numbers(100_000, 3).into_iter();
    let w = performer::projection(20, 8, || (0..12).map(|_| uniform.next().expect("enough")).sum::<f64>() - 6.0);
    for i in 0..20 {
        for j in 0..i {
            let cosine = w.row(i).dot(&w.row(j)) / (w.row(i).dot(&w.row(i)) * w.row(j).dot(&w.row(j))).sqrt();
            assert!(i / 8 != j / 8 || cosine.abs() < 1e-5, "rows {i} and {j}: {cosine}");
        }
    }
    let mean: f32 = w.outer_iter().map(|row| row.dot(&row)).sum::<f32>() / 20.0;
    assert!((5.0..11.0).contains(&mean), "{mean}, where 8 is to be expected");
}

/// Where features are computed, the memory order of the axes of queries and keys does not matter, as long as the last
/// is contiguous.
#[test]
fn axis_order_of_queries_and_keys_does_not_matter() {
    let (x, cx) = (Stateful::new("performer", [2, 2, 7, 18], 1.0).sample(2, 70, 5), &Cx::new(2));
    let arrays: Vec<_> = x.iter().map(array).collect();
    let turned: Vec<ArrayD<f32>> = arrays
        .iter()
        .enumerate()
        .map(|(i, array)| match i {
            0 | 1 => {
                let swapped = array.view().permuted_axes(vec![0, 2, 1, 3]);
                swapped.as_standard_layout().into_owned().permuted_axes(vec![0, 2, 1, 3])
            }
            _ => array.clone(),
        })
        .collect();
    let state = || arrays[arrays.len() - 1].clone().into_dimensionality().expect("rank");
    let d = v!(arrays[2]);
    let [plain, other] = [&arrays, &turned].map(|x| performer::Inputs {
        q: v!(x[0]),
        k: v!(x[1]),
        v: v!(x[2]),
        w: v!(x[3]),
        kernel: Kernel::Softmax,
        epsilon: 1e-4,
        causal: true,
        sequences: Sequences::Batch,
    });
    let (want, got) = [plain, other].map(|x| performer::recurrent(&x, state().view_mut(), cx).expect("valid")).into();
    assert_eq!(got, want);
    let zero = ndarray::Array4::zeros(state().raw_dim());
    let (want, got) =
        [plain, other].map(|x| performer::backward(&x, state().view(), d, zero.view(), cx).expect("valid")).into();
    assert_eq!((got.q, got.k, got.v, got.w), (want.q, want.k, want.v, want.w));
}
