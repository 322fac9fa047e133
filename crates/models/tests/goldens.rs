//! Every model type against its reference library: prefill at once, in chunks and token by token, padding, and greedy
//! text.

use std::path::PathBuf;

use burn::tensor::Tensor;
use longreach_models::{DType, Description, Fields, Location, MODELS, Model};
use longreach_testkit::goldens::Golden;
use longreach_testkit::tolerance;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn load(name: &str, dtype: Option<DType>) -> Model {
    Model::load(&Location { directory: folder(name), weights: None }, dtype).expect("a golden checkpoint")
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn ids(golden: &Golden, name: &str) -> (usize, usize, Vec<u32>) {
    let (shape, ids) = golden.integers(name);
    let rows = if shape.len() == 2 { shape[0] } else { 1 };
    (rows, ids.len() / rows, ids.iter().map(|id| u32::try_from(*id).expect("an id")).collect())
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g - w).abs();
        assert!(error <= tolerance::LOGITS, "{what}: element {i} is {g}, want {w}: error {error:.1e}");
    }
}

/// Hidden states `[B, T, d]`, read in chunks that end at `cuts`.
fn read(model: &Model, batch: usize, t: usize, ids: &[u32], cuts: &[usize], mask: Option<Tensor<3>>) -> Tensor<3> {
    let mut cache = model.decoder.start(batch);
    let mut from = 0;
    let mut pieces = Vec::new();
    for &to in cuts.iter().chain([&t]) {
        let piece: Vec<u32> = (0..batch).flat_map(|b| &ids[b * t + from..b * t + to]).copied().collect();
        let mask = mask.clone().map(|m| m.narrow(1, from, to - from));
        pieces.push(model.decoder.forward(&piece, &mut cache, mask));
        from = to;
    }
    Tensor::cat(pieces, 1)
}

const NAMES: &[&str] = &[
    "mamba-a",
    "mamba-b",
    "mamba2-a",
    "mamba2-b",
    "falcon_mamba-a",
    "falcon_mamba-b",
    "mamba2-a-bf16",
    "rwkv6-a",
    "rwkv6-b",
    "rwkv7-a",
    "rwkv7-b",
    "retnet-a",
    "retnet-b",
    "linear_attn-a",
    "linear_attn-b",
    "linear_attn-c",
    "linear_attn-d",
    "linear_attn-e",
    "linear_attn-f",
    "linear_attn-g",
    "linear_attn-h",
    "linear_attn-i",
    "linear_attn-j",
    "linear_attn-k",
    "linear_attn-l",
    "linear_attn-m",
    "gla-a",
    "gla-b",
    "hgrn2-a",
    "hgrn2-b",
    "delta_net-a",
    "delta_net-b",
    "delta_net-c",
    "delta_net-d",
    "delta_net-e",
    "delta_net-f",
    "delta_net-g",
    "delta_net-h",
    "delta_net-i",
    "gated_deltanet-a",
    "gated_deltanet-b",
    "kda-a",
    "kda-b",
    "rwkv-a",
    "rwkv-b",
    "gpt2-a",
    "gpt2-b",
    "llama-a",
    "llama-b",
    "mistral-a",
    "mistral-b",
    "qwen2-a",
    "qwen2-b",
    "qwen3-a",
    "qwen3-b",
    "smollm3-a",
    "smollm3-b",
    "gemma2-a",
    "gemma2-b",
    "gemma3_text-a",
    "gemma3_text-b",
    "gemma3-a",
    "olmo2-a",
    "olmo3-a",
    "olmo3-b",
    "phi3-a",
    "gpt_neox-a",
    "gpt_neox-b",
    "mixtral-a",
    "mixtral-b",
    "qwen3_moe-a",
    "qwen3_moe-b",
    "jamba-a",
    "jamba-b",
    "bamba-a",
    "bamba-b",
    "falcon_h1-a",
    "falcon_h1-b",
    "falcon_h1-c",
    "granitemoehybrid-a",
    "granitemoehybrid-b",
    "granitemoehybrid-c",
    "granitemoehybrid-d",
    "nemotron_h-a",
    "nemotron_h-b",
    "nemotron_h-c",
    "nemotron_h-d",
    "lfm2-a",
    "lfm2-b",
    "gpt_oss-a",
    "gpt_oss-b",
    "gpt_oss-mxfp4",
    "qwen3_next-a",
    "qwen3_next-b",
    "qwen3_5_text-a",
    "qwen3_5_text-b",
    "qwen3_5-a",
    "qwen3_5_moe_text-a",
    "qwen3_5_moe_text-b",
    "qwen3_5_moe-a",
    "olmo_hybrid-a",
    "olmo_hybrid-b",
    "recurrent_gemma-a",
    "recurrent_gemma-b",
    "lfm2_moe-a",
    "lfm2_moe-b",
    "zamba2-a",
    "zamba2-b",
    "minimax-a",
    "minimax-b",
    "minicpm-a",
    "minicpm-b",
    "minicpm-c",
    "minicpm_sala-a",
    "minicpm_sala-b",
    "lfm3-a",
    "lfm3-b",
    "kimi_linear-a",
    "kimi_linear-b",
    "bailing_hybrid-a",
    "bailing_hybrid-b",
    "gemma4_text-a",
    "gemma4_text-b",
    "gemma4_text-c",
    "gemma4-a",
];

