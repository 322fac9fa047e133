//! Choices, widths, groups, slots, extreme gates, errors.

use std::collections::BTreeMap;

use longreach_attention::Sequences;
use longreach_attention::operation::{Sample, Shapes, named};
use longreach_gpu::mechanisms::{delta, linear};
use longreach_gpu::{DType, View};
use longreach_simd::Cx;
use ndarray::ArrayD;
use serde_json::json;

use super::call::{holds, holds_given, wave};
use super::laws::MORE;
use crate::harness::{agrees, devices, upload};

/// Every choice of a parameter, where it changes what is computed.
#[test]
fn gpu_agrees_choices() {
    let Some([device, _]) = devices() else { return };
    let sample = Sample { batch: 2, tokens: 40, heads: 2, width: 6, seed: 5 };
    for (name, parameters) in [
        ("linear_attention", json!({"map": "relu", "causal": false})),
        ("linear_attention", json!({"map": "relu2", "scale": 0.7})),
        ("linear_attention", json!({"map": "exp"})),
        ("linear_attention", json!({"map": "identity", "normalize": false, "scale": 0.5})),
        ("linear_attention", json!({"map": "taylor"})),
        ("linear_attention", json!({"map": "based", "causal": false})),
        ("performer", json!({"kernel": "hyperbolic", "causal": false})),
        ("performer", json!({"kernel": "relu"})),
        ("cosformer", json!({"length": 64, "causal": false})),
        ("mamba2", json!({"dt_min": 0.5, "dt_max": 0.9})),
        ("gla", json!({"scale": 1.5})),
        ("short_conv", json!({"activation": "silu"})),
    ] {
        holds(device, name, &parameters, sample, &MORE, DType::F32, true);
    }
}

/// Widths that take parts of a column, several slices of columns, and a last slice that is not full; heads that share keys.
#[test]
fn gpu_agrees_widths() {
    let Some(devices) = devices() else { return };
    for (device, name) in devices.iter().zip(["gla", "kda"]) {
        for (width, tokens) in [(20, 33), (96, 20), (130, 20)] {
            let sample = Sample { batch: 1, tokens, heads: 2, width, seed: 6 };
            holds(device, name, &json!({}), sample, &[], DType::F32, true);
        }
    }
}

#[test]
fn gpu_agrees_groups() {
    let Some([device, _]) = devices() else { return };
    for (name, shared) in [("scan", ["q", "k"]), ("kda", ["q", "k"]), ("rwkv6", ["q", "k"]), ("mamba2", ["b", "c"])] {
        let sample = Sample { batch: 2, tokens: 50, heads: 4, width: 8, seed: 7 };
        let mut given = named(name).expect("a mechanism").sample_with(&sample, &MORE);
        for name in shared {
            let x = given[name].slice(ndarray::s![.., .., ..2, ..]).to_owned();
            given.insert(name.into(), x.into_dyn());
        }
        let shapes: Shapes = given.iter().map(|(name, x)| (name.clone(), x.shape().to_vec())).collect();
        let shapes = named(name).expect("a mechanism").shapes(&shapes, &json!({})).expect("valid");
        given.insert("state".into(), wave(&shapes["state"], 0.37));
        holds_given(device, name, &json!({}), &given, &shapes, DType::F32, true);
    }
}

/// States of slots are updated in place, those of others are left alone, and a sequence without a slot starts from zero.
#[test]
fn gpu_agrees_slots() {
    let Some([device, _]) = devices() else { return };
    let sample = Sample { batch: 3, tokens: 1, heads: 2, width: 16, seed: 8 };
    let given = named("kda").expect("a mechanism").sample(&sample);
    let states = wave(&[5, 2, 16, 16], 0.37);
    let slots = [3, u32::MAX, 0];
    let views: BTreeMap<&str, View> =
        given.iter().map(|(name, x)| (&name[..], upload(device, x, DType::F32))).collect();
    let on_device = upload(device, &states, DType::F32);
    let scale = 0.25;
    let [q, k, v, g, beta] = ["q", "k", "v", "g", "beta"].map(|name| &views[name]);
    let x = delta::kda::Inputs { q, k, v, g, beta, scale, sequences: Sequences::Batch };
    let out = delta::kda::step(device, &x, &on_device, &slots).expect("inputs that fit");
    let mut before = ArrayD::zeros(&[3, 2, 16, 16][..]);
    for (n, slot) in [(0, 3), (2, 0)] {
        before.index_axis_mut(ndarray::Axis(0), n).assign(&states.index_axis(ndarray::Axis(0), slot));
    }
    let mut with_state = given.clone();
    with_state.insert("state".into(), before);
    let want = named("kda").and_then(|of| of.naive(&with_state, &json!({"scale": scale}), &Cx::new(1))).expect("valid");
    agrees("slots: o", device, &out, &want["o"]);
    let mut after = states.mapv(f64::from);
    for (n, slot) in [(0, 3), (2, 0)] {
        after.index_axis_mut(ndarray::Axis(0), slot).assign(&want["state"].index_axis(ndarray::Axis(0), n));
    }
    agrees("slots: states", device, &on_device, &after);
    for slots in [&[0, 1][..], &[0, 0, 1], &[0, 1, 5]] {
        let refused = delta::kda::step(device, &x, &on_device, slots).expect_err("slots that do not fit").to_string();
        assert!(refused.starts_with("kda: `slots` is"), "{refused}");
    }
}

