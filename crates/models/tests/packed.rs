//! Checkpoints whose matrices are packed integers (GPTQ, AWQ, compressed-tensors), against the packages that pack them.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use longreach_models::{Checkpoint, DType, Location, Model};
use longreach_nn::{Init, Layout, Precision, Source, Spec};
use longreach_simd::product::{Format, Quantised};
use longreach_testkit::goldens::Golden;
use longreach_testkit::tolerance;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// The goldens, each with the format of its blocks and the part of a scale by which a block may differ from the numbers.
const NAMES: [(&str, Option<Format>, f32); 11] = [
    ("gptq", Some(Format::Q4_0), 0.0),
    // Columns of a block have several scales.
    ("gptq-order", None, 0.0),
    ("gptq-v2", Some(Format::Q4_1), 1.0 / 128.0),
    ("gptq-8", Some(Format::Q8_0), 0.0),
    ("awq", Some(Format::Q4_1), 1.0 / 128.0),
    ("ct-4", Some(Format::Q4_0), 0.0),
    ("ct-4-asymmetric", Some(Format::Q4_1), 1.0 / 128.0),
    ("ct-8", Some(Format::Q8_0), 0.0),
    ("ct-w8a8", Some(Format::Q8_0), 0.0),
    // Floats.
    ("ct-fp8", None, 0.0),
    ("fp8", None, 0.0),
];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/packed").join(name)
}

fn at(directory: &Path) -> Location {
    Location { directory: directory.to_owned(), weights: None }
}

fn golden(name: &str) -> Golden {
    Golden::read(folder(name).join("expected.safetensors"))
}

fn down_proj() -> Spec {
    Spec {
        name: "model.layers.0.mlp.down_proj.weight".into(),
        shape: vec![64, 96],
        layout: Layout::Same,
        precision: Precision::Matrix,
        init: Init::Constant(0.0),
    }
}

fn floats(golden: &Golden, name: &str) -> Vec<f32> {
    golden.floats(name).1.iter().map(|x| *x as f32).collect()
}

/// The logits `[2, 30, vocabulary]` of the golden's tokens.
fn logits(model: &Model, golden: &Golden) -> Vec<f64> {
    let ids: Vec<u32> = golden.integers("input_ids").1.iter().map(|id| u32::try_from(*id).expect("an id")).collect();
    let mut cache = model.decoder.start(2);
    let hidden = model.decoder.forward(&ids, &mut cache, None);
    let logits: Tensor<3> = model.decoder.logits(hidden);
    logits.into_data().iter::<f64>().collect()
}

#[test]
fn packed_matrices_are_read_as_the_numbers_of_their_package() {
    for (name, ..) in NAMES {
        let golden = golden(name);
        let mut checkpoint = Checkpoint::at(&at(&folder(name))).expect(name).keep_as(Some(DType::F32));
        let read: Vec<f32> = checkpoint.get(&down_proj()).expect(name).iter::<f32>().collect();
        assert_eq!(read, floats(&golden, "down_proj"), "{name}");
    }
}

#[test]
fn packed_matrices_are_kept_as_blocks_of_the_same_numbers() {
    let cx = longreach_burn::context();
    for (name, format, far) in NAMES {
        let mut checkpoint = Checkpoint::at(&at(&folder(name))).expect(name);
        let found = checkpoint.quantised(&down_proj()).expect(name);
        assert_eq!(found.is_some(), format.is_some(), "{name}");
        let Some(Quantised::Blocks(blocks)) = found else { continue };
        assert_eq!(Some(blocks.format()), format, "{name}");
        let mut numbers = vec![0.0; 64 * 96];
        blocks.dequantise(&cx, &mut numbers);
        let want = floats(&golden(name), "down_proj");
        let largest = want.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        for (got, want) in numbers.iter().zip(&want) {
            assert!((got - want).abs() <= far * largest / 8.0, "{name}: {got} for {want}");
        }
    }
}

#[test]
fn models_of_packed_matrices_give_the_logits_of_their_numbers() {
    for (name, format, _) in NAMES {
        let golden = golden(name);
        let want = golden.floats("logits").1;
        let scale = want.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        let model = Model::load(&at(&folder(name)), Some(DType::F32)).expect(name);
        let got = logits(&model, &golden);
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= tolerance::LOGITS * scale.max(1.0), "{name}: {got} for {want}");
        }
        // As stored, what blocks meet is rounded to 8 bits. A permutation or a wrong zero point is off by far more.
        let kept = Model::load(&at(&folder(name)), None).expect(name);
        assert!(kept.checkpoint.as_ref().is_some_and(|all| !all.block_types().is_empty()), "{name}");
        assert!(kept.checkpoint.as_ref().expect("files").unused().is_empty(), "{name}");
        let error = logits(&kept, &golden).iter().zip(&want).map(|(got, want)| (got - want).powi(2)).sum::<f64>();
        let size = want.iter().map(|x| x * x).sum::<f64>();
        let bound = if format.is_some() { 0.03 } else { 0.01 };
        assert!((error / size).sqrt() < bound, "{name}: {} of the logits", (error / size).sqrt());
    }
}

/// A copy of a golden whose tensors are changed.
fn changed(
    name: &str,
    change: impl FnOnce(&mut Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)>),
) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a folder");
    std::fs::copy(folder(name).join("config.json"), to.path().join("config.json")).expect("copied");
    let bytes = std::fs::read(folder(name).join("model.safetensors")).expect("a golden");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a golden");
    let mut tensors: Vec<_> =
        file.tensors().into_iter().map(|(name, t)| (name, t.dtype(), t.shape().to_vec(), t.data().to_vec())).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name.clone(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).expect("a tensor"))
    });
    safetensors::serialize_to_file(views, None, &to.path().join("model.safetensors")).expect("written");
    to
}

