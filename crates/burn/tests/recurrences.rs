//! Mechanisms with a state through Burn: outputs, states and gradients equal those of the mechanism called by name,
//! which are verified in f64 elsewhere.

use burn::tensor::Tensor;
use longreach_attention::Form;
use longreach_attention::linear::linear_attention::{EPSILON, Map};
use longreach_attention::linear::performer::Kernel;
use longreach_attention::operation::{Sample, Tensors, named};
use longreach_burn as ops;
use longreach_simd::Cx;
use ndarray::{Array2, ArrayD};
use serde_json::{Value, json};

mod common;

use common::{close, tensor};

const SAMPLE: Sample = Sample { batch: 2, tokens: 19, heads: 2, width: 8, seed: 3 };

/// The inputs, including a non-zero state and random gradients of output and state; and the results of the mechanism.
fn by_name(name: &str, parameters: &Value) -> (Tensors, Tensors, Tensors) {
    let operation = named(name).expect("a mechanism");
    let mut inputs = operation.sample(&SAMPLE);
    let cx = &Cx::new(2);
    let zero = operation.forward(&inputs, parameters, Form::Recurrent, cx).expect("valid");
    let wave = |shape: &[usize], by: f32, plus: f32| {
        let mut n = 0.0;
        ArrayD::from_shape_simple_fn(shape, || {
            n += 1.0;
            by * f32::sin(n * 0.713) + plus
        })
    };
    inputs.insert("state".into(), wave(zero["state"].shape(), 0.3, 0.5));
    let outputs = operation.forward(&inputs, parameters, Form::Recurrent, cx).expect("valid");
    let mut given = inputs.clone();
    given.insert("do".into(), wave(outputs["o"].shape(), 1.0, 0.1));
    let mut d_state = wave(outputs["state"].shape(), 0.5, 0.0);
    if name == "rwkv4" {
        // The running maximum of the exponents has no gradient.
        d_state.index_axis_mut(ndarray::Axis(1), 2).fill(0.0);
    }
    given.insert("dstate".into(), d_state);
    let gradients = operation.backward(&given, parameters, cx).expect("valid");
    (given, outputs, gradients)
}

macro_rules! wired {
    ($test:ident: $name:ident $type:ident [$($field:ident $rank:literal),+] state $of_state:literal, $parameters:expr, |$given:ident| {$($extra:tt)*}) => {
        #[test]
        fn $test() {
            let ($given, outputs, gradients) = by_name(stringify!($name), &$parameters);
            $(let $field: Tensor<$rank> = tensor(&$given[stringify!($field)]);)+
            let state: Tensor<$of_state> = tensor(&$given["state"]);
            let (out, end) = ops::$name(ops::$type { $($field: $field.clone(),)+ state: state.clone(), $($extra)* });
            close("o", out.clone().inner(), &outputs["o"]);
            close("state", end.clone().inner(), &outputs["state"]);
            let loss = (out * tensor(&$given["do"])).sum() + (end * tensor(&$given["dstate"])).sum();
            let grads = loss.backward();
            $(close(stringify!($field), $field.grad(&grads).expect("a gradient"), &gradients[concat!("d", stringify!($field))]);)+
            close("first state", state.grad(&grads).expect("a gradient"), &gradients["dstate"]);
            // Without gradients the state is updated in place, to the same values.
            let (out, end) = ops::$name(ops::$type { $($field: $field.inner(),)+ state: state.inner(), $($extra)* });
            close("o", out, &outputs["o"]);
            close("state", end, &outputs["state"]);
        }
    };
}

fn scale() -> Value {
    json!({"scale": 0.3})
}

wired!(gla: gla Gla [q 4, k 4, v 4, g 4] state 4, scale(), |given| { scale: 0.3 });
wired!(hgrn2: hgrn2 Hgrn2 [q 4, g 4, v 4] state 4, scale(), |given| { scale: 0.3 });
wired!(rwkv5: rwkv5 Rwkv5 [q 4, k 4, v 4, g 2, u 2] state 4, scale(), |given| { scale: 0.3 });
wired!(rwkv6: rwkv6 Rwkv6 [q 4, k 4, v 4, g 4, u 2] state 4, scale(), |given| { scale: 0.3 });
wired!(rwkv7: rwkv7 Rwkv7 [q 4, k 4, v 4, g 4, kappa 4, a 4] state 4, scale(), |given| { scale: 0.3 });
wired!(retention: retention Retention [q 4, k 4, v 4, g 1] state 4, scale(), |given| { scale: 0.3 });
wired!(delta_rule: delta_rule DeltaRule [q 4, k 4, v 4, beta 3] state 4, scale(), |given| { scale: 0.3 });
wired!(gated_delta: gated_delta GatedDelta [q 4, k 4, v 4, g 3, beta 3] state 4, scale(), |given| { scale: 0.3 });
wired!(kda: kda Kda [q 4, k 4, v 4, g 4, beta 3] state 4, scale(), |given| { scale: 0.3 });
wired!(dplr: dplr Dplr [q 4, k 4, v 4, a 4, b 4, g 4] state 4, scale(), |given| { scale: 0.3 });
wired!(linear_attention: linear_attention LinearAttention [q 4, k 4, v 4] state 4, json!({"map": "relu2", "normalize": false}), |given| {
    map: Map::Relu2, normalize: None, causal: true, scale: 1.0
});
wired!(linear_attention_of_all: linear_attention LinearAttention [q 4, k 4, v 4] state 4, json!({"causal": false}), |given| {
    map: Map::Elu, normalize: Some(EPSILON), causal: false, scale: 1.0
});
wired!(performer: performer Performer [q 4, k 4, v 4, w 2] state 4, json!({}), |given| {
    kernel: Kernel::Softmax, epsilon: 1e-4, causal: true
});
wired!(cosformer: cosformer CosFormer [q 4, k 4, v 4] state 4, json!({"length": 1024}), |given| {
    positions: Array2::from_shape_vec((2, 19), given["positions"].iter().copied().collect()).expect("shape"), length: 1024.0, causal: true
});
wired!(rwkv4: rwkv4 Rwkv4 [k 3, v 3, w 1, u 1] state 3, json!({}), |given| {});
wired!(rg_lru: rg_lru RgLru [x 3, r 3, i 3, lambda 1] state 2, json!({}), |given| { reset: None });
