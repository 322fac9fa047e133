//! MiniCPM: what a configuration may say of its sparse attention, and what a text sees of it.

use burn::tensor::Device;
use longreach_models::{Description, Fields, Model};
use longreach_nn::mixers::MixerConfig;

/// A configuration of a small model with further fields.
fn config(model_type: &str, more: &str) -> String {
    format!(
        r#"{{"model_type": "{model_type}", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, {more}}}"#
    )
}

fn describe(config: &str) -> Result<Description, longreach_models::Error> {
    Description::of(&Fields::parse("config.json", config).expect("JSON"))
}

#[test]
fn settings_that_contradict_each_other_are_refused_by_name() {
    let sala = |more: &str| config("minicpm_sala", more);
    let sparse = |more: &str| config("minicpm", &format!(r#""sparse_config": {more}"#));
    for (config, parts) in [
        (
            sparse(r#"{"kernel_size": 8}"#),
            &["`sparse_config.kernel_size`", "at least kernel_stride, 16", "found 8"][..],
        ),
        (
            sparse(r#"{"block_size": 40}"#),
            &["`sparse_config.block_size`", "a multiple of kernel_stride, 16", "found 40"],
        ),
        (sparse(r#"{"topk": 2, "init_blocks": 2}"#), &["`sparse_config.topk`", "more than init_blocks, 2", "found 2"]),
        (sparse(r#"{"topk": 0}"#), &["`topk`", "a positive integer"]),
        (sparse("[{}, {}]"), &["`sparse_config`: want one object"]),
        (sparse("8192"), &["`sparse_config`"]),
        (config("minicpm", r#""dim_model_base": 0"#), &["`dim_model_base`", "above 0"]),
        (config("minicpm", r#""num_experts": 8"#), &["`num_experts`", "not supported"]),
        (sala(r#""qk_norm": true"#), &["`mixer_types` is missing", "lightning-attn"]),
        (sala(r#""mixer_types": ["minicpm4"]"#), &["`mixer_types`", "want 2 entries", "found 1"]),
        (sala(r#""mixer_types": ["minicpm4", "mamba"]"#), &["`mixer_types`", "lightning-attn", "mamba"]),
        (
            sala(r#""mixer_types": ["minicpm4", "minicpm4"], "lightning_scale": "d""#),
            &["`lightning_scale`", "1/sqrt(d), 1/d or 1"],
        ),
        (sala(r#""mixer_types": ["minicpm4", "lightning"], "lightning_nkv": 3"#), &["`lightning_nkv`", "4", "3"]),
    ] {
        let error = describe(&config).map(|_| ()).expect_err("refused").to_string();
        for part in parts.iter().chain(&["config.json"]) {
            assert!(error.contains(part), "{config}: {error}, without {part}");
        }
    }
}

/// The mechanisms of the layers.
fn mechanisms(config: &str) -> Vec<&'static str> {
    let description = describe(config).expect("a model");
    description.decoder.blocks.iter().flat_map(|block| block.mixers()).map(MixerConfig::mechanism).collect()
}

#[test]
fn attention_is_sparse_where_the_file_says_so() {
    assert_eq!(mechanisms(&config("minicpm", r#""scale_depth": 1.4"#)), ["dense", "dense"]);
    assert_eq!(mechanisms(&config("minicpm", r#""sparse_config": null"#)), ["dense", "dense"]);
    assert_eq!(mechanisms(&config("minicpm", r#""sparse_config": {}"#)), ["infllm_v2", "infllm_v2"]);
    let mixers = r#""mixer_types": ["lightning-attn", "minicpm4"]"#;
    assert_eq!(mechanisms(&config("minicpm_sala", mixers)), ["lightning", "dense"]);
    let sparse = format!(r#"{mixers}, "sparse_config": {{"dense_len": -1}}"#);
    assert_eq!(mechanisms(&config("minicpm_sala", &sparse)), ["lightning", "infllm_v2"]);
}

/// transformers 5 writes positions in another way than the files on the Hub.
#[test]
fn older_spellings_mean_the_same() {
    let factors =
        r#""short_factor": [1.0, 1.1, 1.2], "long_factor": [1.0, 2.0, 3.0], "original_max_position_embeddings": 16"#;
    for (older, newer) in [
        (
            r#""rope_theta": 500.0"#.to_owned(),
            r#""rope_parameters": {"rope_type": "default", "rope_theta": 500.0}"#.to_owned(),
        ),
        (
            r#""rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}"#.to_owned(),
            r#""rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}"#.to_owned(),
        ),
        (
            format!(r#""rope_theta": 500.0, "rope_scaling": {{"rope_type": "longrope", {factors}}}"#),
            format!(r#""rope_parameters": {{"rope_type": "longrope", "rope_theta": 500.0, {factors}}}"#),
        ),
    ] {
        let [older, newer] = [older, newer].map(|more| describe(&config("minicpm", &more)).expect("a model"));
        assert_eq!(older, newer);
    }
}

/// A factor that is null, unlike one that is absent, is no factor.
#[test]
fn factors_that_are_null_are_one() {
    let factors = |more: &str| {
        let d = describe(&config("minicpm", more)).expect("a model").decoder;
        [d.embedding_scale, d.blocks[0].branches[0].scale, d.logits_scale]
    };
    let usual = factors(r#""tie_word_embeddings": true"#);
    assert_eq!(usual, [12.0, (1.4 / 2f64.sqrt()) as f32, (256.0 / 24.0) as f32]);
    assert_eq!(factors(r#""scale_depth": null, "dim_model_base": null"#), [12.0, 1.0, 1.0]);
}

/// Below the dense length a sparse model is the dense one bit for bit, and from there on it is another.
#[test]
fn a_text_is_dense_below_the_dense_length() {
    let sparse = r#""sparse_config": {"kernel_size": 4, "kernel_stride": 2, "block_size": 4, "window_size": 4, "topk": 3,
        "dense_len": 30}"#;
    let [dense, sparse] = [r#""use_cache": true"#, sparse].map(|more| {
        let model = Model::random("config.json", &config("minicpm", more), 7, &Device::flex()).expect("a model");
        let mut cache = model.decoder.start(1);
        let read = |id: u32| -> Vec<f32> {
            model.decoder.forward(&[id * id * 11 % 40], &mut cache, None).into_data().iter::<f32>().collect()
        };
        (0..60).map(read).collect::<Vec<_>>()
    });
    let apart = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-3;
    let first = dense.iter().zip(&sparse).position(|(dense, sparse)| dense.iter().zip(sparse).any(apart));
    assert_eq!(first, Some(29));
    assert_eq!(dense[..29], sparse[..29]);
}
