//! Outputs, final states and every gradient against f64 autograd of the equations, made by `goldens/make.py`.

use std::path::Path;

use longreach_attention::diagonal::mamba;
use longreach_attention::linear::{lightning, mamba2, retention};
use longreach_attention::operation::{Tensors, named};
use longreach_attention::softmax::h_transformer_1d::{self, HTransformer1d};
use longreach_attention::softmax::{Cotangent, Inputs};
use longreach_attention::{Form, Sequences, short_conv};
use longreach_simd::Cx;
use longreach_testkit::goldens::Golden;
use longreach_testkit::tolerance::{self, assert_close};
use ndarray::{ArrayD, IxDyn};
use serde_json::Value;

use crate::{v, wide};

struct File(Golden);

impl File {
    fn read(name: &str) -> Self {
        Self(Golden::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)))
    }

    fn f32(&self, name: &str) -> ArrayD<f32> {
        let (shape, data) = self.0.floats(name);
        ArrayD::from_shape_vec(IxDyn(&shape), data.into_iter().map(|x| x as f32).collect()).expect("shape")
    }

    #[track_caller]
    fn check<'a>(&self, name: &str, got: impl IntoIterator<Item = &'a f32>, bound: f64) {
        assert_close(name, &wide(got), &self.0.floats(name).1, bound);
    }
}

#[test]
fn mamba_is_the_equation() {
    let cx = Cx::new(2);
    let file = File::read("mamba.safetensors");
    let x: Vec<_> = ["x", "dt", "dt_bias", "a", "b", "c", "d", "z", "state"].map(|n| file.f32(n)).into();
    let inputs = mamba::Inputs {
        x: v!(x[0]),
        dt: v!(x[1]),
        dt_bias: v!(x[2]),
        a: v!(x[3]),
        b: v!(x[4]),
        c: v!(x[5]),
        d: v!(x[6]),
        z: Some(v!(x[7])),
        sequences: Sequences::Batch,
    };
    let mut state = x[8].clone().into_dimensionality().expect("rank");
    let out = mamba::recurrent(&inputs, state.view_mut(), &cx).expect("valid inputs");
    file.check("out", &out, tolerance::FORWARD);
    file.check("final_state", &state, tolerance::FORWARD);
    let (dy, ds) = (file.f32("d_out"), file.f32("d_final_state"));
    let g = mamba::backward(&inputs, v!(x[8]), v!(dy), v!(ds), &cx).expect("valid inputs");
    file.check("grad.x", &g.x, tolerance::GRADIENT);
    file.check("grad.dt", &g.dt, tolerance::GRADIENT);
    file.check("grad.dt_bias", &g.dt_bias, tolerance::GRADIENT);
    file.check("grad.a", &g.a, tolerance::GRADIENT);
    file.check("grad.b", &g.b, tolerance::GRADIENT);
    file.check("grad.c", &g.c, tolerance::GRADIENT);
    file.check("grad.d", &g.d, tolerance::GRADIENT);
    file.check("grad.z", &g.z, tolerance::GRADIENT);
    file.check("grad.state", &g.state, tolerance::GRADIENT);
}

#[test]
fn mamba2_is_the_equation() {
    let cx = Cx::new(2);
    let file = File::read("mamba2.safetensors");
    let x: Vec<_> = ["x", "dt", "dt_bias", "a", "b", "c", "d", "state"].map(|n| file.f32(n)).into();
    let inputs = mamba2::Inputs {
        x: v!(x[0]),
        dt: v!(x[1]),
        dt_bias: v!(x[2]),
        dt_limit: (0.0625, 0.75),
        a: v!(x[3]),
        b: v!(x[4]),
        c: v!(x[5]),
        d: v!(x[6]),
        sequences: Sequences::Batch,
    };
    for form in [mamba2::recurrent, mamba2::chunk] {
        let mut state = x[7].clone().into_dimensionality().expect("rank");
        let out = form(&inputs, state.view_mut(), &cx).expect("valid inputs");
        file.check("out", &out, tolerance::FORWARD);
        file.check("final_state", &state, tolerance::FORWARD);
    }
    let (dy, ds) = (file.f32("d_out"), file.f32("d_final_state"));
    let g = mamba2::backward(&inputs, v!(x[7]), v!(dy), v!(ds), &cx).expect("valid inputs");
    file.check("grad.x", &g.x, tolerance::GRADIENT);
    file.check("grad.dt", &g.dt, tolerance::GRADIENT);
    file.check("grad.dt_bias", &g.dt_bias, tolerance::GRADIENT);
    file.check("grad.a", &g.a, tolerance::GRADIENT);
    file.check("grad.b", &g.b, tolerance::GRADIENT);
    file.check("grad.c", &g.c, tolerance::GRADIENT);
    file.check("grad.d", &g.d, tolerance::GRADIENT);
    file.check("grad.state", &g.state, tolerance::GRADIENT);
}

