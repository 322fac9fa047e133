//! Memories and low-rank attention through Burn: outputs and gradients equal those of the mechanism called by name,
//! which are verified in f64 elsewhere.

use burn::tensor::Tensor;
use longreach_attention::Form;
use longreach_attention::lowrank::nystrom::{Padding, Start};
use longreach_attention::operation::{Sample, Tensors, named};
use longreach_burn as ops;
use longreach_simd::Cx;
use ndarray::{ArrayD, IxDyn};
use serde_json::{Value, json};

mod common;

use common::{close, tensor};

const SAMPLE: Sample = Sample { batch: 2, tokens: 22, heads: 2, width: 8, seed: 3 };

fn wave(shape: &[usize], by: f32) -> ArrayD<f32> {
    let mut n = 0.0;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        n += 1.0;
        by * f32::sin(n * 0.713) + 0.1
    })
}

/// Inputs with the additional ones, including random gradients of the output; the output; and the gradients.
fn by_name(name: &str, parameters: &Value, more: &[(&str, &[usize])]) -> (Tensors, ArrayD<f32>, Tensors) {
    let (operation, cx) = (named(name).expect("a mechanism"), Cx::new(2));
    let mut inputs = operation.sample(&SAMPLE);
    inputs.extend(more.iter().map(|(name, shape)| (name.to_string(), wave(shape, 0.5))));
    let o = operation.forward(&inputs, parameters, Form::Chunk, &cx).expect("valid").remove("o").expect("an output");
    inputs.insert("do".into(), wave(o.shape(), 1.0));
    let gradients = operation.backward(&inputs, parameters, &cx).expect("valid");
    (inputs, o, gradients)
}

macro_rules! check {
    ($out:expr, $given:ident, $o:ident, $gradients:ident, [$($field:ident),+]) => {{
        let out = $out;
        close("o", out.clone().inner(), &$o);
        let grads = (out * tensor(&$given["do"])).sum().backward();
        $(close(stringify!($field), $field.grad(&grads).expect("a gradient"), &$gradients[concat!("d", stringify!($field))]);)+
    }};
}

#[test]
fn transformer_xl() {
    let (given, o, gradients) =
        by_name("transformer_xl", &json!({"left": 9, "scale": 0.3}), &[("u", &[2, 8]), ("w", &[2, 8])]);
    let [q, k, v] = ["q", "k", "v"].map(|name| tensor::<4>(&given[name]));
    let (r, [u, w]) = (tensor::<3>(&given["r"]), ["u", "w"].map(|name| tensor::<2>(&given[name])));
    let biases = Some([u.clone(), w.clone()]);
    let x = ops::TransformerXl {
        q: q.clone(),
        k: k.clone(),
        v: v.clone(),
        r: r.clone(),
        biases,
        scale: 0.3,
        left: Some(9),
    };
    check!(ops::transformer_xl(x), given, o, gradients, [q, k, v, r, u, w]);
}

#[test]
fn linformer() {
    let (given, o, gradients) = by_name("linformer", &json!({"scale": 0.3}), &[("f", &[22, 8])]);
    let [q, k, v] = ["q", "k", "v"].map(|name| tensor::<4>(&given[name]));
    let [e, f] = ["e", "f"].map(|name| tensor::<2>(&given[name]));
    let x = ops::Linformer { q: q.clone(), k: k.clone(), v: v.clone(), e: e.clone(), f: Some(f.clone()), scale: 0.3 };
    check!(ops::linformer(x), given, o, gradients, [q, k, v, e, f]);
}

#[test]
fn nystrom() {
    let parameters = json!({"landmarks": 5, "iterations": 3, "scale": 0.3});
    let (given, o, gradients) = by_name("nystrom", &parameters, &[("conv", &[2, 5])]);
    let [q, k, v] = ["q", "k", "v"].map(|name| tensor::<4>(&given[name]));
    let conv = tensor::<2>(&given["conv"]);
    let (start, padding) = (Start::Own, Padding::Neutral);
    let options = ops::NystromOptions { keep: None, landmarks: 5, iterations: 3, start, padding, scale: 0.3 };
    let x = ops::Nystrom { q: q.clone(), k: k.clone(), v: v.clone(), conv: Some(conv.clone()), options };
    check!(ops::nystrom(x), given, o, gradients, [q, k, v, conv]);
}

#[test]
fn recall() {
    let (given, o, gradients) = by_name("hmt", &json!({}), &[]);
    let [s, m] = ["s", "m"].map(|name| tensor::<3>(&given[name]));
    let [wq, wk] = ["wq", "wk"].map(|name| tensor::<2>(&given[name]));
    check!(ops::recall(s.clone(), m.clone(), wq.clone(), wk.clone()), given, o, gradients, [s, m, wq, wk]);
}

/// Reading in two calls, split within a segment, gives the outputs and gradients of one call, through the memory and
/// the cached keys.
#[test]
fn infini_in_two_calls_is_infini_in_one() {
    for local in [false, true] {
        let more: &[(&str, &[usize])] = if local { &[("ql", &[2, 22, 2, 8]), ("kl", &[2, 22, 2, 8])] } else { &[] };
        let parameters = json!({"segment": 6, "delta": true, "scale": 0.3});
        let (given, o, gradients) = by_name("infini", &parameters, more);
        let names = ["q", "k", "v", "ql", "kl"];
        let inputs: Vec<Tensor<4>> = names.iter().filter_map(|name| given.get(*name)).map(tensor).collect();
        let gate = tensor::<1>(&given["gate"]);
        for cut in [3, 6, 14, 20] {
            let zeros = |shape: &[usize]| tensor::<4>(&ArrayD::zeros(IxDyn(shape))).inner().autodiff();
            let mut state = ops::InfiniState {
                memory: zeros(&[2, 2, 8, 9]),
                pending: zeros(&[2, 2, 8, 9]),
                keys: zeros(&[2, 6, 2, 8]),
                values: zeros(&[2, 6, 2, 8]),
                seen: 0,
            };
            let mut parts = Vec::new();
            for tokens in [0..cut, cut..22] {
                let of = |i: usize| inputs[i].clone().narrow(1, tokens.start, tokens.len());
                let (out, after) = ops::infini(ops::Infini {
                    q: of(0),
                    k: of(1),
                    v: of(2),
                    local: local.then(|| [of(3), of(4)]),
                    gate: gate.clone(),
                    state,
                    segment: 6,
                    delta: true,
                    epsilon: 1e-10,
                    scale: 0.3,
                });
                assert_eq!(after.seen, tokens.end % 6);
                (parts, state) = ([parts, vec![out]].concat(), after);
            }
            let out = Tensor::cat(parts, 1);
            close(&format!("o, cut at {cut}"), out.clone().inner(), &o);
            let grads = (out * tensor(&given["do"])).sum().backward();
            for (name, x) in names.iter().filter(|name| given.contains_key(**name)).zip(&inputs) {
                let what = format!("{name}, cut at {cut}");
                close(&what, x.grad(&grads).expect("a gradient"), &gradients[&format!("d{name}")]);
            }
            close("gate", gate.grad(&grads).expect("a gradient"), &gradients["dgate"]);
        }
    }
}
