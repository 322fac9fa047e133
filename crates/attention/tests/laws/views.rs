//! Operations on named views: the type and the layout of an input do not change the result, kept outputs are those that
//! the gradient would compute, and shapes are known without computing.

use longreach_attention::operation::{Kind, Named, Sample, Shapes, Tensors, View, Views, named};
use longreach_attention::{Form, MECHANISMS};
use longreach_simd::Cx;
use longreach_testkit::tolerance::{FORWARD, assert_close};
use ndarray::{Array, ArrayD, ArrayViewD, Axis, IxDyn, Slice};
use serde_json::{Value, json};

use crate::corners::{small, tokens};

const BATCH: usize = 2;

fn sizes(name: &str) -> Sample {
    Sample { batch: BATCH, tokens: tokens(name), heads: 2, width: 4, seed: 1 }
}

/// All mechanisms, with small parameters.
fn all() -> impl Iterator<Item = (Named, Value)> {
    MECHANISMS.iter().map(|m| (named(m.name).expect("a mechanism"), small(m.name).remove(0)))
}

/// A sample with the gradient of its output.
fn sample(of: &Named, parameters: &Value) -> Tensors {
    let mut inputs = of.sample(&sizes(of.name()));
    let output = of.forward(&inputs, parameters, fast(of), &Cx::new(1)).expect("a sample that fits").remove("o");
    inputs.insert("do".into(), output.expect("o").mapv(|x| x + 0.5));
    inputs
}

fn fast(of: &Named) -> Form {
    *of.signature().forms.iter().find(|form| **form != Form::Naive).expect("a fast form")
}

/// The outputs of all forms, and the gradients.
fn results<'a>(of: &Named, parameters: &Value, inputs: impl Into<Views<'a>>) -> Vec<Tensors> {
    let (inputs, cx) = (inputs.into(), Cx::new(1));
    let forward = |form: &Form| of.forward(&inputs, parameters, *form, &cx);
    let mut results: Vec<_> = of.signature().forms.iter().map(forward).collect();
    results.push(of.backward(&inputs, parameters, &cx));
    results.into_iter().map(|result| result.unwrap_or_else(|e| panic!("{}: {e}", of.name()))).collect()
}

/// The same numbers with the axes in the opposite order in memory, every second element unused.
fn scattered(x: &ArrayD<f32>) -> ArrayD<f32> {
    let mut shape: Vec<usize> = x.shape().iter().rev().copied().collect();
    shape.iter_mut().for_each(|n| *n *= 2);
    let mut apart = ArrayD::from_elem(IxDyn(&shape), f32::NAN).reversed_axes();
    for axis in 0..x.ndim() {
        apart.slice_axis_inplace(Axis(axis), Slice::new(0, None, 2));
    }
    apart.assign(x);
    apart
}

#[test]
fn strides_change_no_bit() {
    for (of, parameters) in all() {
        let inputs = sample(&of, &parameters);
        let want = results(&of, &parameters, &inputs);
        let apart: Tensors = inputs.iter().map(|(name, x)| (name.clone(), scattered(x))).collect();
        assert!(results(&of, &parameters, &apart) == want, "{}: all axes apart", of.name());
        // Heads before tokens in memory, as attention in other libraries has them.
        let mut transposed = inputs.clone();
        for x in transposed.values_mut().filter(|x| x.ndim() > 2) {
            let mut copy = ArrayD::zeros(x.raw_dim());
            copy.swap_axes(1, 2);
            copy = copy.as_standard_layout().into_owned();
            copy.swap_axes(1, 2);
            copy.assign(x);
            *x = copy;
        }
        assert!(results(&of, &parameters, &transposed) == want, "{}: heads first", of.name());
    }
}

/// The gradient of a sum is one number, which a framework expands with strides of 0.
#[test]
fn expanded_gradients_are_those_of_full_ones() {
    for (of, parameters) in all() {
        let mut inputs = sample(&of, &parameters);
        let shape = inputs.remove("do").expect("do").raw_dim();
        let run = |d: ArrayViewD<'_, f32>| {
            let mut views = Views::from(&inputs);
            views.insert("do", d);
            of.backward(&views, &parameters, &Cx::new(1)).unwrap_or_else(|e| panic!("{}: {e}", of.name()))
        };
        let (one, full) = (ndarray::arr0(0.25f32).into_dyn(), ArrayD::from_elem(shape.clone(), 0.25));
        assert!(run(one.broadcast(shape).expect("a number").view()) == run(full.view()), "{}", of.name());
    }
}

