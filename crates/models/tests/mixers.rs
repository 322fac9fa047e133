//! Every mixer and every shape of block: reading at once, in chunks and token by token agree, the sequences of a
//! batch are independent, padding has no effect on the state, and a saved state restores bit for bit.

use std::sync::Arc;

#[path = "mixers/gradients.rs"]
mod gradients;

use burn::tensor::{Device, Tensor};
use half::bf16;
use longreach_models::Model;
use longreach_nn::{Cache, KvDtype, StateError, StateTensor};
use longreach_simd::Cx;
use longreach_testkit::{MIXERS, tolerance};

/// Blocks that are not a pre-norm mixer followed by a pre-norm feed-forward layer.
const BLOCKS: &[&str] = &[
    // Gemma: norms before and after, norm weights plus 1, scaled embeddings, soft-capped logits.
    r#""norm": "rms_plus_one", "embedding_scale": 4.9, "logits_cap": 3.0, "blocks": [
        {"branches": [{"mixer": {"type": "window", "window": 6}, "norm_after": "rms_plus_one"},
                      {"feed_forward": {"intermediate_size": 40, "activation": "gelu_new"}, "norm_after": "rms_plus_one"}]},
        {"branches": [{"mixer": "dense", "norm_after": "rms_plus_one"}, {"feed_forward": 40, "norm_after": "rms"}]}]"#,
    // Falcon-H1: attention parallel to Mamba-2.
    r#""logits_scale": 0.5, "blocks": [
        {"branches": [{"parallel": [{"mixer": "dense", "scale": 0.3}, {"mixer": "mamba2", "scale": 1.7}]}, {"feed_forward": 40}]}]"#,
    // GPT-NeoX: attention parallel to the feed-forward layer, each with its own norm.
    r#""norm": "layer", "blocks": [
        {"branches": [{"norm": "none", "parallel": [{"mixer": "dense", "norm": "layer"},
                                                    {"feed_forward": {"intermediate_size": 40, "gated": false}, "norm": "layer"}]}]}]"#,
    // Nemotron-H: each layer is either a mixer or a feed-forward layer.
    r#""blocks": [
        {"branches": [{"mixer": "mamba2"}]},
        {"branches": [{"feed_forward": {"intermediate_size": 40, "activation": "relu", "gated": false}}]},
        {"branches": [{"mixer": "dense"}]}]"#,
    // Mixtures of experts, with scaled residual branches.
    r#""blocks": [
        {"branches": [{"mixer": "gated_delta", "scale": 0.7}, {"experts": {"count": 5, "chosen": 2, "intermediate_size": 16}, "scale": 0.7}]},
        {"branches": [{"mixer": "dense"}, {"experts": {"count": 3, "chosen": 1, "intermediate_size": 16, "normalize": false}}]}]"#,
    // Norms of the sum, and two mixers in one block.
    r#""blocks": [
        {"branches": [{"mixer": "rwkv6", "norm_of_sum": "layer"}, {"mixer": "dense", "norm_of_sum": "layer"},
                      {"feed_forward": 40, "norm_of_sum": "layer"}]}]"#,
    // Layers that share weights but have states of their own.
    r#""blocks": [
        {"branches": [{"mixer": "dense"}, {"feed_forward": 40}]},
        {"branches": [{"mixer": "mamba"}]},
        {"shares": 0}]"#,
];

