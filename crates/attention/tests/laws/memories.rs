//! Memories and landmarks against f64 autograd of their equations, `goldens/memory.py` and `goldens/relative.py`, and
//! their own laws.

use std::path::Path;

use longreach_attention::memory::compressive;
use longreach_attention::operation::{Named, Sample, Tensors, named};
use longreach_attention::{Form, MECHANISMS};
use longreach_simd::{Cx, Isa};
use longreach_testkit::goldens::Golden;
use longreach_testkit::tolerance::{self, assert_close};
use ndarray::{ArrayD, Axis, IxDyn};
use serde_json::{Value, json};

use crate::{v, wide};

/// A file of golden cases by name.
struct Cases {
    file: Golden,
    names: Vec<String>,
}

impl Cases {
    fn read(name: &str) -> Self {
        let file = Golden::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name));
        let names = file.names();
        Self { file, names }
    }

    fn all(&self) -> serde_json::Map<String, Value> {
        serde_json::from_str(&self.file.about("cases")).expect("JSON")
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    fn tensor(&self, name: &str) -> ArrayD<f32> {
        let (shape, data) = self.file.floats(name);
        ArrayD::from_shape_vec(IxDyn(&shape), data.into_iter().map(|x| x as f32).collect()).expect("shape")
    }

    /// The tensors of a case that an operation accepts.
    fn inputs(&self, case: &str, of: &Named) -> Tensors {
        // In the goldens, `pending` is the value after the last token.
        let names = of.signature().inputs.into_iter().map(|input| input.name).filter(|name| *name != "pending");
        let there = names.filter(|name| self.has(&format!("{case}.{name}")));
        there.map(|name| (name.to_string(), self.tensor(&format!("{case}.{name}")))).collect()
    }

    #[track_caller]
    fn check<'a>(&self, name: &str, got: impl IntoIterator<Item = &'a f32>, bound: f64) {
        assert_close(name, &wide(got), &self.file.floats(name).1, bound);
    }

    /// Checks every form of an operation and its gradients; `inputs` may lack those that the golden has under another
    /// name.
    fn prove(&self, case: &str, of: &Named, inputs: &Tensors, parameters: &Value) {
        for isa in Isa::available() {
            let cx = Cx::with_isa(isa, 2);
            for form in of.signature().forms {
                let got = of.forward(inputs, parameters, *form, &cx);
                let got = got.unwrap_or_else(|error| panic!("{case} {}: {error}", form.name()));
                self.check(&format!("{case}.o"), &got["o"], tolerance::FORWARD);
                for (ours, theirs) in [("state", "end"), ("pending", "pending")] {
                    if got.contains_key(ours) && self.has(&format!("{case}.{theirs}")) {
                        self.check(&format!("{case}.{theirs}"), &got[ours], tolerance::FORWARD);
                    }
                }
            }
            let mut given = inputs.clone();
            for name in ["do", "dstate", "dpending"] {
                if self.has(&format!("{case}.{name}")) {
                    given.insert(name.into(), self.tensor(&format!("{case}.{name}")));
                }
            }
            let gradients = of.backward(&given, parameters, &cx).unwrap_or_else(|error| panic!("{case}: {error}"));
            let mut compared = vec!["do".to_string(), "dstate".into(), "dpending".into()];
            for (name, gradient) in &gradients {
                let golden = if name == "dstate" { "dstate0" } else { name };
                // The cotangent of `pending` after the last token is named like the gradient to `pending` before the
                // first.
                if name != "dpending" && self.has(&format!("{case}.{golden}")) {
                    self.check(&format!("{case}.{golden}"), gradient, tolerance::GRADIENT);
                    compared.push(golden.to_string());
                }
            }
            let of_case = self.names.iter().filter_map(|name| name.strip_prefix(&format!("{case}.")));
            let missing: Vec<&str> =
                of_case.filter(|name| name.starts_with('d') && !compared.iter().any(|known| known == name)).collect();
            assert!(missing.is_empty(), "{case}: gradients that were not compared: {missing:?}");
        }
    }
}