#[test]
fn integers_and_flags_in_their_own_types_are_those_in_f32() {
    let mut seen = 0;
    for (of, parameters) in all() {
        let signature = of.signature();
        for input in signature.inputs.iter().filter(|input| input.kind != Kind::Number) {
            if of.name() == "lsh" && input.name == "buckets" {
                continue;
            }
            let mut parameters = parameters.clone();
            parameters.as_object_mut().expect("an object").remove(input.name);
            let inputs = of.sample_with(&sizes(of.name()), &[input.name]);
            let run = |inputs: &Views<'_>| {
                let got = of.forward(inputs, &parameters, fast(&of), &Cx::new(1));
                got.unwrap_or_else(|e| panic!("{} {}: {e}", of.name(), input.name))
            };
            let want = run(&(&inputs).into());
            let (own, mut views) = (inputs[input.name].mapv(|x| x as i64), Views::from(&inputs));
            views.insert(input.name, &own);
            assert!(run(&views) == want, "{} {} in i64", of.name(), input.name);
            if input.kind == Kind::Flag {
                let (own, mut views) = (inputs[input.name].mapv(|x| x != 0.0), Views::from(&inputs));
                views.insert(input.name, &own);
                assert!(run(&views) == want, "{} {} in bool", of.name(), input.name);
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// f32 cannot tell positions beyond 2²⁴ apart.
#[test]
fn integers_are_exact_beyond_those_of_f32() {
    let of = named("rotary").expect("a mechanism");
    let x = of.sample(&Sample { tokens: 2, ..sizes(of.name()) }).remove("x").expect("x");
    let run = |positions: [i64; 2]| {
        let positions = Array::from_shape_vec((1, 2), positions.to_vec()).expect("two");
        let mut views = Views::default();
        views.insert("x", &x);
        views.insert("positions", &positions);
        of.forward(&views, &json!({"theta": 10000.0}), Form::Chunk, &Cx::new(1)).map_err(|e| e.to_string())
    };
    let last = 1 << 24;
    assert!(run([0, last]).expect("exact") != run([0, last + 1]).expect("exact"));
    let negative = run([0, -1]).expect_err("a position");
    assert_eq!(negative, "rotary: `positions` is -1, want whole numbers");
}

#[test]
fn bf16_is_what_it_widens_to() {
    for (of, parameters) in all() {
        let halves = |x: &ArrayD<f32>| x.mapv(half::bf16::from_f32);
        let inputs = sample(&of, &parameters);
        let number = |name: &str| of.signature().inputs.iter().all(|i| i.name != name || i.kind == Kind::Number);
        let narrow: Vec<_> = inputs.iter().map(|(name, x)| (name.as_str(), halves(x))).collect();
        let wide: Tensors = narrow.iter().map(|(name, x)| ((*name).into(), x.mapv(half::bf16::to_f32))).collect();
        let mut views = Views::from(&wide);
        for (name, x) in narrow.iter().filter(|(name, _)| number(name)) {
            views.insert(name, x);
        }
        assert!(results(&of, &parameters, &views) == results(&of, &parameters, &wide), "{}", of.name());
    }
}

/// The definition is in f64, in and out: its result on f32 inputs rounds to that of [`Form::Naive`], and a change of an
/// input below what f32 resolves changes it.
#[test]
fn definitions_are_exact() {
    for (of, parameters) in all() {
        let (inputs, cx) = (of.sample(&sizes(of.name())), Cx::new(1));
        let exact = of.naive(&inputs, &parameters, &cx).unwrap_or_else(|e| panic!("{}: {e}", of.name()));
        let rounded = of.forward(&inputs, &parameters, Form::Naive, &cx).expect("a sample that fits");
        assert!(rounded.iter().all(|(name, x)| *x == exact[name].mapv(|x| x as f32)), "{}", of.name());
        let name = inputs.keys().find(|name| ["v", "x", "s"].contains(&name.as_str())).expect("values");
        let (same, nudged) = (inputs[name].mapv(f64::from), inputs[name].mapv(|x| f64::from(x) * (1.0 + 1e-10)));
        let run = |values: &ArrayD<f64>| {
            let mut views = Views::from(&inputs);
            views.insert(name, values);
            of.naive(&views, &parameters, &cx).expect("f64")
        };
        assert!(run(&same) == exact, "{}: `{name}` in f64", of.name());
        assert!(run(&nudged)["o"] != exact["o"], "{}: `{name}` in f64 is rounded", of.name());
        let mut views = Views::from(&inputs);
        views.insert(name, &same);
        let refused = of.forward(&views, &parameters, fast(&of), &cx).expect_err("f64").to_string();
        assert!(refused.contains(&format!("`{name}` is in f64, want f32")), "{refused}");
    }
}

#[test]
fn kept_outputs_are_read_and_give_the_same_gradients() {
    let mut keep = 0;
    for (of, parameters) in all() {
        let (saved, cx) = (of.signature().saved, Cx::new(1));
        if saved.is_empty() {
            continue;
        }
        let inputs = sample(&of, &parameters);
        let want = of.backward(&inputs, &parameters, &cx).expect("a sample that fits");
        let outputs = of.forward(&inputs, &parameters, Form::Chunk, &cx).expect("a sample that fits");
        let run = |by: f32| {
            let changed: Tensors = saved.iter().map(|name| ((*name).into(), &outputs[*name] + by)).collect();
            let mut views = Views::from(&inputs);
            changed.iter().for_each(|(name, x)| views.insert(name, x));
            of.backward(&views, &parameters, &cx).unwrap_or_else(|e| panic!("{}: {e}", of.name()))
        };
        assert!(run(0.0) == want, "{}: other gradients", of.name());
        assert!(run(1.0) != want, "{}: what is kept is not read", of.name());
        keep += 1;
    }
    assert!(keep > 15, "{keep}");
}

#[test]
fn shapes_are_those_of_the_outputs() {
    for (of, parameters) in all() {
        let inputs = of.sample(&sizes(of.name()));
        let shapes = |tensors: &Tensors| Views::from(tensors).shapes();
        let found = of.shapes(&shapes(&inputs), &parameters).unwrap_or_else(|e| panic!("{}: {e}", of.name()));
        let outputs = of.forward(&inputs, &parameters, fast(&of), &Cx::new(1)).expect("a sample that fits");
        assert_eq!(found, shapes(&outputs), "{}", of.name());
        // Shapes of tensors that no memory could hold.
        let huge: Shapes = shapes(&inputs)
            .into_iter()
            .map(|(name, mut shape)| {
                shape[0] *= if shape[0] == BATCH { 1 << 40 } else { 1 };
                (name, shape)
            })
            .collect();
        match of.shapes(&huge, &parameters) {
            Ok(found) => assert!(found["o"][0] >= BATCH, "{}", of.name()),
            Err(e) => assert!(e.to_string().starts_with(&format!("{}: ", of.name())), "{e}"),
        }
        let given: Vec<_> = of.signature().inputs.into_iter().filter(|x| inputs.contains_key(x.name)).collect();
        for input in &given {
            let others = || given.iter().filter(|other| other.name != input.name).flat_map(|other| other.axes);
            let letter = |axis: &&&str| axis.chars().all(char::is_alphabetic);
            if !input.axes.iter().filter(letter).any(|axis| others().any(|other| other == axis)) {
                continue;
            }
            let mut wrong = shapes(&inputs);
            wrong.get_mut(input.name).expect("an input").iter_mut().for_each(|n| *n += 3);
            let e = of.shapes(&wrong, &parameters).expect_err(input.name).to_string();
            assert!(e.starts_with(&format!("{}: ", of.name())), "{e}");
        }
    }
    let window = named("window").expect("a mechanism");
    let wrong = [("q", vec![1, 5, 2, 8]), ("k", vec![1, 7, 2, 8]), ("v", vec![1, 5, 2, 8])];
    let wrong = wrong.map(|(name, shape)| (name.to_owned(), shape)).into();
    let e = window.shapes(&wrong, &json!({"left": 3})).expect_err("keys and values").to_string();
    assert_eq!(e, "window: `v` has shape [1, 5, 2, 8], want [1, 7, 2, 8]");
}

/// States whose axes are not those of inputs: shapes follow parameters and packed sequences.
#[test]
fn shapes_follow_parameters() {
    let shapes = |name: &str, sample: &Sample, parameters: &Value| {
        let of = named(name).expect("a mechanism");
        let inputs = of.sample(sample);
        let found = of.shapes(&Views::from(&inputs).shapes(), parameters).unwrap_or_else(|e| panic!("{name}: {e}"));
        let outputs = of.forward(&inputs, parameters, fast(&of), &Cx::new(1)).expect("a sample that fits");
        assert_eq!(found, Views::from(&outputs).shapes(), "{name} {parameters}");
    };
    for map in ["elu", "taylor", "based"] {
        for normalize in [false, true] {
            shapes("linear_attention", &sizes(""), &json!({"map": map, "normalize": normalize}));
        }
    }
    let one = Sample { batch: 1, ..sizes("") };
    shapes("gla", &one, &json!({"cu_seqlens": [0, 5, 5, 64]}));
    shapes("infini", &one, &json!({"segment": 25}));
    for ratio in [1, 3] {
        shapes("compressive", &one, &json!({"ratio": ratio}));
    }
}

#[test]
fn states_are_updated_in_place() {
    let mut states = 0;
    for (of, parameters) in all() {
        let (inputs, cx) = (of.sample(&sizes(of.name())), Cx::new(1));
        for form in of.signature().forms.iter().filter(|form| **form != Form::Naive) {
            let want = of.forward(&inputs, &parameters, *form, &cx).expect("a sample that fits");
            let shape = want.get("state").map_or(IxDyn(&[0]), |state| state.raw_dim());
            let mut state = ArrayD::zeros(shape);
            match of.forward_in_place(&inputs, &parameters, *form, state.view_mut(), &cx) {
                Ok(found) => {
                    assert!(found["o"] == want["o"] && state == want["state"], "{} {}", of.name(), form.name());
                    assert_eq!(found.len(), 1, "{}", of.name());
                    states += 1;
                }
                Err(e) => assert!(e.to_string().contains("`state` is not updated in place"), "{e}"),
            }
        }
    }
    assert!(states > 40, "{states}");
    let scan = named("scan").expect("a mechanism");
    let inputs = scan.sample(&sizes("scan"));
    let mut state = ArrayD::zeros(IxDyn(&[2, 2, 4, 5]));
    let wrong = scan.forward_in_place(&inputs, &json!({}), Form::Step, state.view_mut(), &Cx::new(1));
    let wrong = wrong.expect_err("a state of another shape").to_string();
    assert_eq!(wrong, "scan: `state` has shape [2, 2, 4, 5], want [2, 2, 4, 4]");
}

/// Gradients of the definition in f64 by central differences, beyond what f32 resolves.
#[test]
fn exact_definitions_have_exact_slopes() {
    for name in ["window", "gla", "kda"] {
        let (of, cx) = (named(name).expect("a mechanism"), Cx::new(1));
        let parameters: Value = serde_json::from_str(of.signature().example).expect("JSON");
        let inputs = sample(&of, &parameters);
        let found = of.backward(&inputs, &parameters, &cx).expect("a sample that fits");
        let (v, d) = (inputs["v"].mapv(f64::from), inputs["do"].mapv(f64::from));
        let along = |by: f64| {
            let moved = v.mapv(|x| x + by);
            let mut views: Views<'_> =
                inputs.iter().filter(|(name, _)| *name != "do").map(|(n, x)| (&n[..], x)).collect();
            views.insert("v", View::from(&moved));
            (&of.naive(&views, &parameters, &cx).expect("f64")["o"] * &d).sum()
        };
        let slope = (along(1e-4) - along(-1e-4)) / 2e-4;
        let sum: f64 = found["dv"].iter().map(|x| f64::from(*x)).sum();
        assert_close(name, &[sum], &[slope], FORWARD);
    }
}
