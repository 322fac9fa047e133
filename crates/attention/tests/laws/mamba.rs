use longreach_attention::diagonal::mamba::{Inputs, backward, naive, recurrent, step};
use longreach_attention::{Error, Sequences};
use longreach_simd::Cx;
use longreach_testkit::Kind::{Shared, State, Token};
use longreach_testkit::{Output, Subject, Tensor};

use crate::{array, exact, narrow, prove, v, wide};

struct Mamba {
    gated: bool,
    n: usize,
}

macro_rules! inputs {
    ($x:ident, $view:ident, $gated:expr, $packed:expr) => {
        Inputs {
            x: v!($x[0]),
            dt: v!($x[1]),
            dt_bias: v!($x[2]),
            a: v!($x[3]),
            b: v!($x[4]),
            c: v!($x[5]),
            d: v!($x[6]),
            z: if $gated { Some(v!($x[7])) } else { None },
            sequences: $packed.map_or(Sequences::Batch, Sequences::Packed),
        }
    };
}

impl Subject for Mamba {
    type Cx = Cx;

    fn sample(&self, b: usize, t: usize, seed: u64) -> Vec<Tensor> {
        let (d, n) = (70, self.n);
        vec![
            Tensor::random("x", Token, &[b, t, d], -2.0..2.0, seed),
            Tensor::random("dt", Token, &[b, t, d], -4.0..2.0, seed),
            Tensor::random("dt_bias", Shared, &[d], -1.0..1.0, seed),
            Tensor::random("a", Shared, &[n, d], -8.0..-0.1, seed),
            Tensor::random("b", Token, &[b, t, n], -1.0..1.0, seed),
            Tensor::random("c", Token, &[b, t, n], -1.0..1.0, seed),
            Tensor::random("d", Shared, &[d], -1.0..1.0, seed),
            Tensor::random("z", Token, &[b, t, d], -2.0..2.0, seed),
            Tensor::random("state", State, &[b, n, d], -1.0..1.0, seed),
        ]
    }

    fn naive(&self, x: &[Tensor], packed: Option<&[usize]>) -> Output {
        let mut state = exact(&x[8]).to_owned().into_dimensionality().expect("rank");
        let x: Vec<_> = x.iter().map(exact).collect();
        let out = naive(&inputs!(x, exact, self.gated, packed), state.view_mut()).expect("valid inputs");
        Output { out: out.into_iter().collect(), state: state.into_iter().collect() }
    }

    fn forms(&self) -> &'static [&'static str] {
        &["recurrent"]
    }

    fn run(&self, form: &str, x: &[Tensor], packed: Option<&[usize]>, cx: &Cx) -> Output {
        let mut state = array(&x[8]).into_dimensionality().expect("rank");
        let x: Vec<_> = x.iter().map(array).collect();
        let call = if form == "step" { step } else { recurrent };
        let out = call(&inputs!(x, array, self.gated, packed), state.view_mut(), cx).expect("valid inputs");
        Output { out: wide(&out), state: wide(&state) }
    }

    fn gradient(&self, x: &[Tensor], packed: Option<&[usize]>, d: &Output, cx: &Cx) -> Vec<Vec<f64>> {
        let (dy, ds) = (narrow(&x[0].shape, &d.out), narrow(&x[8].shape, &d.state));
        let x: Vec<_> = x.iter().map(array).collect();
        let g = backward(&inputs!(x, array, self.gated, packed), v!(x[8]), v!(dy), v!(ds), cx).expect("valid inputs");
        let z = if self.gated { wide(&g.z) } else { vec![0.0; x[7].len()] };
        vec![
            wide(&g.x),
            wide(&g.dt),
            wide(&g.dt_bias),
            wide(&g.a),
            wide(&g.b),
            wide(&g.c),
            wide(&g.d),
            z,
            wide(&g.state),
        ]
    }
}

#[test]
fn every_law() {
    prove(&Mamba { gated: true, n: 16 });
    prove(&Mamba { gated: false, n: 11 });
}

#[test]
fn extreme_steps_match_the_definition() {
    let cx = Cx::new(1);
    let subject = Mamba { gated: true, n: 16 };
    let mut x = subject.sample(1, 40, 2);
    for (i, dt) in x[1].data.iter_mut().enumerate() {
        *dt = if i % 2 == 0 { 100.0 } else { -100.0 };
    }
    let got = subject.run("recurrent", &x, None, &cx);
    let want = subject.naive(&x, None);
    longreach_testkit::tolerance::assert_close("extreme steps", &got.out, &want.out, 1e-5);
}

#[test]
fn wrong_shapes_are_named() {
    let subject = Mamba { gated: true, n: 16 };
    let x: Vec<_> = subject.sample(1, 4, 3).iter().map(array).collect();
    let mut state = ndarray::Array3::zeros((1, 16, 69));
    let error =
        recurrent(&inputs!(x, array, true, None::<&[usize]>), state.view_mut(), &Cx::new(1)).expect_err("wrong state");
    assert_eq!(error, Error::Shape { op: "mamba", input: "state", want: vec![1, 16, 70], found: vec![1, 16, 69] });
    assert_eq!(error.to_string(), "mamba: `state` has shape [1, 16, 69], want [1, 16, 70]");
}