#[test]
fn transformer_xl_is_its_equation() {
    let (cases, of) = (Cases::read("relative.safetensors"), named("transformer_xl").expect("a mechanism"));
    for (case, about) in &cases.all() {
        cases.prove(case, &of, &cases.inputs(case, &of), &about["params"]);
    }
}

#[test]
fn memories_and_landmarks_are_their_equations() {
    let cases = Cases::read("memory.safetensors");
    let mut seen = Vec::new();
    for (case, about) in &cases.all() {
        let name = match about["op"].as_str().expect("a name") {
            "compress" => "compressive",
            name => name,
        };
        if !MECHANISMS.iter().any(|mechanism| mechanism.name == name) {
            continue;
        }
        let of = named(name).expect("a mechanism");
        cases.prove(case, &of, &cases.inputs(case, &of), &about["params"]);
        seen.push(name.to_string());
    }
    for name in ["infini", "linformer", "nystrom", "hmt", "compressive"] {
        assert!(seen.iter().any(|seen| seen == name), "{name}: no case");
    }
}

#[test]
fn compression_gradient_is_that_of_the_reconstruction_loss() {
    let cases = Cases::read("memory.safetensors");
    let tensor = |name: &str| cases.tensor(&format!("reconstruction.{name}"));
    let (x, w, b, q, wk, wv) = (tensor("x"), tensor("w"), tensor("b"), tensor("q"), tensor("wk"), tensor("wv"));
    let ratio = cases.all()["reconstruction"]["params"]["ratio"].as_u64().expect("a number") as usize;
    let by = compressive::Compression::Conv { w: v!(w), b: v!(b), dilation: 1 };
    let inputs = compressive::Inputs { x: v!(x), by, ratio };
    let got = compressive::reconstruction(&inputs, v!(q), v!(wk), v!(wv), &Cx::new(2)).expect("valid inputs");
    cases.check("reconstruction.o", &[got.loss], tolerance::FORWARD);
    // The golden's cotangent is not 1.
    let by = tensor("do")[[0]];
    cases.check("reconstruction.dw", &(by * got.w), tolerance::GRADIENT);
    cases.check("reconstruction.db", &(by * got.b), tolerance::GRADIENT);
}

/// A range of tokens, of the inputs that have a token axis.
fn part(inputs: &Tensors, tokens: std::ops::Range<usize>, whole: &[&str]) -> Tensors {
    let cut = |(name, x): (&String, &ArrayD<f32>)| {
        let x = match whole.contains(&name.as_str()) {
            true => x.clone(),
            false => x.slice_axis(Axis(1), (tokens.start..tokens.end).into()).to_owned(),
        };
        (name.clone(), x)
    };
    inputs.iter().map(cut).collect()
}

