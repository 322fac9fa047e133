//! Saved states: exact, and hostile ones refused.

use std::sync::{Arc, OnceLock};

use longreach_engine::{CHUNK, Cancel, Engine, Error, Sampler, Sampling, Session};
use longreach_simd::Cx;
use longreach_testkit::fuzz;
use proptest::prelude::*;

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::embedded(None).expect("the embedded model"))
}

fn sampler() -> Sampler {
    Sampler::new(Sampling::greedy()).expect("valid options")
}

fn bits(session: &Session) -> Vec<u32> {
    session.logits().expect("something was read").iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_state_goes_on_with_bit_identical_logits() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("a.state");
    let mut session = engine().session();
    session.read_text("A trait tells the compiler about functionality").expect("read");
    session.save(&file, &sampler()).expect("saved");
    let mut again = engine().resume(&file).expect("taken up").session;
    assert_eq!(bits(&session), bits(&again));
    assert_eq!(session.tokens(), again.tokens());
    let mut fork = session.clone();
    for text in [" a type has", " and can share"] {
        for s in [&mut session, &mut again, &mut fork] {
            s.read_text(text).expect("read");
        }
        assert_eq!(bits(&session), bits(&again));
        assert_eq!(bits(&session), bits(&fork));
    }
}

#[test]
fn text_behind_a_saved_state_continues_what_was_read() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("a.state");
    // The prompt ends within a character.
    let tokenizer = engine().tokenizer().expect("a tokenizer");
    let ids = tokenizer.encode("Types and 漢").expect("tokens");
    let (read, rest) = ids.split_at(ids.len() - 1);
    let mut session = engine().session();
    session.read(read).expect("read");
    session.save(&file, &sampler()).expect("saved");
    let again = engine().resume(&file).expect("taken up").session;
    for session in [&session, &again] {
        let mut writer = session.writer().expect("a writer");
        assert_eq!(writer.text(rest[0]).expect("a text"), "漢");
    }
}

#[test]
fn a_state_of_another_version_is_refused() {
    let mut bytes = Vec::new();
    let mut session = engine().session();
    session.read_text("A trait tells").expect("read");
    session.save_to(&mut bytes, &sampler()).expect("saved");
    let format = b"longreach state 6";
    let at = bytes.windows(format.len()).position(|window| window == format).expect("the format");
    bytes[at + format.len() - 1] = b'3';
    let error = engine().resume_from(&bytes[..], "a.state".as_ref()).err().expect("refused").to_string();
    assert!(error.contains("found `longreach state 3`: it was saved by another version"), "{error}");
}

/// A reader that panics beyond its first `left` bytes.
struct Until<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl std::io::Read for Until<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let n = to.len().min(self.bytes.len());
        assert!(n <= self.left, "more than the header was read");
        to[..n].copy_from_slice(&self.bytes[..n]);
        (self.bytes, self.left) = (&self.bytes[n..], self.left - n);
        Ok(n)
    }
}

#[test]
fn states_are_streamed_and_the_fingerprint_is_checked_before_the_tensors() {
    let mut bytes = Vec::new();
    let mut session = engine().session();
    session.read_text("A trait tells").expect("read");
    session.save_to(&mut bytes, &sampler()).expect("saved");
    let again = engine().resume_from(&bytes[..], "memory".as_ref()).expect("restored").session;
    assert_eq!(bits(&session), bits(&again));
    // Other tools read the file, too.
    let stored = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    assert!(stored.names().iter().any(|name| name.starts_with("layers.0.0.")), "{:?}", stored.names());
    let print = engine().fingerprint();
    let at = bytes.windows(print.len()).position(|window| window == print.as_bytes()).expect("the fingerprint");
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let reader = Until { bytes: &bytes, left: header };
    let error = engine().resume_from(reader, "memory".as_ref()).err().expect("refused").to_string();
    assert!(error.contains("saved with another model"), "{error}");
}

#[test]
fn cutting_a_prompt_changes_nothing_but_rounding() {
    let text = "The ownership rules are simple to say and take some time to learn. ".repeat(60);
    let ids = engine().tokenizer().expect("a tokenizer").encode(&text).expect("encodes");
    let mut whole = engine().session();
    whole.read(&ids).expect("read");
    let mut steps = engine().session();
    for part in ids.chunks(3) {
        steps.read(part).expect("read");
    }
    for (a, b) in whole.logits().expect("read").iter().zip(steps.logits().expect("read")) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
}