/// Whether a text is read at once or has grown changes its frequencies; the goldens are of texts read at once.
const WHOLE: &[&str] = &["phi3-b"];

/// Types with one golden: other fields are tested with `olmo3`, and with the text models of their names.
const ONE: &[&str] = &["olmo2", "gemma3", "gemma4", "qwen3_5", "qwen3_5_moe"];

/// Models whose convolutions follow a projection with a bias.
const BIASED: &[&str] = &[
    "mamba-b",
    "mamba2-a",
    "mamba2-a-bf16",
    "falcon_mamba-b",
    "jamba-b",
    "bamba-b",
    "falcon_h1-b",
    "granitemoehybrid-b",
    "granitemoehybrid-d",
    "nemotron_h-b",
    "nemotron_h-d",
    "lfm2-b",
    "recurrent_gemma-a",
    "recurrent_gemma-b",
    "lfm2_moe-b",
    "zamba2-b",
    "lfm3-b",
];

/// A token of gpt_neox-b's padded texts is ill-conditioned: weights moved by 1e-7 of themselves, as rounding does, move its
/// logits by 2e-4, and the reference in f32 is 4e-5 off itself in f64. Its texts without padding are compared.
const ILL_CONDITIONED: &str = "gpt_neox-b";

/// The last norm of gemma4-a has hidden states up to 19, which weights moved by 1e-7 of themselves, as rounding does, move by
/// 2e-4. Its logits, its padded texts and its greedy text are compared.
const ILL_CONDITIONED_HIDDEN: &str = "gemma4-a";

/// Models whose goldens have padded texts.
fn padded() -> impl Iterator<Item = &'static &'static str> {
    let first = NAMES.iter().position(|name| *name == "gpt2-a").expect("the first model of attention");
    let mamba = NAMES.iter().filter(|name| name.contains("mamba"));
    NAMES[first..].iter().chain(mamba).filter(|name| !BIASED.contains(name) && **name != ILL_CONDITIONED)
}

#[test]
fn logits_are_those_of_the_reference_on_every_path() {
    for name in NAMES {
        let golden = Golden::read(folder(name).join("expected.safetensors"));
        let model = load(name, None);
        let (batch, t, ids) = ids(&golden, "input_ids");
        let (_, hidden) = golden.floats("last_hidden_state");
        let (_, logits) = golden.floats("logits");
        let steps: Vec<usize> = (1..t).collect();
        for (path, cuts) in [("whole", &[][..]), ("chunks", &[1, 3, 16, 17, 40]), ("steps", &steps)] {
            let got = read(&model, batch, t, &ids, cuts, None);
            if *name != ILL_CONDITIONED_HIDDEN {
                close(&format!("{name}, {path}, hidden state"), &numbers(got.clone()), &hidden);
            }
            close(&format!("{name}, {path}, logits"), &numbers(model.decoder.logits(got)), &logits);
        }
    }
}

