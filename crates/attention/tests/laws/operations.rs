//! Mechanisms called by name: every form agrees with the definition, gradients match their inputs, and invalid inputs
//! are errors.

use longreach_attention::operation::{Sample, Tensors, named};
use longreach_attention::{Form, MECHANISMS};
use longreach_simd::Cx;
use longreach_testkit::tolerance::{FORWARD, assert_close};
use ndarray::ArrayD;
use serde_json::{Value, json};

const SAMPLE: Sample = Sample { batch: 2, tokens: 512, heads: 2, width: 4, seed: 1 };

fn parameters(name: &str) -> Value {
    serde_json::from_str(named(name).expect("a mechanism").signature().example).expect("JSON")
}

fn wide(x: &ArrayD<f32>) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

#[test]
fn every_form_is_the_definition() {
    for mechanism in MECHANISMS {
        let operation = named(mechanism.name).expect("a mechanism");
        let (inputs, parameters) = (operation.sample(&SAMPLE), parameters(mechanism.name));
        let run = |form| {
            let outputs = operation.forward(&inputs, &parameters, form, &Cx::new(2));
            outputs.unwrap_or_else(|e| panic!("{} {}: {e}", mechanism.name, form.name()))
        };
        let want = run(Form::Naive);
        for form in operation.signature().forms.iter().filter(|form| **form != Form::Naive) {
            let found = run(*form);
            for (name, want) in &want {
                let what = format!("{} {}: {name}", mechanism.name, form.name());
                assert_eq!(found[name].shape(), want.shape(), "{what}");
                assert_close(&what, &wide(&found[name]), &wide(want), FORWARD);
            }
        }
    }
}

/// Other laws compare gradients with the definition in f64; this one checks names, for which f32 and one direction per
/// input are enough.
#[test]
fn gradients_are_named_after_their_inputs() {
    for mechanism in MECHANISMS {
        let operation = named(mechanism.name).expect("a mechanism");
        let (mut inputs, parameters) = (operation.sample(&SAMPLE), parameters(mechanism.name));
        if inputs.remove("rotations").is_some() {
            // Buckets that do not change when tokens are perturbed.
            let Sample { batch, tokens, heads, .. } = SAMPLE;
            let bucket = |at: ndarray::IxDyn| (at[3] * 7 % 8 + 8 * at[2]) as f32;
            inputs.insert("buckets".into(), ArrayD::from_shape_fn(vec![batch, heads, 2, tokens], bucket));
        }
        let forward = |inputs: &Tensors| {
            operation
                .forward(inputs, &parameters, Form::Naive, &Cx::new(1))
                .expect("inputs that fit")
                .remove("o")
                .expect("o")
        };
        let dout = forward(&operation.sample(&Sample { seed: 2, ..SAMPLE }));
        let mut given = inputs.clone();
        given.insert("do".into(), dout.clone());
        let gradients = operation.backward(&given, &parameters, &Cx::new(2));
        let gradients = gradients.unwrap_or_else(|e| panic!("{}: {e}", mechanism.name));
        let others = operation.sample(&Sample { seed: 3, ..SAMPLE });
        for (name, gradient) in &gradients {
            let input = &name[1..];
            if input == "state" {
                continue;
            }
            let towards = &others[input] - &inputs[input];
            let moved = |by: f32| {
                let mut moved = inputs.clone();
                moved.insert(input.into(), &inputs[input] + &(&towards * by));
                (&forward(&moved) * &dout).iter().map(|x| f64::from(*x)).sum::<f64>()
            };
            let want = (moved(2e-3) - moved(-2e-3)) / 4e-3;
            let found: f64 = (gradient * &towards).iter().map(|x| f64::from(*x)).sum();
            let near = (found - want).abs() <= 0.02 * want.abs().max(1.0);
            assert!(near, "{} {name}: {found}, want {want}", mechanism.name);
        }
        let missing: Vec<&String> =
            inputs.keys().filter(|input| !gradients.contains_key(&format!("d{input}"))).collect();
        let constants = ["buckets", "mask", "positions"];
        assert!(
            missing.iter().all(|name| constants.contains(&name.as_str())),
            "{}: no gradient to {missing:?}",
            mechanism.name
        );
    }
}

#[test]
fn invalid_inputs_are_named() {
    let error = |name: &str, change: &dyn Fn(&mut Tensors, &mut Value)| {
        let operation = named(name).expect("a mechanism");
        let (mut inputs, mut parameters) = (operation.sample(&SAMPLE), parameters(name));
        change(&mut inputs, &mut parameters);
        operation.forward(&inputs, &parameters, Form::Chunk, &Cx::new(1)).expect_err("an error").to_string()
    };
    let of = |name: &str| named(name).expect("a mechanism");
    for mechanism in MECHANISMS {
        let first = of(mechanism.name).signature().inputs[0].name;
        let form = *of(mechanism.name).signature().forms.last().expect("a form");
        let run =
            |inputs: &Tensors, parameters: &Value| of(mechanism.name).forward(inputs, parameters, form, &Cx::new(1));
        let (inputs, mut wrong) = (of(mechanism.name).sample(&SAMPLE), parameters(mechanism.name));
        wrong["nonsense"] = json!(1);
        let message = run(&inputs, &wrong).expect_err("an unknown parameter").to_string();
        assert!(message.contains("nonsense"), "{message}");
        let mut missing = inputs.clone();
        missing.remove(first);
        let message = run(&missing, &parameters(mechanism.name)).expect_err("a missing tensor").to_string();
        assert!(message.contains(first) && message.contains("none"), "{message}");
        let mut strange = inputs.clone();
        strange.insert("strange".into(), ArrayD::zeros(vec![1]));
        let message = run(&strange, &parameters(mechanism.name)).expect_err("an unknown tensor").to_string();
        assert!(message.contains("strange"), "{message}");
        let mut flat = inputs;
        flat.insert(first.into(), ArrayD::zeros(vec![3]));
        let message = run(&flat, &parameters(mechanism.name)).expect_err("a flat tensor").to_string();
        assert!(message.contains(first) && message.contains("[3]"), "{message}");
    }
    let shape =
        |inputs: &mut Tensors, _: &mut Value| drop(inputs.insert("k".into(), ArrayD::zeros(vec![2, 511, 2, 4])));
    assert_eq!(error("window", &shape), "window: `k` has shape [2, 511, 2, 4], want [2, 512, 2, 4]");
    let packed = |_: &mut Tensors, parameters: &mut Value| parameters["cu_seqlens"] = json!([0, 600]);
    assert!(error("scan", &packed).contains("packed boundaries"), "{}", error("scan", &packed));
    let kind = |_: &mut Tensors, parameters: &mut Value| parameters["left"] = json!("far");
    assert!(error("window", &kind).contains("far"), "{}", error("window", &kind));
    let message = named("windows").expect_err("no such mechanism").to_string();
    assert!(message.contains("\"windows\"") && message.contains("streaming"), "{message}");
}
