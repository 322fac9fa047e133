use std::path::Path;

use longreach_attention::rotary::{Rotary, Scaling, backward, chunk, naive};
use longreach_simd::Cx;
use longreach_testkit::Kind::Token;
use longreach_testkit::Tensor;
use longreach_testkit::tolerance::{FORWARD, LOGITS, assert_close};
use ndarray::{Array2, ArrayView4};
use serde_json::Value;

use crate::{array, contexts, exact, v, wide};

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/rotary.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("goldens")).expect("JSON")
}

fn numbers(x: &Value) -> Vec<f64> {
    x.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

#[test]
fn frequencies_match_transformers() {
    for case in golden()["frequencies"].as_array().expect("cases") {
        let mut parameters = case["parameters"].clone();
        if parameters["rope_type"] == "dynamic" {
            parameters["max_position_embeddings"] = 2048.into();
        }
        let scaling: Scaling = serde_json::from_value(parameters).expect("a scaling");
        let length = case["length"].as_u64().expect("a length") as usize;
        let got = scaling.frequencies(32, 10000.0, length).expect("valid");
        for (got, want) in got.inverse.iter().zip(numbers(&case["inverse"])) {
            // The reference is in f32.
            assert!((got - want).abs() <= 4e-7 * want.abs(), "{scaling:?}: {got}, want {want}");
        }
        assert!((got.factor - case["factor"].as_f64().expect("a factor")).abs() < 1e-9, "{scaling:?}");
    }
}

#[test]
fn rotation_matches_transformers() {
    let golden = &golden()["turned"];
    let x: Vec<f32> = numbers(&golden["x"]).into_iter().map(|x| x as f32).collect();
    let x = ArrayView4::from_shape((1, 9, 2, 32), &x).expect("shape");
    let positions =
        Array2::from_shape_fn((1, 9), |(_, t)| golden["positions"][t].as_u64().expect("a position") as usize);
    let rotary = Rotary { width: 32, theta: 10000.0, interleaved: false, scaling: Scaling::Default };
    for cx in contexts() {
        let angles = rotary.angles(positions.view(), 9, &cx).expect("valid");
        // The reference computes angles in f32: at position 1000 they are off by up to 6e-5.
        assert_close("rotary", &wide(&chunk(x, &angles, &cx).expect("valid")), &numbers(&golden["y"]), LOGITS);
    }
}

#[test]
fn chunk_is_naive_and_backward_is_the_inverse_rotation() {
    let yarn = Scaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings: 64,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: None,
        mscale: None,
        mscale_all_dim: None,
        truncate: true,
    };
    for (t, d, width) in [(1, 8, 8), (33, 64, 64), (70, 20, 14), (40, 6, 2), (5, 7, 0)] {
        let x = Tensor::random("x", Token, &[2, t, 3, d], -2.0..2.0, 1);
        for interleaved in [false, true] {
            for scaling in [Scaling::Default, yarn.clone()] {
                let rotary = Rotary { width, theta: 500.0, interleaved, scaling };
                for rows in [1, 2] {
                    let positions = Array2::from_shape_fn((rows, t), |(b, t)| 7 * t + 1000 * b);
                    let (wide_x, narrow) = (exact(&x), array(&x));
                    let want = naive(v!(wide_x), positions.view(), t, &rotary).expect("valid");
                    for cx in contexts() {
                        let angles = rotary.angles(positions.view(), t, &cx).expect("valid");
                        let got = chunk(v!(narrow) as ArrayView4<'_, f32>, &angles, &cx).expect("valid");
                        assert_close("rotary", &wide(&got), &want.iter().copied().collect::<Vec<_>>(), FORWARD);
                        // A rotation is orthogonal up to the magnitude, so the gradient of |y|²/2 is m² x.
                        let m = rotary.scaling.frequencies(width, 500.0, t).expect("valid").factor;
                        let back = backward(got.view(), &angles, &cx).expect("valid");
                        let scaled = |((.., channel), x): ((usize, usize, usize, usize), &f64)| {
                            if channel < width { m * m * x } else { *x }
                        };
                        let x4: ArrayView4<'_, f64> = v!(wide_x);
                        let x4: Vec<f64> = x4.indexed_iter().map(scaled).collect();
                        assert_close("turned back", &wide(&back), &x4, FORWARD);
                    }
                }
            }
        }
    }
}

#[test]
fn invalid_inputs_are_named() {
    let x = ndarray::Array4::<f32>::zeros((2, 5, 1, 8));
    let rotary = |width, scaling| Rotary { width, theta: 10000.0, interleaved: false, scaling };
    let cx = Cx::new(1);
    let refused = |rotary: Rotary, rows: usize, t: usize| {
        let angles = rotary.angles(Array2::zeros((rows, t)).view(), t, &cx);
        angles.and_then(|angles| chunk(x.view(), &angles, &cx)).expect_err("refused").to_string()
    };
    assert!(refused(rotary(7, Scaling::Default), 1, 5).contains("`width` is 7, want an even number"));
    assert!(refused(rotary(10, Scaling::Default), 1, 5).contains("`width` is 10, want at most the 8 channels"));
    assert!(refused(rotary(8, Scaling::Default), 1, 4).contains("`angles`"));
    assert!(refused(rotary(8, Scaling::Default), 3, 5).contains("`angles`"));
    assert!(refused(rotary(8, Scaling::Linear { factor: 0.0 }), 1, 5).contains("`factor` is 0.0"));
    let few = Scaling::LongRope {
        short_factor: vec![1.0; 4],
        long_factor: vec![1.0; 3],
        original_max_position_embeddings: 10,
        factor: 2.0,
        attention_factor: None,
    };
    assert!(refused(rotary(8, few), 1, 5).contains("`long_factor`"));
}

/// With the defaults of transformers: the older key, fields that are `null`, and the model's length if that of
/// training is missing.
#[test]
fn scalings_parse_as_in_transformers() {
    let read = |json: &str, longest| {
        let json: Value = serde_json::from_str(json).expect("JSON");
        Scaling::from_config(&json, longest).map_err(|e| e.to_string())
    };
    for (older, longest, want) in [
        ("null", None, r#"{"rope_type": "default"}"#),
        ("{}", None, r#"{"rope_type": "default"}"#),
        (r#"{"type": "linear", "factor": 2.0}"#, None, r#"{"rope_type": "linear", "factor": 2.0}"#),
        (r#"{"type": "linear", "rope_type": null, "factor": 2.0}"#, None, r#"{"rope_type": "linear", "factor": 2.0}"#),
        (r#"{"type": "linear", "rope_type": "default", "factor": 2.0}"#, None, r#"{"rope_type": "default"}"#),
        (
            r#"{"type": "yarn", "factor": 4.0, "attention_factor": null}"#,
            Some(4096),
            r#"{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}"#,
        ),
        (
            r#"{"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}"#,
            Some(4096),
            r#"{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}"#,
        ),
        (
            r#"{"type": "dynamic", "factor": 2.0}"#,
            Some(2048),
            r#"{"rope_type": "dynamic", "factor": 2.0, "max_position_embeddings": 2048}"#,
        ),
        (
            r#"{"type": "longrope", "short_factor": [1.0], "long_factor": [2.0], "original_max_position_embeddings": 1024}"#,
            Some(4096),
            r#"{"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0], "original_max_position_embeddings": 1024, "factor": 4.0}"#,
        ),
        (
            r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}"#,
            Some(8192),
            r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}"#,
        ),
    ] {
        let want: Scaling = serde_json::from_str(want).expect("a scaling");
        assert_eq!(read(older, longest), Ok(want), "{older}");
    }
    let message = read(r#"{"type": "yarn", "factor": 4.0}"#, None).expect_err("no length");
    assert!(
        message.contains("`original_max_position_embeddings`") && message.contains("`max_position_embeddings`"),
        "{message}"
    );
    assert!(read(r#"{"type": "yarm"}"#, None).expect_err("no such kind").contains("yarm"));
    // Fields that describe the rotation itself are not part of a scaling; an unknown field is an error.
    let beside =
        r#"{"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24], "low_freq_factor": 1.0}"#;
    assert_eq!(read(beside, None), Ok(Scaling::Default));
    let message = read(r#"{"rope_type": "linear", "factor": 2.0, "fractor": 3.0}"#, None).expect_err("no such field");
    assert!(message.contains("`fractor`") && message.contains("low_freq_factor"), "{message}");
    assert!(read("[]", None).expect_err("a list").contains("not an object"));
}