/// The outputs at tokens; those at padding are zeros here, and not in the reference.
///
/// Except for models whose convolutions follow a projection with a bias: in the reference the bias enters the
/// convolution at padding, so that the outputs of a sequence depend on the padding before it. Here they do not: see the
/// next test.
#[test]
fn padding_is_that_of_transformers() {
    for name in padded() {
        let golden = Golden::read(folder(name).join("expected.safetensors"));
        let model = load(name, None);
        let (batch, t, ids) = ids(&golden, "padded_ids");
        let (_, mask) = golden.integers("attention_mask");
        let (_, logits) = golden.floats("padded_logits");
        let there: Vec<f32> = mask.iter().map(|m| *m as f32).collect();
        let there = Tensor::<1>::from_data(&there[..], &model.decoder.device()).reshape([batch, t, 1]);
        for cuts in [&[][..], &[4, 9]] {
            let got = numbers(model.decoder.logits(read(&model, batch, t, &ids, cuts, Some(there.clone()))));
            let width = got.len() / mask.len();
            let kept = |x: &[f64]| -> Vec<f64> {
                x.chunks(width).zip(&mask).filter(|(_, m)| **m != 0).flat_map(|(row, _)| row.to_vec()).collect()
            };
            close(&format!("{name}, cut at {cuts:?}"), &kept(&got), &kept(&logits));
        }
    }
}

#[test]
fn a_padded_sequence_is_that_sequence_alone() {
    for name in BIASED.iter().chain(&["mamba2-b", "gpt2-a", "rwkv-a", "gemma3_text-a", ILL_CONDITIONED]) {
        let golden = Golden::read(folder(name).join("expected.safetensors"));
        let model = load(name, None);
        let (_, t, ids) = ids(&golden, "input_ids");
        let padding = 5;
        let alone = numbers(read(&model, 1, t - padding, &ids[..t - padding], &[], None));
        let padded: Vec<u32> = ids[..padding].iter().chain(&ids[..t - padding]).copied().collect();
        let mask: Vec<f32> = (0..t).map(|i| f32::from(u8::from(i >= padding))).collect();
        let mask = Tensor::<1>::from_data(&mask[..], &model.decoder.device()).reshape([1, t, 1]);
        let got = numbers(read(&model, 1, t, &padded, &[3, 11], Some(mask)));
        close(name, &got[got.len() - alone.len()..], &alone);
    }
}

/// LongRoPE has other frequencies for texts longer than those in training, for all their tokens: a text that is read at
/// once differs from one that has grown beyond that length.
#[test]
fn a_text_beyond_the_length_of_training_has_long_factors() {
    for name in WHOLE {
        let golden = Golden::read(folder(name).join("expected.safetensors"));
        let model = load(name, None);
        let (batch, t, ids) = ids(&golden, "input_ids");
        let got = read(&model, batch, t, &ids, &[], None);
        close(&format!("{name}, hidden state"), &numbers(got.clone()), &golden.floats("last_hidden_state").1);
        close(&format!("{name}, logits"), &numbers(model.decoder.logits(got)), &golden.floats("logits").1);
    }
}

/// Files from before transformers 5 spell positions and kinds of layers in another way.
#[test]
fn older_configurations_mean_the_same() {
    let attention = ["llama-b", "qwen2-a", "gemma3_text-a", "phi3-b", "gpt_oss-a"];
    let mamba = ["bamba-a", "falcon_h1-a", "granitemoehybrid-a", "granitemoehybrid-c"];
    let mamba = mamba.into_iter().chain(["nemotron_h-a", "nemotron_h-c", "nemotron_h-d", "lfm2-b"]);
    let delta = ["qwen3_next-a", "qwen3_5-a", "qwen3_5_moe-a", "olmo_hybrid-a"];
    let others =
        ["recurrent_gemma-a", "lfm2_moe-a", "zamba2-a", "minimax-a", "lfm3-a", "kimi_linear-a", "bailing_hybrid-a"];
    let others = others.into_iter().chain(["gemma4_text-a", "gemma4_text-b", "gemma4-a"]);
    for name in attention.into_iter().chain(mamba).chain(delta).chain(others) {
        let read = |file: &str| {
            let text = std::fs::read_to_string(folder(name).join(file)).expect("a configuration");
            Description::of(&Fields::parse(file, &text).expect("JSON")).expect("a model")
        };
        assert_eq!(read("config.json"), read("config_v4.json"), "{name}");
    }
}

