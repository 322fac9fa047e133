//! The threads of a directory: one writes states behind the answers, one reads them, so that nobody waits for a slow disk.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use longreach_nn::StateTensor;

use super::disk::{Disk, has, load};
use super::format::{Header, Kind, Tensors, encode};
use super::key::Key;
use super::ram::Worth;
use super::snapshot::Snapshot;

/// States are not written while more bytes than this wait.
const MOST_PENDING: u64 = 512 << 20;
/// After an error nothing is written for this long, and after a slow read nothing is read.
const PAUSE: Duration = Duration::from_secs(60);
/// The directory is looked at before each state that is written, for the files of other processes, if it has few files, and
/// otherwise if that was longer ago than this.
const LIST_AGAIN: Duration = Duration::from_secs(1);
const FEW_FILES: usize = 1024;
/// What a file of rows has beside its numbers, at most a layer.
const HEADER: u64 = 256;

/// A state to be written.
struct Job {
    key: Key,
    worth: Worth,
    state: Arc<Snapshot>,
    bytes: u64,
}

/// What is read: a state and rows.
pub(super) struct Read {
    pub(super) state: (Header, Tensors),
    pub(super) rows: Vec<Tensors>,
}

/// Counts of a directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) pending: u64,
    pub(super) rejected: u64,
    pub(super) failures: u64,
    pub(super) slow: u64,
    pub(super) last_failure: Option<String>,
}

/// What the threads share.
pub(super) struct Shared {
    pub(super) directory: PathBuf,
    pub(super) disk: Mutex<Disk>,
    counts: Mutex<Counts>,
    /// The number of pending bytes has changed.
    changed: Condvar,
}

/// The lock, whoever panicked with it: what it guards is whole after every statement.
pub(super) fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

type Task = Box<dyn FnOnce() + Send>;

/// A directory with its threads. When it is dropped, what waits is written, for five seconds at most.
pub(super) struct Directory {
    pub(super) shared: Arc<Shared>,
    jobs: Mutex<Sender<Job>>,
    reads: Mutex<Sender<Task>>,
    no_reads_before: Mutex<Option<Instant>>,
}

impl Directory {
    /// Starts the threads; the directory is listed behind.
    pub(super) fn open(directory: &Path, budget: u64) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            disk: Mutex::new(Disk::new(directory.to_owned(), budget)),
            counts: Mutex::default(),
            changed: Condvar::new(),
        });
        let (jobs, to_write) = channel();
        let (reads, to_read) = channel::<Task>();
        let writing = shared.clone();
        thread::Builder::new().name("cache writer".into()).spawn(move || write_all(&writing, &to_write))?;
        thread::Builder::new().name("cache reader".into()).spawn(move || to_read.iter().for_each(|task| task()))?;
        Ok(Self { shared, jobs: Mutex::new(jobs), reads: Mutex::new(reads), no_reads_before: Mutex::new(None) })
    }

    pub(super) fn counts(&self) -> Counts {
        locked(&self.shared.counts).clone()
    }

    /// Whether there is a state of this key.
    pub(super) fn has(&self, key: &Key) -> bool {
        has(&self.shared.directory, key, Kind::State)
    }

    /// Writes a state later.
    pub(super) fn write(&self, key: Key, worth: Worth, state: Arc<Snapshot>) {
        let bytes = state.own_bytes() as u64;
        let mut counts = locked(&self.shared.counts);
        if counts.pending + bytes <= MOST_PENDING {
            counts.pending += bytes;
            drop(counts);
            // The thread ends with the channel only.
            let _ = locked(&self.jobs).send(Job { key, worth, state, bytes });
        }
    }

    /// Waits until everything is written, for `most` at most; returns whether it is.
    pub(super) fn flush(&self, most: Duration) -> bool {
        let counts = locked(&self.shared.counts);
        let waited = self.shared.changed.wait_timeout_while(counts, most, |counts| counts.pending > 0);
        waited.is_ok_and(|(counts, _)| counts.pending == 0)
    }

    /// Reads a state and these rows, on the reader's thread, unless that takes longer than `most`.
    pub(super) fn read(&self, state: Key, rows: Vec<Key>, most: Duration) -> Option<Read> {
        if locked(&self.no_reads_before).is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let (tell, told) = channel();
        let shared = self.shared.clone();
        let task = Box::new(move || {
            let _ = tell.send(shared.read(&state, &rows));
        });
        locked(&self.reads).send(task).ok()?;
        match told.recv_timeout(most) {
            Ok(read) => read,
            Err(_) => {
                locked(&self.shared.counts).slow += 1;
                *locked(&self.no_reads_before) = Some(Instant::now() + PAUSE);
                None
            }
        }
    }

    /// Removes a state that does not fit its model although its hash is right.
    pub(super) fn reject(&self, key: &Key) {
        super::disk::remove(&self.shared.directory, key, Kind::State);
        locked(&self.shared.counts).rejected += 1;
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.flush(Duration::from_secs(5));
    }
}

