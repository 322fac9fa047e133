//! Texts longer than a model was trained for, texts that are read once, and the losses of texts.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use longreach_engine::{CHUNK, Engine, Error, Start, Windows};
use longreach_models::{LoadOptions, Progress, Streaming};
use longreach_testkit::goldens::Golden;
use longreach_testkit::tolerance::{LOGITS, assert_close};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens").join(name)
}

fn load(folder: &Path, streaming: Option<Streaming>) -> Result<Engine, Error> {
    Engine::load_with(folder, &LoadOptions { streaming, ..LoadOptions::default() }, Progress::Hidden)
}

fn embedded() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::embedded(None).expect("the embedded model"))
}

/// The checkpoint `llama-a` with its first layer only.
fn one_layer(folder: &Path) -> PathBuf {
    let from = golden("llama-a");
    let config = std::fs::read_to_string(from.join("config.json")).expect("a configuration");
    let config = config.replace(r#""num_hidden_layers": 3"#, r#""num_hidden_layers": 1"#);
    std::fs::write(folder.join("config.json"), config).expect("written");
    std::fs::copy(from.join("model.safetensors"), folder.join("model.safetensors")).expect("copied");
    folder.to_owned()
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i + 7 * i) % 61 + 3).collect()
}

fn logits(engine: &Engine, ids: &[u32]) -> Vec<f64> {
    let mut session = engine.session();
    session.read(ids).expect("read");
    session.logits().expect("logits").iter().map(|x| f64::from(*x)).collect()
}

#[test]
fn a_text_beyond_the_trained_length_is_refused_and_read_on_request() {
    let engine = load(&golden("llama-a"), None).expect("a checkpoint");
    assert_eq!(engine.longest(), Some(128));
    let mut session = engine.session();
    session.read(&ids(128)).expect("as long as the model was trained for");
    assert_eq!(session.room(), Some(0));
    let said = session.read(&[5]).expect_err("too long").to_string();
    for part in ["129 tokens", "trained for 128", "--window 64 --sinks 4", "--extrapolate"] {
        assert!(said.contains(part), "{said}");
    }
    engine.extrapolating().session().read(&ids(129)).expect("at positions the model has not seen");
    // Learned positions end.
    let engine = load(&golden("gpt2-a"), None).expect("a checkpoint").extrapolating();
    let said = engine.session().read(&ids(129)).expect_err("too long").to_string();
    assert!(said.contains("positions for 128 only"), "{said}");
    // A state of fixed size has no longest text, whatever its configuration says.
    assert_eq!(load(&golden("delta_net-b"), None).expect("a checkpoint").longest(), None);
}

#[test]
fn a_window_as_long_as_the_text_changes_nothing() {
    let text = ids(100);
    let want = logits(&load(&golden("llama-a"), None).expect("a checkpoint"), &text);
    for (sinks, recent) in [(0, 100), (4, 100), (28, 100), (60, 40)] {
        let engine = load(&golden("llama-a"), Some(Streaming { sinks, recent })).expect("a checkpoint");
        assert_close(&format!("{sinks} sinks"), &logits(&engine, &text), &want, LOGITS);
    }
}

#[test]
fn one_layer_with_sinks_is_that_layer_on_the_tokens_in_its_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = one_layer(folder.path());
    let whole = load(&folder, None).expect("a checkpoint");
    let text = ids(700);
    for (sinks, recent) in [(4, 20), (0, 16), (1, 1), (7, 100)] {
        let streaming = Streaming { sinks, recent };
        let engine = load(&folder, Some(streaming)).expect("a checkpoint");
        assert_eq!(engine.longest(), None);
        for n in [3, 25, 129, 700] {
            // Keys of a first layer depend on their own token alone, so a text of the cached tokens has the same.
            let cached: Vec<u32> = streaming.cache(n).map(|i| text[i]).collect();
            let (got, want) = (logits(&engine, &text[..n]), logits(&whole, &cached));
            assert_close(&format!("{sinks} sinks, {recent} recent, {n} tokens"), &got, &want, LOGITS);
        }
    }
}

