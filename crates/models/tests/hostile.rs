//! Hostile files: whatever the bytes, loading ends in a model or an error that names the file, and never panics.

use std::path::Path;

use burn::tensor::Device;
use bytes::Bytes;
use longreach_gguf::Gguf;
use longreach_models::{Checkpoint, Description, EncoderModel, Fields, Location, Model};
use longreach_nn::{Builder, Reading};
use longreach_testkit::fuzz;
use proptest::prelude::*;

fn golden(file: &str) -> Vec<u8> {
    of_type("mamba2-a", file)
}

fn of_type(folder: &str, file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(folder).join(file))
        .expect("a golden")
}

/// A golden directory per model type, whose configurations together cover as many fields as possible.
const FOLDERS: &[&str] = &[
    "mamba2-a",
    "mamba-b",
    "falcon_mamba-b",
    "rwkv-b",
    "rwkv6-b",
    "rwkv7-b",
    "retnet-b",
    "linear_attn-b",
    "gla-b",
    "hgrn2-b",
    "delta_net-b",
    "gated_deltanet-b",
    "kda-b",
    "transfo-xl-b",
    "minicpm-b",
    "minicpm_sala-b",
];

/// The same for encoders.
const ENCODERS: &[&str] = &[
    "bert-masked-lm-b",
    "roberta-sequence-b",
    "distilbert-question-a",
    "modernbert-sequence-b",
    "longformer-token-b",
    "big_bird-base-b",
    "big_bird-question-b",
    "nystromformer-base-b",
    "reformer-base-b",
    "reformer-causal-a",
    "gpt2-sequence-a",
];

/// Tries to build an encoder with the configuration from the checkpoint and to read a text.
fn encode(config: &str, folder: &str) -> Result<(), String> {
    let at = tempfile::tempdir().expect("a directory");
    std::fs::write(at.path().join("config.json"), config).expect("written");
    let weights = of_type(&format!("encoders/{folder}"), "model.safetensors");
    std::fs::write(at.path().join("model.safetensors"), weights).expect("written");
    let model = EncoderModel::load(&Location { directory: at.path().into(), weights: None }, None);
    let model = model.map_err(|e| e.to_string())?;
    for n in [1, 40] {
        if model.description.longest.is_none_or(|longest| n <= longest) {
            let ids: Vec<u32> = (0..n as u32).map(|i| i % 7).collect();
            model.forward(&Reading::one(&ids));
        }
    }
    Ok(())
}

/// GGUF files of most architectures.
const GGUF: &[&str] = &[
    "llama-b",
    "mixtral-a",
    "phi3-b",
    "olmo3-a",
    "gpt_oss-mxfp4",
    "gemma3_text-g",
    "gemma4_text-g",
    "mamba-a",
    "mamba2-q5_0",
    "jamba-a",
    "falcon_h1-c",
    "granitemoehybrid-c",
    "bamba-a",
    "nemotron_h-g",
    "lfm2_moe-g",
    "qwen3_next-a",
    "qwen3_5_text-a",
    "kimi_linear-g",
    "minimax-g",
    "rwkv6-g",
    "rwkv7-a",
    "gpt2-a",
    "gpt_neox-g",
    "bert-base-a",
    "modernbert-base-a-legacy",
    "nomic_bert-base-a-legacy",
];

/// Tries to load a model or an encoder from a GGUF file, and to read a token.
fn load_gguf(bytes: Vec<u8>) -> Result<(), String> {
    let gguf = Gguf::from_bytes("model.gguf", Bytes::from(bytes)).map_err(|e| e.to_string())?;
    match Model::of_gguf(&gguf, None) {
        Ok(model) => drop(model.decoder.forward(&[0], &mut model.decoder.start(1), None)),
        Err(e) if e.to_string().contains("is an encoder") => {
            let model = EncoderModel::of_gguf(&gguf, None, &Device::flex()).map_err(|e| e.to_string())?;
            if model.description.longest.is_none_or(|longest| longest > 0) {
                model.forward(&Reading::one(&[0]));
            }
        }
        Err(e) => return Err(e.to_string()),
    }
    Ok(())
}

/// Tries to build a model with the configuration from the checkpoint and to read a token.
fn load(config: &str, weights: Vec<u8>) -> Result<(), String> {
    let description = Fields::parse("config.json", config).and_then(|f| Description::of(&f));
    let description = description.map_err(|e| e.to_string())?;
    let mut checkpoint = Checkpoint::from_bytes("weights", Bytes::from(weights)).map_err(|e| e.to_string())?;
    let decoder = description.build(&mut Builder::new(&mut checkpoint, &Device::flex())).map_err(|e| e.to_string())?;
    // A model that loads must also run.
    decoder.forward(&[0], &mut decoder.start(1), None);
    Ok(())
}

