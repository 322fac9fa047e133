//! Every mechanism at its corners: packed sequences, sizes of 0, parameters at the ends of their types, numbers that f32 cannot hold, inputs that saturate.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use longreach_attention::operation::{Named, Sample, Tensors, named};
use longreach_attention::{Error, Form, MECHANISMS};
use longreach_simd::Cx;
use longreach_testkit::numbers;
use longreach_testkit::tolerance::{FORMS, FORWARD, assert_close};
use ndarray::{ArrayD, IxDyn, Slice};
use serde_json::{Value, json};

const CX: fn() -> Cx = || Cx::new(2);

/// Small parameters of a mechanism: the first fit sequences of any length, the others those of whole blocks of 16.
fn small(name: &str) -> Vec<Value> {
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

/// The bounds of packed sequences that a mechanism's parameters fit, an empty one and one of a single token among them where they do.
fn bounds(name: &str) -> &'static [usize] {
    match name {
        "bigbird" => &[0, 160, 160, 336],
        "deepspeed" => &[0, 64, 64, 160],
        _ => &[0, 4, 16, 17, 17, 62],
    }
}

/// Tokens that they fit: a draw of random blocks wants some to draw from.
fn tokens(name: &str) -> usize {
    if name == "bigbird" { 160 } else { 64 }
}

fn wide(x: &ArrayD<f32>) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// As [`assert_close`], where both may be −∞: a query that sees no key.
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

/// Inputs that a mechanism may do without, where there are tokens `t` of one sequence.
fn options(name: &str, t: usize) -> Tensors {
    let given: &[&str] = match name {
        "longnet" => &["keep"],
        "hierarchical" => &["sinks", "keep"],
        "dense" | "masked" | "window" | "dilated" | "longformer" | "streaming" | "sparse_transformer" | "bigbird"
        | "deepspeed" | "moba" | "infllm_v2" => &["bias", "alibi", "sinks", "weights", "keep"],
        _ => &[],
    };
    let of = |name: &str| match name {
        "bias" => uniform(&[1, 2, t, t], 11),
        "weights" => uniform(&[1, t], 12),
        "keep" => ArrayD::from_shape_fn(vec![1, t], |at| f32::from(u8::from(at[1] % 7 != 3))),
        name => uniform(&[2], if name == "alibi" { 13 } else { 14 }).mapv(f32::abs),
    };
    given.iter().map(|name| (name.to_string(), of(name))).collect()
}

/// The tokens `range` of a tensor, and its sequence `i`.
fn part(operation: &Named, name: &str, x: &ArrayD<f32>, range: &std::ops::Range<usize>, i: usize) -> ArrayD<f32> {
    let mut part = x.view();
    for (axis, letter) in axes(operation, name).iter().enumerate() {
        let of = match *letter {
            "T" | "S" => range.clone(),
            "sequences" => i..i + 1,
            _ => continue,
        };
        part.slice_axis_inplace(ndarray::Axis(axis), Slice::from(of));
    }
    part.to_owned()
}

/// Packed sequences are each what they are alone, in every form and in their gradients; or they are refused by name.
#[test]
fn packed_is_each_alone() {
    for mechanism in MECHANISMS {
        let operation = named(mechanism.name).expect("a mechanism");
        let signature = operation.signature();
        let bounds = bounds(mechanism.name);
        let t = bounds[bounds.len() - 1];
        for parameters in small(mechanism.name) {
            let mut packed = parameters.clone();
            packed["cu_seqlens"] = json!(bounds);
            let mut tensors = operation.sample(&Sample { batch: 1, tokens: t, heads: 2, width: 4, seed: 5 });
            let known = signature.parameters.iter().any(|parameter| parameter.name == "cu_seqlens");
            if !known {
                let error = operation.forward(&tensors, &packed, signature.forms[1], &CX()).expect_err("an error");
                let error = error.to_string();
                assert!(error.contains("cu_seqlens") || error.contains("packed"), "{}: {error}", mechanism.name);
                continue;
            }
            tensors.extend(options(mechanism.name, t));
            let mut cases = vec![tensors];
            if mechanism.name == "longformer" {
                // Projections of global tokens, and marks of the row.
                let mut own = cases[0].clone();
                ["bias", "alibi", "sinks"].iter().for_each(|name| drop(own.remove(*name)));
                for (n, name) in ["gq", "gk", "gv"].into_iter().enumerate() {
                    own.insert(name.into(), uniform(&[1, t, 2, 4], 20 + n as u64));
                }
                cases.push(own.clone());
                own.insert("global".into(), ArrayD::from_shape_fn(vec![1, t], |at| f32::from(at[1] % 9 == 1)));
                cases.push(own);
            }
            for tensors in cases {
                each_alone(&operation, &tensors, &parameters, &packed, bounds);
            }
        }
    }
}

