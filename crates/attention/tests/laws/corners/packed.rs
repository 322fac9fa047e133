//! Packed sequences equal the same sequences in separate calls.

use std::ops::Range;

use longreach_attention::operation::{Named, Sample, Tensors, named};
use longreach_attention::{Form, MECHANISMS};
use longreach_testkit::tolerance::FORMS;
use ndarray::{ArrayD, Slice};
use serde_json::{Value, json};

use super::{CX, axes, bounds, close, small, uniform};

/// The optional inputs of a mechanism, for one sequence of `t` tokens.
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

/// The part of a tensor that belongs to the tokens `range`, or to sequence `i`.
fn part(operation: &Named, name: &str, x: &ArrayD<f32>, range: &Range<usize>, i: usize) -> ArrayD<f32> {
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

/// In every form and in the gradients, packed sequences equal separate calls; otherwise the error names the reason.
#[test]
fn packed_sequences_equal_separate_calls() {
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
            let mut cases = vec![(tensors, parameters.clone(), packed.clone())];
            if mechanism.name == "longformer" {
                // Projections of global tokens, and the mask of the row.
                let mut own = cases[0].0.clone();
                ["bias", "alibi", "sinks"].iter().for_each(|name| drop(own.remove(*name)));
                for (n, name) in ["gq", "gk", "gv"].into_iter().enumerate() {
                    own.insert(name.into(), uniform(&[1, t, 2, 4], 20 + n as u64));
                }
                cases.push((own.clone(), parameters.clone(), packed.clone()));
                own.insert("global".into(), ArrayD::from_shape_fn(vec![1, t], |at| f32::from(at[1] % 9 == 1)));
                // A mask replaces the list of positions.
                cases.push((own, json!({"window": 5}), json!({"window": 5, "cu_seqlens": bounds})));
            }
            for (tensors, parameters, packed) in cases {
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
        // Drops global positions that a shorter sequence does not have.
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