/// A sequence split anywhere, with the state carried on, equals the whole; so does the gradient through the split.
#[test]
fn infini_split_is_whole() {
    let of = named("infini").expect("a mechanism");
    let sample = Sample { batch: 2, tokens: 45, heads: 2, width: 9, seed: 3 };
    let mut inputs = of.sample(&sample);
    let whole = ["gate"];
    for delta in [false, true] {
        let parameters = json!({"segment": 8, "delta": delta});
        for groups in [2, 1] {
            for name in ["k", "v"] {
                let all = inputs[name].slice_axis(Axis(2), (0..groups).into()).to_owned();
                inputs.insert(name.into(), all);
            }
            let cx = Cx::new(2);
            let all = of.forward(&inputs, &parameters, Form::Chunk, &cx).expect("valid");
            let d_o = all["o"].mapv(|x| (7.0 * x).sin());
            let mut given = inputs.clone();
            given.insert("do".into(), d_o.clone());
            let gradient = of.backward(&given, &parameters, &cx).expect("valid");
            for cut in [1, 7, 8, 13, 32, 44] {
                let (first, second) = (part(&inputs, 0..cut, &whole), part(&inputs, cut..45, &whole));
                let before = of.forward(&first, &parameters, Form::Chunk, &cx).expect("valid");
                let carry = |to: &Tensors| {
                    let mut to = to.clone();
                    for name in ["state", "pending", "keys", "values"] {
                        to.insert(name.into(), before[name].clone());
                    }
                    to
                };
                let mut rest = carry(&second);
                let after = of.forward(&rest, &parameters, Form::Chunk, &cx).expect("valid");
                let o = all["o"].slice_axis(Axis(1), (cut..45).into());
                assert_close(&format!("cut at {cut}"), &wide(&after["o"]), &wide(o.iter()), tolerance::FORWARD);
                for name in ["state", "pending", "keys", "values"] {
                    assert_close(name, &wide(&after[name]), &wide(&all[name]), tolerance::FORWARD);
                }
                rest.insert("do".into(), d_o.slice_axis(Axis(1), (cut..45).into()).to_owned());
                let second = of.backward(&rest, &parameters, &cx).expect("valid");
                for name in ["dq", "dk", "dv"] {
                    let of_rest = gradient[name].slice_axis(Axis(1), (cut..45).into());
                    assert_close(name, &wide(&second[name]), &wide(of_rest.iter()), tolerance::GRADIENT);
                }
                // If the split ends a segment, the whole cotangent belongs to the memory.
                if cut % 8 == 0 {
                    let mut first = first;
                    first.insert("do".into(), d_o.slice_axis(Axis(1), (0..cut).into()).to_owned());
                    first.insert("dstate".into(), second["dstate"].clone());
                    let first = of.backward(&first, &parameters, &cx).expect("valid");
                    for name in ["dq", "dk", "dv"] {
                        let of_first = gradient[name].slice_axis(Axis(1), (0..cut).into());
                        assert_close(name, &wide(&first[name]), &wide(of_first.iter()), tolerance::GRADIENT);
                    }
                }
            }
        }
        inputs = of.sample(&sample);
    }
}

/// With one segment there is no memory: the result is attention.
#[test]
fn infini_without_a_memory_is_attention() {
    let (infini, dense) = (named("infini").expect("a mechanism"), named("dense").expect("a mechanism"));
    let inputs = infini.sample(&longreach_attention::operation::Sample { tokens: 30, ..Default::default() });
    let got = infini.forward(&inputs, &json!({"segment": 30}), Form::Chunk, &Cx::new(2)).expect("valid");
    let mut plain = inputs.clone();
    plain.remove("gate");
    let want = dense.forward(&plain, &json!({"causal": true}), Form::Naive, &Cx::new(2)).expect("valid");
    assert_close("o", &wide(&got["o"]), &wide(&want["o"]), tolerance::FORWARD);
}

/// With as many landmarks or projected keys as tokens, each its own, nothing is approximated; with fewer, more are
/// better.
#[test]
fn more_landmarks_approximate_attention_better() {
    let dense = named("dense").expect("a mechanism");
    let (nystrom, linformer) = (named("nystrom").expect("a mechanism"), named("linformer").expect("a mechanism"));
    let tokens = 96;
    let sample = Sample { tokens, heads: 2, width: 16, batch: 1, seed: 5 };
    let mut inputs = nystrom.sample(&sample);
    // A slowly varying sequence, which landmarks can represent.
    for (n, name) in ["q", "k", "v"].into_iter().enumerate() {
        let x = inputs.get_mut(name).expect("there");
        for (at, x) in x.indexed_iter_mut() {
            *x = (0.03 * at[1] as f32 * (1.0 + at[3] as f32 * 0.2) + n as f32 + 3.0 * at[2] as f32).sin();
        }
    }
    let cx = Cx::new(2);
    let want = dense.forward(&inputs, &json!({}), Form::Naive, &cx).expect("valid");
    let error = |got: &ArrayD<f32>| {
        (got - &want["o"]).mapv(|x| f64::from(x).powi(2)).sum().sqrt()
            / want["o"].mapv(|x| f64::from(x).powi(2)).sum().sqrt()
    };
    let of_nystrom = |m: usize| {
        let got =
            nystrom.forward(&inputs, &json!({"landmarks": m, "iterations": 20}), Form::Chunk, &cx).expect("valid");
        error(&got["o"])
    };
    let errors = [2, 4, 8, 96].map(of_nystrom);
    assert!(errors.windows(2).all(|pair| pair[1] < pair[0]), "{errors:?}");
    assert!(errors[3] < 1e-5, "{errors:?}");
    let of_linformer = |rank: usize| {
        // Means of neighbouring tokens.
        let share = tokens / rank;
        let mut inputs = inputs.clone();
        let by = ArrayD::from_shape_fn(IxDyn(&[tokens, rank]), |at| f32::from(at[0] / share == at[1]) / share as f32);
        inputs.insert("e".into(), by);
        error(&linformer.forward(&inputs, &json!({}), Form::Chunk, &cx).expect("valid")["o"])
    };
    let errors = [4, 12, 32, 96].map(of_linformer);
    assert!(errors.windows(2).all(|pair| pair[1] < pair[0]), "{errors:?}");
    assert!(errors[3] < 1e-5, "{errors:?}");
}

