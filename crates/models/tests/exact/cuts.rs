//! The bits of a text are a function of its tokens: not of the calls in which it is read, of the sequences beside it, or of
//! the number of threads.

use std::sync::Arc;

use burn::tensor::Device;
use longreach_burn::with_context;
use longreach_models::{DType, LoadOptions, Location, Model, Streaming};
use longreach_nn::{Cache, Calls, Cut, KvDtype};
use longreach_simd::{Cx, Isa};
use longreach_testkit::MIXERS;

use crate::{Bits, bits, decoders, goldens, load, state, text};

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
    let blocks = MIXERS.iter().copied().filter(|mixer| mixer.contains("infllm_v2") || mixer.contains("streaming"));
    for mixer in [r#""dense""#, r#""window", "window": 90"#].into_iter().chain(blocks) {
        divide(&format!("{mixer}, keys in q8_0"), &mixed(mixer), 677, KvDtype::Q8_0);
    }
    divide("latents in q8_0", &load(&goldens().join("kimi_linear-a"), None), 229, KvDtype::Q8_0);
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

#[test]
fn a_cache_of_bounded_size_has_the_same_bits_in_any_calls() {
    let streaming = Some(Streaming { sinks: 4, recent: 40 });
    for name in ["llama-a", "qwen3-a"] {
        let at = Location { directory: crate::goldens().join(name), weights: None };
        let options = LoadOptions { streaming, ..LoadOptions::default() };
        let model = Model::load_with(&at, &options).expect("a golden checkpoint").prepared();
        divide(name, &model, 229, KvDtype::F32);
    }
}

/// What depends on the calls says so: the frequencies of rotary positions, and memories of segments.
#[test]
fn models_whose_bits_depend_on_the_calls_have_one_length_of_calls() {
    let each = |name: &str| load(&crate::goldens().join(name), None).decoder.cut() == Cut::EACH;
    assert!(each("transfo-xl-a") && each("minicpm-c"));
    assert!(!each("llama-a") && !each("mamba2-a"));
    assert_eq!(load(&crate::goldens().join("kimi_linear-a"), None).decoder.cut(), Cut::FIRST);
}

/// One token of each sequence: the logits and the states of every sequence.
fn step(model: &Model, ids: &[u32], cache: &mut Cache) -> Vec<(Bits, Cache)> {
    let logits = bits(model.decoder.logits(model.decoder.forward(ids, cache, None)));
    let width = logits.len() / ids.len();
    (0..ids.len()).map(|b| (logits[b * width..(b + 1) * width].to_vec(), cache.select(&[b]))).collect()
}

/// Sequences that have read texts of different lengths write tokens together, and each as it does alone.
fn write_together(name: &str, model: &Model, sizes: &[usize]) {
    let most = sizes.iter().copied().max().unwrap_or(0);
    let started: Vec<Cache> =
        (0..most).map(|b| read(model, &text(model, 2 + b % 11)[b % 2..], model.decoder.start(1), 512).1).collect();
    let ids = |b: usize, round: usize| ((b * 13 + round * 5 + 1) % model.decoder.vocabulary().min(60)) as u32;
    let mut alone: Vec<Vec<(Bits, Cache)>> = Vec::new();
    for (b, start) in started.iter().enumerate() {
        let mut cache = start.clone();
        alone.push((0..2).map(|round| step(model, &[ids(b, round)], &mut cache).remove(0)).collect());
    }
    for &size in sizes {
        let mut cache = Cache::join(started[..size].iter().cloned());
        for round in 0..2 {
            let now: Vec<u32> = (0..size).map(|b| ids(b, round)).collect();
            for (b, got) in step(model, &now, &mut cache).iter().enumerate() {
                same(&format!("{name}: sequence {b} of {size}, token {round}"), &alone[b][round], got);
            }
        }
    }
}

#[test]
fn a_token_that_is_written_has_the_bits_that_it_has_alone() {
    for mixer in MIXERS {
        write_together(mixer, &mixed(mixer), &[1, 2, 3, 5, 8, 17, 64]);
    }
    for folder in decoders().iter().step_by(3) {
        write_together(&folder.display().to_string(), &load(folder, None), &[2, 5, 9]);
    }
    write_together("int8", &load(&crate::goldens().join("llama-a"), Some(DType::Int8)), &[2, 5, 9, 64]);
}

#[test]
fn threads_change_no_bit() {
    for mixer in MIXERS.iter().step_by(2) {
        let model = mixed(mixer);
        let ids = text(&model, 229);
        let with = |threads: usize| {
            with_context(&Arc::new(Cx::new(threads)), || {
                let (mut logits, mut cache) = read(&model, &ids, model.decoder.start(1), 512);
                logits.extend(step(&model, &[3], &mut cache).remove(0).0);
                (logits, cache)
            })
        };
        let want = with(1);
        for threads in [2, 3, 8] {
            same(&format!("{mixer}, {threads} threads"), &want, &with(threads));
        }
    }
}

/// Every instruction set of this machine, with weights of all types.
#[test]
fn every_instruction_set_reads_a_text_with_the_same_bits_in_any_calls() {
    for isa in Isa::available() {
        with_context(&Arc::new(Cx::with_isa(isa, 2)), || {
            for (name, dtype) in [
                ("llama-a", Some(DType::Bf16)),
                ("llama-a", Some(DType::Int8)),
                ("mamba2-a", None),
                ("rwkv7-a", None),
                ("qwen3_next-a", None),
            ] {
                divide(&format!("{isa:?} {name}"), &load(&crate::goldens().join(name), dtype), 229, KvDtype::F32);
            }
        });
    }
}
