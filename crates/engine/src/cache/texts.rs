//! The texts of one model and tenant: finding the deepest state, and keeping states while a prompt is read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use longreach_nn::{ROWS, first_row};

use super::key::{Key, Path, Root};
use super::places::places;
use super::snapshot::{Reached, Rows, Snapshot};
use super::writer::{Directory, Read, locked};
use super::{StateCache, Tier};
use crate::{Cancel, Engine, Error, Session};

/// A read of the directory may take as long as reading the tokens again, and no less than this: a thread has to wake up.
const LEAST_WAIT: Duration = Duration::from_millis(100);
/// As long may the first one take, when it is not known how fast tokens are read.
const FIRST_WAIT: Duration = Duration::from_secs(5);

/// The texts of one model and tenant in a [`StateCache`].
#[derive(Clone)]
pub struct Texts {
    cache: StateCache,
    engine: Engine,
    root: Root,
    /// Bytes of a state without cached keys.
    pub(super) bytes: usize,
}

/// What was not read of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reused {
    /// How many of its tokens.
    pub tokens: usize,
    /// Where their state was; `None` if nothing was found.
    pub tier: Option<Tier>,
}

/// A prompt of which a part need not be read.
pub struct Found {
    /// The session after [`Reused::tokens`] tokens. It has logits if those are all tokens of the prompt.
    pub session: Session,
    /// What need not be read.
    pub reused: Reused,
    /// Where reading should halt and [`Texts::keep`] be called: numbers of tokens, ascending, the last of which is the length of
    /// the prompt. Empty if all was found.
    pub halts: Vec<usize>,
}

impl Texts {
    pub(super) fn new(cache: StateCache, engine: Engine, root: Root) -> Self {
        let bytes = engine.run(|| engine.model.decoder.start(1).without_rows().bytes());
        Self { cache, engine, root, bytes }
    }

    /// The deepest state of a text that begins `ids`, and where to keep states while the rest is read. `ends` are the ends of
    /// messages within `ids`. O(tokens) time, and a read of the directory where that is faster than the model.
    pub fn find(&self, ids: &[u32], ends: &[usize]) -> Found {
        let inner = &self.cache.0;
        let path = Path::new(&self.root, ids);
        inner.tokens.fetch_add(ids.len() as u64, Ordering::Relaxed);
        let mut ram = locked(&inner.ram);
        let leaves = ram.visit(&path);
        let in_ram = ram.deepest(&path, |state| self.serves(state.tokens, ids.len(), state.logits.is_some()));
        drop(ram);
        let so_far = in_ram.as_ref().map_or(0, |state| state.tokens);
        let on_disk = inner.directory.as_ref().and_then(|directory| self.on_disk(directory, &path, so_far));
        let (found, tier) = match (on_disk, in_ram) {
            (Some(state), _) => (Some(state), Some(Tier::Disk)),
            (None, Some(state)) => (Some(state), Some(Tier::Ram)),
            (None, None) => (None, None),
        };
        let session = self.engine.run(|| match &found {
            Some(state) => Session::kept(&self.engine, state.cache(), &ids[..state.tokens], state.logits.clone()),
            None => self.engine.session(),
        });
        let tokens = session.tokens() as usize;
        match tier {
            Some(Tier::Ram) => inner.from[0].fetch_add(tokens as u64, Ordering::Relaxed),
            Some(Tier::Disk) => inner.from[1].fetch_add(tokens as u64, Ordering::Relaxed),
            None => 0,
        };
        let cut = self.engine.model.decoder.cut();
        let halts = match inner.keeps {
            true => places(cut, (tokens, ids.len()), self.bytes, ends.iter().copied().chain(leaves)),
            false if tokens < ids.len() => vec![ids.len()],
            false => Vec::new(),
        };
        Found { session, reused: Reused { tokens, tier }, halts }
    }

    /// Whether a text of `n` tokens goes on from a state after `p` of them: at a multiple of the model's cut, or at its own end,
    /// where the logits are wanted.
    fn serves(&self, p: usize, n: usize, logits: bool) -> bool {
        if p == n { logits } else { p.is_multiple_of(self.engine.model.decoder.cut().tokens) }
    }

    /// The deepest state in the directory, beyond `so_far` tokens. It is kept in memory from then on.
    fn on_disk(&self, directory: &Directory, path: &Path<'_>, so_far: usize) -> Option<Arc<Snapshot>> {
        let n = path.tokens();
        let whole = (0..=n / ROWS).rev().map(|i| i * ROWS).filter(|p| *p < n);
        let places = std::iter::once(n).chain(whole).take_while(|p| *p > so_far);
        for p in places.filter(|p| self.serves(*p, n, true)) {
            let key = path.state(p);
            if !directory.has(&key) {
                continue;
            }
            if let Some(state) = self.load(directory, path, (p, &key), p - so_far) {
                let state = Arc::new(state);
                locked(&self.cache.0.ram).keep(path, state.clone());
                return Some(state);
            }
        }
        None
    }

