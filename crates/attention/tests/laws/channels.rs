//! Mechanisms whose state is a few numbers per channel.

use longreach_attention::Sequences;
use longreach_attention::diagonal::{rg_lru, rwkv4};
use longreach_simd::Cx;
use longreach_testkit::Kind::{Shared, State, Token};
use longreach_testkit::tolerance::{FORMS, FORWARD, GRADIENT, assert_close};
use longreach_testkit::{Output, Subject, Tensor};
use ndarray::{Array2, Array3, s};

use crate::{array, exact, narrow, prove, v, wide};

/// The state in the laws is the sums themselves; the mechanism stores them relative to an exponent, which is not
/// unique.
struct Rwkv4;

macro_rules! rwkv4 {
    ($x:ident, $packed:expr) => {
        rwkv4::Inputs {
            k: v!($x[0]),
            v: v!($x[1]),
            w: v!($x[2]),
            u: v!($x[3]),
            sequences: $packed.map_or(Sequences::Batch, Sequences::Packed),
        }
    };
}

/// Converts `[S, 2, D]` to `[S, 3, D]` and back, relative to some exponent.
fn kept(sums: &Tensor) -> Array3<f64> {
    let sums: Array3<f64> = v!(exact(sums)).to_owned();
    let (b, _, d) = sums.dim();
    Array3::from_shape_fn((b, 3, d), |(b, n, c)| if n == 2 { 0.7 } else { sums[[b, n, c]] * (-0.7f64).exp() })
}

fn sums(state: &Array3<f64>) -> Vec<f64> {
    let (b, _, d) = state.dim();
    Array3::from_shape_fn((b, 2, d), |(b, n, c)| state[[b, n, c]] * state[[b, 2, c]].exp()).into_iter().collect()
}

impl Subject for Rwkv4 {
    type Cx = Cx;

    fn sample(&self, b: usize, t: usize, seed: u64) -> Vec<Tensor> {
        let d = 70;
        let mut state = Tensor::random("state", State, &[b, 2, d], -1.0..1.0, seed);
        state.data.chunks_mut(2 * d).for_each(|of| of[d..].iter_mut().for_each(|den| *den += 1.5));
        vec![
            Tensor::random("k", Token, &[b, t, d], -2.0..2.0, seed),
            Tensor::random("v", Token, &[b, t, d], -1.0..1.0, seed),
            Tensor::random("w", Shared, &[d], -2.0..-0.05, seed),
            Tensor::random("u", Shared, &[d], -1.0..1.0, seed),
            state,
        ]
    }

    fn naive(&self, x: &[Tensor], packed: Option<&[usize]>) -> Output {
        let mut state = kept(&x[4]);
        let x: Vec<_> = x.iter().map(exact).collect();
        let out = rwkv4::naive(&rwkv4!(x, packed), state.view_mut()).expect("valid inputs");
        Output { out: out.into_iter().collect(), state: sums(&state) }
    }

    fn forms(&self) -> &'static [&'static str] {
        &["recurrent"]
    }

    fn run(&self, form: &str, x: &[Tensor], packed: Option<&[usize]>, cx: &Cx) -> Output {
        let mut state = kept(&x[4]).mapv(|x| x as f32);
        let x: Vec<_> = x.iter().map(array).collect();
        let run = if form == "step" { rwkv4::step } else { rwkv4::recurrent };
        let out = run(&rwkv4!(x, packed), state.view_mut(), cx).expect("valid inputs");
        Output { out: wide(&out), state: sums(&state.mapv(f64::from)) }
    }

    fn gradient(&self, x: &[Tensor], packed: Option<&[usize]>, d: &Output, cx: &Cx) -> Vec<Vec<f64>> {
        let state = kept(&x[4]).mapv(|x| x as f32);
        let shape = x[4].shape.clone();
        let dy = narrow(&x[0].shape, &d.out);
        let x: Vec<_> = x.iter().map(array).collect();
        let input = rwkv4!(x, packed);
        let mut end = state.clone();
        rwkv4::recurrent(&input, end.view_mut(), cx).expect("valid inputs");
        // The sums are the stored numbers times e^m, so gradients scale the other way round.
        let d_sums: Array3<f32> = v!(narrow(&shape, &d.state)).to_owned();
        let over = |state: &Array3<f32>, d: &Array3<f32>, sign: f32| {
            Array3::from_shape_fn(d.dim(), |(b, n, c)| d[[b, n, c]] * (sign * state[[b, 2, c]]).exp())
        };
        let mut ds = Array3::zeros(state.dim());
        ds.slice_mut(s![.., ..2, ..]).assign(&over(&end, &d_sums, 1.0));
        let g = rwkv4::backward(&input, state.view(), v!(dy), ds.view(), cx).expect("valid inputs");
        assert!(g.state.slice(s![.., 2, ..]).iter().all(|x| *x == 0.0));
        let first = over(&state, &g.state.slice(s![.., ..2, ..]).to_owned(), -1.0);
        vec![wide(&g.k), wide(&g.v), wide(&g.w), wide(&g.u), wide(&first)]
    }
}

