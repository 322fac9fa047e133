//! Mechanisms whose state is a matrix and whose kernel is the one of `fast_weights`.

use longreach_attention::Sequences;
use longreach_attention::delta::{delta_rule, dplr, gated_delta, kda};
use longreach_attention::linear::{gla, rwkv6};
use longreach_simd::Cx;
use longreach_testkit::Kind::{Shared, State, Token};
use longreach_testkit::{Output, Subject, Tensor};
use ndarray::ArrayD;

use crate::{array, exact, narrow, prove, v, wide};

/// Groups, heads, widths of a key and of a value.
type Sizes = [usize; 4];

const SIZES: Sizes = [2, 4, 21, 70];
const EVEN: Sizes = [3, 3, 16, 32];

/// The place of an input among the tensors.
fn at(x: &[Tensor], name: &str) -> usize {
    x.iter().position(|x| x.name == name).expect("an input of that name")
}

/// A mechanism as the subject of the laws: its module, and its inputs by name, shape after `[B, T]` and range.
macro_rules! subject {
    ($name:ident, $module:ident, |$g:ident, $h:ident, $k:ident, $v:ident| [$($field:ident: $kind:ident [$($dim:expr),*] $range:expr;)+]) => {
        struct $name(Sizes, f64);

        impl $name {
            fn call<'a, F: Copy>(of: &[Tensor], x: &'a [impl ViewOf<'a, F>], scale: F, packed: Option<&'a [usize]>) -> $module::Inputs<'a, F> {
                $module::Inputs {
                    $($field: x[at(of, stringify!($field))].of().into_dimensionality().expect("rank"),)+
                    scale,
                    sequences: packed.map_or(Sequences::Batch, Sequences::Packed),
                }
            }
        }

        impl Subject for $name {
            type Cx = Cx;

            fn sample(&self, b: usize, t: usize, seed: u64) -> Vec<Tensor> {
                let [$g, $h, $k, $v] = self.0;
                let shape = |kind, rest: &[usize]| match kind {
                    Token => [&[b, t], rest].concat(),
                    _ => rest.to_vec(),
                };
                let strongest = |range: std::ops::Range<f64>| if range.end <= 0.0 { range.start * self.1..range.end } else { range };
                vec![
                    $(Tensor::random(stringify!($field), $kind, &shape($kind, &[$($dim),*]), strongest($range), seed),)+
                    Tensor::random("state", State, &[b, $h, $k, $v], -1.0..1.0, seed),
                ]
            }

            fn naive(&self, x: &[Tensor], packed: Option<&[usize]>) -> Output {
                let mut state = exact(&x[x.len() - 1]).to_owned().into_dimensionality().expect("rank");
                let arrays: Vec<_> = x.iter().map(|x| exact(x).to_owned()).collect();
                let out = $module::naive(&Self::call(x, &arrays, 0.5, packed), state.view_mut()).expect("valid inputs");
                Output { out: out.into_iter().collect(), state: state.into_iter().collect() }
            }

            fn forms(&self) -> &'static [&'static str] {
                &["recurrent"]
            }

            fn run(&self, form: &str, x: &[Tensor], packed: Option<&[usize]>, cx: &Cx) -> Output {
                let mut state = array(&x[x.len() - 1]).into_dimensionality().expect("rank");
                let arrays: Vec<_> = x.iter().map(array).collect();
                let input = Self::call(x, &arrays, 0.5, packed);
                let out = match form {
                    "step" => $module::step(&input, state.view_mut(), cx),
                    _ => $module::recurrent(&input, state.view_mut(), cx),
                };
                Output { out: wide(&out.expect("valid inputs")), state: wide(&state) }
            }

            fn gradient(&self, x: &[Tensor], packed: Option<&[usize]>, d: &Output, cx: &Cx) -> Vec<Vec<f64>> {
                let (dout, ds) = (narrow(&x[at(x, "v")].shape, &d.out), narrow(&x[x.len() - 1].shape, &d.state));
                let arrays: Vec<_> = x.iter().map(array).collect();
                let input = Self::call(x, &arrays, 0.5, packed);
                let g = $module::backward(&input, v!(arrays[x.len() - 1]), v!(dout), v!(ds), cx).expect("valid inputs");
                vec![$(wide(&g.$field),)+ wide(&g.state)]
            }
        }
    };
}

/// An array seen as a view, in either precision.
trait ViewOf<'a, F> {
    fn of(&'a self) -> ndarray::ArrayViewD<'a, F>;
}

impl<'a, F: 'a> ViewOf<'a, F> for ArrayD<F> {
    fn of(&'a self) -> ndarray::ArrayViewD<'a, F> {
        self.view()
    }
}

subject!(Gla, gla, |g, h, k, v| [
    q: Token [g, k] -1.0..1.0; k: Token [g, k] -1.0..1.0; v: Token [h, v] -1.0..1.0; g: Token [h, k] -0.5..-0.001;
]);
subject!(Rwkv6, rwkv6, |g, h, k, v| [
    q: Token [g, k] -1.0..1.0; k: Token [g, k] -1.0..1.0; v: Token [h, v] -1.0..1.0; g: Token [h, k] -0.5..-0.001;
    u: Shared [h, k] -1.0..1.0;
]);
subject!(DeltaRule, delta_rule, |g, h, k, v| [
    q: Token [g, k] -1.0..1.0; k: Token [g, k] -0.3..0.3; v: Token [h, v] -1.0..1.0; beta: Token [h] 0.1..1.0;
]);
subject!(GatedDelta, gated_delta, |g, h, k, v| [
    q: Token [g, k] -1.0..1.0; k: Token [g, k] -0.3..0.3; v: Token [h, v] -1.0..1.0; g: Token [h] -0.5..-0.001;
    beta: Token [h] 0.1..1.0;
]);
subject!(Kda, kda, |g, h, k, v| [
    q: Token [g, k] -1.0..1.0; k: Token [g, k] -0.3..0.3; v: Token [h, v] -1.0..1.0; g: Token [h, k] -0.5..-0.001;
    beta: Token [h] 0.1..1.0;
]);
subject!(Dplr, dplr, |g, h, k, v| [
    q: Token [g, k] -1.0..1.0; k: Token [g, k] -1.0..1.0; v: Token [h, v] -1.0..1.0; a: Token [h, k] -0.2..0.2;
    b: Token [h, k] -0.2..0.2; g: Token [h, k] -0.5..-0.01;
]);

/// Every law, with odd sizes and with even ones, and with gates a hundred times as strong.
macro_rules! laws {
    ($($test:ident $name:ident),+) => {
        $(#[test]
        fn $test() {
            prove(&$name(SIZES, 1.0));
            prove(&$name(EVEN, 1.0));
            prove(&$name(EVEN, 100.0));
        })+
    };
}

laws!(gla_laws Gla, rwkv6_laws Rwkv6, delta_rule_laws DeltaRule, gated_delta_laws GatedDelta, kda_laws Kda, dplr_laws Dplr);
