//! A text that several ranks read has the bits of one that reads it alone, for every kind of state, and whenever messages arrive.

use std::path::Path;
use std::sync::OnceLock;

use longreach_cluster::{Error as RanksError, Ranks, Threads};
use longreach_engine::{Engine, Error, Sampler, Sampling, Session};
use longreach_models::Progress;
use longreach_nn::KvDtype;
use proptest::prelude::*;

/// Full attention, windows, latent vectors, learned positions, every family of recurrences, hybrids, layers that share keys, and memories of
/// segments.
const KINDS: &[&str] = &[
    "llama-a",
    "gpt2-a",
    "gemma3_text-a",
    "gemma4_text-a",
    "mamba-a",
    "mamba2-b",
    "gated_deltanet-a",
    "rwkv-a",
    "rwkv7-a",
    "recurrent_gemma-a",
    "jamba-a",
    "zamba2-a",
    "kimi_linear-a",
    "falcon_h1-a",
    "minicpm_sala-a",
    "transfo-xl-a",
];

fn folder(kind: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens").join(kind)
}

fn engine(kind: usize) -> &'static Engine {
    static ENGINES: OnceLock<Vec<OnceLock<Engine>>> = OnceLock::new();
    let engines = ENGINES.get_or_init(|| KINDS.iter().map(|_| OnceLock::new()).collect());
    engines[kind].get_or_init(|| {
        Engine::load(folder(KINDS[kind]), None, Progress::Hidden).expect("a golden checkpoint").extrapolating()
    })
}

fn ids(engine: &Engine, n: usize) -> Vec<u32> {
    let vocabulary = engine.model.decoder.vocabulary() as u32;
    (0..n as u32).map(|t| (t * t * 11 + 17 * t + 5) % vocabulary).collect()
}