#[test]
fn short_conv_is_the_equation() {
    let cx = Cx::new(2);
    let file = File::read("short_conv.safetensors");
    let x: Vec<_> = ["x", "w", "bias", "state"].map(|n| file.f32(n)).into();
    let inputs = short_conv::Inputs {
        x: v!(x[0]),
        w: v!(x[1]),
        bias: Some(v!(x[2])),
        activation: short_conv::Activation::Silu,
        sequences: Sequences::Batch,
    };
    let mut state = x[3].clone().into_dimensionality().expect("rank");
    let out = short_conv::chunk(&inputs, state.view_mut(), &cx).expect("valid inputs");
    file.check("out", &out, tolerance::FORWARD);
    file.check("final_state", &state, tolerance::FORWARD);
    let (dy, ds) = (file.f32("d_out"), file.f32("d_final_state"));
    let g = short_conv::backward(&inputs, v!(x[3]), v!(dy), v!(ds), &cx).expect("valid inputs");
    file.check("grad.x", &g.x, tolerance::GRADIENT);
    file.check("grad.w", &g.w, tolerance::GRADIENT);
    file.check("grad.bias", &g.bias, tolerance::GRADIENT);
    file.check("grad.state", &g.state, tolerance::GRADIENT);
}

/// Mechanisms by name, against `goldens/matrix.py`: outputs, final states and all gradients, for the definition and
/// every form.
#[test]
fn mechanisms_are_their_equations() {
    let file = File::read("matrix.safetensors");
    let cases: serde_json::Map<String, Value> = serde_json::from_str(&file.0.about("cases")).expect("JSON");
    let names = file.0.names();
    let mut done = Vec::new();
    for (case, about) in &cases {
        let op = about["op"].as_str().expect("a name");
        let operation = named(op).expect("a mechanism");
        let signature = operation.signature();
        let mut parameters = about["params"].clone();
        let has = |name: &str| names.contains(&format!("{case}.{name}"));
        let given = signature.inputs.iter().filter(|input| has(input.name));
        let mut inputs: Tensors =
            given.map(|input| (input.name.to_string(), file.f32(&format!("{case}.{}", input.name)))).collect();
        let decays = |of: Vec<f64>| ArrayD::from_shape_fn(IxDyn(&[of.len()]), |at| of[at[0]] as f32);
        if op == "retention" {
            inputs.insert("g".into(), decays(retention::decays(2)));
        }
        if op == "lightning" {
            let number = |key: &str| parameters[key].as_u64().expect("a number") as usize;
            inputs.insert("g".into(), decays(lightning::decays(2, number("layer"), number("layers"))));
            parameters = serde_json::json!({"scale": 1.0});
        }
        if op == "cosformer" {
            let shape = inputs["q"].shape().to_vec();
            inputs.insert("positions".into(), ArrayD::from_shape_fn(IxDyn(&shape[..2]), |at| at[1] as f32 + 1.0));
        }
        for form in signature.forms {
            let whole = parameters.get("causal") == Some(&Value::Bool(false));
            if whole && matches!(form, Form::Step | Form::Recurrent) {
                continue;
            }
            let got = operation.forward(&inputs, &parameters, *form, &Cx::new(2));
            let got = got.unwrap_or_else(|error| panic!("{case}: {error}"));
            file.check(&format!("{case}.o"), &got["o"], tolerance::FORWARD);
            file.check(&format!("{case}.end"), &got["state"], tolerance::FORWARD);
        }
        for name in ["do", "dstate"] {
            inputs.insert(name.into(), file.f32(&format!("{case}.{name}")));
        }
        let gradients = operation.backward(&inputs, &parameters, &Cx::new(2)).expect("valid inputs");
        for (name, gradient) in &gradients {
            let golden = if name == "dstate" { "dstate0" } else { name };
            // A constant of the published mechanism, which has a gradient here.
            if has(golden) {
                file.check(&format!("{case}.{golden}"), gradient, tolerance::GRADIENT);
                done.push(format!("{case}.{golden}"));
            }
        }
    }
    let all = |name: &&String| name.contains(".d") && !name.ends_with(".do") && !name.ends_with(".dstate");
    let missing: Vec<_> = names.iter().filter(all).filter(|name| !done.contains(name)).collect();
    assert!(missing.is_empty(), "gradients that were not compared: {missing:?}");
}

#[test]
fn h_transformer_1d_matches_the_code_of_its_authors() {
    let file = File::read("h_transformer_1d.safetensors");
    for (name, causal) in [("plain", false), ("causal", true), ("padded", false)] {
        let of = |part: &str| format!("{name}.{part}");
        let [q, k, v, d] = ["q", "k", "v", "d_out"].map(|part| file.f32(&of(part)));
        let keep = file.f32(&of("keep")).mapv(|x| x != 0.0);
        let x = Inputs { keep: Some(v!(keep)), ..Inputs::new(v!(q), v!(k), v!(v)) };
        let (cx, pattern) = (Cx::new(2), HTransformer1d { block: 4, causal });
        let mut got = h_transformer_1d::chunk(&x, &pattern, &cx).expect("valid inputs");
        let d = Cotangent { out: v!(d), lse: None };
        let g = h_transformer_1d::backward(&x, &pattern, got.view(), &d, &cx).expect("valid inputs");
        file.check(&of("grad.q"), &g.q, tolerance::GRADIENT);
        file.check(&of("grad.k"), &g.k, tolerance::GRADIENT);
        file.check(&of("grad.v"), &g.v, tolerance::GRADIENT);
        // Outputs at padding are not compared: the authors remove the padded queries.
        let mut want = file.f32(&of("out"));
        for ((b, t), kept) in x.keep.expect("given").indexed_iter() {
            if !kept {
                got.out.slice_mut(ndarray::s![b, t, .., ..]).fill(0.0);
                want.slice_mut(ndarray::s![b, t, .., ..]).fill(0.0);
            }
        }
        assert_close(name, &wide(&got.out), &wide(&want), tolerance::FORWARD);
    }
}
