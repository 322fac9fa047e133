//! An operation accepts and returns what its signature lists: inputs, outputs, gradients, and parameters with their
//! defaults and choices.

use longreach_attention::operation::{Named, Parameter, Sample, Tensors, named};
use longreach_attention::{Form, MECHANISMS};
use longreach_simd::Cx;
use longreach_testkit::tolerance::{FORWARD, assert_close};
use ndarray::{ArrayD, Dimension};
use serde_json::{Map, Value, json};

const SAMPLE: Sample = Sample { batch: 1, tokens: 512, heads: 2, width: 4, seed: 1 };

fn all() -> impl Iterator<Item = Named> {
    MECHANISMS.iter().map(|m| named(m.name).expect("a mechanism"))
}

fn read(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"))
}

fn wide(x: &ArrayD<f32>) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

/// The log-sum-exp of a row without keys is −∞ in both.
fn close(what: &str, found: &ArrayD<f32>, want: &ArrayD<f32>) {
    let blind = |x: &ArrayD<f32>| x.mapv(|x| x == f32::NEG_INFINITY);
    assert_eq!(blind(found), blind(want), "{what}: which rows see nothing");
    let seen = |x: &ArrayD<f32>| wide(&x.mapv(|x| if x == f32::NEG_INFINITY { 0.0 } else { x }));
    assert_close(what, &seen(found), &seen(want), FORWARD);
}

/// Merges two sets of parameters; those of `above` take precedence.
fn over(below: &Value, above: Value) -> Value {
    let mut all = object(below);
    all.extend(object(&above));
    Value::Object(all)
}

/// The required parameters only.
fn needed(of: &Named) -> Value {
    let signature = of.signature();
    let example = read(signature.example);
    let needed = signature.parameters.iter().filter(|p| p.default.is_empty());
    Value::Object(needed.map(|p| (p.name.to_owned(), example[p.name].clone())).collect())
}

/// The example of the signature, which includes the parameters that optional inputs need.
fn example(of: &Named) -> Value {
    read(of.signature().example)
}

/// The example, without the parameters that are replaced by some tensors.
fn example_beside(of: &Named, more: &[&str]) -> Value {
    let mut fields = object(&example(of));
    fields.retain(|name, _| !more.contains(&name.as_str()));
    Value::Object(fields)
}

/// A sample with some optional inputs; its states are those after another sequence.
fn sample(of: &Named, seed: u64, more: &[&str]) -> Tensors {
    let mut inputs = of.sample_with(&Sample { seed, ..SAMPLE }, more);
    if let Some(slopes) = inputs.get_mut("alibi") {
        // The slopes of Press et al. 2022: 2^(-8 h / H), from the first head to the last.
        let heads = slopes.len() as f32;
        slopes.iter_mut().zip(1..).for_each(|(slope, h)| *slope = (-8.0 * h as f32 / heads).exp2());
    }
    let states: Vec<&str> = of.signature().outputs.iter().map(|output| output.name).collect();
    if more.iter().any(|name| states.contains(name)) {
        // Long enough that a segment of Infini-attention is incomplete at the end.
        let before = of.sample(&Sample { tokens: 500, seed: seed + 10, ..SAMPLE });
        let after = run(of, &before, &example(of), Form::Naive).expect("a sample that fits");
        for (name, state) in after.into_iter().filter(|(name, _)| more.contains(&name.as_str())) {
            inputs.insert(name, state);
        }
    }
    if more.contains(&"buckets") {
        inputs.remove("rotations");
        // The rounds are numbered consecutively.
        let counted = |(at, bucket): (ndarray::IxDyn, &f32)| bucket + 8.0 * at[2] as f32;
        let buckets: Vec<f32> = inputs["buckets"].indexed_iter().map(counted).collect();
        let shape = inputs["buckets"].raw_dim();
        inputs.insert("buckets".into(), ArrayD::from_shape_vec(shape, buckets).expect("as many"));
    }
    inputs
}

fn run(of: &Named, inputs: &Tensors, parameters: &Value, form: Form) -> Result<Tensors, String> {
    of.forward(inputs, parameters, form, &Cx::new(1)).map_err(|e| e.to_string())
}

/// The fast form to which the gradient belongs.
fn fast(of: &Named) -> Form {
    *of.signature().forms.iter().find(|form| **form != Form::Naive).expect("a fast form")
}

