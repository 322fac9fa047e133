//! Speculation changes no token, no bit of the state and no random number, whatever is proposed.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use longreach_engine::{Cancel, Ended, Engine, Error, Sampler, Sampling, Session, Speculation};
use longreach_models::Progress;

fn golden(name: &str) -> Engine {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens").join(name);
    Engine::load(folder, None, Progress::Hidden).expect("a golden checkpoint")
}

fn embedded() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::embedded(None).expect("the embedded model"))
}

/// Attention, windows, Mamba-2, the gated delta rule, hybrids, convolutions, experts, shared keys, blocks of few bits.
const KINDS: &[&str] = &[
    "llama-a",
    "gemma3_text-a",
    "mamba2-b",
    "gated_deltanet-a",
    "qwen3_next-a",
    "falcon_h1-a",
    "jamba-a",
    "lfm2_moe-a",
    "gpt_oss-a",
    "gemma4_text-b",
    "rwkv7-a",
    "phi3-b",
    "gguf/llama-k.gguf",
];

/// A prompt that repeats itself, for any vocabulary.
fn prompt(engine: &Engine, n: usize) -> Vec<u32> {
    let vocabulary = engine.model.decoder.vocabulary().min(30) as u32;
    (0..n as u32).map(|i| (i % 7 * 5 + i / 21) % vocabulary).collect()
}

#[derive(PartialEq)]
struct After {
    ids: Vec<u32>,
    ended: Ended,
    state: Vec<u8>,
}