#[test]
fn a_window_reads_any_length_in_the_same_memory_and_in_any_pieces() {
    let engine = load(&golden("llama-b"), Some(Streaming { sinks: 3, recent: 30 })).expect("a checkpoint");
    let text: Vec<u32> = ids(CHUNK * 2 + 100);
    let mut whole = engine.session();
    whole.read(&text[..CHUNK + 7]).expect("read");
    let before = whole.state_bytes();
    whole.read(&text[CHUNK + 7..]).expect("read");
    let mut pieces = engine.session();
    text.chunks(97).for_each(|piece| pieces.read(piece).expect("read"));
    let numbers = |session: &longreach_engine::Session| -> Vec<f64> {
        session.logits().expect("logits").iter().map(|x| f64::from(*x)).collect()
    };
    assert_close("pieces", &numbers(&pieces), &numbers(&whole), LOGITS);
    assert!(whole.state_bytes() <= before * 2, "{before} bytes grew to {}", whole.state_bytes());
    assert_ne!(engine.fingerprint(), load(&golden("llama-b"), None).expect("a checkpoint").fingerprint());
}

#[test]
fn windows_that_a_model_cannot_have_are_refused() {
    let large = Streaming { sinks: 4, recent: 125 };
    for (name, streaming, part) in [
        ("llama-a", large, "129 positions, but the model was trained for 128"),
        ("llama-a", Streaming { sinks: usize::MAX, recent: 2 }, "is too large"),
        ("llama-a", Streaming { sinks: 4, recent: 0 }, "0 tokens"),
        ("gpt2-a", Streaming { sinks: 4, recent: 8 }, "learned positions"),
        ("mamba-a", Streaming { sinks: 4, recent: 8 }, "no layer has full attention"),
        ("gpt_oss-a", Streaming { sinks: 4, recent: 8 }, "learned sinks"),
        ("kimi_linear-a", Streaming { sinks: 4, recent: 8 }, "latent attention"),
        ("gemma4_text-a", Streaming { sinks: 4, recent: 8 }, "shared keys"),
    ] {
        let Err(error) = load(&golden(name), Some(streaming)) else { panic!("{name} was loaded") };
        let said = error.to_string();
        assert!(said.contains(part) && said.contains("config.json"), "{name}: {said}");
    }
}

#[test]
fn losses_are_those_of_transformers() {
    for name in ["llama-a", "qwen3-b", "gemma3_text-a", "jamba-a", "mamba2-a", "rwkv-a", "gpt2-a", "falcon_h1-a"] {
        let engine = load(&golden(name), None).expect("a checkpoint");
        let file = Golden::read(golden(name).join("expected.safetensors"));
        let (shape, tokens) = file.integers("input_ids");
        let (_, logits) = file.floats("logits");
        let (rows, length) = (shape[0], shape[1]);
        let vocabulary = logits.len() / (rows * length);
        for row in 0..rows {
            let ids: Vec<u32> = tokens[row * length..(row + 1) * length].iter().map(|id| *id as u32).collect();
            let of = |t: usize| &logits[(row * length + t) * vocabulary..(row * length + t + 1) * vocabulary];
            let nll = |t: usize| {
                let sum: f64 = of(t).iter().map(|x| x.exp()).sum();
                sum.ln() - of(t)[ids[t + 1] as usize]
            };
            let want: Vec<f64> = (0..length - 1).map(nll).collect();
            assert_close(name, &engine.losses(&ids, None).expect("losses"), &want, LOGITS);
        }
    }
}

