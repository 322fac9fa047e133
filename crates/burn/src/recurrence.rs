//! Mechanisms with an explicit state: linear attention, delta rules and related mechanisms, each as one operation.

use burn::tensor::Tensor;
use longreach_attention::linear::linear_attention::Map;
use longreach_attention::linear::performer::Kernel;
use longreach_simd::Cx;
use longreach_simd::product::STREAMED_ROWS;
use ndarray::{Array2, ArrayView, Axis, Dimension, RemoveAxis, Slice, concatenate};

use crate::Packed;
use crate::bridge::{Call, Inputs, Operator, Plain};

/// Passes a parameter in the form that the kernel takes, for all tokens or for one of them.
macro_rules! given {
    (copy $x:expr, $axes:literal, $token:expr) => {
        $x
    };
    (view $x:expr, $axes:literal, $token:expr) => {
        of_token($x.view(), $axes, $token)
    };
    (maybe $x:expr, $axes:literal, $token:expr) => {
        $x.as_ref().map(|x| of_token(x.view(), $axes, $token))
    };
}

/// An input for one token, if it has one of its own for each: if its documented axes are `[B, T, ..]`.
fn of_token<'a, D: Dimension>(mut x: ArrayView<'a, f32, D>, axes: &str, token: Option<usize>) -> ArrayView<'a, f32, D> {
    if let Some(t) = token.filter(|_| axes.contains("[B, T")) {
        x.slice_axis_inplace(Axis(1), Slice::from(t..t + 1));
    }
    x
}

/// Joins the outputs of tokens; `None` if there are none.
fn joined<D: RemoveAxis>(mut outputs: Vec<ndarray::Array<f32, D>>) -> Option<Plain> {
    if outputs.len() < 2 {
        return outputs.pop().map(Plain::array);
    }
    let views: Vec<_> = outputs.iter().map(|out| out.view()).collect();
    concatenate(Axis(1), &views).ok().map(Plain::array)
}

/// Declares an operation: its inputs, its state, the input whose shape the output has, and its other parameters.
macro_rules! recurrences {
    ($($(#[$doc:meta])* $family:ident $name:ident $type:ident
        [$($field:ident: $rank:literal $axes:literal;)+]
        state $of_state:literal $state_axes:literal, output $rank_out:literal like $like:literal
        [$($parameter:ident: $kind:ty, $how:ident $about:literal;)*]
    )+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $type {
            $(#[doc = $axes] pub $field: Tensor<$rank>,)+
            #[doc = $state_axes]
            pub state: Tensor<$of_state>,
            $(#[doc = $about] pub $parameter: $kind,)*
        }

        #[doc = concat!(
            "The output, shaped like `", $like, "`, and the state after the last token: [`longreach_attention::",
            stringify!($family), "::", stringify!($name), "`]."
        )]
        pub fn $name(x: $type) -> (Tensor<$rank_out>, Tensor<$of_state>) {
            x.packed(&Packed::ROWS)
        }

        impl $type {
            #[doc = concat!("As [`", stringify!($name), "()`], for sequences that may be packed in one row; the state has a row for each.")]
            pub fn packed(self, sequences: &Packed) -> (Tensor<$rank_out>, Tensor<$of_state>) {
                let call = Call::new()$(.with(self.$field))+.with(self.state);
                let sequences = sequences.clone();
                let mut out = call.run($name::Of { sequences, $($parameter: self.$parameter),* });
                (out.output(), out.output())
            }
        }

        pub(crate) mod $name {
            use longreach_attention::$family::$name as kernel;

            use super::*;

            #[derive(Debug)]
            pub(crate) struct Of {
                pub(crate) sequences: Packed,
                $(pub(crate) $parameter: $kind,)*
            }

            const NAMES: &[&str] = &[$(stringify!($field)),+];
            const STATE: usize = NAMES.len();

            impl Of {
                /// The inputs of all tokens, or of one.
                fn inputs<'a>(&'a self, x: &'a Inputs, token: Option<usize>) -> kernel::Inputs<'a> {
                    let mut at = 0..STATE;
                    kernel::Inputs {
                        $($field: of_token(x.view(at.next().unwrap_or_default()), $axes, token),)+
                        $($parameter: given!($how self.$parameter, $about, token),)*
                        sequences: self.sequences.sequences(),
                    }
                }

                /// The outputs of all tokens, one after the other. `None` if there are none, and if the kernel takes
                /// no step: where attention is not causal. The state is then as before.
                fn steps(&self, x: &Inputs, state: &mut Plain, cx: &Cx) -> Option<Plain> {
                    let step = |t| kernel::step(&self.inputs(x, Some(t)), state.view_mut(), cx).ok();
                    joined((0..x.shape(0)[1]).map(step).collect::<Option<Vec<_>>>()?)
                }
            }

            impl Operator for Of {
                fn name(&self) -> &str {
                    stringify!($name)
                }

                fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
                    let mut state = inputs.take(STATE);
                    // Few tokens at once have the bits of one at a time: see docs/decisions/few-tokens-are-steps.md.
                    if self.sequences == Packed::ROWS
                        && inputs.shape(0)[1] <= STREAMED_ROWS
                        && let Some(out) = self.steps(inputs, &mut state, cx)
                    {
                        return vec![out, state];
                    }
                    let out = kernel::recurrent(&self.inputs(inputs, None), state.view_mut(), cx);
                    vec![Plain::array(out.unwrap_or_else(|e| panic!("{e}"))), state]
                }

                fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
                    let (state, d_o, d_state) = (inputs.view(STATE), d_out[0].view(), d_out[1].view());
                    let g = kernel::backward(&self.inputs(inputs, None), state, d_o, d_state, cx);
                    let g = g.unwrap_or_else(|e| panic!("{e}"));
                    vec![$(Plain::array(g.$field),)+ Plain::array(g.state)]
                }
            }
        }
    )+};
}