#[test]
fn invalid_inputs_are_refused() {
    let cx = Cx::new(1);
    let refused = |name: &str, change: &dyn Fn(&mut Tensors), parameters: Value, says: &[&str]| {
        let of = named(name).expect("a mechanism");
        let mut inputs =
            of.sample(&longreach_attention::operation::Sample { tokens: 6, heads: 2, width: 4, batch: 1, seed: 1 });
        change(&mut inputs);
        let error = of.forward(&inputs, &parameters, Form::Chunk, &cx).expect_err("refused").to_string();
        assert!(error.starts_with(name) && says.iter().all(|part| error.contains(part)), "{error}");
    };
    let nothing = |_: &mut Tensors| {};
    refused("linformer", &nothing, json!({"causal": true}), &["causal", "mixes all tokens"]);
    refused("nystrom", &nothing, json!({"causal": true}), &["causal", "mixes tokens"]);
    refused("nystrom", &nothing, json!({"landmarks": 0}), &["landmarks", "at least 1"]);
    refused("infini", &nothing, json!({"segment": 0}), &["segment", "at least 1"]);
    let short = |inputs: &mut Tensors| {
        let e = inputs["e"].slice_axis(Axis(0), (0..5).into()).to_owned();
        inputs.insert("e".into(), e);
    };
    refused("linformer", &short, json!({}), &["`k` is 6", "at most the 5 tokens"]);
    let few = |inputs: &mut Tensors| {
        let r = inputs["r"].slice_axis(Axis(0), (0..4).into()).to_owned();
        inputs.insert("r".into(), r);
    };
    refused("transformer_xl", &few, json!({}), &["`r` is 4", "at least 6 rows"]);
    let other = |inputs: &mut Tensors| {
        inputs.insert("state".into(), ArrayD::zeros(IxDyn(&[1, 2, 4, 4])));
    };
    refused("infini", &other, json!({"segment": 4}), &["state", "[1, 2, 4, 4]", "[1, 2, 4, 5]"]);
    let full = |inputs: &mut Tensors| {
        inputs.insert("keys".into(), ArrayD::zeros(IxDyn(&[1, 4, 2, 4])));
        inputs.insert("values".into(), ArrayD::zeros(IxDyn(&[1, 4, 2, 4])));
    };
    refused("infini", &full, json!({"segment": 4}), &["keys", "fewer tokens than a segment's 4"]);
}

/// The mechanisms of this file, with parameters that suit samples of 21 tokens.
fn sampled() -> Vec<(&'static str, Value)> {
    vec![
        ("transformer_xl", json!({})),
        ("transformer_xl", json!({"left": 5})),
        ("infini", json!({"segment": 6})),
        ("infini", json!({"segment": 6, "delta": true})),
        ("hmt", json!({})),
        ("linformer", json!({})),
        ("nystrom", json!({"landmarks": 4})),
        ("compressive", json!({})),
    ]
}

