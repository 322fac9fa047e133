//! The cache of states changes no bit, holds its limits, and takes any damage of its files for a miss.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use longreach_engine::{CacheConfig, Engine, Reused, Sampler, Sampling, Session, StateCache, Texts, Tier};
use longreach_models::Progress;
use longreach_nn::KvDtype;
use longreach_testkit::fuzz;
use proptest::prelude::*;

/// Attention, windows, Mamba-2, the gated delta rule, RWKV-7, hybrids, latent attention, and memories of segments, whose cut is
/// 512 tokens.
const KINDS: &[&str] = &[
    "llama-a",
    "gemma3_text-a",
    "mamba2-b",
    "gated_deltanet-a",
    "rwkv7-a",
    "jamba-a",
    "kimi_linear-a",
    "falcon_h1-a",
    "minicpm_sala-a",
    "transfo-xl-a",
];

fn engine(kind: usize) -> &'static Engine {
    static ENGINES: OnceLock<Vec<OnceLock<Engine>>> = OnceLock::new();
    let engines = ENGINES.get_or_init(|| KINDS.iter().map(|_| OnceLock::new()).collect());
    engines[kind].get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens").join(KINDS[kind]);
        Engine::load(folder, None, Progress::Hidden).expect("a golden checkpoint").extrapolating()
    })
}

/// The bits of the logits after a prompt and after two tokens that are written behind it, and those tokens.
type Answer = (Vec<u32>, Vec<u32>, Vec<u32>);

fn answer(mut session: Session) -> Answer {
    let bits = |session: &Session| session.logits().expect("logits").iter().map(|x| x.to_bits()).collect();
    let first = bits(&session);
    let mut sampler = Sampler::new(Sampling { repetition_penalty: 1.3, ..Sampling::greedy() }).expect("options");
    let ids = (0..2).map(|_| session.next_token(&mut sampler).expect("a token")).collect();
    (first, ids, bits(&session))
}

/// The answer of an empty cache.
fn cold(kind: usize, ids: &[u32]) -> Answer {
    type Known = HashMap<(usize, Vec<u32>), Answer>;
    static ANSWERS: Mutex<Option<Known>> = Mutex::new(None);
    let key = (kind, ids.to_vec());
    if let Some(known) = ANSWERS.lock().expect("no panic").get_or_insert_default().get(&key) {
        return known.clone();
    }
    let mut session = engine(kind).session();
    session.read(ids).expect("read");
    let answer = answer(session);
    ANSWERS.lock().expect("no panic").get_or_insert_default().insert(key, answer.clone());
    answer
}

/// A text of blocks of 40 tokens, each one of two, and `rest` tokens.
fn text(blocks: &[bool], rest: usize) -> Vec<u32> {
    let block = |which: bool| (0..40u32).map(move |i| (i * 7 + u32::from(which) * 11 + 3) % 29);
    blocks.iter().flat_map(|which| block(*which)).chain((0..rest as u32).map(|i| i % 5 + 20)).collect()
}

#[derive(Clone, Debug)]
enum Deed {
    Read { blocks: Vec<bool>, rest: usize, second: bool },
    Restart,
    Damage { file: usize, at: usize, bit: u8 },
    Cut { file: usize, to: usize },
    Remove { file: usize },
}

fn deed() -> impl Strategy<Value = Deed> {
    let blocks = prop::collection::vec(any::<bool>(), 0..6);
    prop_oneof![
        8 => (blocks, 1usize..70, any::<bool>()).prop_map(|(blocks, rest, second)| Deed::Read { blocks, rest, second }),
        1 => Just(Deed::Restart),
        1 => (any::<usize>(), any::<usize>(), 0u8..8).prop_map(|(file, at, bit)| Deed::Damage { file, at, bit }),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(file, to)| Deed::Cut { file, to }),
        1 => any::<usize>().prop_map(|file| Deed::Remove { file }),
    ]
}

/// The files of states and rows, in order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        list(&directory.join("v1")).flat_map(|folder| list(&folder).collect::<Vec<_>>()).collect();
    files.sort();
    files
}