/// Generates and saves the state, which has the position of the sampler.
fn generate(
    session: &Session,
    sampling: &Sampling,
    most: usize,
    speculation: &mut Speculation,
    until: impl Fn(&[u32]) -> bool,
) -> After {
    let mut session = session.clone();
    let mut sampler = Sampler::new(sampling.clone()).expect("valid options");
    let mut ids = Vec::new();
    let ended = session.generate(&mut sampler, most, speculation, |id| {
        ids.push(id);
        Ok::<_, Error>(if until(&ids) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    let mut state = Vec::new();
    session.save_to(&mut state, &sampler).expect("saved");
    After { ids, ended: ended.expect("generated"), state }
}

fn samplings() -> [Sampling; 3] {
    [
        Sampling::greedy(),
        Sampling { seed: 4, temperature: 0.5, ..Sampling::default() },
        Sampling { seed: 9, temperature: 0.3, repetition_penalty: 1.1, frequency_penalty: 0.2, ..Sampling::greedy() },
    ]
}

/// The same text, state and random numbers as without speculation.
#[track_caller]
fn unchanged(name: &str, session: &Session, most: usize, speculation: &mut Speculation) {
    for sampling in samplings() {
        let plain = generate(session, &sampling, most, &mut Speculation::none(), |_| false);
        let got = generate(session, &sampling, most, speculation, |_| false);
        assert_eq!(got.ids, plain.ids, "{name}: {sampling:?}");
        assert!(got == plain, "{name}: the state differs with {sampling:?}");
    }
}

#[test]
fn the_text_is_that_without_speculation() {
    let (mut proposed, mut accepted) = (0, 0);
    for name in KINDS {
        let engine = golden(name);
        let mut session = engine.session();
        session.keep_text();
        session.read(&prompt(&engine, 70)).expect("ids in range");
        let mut lookup = Speculation::lookup(&engine).expect("a model that takes proposals");
        unchanged(name, &session, 24, &mut lookup);
        // A model proposes to itself: it knows the tokens.
        let mut draft = Speculation::draft(&engine, &engine).expect("the same vocabulary");
        unchanged(name, &session, 24, &mut draft);
        assert!(draft.accepted == draft.proposed && draft.accepted >= 48, "{name}: {draft:?}");
        (proposed, accepted) = (proposed + lookup.proposed, accepted + lookup.accepted);
    }
    assert!(accepted > 0 && proposed > accepted, "{accepted} of {proposed} were accepted");
}

/// Another model of the same vocabulary proposes tokens that are mostly wrong.
#[test]
fn wrong_proposals_change_nothing() {
    let pairs = [["llama-a", "falcon_h1-a"], ["qwen3_next-a", "mistral-a"], ["falcon_h1-b", "qwen3_next-b"]];
    for [name, other] in pairs {
        let (engine, other) = (golden(name), golden(other));
        let mut session = engine.session();
        session.keep_text();
        session.read(&prompt(&engine, 90)).expect("ids in range");
        let mut draft = Speculation::draft(&engine, &other).expect("as many tokens");
        unchanged(name, &session, 20, &mut draft);
        assert!(draft.accepted < draft.proposed, "{draft:?}");
    }
}

/// The draft model has 128 positions, which the text exceeds from the beginning or while it grows.
#[test]
fn a_draft_model_with_fewer_positions_proposes_no_more() {
    let (engine, other) = (golden("gla-a"), golden("gpt2-a"));
    for (before, proposes) in [(118, true), (140, false)] {
        let mut session = engine.session();
        session.keep_text();
        session.read(&prompt(&engine, before)).expect("ids in range");
        let mut draft = Speculation::draft(&engine, &other).expect("as many tokens");
        unchanged("gla-a", &session, 24, &mut draft);
        assert_eq!(draft.proposed > 0, proposes, "{draft:?}");
    }
}

#[test]
fn a_text_that_is_broken_off_ends_there() {
    let engine = golden("llama-a");
    let mut session = engine.session();
    session.keep_text();
    session.read(&prompt(&engine, 80)).expect("ids in range");
    let mut draft = Speculation::draft(&engine, &engine).expect("the same vocabulary");
    for sampling in samplings() {
        for n in 1..9 {
            let until = |ids: &[u32]| ids.len() == n;
            let plain = generate(&session, &sampling, 30, &mut Speculation::none(), until);
            assert!(generate(&session, &sampling, 30, &mut draft, until) == plain, "broken off after {n}");
            let plain = generate(&session, &sampling, n, &mut Speculation::none(), |_| false);
            assert!(generate(&session, &sampling, n, &mut draft, |_| false) == plain, "at most {n}");
        }
    }
}

/// A cancelled text is a beginning of the whole one, and goes on to it.
#[test]
fn a_cancelled_text_goes_on_to_the_same() {
    let engine = golden("qwen3_next-a");
    let mut session = engine.session();
    session.keep_text();
    session.read(&prompt(&engine, 80)).expect("ids in range");
    let sampling = &samplings()[1];
    let whole = generate(&session, sampling, 20, &mut Speculation::none(), |_| false);
    for stop in [1, 2, 6, 7] {
        let mut draft = Speculation::draft(&engine, &engine).expect("the same vocabulary");
        let (mut session, cancel) = (session.clone(), Cancel::default());
        session.set_cancel(cancel.clone());
        let mut sampler = Sampler::new(sampling.clone()).expect("valid options");
        let mut ids = Vec::new();
        let mut each = |id| {
            ids.push(id);
            if ids.len() == stop {
                cancel.cancel();
            }
            Ok::<_, Error>(ControlFlow::Continue(()))
        };
        let ended = session.generate(&mut sampler, 20, &mut draft, &mut each).expect("generated");
        assert_eq!(ended, Ended::Cancelled);
        session.set_cancel(Cancel::default());
        let ended = session.generate(&mut sampler, 20 - stop, &mut draft, &mut each).expect("generated");
        assert_eq!((&ids, ended), (&whole.ids, Ended::Full), "cancelled after {stop}");
        let mut state = Vec::new();
        session.save_to(&mut state, &sampler).expect("saved");
        assert!(state == whole.state, "cancelled after {stop}");
    }
}

/// Proposals follow a text that forks and is taken back.
#[test]
fn one_proposer_serves_texts_that_fork() {
    let engine = embedded();
    let mut draft = Speculation::draft(engine, engine).expect("the same vocabulary");
    let mut lookup = Speculation::lookup(engine).expect("a model that takes proposals");
    let mut session = engine.session();
    session.keep_text();
    session.read_text("A trait is a trait is").expect("read");
    let mut fork = session.clone();
    fork.read_text(" what a type may do. A type is").expect("read");
    for of in [&session, &fork, &session, &engine_text("Ownership is")] {
        for speculation in [&mut draft, &mut lookup] {
            let plain = generate(of, &Sampling::greedy(), 8, &mut Speculation::none(), |_| false);
            assert!(generate(of, &Sampling::greedy(), 8, speculation, |_| false) == plain);
        }
    }
}

fn engine_text(text: &str) -> Session {
    let mut session = embedded().session();
    session.keep_text();
    session.read_text(text).expect("read");
    session
}

#[test]
fn a_model_that_cannot_take_proposals_back_says_so() {
    let segments = golden("transfo-xl-a");
    let error = Speculation::lookup(&segments).expect_err("refused").to_string();
    assert!(error.contains("transfo-xl-a: its layers remember segments of the text"), "{error}");
    let error = Speculation::draft(embedded(), &golden("mamba2-a")).expect_err("refused").to_string();
    assert!(error.contains("mamba2-a: a draft model must have the vocabulary of the model"), "{error}");
}

/// A saved state keeps the counts of presence and frequency penalties.
#[test]
fn penalties_go_on_behind_a_saved_state() {
    let folder: PathBuf = tempfile::tempdir().expect("a directory").keep();
    let file = folder.join("a.state");
    let session = engine_text("A trait is");
    let sampling = Sampling { frequency_penalty: 1.0, presence_penalty: 0.5, ..Sampling::greedy() };
    let whole = generate(&session, &sampling, 30, &mut Speculation::none(), |_| false);
    assert_ne!(whole.ids, generate(&session, &Sampling::greedy(), 30, &mut Speculation::none(), |_| false).ids);
    let half = generate(&session, &sampling, 14, &mut Speculation::none(), |_| false);
    std::fs::write(&file, &half.state).expect("written");
    let again = embedded().resume(&file).expect("restored").session;
    let rest = generate(&again, &sampling, 16, &mut Speculation::none(), |_| false);
    assert_eq!([half.ids, rest.ids].concat(), whole.ids);
    std::fs::remove_dir_all(folder).expect("removed");
}