fn each_alone(operation: &Named, tensors: &Tensors, parameters: &Value, packed: &Value, bounds: &[usize]) {
    let what = |more: &str| format!("{} {packed}: {more}", operation.name());
    let ranges: Vec<_> = bounds.windows(2).map(|w| w[0]..w[1]).collect();
    let take = |tensors: &Tensors, i: usize| -> Tensors {
        tensors.iter().map(|(name, x)| (name.clone(), part(operation, name, x, &ranges[i], i))).collect()
    };
    let mut parameters = parameters.clone();
    let alone = |i: usize| {
        // Positions that a shorter sequence does not have.
        if let Some(global) = parameters.get_mut("global").filter(|_| operation.name() == "longformer") {
            *global = json!([0, 2].into_iter().filter(|at| *at < ranges[i].len()).collect::<Vec<_>>());
        }
        (take(tensors, i), parameters.clone())
    };
    let alone: Vec<_> = (0..ranges.len()).map(alone).collect();
    let mut do_and_more = Tensors::new();
    for form in operation.signature().forms {
        let got = operation.forward(tensors, packed, *form, &CX());
        if *form == Form::Step && got.as_ref().is_err_and(|e| e.to_string().contains("read one by one")) {
            continue;
        }
        let got = got.unwrap_or_else(|e| panic!("{}", what(&format!("{}: {e}", form.name()))));
        for (i, (tensors, parameters)) in alone.iter().enumerate().filter(|(i, _)| !ranges[*i].is_empty()) {
            let want = operation
                .forward(tensors, parameters, *form, &CX())
                .unwrap_or_else(|e| panic!("{}: {e}", what("alone")));
            for (name, want) in &want {
                let of = what(&format!("{}, {name} of sequence {i}", form.name()));
                close(&of, &part(operation, name, &got[name], &ranges[i], i), want, FORMS);
            }
        }
        for (seed, name) in ["o", "lse", "state"].into_iter().enumerate().filter(|(_, name)| got.contains_key(*name)) {
            do_and_more.insert(format!("d{name}"), uniform(got[name].shape(), 30 + seed as u64));
        }
    }
    let mut given = tensors.clone();
    given.extend(do_and_more.clone());
    let got = operation.backward(&given, packed, &CX()).unwrap_or_else(|e| panic!("{}: {e}", what("gradient")));
    let mut shared = Tensors::new();
    for (i, (tensors, parameters)) in alone.iter().enumerate().filter(|(i, _)| !ranges[*i].is_empty()) {
        let mut given = tensors.clone();
        given.extend(take(&do_and_more, i));
        let want = operation.backward(&given, parameters, &CX()).expect("what is right packed is right alone");
        for (name, want) in want {
            let of_sequence = axes(operation, &name).iter().any(|axis| ["T", "S", "sequences"].contains(axis));
            if of_sequence {
                let got = part(operation, &name, &got[&name], &ranges[i], i);
                close(&what(&format!("{name} of sequence {i}")), &got, &want, FORMS);
            } else {
                shared.entry(name).and_modify(|sum| *sum += &want).or_insert(want);
            }
        }
    }
    for (name, want) in &shared {
        close(&what(name), &got[name], want, FORMS);
    }
}

/// What came of a call, or that it ended in an internal error.
fn outcome(call: impl FnOnce() -> Result<Tensors, Error>) -> Result<Result<Tensors, String>, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => Ok(result.map_err(|e| e.to_string())),
        Err(cause) => {
            let text = cause.downcast_ref::<String>().cloned();
            Err(text.or_else(|| cause.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default())
        }
    }
}