fn bytes_of(directory: &Path) -> u64 {
    files(directory).iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

const SOON: Duration = Duration::from_secs(60);

/// The bytes of the state after a text, so that limits are some states.
fn size(kind: usize) -> usize {
    let mut session = engine(kind).session();
    session.read(&text(&[true, false], 5)).expect("read");
    session.state().without_rows().bytes() + 40_000
}

proptest! {
    #![proptest_config(fuzz::config(40))]

    /// Whatever is kept, let go, damaged or shared, an answer has the bits of an empty cache, and limits hold.
    #[test]
    fn a_warm_answer_is_the_cold_one(
        kind in 0..KINDS.len(),
        ram in prop_oneof![Just(0usize), 1usize..12],
        disk in prop_oneof![Just(0u64), 1u64..20],
        deeds in prop::collection::vec(deed(), 1..12),
    ) {
        let folder = tempfile::tempdir().expect("a directory");
        let (ram, disk) = (ram * size(kind), disk * size(kind) as u64);
        let open = || {
            let directory = Some(folder.path().to_owned());
            StateCache::open(CacheConfig { ram, directory, disk }).expect("a cache")
        };
        let mut caches = [open(), open()];
        for deed in deeds {
            let mut files = files(folder.path());
            let mut chosen = |file: usize| (!files.is_empty()).then(|| files.swap_remove(file % files.len()));
            match deed {
                Deed::Read { blocks, rest, second } => {
                    let ids = text(&blocks, rest);
                    let texts = caches[usize::from(second)].texts(engine(kind), None, "");
                    let (session, reused) = texts.read(&ids, &[40], |_| {}).expect("read");
                    prop_assert!(reused.tokens <= ids.len());
                    prop_assert!(answer(session) == cold(kind, &ids), "{} behind {reused:?}", KINDS[kind]);
                }
                Deed::Restart => caches = [open(), open()],
                Deed::Damage { file, at, bit } => if let Some(file) = chosen(file) {
                    let mut bytes = std::fs::read(&file).expect("a file");
                    let at = at % bytes.len();
                    bytes[at] ^= 1 << bit;
                    std::fs::write(&file, bytes).expect("written");
                },
                Deed::Cut { file, to } => if let Some(file) = chosen(file) {
                    let bytes = std::fs::read(&file).expect("a file");
                    std::fs::write(&file, &bytes[..to % bytes.len()]).expect("written");
                },
                Deed::Remove { file } => if let Some(file) = chosen(file) {
                    std::fs::remove_file(file).expect("removed");
                },
            }
            for cache in &caches {
                prop_assert!(cache.flush(SOON));
                let stats = cache.stats();
                prop_assert!(stats.ram_bytes <= ram, "{stats:?}, {ram}");
                prop_assert!(stats.disk_bytes <= disk, "{stats:?}, {disk}");
                prop_assert_eq!(stats.write_failures, 0);
            }
            // Of both handles together, whose writers look at the directory before they write.
            prop_assert!(bytes_of(folder.path()) <= disk);
        }
    }
}

fn in_ram() -> StateCache {
    StateCache::open(CacheConfig { ram: 1 << 30, ..CacheConfig::default() }).expect("a cache")
}

fn reused(texts: &Texts, ids: &[u32], ends: &[usize]) -> usize {
    let (session, reused) = texts.read(ids, ends, |_| {}).expect("read");
    assert_eq!(session.tokens(), ids.len() as u64);
    reused.tokens
}

/// The same prompt is not read again; a longer one is from the last multiple of the cut, and so is one that shares a message.
#[test]
fn what_is_shared_is_not_read_again() {
    for kind in 0..KINDS.len() - 1 {
        let texts = in_ram().texts(engine(kind), None, "");
        let ids = text(&[true, true, false, true, false, true], 9);
        assert_eq!(reused(&texts, &ids, &[150]), 0);
        assert_eq!(reused(&texts, &ids, &[150]), ids.len(), "{}", KINDS[kind]);
        let longer = [&ids[..], &[1, 2, 3]].concat();
        assert_eq!(reused(&texts, &longer, &[]), ids.len() / 64 * 64, "{}", KINDS[kind]);
        // Only the first message is the same.
        let other = [&ids[..150], &text(&[false; 3], 1)].concat();
        assert_eq!(reused(&texts, &other, &[]), 128, "{}", KINDS[kind]);
        // A hundred tokens that were read twice are mostly known.
        let short = text(&[false, false], 20);
        assert_eq!([reused(&texts, &short, &[]), reused(&texts, &short, &[])], [0, 100], "{}", KINDS[kind]);
    }
}

/// A cache of no bytes works, cold.
#[test]
fn without_bytes_nothing_is_kept() {
    let cache = StateCache::open(CacheConfig::default()).expect("a cache");
    let texts = cache.texts(engine(0), None, "");
    let ids = text(&[true, true], 3);
    assert_eq!([reused(&texts, &ids, &[]), reused(&texts, &ids, &[])], [0, 0]);
    assert_eq!((cache.stats().ram_bytes, cache.stats().tokens), (0, 2 * ids.len() as u64));
}

/// States of another model, type of keys, tenant or salt are not found, in memory and in files.
#[test]
fn others_do_not_see_a_state() {
    let folder = tempfile::tempdir().expect("a directory");
    let open = || {
        let directory = Some(folder.path().to_owned());
        StateCache::open(CacheConfig { ram: 1 << 30, directory, disk: 1 << 30 }).expect("a cache")
    };
    let cache = open();
    let ids = text(&[true, false, true], 3);
    let mine = |cache: &StateCache| cache.texts(engine(0), Some("mine"), "");
    assert_eq!(reused(&mine(&cache), &ids, &[]), 0);
    assert!(cache.flush(SOON));
    for cache in [cache, open()] {
        for (engine, tenant, salt) in [
            (engine(0).clone(), Some("yours"), ""),
            (engine(0).clone(), None, ""),
            (engine(0).clone(), Some("mine"), "salt"),
            (engine(0).clone().with_kv_dtype(KvDtype::Bf16), Some("mine"), ""),
            (engine(0).clone().with_kv_dtype(KvDtype::Q8_0), Some("mine"), ""),
            (engine(1).clone(), Some("mine"), ""),
        ] {
            let found = cache.texts(&engine, tenant, salt).find(&ids, &[]);
            assert_eq!(found.reused, Reused { tokens: 0, tier: None }, "{tenant:?} {salt}");
        }
        assert_eq!(mine(&cache).find(&ids, &[]).reused.tokens, ids.len(), "a restart has the same secret");
    }
}

/// Keys in bf16 and in blocks of Q8_0 are kept and restored as they are.
#[test]
fn rounded_keys_come_back() {
    come_back(KvDtype::Bf16);
    come_back(KvDtype::Q8_0);
}

fn come_back(keys: KvDtype) {
    let folder = tempfile::tempdir().expect("a directory");
    let engine = engine(0).clone().with_kv_dtype(keys);
    let ids = text(&[true, false, true], 31);
    let mut plain = engine.session();
    plain.read(&ids).expect("read");
    let mut saved = Vec::new();
    let sampler = Sampler::new(Sampling::greedy()).expect("valid options");
    plain.save_to(&mut saved, &sampler).expect("saved");
    let again = engine.resume_from(&saved[..], "a.state".as_ref()).expect("taken up").session;
    assert!(answer(again) == answer(plain.clone()), "a saved state");
    let mut tiers = Vec::new();
    for _ in 0..2 {
        let directory = Some(folder.path().to_owned());
        let cache = StateCache::open(CacheConfig { ram: 1 << 30, directory, disk: 1 << 30 }).expect("a cache");
        for _ in 0..2 {
            let (session, reused) = cache.texts(&engine, None, "").read(&ids, &[], |_| {}).expect("read");
            assert!(answer(session) == answer(plain.clone()));
            tiers.push(reused.tier);
        }
        assert!(cache.flush(SOON));
    }
    assert_eq!(tiers, [None, Some(Tier::Ram), Some(Tier::Disk), Some(Tier::Ram)]);
}

/// Files can be read by their owner alone; a damaged one is removed and counted; one that cannot be written is counted, and the
/// states are then kept in memory only.
#[test]
#[cfg(unix)]
fn files_are_private_and_their_faults_are_counted() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a directory");
    let open = || {
        let directory = Some(folder.path().join("states"));
        StateCache::open(CacheConfig { ram: 1 << 30, directory, disk: 1 << 30 }).expect("a cache")
    };
    let ids = text(&[true, false, true], 3);
    let cache = open();
    reused(&cache.texts(engine(2), None, ""), &ids, &[]);
    assert!(cache.flush(SOON));
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    let all = files(&folder.path().join("states"));
    assert!(all.len() > 1);
    assert!(all.iter().all(|file| mode(file) == 0o600));
    assert!(all.iter().all(|file| mode(file.parent().expect("a folder")) == 0o700));
    assert_eq!(mode(&folder.path().join("states")), 0o700);
    for file in &all {
        let mut bytes = std::fs::read(file).expect("a file");
        let last = bytes.len() - 40;
        bytes[last] ^= 1;
        std::fs::write(file, bytes).expect("written");
    }
    let cache = open();
    assert_eq!(reused(&cache.texts(engine(2), None, ""), &ids, &[]), 0);
    assert!(cache.flush(SOON));
    assert_eq!(cache.stats().rejected, all.len() as u64);
    // Files stand where folders should be.
    let another =
        StateCache::open(CacheConfig { ram: 1 << 30, directory: Some(folder.path().join("other")), disk: 1 << 30 });
    let another = another.expect("a cache");
    for i in 0..256 {
        std::fs::write(folder.path().join(format!("other/v1/{i:02x}")), "in the way").expect("written");
    }
    let texts = another.texts(engine(2), None, "");
    assert_eq!([reused(&texts, &ids, &[]), reused(&texts, &ids, &[])], [0, ids.len()]);
    assert!(another.flush(SOON));
    let stats = another.stats();
    assert!(stats.write_failures == 1 && stats.last_failure.is_some(), "{stats:?}");
}