#[test]
fn windows_score_every_token_once_after_the_tokens_of_its_window() {
    // A chunk of the model ends within the tokens that two of the last windows share.
    let long = [(CHUNK + 88, 50)];
    let short = [(32, 16), (32, 31), (20, 1), (64, 40), (90, 45), (100, 3)];
    for (name, n, windows) in
        [("llama-a", 90, &short[..]), ("mamba-a", 90, &short[..]), ("mamba-a", CHUNK + 180, &long[..])]
    {
        let engine = load(&golden(name), None).expect("a checkpoint");
        let text = ids(n);
        let alone = |from: usize, to: usize| engine.losses(&text[from..to], None).expect("losses");
        for &(context, stride) in windows {
            let mut want = alone(0, context.min(n));
            let (mut from, mut done) = (stride, context);
            while done < n {
                let to = (from + context).min(n);
                want.extend(&alone(from, to)[done - from - 1..]);
                (from, done) = (from + stride, to);
            }
            let got = engine.losses(&text, Some(Windows { context, stride })).expect("losses");
            assert_eq!(got.len(), n - 1);
            assert_close(&format!("{name}, {context} by {stride}"), &got, &want, LOGITS);
        }
    }
    let engine = load(&golden("llama-a"), None).expect("a checkpoint");
    for (context, stride) in [(129, 64), (1, 1), (32, 0), (32, 32)] {
        let said = engine.losses(&ids(9), Some(Windows { context, stride })).expect_err("refused").to_string();
        assert!(said.contains(&context.to_string()), "{said}");
    }
    assert!(engine.losses(&ids(129), None).is_err(), "a text longer than the model reads needs windows");
}

#[test]
fn the_score_of_a_text_is_the_sum_of_its_losses() {
    let engine = embedded();
    let text = "A trait is a set of methods — named once, and shared by “types”. ".repeat(36);
    let tokens = engine.tokenizer().expect("a tokenizer").encode_around(&text).expect("tokens").ids;
    assert!(tokens.len() > CHUNK, "{}", tokens.len());
    for windows in [None, Some(Windows { context: 300, stride: 100 })] {
        let mut read = 0;
        let score = engine.score(text.as_bytes(), "a text", windows, |bytes| read = bytes).expect("a score");
        let losses = engine.losses(&tokens, windows).expect("losses");
        assert_eq!((score.tokens as usize, read as usize), (losses.len(), text.len()));
        assert_close("nats", &[score.nats], &[losses.iter().sum()], LOGITS);
        assert!((text.len() as u64 - 16..=text.len() as u64).contains(&score.bytes), "{}", score.bytes);
        let bits = losses.iter().sum::<f64>() / std::f64::consts::LN_2 / score.bytes as f64;
        assert_close("bits", &[score.bits_per_byte()], &[bits], LOGITS);
        // Buckets hold what they say.
        let most = windows.map_or(tokens.len() - 1, |w| w.context - 1);
        assert_eq!(score.buckets.iter().map(|b| b.tokens).sum::<u64>(), score.tokens);
        assert_eq!(score.buckets[0].before, (1, 15));
        assert!(score.buckets.windows(2).all(|b| b[0].before.1 + 1 == b[1].before.0));
        assert!(score.buckets.last().is_some_and(|b| (b.before.0..=b.before.1).contains(&(most as u64))));
        let first: f64 = losses[..15].iter().sum();
        assert_close("the first bucket", &[score.buckets[0].nats], &[first], LOGITS);
    }
    for (text, part) in [("", "empty"), ("a", "single token")] {
        let said = engine.score(text.as_bytes(), "a text", None, |_| {}).expect_err("no loss").to_string();
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_text_is_read_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("text.state");
    let engine = embedded();
    let text = ids(CHUNK + 50);
    let bits = |session: &longreach_engine::Session| -> Vec<u32> {
        session.logits().expect("logits").iter().map(|x| x.to_bits()).collect()
    };
    let mut read = 0;
    let (mut first, start) = engine.read_or_resume(&text, &file, |n| read = n).expect("read");
    assert_eq!((start, read as usize), (Start::Read, text.len()));
    let (mut second, start) = engine.read_or_resume(&text, &file, |_| panic!("read again")).expect("resumed");
    assert_eq!(start, Start::Resumed);
    for session in [&mut first, &mut second] {
        session.read(&[9, 4]).expect("read");
    }
    assert_eq!(bits(&first), bits(&second));
    // Another text of the same length.
    let mut other = text.clone();
    other[5] += 1;
    assert_eq!(engine.read_or_resume(&other, &file, |_| {}).expect("read").1, Start::Replaced);
    // What is not a state stays.
    std::fs::write(&file, "a letter").expect("written");
    assert!(engine.read_or_resume(&text, &file, |_| {}).is_err());
    assert_eq!(std::fs::read(&file).expect("a file"), b"a letter");
}