#[test]
fn nothing_read_is_an_error() {
    assert!(engine().session().logits().is_err());
    assert!(engine().session().write(3, Sampling::greedy()).is_err());
    assert!(engine().session().read(&[u32::MAX]).is_err());
    assert!(engine().session().read_text("").is_err());
}

/// A state with a flipped bit would go on with other logits: it is refused, wherever the bit is.
#[test]
fn a_flipped_bit_is_damage() {
    let mut bytes = Vec::new();
    let mut session = engine().session();
    session.read_text("A trait").expect("read");
    session.save_to(&mut bytes, &sampler()).expect("saved");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let name = std::path::Path::new("a.state");
    assert!(engine().resume_from(&bytes[..], name).is_ok());
    for at in (0..header).step_by(97).chain([header, header + 1001, bytes.len() - 1]) {
        bytes[at] ^= 1;
        let error = engine().resume_from(&bytes[..], name).err().expect("refused").to_string();
        assert!(error.contains("a.state") && (at < header || error.contains("damaged")), "{at}: {error}");
        bytes[at] ^= 1;
    }
}

proptest! {
    #![proptest_config(fuzz::config(60))]

    #[test]
    fn a_state_with_bytes_changed_is_taken_up_or_refused(at in 0usize..3000, to in any::<u8>(), cut in 0usize..2_000_000) {
        static STATE: OnceLock<Vec<u8>> = OnceLock::new();
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("a.state");
        let mut bytes = STATE.get_or_init(|| {
            let mut session = engine().session();
            session.read_text("A trait").expect("read");
            session.save(&file, &sampler()).expect("saved");
            std::fs::read(&file).expect("saved")
        }).clone();
        let end = bytes.len();
        bytes[at] = to;
        bytes.truncate(end - (cut % end) * (cut % 2));
        std::fs::write(&file, bytes).expect("written");
        if let Err(error) = engine().resume(&file) {
            prop_assert!(error.to_string().contains("a.state"), "{}", error);
        }
    }
}

/// Engines with contexts of their own live beside each other: each session runs with its engine's threads, and both give the same bits.
#[test]
fn two_engines_with_different_threads_in_one_process() {
    fn owned<T: Send + Sync + 'static>(_: &T) {}
    let text = "A trait is a collection of methods. ".repeat(40);
    let with = |threads| engine().clone().with_context(Arc::new(Cx::new(threads)));
    let read = |engine: Engine, threads: usize| {
        let mut session = engine.session();
        owned(&session);
        owned(&engine);
        drop(engine);
        let name = "a text";
        session.read_from(text.as_bytes(), name, |_| {}).expect("text");
        assert_eq!(with(threads).run(|| longreach_burn::context().team.threads()), threads);
        bits(&session)
    };
    let [one, three] = std::thread::scope(|s| {
        let one = s.spawn(|| read(with(1), 1));
        let three = s.spawn(|| read(with(3), 3));
        [one, three].map(|thread| thread.join().expect("no panic"))
    });
    assert_eq!(one, three);
    assert_eq!(one, read(engine().clone(), longreach_burn::context().team.threads()));
}

/// A session that is cancelled stops between two chunks, keeps what it has read, and can read on.
#[test]
fn a_cancelled_session_can_read_on() {
    let ids: Vec<u32> = (0..CHUNK as u32 * 2 + 10).map(|i| i * 7 % 500).collect();
    let (mut whole, mut session, cancel) = (engine().session(), engine().session(), Cancel::default());
    whole.read(&ids).expect("ids in range");
    session.set_cancel(cancel.clone());
    let text = "A trait is a collection of methods. ".repeat(400);
    let mut chunks = 0;
    let stopped = session.read_from(text.as_bytes(), "a text", |_| {
        chunks += 1;
        if chunks == 2 {
            cancel.cancel();
        }
    });
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    let tokens = session.tokens();
    assert!(tokens > 0 && tokens % CHUNK as u64 == 0, "{tokens}");
    assert!(matches!(session.read(&ids), Err(Error::Cancelled)));
    assert_eq!(session.tokens(), tokens);
    let mut fresh = engine().session();
    fresh.set_cancel(cancel);
    assert!(matches!(fresh.read(&ids), Err(Error::Cancelled)) && fresh.tokens() == 0 && fresh.logits().is_err());
    fresh.set_cancel(Cancel::default());
    fresh.read(&ids).expect("ids in range");
    assert_eq!(bits(&fresh), bits(&whole));
}
