//! GGUF files that llama.cpp's converter made of the goldens: their logits are those of the reference library.

use std::path::PathBuf;

use burn::tensor::Tensor;
use longreach_models::{DType, EncoderModel, Location, Model};
use longreach_nn::Reading;
use longreach_testkit::goldens::Golden;
use longreach_testkit::tolerance;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn load(file: &str, dtype: Option<DType>) -> Model {
    let file = folder().join("gguf").join(file);
    Model::load(&Location { directory: folder(), weights: Some(file) }, dtype).expect("a golden file")
}

/// The logits `[B, T, vocabulary]` of `[B, T]` ids, read at once or token by token.
fn logits(model: &Model, shape: &[usize], ids: &[i64], steps: bool) -> Vec<f64> {
    let [batch, t] = shape[..] else { panic!("ids [B, T]") };
    let ids: Vec<u32> = ids.iter().map(|id| u32::try_from(*id).expect("an id")).collect();
    let mut cache = model.decoder.start(batch);
    let piece = if steps { 1 } else { t };
    let hidden: Vec<Tensor<3>> = (0..t)
        .step_by(piece)
        .map(|from| {
            let part: Vec<u32> = ids.chunks(t).flat_map(|row| &row[from..from + piece]).copied().collect();
            model.decoder.forward(&part, &mut cache, None)
        })
        .collect();
    model.decoder.logits(Tensor::cat(hidden, 1)).into_data().iter::<f64>().collect()
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let error = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
    assert!(error <= tolerance::LOGITS, "{what}: error {error:.1e}");
}

/// The files, each of which has the name of the golden that it was made of.
const FILES: &[&str] = &[
    "llama-a",
    "llama-b",
    "minicpm-c",
    "mistral-b",
    "mixtral-a",
    "qwen2-a",
    "qwen3-a",
    "smollm3-a",
    "phi3-a",
    "phi3-b",
    "olmo2-a",
    "olmo3-a",
    "olmo3-b",
    "gpt_oss-mxfp4",
    "gemma4_text-a",
    "falcon_h1-a",
    "falcon_h1-c",
    "granitemoehybrid-a",
    "granitemoehybrid-c",
    "jamba-a",
    "lfm2-a",
    "mamba-a",
    "nemotron_h-a",
    "qwen3_next-a",
    "qwen3_5_text-a",
    "qwen3_5-a",
    "qwen3_5_moe-a",
    "gpt2-a",
    "falcon_mamba-a",
    "bamba-a",
    "rwkv7-a",
];

/// The files made for GGUF alone, with what the reference library computes from the file's decoded weights beside them.
/// Some have blocks: Q4_0, Q5_0, Q8_0, K-quants, and a mixture.
const BESIDE: &[&str] = &[
    "gemma2-g",
    "gemma3_text-g",
    "gpt_oss-g",
    "lfm2_moe-g",
    "mamba2-g",
    "qwen3_moe-g",
    "llama-q8_0",
    "llama-k",
    "llama-mixed",
    "qwen3_moe-q4_0",
    "mamba2-q5_0",
    "nemotron_h-g",
    "kimi_linear-g",
    "minimax-g",
    "granite-g",
    "granitemoe-g",
    "gpt_neox-g",
    "gemma4_text-g",
    "rwkv6-g",
];

/// Compares the logits of one file with those of the golden, read at once and token by token.
#[track_caller]
fn logits_are(file: &str, golden: &Golden) {
    // Blocks in place round what they are multiplied by.
    let model = load(&format!("{file}.gguf"), Some(DType::F32));
    assert!(model.notes().is_empty(), "{file}: {:?}", model.notes());
    let (shape, ids) = golden.integers("input_ids");
    let (_, want) = golden.floats("logits");
    // The frequencies of phi3-b depend on the length of what is read.
    let paths = if file == "phi3-b" { &[false][..] } else { &[false, true] };
    for &steps in paths {
        close(&format!("{file}, steps: {steps}"), &logits(&model, &shape, &ids, steps), &want);
    }
}

#[test]
fn logits_are_those_of_the_checkpoint() {
    for file in FILES {
        logits_are(file, &Golden::read(folder().join(file).join("expected.safetensors")));
    }
}

#[test]
fn logits_are_those_of_the_decoded_weights() {
    for file in BESIDE {
        logits_are(file, &Golden::read(folder().join("gguf").join(format!("{file}.safetensors"))));
    }
}

#[test]
fn a_split_file_is_the_whole() {
    let golden = Golden::read(folder().join("llama-a/expected.safetensors"));
    let (shape, ids) = golden.integers("input_ids");
    let of = |file: &str| logits(&load(file, None), &shape, &ids, false);
    let whole = of("llama-a.gguf");
    assert_eq!(whole, of("llama-a-split-00001-of-00003.gguf"));
    assert_eq!(whole, of("llama-a-split-00003-of-00003.gguf"));
}

/// The files of encoders, each of which has the name of the golden that it was made of.
const ENCODERS: &[&str] =
    &["bert-base-a", "roberta-base-a", "distilbert-base-a", "modernbert-base-a-legacy", "nomic_bert-base-a-legacy"];

#[test]
fn hidden_states_of_encoders_are_those_of_the_checkpoint() {
    for name in ENCODERS {
        let at = Location { directory: folder(), weights: Some(folder().join(format!("gguf/{name}.gguf"))) };
        assert!(EncoderModel::is_at(&at).expect("a golden file"), "{name}");
        let model = EncoderModel::load(&at, None).expect("a golden file");
        let notes = model.notes(|_| false);
        assert!(notes.is_empty(), "{name}: {notes:?}");
        let golden = Golden::read(folder().join("encoders").join(name).join("expected.safetensors"));
        // Those without padding.
        for case in ["c0", "c2"] {
            let (_, ids) = golden.integers(&format!("{case}.input_ids"));
            let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
            let hidden = model.forward(&Reading::one(&ids)).hidden.into_data().iter::<f64>().collect::<Vec<_>>();
            let (_, want) = golden.floats(&format!("{case}.last_hidden_state"));
            close(&format!("{name}, {case}"), &hidden, &want);
        }
    }
}

#[test]
fn an_encoder_writes_no_text() {
    let file = folder().join("gguf/bert-base-a.gguf");
    let error = Model::load(&Location { directory: folder(), weights: Some(file) }, None).expect_err("an encoder");
    assert!(error.to_string().contains("architecture `bert` is an encoder"), "{error}");
}

#[test]
fn the_readme_lists_every_architecture() {
    let readme = std::fs::read_to_string(folder().join("../../../../README.md")).expect("the README");
    let missing: Vec<&str> =
        longreach_models::gguf::architectures().filter(|name| !readme.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