#[test]
fn rwkv4_laws() {
    prove(&Rwkv4);
}

/// Weights far beyond the range of f32, and an empty state.
#[test]
fn rwkv4_stays_in_range() {
    let mut x = Rwkv4.sample(1, 40, 3);
    x[0].data.iter_mut().enumerate().for_each(|(i, k)| *k *= if i % 3 == 0 { 400.0 } else { -300.0 });
    // Multiples of 1/16, so that the exponents are exact in f32.
    for at in [0, 2, 3] {
        x[at].data.iter_mut().for_each(|x| *x = (*x * 16.0).floor() / 16.0);
    }
    let mut exact_state = Array3::from_shape_fn((1, 3, 70), |(_, n, _)| if n == 2 { -1e38 } else { 0.0 });
    let mut state = exact_state.mapv(|x| x as f32);
    let wide_x: Vec<_> = x.iter().map(exact).collect();
    let want = rwkv4::naive(&rwkv4!(wide_x, None::<&[usize]>), exact_state.view_mut()).expect("valid");
    let x: Vec<_> = x.iter().map(array).collect();
    let got = rwkv4::recurrent(&rwkv4!(x, None::<&[usize]>), state.view_mut(), &Cx::new(1)).expect("valid");
    assert_close("out", &wide(&got), &want.into_iter().collect::<Vec<_>>(), FORWARD);
    let d = Array3::zeros((1, 3, 70));
    let first = Array3::from_shape_fn((1, 3, 70), |(_, n, _)| if n == 2 { -1e38 } else { 0.0 });
    let g = rwkv4::backward(&rwkv4!(x, None::<&[usize]>), first.view(), got.view(), d.view(), &Cx::new(1));
    let g = g.expect("valid");
    assert!(g.k.iter().chain(&g.v).chain(&g.w).chain(&g.u).chain(&g.state).all(|x| x.is_finite()));
}

struct RgLru;

macro_rules! rg_lru {
    ($x:ident, $reset:expr, $packed:expr) => {
        rg_lru::Inputs {
            x: v!($x[0]),
            r: v!($x[1]),
            i: v!($x[2]),
            lambda: v!($x[3]),
            reset: $reset,
            sequences: $packed.map_or(Sequences::Batch, Sequences::Packed),
        }
    };
}

impl Subject for RgLru {
    type Cx = Cx;

    fn sample(&self, b: usize, t: usize, seed: u64) -> Vec<Tensor> {
        let d = 70;
        vec![
            Tensor::random("x", Token, &[b, t, d], -1.0..1.0, seed),
            Tensor::random("r", Token, &[b, t, d], -3.0..3.0, seed),
            Tensor::random("i", Token, &[b, t, d], -3.0..3.0, seed),
            Tensor::random("lambda", Shared, &[d], -6.0..0.5, seed),
            Tensor::random("state", State, &[b, d], -1.0..1.0, seed),
        ]
    }