/// The outputs and gradients of a sample.
fn all_of(of: &Named, inputs: &Tensors, parameters: &Value, cx: &Cx) -> (Tensors, Tensors) {
    let out = of.forward(inputs, parameters, Form::Chunk, cx).expect("valid");
    let mut given = inputs.clone();
    given.insert("do".into(), out["o"].mapv(|x| (7.0 * x).sin()));
    let gradients = of.backward(&given, parameters, cx).expect("valid");
    (out, gradients)
}

fn bits(tensors: &Tensors) -> Vec<(&String, Vec<u32>)> {
    tensors.iter().map(|(name, x)| (name, x.iter().map(|x| x.to_bits()).collect())).collect()
}

#[test]
fn memories_are_bit_identical_for_any_thread_count() {
    for (name, parameters) in sampled() {
        let of = named(name).expect("a mechanism");
        let inputs = of.sample(&Sample { batch: 2, tokens: 21, heads: 2, width: 9, seed: 5 });
        let (one, d_one) = all_of(&of, &inputs, &parameters, &Cx::new(1));
        for threads in [2, 5] {
            let (some, d_some) = all_of(&of, &inputs, &parameters, &Cx::new(threads));
            assert_eq!(bits(&one), bits(&some), "{name} {parameters} on {threads} threads");
            assert_eq!(bits(&d_one), bits(&d_some), "{name} {parameters}, its gradient on {threads} threads");
        }
    }
}

#[test]
fn memory_sequences_are_independent() {
    let cx = Cx::new(2);
    for (name, parameters) in sampled() {
        let of = named(name).expect("a mechanism");
        let inputs = of.sample(&Sample { batch: 2, tokens: 21, heads: 2, width: 9, seed: 6 });
        let signature = of.signature();
        let own = |name: &str| signature.inputs.iter().any(|input| input.name == name && input.axes[0] == "B");
        let (both, d_both) = all_of(&of, &inputs, &parameters, &cx);
        for i in 0..2 {
            let of_one = |x: &ArrayD<f32>| x.slice_axis(Axis(0), (i..i + 1).into()).to_owned();
            let alone = inputs.iter().map(|(name, x)| (name.clone(), if own(name) { of_one(x) } else { x.clone() }));
            let (alone, d_alone) = all_of(&of, &alone.collect(), &parameters, &cx);
            assert_close(name, &wide(&alone["o"]), &wide(&of_one(&both["o"])), tolerance::FORWARD);
            for (gradient, x) in d_both.iter().filter(|(gradient, _)| own(gradient.trim_start_matches('d'))) {
                let what = format!("{name} {parameters}, `{gradient}` of sequence {i}");
                assert_close(&what, &wide(&d_alone[gradient]), &wide(&of_one(x)), tolerance::GRADIENT);
            }
        }
    }
}

/// NaN stays in its sequence and head, and does not reach earlier tokens.
#[test]
fn memories_are_causal_and_nan_stays_in_its_row() {
    let cx = Cx::new(2);
    for (name, parameters) in sampled().into_iter().filter(|(name, _)| ["transformer_xl", "infini"].contains(name)) {
        let of = named(name).expect("a mechanism");
        let inputs = of.sample(&Sample { batch: 2, tokens: 21, heads: 2, width: 9, seed: 7 });
        let out = |inputs: &Tensors| of.forward(inputs, &parameters, Form::Chunk, &cx).expect("valid")["o"].clone();
        let clean = out(&inputs);
        for spoilt in ["q", "k", "v"] {
            let mut inputs = inputs.clone();
            // There may be more keys than queries: those of the memory come first.
            let x = inputs.get_mut(spoilt).expect("a tensor");
            let at = x.shape()[1] - 9;
            x[[1, at, 1, 3]] = f32::NAN;
            let from = clean.shape()[1] - 9;
            for (at, (x, clean)) in out(&inputs).indexed_iter().zip(&clean).map(|((at, x), clean)| (at, (x, clean))) {
                if at[0] == 0 || at[1] < from || at[2] == 0 {
                    assert_eq!(x.to_bits(), clean.to_bits(), "{name} {parameters}: `{spoilt}` reached {at:?}");
                }
            }
        }
    }
}