recurrences! {
    /// The inputs of [`linear_attention()`].
    linear linear_attention LinearAttention
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`";]
        state 4 "`[B, H, F, V]`, with one more column if the output is normalised", output 4 like "v"
        [map: Map, copy "The feature map."; normalize: Option<f64>, copy "`ε` of the denominator, if the output is divided by the sum of the weights.";
         causal: bool, copy "Whether attention is causal."; scale: f64, copy "The factor of the features of queries.";]

    /// The inputs of [`performer()`].
    linear performer Performer
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`"; w: 2 "The random features, `[M, K]`";]
        state 4 "`[B, H, F, V + 1]`", output 4 like "v"
        [kernel: Kernel, copy "The kernel that the features approximate."; epsilon: f64, copy "The constant added to each feature.";
         causal: bool, copy "Whether attention is causal.";]

    /// The inputs of [`cosformer()`].
    linear cosformer CosFormer
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`";]
        state 4 "`[B, H, 2 K, V + 1]`", output 4 like "v"
        [positions: Array2<f32>, view "The position of each token, `[B, T]`, starting at 1."; length: f64, copy "The maximum position.";
         causal: bool, copy "Whether attention is causal.";]

    /// The inputs of [`retention()`]; lightning attention is the same with other decays.
    linear retention Retention
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`"; g: 1 "The logarithms of the decays, `[H]`, ≤ 0";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "The factor of the output.";]

    /// The inputs of [`gla()`].
    linear gla Gla
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`"; g: 4 "The logarithm of the gate, `[B, T, H, K]`, ≤ 0";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "The factor of the output.";]

    /// The inputs of [`hgrn2()`].
    linear hgrn2 Hgrn2
        [q: 4 "`[B, T, H, K]`"; g: 4 "The logarithm of the gate, `[B, T, H, K]`, ≤ 0"; v: 4 "`[B, T, H, V]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "The factor of the output.";]

    /// The inputs of [`rwkv5()`].
    linear rwkv5 Rwkv5
        [q: 4 "`[B, T, H, K]`"; k: 4 "`[B, T, H, K]`"; v: 4 "`[B, T, H, V]`"; g: 2 "The logarithm of the gate, `[H, K]`, ≤ 0"; u: 2 "The bonus, `[H, K]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "The factor of the output.";]

    /// The inputs of [`rwkv6()`].
    linear rwkv6 Rwkv6
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`";
         g: 4 "The logarithm of the gate, `[B, T, H, K]`, ≤ 0"; u: 2 "The bonus, `[H, K]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "The factor of the output.";]

    /// The inputs of [`delta_rule()`].
    delta delta_rule DeltaRule
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`, usually of length 1"; v: 4 "`[B, T, H, V]`"; beta: 3 "The rate of correction, `[B, T, H]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "The factor of the output.";]

    /// The inputs of [`gated_delta()`].
    delta gated_delta GatedDelta
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`, usually of length 1"; v: 4 "`[B, T, H, V]`"; g: 3 "The logarithm of the gate, `[B, T, H]`, ≤ 0";
         beta: 3 "The rate of correction, `[B, T, H]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "The factor of the output.";]

    /// The inputs of [`kda()`].
    delta kda Kda
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`, usually of length 1"; v: 4 "`[B, T, H, V]`"; g: 4 "The logarithm of the gate, `[B, T, H, K]`, ≤ 0";
         beta: 3 "The rate of correction, `[B, T, H]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "The factor of the output.";]

    /// The inputs of [`dplr()`].
    delta dplr Dplr
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`"; a: 4 "The vector that reads what is erased, `[B, T, H, K]`";
         b: 4 "The vector along which it is erased, `[B, T, H, K]`"; g: 4 "The logarithm of the gate, `[B, T, H, K]`, ≤ 0";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "The factor of the output.";]

    /// The inputs of [`rwkv7()`].
    delta rwkv7 Rwkv7
        [q: 4 "`[B, T, H, K]`"; k: 4 "`[B, T, H, K]`"; v: 4 "`[B, T, H, V]`"; g: 4 "The logarithm of the gate, `[B, T, H, K]`, ≤ 0";
         kappa: 4 "The normalised key that is erased, `[B, T, H, K]`"; a: 4 "The in-context learning rate, `[B, T, H, K]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "The factor of the output.";]

    /// The inputs of [`rwkv4()`].
    diagonal rwkv4 Rwkv4
        [k: 3 "`[B, T, D]`"; v: 3 "`[B, T, D]`"; w: 1 "The logarithm of the decay, `[D]`, ≤ 0"; u: 1 "The bonus, `[D]`";]
        state 3 "`[B, 3, D]`", output 3 like "v" []

    /// The inputs of [`rg_lru()`].
    diagonal rg_lru RgLru
        [x: 3 "`[B, T, D]`";
         r: 3 "The recurrence gate before its sigmoid, `[B, T, D]`"; i: 3 "The input gate before its sigmoid, `[B, T, D]`"; lambda: 1 "`[D]`";]
        state 2 "`[B, D]`", output 3 like "x" [reset: Option<Array2<f32>>, maybe "Non-zero at the first token of a sequence, `[B, T]`.";]
}
