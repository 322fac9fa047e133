//! A cache of states: what a model has read once is not read again, and no bit of an answer depends on it.
//!
//! The states of a text are kept at some of its tokens, in memory and, if wanted, in a directory that outlives the process. A
//! text that begins with the same tokens goes on from the deepest of them. It is exact because reading is a function of the
//! tokens alone: see [`Decoder::cut`](longreach_nn::Decoder::cut). States that were left by generating are not kept: what was
//! generated is read once when it becomes part of a prompt.
//!
//! ```
//! use longreach_engine::{CacheConfig, Engine, StateCache};
//!
//! let engine = Engine::embedded(None)?;
//! let cache = StateCache::open(CacheConfig { ram: 64 << 20, ..CacheConfig::default() })?;
//! let texts = cache.texts(&engine, None, "");
//! let prompt = engine.tokenizer()?.encode(&"Ownership is a set of rules. ".repeat(40))?;
//! let (_, first) = texts.read(&prompt, &[], |_| {})?;
//! let (session, second) = texts.read(&prompt, &[], |_| {})?;
//! assert_eq!((first.tokens, second.tokens), (0, prompt.len()));
//! assert!(session.logits().is_ok());
//! # Ok::<(), longreach_engine::Error>(())
//! ```

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{Engine, Error};

mod disk;
pub(crate) mod format;
mod key;
mod places;
mod ram;
mod secret;
mod snapshot;
mod stats;
mod texts;
mod writer;

use key::Root;
use ram::Ram;
pub use stats::{CacheStats, Tier};
pub use texts::{Found, Reused, Texts};
use writer::{Directory, locked};

/// The sizes of a [`StateCache`] and where its files are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheConfig {
    /// Bytes in memory; 0 keeps no state in memory.
    pub ram: usize,
    /// The directory of the files, which is made if it is not there; `None` keeps states in memory only.
    pub directory: Option<PathBuf>,
    /// Bytes of the files. Several processes that share a directory should have the same limit.
    pub disk: u64,
}

/// A cache of states. A clone is the same cache; any number of threads, models and tenants share it.
#[derive(Clone)]
pub struct StateCache(Arc<Inner>);

struct Inner {
    ram: Mutex<Ram>,
    directory: Option<Directory>,
    secret: [u8; 32],
    tokens: AtomicU64,
    from: [AtomicU64; 2],
    /// Tokens a second that models read, of the last reading; 0 if it is not known.
    speed: AtomicU64,
    keeps: bool,
}

impl StateCache {
    /// Opens a cache. The directory may be shared with other processes, and files may have been removed or damaged: those are
    /// read as if they were not there. An error if the directory is not there and cannot be made.
    pub fn open(config: CacheConfig) -> Result<Self, Error> {
        let directory = config.directory.filter(|_| config.disk > 0);
        let directory = directory.map(|path| {
            let path = path.join("v1");
            let open = || {
                disk::make_private(&path)?;
                Ok((secret::of(&path), Directory::open(&path, config.disk)?))
            };
            open().map_err(|source| Error::Io { path, source })
        });
        let (secret, directory) = directory.transpose()?.unzip();
        Ok(Self(Arc::new(Inner {
            ram: Mutex::new(Ram::new(config.ram)),
            keeps: config.ram > 0 || directory.is_some(),
            directory,
            secret: secret.flatten().unwrap_or_else(secret::fresh),
            tokens: AtomicU64::new(0),
            from: [AtomicU64::new(0), AtomicU64::new(0)],
            speed: AtomicU64::new(0),
        })))
    }

    /// The texts of an engine in this cache. `tenant` is a name or a key of whoever sent them, `None` if all are one; it is not
    /// stored, and states are found with the same tenant and `salt` only. The first call for a model hashes its weights.
    pub fn texts(&self, engine: &Engine, tenant: Option<&str>, salt: &str) -> Texts {
        let tenant = tenant.map_or([0; 32], |name| *blake3::keyed_hash(&self.0.secret, name.as_bytes()).as_bytes());
        Texts::new(self.clone(), engine.clone(), Root::new(engine, &tenant, salt))
    }