/// Gates of −50 and of −∞ forget everything; nothing is bounded or approximated.
#[test]
fn gpu_agrees_extreme_gates() {
    let Some([device, _]) = devices() else { return };
    for name in ["gla", "rwkv6", "kda", "gated_delta", "scan"] {
        let sample = Sample { batch: 1, tokens: 80, heads: 2, width: 8, seed: 9 };
        let mut given = named(name).expect("a mechanism").sample_with(&sample, &MORE);
        let mut n = 0;
        let harsh = given["g"].mapv(|g| {
            n += 1;
            [g, -50.0, 0.0, -1e4, f32::NEG_INFINITY, g, g][n % 7]
        });
        given.insert("g".into(), harsh);
        let shapes: Shapes = given.iter().map(|(name, x)| (name.clone(), x.shape().to_vec())).collect();
        let shapes = named(name).expect("a mechanism").shapes(&shapes, &json!({})).expect("valid");
        given.insert("state".into(), wave(&shapes["state"], 0.37));
        holds_given(device, name, &json!({}), &given, &shapes, DType::F32, false);
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let Some([device, _]) = devices() else { return };
    let tensor = |shape: &[usize]| View::empty(device, shape, DType::F32);
    let (q, v, g) = (tensor(&[1, 4, 2, 8]), tensor(&[1, 4, 2, 8]), tensor(&[1, 4, 2, 7]));
    let x = linear::gla::Inputs { q: &q, k: &q, v: &v, g: &g, scale: 1.0, sequences: Sequences::Batch };
    let refused = linear::gla::forward(device, &x, &tensor(&[1, 2, 8, 8])).expect_err("gates of another width");
    assert_eq!(refused.to_string(), "gla: `g` has shape [1, 4, 2, 7], want [1, 4, 2, 8]");
    let refused = linear::gla::forward(device, &x, &tensor(&[2, 2, 8, 8])).expect_err("states of two sequences");
    assert_eq!(refused.to_string(), "gla: `state` has shape [2, 2, 8, 8], want [1, 2, 8, 8]");
    let bounds = [0, 3];
    let g = tensor(&[1, 4, 2, 8]);
    let x = linear::gla::Inputs { g: &g, sequences: Sequences::Packed(&bounds), ..x };
    let refused = linear::gla::forward(device, &x, &tensor(&[1, 2, 8, 8])).expect_err("bounds that leave a token out");
    assert!(refused.to_string().contains("packed boundaries must rise from 0 to 4"), "{refused}");
    let (q, v) = (tensor(&[1, 4, 2, 600]), tensor(&[1, 4, 2, 8]));
    let x = linear::scan::Inputs {
        q: &q,
        k: &q,
        v: &v,
        g: None,
        beta: None,
        skip: None,
        scale: 1.0,
        sequences: Sequences::Batch,
    };
    let refused = linear::scan::forward(device, &x, &tensor(&[1, 2, 600, 8])).expect_err("too many rows");
    assert_eq!(
        refused.to_string(),
        "scan: the rows of a state is 600, and the GPU kernels take at most 512; the CPU kernels have no such bound"
    );
}

/// Two runs have the same bits: nothing is added atomically.
#[test]
fn two_runs_of_a_recurrence_are_equal_to_the_bit() {
    let Some([device, _]) = devices() else { return };
    let sample = Sample { batch: 1, tokens: 300, heads: 2, width: 16, seed: 10 };
    let given = named("gla").expect("a mechanism").sample(&sample);
    let views: BTreeMap<&str, View> =
        given.iter().map(|(name, x)| (&name[..], upload(device, x, DType::F32))).collect();
    let [q, k, v, g] = ["q", "k", "v", "g"].map(|name| &views[name]);
    let x = linear::gla::Inputs { q, k, v, g, scale: 0.25, sequences: Sequences::Batch };
    let state = upload(device, &wave(&[1, 2, 16, 16], 0.3), DType::F32);
    let run = || {
        let d = linear::gla::backward(device, &x, &state, v, &state).expect("inputs that fit");
        [d.q, d.k, d.v, d.g.expect("gates"), d.state].map(|x| {
            let bits = |x: f32| x.to_bits();
            x.read(device).expect("the device computes").into_iter().map(bits).collect::<Vec<_>>()
        })
    };
    assert_eq!(run(), run());
}