proptest! {
    #![proptest_config(fuzz::config(400))]

    #[test]
    fn any_bytes_as_a_checkpoint(bytes in proptest::collection::vec(any::<u8>(), 0..300), length in 0u64..400) {
        let config = String::from_utf8(golden("config.json")).expect("text");
        prop_assert!(load(&config, bytes.clone()).expect_err("no checkpoint").contains("weights"));
        let with_length = [&length.to_le_bytes()[..], &bytes].concat();
        prop_assert!(load(&config, with_length).is_err());
    }

    #[test]
    fn a_checkpoint_with_bytes_changed(at in 0usize..4000, to in any::<u8>(), cut in 0usize..200_000) {
        let config = String::from_utf8(golden("config.json")).expect("text");
        let mut weights = golden("model.safetensors");
        let end = weights.len();
        weights[at % end] = to;
        weights.truncate(end - cut.min(end) * (cut % 2));
        if let Err(message) = load(&config, weights) {
            prop_assert!(message.contains("weights"), "{}", message);
        }
    }

    #[test]
    fn a_pickle_with_bytes_changed(at in 0usize..9000, to in any::<u8>(), cut in 0usize..110_000) {
        let mut bytes = of_type("transfo-xl-b-pickle", "pytorch_model.bin");
        let end = bytes.len();
        bytes[at % end] = to;
        bytes.truncate(end - cut.min(end) * (cut % 2));
        let folder = tempfile::tempdir().expect("a directory");
        std::fs::write(folder.path().join("pytorch_model.bin"), bytes).expect("written");
        let config = String::from_utf8(of_type("transfo-xl-b-pickle", "config.json")).expect("text");
        let description = Fields::parse("config.json", &config).and_then(|f| Description::of(&f)).expect("a description");
        let built = Checkpoint::open(folder.path()).map_err(|e| e.to_string()).and_then(|mut checkpoint| {
            description.build(&mut Builder::new(&mut checkpoint, &Device::flex())).map_err(|e| e.to_string())
        });
        if let Err(message) = built {
            prop_assert!(message.contains("pytorch_model.bin"), "{}", message);
        }
    }

    #[test]
    fn a_gguf_file_with_bytes_changed(file in 0..GGUF.len(), changes in proptest::collection::vec((0usize..7000, any::<u8>()), 1..4), cut in 0usize..50_000) {
        let mut bytes = of_type("gguf", &format!("{}.gguf", GGUF[file]));
        let end = bytes.len();
        for (at, to) in changes {
            bytes[at % end] = to;
        }
        bytes.truncate(end - if cut % 4 == 0 { cut.min(end) } else { 0 });
        if let Err(message) = load_gguf(bytes) {
            prop_assert!(message.contains("model.gguf"), "{}", message);
        }
    }

    #[test]
    fn a_gguf_file_with_a_number_changed(file in 0..GGUF.len(), at in 0usize..3000, to in prop_oneof![
        Just(0u32), Just(1), Just(2), Just(3), Just(7), Just(64), Just(1000), Just(1 << 20), Just(1 << 28), Just(u32::MAX),
        Just(f32::NAN.to_bits()), Just(f32::INFINITY.to_bits()), any::<u32>(),
    ]) {
        let mut bytes = of_type("gguf", &format!("{}.gguf", GGUF[file]));
        // Values of 32 bits lie behind their keys and the number of their type.
        let keys: Vec<usize> = (24..bytes.len().min(4000) - 8)
            .filter(|at| [4u32, 5, 6].contains(&u32::from_le_bytes(bytes[*at..at + 4].try_into().expect("4 bytes"))))
            .collect();
        let at = keys[at % keys.len()] + 4;
        bytes[at..at + 4].copy_from_slice(&to.to_le_bytes());
        if let Err(message) = load_gguf(bytes) {
            prop_assert!(message.contains("model.gguf"), "{}", message);
        }
    }

    #[test]
    fn a_configuration_with_bytes_changed(at in 0usize..4000, to in any::<u8>(), much in proptest::collection::vec(any::<u8>(), 0..20)) {
        let mut config = golden("config.json");
        let at = at % config.len();
        config[at] = to;
        config.splice(at..at, much);
        if let Ok(config) = String::from_utf8(config)
            && let Err(message) = load(&config, golden("model.safetensors"))
        {
            prop_assert!(message.contains("config.json") || message.contains("weights"), "{}", message);
        }
    }

    #[test]
    fn a_configuration_with_a_field_changed(folder in 0..FOLDERS.len(), field in 0usize..64, value in prop_oneof![
        Just("null".to_owned()), Just("true".into()), Just("[]".into()), Just("{}".into()), Just("\"x\"".into()),
        Just("-1".into()), Just("0".into()), Just("1e300".into()), Just("18446744073709551615".into()),
        any::<i64>().prop_map(|n| n.to_string()), any::<f64>().prop_map(|x| format!("{x:?}")),
    ]) {
        let config = String::from_utf8(of_type(FOLDERS[folder], "config.json")).expect("text");
        let mut lines: Vec<String> = config.lines().map(str::to_owned).collect();
        let at = field % lines.len();
        if let Some((name, _)) = lines[at].split_once(": ") {
            lines[at] = format!("{name}: {value},");
            if let Err(message) = load(&lines.join("\n"), of_type(FOLDERS[folder], "model.safetensors")) {
                prop_assert!(message.contains("config.json") || message.contains("weights"), "{}", message);
            }
        }
    }

    #[test]
    fn an_encoders_configuration_with_a_field_changed(folder in 0..ENCODERS.len(), field in 0usize..64, value in prop_oneof![
        Just("null".to_owned()), Just("true".into()), Just("[]".into()), Just("{}".into()), Just("\"x\"".into()),
        Just("-1".into()), Just("0".into()), Just("1".into()), Just("3".into()), Just("1e300".into()),
        Just("18446744073709551615".into()), Just("268435456".into()), Just("4294967295".into()),
        any::<i64>().prop_map(|n| n.to_string()), any::<f64>().prop_map(|x| format!("{x:?}")),
    ]) {
        let config = of_type(&format!("encoders/{}", ENCODERS[folder]), "config.json");
        let config = String::from_utf8(config).expect("text");
        let mut lines: Vec<String> = config.lines().map(str::to_owned).collect();
        let at = field % lines.len();
        if let Some((name, _)) = lines[at].split_once(": ") {
            lines[at] = format!("{name}: {value},");
            if let Err(message) = encode(&lines.join("\n"), ENCODERS[folder]) {
                let named = ["config.json", "model.safetensors", "model", "encoder"];
                prop_assert!(named.iter().any(|part| message.contains(part)), "{}", message);
            }
        }
    }
}
