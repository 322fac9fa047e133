//! Corner cases of every mechanism: packed sequences, sizes of 0, parameters at the limits of their types, numbers
//! beyond f32, and saturated inputs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use longreach_attention::operation::{Named, Tensors};
use longreach_attention::{Error, Form};
use longreach_simd::Cx;
use longreach_testkit::numbers;
use longreach_testkit::tolerance::{FORWARD, assert_close};
use ndarray::{ArrayD, IxDyn};
use serde_json::{Value, json};

mod inputs;
mod packed;
mod sizes;

const CX: fn() -> Cx = || Cx::new(2);

/// Small parameters of a mechanism. The first suit sequences of any length, the others sequences of whole blocks of
/// 16.
pub(crate) fn small(name: &str) -> Vec<Value> {
    match name {
        "dense" => vec![json!({"causal": true}), json!({"causal": false})],
        "window" => vec![json!({"left": 7, "right": 3})],
        "dilated" => vec![json!({"left": 2, "right": 1, "dilation": [3]}), json!({"left": 2, "dilation": [1, 5]})],
        "longformer" => vec![json!({"window": 5, "global": [0, 2]})],
        "streaming" => vec![json!({"recent": 3, "sinks": 2})],
        "sparse_transformer" => vec![
            json!({"kind": "fixed", "stride": 8, "columns": 2, "positions": 2}),
            json!({"kind": "strided", "stride": 5}),
            json!({"kind": "strided", "stride": 4, "which": "alternating"}),
        ],
        "longnet" => vec![json!({"segments": [4, 16], "dilations": [1, 2], "causal": true})],
        "hierarchical" => vec![json!({"block": 16, "causal": true}), json!({"block": 16})],
        "h_transformer_1d" => vec![json!({"block": 4, "causal": true}), json!({"block": 2})],
        "moba" => vec![json!({"block": 4, "top": 2})],
        "infllm_v2" => vec![
            json!({"kernel": 4, "stride": 2, "block": 4, "window": 4, "top": 1, "dense_below": 0}),
            json!({"kernel": 4, "stride": 2, "block": 4, "window": 4, "top": 1, "dense_below": 40}),
        ],
        "nsa" => vec![json!({"block": 4, "top": 3, "window": 5})],
        "bigbird" => vec![
            json!({"block": 16, "random_blocks": 1}),
            json!({"block": 16, "random_blocks": 1, "seed": 3, "max_length": 1024}),
        ],
        "deepspeed" => vec![
            json!({"mode": "bslongformer", "block": 16, "num_sliding_window_blocks": 1}),
            json!({"mode": "fixed", "block": 16, "num_local_blocks": 2, "attention": "unidirectional"}),
            json!({"mode": "variable", "block": 16, "num_random_blocks": 1, "seed": 5}),
        ],
        "lsh" => vec![json!({"chunk": 16})],
        "infini" => vec![json!({"segment": 8})],
        "nystrom" => vec![json!({"landmarks": 4})],
        "cosformer" => vec![json!({"length": 512})],
        _ => vec![json!({})],
    }
}

/// The bounds of packed sequences that suit a mechanism's parameters, with an empty sequence and one of a single token
/// where possible.
fn bounds(name: &str) -> &'static [usize] {
    match name {
        "bigbird" => &[0, 160, 160, 336],
        "deepspeed" => &[0, 64, 64, 160],
        _ => &[0, 4, 16, 17, 17, 62],
    }
}

/// The number of tokens that suits them; random blocks need some to draw from.
pub(crate) fn tokens(name: &str) -> usize {
    if name == "bigbird" { 160 } else { 64 }
}

fn wide(x: &ArrayD<f32>) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// As [`assert_close`], but both may be −∞, for a query without keys.
#[track_caller]
fn close(what: &str, got: &ArrayD<f32>, want: &ArrayD<f32>, tolerance: f64) {
    assert_eq!(got.shape(), want.shape(), "{what}: shapes");
    let (mut got, mut want) = (wide(got), wide(want));
    let blind = |x: &[f64]| x.iter().map(|x| *x == f64::NEG_INFINITY).collect::<Vec<_>>();
    assert_eq!(blind(&got), blind(&want), "{what}: which rows see nothing");
    got.iter_mut().chain(&mut want).filter(|x| **x == f64::NEG_INFINITY).for_each(|x| *x = 0.0);
    assert_close(what, &got, &want, tolerance);
}