/// Every form of a call and its gradient: none may end in an internal error, or in numbers that are none, or give another output than the definition.
/// `told` looks at errors.
fn walk(
    operation: &Named,
    tensors: &Tensors,
    parameters: &Value,
    told: impl Fn(&str) -> bool,
    wrong: &mut Vec<String>,
) {
    let sizes: Vec<String> = tensors.iter().map(|(name, x)| format!("{name} {:?}", x.shape())).collect();
    let what = |form: &str| format!("{} {form} {parameters} {}", operation.name(), sizes.join(" "));
    let finite = |form: &str, outputs: &Tensors| {
        let bad = outputs
            .iter()
            .find(|(name, x)| x.iter().any(|x| !x.is_finite() && !(*name == "lse" && *x == f32::NEG_INFINITY)));
        bad.map(|(name, _)| format!("{}: {name} is not finite", what(form)))
    };
    let mut definition: Option<Tensors> = None;
    for form in operation.signature().forms {
        match outcome(|| operation.forward(tensors, parameters, *form, &CX())) {
            Err(panic) => wrong.push(format!("{}: internal error {panic}", what(form.name()))),
            Ok(Err(error)) => {
                if !told(&error) {
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
                    // Iterations that have not converged let rounding grow.
                    Some(_) if operation.name() == "nystrom" && parameters.get("iterations").is_some() => {}
                    Some(definition) => {
                        let same =
                            || definition.iter().for_each(|(name, want)| close(name, &outputs[name], want, FORWARD));
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

/// No size of 0 is an internal error, and where it is taken the definition, the forms and the gradient take it.
#[test]
fn sizes_of_zero_are_empty_or_refused() {
    let mut wrong = Vec::new();
    for (mechanism, tokens) in MECHANISMS.iter().flat_map(|mechanism| [1, 64].map(|tokens| (mechanism, tokens))) {
        let operation = named(mechanism.name).expect("a mechanism");
        let full = operation.sample(&Sample { batch: 2, tokens, heads: 2, width: 4, seed: 3 });
        let letters: BTreeSet<&str> = full.keys().flat_map(|name| axes(&operation, name)).copied().collect();
        let mut zeros: Vec<Vec<&str>> = letters.iter().map(|letter| vec![*letter]).collect();
        zeros.extend([vec!["T", "S"], vec!["H", "G", "H or 1"], vec!["B", "B or 1"], vec!["D", "E"], vec!["K", "V"]]);
        zeros.push(letters.iter().copied().collect());
        for zero in zeros {
            let empty = |name: &String, x: &ArrayD<f32>| {
                let axes = axes(&operation, name);
                let cut = |at: ndarray::AxisDescription| {
                    if zero.contains(&axes[at.axis.0]) { Slice::from(0..0) } else { Slice::from(..) }
                };
                (name.clone(), x.slice_each_axis(cut).to_owned())
            };
            let tensors: Tensors = full.iter().map(|(name, x)| empty(name, x)).collect();
            walk(&operation, &tensors, &small(mechanism.name)[0], |_| true, &mut wrong);
        }
    }
    none(wrong);
}

/// Values at the ends of types, and between.
fn ends() -> Vec<Value> {
    let whole = [0, 1, 2, 16, 1 << 32, 1_000_000_000_000, 1 << 53, 1 << 63, u64::MAX - 15, u64::MAX];
    let numbers = [0.0, -0.0, 0.5, 1e-45, 1e-30, 1e18, 2e38, 3e38, 1e39, -1e39, 1e300, f64::MAX];
    let plain =
        whole.map(|n| json!(n)).into_iter().chain(numbers.map(|n| json!(n))).chain([json!(-1), json!(i64::MIN)]);
    plain.collect()
}

/// Parameters of a mechanism that are fields of another, with what they go together with.
fn fields(name: &str) -> Vec<(&'static str, Value, &'static str)> {
    let with = |json: Value, names: &'static [&'static str], of: &'static str| {
        names.iter().map(move |name| (*name, json.clone(), of)).collect::<Vec<_>>()
    };
    const LAYOUT: &[&str] = &[
        "block",
        "num_local_blocks",
        "num_global_blocks",
        "num_different_global_patterns",
        "num_random_blocks",
        "local_window_blocks",
        "global_block_indices",
        "global_block_end_indices",
        "num_sliding_window_blocks",
        "seed",
    ];
    let mode = |mode: &str| with(json!({"mode": mode, "block": 16}), LAYOUT, "");
    let scaling = |json: Value, names| with(json!({"scaling": json}), names, "scaling");
    match name {
        "deepspeed" => ["dense", "fixed", "variable", "bigbird", "bslongformer", "localslidingwindow"].map(mode).concat(),
        "rotary" => [
            scaling(json!({"rope_type": "linear", "factor": 2.0}), &["factor"]),
            scaling(json!({"rope_type": "dynamic", "factor": 2.0, "max_position_embeddings": 8}), &["factor", "max_position_embeddings"]),
            scaling(
                json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}),
                &["factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"],
            ),
            scaling(
                json!({"rope_type": "longrope", "factor": 2.0, "original_max_position_embeddings": 8, "short_factor": [1.0, 2.0], "long_factor": [1.0, 2.0]}),
                &["factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"],
            ),
            scaling(
                json!({"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 8, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
                &["factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"],
            ),
            scaling(json!({"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.5}), &["factor", "partial_rotary_factor"]),
        ]
        .concat(),
        _ => Vec::new(),
    }
}

/// Whatever number a parameter is, alone or in a list: a result that is the definition's, or an error that names it.
#[test]
fn parameters_at_the_ends_of_their_types() {
    let mut wrong = Vec::new();
    for mechanism in MECHANISMS {
        let operation = named(mechanism.name).expect("a mechanism");
        let tokens = tokens(mechanism.name);
        let mut tensors = operation.sample(&Sample { batch: 1, tokens, heads: 2, width: 4, seed: 3 });
        if mechanism.name == "compressive" {
            tensors.insert("w".into(), uniform(&[4, 4, 3], 1));
            tensors.insert("b".into(), uniform(&[4], 2));
        }
        let own =
            operation.signature().parameters.into_iter().map(|parameter| parameter.name).filter(|name| *name != "…");
        let base = |name: &'static str| small(mechanism.name).into_iter().map(move |json| (name, json, ""));
        let parameters: Vec<_> = own.flat_map(base).chain(fields(mechanism.name)).collect();
        // Another that it does not go together with may be named, or what is wrong with its type or with boundaries.
        let told = |error: &str| {
            let named = parameters.iter().any(|(name, ..)| error.contains(&format!("`{name}`")));
            named
                || ["packed boundaries", "invalid type", "invalid value", "`queries`"]
                    .iter()
                    .any(|part| error.contains(part))
        };
        for (name, base, under) in parameters.clone() {
            for value in ends() {
                for value in [value.clone(), json!([value]), json!([value, value])] {
                    let mut given = base.clone();
                    match under {
                        "" => given[name] = value,
                        under => given[under][name] = value,
                    }
                    walk(&operation, &tensors, &given, |error| error.contains(name) || told(error), &mut wrong);
                }
            }
        }
    }
    none(wrong);
}

/// Inputs far beyond what training gives: scores of which one is all, gates that leave everything or nothing, steps and exponents at both ends.
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
            // In sixteenths, so that sums of exponents are exact.
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

/// Saturated inputs give what the definition gives in f64, in every form and without a state, and gradients that are finite.
#[test]
fn saturated_inputs_are_finite_and_the_definition_s() {
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

/// Keys before the first have no weight, however little the first has: a state of zeros is one without a past.
#[test]
fn rwkv4_begins_without_a_past() {
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
        // A mean of equal values does not depend on weights, and its slope along the values is 1.
        for name in ["dk", "dw", "du"] {
            assert_close(&format!("{name} at {k}"), &wide(&gradients[name]), &vec![0.0; gradients[name].len()], FORMS);
        }
        let sums: f64 = wide(&gradients["dv"]).iter().sum();
        assert_close(&format!("dv at {k}"), &[sums], &[6.0], FORMS);
    }
}

/// Of blocks that are liked alike every form chooses the same: the earlier. Keys of 0 and 1 make ties everywhere.
#[test]
fn ties_are_broken_by_one_rule() {
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
    // The first block and the one before its own are both forced: the first comes first.
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