/// Each optional input with those it requires.
fn optional(of: &Named) -> Vec<Vec<&'static str>> {
    let inputs = of.signature().inputs;
    let with = |input: &longreach_attention::operation::Argument| [&[input.name], input.with].concat();
    let mut sets: Vec<Vec<&str>> = inputs.iter().filter(|input| !input.needed && !input.sampled).map(with).collect();
    sets.iter_mut().for_each(|set| set.sort_unstable());
    sets.dedup();
    sets
}

fn differ(a: &Tensors, b: &Tensors) -> bool {
    a.keys().ne(b.keys()) || a.iter().any(|(name, x)| x.shape() != b[name].shape() || *x != b[name])
}

#[test]
fn listed_inputs_have_an_effect_and_listed_outputs_are_returned() {
    for of in all() {
        let signature = of.signature();
        let mut outputs: Vec<&str> = signature.outputs.iter().map(|output| output.name).collect();
        outputs.sort_unstable();
        let plain = run(&of, &of.sample(&SAMPLE), &example(&of), fast(&of)).expect("a sample that fits");
        assert_eq!(plain.keys().collect::<Vec<_>>(), outputs, "{}", of.name());
        for more in optional(&of) {
            let inputs = sample(&of, 1, &more);
            let what = |form: Form| format!("{} {} with {more:?}", of.name(), form.name());
            let parameters = example_beside(&of, &more);
            let result = |form| run(&of, &inputs, &parameters, form).unwrap_or_else(|e| panic!("{}: {e}", what(form)));
            let want = result(Form::Naive);
            assert!(
                differ(&want, &run(&of, &of.sample(&SAMPLE), &example(&of), Form::Naive).expect("a sample")),
                "{}",
                what(Form::Naive)
            );
            for form in signature.forms {
                let found = result(*form);
                assert_eq!(found.keys().collect::<Vec<_>>(), outputs, "{}", what(*form));
                for output in &signature.outputs {
                    let (found, want) = (&found[output.name], &want[output.name]);
                    assert_eq!(found.ndim(), output.axes.len(), "{} {}", what(*form), output.name);
                    assert_eq!(found.shape(), want.shape(), "{} {}", what(*form), output.name);
                    close(&format!("{}: {}", what(*form), output.name), found, want);
                }
            }
        }
    }
}

#[test]
fn gradients_match_the_signature() {
    for of in all() {
        let signature = of.signature();
        let outputs = run(&of, &of.sample(&SAMPLE), &example(&of), fast(&of)).expect("a sample that fits");
        for more in std::iter::once(Vec::new()).chain(optional(&of)) {
            let mut inputs = sample(&of, 1, &more);
            let what = format!("{} with {more:?}", of.name());
            let differentiable =
                |name: &&&str| signature.inputs.iter().any(|input| input.gradient && input.name == **name);
            let mut want: Vec<String> = inputs
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .iter()
                .filter(differentiable)
                .map(|name| format!("d{name}"))
                .collect();
            if signature.inputs.iter().any(|input| input.name == "state") && !inputs.contains_key("state") {
                want.push("dstate".into());
            }
            want.sort_unstable();
            inputs.insert("do".into(), outputs["o"].mapv(|x| x + 0.5));
            let gradient = |inputs: &Tensors| of.backward(inputs, &example_beside(&of, &more), &Cx::new(1));
            let plain = gradient(&inputs).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(plain.keys().collect::<Vec<_>>(), want.iter().collect::<Vec<_>>(), "{what}");
            for (name, d) in &plain {
                if let Some(input) = inputs.get(&name[1..]) {
                    assert_eq!(d.shape(), input.shape(), "{what}: {name}");
                }
            }
            for output in signature.outputs.iter().filter(|output| output.name != "o") {
                let name = format!("d{}", output.name);
                if inputs.contains_key(&name) {
                    continue;
                }
                let mut given = inputs.clone();
                let whole = run(&of, &sample(&of, 1, &more), &example_beside(&of, &more), fast(&of));
                let given_out = whole.expect("inputs that fit").remove(output.name).expect("listed");
                // There are no pending tokens if a segment has just ended.
                let nothing = given_out.iter().all(|x| *x == 0.0);
                let shape = given_out.raw_dim();
                given.insert(
                    name.clone(),
                    ArrayD::from_shape_fn(shape, |at| 0.1 + (at.slice().iter().sum::<usize>() % 7) as f32),
                );
                match (gradient(&given), output.gradient) {
                    (Ok(g), true) => assert!(nothing || differ(&g, &plain), "{what}: {name} changes nothing"),
                    (Err(e), true) => panic!("{what}: {name}: {e}"),
                    (Ok(_), false) => panic!("{what}: {name} is taken, which the signature does not say"),
                    (Err(e), false) => assert!(e.to_string().contains(&format!("{name:?}")), "{what}: {e}"),
                }
            }
        }
    }
}

