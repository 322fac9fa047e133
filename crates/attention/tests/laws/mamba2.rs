use longreach_attention::Sequences;
use longreach_attention::linear::mamba2::{Inputs, backward, chunk, naive, recurrent, step};
use longreach_attention::linear::scan;
use longreach_simd::Cx;
use longreach_testkit::Kind::{Shared, State, Token};
use longreach_testkit::{Output, Subject, Tensor, laws, tolerance};

use crate::{array, contexts, exact, narrow, prove, v, wide};

struct Mamba2 {
    limit: (f64, f64),
}

macro_rules! inputs {
    ($x:ident, $limit:expr, $packed:expr) => {
        Inputs {
            x: v!($x[0]),
            dt: v!($x[1]),
            dt_bias: v!($x[2]),
            dt_limit: $limit,
            a: v!($x[3]),
            b: v!($x[4]),
            c: v!($x[5]),
            d: v!($x[6]),
            sequences: $packed.map_or(Sequences::Batch, Sequences::Packed),
        }
    };
}

impl Mamba2 {
    fn narrow(&self) -> (f32, f32) {
        (self.limit.0 as f32, self.limit.1 as f32)
    }
}

impl Subject for Mamba2 {
    type Cx = Cx;

    fn sample(&self, b: usize, t: usize, seed: u64) -> Vec<Tensor> {
        let (g, h, n, p) = (2, 4, 18, 20);
        vec![
            Tensor::random("x", Token, &[b, t, h, p], -1.0..1.0, seed),
            Tensor::random("dt", Token, &[b, t, h], -4.0..1.0, seed),
            Tensor::random("dt_bias", Shared, &[h], -1.0..1.0, seed),
            Tensor::random("a", Shared, &[h], -4.0..-0.1, seed),
            Tensor::random("b", Token, &[b, t, g, n], -1.0..1.0, seed),
            Tensor::random("c", Token, &[b, t, g, n], -1.0..1.0, seed),
            Tensor::random("d", Shared, &[h], -1.0..1.0, seed),
            Tensor::random("state", State, &[b, h, n, p], -1.0..1.0, seed),
        ]
    }

    fn naive(&self, x: &[Tensor], packed: Option<&[usize]>) -> Output {
        let mut state = exact(&x[7]).to_owned().into_dimensionality().expect("rank");
        let x: Vec<_> = x.iter().map(exact).collect();
        let out = naive(&inputs!(x, self.limit, packed), state.view_mut()).expect("valid inputs");
        Output { out: out.into_iter().collect(), state: state.into_iter().collect() }
    }

    fn forms(&self) -> &'static [&'static str] {
        &["recurrent", "chunk"]
    }

    fn run(&self, form: &str, x: &[Tensor], packed: Option<&[usize]>, cx: &Cx) -> Output {
        let mut state = array(&x[7]).into_dimensionality().expect("rank");
        let x: Vec<_> = x.iter().map(array).collect();
        let input = inputs!(x, self.narrow(), packed);
        let out = match form {
            "step" => step(&input, state.view_mut(), cx),
            "chunk" => chunk(&input, state.view_mut(), cx),
            _ => recurrent(&input, state.view_mut(), cx),
        };
        Output { out: wide(&out.expect("valid inputs")), state: wide(&state) }
    }

    fn gradient(&self, x: &[Tensor], packed: Option<&[usize]>, d: &Output, cx: &Cx) -> Vec<Vec<f64>> {
        let (dy, ds) = (narrow(&x[0].shape, &d.out), narrow(&x[7].shape, &d.state));
        let x: Vec<_> = x.iter().map(array).collect();
        let g = backward(&inputs!(x, self.narrow(), packed), v!(x[7]), v!(dy), v!(ds), cx).expect("valid inputs");
        vec![wide(&g.x), wide(&g.dt), wide(&g.dt_bias), wide(&g.a), wide(&g.b), wide(&g.c), wide(&g.d), wide(&g.state)]
    }
}

#[test]
fn every_law() {
    prove(&Mamba2 { limit: (0.0, f64::INFINITY) });
}

#[test]
fn every_law_with_a_limited_step() {
    prove(&Mamba2 { limit: (0.05, 0.7) });
}

/// With steps of similar length. If they differ a hundredfold, the gradients of the gates of long steps are far
/// smaller than those of their neighbours and inherit their rounding error, which the length of the step then
/// multiplies.
#[test]
fn gradient_of_decays_is_slope() {
    laws::gradient_of_decays_is_slope(&Mamba2 { limit: (0.4, 0.7) }, "a", 97, &contexts());
}

#[test]
fn mamba2_is_a_special_case_of_the_scan() {
    let subject = Mamba2 { limit: (0.0, f64::INFINITY) };
    let x = subject.sample(2, 65, 9);
    let want = subject.naive(&x, None);
    let [b, t, h, _] = x[0].shape[..] else { unreachable!("sampled with four axes") };
    let softplus = |u: f64| u.max(0.0) + (-u.abs()).exp().ln_1p();
    let delta: Vec<f64> = x[1].data.iter().enumerate().map(|(i, dt)| softplus(dt + x[2].data[i % h])).collect();
    let delta = ndarray::Array3::from_shape_vec((b, t, h), delta).expect("shape");
    let e: Vec<_> = x.iter().map(exact).collect();
    let a: ndarray::ArrayView1<'_, f64> = v!(e[3]);
    let g = &delta * &a;
    let mut state = e[7].to_owned().into_dimensionality().expect("rank");
    let input = scan::Inputs {
        q: v!(e[5]),
        k: v!(e[4]),
        v: v!(e[0]),
        g: Some(g.view()),
        beta: Some(delta.view()),
        skip: Some(v!(e[6])),
        scale: 1.0,
        sequences: Sequences::Batch,
    };
    let out = scan::naive(&input, state.view_mut()).expect("valid inputs");
    tolerance::assert_close("scan", &out.into_iter().collect::<Vec<_>>(), &want.out, 1e-13);
}
