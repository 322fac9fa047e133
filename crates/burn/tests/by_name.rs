//! Every mechanism through Burn by name: outputs and gradients equal those of the mechanism called on arrays.

use burn::tensor::{Gradients, Tensor};
use longreach_attention::operation::{Sample, named};
use longreach_attention::{Form, MECHANISMS};
use longreach_burn::Mechanism;
use longreach_simd::Cx;
use ndarray::ArrayD;
use serde_json::Value;

mod common;

use common::{close, tensor};

/// A tensor of any rank.
enum Any {
    One(Tensor<1>),
    Two(Tensor<2>),
    Three(Tensor<3>),
    Four(Tensor<4>),
}

/// Evaluates an expression for a tensor of any rank.
macro_rules! each {
    ($any:expr, $x:ident => $then:expr) => {
        match $any {
            Any::One($x) => $then,
            Any::Two($x) => $then,
            Any::Three($x) => $then,
            Any::Four($x) => $then,
        }
    };
}

fn any(x: &ArrayD<f32>) -> Any {
    match x.ndim() {
        1 => Any::One(tensor(x)),
        2 => Any::Two(tensor(x)),
        3 => Any::Three(tensor(x)),
        _ => Any::Four(tensor(x)),
    }
}

#[test]
fn every_mechanism_is_a_differentiable_operation() {
    let cx = &Cx::new(2);
    for mechanism in MECHANISMS {
        let of = named(mechanism.name).expect("a mechanism");
        let parameters: Value = serde_json::from_str(mechanism.example).expect("JSON");
        let tokens = if mechanism.name == "bigbird" { 512 } else { 128 };
        let inputs = of.sample(&Sample { batch: 1, tokens, heads: 2, width: 4, seed: 3 });
        let form = *mechanism.forms.iter().find(|form| **form != Form::Naive).expect("a fast form");
        let outputs = of.forward(&inputs, &parameters, form, cx).expect("a sample that fits");
        let mut given = inputs.clone();
        let signature = of.signature();
        // The running maximum of RWKV-4's exponents has no gradient.
        let differentiable = |name: &str| name == "o" || mechanism.name != "rwkv4";
        let starts = || signature.outputs.iter().filter(|output| output.gradient && differentiable(output.name));
        for output in starts() {
            let mut n = 0.0;
            let wave = outputs[output.name].mapv(|_| {
                n += 1.0;
                0.1 + f32::sin(0.7 * n)
            });
            given.insert(format!("d{}", output.name), wave);
        }
        let gradients = of.backward(&given, &parameters, cx).expect("a sample that fits");

        let tensors: Vec<(&String, Any)> = inputs.iter().map(|(name, x)| (name, any(x))).collect();
        let mut call = Mechanism::new(mechanism.name, parameters).expect("a mechanism");
        for (name, x) in &tensors {
            call = each!(x, x => call.with(name, x.clone()));
        }
        let mut found = call.run();
        let mut loss: Option<Tensor<1>> = None;
        for output in &signature.outputs {
            let want = &outputs[output.name];
            let what = format!("{} {}", mechanism.name, output.name);
            let one = match want.ndim() {
                2 => Any::Two(found.output()),
                3 => Any::Three(found.output()),
                _ => Any::Four(found.output()),
            };
            each!(&one, x => close(&what, x.clone().inner(), want));
            if let Some(d) =
                starts().find(|start| start.name == output.name).map(|_| &given[&format!("d{}", output.name)])
            {
                let part = match one {
                    Any::One(x) => (x * tensor(d)).sum(),
                    Any::Two(x) => (x * tensor(d)).sum(),
                    Any::Three(x) => (x * tensor(d)).sum(),
                    Any::Four(x) => (x * tensor(d)).sum(),
                };
                loss = Some(match loss {
                    Some(loss) => loss + part,
                    None => part,
                });
            }
        }
        let grads: Gradients = loss.expect("an output").backward();
        for (name, x) in &tensors {
            let Some(want) = gradients.get(&format!("d{name}")) else { continue };
            let what = format!("{}: gradient to {name}", mechanism.name);
            each!(x, x => close(&what, x.grad(&grads).expect("a gradient"), want));
        }
    }
}

#[test]
fn an_unknown_mechanism_is_an_error() {
    let error = Mechanism::new("windows", Value::Null).expect_err("no such mechanism").to_string();
    assert!(error.contains("windows") && error.contains("window,"), "{error}");
}