impl Shared {
    fn load(&self, key: &Key, kind: Kind) -> Option<(Header, Tensors)> {
        load(&self.directory, key, kind).unwrap_or_else(|()| {
            locked(&self.counts).rejected += 1;
            None
        })
    }

    fn read(&self, state: &Key, rows: &[Key]) -> Option<Read> {
        let state = self.load(state, Kind::State)?;
        let rows = rows.iter().map(|key| Some(self.load(key, Kind::Rows)?.1));
        Some(Read { state, rows: rows.collect::<Option<_>>()? })
    }

    /// Writes a state and those of its rows that are not there.
    fn write(&self, job: &Job) -> std::io::Result<()> {
        if has(&self.directory, &job.key, Kind::State) {
            return Ok(());
        }
        let state = &job.state;
        let of_rows = |key, tokens| {
            let worth = Worth { gap: 0, weight: 0.0 };
            Header { kind: Kind::Rows, key, tokens, worth, reached: Vec::new() }
        };
        let reached = state.reached.iter();
        let reached = reached.map(|r| (r.reach, r.rows.iter().map(|rows| rows.key).collect())).collect();
        let header = Header { kind: Kind::State, key: job.key, tokens: state.tokens, worth: job.worth, reached };
        let mut tensors = state.rest.tensors();
        if let Some(logits) = &state.logits {
            tensors.push(StateTensor::vector("logits", logits));
        }
        let bytes = encode(&header, &tensors);
        let missing: Vec<_> = state.rows().filter(|rows| !has(&self.directory, &rows.key, Kind::Rows)).collect();
        let size =
            |rows: &super::snapshot::Rows| rows.rows.bytes() as u64 + HEADER * (1 + rows.rows.tensors().len() as u64);
        let all = bytes.len() as u64 + missing.iter().map(|rows| size(rows)).sum::<u64>();
        let mut disk = locked(&self.disk);
        if !disk.reserve(all, &header) {
            return Ok(());
        }
        for rows in missing {
            let header = of_rows(rows.key, longreach_nn::ROWS);
            let bytes = encode(&header, &rows.rows.tensors());
            if !disk.write(header, &bytes)? {
                return Ok(());
            }
        }
        disk.write(header, &bytes).map(|_| ())
    }
}

/// Writes what comes, until the channel is closed.
fn write_all(shared: &Shared, jobs: &Receiver<Job>) {
    let mut paused: Option<Instant> = None;
    let listed = |shared: &Shared| {
        let _ = locked(&shared.disk).list();
        Instant::now()
    };
    let mut last = listed(shared);
    for job in jobs {
        if paused.is_none_or(|until| Instant::now() >= until) {
            if last.elapsed() > LIST_AGAIN || locked(&shared.disk).files() <= FEW_FILES {
                last = listed(shared);
            }
            paused = None;
            if let Err(error) = shared.write(&job) {
                let mut counts = locked(&shared.counts);
                counts.failures += 1;
                counts.last_failure = Some(format!("{}: {error}", shared.directory.display()));
                paused = Some(Instant::now() + PAUSE);
            }
        }
        let bytes = job.bytes;
        // The state is released before it counts as written.
        drop(job);
        let mut counts = locked(&shared.counts);
        counts.pending -= bytes;
        shared.changed.notify_all();
    }
}
