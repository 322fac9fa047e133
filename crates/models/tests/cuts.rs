//! The bits of a text are a function of its tokens: not of the calls in which it is read, of the sequences beside it, or of
//! the number of threads.

use std::sync::Arc;

use burn::tensor::Device;
use longreach_models::Model;
use longreach_nn::{Cache, Calls, KvDtype};

mod exact;

use exact::{Bits, bits, decoders, load, state, text};

/// Mixers with sizes that differ from the defaults.
const MIXERS: &[&str] = &[
    r#""dense""#,
    r#""window", "window": 6"#,
    r#""window", "window": 90"#,
    r#""window", "window": 64"#,
    r#""window", "window": 400"#,
    r#""infllm_v2", "kernel": 4, "stride": 2, "block": 4, "window": 4, "top": 3, "dense_below": 9, "num_kv_heads": 1"#,
    r#""infllm_v2", "kernel": 3, "stride": 2, "block": 2, "window": 0, "top": 3, "dense_below": 0, "unrotated": true"#,
    r#""linear_attention""#,
    r#""linear_attention", "feature_map": "exp", "normalize": false, "num_kv_heads": 1"#,
    r#""linear_attention", "feature_map": "hedgehog""#,
    r#""based""#,
    r#""performer""#,
    r#""cosformer", "max_position_embeddings": 1000"#,
    r#""retention", "num_kv_heads": 1"#,
    r#""lightning""#,
    r#""gla", "conv_size": 3"#,
    r#""hgrn2""#,
    r#""delta_rule""#,
    r#""gated_delta", "num_kv_heads": 1"#,
    r#""kda", "conv_size": 0"#,
    r#""rwkv4""#,
    r#""rwkv5""#,
    r#""rwkv6", "key_dim": 6"#,
    r#""rwkv7""#,
    r#""rg_lru""#,
    r#""infini", "segment": 5"#,
    r#""infini", "segment": 64"#,
    r#""infini", "segment": 100, "delta": false, "num_kv_heads": 1, "rotary": false"#,
    r#""infini", "segment": 300"#,
    r#""transformer_xl", "memory": 90"#,
    r#""compressive", "segment": 4, "memory": 6, "compressed": 3, "rate": 2"#,
    r#""gated_conv", "conv_size": 4, "bias": true"#,
    r#""mamba""#,
    r#""mamba2""#,
];

fn config(mixer: &str) -> String {
    format!(
        r#"{{"model_type": "longreach", "vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "head_dim": 12, "mixer": {{"type": {mixer}}}}}"#
    )
}

fn mixed(mixer: &str) -> Model {
    Model::random("config.json", &config(mixer), 7, &Device::flex()).expect("a model").prepared()
}

/// Reads a text in the calls of the model, of at most `most` tokens; returns the logits of every token and the state.
fn read(model: &Model, ids: &[u32], start: Cache, most: usize) -> (Bits, Cache) {
    let (mut cache, mut all) = (start, Vec::new());
    for call in model.decoder.cut().calls(0..ids.len(), most) {
        all.extend(bits(model.decoder.logits(model.decoder.forward(&ids[call], &mut cache, None))));
    }
    (all, cache)
}

#[track_caller]
fn same(what: &str, want: &(Bits, Cache), got: &(Bits, Cache)) {
    assert!(want.0 == got.0, "{what}: the logits");
    for ((part, want), (_, got)) in state(&want.1).iter().zip(&state(&got.1)) {
        assert!(want == got, "{what}: the state {part}");
    }
}

/// A text of about `n` tokens with a rest behind the last multiple, read in calls of three lengths.
fn divide(name: &str, model: &Model, n: usize, keys: KvDtype) {
    let longest = model.decoder.longest().unwrap_or(usize::MAX);
    let n = n.min(longest);
    let start = || model.decoder.start(1).with_keys_in(keys);
    let ids = text(model, n);
    let want = read(model, &ids, start(), 512);
    for most in [64, 192] {
        same(&format!("{name}, {n} tokens in calls of {most}"), &want, &read(model, &ids, start(), most));
    }
}

#[test]
fn mixers_read_a_text_with_the_same_bits_in_any_calls() {
    for mixer in MIXERS {
        divide(mixer, &mixed(mixer), 677, KvDtype::F32);
    }
    divide("dense, keys in bf16", &mixed(r#""dense""#), 677, KvDtype::Bf16);
    divide("window, keys in bf16", &mixed(r#""window", "window": 90"#), 677, KvDtype::Bf16);
}

#[test]
fn models_read_a_text_with_the_same_bits_in_any_calls() {
    let mut divided = 0;
    for folder in decoders() {
        let model = load(&folder, None);
        if model.decoder.cut().calls != Calls::Each {
            divide(&folder.display().to_string(), &model, 229, KvDtype::F32);
            divided += 1;
        }
    }
    assert!(divided > 90, "{divided} models");
}