/// The results of a call that parameters may change, with padding where possible.
fn results(of: &Named, parameters: &Value, more: &[&str]) -> Result<Tensors, String> {
    let padded = of.signature().inputs.iter().any(|input| input.name == "keep");
    let mut inputs = sample(of, 1, &[more, if padded { &["keep"] } else { &[] }].concat());
    let (want, mut found) = (run(of, &inputs, parameters, Form::Naive)?, run(of, &inputs, parameters, fast(of))?);
    for (name, want) in &want {
        assert_eq!(found[name].shape(), want.shape(), "{} {parameters}: {name}", of.name());
        close(&format!("{} {parameters}: {name}", of.name()), &found[name], want);
    }
    inputs.insert("do".into(), found["o"].mapv(|x| x + 0.5));
    let gradients = of.backward(&inputs, parameters, &Cx::new(1)).map_err(|e| e.to_string())?;
    found.extend(gradients.into_iter().map(|(name, g)| (format!("gradient {name}"), g)));
    Ok(found)
}

#[test]
fn listed_parameters_have_an_effect_for_every_choice() {
    for of in all() {
        let base = needed(&of);
        let of_base = results(&of, &base, &[]).unwrap_or_else(|e| panic!("{} {base}: {e}", of.name()));
        for parameter in of.signature().parameters.iter().filter(|p| p.name != "cu_seqlens") {
            let Parameter { name, default, choices, closed, .. } = *parameter;
            let what = format!("{} `{name}`", of.name());
            if !default.is_empty() {
                for value in [read(default), Value::Null] {
                    let given = results(&of, &over(&base, json!({ name: value })), &[]);
                    let given = given.unwrap_or_else(|e| panic!("{what} of {value}: {e}"));
                    assert!(!differ(&given, &of_base), "{what}: {value} is not what there is where none is given");
                }
            }
            let mut all = Vec::new();
            for choice in choices {
                let with = over(&base, read(choice.with));
                let mut beside = with.clone();
                beside.as_object_mut().expect("an object").remove(name);
                let given = results(&of, &over(&with, json!({ name: read(choice.value) })), choice.tensors);
                let given = given.unwrap_or_else(|e| panic!("{what} of {} with {}: {e}", choice.value, choice.with));
                // A parameter that others require is tested by itself.
                let plain = results(&of, &beside, choice.tensors);
                let heeded = closed || plain.is_err() || plain.is_ok_and(|plain| differ(&plain, &given));
                assert!(
                    heeded || choice.value.contains("default"),
                    "{what}: {} with {} changes nothing",
                    choice.value,
                    choice.with
                );
                all.push(given);
            }
            if closed && choices.len() > 1 {
                assert!(all.iter().any(|one| differ(one, &all[0])), "{what}: no choice changes anything");
            }
            if closed {
                let wrong = results(&of, &over(&base, json!({ name: "nonsense" })), &[]).expect_err(&what);
                assert!(wrong.contains("nonsense") && wrong.starts_with(of.name()), "{what}: {wrong}");
            }
        }
    }
}