/// Model types whose layers read more than the residual stream, or cache something else than keys and values.
const TYPES: &[&str] = &[
    // Layers that use the keys of others, embeddings for each layer, values that are keys, experts beside a feed-forward layer.
    r#""model_type": "gemma4_text", "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 6,
       "global_head_dim": 12, "sliding_window": 6, "hidden_size_per_layer_input": 5, "vocab_size_per_layer_input": 40,
       "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"], "num_kv_shared_layers": 2,
       "attention_k_eq_v": true, "enable_moe_block": true, "num_experts": 4, "top_k_experts": 3, "moe_intermediate_size": 8"#,
    // A cache of latent vectors.
    r#""model_type": "kimi_linear", "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
       "kv_lora_rank": 14, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 8, "num_experts": 4,
       "num_experts_per_token": 2, "moe_intermediate_size": 8, "linear_head_dim": 8, "linear_num_heads": 2,
       "layer_types": ["full_attention", "linear_attention"]"#,
    // Lightning attention with grouped heads and positions, and sparse attention with a gate.
    r#""model_type": "minicpm_sala", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
       "mixer_types": ["lightning", "minicpm4"], "attn_use_rope": true,
       "sparse_config": {"kernel_size": 4, "kernel_stride": 2, "block_size": 4, "window_size": 4, "topk": 3, "dense_len": 8}"#,
];

const TOKENS: usize = 23;

fn random(shape: &str) -> Result<Model, longreach_models::Error> {
    random_on(shape, &Device::flex())
}

fn random_on(shape: &str, device: &Device) -> Result<Model, longreach_models::Error> {
    let config = format!(
        r#"{{"model_type": "longreach", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 3, "head_dim": 12, {shape}}}"#
    );
    Model::random("config.json", &config, 7, device)
}

/// A model for every mixer and every shape of block.
fn models() -> impl Iterator<Item = (String, Model)> {
    models_on(Device::flex())
}

