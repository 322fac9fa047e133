//! Mechanisms with a state that goes in and comes out: linear attention, the delta rules and their kin, each as an operation.

use burn::tensor::{Shape, Tensor};
use longreach_attention::Sequences;
use longreach_attention::linear::linear_attention::Map;
use longreach_attention::linear::performer::Kernel;
use longreach_simd::Cx;
use ndarray::Array2;

use crate::bridge::{Call, Inputs, Operator, Plain};

/// A parameter as the kernel wants it.
macro_rules! given {
    (copy $x:expr) => {
        $x
    };
    (view $x:expr) => {
        $x.view()
    };
    (maybe $x:expr) => {
        $x.as_ref().map(|x| x.view())
    };
}

/// An operation: its inputs, its state, which input its output is shaped like, and what it has besides.
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

        #[doc = concat!("The output, shaped like `", $like, "`, and the state after the last token: [`longreach_attention::", stringify!($family), "::", stringify!($name), "`].")]
        pub fn $name(x: $type) -> (Tensor<$rank_out>, Tensor<$of_state>) {
            let call = Call::new()$(.with(x.$field))+.with(x.state);
            let mut out = call.run($name::Of { $($parameter: x.$parameter),* });
            (out.output(), out.output())
        }

        mod $name {
            use longreach_attention::$family::$name as kernel;

            use super::*;

            #[derive(Debug)]
            pub(super) struct Of {
                $(pub(super) $parameter: $kind,)*
            }

            const NAMES: &[&str] = &[$(stringify!($field)),+];
            const STATE: usize = NAMES.len();

            impl Of {
                fn inputs<'a>(&'a self, x: &'a Inputs) -> kernel::Inputs<'a> {
                    let mut at = 0..STATE;
                    kernel::Inputs {
                        $($field: x.view(at.next().unwrap_or_default()),)+
                        $($parameter: given!($how self.$parameter),)*
                        sequences: Sequences::Batch,
                    }
                }
            }

            impl Operator for Of {
                fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
                    let mut state = inputs.take(STATE);
                    let out = kernel::recurrent(&self.inputs(inputs), state.view_mut(), cx);
                    vec![Plain::array(out.unwrap_or_else(|e| panic!("{e}"))), state]
                }

                fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
                    let (state, d_o, d_state) = (inputs.view(STATE), d_out[0].view(), d_out[1].view());
                    let g = kernel::backward(&self.inputs(inputs), state, d_o, d_state, cx);
                    let g = g.unwrap_or_else(|e| panic!("{e}"));
                    vec![$(Plain::array(g.$field),)+ Plain::array(g.state)]
                }

                fn output_shapes(&self, inputs: &[Shape]) -> Vec<Vec<usize>> {
                    let like = NAMES.iter().position(|name| *name == $like).unwrap_or_default();
                    vec![inputs[like].to_vec(), inputs[STATE].to_vec()]
                }
            }
        }
    )+};
}