/// Tensors or parameters that the signature declares as alternatives.
#[test]
fn alternatives_are_equivalent_and_exclusive() {
    let masked = named("masked").expect("a mechanism");
    let mut inputs = masked.sample(&SAMPLE);
    let mask = ArrayD::from_shape_fn(vec![1, 1, 512, 512], |at| f32::from(u8::from(at[3] % 5 == at[2] % 7)));
    inputs.insert("mask".into(), mask.clone());
    let rows: Vec<Vec<usize>> = (0..512).map(|i| (0..512).filter(|j| mask[[0, 0, i, *j]] != 0.0).collect()).collect();
    let start: Vec<usize> = (0..=512).map(|i| rows[..i].iter().map(Vec::len).sum()).collect();
    let compressed = json!({"start": start, "indices": rows.concat()});
    let want = run(&masked, &inputs, &json!({}), Form::Chunk).expect("a mask");
    let both = run(&masked, &inputs, &compressed, Form::Chunk).expect_err("both");
    assert_eq!(both, "masked: `mask` is \"given\", want none beside `start` and `indices`");
    inputs.remove("mask");
    let found = run(&masked, &inputs, &compressed, Form::Chunk).expect("rows");
    assert_close("masked", &wide(&found["o"]), &wide(&want["o"]), FORWARD);
    let neither = run(&masked, &inputs, &json!({}), Form::Chunk).expect_err("neither");
    assert!(neither.contains("`start` and `indices`"), "{neither}");
    let half = run(&masked, &inputs, &json!({"start": start}), Form::Chunk).expect_err("half of it");
    assert!(half.contains("`indices`"), "{half}");

    let longformer = named("longformer").expect("a mechanism");
    let mut inputs = longformer.sample(&SAMPLE);
    let want = run(&longformer, &inputs, &json!({"window": 8, "global": [3, 100]}), Form::Chunk).expect("positions");
    inputs.insert(
        "global".into(),
        ArrayD::from_shape_fn(vec![1, 512], |at| f32::from(u8::from([3, 100].contains(&at[1])))),
    );
    let found = run(&longformer, &inputs, &json!({"window": 8}), Form::Chunk).expect("marks");
    assert!(!differ(&found, &want));
    let both = run(&longformer, &inputs, &json!({"window": 8, "global": [3]}), Form::Chunk).expect_err("both");
    assert!(both.starts_with("longformer: `global` is [3]"), "{both}");

    let lsh = named("lsh").expect("a mechanism");
    let both = lsh.sample_with(&SAMPLE, &["buckets", "rotations"]);
    let both = run(&lsh, &both, &json!({}), Form::Chunk).expect_err("both");
    assert!(both.contains("`rotations`") && both.contains("`buckets`"), "{both}");
}

#[test]
fn optional_tensors_required_together_are_refused_alone() {
    for of in all() {
        for input in of.signature().inputs.iter().filter(|input| !input.with.is_empty()) {
            let inputs = sample(&of, 1, &[input.name]);
            let error = run(&of, &inputs, &example(&of), fast(&of)).expect_err(input.name);
            let named = input.with.iter().chain([&input.name]).any(|one| error.contains(&format!("`{one}")));
            assert!(named, "{}: {error}", of.name());
        }
    }
}

#[test]
fn error_messages_name_the_cause() {
    let plain = |of: &Named, error: &str| {
        for leak in ["Some(", "None", "want missing", "want invalid", "want unknown", "\n"] {
            assert!(!error.contains(leak), "{leak}: {error}");
        }
        assert!(error.starts_with(&format!("{}: ", of.name())), "{error}");
    };
    for of in all() {
        let (signature, form) = (of.signature(), fast(&of));
        for parameter in &signature.parameters {
            for nonsense in [json!("far"), json!(-1.5), json!([{}]), json!({"a": 1}), json!([-1])] {
                let parameters = over(&example(&of), json!({ parameter.name: nonsense }));
                if let Err(error) = run(&of, &of.sample(&SAMPLE), &parameters, form) {
                    plain(&of, &error);
                }
            }
            if parameter.default.is_empty() {
                let mut parameters = object(&example(&of));
                parameters.remove(parameter.name);
                let error = run(&of, &of.sample(&SAMPLE), &parameters.into(), form).expect_err(parameter.name);
                plain(&of, &error);
                assert!(error.contains(&format!("`{}` is none", parameter.name)), "{error}");
            }
        }
        for input in &signature.inputs {
            let mut inputs = sample(&of, 1, &[&[input.name], input.with].concat());
            inputs.insert(input.name.into(), ArrayD::zeros(vec![7; input.axes.len()]));
            if let Err(error) = run(&of, &inputs, &example(&of), form) {
                plain(&of, &error);
            }
            let mut flat = inputs;
            flat.insert(input.name.into(), ArrayD::zeros(vec![7; input.axes.len() + 1]));
            let error = run(&of, &flat, &example(&of), form).expect_err(input.name);
            plain(&of, &error);
            assert!(error.contains(&format!("`{}` is [7", input.name)), "{error}");
        }
    }
}