fn refused(folder: &tempfile::TempDir) -> String {
    match Model::load(&at(folder.path()), None) {
        Ok(_) => panic!("a model was loaded"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn tensors_that_do_not_agree_are_named() {
    let layer = "model.layers.1.self_attn.q_proj";
    let without = |name: &str, part: &str| {
        let gone = format!("{layer}.{part}");
        refused(&changed(name, |tensors| tensors.retain(|(name, ..)| *name != gone)))
    };
    assert!(without("gptq", "scales").contains(&format!("{layer}.scales")));
    assert!(without("ct-4", "weight_scale").contains(&format!("{layer}.weight_scale")));
    let with = |name: &str, part: &str, f: &dyn Fn(&mut Vec<usize>, &mut Vec<u8>)| {
        let changed = changed(name, |tensors| {
            let of = tensors.iter_mut().find(|(name, ..)| *name == format!("{layer}.{part}")).expect("the tensor");
            f(&mut of.2, &mut of.3);
        });
        refused(&changed)
    };
    // A row less.
    let shorter = |shape: &mut Vec<usize>, bytes: &mut Vec<u8>| {
        let row = bytes.len() / shape[0];
        shape[0] -= 1;
        bytes.truncate(row * shape[0]);
    };
    for (name, part) in
        [("gptq", "qzeros"), ("gptq", "g_idx"), ("awq", "scales"), ("awq", "qzeros"), ("ct-4", "weight_scale")]
    {
        let said = with(name, part, &shorter);
        assert!(said.contains(layer) && said.contains("found") || said.contains("scales of"), "{name} {part}: {said}");
    }
    let said = with("gptq-order", "g_idx", &|_, bytes| bytes[..4].copy_from_slice(&7_i32.to_le_bytes()));
    assert!(said.contains("group 7 of a column, but there are 2"), "{said}");
    let said = with("ct-4", "weight_shape", &|_, bytes| bytes[8..].copy_from_slice(&(1_i64 << 40).to_le_bytes()));
    assert!(said.contains("weight_shape"), "{said}");
}

#[test]
fn forms_that_are_not_read_are_refused_with_what_can_be_done() {
    for (what, found) in [
        (r#"{"quant_method": "bitsandbytes", "load_in_4bit": true}"#, "`bitsandbytes`"),
        (r#"{"quant_method": "fp8", "weight_block_size": [0, 128]}"#, "`weight_block_size`"),
        (r#"{"quant_method": "gptq", "bits": 3}"#, "GPTQ weights of 3 bits"),
        (r#"{"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}"#, "`marlin`"),
        (r#"{"quant_method": "awq", "bits": 4, "version": "gemv"}"#, "`gemv`"),
        (r#"{"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}"#, "`nvfp4-pack-quantized`"),
        (r#"{"quant_method": "compressed-tensors", "quantization_status": "frozen"}"#, "`frozen`"),
        ("7", "`unknown`"),
    ] {
        let to = tempfile::tempdir().expect("a folder");
        let text = std::fs::read_to_string(folder("gptq").join("config.json")).expect("a golden");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        config["quantization_config"] = serde_json::from_str(what).expect("JSON");
        std::fs::write(to.path().join("config.json"), config.to_string()).expect("written");
        std::fs::copy(folder("gptq").join("model.safetensors"), to.path().join("model.safetensors")).expect("copied");
        let said = refused(&to);
        assert!(said.contains(found) && said.contains("GGUF"), "{what}: {said}");
    }
}

/// Older GPTQ checkpoints have their sizes in a file of their own.
#[test]
fn the_sizes_may_be_in_a_file_of_their_own() {
    let to = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(folder("gptq").join("config.json")).expect("a golden");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    config.as_object_mut().expect("fields").remove("quantization_config");
    std::fs::write(to.path().join("config.json"), config.to_string()).expect("written");
    std::fs::write(to.path().join("quantize_config.json"), r#"{"bits": 4, "group_size": 32, "desc_act": false}"#)
        .expect("written");
    std::fs::copy(folder("gptq").join("model.safetensors"), to.path().join("model.safetensors")).expect("copied");
    let golden = golden("gptq");
    let model = Model::load(&at(to.path()), Some(DType::F32)).expect("a model");
    let want = golden.floats("logits").1;
    tolerance::assert_close("logits", &logits(&model, &golden), &want, tolerance::LOGITS);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, rng_seed: RngSeed::Fixed(11), failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes of codes, zero points, scales and orders, and any shapes, are read or refused.
    #[test]
    fn hostile_tensors_are_read_or_refused(kind in 0..NAMES.len(), which in 0usize..200, seed in any::<u64>(), reshape in any::<bool>()) {
        let name = NAMES[kind].0;
        let folder = changed(name, |tensors| {
            let n = tensors.len();
            let (_, dtype, shape, bytes) = &mut tensors[which % n];
            if reshape && !shape.is_empty() {
                // The same bytes in other shapes.
                let all: usize = shape.iter().product();
                *shape = match seed % 3 {
                    0 => vec![all],
                    1 => shape.iter().rev().copied().collect(),
                    _ => vec![1, all],
                };
            } else {
                let mut x = seed | 1;
                for byte in bytes.iter_mut() {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    *byte ^= (x >> 56) as u8;
                }
            }
            let _ = dtype;
        });
        for dtype in [None, Some(DType::F32)] {
            let _ = Model::load(&at(folder.path()), dtype);
        }
    }
}
