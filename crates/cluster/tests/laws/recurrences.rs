//! Every mechanism with a state: gathered states, and states that are handed on.

use longreach_attention::operation::{Named, Sample, Tensors, named};
use longreach_attention::{Form, MECHANISMS};
use longreach_cluster::scan::{self, Call, Passing};
use longreach_cluster::{Alone, Error, Layout, Ranks, Threads};
use longreach_simd::Cx;
use longreach_testkit::tolerance::{self, assert_close};
use ndarray::ArrayD;
use serde_json::Value;

/// The mechanisms whose state can be handed on.
fn mechanisms() -> Vec<(Named, Passing)> {
    let all = MECHANISMS.iter().map(|mechanism| named(mechanism.name).expect("a name of the list"));
    all.filter_map(|op| Some((op, scan::passing(&op).ok()?))).collect()
}

fn parameters(op: &Named) -> Value {
    let short = match op.name() {
        "infini" => r#"{"segment": 8}"#,
        other => return serde_json::from_str(named(other).expect("a mechanism").mechanism().example).expect("JSON"),
    };
    serde_json::from_str(short).expect("JSON")
}

fn tokens_of(op: &Named) -> Vec<&'static str> {
    let inputs = op.signature().inputs.into_iter();
    inputs.filter(|input| input.axes.get(1) == Some(&"T")).map(|input| input.name).collect()
}

fn part(op: &Named, inputs: &Tensors, layout: &Layout, rank: usize) -> Tensors {
    let by_token = tokens_of(op);
    let each = inputs.iter().map(|(name, x)| {
        let cut = by_token.contains(&name.as_str()) || name == "do";
        (name.clone(), if cut { layout.split(x.view(), 1, rank) } else { x.clone() })
    });
    each.collect()
}

fn form(op: &Named) -> Form {
    op.signature().forms.iter().copied().find(|form| *form != Form::Naive).expect("a fast form")
}

/// A text, a state before it, and gradients of what comes out.
fn text(op: &Named, tokens: usize) -> (Tensors, Tensors) {
    let of = Sample { batch: 2, tokens, heads: 2, width: 8, seed: 5 };
    let mut inputs = op.sample(&of);
    let outputs = op.forward(&inputs, &parameters(op), form(op), &Cx::new(1)).expect("a valid call");
    let drawn = |x: &ArrayD<f32>, seed: f32| {
        let mut n = seed;
        ArrayD::from_shape_fn(x.raw_dim(), |_| {
            n = (n * 1.7 + 0.31) % 1.0;
            n - 0.5
        })
    };
    // The state of another text is a possible state before this one.
    if let Some(state) = outputs.get("state").filter(|_| scan::passing(op) == Ok(Passing::Gathered)) {
        inputs.insert("state".to_owned(), state.clone());
    }
    let mut cotangents = inputs.clone();
    cotangents.insert("do".to_owned(), drawn(&outputs["o"], 0.2));
    if let Some(state) = outputs.get("state").filter(|_| scan::passing(op) == Ok(Passing::Gathered)) {
        cotangents.insert("dstate".to_owned(), drawn(state, 0.7));
    }
    (inputs, cotangents)
}

fn numbers(x: &ArrayD<f32>) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

struct Got {
    outputs: Vec<Tensors>,
    gradients: Vec<Tensors>,
    sent: Vec<[u64; 2]>,
}

fn over(
    op: &Named,
    (inputs, cotangents): &(Tensors, Tensors),
    layout: &Layout,
    passing: Passing,
) -> Result<Got, Error> {
    let parameters = parameters(op);
    let work = |ranks: &dyn Ranks| {
        let cx = Cx::new(1);
        let call = Call { op: *op, parameters: &parameters, form: form(op), passing, ranks };
        let outputs = scan::forward(&call, &part(op, inputs, layout, ranks.rank()), &cx)?;
        let forward = ranks.sent();
        let gradients = scan::backward(&call, &part(op, cotangents, layout, ranks.rank()), &cx)?;
        Ok((outputs, gradients, [forward, ranks.sent() - forward]))
    };
    let all =
        if layout.ranks() == 1 { vec![work(&Alone)?] } else { Threads::new(layout.ranks()).delayed(9).run(work)? };
    let mut got = Got { outputs: Vec::new(), gradients: Vec::new(), sent: Vec::new() };
    for (outputs, gradients, sent) in all {
        got.outputs.push(outputs);
        got.gradients.push(gradients);
        got.sent.push(sent);
    }
    Ok(got)
}