fn models_on(device: Device) -> impl Iterator<Item = (String, Model)> {
    let of_types = device.clone();
    let mixers = MIXERS.iter().map(|mixer| format!(r#""mixer": {{"type": {mixer}}}"#));
    let ours = mixers.chain(BLOCKS.iter().map(|blocks| (*blocks).to_owned())).map(move |shape| {
        let model = random_on(&shape, &device).expect("a model");
        (shape, model)
    });
    ours.chain(TYPES.iter().map(move |fields| {
        let config = format!(r#"{{"vocab_size": 40, "hidden_size": 24, "intermediate_size": 40, {fields}}}"#);
        ((*fields).to_owned(), Model::random("config.json", &config, 7, &of_types).expect("a model"))
    }))
}

fn rows(n: usize) -> Vec<Vec<u32>> {
    (0..n as u32).map(|b| (0..TOKENS as u32).map(|t| (t * t * 11 + b * 17 + 5) % 40).collect()).collect()
}

fn numbers(x: Tensor<3>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

fn read(model: &Model, rows: &[Vec<u32>], cuts: &[usize]) -> (Vec<f32>, Cache) {
    let mut cache = model.decoder.start(rows.len());
    let (mut from, mut parts) = (0, Vec::new());
    for &to in cuts.iter().chain([&rows[0].len()]) {
        let ids: Vec<u32> = rows.iter().flat_map(|row| &row[from..to]).copied().collect();
        parts.push(model.decoder.forward(&ids, &mut cache, None));
        from = to;
    }
    (numbers(Tensor::cat(parts, 1)), cache)
}

#[track_caller]
fn close(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    let apart =
        a.iter().zip(b).fold(0.0f32, |most, (a, b)| if (a - b).is_nan() { f32::NAN } else { most.max((a - b).abs()) });
    assert!(apart <= tolerance::LOGITS as f32, "{what}: {apart}");
}

#[test]
fn every_path_and_every_batch_agree() {
    for (mixer, model) in models() {
        let rows = rows(2);
        let (whole, _) = read(&model, &rows, &[]);
        let steps: Vec<usize> = (1..TOKENS).collect();
        for cuts in [&[1, 2, 7][..], &steps] {
            close(&format!("{mixer} cut at {cuts:?}"), &whole, &read(&model, &rows, cuts).0);
        }
        for (b, row) in rows.iter().enumerate() {
            let (alone, _) = read(&model, std::slice::from_ref(row), &[]);
            close(&format!("{mixer}, sequence {b}"), &whole[b * alone.len()..][..alone.len()], &alone);
        }
        // A changed token affects later outputs and no earlier ones.
        let mut other = rows.clone();
        other[0][9] = (other[0][9] + 1) % 40;
        let (changed, _) = read(&model, &other, &[]);
        let from = 9 * 24;
        close(&format!("{mixer}, before a change"), &whole[..from], &changed[..from]);
        let apart = whole[from + 24..].iter().zip(&changed[from + 24..]).any(|(a, b)| (a - b).abs() > 1e-6);
        assert!(apart, "{mixer} does not see the past");
    }
}

#[test]
fn threads_change_no_bit() {
    let contexts = [1, 3].map(|threads| Arc::new(Cx::new(threads)));
    for (mixer, model) in models() {
        let rows = rows(2);
        let [one, three] =
            [0, 1].map(|i| longreach_burn::with_context(&contexts[i], || read(&model, &rows, &[7, 8]).0));
        let differ = one.iter().zip(&three).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(differ, 0, "{mixer}");
    }
}

#[test]
fn padding_leaves_no_trace() {
    for (mixer, model) in models() {
        let row = rows(1).remove(0);
        let (alone, _) = read(&model, std::slice::from_ref(&row), &[]);
        let lengths = [TOKENS, TOKENS - 6];
        let padded: Vec<u32> = (0..TOKENS).map(|t| if t < 6 { 3 } else { row[t - 6] }).collect();
        let ids = [row.clone(), padded];
        let mask: Vec<f32> =
            [(0, 0), (1, 6)].iter().flat_map(|(_, n)| (0..TOKENS).map(|t| f32::from(t >= *n))).collect();
        let mask = Tensor::<1>::from_data(&mask[..], &model.decoder.device()).reshape([2, TOKENS, 1]);
        for cuts in [&[][..], &[3, 10]] {
            let mut cache = model.decoder.start(2);
            let (mut from, mut parts) = (0, Vec::new());
            for &to in cuts.iter().chain([&TOKENS]) {
                let part: Vec<u32> = ids.iter().flat_map(|row| &row[from..to]).copied().collect();
                let mask = mask.clone().narrow(1, from, to - from);
                parts.push(model.decoder.forward(&part, &mut cache, Some(mask)));
                from = to;
            }
            let out = Tensor::cat(parts, 1);
            for (b, n) in lengths.into_iter().enumerate() {
                let own = numbers(out.clone().narrow(0, b, 1).narrow(1, TOKENS - n, n));
                close(&format!("{mixer}, sequence {b}, cut at {cuts:?}"), &alone[..n * 24], &own);
            }
        }
    }
}

/// The cache restored from its saved tensors.
fn put_down(model: &Model, cache: &Cache, tokens: usize) -> Cache {
    let tensors = cache.tensors();
    let find = |name: &str, _: &[Option<usize>]| {
        let found = tensors.iter().find(|tensor| tensor.name == name);
        found.map(StateTensor::whole).ok_or_else(|| StateError(format!("no {name}")))
    };
    model.decoder.start(1).restored(tokens, find).expect("what was put down")
}

#[test]
fn a_state_put_down_is_the_state() {
    for (mixer, model) in models() {
        let rows = rows(1);
        let (_, mut cache) = read(&model, &rows, &[]);
        let mut again = put_down(&model, &cache, TOKENS);
        let next = |cache: &mut Cache| numbers(model.decoder.forward(&[1, 2, 3], cache, None));
        assert_eq!(next(&mut cache), next(&mut again), "{mixer}");
    }
}

#[test]
fn a_state_repeated_is_that_of_as_many_sequences() {
    let hierarchical = hierarchical(r#""dense""#, HMT).expect("a model");
    for model in models().map(|(_, model)| model).chain([hierarchical]) {
        let row = rows(1).remove(0);
        let (_, one) = read(&model, std::slice::from_ref(&row), &[]);
        let (_, mut both) = read(&model, &[row.clone(), row], &[]);
        let next = |cache: &mut Cache| numbers(model.decoder.forward(&[1, 2, 3, 4, 5, 6], cache, None));
        close("repeated", &next(&mut one.select(&[0, 0])), &next(&mut both));
    }
}

/// Sequences of different lengths decode in one call, and each has bit for bit the outputs that it has alone, whichever
/// sequences join and leave the batch.
#[test]
fn a_sequence_does_not_depend_on_its_batch() {
    let memories = [r#""dense""#, r#"["gated_delta", "window"]"#];
    let memories = memories.map(|mixer| (format!("{mixer} with a memory"), hierarchical(mixer, HMT).expect("a model")));
    for (mixer, model) in models().chain(memories) {
        let lengths = [7, 12, 1, 9, 20, 3];
        let row = |b: usize| rows(lengths.len())[b].clone();
        let token = |b: usize, step: usize| (b * 7 + step * 5 + 1) as u32 % 40;
        let start = |b: usize| read(&model, &[row(b)[..lengths[b]].to_vec()], &[]).1;
        let bits = |x: Tensor<3>| -> Vec<u32> { numbers(x).into_iter().map(f32::to_bits).collect() };
        // Which sequences are in the batch at each step.
        let batches: &[&[usize]] =
            &[&[0, 1], &[0, 1, 2], &[2, 0, 1, 3], &[3, 0], &[3, 0, 4, 5, 1], &[5, 4], &[4], &[4, 5, 0, 1, 2, 3]];
        let mut alone: Vec<Cache> = (0..lengths.len()).map(start).collect();
        let mut waiting: Vec<Option<Cache>> = alone.iter().cloned().map(Some).collect();
        for (step, &members) in batches.iter().enumerate() {
            let joining: Vec<Cache> = members.iter().map(|b| waiting[*b].take().expect("a state")).collect();
            let mut batch = Cache::join(joining);
            let ids: Vec<u32> = members.iter().map(|b| token(*b, step)).collect();
            let out = bits(model.decoder.forward(&ids, &mut batch, None));
            let logits = model.decoder.forward(&ids, &mut batch.clone(), None);
            let logits = bits(model.decoder.logits(logits));
            for (i, &b) in members.iter().enumerate() {
                let own = bits(model.decoder.forward(&[token(b, step)], &mut alone[b], None));
                assert_eq!(out[i * 24..(i + 1) * 24], own, "{mixer}: sequence {b} in {members:?}");
                let own = model.decoder.forward(&[token(b, step)], &mut alone[b].clone(), None);
                assert_eq!(logits[i * 40..(i + 1) * 40], bits(model.decoder.logits(own)), "{mixer}: logits of {b}");
                waiting[b] = Some(batch.select(&[i]));
            }
        }
        let positions: Vec<usize> = (0..lengths.len())
            .map(|b| lengths[b] + batches.iter().filter(|members| members.contains(&b)).count())
            .collect();
        if alone[0].layers.iter().any(|layer| layer.states().next().is_some()) {
            assert_eq!(alone.iter().map(|cache| cache.positions()[0]).collect::<Vec<_>>(), positions, "{mixer}");
        }
    }
}

/// A forked sequence and its origin do not affect each other, though they share cached keys.
#[test]
fn forks_do_not_affect_each_other() {
    let model = random(r#""mixer": "dense""#).expect("a model");
    let ids: Vec<u32> = (0..1000).map(|t| t * t % 40).collect();
    let (_, cache) = read(&model, std::slice::from_ref(&ids), &[300, 700]);
    let next = |cache: &mut Cache, id| numbers(model.decoder.forward(&[id], cache, None));
    let (mut one, mut other, mut all) = (cache.clone(), cache.select(&[0, 0]), cache.clone());
    let want = [1, 2, 3].map(|id| next(&mut all.clone(), id));
    assert_eq!(next(&mut one, 1), want[0]);
    let both = numbers(model.decoder.forward(&[2, 3], &mut other, None));
    assert_eq!(both, [&want[1][..], &want[2]].concat());
    assert_eq!(next(&mut all, 1), want[0]);
}

/// A model with a hierarchical memory: segments of 5 tokens, of which two are read again.
fn hierarchical(mixer: &str, hmt: &str) -> Result<Model, longreach_models::Error> {
    hierarchical_on(mixer, hmt, &Device::flex())
}

fn hierarchical_on(mixer: &str, hmt: &str, device: &Device) -> Result<Model, longreach_models::Error> {
    let config = format!(
        r#"{{"model_type": "longreach", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "head_dim": 12,
            "mixer": {mixer}, "hmt": {hmt}}}"#
    );
    Model::random("config.json", &config, 7, device)
}

const HMT: &str = r#"{"segment": 5, "sensory": 2, "summary": 3, "queue": 2, "width": 8}"#;

#[test]
fn a_hierarchical_memory_is_the_same_on_every_path() {
    for mixer in [r#""dense""#, r#"["gated_delta", "window"]"#, r#""mamba2""#] {
        let model = hierarchical(mixer, HMT).expect("a model");
        let rows = rows(2);
        let (whole, _) = read(&model, &rows, &[]);
        let steps: Vec<usize> = (1..TOKENS).collect();
        for cuts in [&[1, 2, 7][..], &[5, 10], &steps] {
            close(&format!("{mixer} cut at {cuts:?}"), &whole, &read(&model, &rows, cuts).0);
        }
        let (alone, _) = read(&model, &rows[1..], &[]);
        close(&format!("{mixer}, a sequence alone"), &whole[alone.len()..], &alone);
        // Outputs do not depend on later tokens, and depend on earlier ones across segments.
        let mut other = rows.clone();
        other[0][9] = (other[0][9] + 1) % 40;
        let (changed, _) = read(&model, &other, &[]);
        close(&format!("{mixer}, before a change"), &whole[..9 * 24], &changed[..9 * 24]);
        let far = 15 * 24..TOKENS * 24;
        assert!(whole[far.clone()].iter().zip(&changed[far]).any(|(a, b)| (a - b).abs() > 1e-6), "{mixer} forgets");
        for tokens in [3, 5, 12, TOKENS] {
            let start = [rows[0][..tokens].to_vec()];
            let (_, mut cache) = read(&model, &start, &[]);
            let mut again = put_down(&model, &cache, tokens);
            let next = |cache: &mut Cache| numbers(model.decoder.forward(&[1, 2, 3, 4, 5, 6], cache, None));
            assert_eq!(next(&mut cache), next(&mut again), "{mixer} after {tokens} tokens");
        }
    }
}

#[test]
fn with_nothing_in_its_queue_a_hierarchical_memory_is_its_decoder() {
    let config = r#"{"model_type": "longreach", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "head_dim": 12,
        "mixer": "dense"}"#;
    let bare = Model::random("config.json", config, 7, &Device::flex()).expect("a model");
    let model = hierarchical(r#""dense""#, r#"{"segment": 64, "sensory": 2, "queue": 2}"#).expect("a model");
    assert_eq!(read(&bare, &rows(2), &[]).0, read(&model, &rows(2), &[]).0);
}

#[test]
fn sizes_of_a_memory_that_cannot_be_are_refused() {
    for (hmt, part) in [
        (r#"{"segment": 0}"#, "`segment`: want a positive integer, found 0"),
        (r#"{"queue": 2000000}"#, "`queue` of 2000000: want 1 to 1048576"),
        (r#"{"sensory": -1}"#, "`sensory`"),
        (r#"[{}, {}]"#, "`hmt`: want one object"),
    ] {
        let error = hierarchical(r#""dense""#, hmt).expect_err("refused").to_string();
        assert!(error.contains(part), "{error}");
    }
    for (mixer, part) in [
        (r#"{"type": "transformer_xl", "memory": 2000000}"#, "a memory of 2000000 tokens: want 1 to 1048576"),
        (r#"{"type": "infini", "segment": 0}"#, "`segment`: want a positive integer, found 0"),
        (r#"{"type": "infini", "segment": 100000}"#, "a segment of 100000 tokens: want 1 to 65536"),
    ] {
        let error = hierarchical(mixer, HMT).expect_err("refused").to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_model_of_several_mixers() {
    let config = r#"{"model_type": "longreach", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 5, "head_dim": 12,
        "mixer": ["gated_delta", {"type": "window", "window": 4}]}"#;
    let model = Model::random("config.json", config, 7, &Device::flex()).expect("a model");
    let names: Vec<_> =
        model.description.decoder.blocks.iter().flat_map(|b| b.mixers()).map(|m| m.mechanism()).collect();
    assert_eq!(names, ["gated_delta", "window", "gated_delta", "window", "gated_delta"]);
}

/// Layers that share a block use the same weights: they are saved once, and a gradient step changes both layers.
#[test]
fn shared_weights_are_there_once() {
    let shape = BLOCKS[BLOCKS.len() - 1];
    let alone =
        random(&shape.replace(r#"{"shares": 0}"#, r#"{"branches": [{"mixer": "dense"}, {"feed_forward": 40}]}"#));
    let (shared, alone) = (random(shape).expect("a model"), alone.expect("a model"));
    let block = 4 * 24 * 24 + 3 * 24 * 40 + 2 * 24;
    assert_eq!(alone.parameters() - shared.parameters(), block);
    assert_eq!(shared.decoder.start(1).layers.len(), 3);
}

/// A soft-cap barely changes small logits and bounds all of them; the loss is that of the capped logits.
#[test]
fn capped_logits_and_their_loss() {
    let model = random(BLOCKS[0]).expect("a model");
    let ids: Vec<u32> = rows(1).remove(0);
    let hidden = model.decoder.forward(&ids, &mut model.decoder.start(1), None);
    let logits = numbers(model.decoder.logits(hidden.clone()));
    assert!(logits.iter().all(|x| x.abs() < 3.0) && logits.iter().any(|x| x.abs() > 0.01));
    let targets: Vec<i64> = (0..TOKENS as i64).map(|t| if t % 5 == 0 { -1 } else { t }).collect();
    let rows = logits.chunks(40).zip(&targets).filter(|(_, target)| **target >= 0);
    let losses: Vec<f64> = rows
        .map(|(row, target)| {
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            sum.ln() - f64::from(row[*target as usize])
        })
        .collect();
    let want = losses.iter().sum::<f64>() / losses.len() as f64;
    let loss = model.decoder.loss(hidden, &targets).into_data().iter::<f32>().next().expect("a loss");
    assert!((f64::from(loss) - want).abs() < 1e-5, "{loss}, want {want}");
}

#[test]
fn blocks_that_cannot_be_are_refused() {
    for (blocks, part) in [
        (r#"[{"branches": []}]"#, "`branches` of block 0"),
        (r#"[{"branches": [{}]}]"#, "a branch of block 0: want one of mixer, feed_forward, experts, parallel"),
        (r#"[{"branches": [{"mixer": "dense", "feed_forward": 8}]}]"#, "a branch of block 0"),
        (r#"[{"branches": [{"mixer": "dense", "nrom": "rms"}]}]"#, "`nrom`"),
        (r#"[{"branches": [{"mixer": "dense", "norm": "bath"}]}]"#, "bath"),
        (r#"[{"branches": [{"feed_forward": {"inner": 8}}]}]"#, "`inner`"),
        (r#"[{"branches": [{"experts": {"count": 2, "chosen": 3}}]}]"#, "3 of 2 experts a token"),
        (r#"[{"shares": 0}]"#, "`shares` of block 0: want an earlier layer's index, found 0"),
        (r#"[{"branches": [{"mixer": "lightning"}]}, {"shares": 7}]"#, "found 7"),
    ] {
        let error = random(&format!(r#""blocks": {blocks}"#)).expect_err("refused").to_string();
        assert!(error.contains(part), "{blocks}: {error}");
    }
    let error = random(r#""mixer": "dense", "blocks": [{"branches": [{"mixer": "dense"}]}]"#).expect_err("refused");
    assert!(error.to_string().contains("`mixer`"), "{error}");
    let error = random(r#""mixer": "dense", "logits_cap": -1.0"#).expect_err("refused").to_string();
    assert!(error.contains("capped at -1"), "{error}");
}

#[test]
fn an_unknown_mixer_is_named_with_those_there_are() {
    let config = r#"{"model_type": "longreach", "mixer": "gated_detla"}"#;
    let error = Model::random("config.json", config, 7, &Device::flex()).expect_err("an error").to_string();
    for part in ["config.json", "`mixer`", "gated_delta,", "gated_detla"] {
        assert!(error.contains(part), "{error}");
    }
}

/// A KV cache in bf16 holds the rounded keys and values, in half the memory; what is read in one call attends to them as
/// well, sequences do not depend on their batch, and a saved state restores bit for bit.
#[test]
fn keys_in_bf16_are_those_in_f32_rounded() {
    let caching = models().filter(|(_, model)| {
        let tensors = read(model, &rows(1), &[]).1.tensors();
        tensors.iter().any(|tensor| tensor.name.ends_with(".k"))
    });
    let mut count = 0;
    for (mixer, model) in caching {
        let start = |n| model.decoder.start(n).with_keys_in(KvDtype::Bf16);
        let row = rows(1).remove(0);
        let (exact, floats) = read(&model, std::slice::from_ref(&row), &[]);
        let mut halves = start(1);
        let rounded = numbers(model.decoder.forward(&row, &mut halves, None));
        let apart = exact.iter().zip(&rounded).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(apart > 0.0 && apart < 0.1, "{mixer}: outputs move by {apart}");
        let first = |cache: &Cache| cache.tensors().into_iter().find(|tensor| tensor.name.ends_with(".k"));
        let [of_floats, of_halves] = [&floats, &halves].map(|cache| first(cache).expect("keys").whole());
        // Where no attention comes before them, they are those in f32, rounded.
        if mixer.contains(r#"{"type": "dense"}"#) {
            let want: Vec<f32> = of_floats.iter::<f32>().map(|x| bf16::from_f32(x).to_f32()).collect();
            assert_eq!(of_halves.iter::<f32>().collect::<Vec<_>>(), want, "{mixer}");
            assert_eq!(2 * halves.bytes(), floats.bytes(), "{mixer}");
        }
        let next = |cache: &mut Cache, ids: &[u32]| numbers(model.decoder.forward(ids, cache, None));
        let tensors = halves.tensors();
        let find = |name: &str, _: &[Option<usize>]| {
            let found = tensors.iter().find(|tensor| tensor.name == name);
            found.map(StateTensor::whole).ok_or_else(|| StateError(format!("no {name}")))
        };
        let mut again = start(1).restored(TOKENS, find).expect("what was saved");
        assert_eq!(next(&mut halves.clone(), &[1, 2, 3]), next(&mut again, &[1, 2, 3]), "{mixer}, restored");
        let mut other = start(1);
        model.decoder.forward(&row[..7], &mut other, None);
        let mut both = Cache::join([halves.clone(), other.clone()]);
        let alone = [next(&mut halves, &[4]), next(&mut other, &[5])].concat();
        assert_eq!(next(&mut both, &[4, 5]), alone, "{mixer}, together");
        count += 1;
    }
    assert!(count > 8, "{count} models with a KV cache");
}
