use longreach_attention::Sequences;
use longreach_attention::linear::scan::{Inputs, backward, chunk, naive, recurrent, step};
use longreach_simd::Cx;
use longreach_testkit::Kind::{Shared, State, Token};
use longreach_testkit::{Output, Subject, Tensor, laws, tolerance};

use crate::{array, contexts, exact, narrow, prove, v, wide};

/// The scan with all optional inputs, or with none.
struct Scan {
    full: bool,
    /// The least gate, which sets how strong the decay may be.
    floor: f64,
}

macro_rules! inputs {
    ($x:ident, $full:expr, $packed:expr) => {
        Inputs {
            q: v!($x[0]),
            k: v!($x[1]),
            v: v!($x[2]),
            g: if $full { Some(v!($x[3])) } else { None },
            beta: if $full { Some(v!($x[4])) } else { None },
            skip: if $full { Some(v!($x[5])) } else { None },
            scale: 0.5,
            sequences: $packed.map_or(Sequences::Batch, Sequences::Packed),
        }
    };
}

impl Subject for Scan {
    type Cx = Cx;

    fn sample(&self, b: usize, t: usize, seed: u64) -> Vec<Tensor> {
        let (g, h, k, v) = (2, 4, 21, 70);
        let read = if self.full { 1.0 } else { 0.3 };
        vec![
            Tensor::random("q", Token, &[b, t, g, k], -read..read, seed),
            Tensor::random("k", Token, &[b, t, g, k], -1.0..1.0, seed),
            Tensor::random("v", Token, &[b, t, h, v], -1.0..1.0, seed),
            Tensor::random("g", Token, &[b, t, h], self.floor..-0.001, seed),
            Tensor::random("beta", Token, &[b, t, h], 0.0..1.0, seed),
            Tensor::random("skip", Shared, &[h], -1.0..1.0, seed),
            Tensor::random("state", State, &[b, h, k, v], -1.0..1.0, seed),
        ]
    }

    fn naive(&self, x: &[Tensor], packed: Option<&[usize]>) -> Output {
        let mut state = exact(&x[6]).to_owned().into_dimensionality().expect("rank");
        let x: Vec<_> = x.iter().map(exact).collect();
        let out = naive(&inputs!(x, self.full, packed), state.view_mut()).expect("valid inputs");
        Output { out: out.into_iter().collect(), state: state.into_iter().collect() }
    }

    fn forms(&self) -> &'static [&'static str] {
        &["recurrent", "chunk"]
    }

    fn run(&self, form: &str, x: &[Tensor], packed: Option<&[usize]>, cx: &Cx) -> Output {
        let mut state = array(&x[6]).into_dimensionality().expect("rank");
        let x: Vec<_> = x.iter().map(array).collect();
        let input = inputs!(x, self.full, packed);
        let out = match form {
            "step" => step(&input, state.view_mut(), cx),
            "chunk" => chunk(&input, state.view_mut(), cx),
            _ => recurrent(&input, state.view_mut(), cx),
        };
        Output { out: wide(&out.expect("valid inputs")), state: wide(&state) }
    }

    fn gradient(&self, x: &[Tensor], packed: Option<&[usize]>, d: &Output, cx: &Cx) -> Vec<Vec<f64>> {
        let (dy, ds) = (narrow(&x[2].shape, &d.out), narrow(&x[6].shape, &d.state));
        let x: Vec<_> = x.iter().map(array).collect();
        let g = backward(&inputs!(x, self.full, packed), v!(x[6]), v!(dy), v!(ds), cx).expect("valid inputs");
        let absent = |n: usize, g: Vec<f64>| if self.full { g } else { vec![0.0; n] };
        vec![
            wide(&g.q),
            wide(&g.k),
            wide(&g.v),
            absent(x[3].len(), wide(&g.g)),
            absent(x[4].len(), wide(&g.beta)),
            absent(4, wide(&g.skip)),
            wide(&g.state),
        ]
    }
}

#[test]
fn every_law() {
    prove(&Scan { full: true, floor: -0.5 });
}

#[test]
fn every_law_without_gate() {
    prove(&Scan { full: false, floor: -0.5 });
}

#[test]
fn every_law_under_strong_decay() {
    prove(&Scan { full: true, floor: -50.0 });
}

#[test]
fn gradient_of_decays_is_slope() {
    laws::gradient_of_decays_is_slope(&Scan { full: true, floor: -0.5 }, "g", 97, &contexts());
}

#[test]
fn a_gate_of_minus_ten_thousand_is_a_reset() {
    let subject = Scan { full: true, floor: -0.5 };
    let mut x = subject.sample(2, 130, 12);
    for (i, g) in x[3].data.iter_mut().enumerate() {
        if i % 7 == 0 {
            *g = -1e4;
        }
    }
    let want = subject.naive(&x, None);
    for form in subject.forms() {
        let got = subject.run(form, &x, None, &Cx::new(1));
        tolerance::assert_close(form, &got.out, &want.out, tolerance::FORWARD);
        tolerance::assert_close(form, &got.state, &want.state, tolerance::FORWARD);
    }
}