    /// What the cache holds and has done.
    pub fn stats(&self) -> CacheStats {
        let ram = locked(&self.0.ram);
        let [from_ram, from_disk] = self.0.from.each_ref().map(|n| n.load(Ordering::Relaxed));
        let mut stats = CacheStats {
            ram_bytes: ram.bytes(),
            ram_states: ram.states(),
            ram_evictions: ram.evictions,
            tokens_from_ram: from_ram,
            tokens_from_disk: from_disk,
            tokens: self.0.tokens.load(Ordering::Relaxed),
            ..CacheStats::default()
        };
        drop(ram);
        if let Some(directory) = &self.0.directory {
            let counts = directory.counts();
            stats.pending_bytes = counts.pending;
            stats.rejected = counts.rejected;
            stats.write_failures = counts.failures;
            stats.slow_reads = counts.slow;
            stats.last_failure = counts.last_failure;
            let disk = locked(&directory.shared.disk);
            (stats.disk_bytes, stats.disk_states, stats.disk_evictions) = (disk.bytes(), disk.states(), disk.evictions);
        }
        stats
    }

    /// Waits until what was kept so far is in the directory, for `most` at most; returns whether it is. A cache that is dropped
    /// waits for five seconds by itself.
    pub fn flush(&self, most: Duration) -> bool {
        self.0.directory.as_ref().is_none_or(|directory| directory.flush(most))
    }
}

#[cfg(test)]
mod tests {
    use longreach_models::Progress;

    use super::*;

    fn golden(name: &str) -> Engine {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens").join(name);
        Engine::load(folder, None, Progress::Hidden).expect("a golden").extrapolating()
    }

    /// Texts whose states count as large, so that the grid of states is coarse.
    fn coarse(engine: &Engine) -> Texts {
        let cache = StateCache::open(CacheConfig { ram: 1 << 30, ..CacheConfig::default() }).expect("a cache");
        let mut texts = cache.texts(engine, None, "");
        texts.bytes = 1 << 30;
        texts
    }

    fn reused(texts: &Texts, ids: &[u32]) -> usize {
        texts.read(ids, &[], |_| {}).expect("read").1.tokens
    }

    /// A prompt that leaves a known one where no state was kept leaves a state there, so that the third one is warm.
    #[test]
    fn a_second_branch_teaches() {
        let texts = coarse(&golden("mamba2-b"));
        let known: Vec<u32> = (0..1200).map(|i| i * 7 % 29).collect();
        let branch = |n: u32| [&known[..500], &[n; 90]].concat();
        let counts = [&known, &branch(20), &branch(21)].map(|ids| reused(&texts, ids));
        assert_eq!((counts[0], counts[2]), (0, 448));
        assert!(counts[1] < 448, "{counts:?}");
    }

    #[test]
    fn an_edit_costs_at_most_twice_its_distance_from_the_end() {
        for name in ["llama-a", "mamba2-b"] {
            let texts = coarse(&golden(name));
            let ids: Vec<u32> = (0..700).map(|i| (i * 7 + i / 40) % 29).collect();
            let mut most = reused(&texts, &ids);
            for d in [1, 30, 64, 100, 190, 300, 450] {
                let mut edited = ids.clone();
                edited[ids.len() - d] = 29;
                let known = texts.find(&edited, &[]).reused.tokens;
                assert!(ids.len() - known <= 2 * d + 128, "{name}: {known} tokens known of an edit at {d}");
                most = most.max(known);
            }
            assert!(most > 500);
        }
    }

    /// The bytes that are counted step by step are those of what is kept, whatever comes and goes, with keys that states share.
    #[test]
    fn bytes_are_those_of_what_is_kept() {
        for name in ["llama-a", "gemma3_text-a", "jamba-a"] {
            let engine = golden(name);
            let mut session = engine.session();
            session.read(&[1; 200]).expect("read");
            let ram = 2 * session.state_bytes();
            let cache = StateCache::open(CacheConfig { ram, ..CacheConfig::default() }).expect("a cache");
            let texts = cache.texts(&engine, None, "");
            for round in 0..30u32 {
                let ids: Vec<u32> = (0..150 + 7 * round).map(|i| (i / 60 * (1 + round % 3) + i) % 50).collect();
                texts.read(&ids, &[70], |_| {}).expect("read");
                let ram = locked(&cache.0.ram);
                assert_eq!(ram.bytes(), ram.counted(), "{name}");
            }
            let stats = cache.stats();
            assert!(stats.ram_evictions > 0 && stats.ram_states > 1 && stats.ram_bytes <= ram, "{name}: {stats:?}");
        }
    }
}