/// A session that has written tokens leaves no state, as its bits are not those of a text that was read.
#[test]
fn what_was_written_is_read_before_it_is_kept() {
    let texts = in_ram().texts(engine(0), None, "");
    let ids = text(&[true], 24);
    let mut session = engine(0).session();
    session.read(&ids[..60]).expect("read");
    let mut sampler = Sampler::new(Sampling::greedy()).expect("options");
    let mut read = ids[..60].to_vec();
    read.extend((0..4).map(|_| session.next_token(&mut sampler).expect("a token")));
    texts.keep(&read, &session);
    assert_eq!(texts.find(&read, &[]).reused.tokens, 0);
}

/// A state at the end of a text that is at no multiple of the model's cut is of that text alone, also where it is one of 64 tokens.
#[test]
fn the_end_of_a_text_within_a_cut_begins_no_other_text() {
    let kind = KINDS.len() - 1;
    let ids: Vec<u32> = (0..720).map(|i| (i * 7 + i / 40) % 29).collect();
    let directory = tempfile::tempdir().expect("a directory");
    let open = || {
        let config = CacheConfig { ram: 64 << 20, directory: Some(directory.path().into()), disk: 64 << 20 };
        StateCache::open(config).expect("a cache")
    };
    let cache = open();
    let texts = cache.texts(engine(kind), None, "");
    texts.read(&ids[..640], &[], |_| {}).expect("read");
    let (session, reused) = texts.read(&ids, &[], |_| {}).expect("read");
    assert_eq!(reused.tokens, 512);
    assert!(answer(session) == cold(kind, &ids));
    assert!(cache.flush(Duration::from_secs(60)));
    let texts = open().texts(engine(kind), None, "");
    assert!(answer(texts.read(&ids[..700], &[], |_| {}).expect("read").0) == cold(kind, &ids[..700]));
}