fn uniform(shape: &[usize], seed: u64) -> ArrayD<f32> {
    let n = shape.iter().product();
    let data = numbers(n, seed).into_iter().map(|x| (2.0 * x - 1.0) as f32).collect();
    ArrayD::from_shape_vec(IxDyn(shape), data).expect("as many numbers as the shape asks for")
}

/// The axes of an input, an output or a gradient, by its name.
fn axes(operation: &Named, name: &str) -> &'static [&'static str] {
    let signature = operation.signature();
    let named = |name: &str| {
        let all = signature.outputs.iter().chain(&signature.inputs);
        all.filter(|argument| argument.name == name).map(|argument| argument.axes).next()
    };
    named(name).or_else(|| named(&name[1..])).expect("a tensor of the operation")
}

/// The result of a call, or the message of a panic.
fn outcome(call: impl FnOnce() -> Result<Tensors, Error>) -> Result<Result<Tensors, String>, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => Ok(result.map_err(|e| e.to_string())),
        Err(cause) => {
            let text = cause.downcast_ref::<String>().cloned();
            Err(text.or_else(|| cause.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default())
        }
    }
}

/// Whether the scale is so large that rounding the scores to f32 is visible in the output.
fn huge_scale(parameters: &Value) -> bool {
    parameters.get("scale").and_then(Value::as_f64).is_some_and(|scale| scale.abs() > 1e3)
}

/// Runs every form of a call and its gradient. None may panic, return numbers that are not finite, or differ from the
/// definition. `expected` says whether the text of an error is expected.
fn walk(
    operation: &Named,
    tensors: &Tensors,
    parameters: &Value,
    expected: impl Fn(&str) -> bool,
    wrong: &mut Vec<String>,
) {
    let sizes: Vec<String> = tensors.iter().map(|(name, x)| format!("{name} {:?}", x.shape())).collect();
    let what = |form: &str| format!("{} {form} {parameters} {}", operation.name(), sizes.join(" "));
    let finite = |form: &str, outputs: &Tensors| {
        let bad = outputs
            .iter()
            .find(|(name, x)| x.iter().any(|x| !(x.is_finite() || *name == "lse" && *x == f32::NEG_INFINITY)));
        bad.map(|(name, _)| format!("{}: {name} is not finite", what(form)))
    };
    let mut definition: Option<Tensors> = None;
    for form in operation.signature().forms {
        match outcome(|| operation.forward(tensors, parameters, *form, &CX())) {
            Err(panic) => wrong.push(format!("{}: internal error {panic}", what(form.name()))),
            Ok(Err(error)) => {
                if !expected(&error) {
                    wrong.push(format!("{}: {error}", what(form.name())));
                }
                if definition.is_some() {
                    wrong.push(format!("{}: the definition takes it, but {error}", what(form.name())));
                }
            }
            Ok(Ok(outputs)) => {
                wrong.extend(finite(form.name(), &outputs));
                match &definition {
                    None if *form == Form::Naive => definition = Some(outputs),
                    None => wrong.push(format!("{}: the definition does not take it", what(form.name()))),
                    // Iterations that have not converged amplify rounding.
                    Some(_) if operation.name() == "nystrom" && parameters.get("iterations").is_some() => {}
                    // The means of queries and keys are rounded to f32, and a huge scale multiplies that error.
                    Some(_) if operation.name() == "h_transformer_1d" && huge_scale(parameters) => {}
                    Some(definition) => {
                        let same = || {
                            definition.iter().for_each(|(name, want)| {
                                close(&format!("{} {name}", what(form.name())), &outputs[name], want, FORWARD)
                            })
                        };
                        if let Err(differs) = outcome(|| {
                            same();
                            Ok(Tensors::new())
                        }) {
                            wrong.push(format!("{}: {differs}", what(form.name())));
                        }
                    }
                }
            }
        }
    }
    let Some(outputs) = definition else { return };
    let mut given = tensors.clone();
    given.insert("do".into(), uniform(outputs["o"].shape(), 9));
    match outcome(|| operation.backward(&given, parameters, &CX())) {
        Err(panic) => wrong.push(format!("{}: internal error {panic}", what("gradient"))),
        Ok(Err(error)) => wrong.push(format!("{}: {error}", what("gradient"))),
        Ok(Ok(gradients)) => {
            wrong.extend(finite("gradient", &gradients));
            for (name, gradient) in &gradients {
                if tensors.get(&name[1..]).is_some_and(|input| input.shape() != gradient.shape()) {
                    wrong.push(format!("{}: {name} has shape {:?}", what("gradient"), gradient.shape()));
                }
            }
        }
    }
}

#[track_caller]
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