    /// The state after `p` tokens from the directory, if it saves `saved` tokens in time.
    fn load(&self, directory: &Directory, path: &Path<'_>, (p, key): (usize, &Key), saved: usize) -> Option<Snapshot> {
        let initial = self.engine.run(|| self.engine.session().cache);
        let wanted: Vec<(usize, Vec<Key>)> = initial
            .reaches()
            .into_iter()
            .map(|reach| {
                let firsts = (first_row(reach, p)..p / ROWS * ROWS).step_by(ROWS);
                (reach, firsts.map(|first| path.rows(reach, first)).collect())
            })
            .collect();
        let ram = locked(&self.cache.0.ram);
        let known: Vec<_> = wanted.iter().flat_map(|(_, keys)| keys).map(|key| (*key, ram.known(key))).collect();
        drop(ram);
        let missing = known.iter().filter(|(_, rows)| rows.is_none()).map(|(key, _)| *key).collect();
        let speed = self.cache.0.speed.load(Ordering::Relaxed);
        let most = if speed == 0 { FIRST_WAIT } else { Duration::from_secs_f64(saved as f64 / speed as f64) };
        let Read { state: (header, mut tensors), rows } = directory.read(*key, missing, most.max(LEAST_WAIT))?;
        let mut rows = rows.into_iter();
        let mut known = known.into_iter();
        let restored = self.engine.run(|| {
            let logits = tensors.take("logits", &[None]).ok();
            let vocabulary = self.engine.model.decoder.vocabulary();
            let logits = logits.and_then(|x| x.try_into_vec::<f32>().ok()).filter(|x| x.len() == vocabulary);
            let mut reached = Vec::new();
            for (reach, keys) in &wanted {
                let mut of_reach = Vec::new();
                for key in keys {
                    let found = match known.next().and_then(|(_, found)| found) {
                        Some(found) => found,
                        None => {
                            let mut tensors = rows.next()?;
                            Arc::new(initial.restored_rows(*reach, |name, want| tensors.take(name, want)).ok()?)
                        }
                    };
                    of_reach.push(Rows { key: *key, rows: found });
                }
                reached.push(Reached { reach: *reach, rows: of_reach });
            }
            let rest = initial.clone().restored(p, |name, want| tensors.take(name, want)).ok()?;
            Some(Snapshot { tokens: p, rest, logits, reached })
        });
        if restored.is_none() || header.tokens != p {
            directory.reject(key);
            return None;
        }
        restored.filter(|state| p < path.tokens() || state.logits.is_some())
    }

    /// Keeps the state of a session that has read the first tokens of `ids`, as many as [`Session::tokens`] says. One that was
    /// not left by reading alone, or that is at no multiple of the model's cut and not at the end, is not kept. Copies the state,
    /// but for cached keys that are kept already.
    pub fn keep(&self, ids: &[u32], session: &Session) {
        let inner = &self.cache.0;
        let tokens = session.tokens() as usize;
        let whole = tokens == ids.len();
        let at_cut = tokens.is_multiple_of(self.engine.model.decoder.cut().tokens);
        if !inner.keeps || !session.canonical || tokens == 0 || tokens > ids.len() || !(whole || at_cut) {
            return;
        }
        let path = Path::new(&self.root, &ids[..tokens]);
        let key = path.state(tokens);
        let logits = (whole && !session.logits.is_empty()).then(|| session.logits.clone());
        let there = locked(&inner.ram).at(&path, tokens);
        if there.is_some_and(|there| there.logits.is_some() || logits.is_none()) {
            return;
        }
        let known = |key: &Key| locked(&inner.ram).known(key);
        let taken = self.engine.run(|| Snapshot::of(&session.cache, &path, (tokens, logits), known));
        let Some(state) = taken.map(Arc::new) else { return };
        let worth = locked(&inner.ram).keep(&path, state.clone());
        if let Some(directory) = &inner.directory {
            directory.write(key, worth, state);
        }
    }

    /// Reads a prompt: goes on from the deepest state, and keeps others on the way. `ends` are the ends of messages within `ids`;
    /// `progress` is called with the number of tokens that are known, from time to time. Errors as [`Session::read`] does.
    pub fn read(&self, ids: &[u32], ends: &[usize], progress: impl FnMut(u64)) -> Result<(Session, Reused), Error> {
        self.read_until(ids, ends, &Cancel::default(), progress)
    }

    /// As [`Texts::read`], until it is cancelled; the session has this flag.
    pub fn read_until(
        &self,
        ids: &[u32],
        ends: &[usize],
        cancel: &Cancel,
        mut progress: impl FnMut(u64),
    ) -> Result<(Session, Reused), Error> {
        let Found { mut session, reused, halts } = self.find(ids, ends);
        session.set_cancel(cancel.clone());
        // What cannot be read whole is not read at all.
        session.check_room(ids.len() - reused.tokens)?;
        progress(session.tokens());
        let start = Instant::now();
        for halt in halts {
            let at = session.tokens() as usize;
            session.read_showing(&ids[at..halt], |done| progress(at as u64 + done))?;
            self.keep(ids, &session);
        }
        let read = ids.len() - reused.tokens;
        if read >= ROWS {
            self.note_speed(read, start.elapsed());
        }
        Ok((session, reused))
    }

    /// Notes how fast the model reads: a state is read from the directory where that is faster.
    pub fn note_speed(&self, tokens: usize, time: Duration) {
        let speed = tokens as f64 / time.as_secs_f64().max(1e-9);
        self.cache.0.speed.store(speed.max(1.0) as u64, Ordering::Relaxed);
    }
}
