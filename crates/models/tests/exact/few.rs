//! Up to four tokens that are read at once leave the bits of as many that are read one by one, and a state is taken back to
//! a mark to the bit: what generating several tokens at once rests on.

use burn::tensor::Device;
use longreach_models::{DType, Model};
use longreach_nn::{Cache, Decoder, KvDtype};

use crate::{Bits, bits, decoders, goldens, load, state, text};

/// The logits of tokens that are read `at_once` at a time.
fn read(model: &Model, ids: &[u32], cache: &mut Cache, at_once: usize) -> Bits {
    let mut all = Vec::new();
    for few in ids.chunks(at_once) {
        all.extend(bits(model.decoder.logits(model.decoder.forward(few, cache, None))));
    }
    all
}

/// Reads a text whose beginning, `before` tokens, was read at once, one by one and `at_once` at a time.
#[track_caller]
fn compare(name: &str, model: &Model, before: usize, at_once: usize) {
    compare_in(KvDtype::F32, name, model, before, at_once);
}

/// As [`compare`], with cached keys and values in this type.
#[track_caller]
fn compare_in(keys: KvDtype, name: &str, model: &Model, before: usize, at_once: usize) {
    let ids = text(model, before + 3 * at_once);
    let mut start = model.decoder.start(1).with_keys_in(keys);
    if before > 0 {
        model.decoder.forward(&ids[..before], &mut start, None);
    }
    let (mut single, mut few) = (start.clone(), start);
    let want = read(model, &ids[before..], &mut single, 1);
    let got = read(model, &ids[before..], &mut few, at_once);
    assert!(got == want, "{name}: the logits of {at_once} tokens at once, after {before} tokens");
    for ((part, want), (_, got)) in state(&single).iter().zip(&state(&few)) {
        assert!(got == want, "{name}: the state {part} after {at_once} tokens at once, after {before} tokens");
    }
}

#[test]
fn few_tokens_at_once_are_few_tokens_one_by_one() {
    let mut compared = 0;
    for (i, folder) in decoders().iter().enumerate() {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        // Every third model in int8 as well.
        for dtype in [None, Some(DType::Int8)].into_iter().take(if i % 3 == 0 { 2 } else { 1 }) {
            let model = load(folder, dtype);
            if model.decoder.reads_few_as_one() {
                // The last segment of a cache is full within the second call.
                compare(&format!("{name} {dtype:?}"), &model, 26, 4);
                compare(&format!("{name} {dtype:?}"), &model, 2, 3);
                match i % 4 {
                    1 => compare_in(KvDtype::Bf16, &format!("{name} {dtype:?}, keys in bf16"), &model, 26, 4),
                    3 => compare_in(KvDtype::Q8_0, &format!("{name} {dtype:?}, keys in q8_0"), &model, 26, 4),
                    _ => {}
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 120, "{compared} models");
}

#[test]
fn few_tokens_of_blocks_are_tokens_one_by_one() {
    let files =
        std::fs::read_dir(goldens().join("gguf")).expect("goldens").map(|entry| entry.expect("an entry").path());
    let mut compared = 0;
    for file in files.filter(|file| file.extension().is_some_and(|e| e == "gguf")) {
        let Ok(gguf) = longreach_gguf::Gguf::open(&file) else { continue };
        let Ok(model) = Model::of_gguf(&gguf, None) else { continue };
        compare(&file.display().to_string(), &model.prepared(), 26, 4);
        compared += 1;
    }
    assert!(compared >= 5, "{compared} models");
}

/// Mixers that no golden has, and what depends on the number of tokens that are read at once.
const MIXERS: &[(&str, bool)] = &[
    (r#""dense""#, true),
    (r#""window", "window": 6"#, true),
    (r#""window", "window": 90"#, true),
    (r#""performer""#, true),
    (r#""cosformer", "max_position_embeddings": 400"#, true),
    (r#""rwkv5""#, true),
    (r#""rg_lru""#, true),
    (r#""gated_conv", "conv_size": 4, "bias": true"#, true),
    (r#""gated_delta", "num_kv_heads": 1"#, true),
    (r#""mamba2""#, true),
    (r#""infini", "segment": 5"#, false),
    (r#""transformer_xl", "memory": 9"#, false),
    (r#""compressive", "segment": 4, "memory": 6, "compressed": 3, "rate": 2"#, false),
];

fn mixed(mixer: &str) -> Model {
    let config = format!(
        r#"{{"model_type": "longreach", "vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "head_dim": 12, "mixer": {{"type": {mixer}}}}}"#
    );
    Model::random("config.json", &config, 7, &Device::flex()).expect("a model").prepared()
}

#[test]
fn mixers_say_whether_few_tokens_at_once_are_tokens_one_by_one() {
    for (mixer, exact) in MIXERS {
        let model = mixed(mixer);
        assert_eq!(model.decoder.reads_few_as_one(), *exact, "{mixer}");
        if *exact {
            for (before, at_once) in [(0, 4), (5, 2), (30, 3), (61, 4), (126, 4), (150, 3)] {
                compare(mixer, &model, before, at_once);
            }
            // The keys of a long cache are divided among the threads; with 1,024 of them the parts become longer.
            if mixer.contains("dense") {
                compare(mixer, &model, 1022, 4);
            }
        }
    }
}

/// A state that has read tokens is taken back to a mark, and to some of the tokens behind it, again and again; it stays that
/// of a text without the others.
#[test]
fn a_state_is_taken_back_to_a_mark_to_the_bit() {
    let named = ["llama-b", "gemma3_text-a", "lfm2-a", "kimi_linear-a", "mamba-a", "qwen3_next-b", "gemma4_text-b"];
    let named = named.into_iter().map(|name| (name.to_owned(), load(&goldens().join(name), None)));
    let mixed = MIXERS.iter().filter(|(_, exact)| *exact).map(|(mixer, _)| ((*mixer).to_owned(), mixed(mixer)));
    let mut kept_some = 0;
    for (name, model) in named.chain(mixed) {
        for before in [3, 58, 120] {
            let ids = text(&model, before);
            let mut plain = model.decoder.start(1);
            model.decoder.forward(&ids, &mut plain, None);
            let mut cache = plain.clone();
            for round in 0..12usize {
                let (n, kept) = (1 + (round * 7 + 3) % Decoder::FEW, round * 5 % 4);
                let few: Vec<u32> = (0..n).map(|i| ((round * 11 + i * 5 + 2) % 50) as u32).collect();
                let kept = kept.min(n);
                let mark = cache.mark();
                model.decoder.forward(&few, &mut cache, None);
                let have = cache.rewind(mark, kept);
                kept_some += have;
                if have < kept {
                    model.decoder.forward(&few[have..kept], &mut cache, None);
                }
                few[..kept].iter().for_each(|id| {
                    model.decoder.forward(&[*id], &mut plain, None);
                });
                assert_eq!(cache.positions(), plain.positions(), "{name}");
                assert!(state(&cache) == state(&plain), "{name}: after {before} tokens, round {round}");
                let [want, got] = [&plain, &cache].map(|of| read(&model, &[7], &mut of.clone(), 1));
                assert!(want == got, "{name}: the logits after {before} tokens, round {round}");
            }
        }
    }
    assert!(kept_some > 50, "{kept_some}");
}