    fn naive(&self, x: &[Tensor], packed: Option<&[usize]>) -> Output {
        let mut state = exact(&x[4]).to_owned().into_dimensionality().expect("rank");
        let x: Vec<_> = x.iter().map(exact).collect();
        let out = rg_lru::naive(&rg_lru!(x, None, packed), state.view_mut()).expect("valid inputs");
        Output { out: out.into_iter().collect(), state: state.into_iter().collect() }
    }

    fn forms(&self) -> &'static [&'static str] {
        &["recurrent"]
    }

    fn run(&self, form: &str, x: &[Tensor], packed: Option<&[usize]>, cx: &Cx) -> Output {
        let mut state = array(&x[4]).into_dimensionality().expect("rank");
        let x: Vec<_> = x.iter().map(array).collect();
        let run = if form == "step" { rg_lru::step } else { rg_lru::recurrent };
        let out = run(&rg_lru!(x, None, packed), state.view_mut(), cx).expect("valid inputs");
        Output { out: wide(&out), state: wide(&state) }
    }

    fn gradient(&self, x: &[Tensor], packed: Option<&[usize]>, d: &Output, cx: &Cx) -> Vec<Vec<f64>> {
        let (dy, ds) = (narrow(&x[0].shape, &d.out), narrow(&x[4].shape, &d.state));
        let x: Vec<_> = x.iter().map(array).collect();
        let g = rg_lru::backward(&rg_lru!(x, None, packed), v!(x[4]), v!(dy), v!(ds), cx).expect("valid inputs");
        vec![wide(&g.x), wide(&g.r), wide(&g.i), wide(&g.lambda), wide(&g.state)]
    }
}

#[test]
fn rg_lru_laws() {
    prove(&RgLru);
}

/// A reset clears the state, forward and backward: the sequence after it equals a separate call.
#[test]
fn sequence_start_resets_the_state() {
    let (x, cx) = (RgLru.sample(1, 50, 4), &Cx::new(2));
    let begins = Array2::from_shape_fn((1, 50), |(_, t)| f64::from(u8::from(t == 0 || t == 20)));
    let mut exact_state: Array2<f64> = exact(&x[4]).to_owned().into_dimensionality().expect("rank");
    let wide_x: Vec<_> = x.iter().map(exact).collect();
    let want = rg_lru::naive(&rg_lru!(wide_x, Some(begins.view()), None::<&[usize]>), exact_state.view_mut());
    let narrow_begins = begins.mapv(|x| x as f32);
    let arrays: Vec<_> = x.iter().map(array).collect();
    let input = rg_lru!(arrays, Some(narrow_begins.view()), None::<&[usize]>);
    let mut state: Array2<f32> = array(&x[4]).into_dimensionality().expect("rank");
    let first = state.clone();
    let got = rg_lru::recurrent(&input, state.view_mut(), cx).expect("valid");
    assert_close("out", &wide(&got), &want.expect("valid").into_iter().collect::<Vec<_>>(), FORWARD);
    let (d, ds) = (got.mapv(|x| 0.5 - x), state.mapv(|x| x + 0.3));
    let g = rg_lru::backward(&input, first.view(), d.view(), ds.view(), cx).expect("valid");
    assert!(g.state.iter().all(|x| *x == 0.0));
    let tail: Vec<_> = x.iter().map(|x| array(&x.tokens(20..50))).collect();
    let begins = narrow_begins.slice(s![.., 20..]).to_owned();
    let alone = rg_lru!(tail, Some(begins.view()), None::<&[usize]>);
    let h = rg_lru::recurrent(&alone, first.clone().view_mut(), cx).expect("valid");
    assert_close("tail", &wide(&h), &wide(&got.slice(s![.., 20.., ..]).to_owned()), FORMS);
    let tail_d = d.slice(s![.., 20.., ..]);
    let of_tail = rg_lru::backward(&alone, first.view(), tail_d, ds.view(), cx).expect("valid");
    for (whole, tail) in [(&g.x, &of_tail.x), (&g.r, &of_tail.r), (&g.i, &of_tail.i)] {
        assert_close("gradient", &wide(tail), &wide(&whole.slice(s![.., 20.., ..]).to_owned()), GRADIENT);
    }
}