#[test]
fn greedy_text_is_that_of_the_reference() {
    for name in NAMES {
        let golden = Golden::read(folder(name).join("expected.safetensors"));
        let model = load(name, None);
        assert_eq!(greedy(&model, &golden), ids(&golden, "greedy").2, "{name}");
    }
}

/// The greedy continuation of the prompt, as long as that of the golden.
fn greedy(model: &Model, golden: &Golden) -> Vec<u32> {
    let (_, t, prompt) = ids(golden, "prompt");
    let want = ids(golden, "greedy").2.len();
    let mut cache = model.decoder.start(1);
    let mut hidden = model.decoder.forward(&prompt, &mut cache, None).narrow(1, t - 1, 1);
    let mut got = Vec::new();
    while got.len() < want {
        let logits = numbers(model.decoder.logits(hidden));
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("a vocabulary");
        got.push(best as u32);
        hidden = model.decoder.forward(&[best as u32], &mut cache, None);
    }
    got
}

/// Models whose results depend on how a text is split: their goldens specify it.
const CUT: &[&str] = &["transfo-xl-a", "transfo-xl-b"];

#[test]
fn segments_memories_and_greedy_text_of_transformer_xl_are_those_of_transformers() {
    for name in CUT {
        let golden = Golden::read(folder(name).join("expected.safetensors"));
        let model = load(name, None);
        let (batch, t, ids_) = ids(&golden, "input_ids");
        let (_, segments) = golden.integers("segments");
        let mut cache = model.decoder.start(batch);
        let (mut from, mut pieces) = (0, Vec::new());
        for (i, n) in segments.iter().enumerate() {
            let to = from + *n as usize;
            let piece: Vec<u32> = (0..batch).flat_map(|b| &ids_[b * t + from..b * t + to]).copied().collect();
            pieces.push(model.decoder.forward(&piece, &mut cache, None));
            from = to;
            let (_, want) = golden.floats(&format!("mems.{i}"));
            let rows: Vec<_> = (0..batch).map(|b| cache.select(&[b])).collect();
            let memory = |layer: usize, row: &longreach_nn::Cache| row.layers[layer].tensors()[0].whole();
            let memories = (0..cache.layers.len()).flat_map(|layer| rows.iter().map(move |row| memory(layer, row)));
            close(
                &format!("{name}, memories after segment {i}"),
                &memories.flat_map(|data| data.iter::<f64>().collect::<Vec<_>>()).collect::<Vec<_>>(),
                &want,
            );
        }
        let hidden = Tensor::cat(pieces, 1);
        close(&format!("{name}, hidden"), &numbers(hidden.clone()), &golden.floats("last_hidden_state").1);
        close(&format!("{name}, logits"), &numbers(model.decoder.logits(hidden)), &golden.floats("logits").1);
        assert_eq!(greedy(&model, &golden), ids(&golden, "greedy").2, "{name}");
    }
}

#[test]
fn a_pickled_checkpoint_is_the_checkpoint() {
    let golden = Golden::read(folder("transfo-xl-b").join("expected.safetensors"));
    let (batch, t, ids) = ids(&golden, "input_ids");
    let of = |name: &str, dtype| numbers(read(&load(name, dtype), batch, t, &ids, &[7], None));
    for dtype in [None, Some(DType::Bf16)] {
        assert_eq!(of("transfo-xl-b", dtype), of("transfo-xl-b-pickle", dtype));
    }
}