#[track_caller]
fn assert_whole(what: &str, op: &Named, got: &[Tensors], want: &Tensors, layout: &Layout, tolerance: f64) {
    let by_token = tokens_of(op);
    for (name, want) in want {
        let of = name.strip_prefix('d').unwrap_or(name);
        let cut = name == "o" || by_token.contains(&of) && !by_token.contains(&name.as_str());
        let parts: Vec<ArrayD<f32>> = got.iter().map(|part| part[name].clone()).collect();
        if cut {
            let joined = layout.join(&parts, 1).expect("parts of the layout");
            assert_close(&format!("{what}: {name}"), &numbers(&joined), &numbers(want), tolerance);
        } else {
            for part in parts {
                assert_close(&format!("{what}: {name}"), &numbers(&part), &numbers(want), tolerance);
            }
        }
    }
}

#[test]
fn every_recurrence_over_ranks_is_the_recurrence_over_the_whole_text() {
    let all = mechanisms();
    assert!(all.len() == 21, "{all:?}");
    for (op, best) in all {
        let text = text(&op, 37);
        let parameters = parameters(&op);
        let want = op.forward(&text.0, &parameters, form(&op), &Cx::new(1)).expect("a valid call");
        let gradients = op.backward(&text.1, &parameters, &Cx::new(1)).expect("a valid call");
        for cuts in [&[37][..], &[16, 37], &[1, 20, 37], &[5, 5, 30, 37]] {
            let layout = Layout::ending(cuts).expect("cuts that rise");
            for passing in [Passing::Chained, best] {
                let what = format!("{} {cuts:?} {passing:?}", op.name());
                let got = over(&op, &text, &layout, passing).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_whole(&what, &op, &got.outputs, &want, &layout, tolerance::FORMS);
                assert_whole(&what, &op, &got.gradients, &gradients, &layout, tolerance::GRADIENT);
            }
        }
    }
}

#[test]
fn bytes_of_gathered_states_are_those_of_the_formula() {
    let (tokens, ranks, heads, width) = (24, 3, 2, 8);
    for (name, kept) in [("linear_attention", 0), ("retention", 1), ("gla", width), ("gated_delta", width * width)] {
        let op = named(name).expect("a mechanism");
        let (mut inputs, mut cotangents) = text(&op, tokens);
        // Without a state before and the gradient of one after, nothing but states is sent.
        inputs.remove("state");
        cotangents.remove("state");
        cotangents.remove("dstate");
        let layout = Layout::new(longreach_cluster::layout::Spread::Contiguous, tokens, ranks);
        let got = over(&op, &(inputs, cotangents), &layout, Passing::Gathered).expect("a valid call");
        let state: usize = got.outputs[0]["state"].len();
        let want = 4 * (ranks - 1) * (state + 2 * heads * kept);
        for [forward, backward] in got.sent {
            assert_eq!(forward, want as u64, "{name}");
            let of_shared = if name == "retention" { 4 * (ranks - 1) * heads } else { 0 };
            assert_eq!(backward, (want + 4 * (ranks - 1) * state + of_shared) as u64, "{name}");
        }
    }
}

#[test]
fn mechanisms_without_a_state_are_refused_by_name() {
    for name in ["dense", "nystrom", "moba"] {
        let error = scan::passing(&named(name).expect("a mechanism")).expect_err("no state");
        assert!(error.to_string().starts_with(&format!("{name} is not computed over ranks")), "{error}");
    }
    let op = named("gla").expect("a mechanism");
    let parameters = serde_json::json!({"cu_seqlens": [0, 3, 10]});
    let call = Call { op, parameters: &parameters, form: Form::Recurrent, passing: Passing::Gathered, ranks: &Alone };
    let error = scan::forward(&call, &text(&op, 10).0, &Cx::new(1)).expect_err("packed");
    assert!(error.to_string().contains("packed sequences"), "{error}");
}