recurrences! {
    /// The inputs of [`linear_attention()`].
    linear linear_attention LinearAttention
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`";]
        state 4 "`[B, H, F, V]`, and a column more where the output is normalised", output 4 like "v"
        [map: Map, copy "The features."; normalize: Option<f64>, copy "Where the output is divided by the sum of the weights, what is added to that.";
         causal: bool, copy "Whether the future is hidden."; scale: f64, copy "Times which the features of queries are taken.";]

    /// The inputs of [`performer()`].
    linear performer Performer
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`"; w: 2 "The random rows, `[M, K]`";]
        state 4 "`[B, H, F, V + 1]`", output 4 like "v"
        [kernel: Kernel, copy "Which features."; epsilon: f64, copy "Added to each."; causal: bool, copy "Whether the future is hidden.";]

    /// The inputs of [`cosformer()`].
    linear cosformer CosFormer
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`";]
        state 4 "`[B, H, 2 K, V + 1]`", output 4 like "v"
        [positions: Array2<f32>, view "Where each token stands, `[B, T]`, from 1 on."; length: f64, copy "The last position there will be.";
         causal: bool, copy "Whether the future is hidden.";]

    /// The inputs of [`retention()`]; lightning attention is the same with other decays.
    linear retention Retention
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`"; g: 1 "The decays' logarithms, `[H]`, ≤ 0";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "Times which the output is taken.";]

    /// The inputs of [`gla()`].
    linear gla Gla
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`"; g: 4 "The gate's logarithm, `[B, T, H, K]`, ≤ 0";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "Times which the output is taken.";]

    /// The inputs of [`hgrn2()`].
    linear hgrn2 Hgrn2
        [q: 4 "`[B, T, H, K]`"; g: 4 "The gate's logarithm, `[B, T, H, K]`, ≤ 0"; v: 4 "`[B, T, H, V]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "Times which the output is taken.";]

    /// The inputs of [`rwkv5()`].
    linear rwkv5 Rwkv5
        [q: 4 "`[B, T, H, K]`"; k: 4 "`[B, T, H, K]`"; v: 4 "`[B, T, H, V]`"; g: 2 "The gate's logarithm, `[H, K]`, ≤ 0"; u: 2 "The bonus, `[H, K]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "Times which the output is taken.";]

    /// The inputs of [`rwkv6()`].
    linear rwkv6 Rwkv6
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`"; g: 4 "The gate's logarithm, `[B, T, H, K]`, ≤ 0"; u: 2 "The bonus, `[H, K]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "Times which the output is taken.";]

    /// The inputs of [`delta_rule()`].
    delta delta_rule DeltaRule
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`, best of length 1"; v: 4 "`[B, T, H, V]`"; beta: 3 "How much is corrected, `[B, T, H]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "Times which the output is taken.";]

    /// The inputs of [`gated_delta()`].
    delta gated_delta GatedDelta
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`, best of length 1"; v: 4 "`[B, T, H, V]`"; g: 3 "The gate's logarithm, `[B, T, H]`, ≤ 0";
         beta: 3 "How much is corrected, `[B, T, H]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "Times which the output is taken.";]

    /// The inputs of [`kda()`].
    delta kda Kda
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`, best of length 1"; v: 4 "`[B, T, H, V]`"; g: 4 "The gate's logarithm, `[B, T, H, K]`, ≤ 0";
         beta: 3 "How much is corrected, `[B, T, H]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "Times which the output is taken.";]

    /// The inputs of [`dplr()`].
    delta dplr Dplr
        [q: 4 "`[B, T, G, K]`"; k: 4 "`[B, T, G, K]`"; v: 4 "`[B, T, H, V]`"; a: 4 "What reads that which is erased, `[B, T, H, K]`";
         b: 4 "Where it goes, `[B, T, H, K]`"; g: 4 "The gate's logarithm, `[B, T, H, K]`, ≤ 0";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "Times which the output is taken.";]

    /// The inputs of [`rwkv7()`].
    delta rwkv7 Rwkv7
        [q: 4 "`[B, T, H, K]`"; k: 4 "`[B, T, H, K]`"; v: 4 "`[B, T, H, V]`"; g: 4 "The gate's logarithm, `[B, T, H, K]`, ≤ 0";
         kappa: 4 "What is erased by, `[B, T, H, K]`"; a: 4 "How much of it is erased, `[B, T, H, K]`";]
        state 4 "`[B, H, K, V]`", output 4 like "v"
        [scale: f32, copy "Times which the output is taken.";]

    /// The inputs of [`rwkv4()`].
    diagonal rwkv4 Rwkv4
        [k: 3 "`[B, T, D]`"; v: 3 "`[B, T, D]`"; w: 1 "The decay's logarithm, `[D]`, ≤ 0"; u: 1 "The bonus, `[D]`";]
        state 3 "`[B, 3, D]`", output 3 like "v" []

    /// The inputs of [`rg_lru()`].
    diagonal rg_lru RgLru
        [x: 3 "`[B, T, D]`"; r: 3 "The recurrence gate before its sigmoid, `[B, T, D]`"; i: 3 "The input gate before its sigmoid, `[B, T, D]`"; lambda: 1 "`[D]`";]
        state 2 "`[B, D]`", output 3 like "x" [reset: Option<Array2<f32>>, maybe "Not zero where a text begins, `[B, T]`.";]
}
