use longreach_attention::Sequences;
use longreach_attention::short_conv::{Activation, Inputs, backward, chunk, naive, step};
use longreach_simd::Cx;
use longreach_testkit::Kind::{Shared, State, Token};
use longreach_testkit::{Output, Subject, Tensor};

use crate::{array, exact, narrow, prove, v, wide};

struct ShortConv {
    width: usize,
    activation: Activation,
}

fn sequences(packed: Option<&[usize]>) -> Sequences<'_> {
    packed.map_or(Sequences::Batch, Sequences::Packed)
}

impl Subject for ShortConv {
    type Cx = Cx;

    fn sample(&self, b: usize, t: usize, seed: u64) -> Vec<Tensor> {
        let (d, w) = (69, self.width);
        vec![
            Tensor::random("x", Token, &[b, t, d], -2.0..2.0, seed),
            Tensor::random("w", Shared, &[w, d], -1.0..1.0, seed),
            Tensor::random("bias", Shared, &[d], -1.0..1.0, seed),
            Tensor::random("state", State, &[b, w - 1, d], -1.0..1.0, seed),
        ]
    }

    fn naive(&self, x: &[Tensor], packed: Option<&[usize]>) -> Output {
        let mut state = exact(&x[3]).to_owned().into_dimensionality().expect("rank");
        let (tokens, w, bias) = (exact(&x[0]), exact(&x[1]), exact(&x[2]));
        let input = Inputs {
            x: v!(tokens),
            w: v!(w),
            bias: Some(v!(bias)),
            activation: self.activation,
            sequences: sequences(packed),
        };
        let out = naive(&input, state.view_mut()).expect("valid inputs");
        Output { out: out.into_iter().collect(), state: state.into_iter().collect() }
    }

    fn forms(&self) -> &'static [&'static str] {
        &["chunk"]
    }

    fn run(&self, form: &str, x: &[Tensor], packed: Option<&[usize]>, cx: &Cx) -> Output {
        let mut state = array(&x[3]).into_dimensionality().expect("rank");
        let (tokens, w, bias) = (array(&x[0]), array(&x[1]), array(&x[2]));
        let input = Inputs {
            x: v!(tokens),
            w: v!(w),
            bias: Some(v!(bias)),
            activation: self.activation,
            sequences: sequences(packed),
        };
        let call = if form == "step" { step } else { chunk };
        let out = call(&input, state.view_mut(), cx).expect("valid inputs");
        Output { out: wide(&out), state: wide(&state) }
    }

    fn gradient(&self, x: &[Tensor], packed: Option<&[usize]>, d: &Output, cx: &Cx) -> Vec<Vec<f64>> {
        let (tokens, w, bias, state) = (array(&x[0]), array(&x[1]), array(&x[2]), array(&x[3]));
        let input = Inputs {
            x: v!(tokens),
            w: v!(w),
            bias: Some(v!(bias)),
            activation: self.activation,
            sequences: sequences(packed),
        };
        let (dy, ds) = (narrow(&x[0].shape, &d.out), narrow(&x[3].shape, &d.state));
        let g = backward(&input, v!(state), v!(dy), v!(ds), cx).expect("valid inputs");
        vec![wide(&g.x), wide(&g.w), wide(&g.bias), wide(&g.state)]
    }
}

#[test]
fn every_law() {
    prove(&ShortConv { width: 4, activation: Activation::Silu });
    prove(&ShortConv { width: 3, activation: Activation::None });
}

#[test]
fn one_tap_is_a_product() {
    let cx = Cx::new(1);
    let subject = ShortConv { width: 1, activation: Activation::None };
    let x = subject.sample(1, 5, 1);
    let y = subject.run("chunk", &x, None, &cx);
    for (i, y) in y.out.iter().enumerate() {
        let c = i % 69;
        assert!((y - (x[0].data[i] * x[1].data[c] + x[2].data[c])).abs() < 1e-6);
    }
}