#[test]
fn the_loss_of_an_adaptive_softmax_is_that_of_its_logits() {
    for name in CUT {
        let golden = Golden::read(folder(name).join("expected.safetensors"));
        let model = load(name, None);
        let (batch, t, ids) = ids(&golden, "input_ids");
        let hidden = read(&model, batch, t, &ids, &[], None);
        // One target is ignored, and every cluster has some targets.
        let vocabulary = model.decoder.vocabulary();
        let targets: Vec<i64> =
            (0..batch * t).map(|i| if i == 3 { -1 } else { (i * 29 % vocabulary) as i64 }).collect();
        let logits = numbers(model.decoder.logits(hidden.clone()));
        let rows = logits.chunks(vocabulary).zip(&targets).filter(|(_, target)| **target >= 0);
        let sum: f64 = rows.map(|(row, target)| -row[*target as usize]).sum();
        let loss = numbers(model.decoder.loss(hidden, &targets))[0];
        assert!((loss - sum / (batch * t - 1) as f64).abs() < 1e-5, "{name}: {loss}");
    }
}

/// Weights as they are stored on the Hub, where transformers writes them in another way: matrices of all experts in one
/// tensor, convolutions cut at other places, other names, in part with another configuration.
#[test]
fn weights_of_the_hub_are_the_same() {
    let files = ["qwen3_5_moe-a", "olmo_hybrid-a", "olmo_hybrid-b"]
        .map(|name| (name, folder(name), Some(folder(name).join("model_hub.safetensors"))));
    let folders = ["kimi_linear-a", "bailing_hybrid-a"].map(|name| (name, folder(name).join("hub"), None));
    for (name, directory, weights) in files.into_iter().chain(folders) {
        let golden = Golden::read(folder(name).join("expected.safetensors"));
        let (batch, t, ids) = ids(&golden, "input_ids");
        let of = |directory: PathBuf, weights: Option<PathBuf>| {
            let model = Model::load(&Location { directory, weights }, None).expect("a golden checkpoint");
            assert!(model.notes().is_empty(), "{name}: {:?}", model.notes());
            numbers(read(&model, batch, t, &ids, &[], None))
        };
        assert_eq!(of(folder(name), None), of(directory, weights), "{name}");
    }
}

#[test]
fn shards_are_the_whole() {
    let golden = Golden::read(folder("mamba-a").join("expected.safetensors"));
    let (batch, t, ids) = ids(&golden, "input_ids");
    let whole = load("mamba-a", None);
    let shards = load("mamba-a-sharded", None);
    assert_eq!(numbers(read(&whole, batch, t, &ids, &[], None)), numbers(read(&shards, batch, t, &ids, &[], None)));
}

#[test]
fn every_model_type_has_goldens() {
    // This project's own type has no reference library.
    for model in MODELS.iter().filter(|model| model.model_type != "longreach") {
        for config in ["a", "b"] {
            let name = format!("{}-{config}", model.model_type);
            if config == "b" && ONE.contains(&model.model_type) {
                continue;
            }
            assert!(NAMES.iter().chain(CUT).chain(WHOLE).any(|known| *known == name), "{name}");
        }
    }
}

#[test]
fn a_saved_model_is_the_model() {
    let stacked = ["gemma4_text-b", "granitemoehybrid-c", "gpt_oss-a", "qwen3_next-a", "qwen3_5-a", "olmo_hybrid-b"];
    let stacked = stacked.map(|name| (name, DType::F32));
    for (name, dtype) in [("mamba-b", DType::F32), ("mamba2-a-bf16", DType::Bf16)].into_iter().chain(stacked) {
        let model = load(name, None);
        let to = tempfile::tempdir().expect("a directory");
        model.save(dtype, &to.path().join("model.safetensors")).expect("saved");
        std::fs::copy(folder(name).join("config.json"), to.path().join("config.json")).expect("copied");
        let again = Model::load(&Location { directory: to.path().into(), weights: None }, None).expect("loads");
        let ids: Vec<u32> = (0..30).collect();
        assert_eq!(numbers(read(&model, 1, 30, &ids, &[], None)), numbers(read(&again, 1, 30, &ids, &[], None)));
    }
}