/// Runs `lead` on rank 0 while the others follow, and returns its result and the bytes that were sent.
fn over<T: Send>(
    engine: &Engine,
    threads: Threads,
    lead: impl Fn(&dyn Ranks) -> Result<T, Error> + Sync,
) -> Result<(T, u64), RanksError> {
    let failed = |error: Error| match error {
        Error::Ranks(error) => error,
        other => RanksError::Transport(other.to_string()),
    };
    let results = threads.run(|ranks| {
        if ranks.rank() > 0 {
            engine.follow(ranks).map_err(failed)?;
            return Ok((None, ranks.sent()));
        }
        let result = lead(ranks).map_err(failed)?;
        engine.dismiss(ranks).map_err(failed)?;
        Ok((Some(result), ranks.sent()))
    })?;
    let sent = results.iter().map(|(_, sent)| sent).sum();
    Ok((results.into_iter().find_map(|(result, _)| result).expect("rank 0 has a result"), sent))
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn hidden_states_and_logits_of_every_kind_have_the_bits_of_one_rank() {
    for (kind, name) in KINDS.iter().enumerate() {
        let engine = engine(kind);
        for (ranks, tokens, most) in [(2, 20, 9), (3, 40, 7), (4, 9, 9)] {
            let ids = ids(engine, tokens);
            let want = engine.model.evaluate(&ids, None, 1, tokens, most);
            let threads = Threads::new(ranks).delayed(kind as u64);
            let (got, _) = over(engine, threads, |ranks| engine.evaluate_over(&ids, most, ranks)).expect(name);
            assert_eq!(bits(&got.hidden), bits(&want.hidden), "{name}, {ranks} ranks");
            assert_eq!(bits(&got.logits), bits(&want.logits), "{name}, {ranks} ranks");
        }
    }
}

/// The logits, the saved state, and two tokens behind the text.
fn answer(mut session: Session) -> (Vec<u32>, Vec<u8>, Vec<u32>) {
    let mut sampler = Sampler::new(Sampling { repetition_penalty: 1.3, ..Sampling::greedy() }).expect("options");
    let (logits, mut state) = (bits(session.logits().expect("logits")), Vec::new());
    session.save_to(&mut state, &sampler).expect("saved");
    let ids = (0..2).map(|_| session.next_token(&mut sampler).expect("a token")).collect();
    (logits, state, ids)
}

#[test]
fn a_session_that_ranks_have_read_is_the_session() {
    for (kind, dtype) in
        [(0, KvDtype::Bf16), (0, KvDtype::Q8_0), (2, KvDtype::F32), (5, KvDtype::F32), (15, KvDtype::F32)]
    {
        let engine = engine(kind).clone().with_kv_dtype(dtype);
        // Two texts, the second behind the first, with calls of the model's cut in both.
        let ids = ids(&engine, 1250);
        let (first, second) = ids.split_at(1030);
        let mut alone = engine.session();
        alone.read(first).and_then(|()| alone.read(second)).expect("read");
        let want = answer(alone);
        let (got, _) = over(&engine, Threads::new(3).delayed(1), |ranks| {
            let mut session = engine.session();
            let mut done = Vec::new();
            session.read_over(first, ranks, |tokens| done.push(tokens))?;
            assert!(done.is_sorted() && done.last() == Some(&1030), "{done:?}");
            session.read_over(second, ranks, |_| {})?;
            Ok(answer(session))
        })
        .expect(KINDS[kind]);
        assert_eq!(got.0, want.0, "{}: logits", KINDS[kind]);
        assert_eq!(got.1, want.1, "{}: the saved state", KINDS[kind]);
        assert_eq!(got.2, want.2, "{}: the text", KINDS[kind]);
    }
}

/// The state of every layer is sent once behind each chunk but the last; then the whole state goes to rank 0.
#[test]
fn bytes_sent_are_those_of_the_states() {
    let engine = engine(5);
    let ids = ids(engine, 512 * 3 + 9);
    let mut alone = engine.session();
    alone.read(&ids).expect("read");
    let state = alone.state().bytes() as f64;
    for ranks in [2, 3] {
        let (_, sent) = over(engine, Threads::new(ranks), |ranks| {
            let mut session = engine.session();
            session.read_over(&ids, ranks, |_| {})
        })
        .expect("read");
        let last = if 3 % ranks == 0 { 0.0 } else { state + 4.0 * engine.model.decoder.vocabulary() as f64 };
        let tokens: usize = (0..4).filter(|c| c % ranks != 0).map(|c| if c < 3 { 512 } else { 9 }).sum();
        let want = 3.0 * state + last + 4.0 * tokens as f64;
        assert!((sent as f64 / want - 1.0).abs() < 0.05, "{ranks} ranks: {sent} bytes, want {want}");
    }
}

#[test]
fn a_text_that_cannot_be_read_is_refused_before_anything_is_sent() {
    let engine = engine(5);
    let vocabulary = engine.model.decoder.vocabulary() as u32;
    let (refused, _) = over(engine, Threads::new(2), |ranks| {
        let mut session = engine.session();
        let error = session.read_over(&[1, vocabulary], ranks, |_| {}).expect_err("out of range");
        assert_eq!(ranks.sent(), 0);
        Ok(error.to_string())
    })
    .expect("the ranks are dismissed");
    assert!(refused.contains("out of range"), "{refused}");
}

#[test]
fn a_rank_that_ends_ends_the_reading() {
    let engine = engine(5);
    let ids = ids(engine, 1600);
    let ran = Threads::new(3).run(|ranks| match ranks.rank() {
        0 => engine.session().read_over(&ids, ranks, |_| {}).map_err(|error| match error {
            Error::Ranks(error) => error,
            other => RanksError::Transport(other.to_string()),
        }),
        1 => engine.follow(ranks).map_err(|_| RanksError::Lost { rank: 2, waiting: 1 }),
        _ => Err(RanksError::Transport("rank 2 has no memory left".into())),
    });
    assert_eq!(ran, Err(RanksError::Transport("rank 2 has no memory left".into())));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    /// Any number of ranks, chunks of any length, any schedule of messages.
    #[test]
    fn chunks_and_schedules_change_no_bit(
        kind in 0..KINDS.len(),
        ranks in 1usize..5,
        tokens in 1usize..40,
        most in 1usize..16,
        seed in any::<u64>(),
    ) {
        let engine = engine(kind);
        let ids = ids(engine, tokens);
        let want = engine.model.evaluate(&ids, None, 1, tokens, most);
        let threads = Threads::new(ranks).delayed(seed);
        let (got, _) = over(engine, threads, |ranks| engine.evaluate_over(&ids, most, ranks)).expect("evaluated");
        prop_assert_eq!(bits(&got.logits), bits(&want.logits), "{}", KINDS[kind]);
    }
}
