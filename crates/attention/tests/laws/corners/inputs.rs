//! Saturating inputs, empty states, and ties.

use longreach_attention::operation::{Named, Sample, Tensors, named};
use longreach_attention::{Form, MECHANISMS};
use longreach_testkit::tolerance::{FORMS, FORWARD, assert_close};
use ndarray::{ArrayD, Slice};
use serde_json::json;

use super::{CX, close, none, small, tokens, walk, wide};

/// Inputs far beyond those of training: one score dominates, gates keep all or nothing, and steps and exponents are at
/// both extremes.
fn saturated(operation: &Named, seed: u64) -> Tensors {
    let tensors = operation.sample(&Sample { batch: 1, tokens: tokens(operation.name()), heads: 2, width: 4, seed });
    let recurrent = operation.signature().inputs.iter().any(|input| input.name == "state");
    let softmax = !recurrent || operation.name() == "infini";
    let of = |name: &str, x: &ArrayD<f32>| {
        let cycle = |values: &[f32]| {
            let mut n = 0;
            x.mapv(|_| {
                n += 1;
                values[(n * 7 + n / 5) % values.len()]
            })
        };
        match (operation.name(), name) {
            ("rotary" | "compressive" | "short_conv", "x") => x * 1e15,
            ("lsh", "x") => x * 1e8,
            ("hmt", "s" | "m") => x * 1e4,
            ("linear_attention" | "cosformer", "q" | "k") => x * 1e3,
            ("performer", "q" | "k") => x * 30.0,
            // Multiples of 1/16, so that sums of exponents are exact.
            ("rwkv4", "k") => cycle(&[-300.0, -110.0, 0.5, 400.0, -1e4, 88.0]),
            ("rwkv4", "w") => cycle(&[-1e4, -200.0, -0.25, 0.0, -1.0]),
            ("rwkv4", "u") => cycle(&[-400.0, 0.5, 300.0]),
            ("rwkv7" | "dplr", "k") => x * 1e3,
            ("delta_rule" | "gated_delta" | "kda", "k") => x * 100.0,
            (_, "beta") if recurrent => x * 1e-4,
            ("mamba" | "mamba2", "dt") | ("rg_lru", "r" | "i" | "lambda") | ("infini", "gate") => {
                cycle(&[-1e3, -100.0, -1.0, 0.0, 3.0, 100.0])
            }
            (_, "g") => cycle(&[0.0, -1e-4, -1.0, -30.0, -200.0, -1e4]),
            (_, "q" | "k" | "r") if softmax => x * 1e4,
            (_, "k") => x * 1e4,
            _ => x.clone(),
        }
    };
    tensors.iter().map(|(name, x)| (name.clone(), of(name, x))).collect()
}

/// For saturated inputs every form agrees with the definition in f64, and gradients are finite.
#[test]
fn saturated_inputs_match_the_definition_and_stay_finite() {
    let mut wrong = Vec::new();
    for mechanism in MECHANISMS {
        let operation = named(mechanism.name).expect("a mechanism");
        for parameters in small(mechanism.name) {
            for seed in [1, 2] {
                walk(&operation, &saturated(&operation, seed), &parameters, |_| false, &mut wrong);
            }
        }
    }
    none(wrong);
}

/// The state of zeros has no weight, however small the weight of the first key.
#[test]
fn rwkv4_zero_state_has_no_weight() {
    let operation = named("rwkv4").expect("a mechanism");
    let of = |x: f32, shape: &[usize]| ArrayD::from_elem(shape.to_vec(), x);
    for k in [-104.0, -110.0, -1e4, 300.0] {
        let inputs =
            [("k", of(k, &[1, 2, 3])), ("v", of(2.0, &[1, 2, 3])), ("w", of(-1.0, &[3])), ("u", of(0.5, &[3]))];
        let mut tensors: Tensors = inputs.into_iter().map(|(name, x)| (name.to_string(), x)).collect();
        for form in operation.signature().forms {
            let got = operation.forward(&tensors, &json!({}), *form, &CX()).expect("valid");
            assert_eq!(wide(&got["o"]), [2.0; 6], "{} at {k}", form.name());
            assert_eq!(got["state"].shape(), [1, 3, 3]);
        }
        tensors.insert("do".into(), of(1.0, &[1, 2, 3]));
        let gradients = operation.backward(&tensors, &json!({}), &CX()).expect("valid");
        // A mean of equal values does not depend on the weights, and its derivative along the values is 1.
        for name in ["dk", "dw", "du"] {
            assert_close(&format!("{name} at {k}"), &wide(&gradients[name]), &vec![0.0; gradients[name].len()], FORMS);
        }
        let sums: f64 = wide(&gradients["dv"]).iter().sum();
        assert_close(&format!("dv at {k}"), &[sums], &[6.0], FORMS);
    }
}

/// Of blocks with equal scores every form chooses the earlier. Keys of 0 and 1 produce ties everywhere.
#[test]
fn ties_choose_the_earlier_block() {
    for name in ["moba", "infllm_v2", "nsa"] {
        let operation = named(name).expect("a mechanism");
        for seed in 0..12 {
            let mut tensors = operation.sample(&Sample { batch: 1, tokens: 41, heads: 2, width: 1, seed });
            for name in ["q", "k"] {
                let x = tensors.get_mut(name).expect("queries and keys");
                x.mapv_inplace(|x| if x < 0.2 { 0.0 } else { 1.0 });
            }
            for top in 1..5 {
                let parameters = match name {
                    "infllm_v2" => {
                        json!({"kernel": 4, "stride": 2, "block": 4, "window": 4, "top": top, "dense_below": 0})
                    }
                    "nsa" => json!({"block": 4, "top": top, "window": 3}),
                    _ => json!({"block": 4, "top": top}),
                };
                let want = operation.forward(&tensors, &parameters, Form::Naive, &CX()).expect("valid");
                for form in &operation.signature().forms[1..] {
                    let got = operation.forward(&tensors, &parameters, *form, &CX()).expect("valid");
                    close(&format!("{name} {} {parameters} {seed}", form.name()), &got["o"], &want["o"], FORWARD);
                }
            }
        }
    }
    // The first block and the one before the query's own are both forced: the first takes precedence.
    let nsa = named("nsa").expect("a mechanism");
    let of = |f: &dyn Fn(usize) -> f32| ArrayD::from_shape_fn(vec![1, 9, 1, 1], |at| f(at[1]));
    let mut gates = ArrayD::zeros(vec![1, 9, 1, 3]);
    gates.slice_axis_mut(ndarray::Axis(3), Slice::from(1..2)).fill(1.0);
    let inputs = [
        ("q", of(&|_| 1.0)),
        ("k", of(&|t| f32::from(u8::from((4..8).contains(&t))))),
        ("v", of(&|t| t as f32)),
        ("gates", gates),
    ];
    let tensors: Tensors = inputs.into_iter().map(|(name, x)| (name.to_string(), x)).collect();
    for form in [Form::Naive, Form::Chunk] {
        let got = nsa.forward(&tensors, &json!({"block": 4, "top": 2, "window": 3}), form, &CX()).expect("valid");
        // Equal weights on tokens 0 to 3 and 8.
        assert_close(form.name(), &[f64::from(got["o"][[0, 8, 0, 0]])], &[14.0 / 5.0], FORMS);
    }
}
