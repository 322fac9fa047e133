//! Ranks that are threads of one process.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::{Channel, Error, Ranks};

/// How long a rank waits for a message before the job ends with an error.
const LIMIT: Duration = Duration::from_secs(60);

/// A job whose ranks are threads, for tests of what runs over ranks. Messages can be delayed, so that ranks meet in another
/// order; whatever is computed must not depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    size: usize,
    delays: Option<u64>,
    limit: Duration,
}

impl Threads {
    /// `size` ranks, at least one.
    pub fn new(size: usize) -> Self {
        Self { size: size.max(1), delays: None, limit: LIMIT }
    }

    /// Delays sending and receiving by up to a millisecond each, as drawn from a seed.
    #[must_use]
    pub fn delayed(self, seed: u64) -> Self {
        Self { delays: Some(seed), ..self }
    }

    /// Ends with [`Error::Late`] where a rank waits longer than this.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Runs `work` on every rank and returns what each returns, in the order of ranks. If ranks fail, the error is that of the first
    /// one that did not fail for the end of another.
    pub fn run<T: Send>(self, work: impl Fn(&dyn Ranks) -> Result<T, Error> + Sync) -> Result<Vec<T>, Error> {
        let ranks = self.connected();
        let work = &work;
        let results: Vec<Result<T, Error>> = std::thread::scope(|scope| {
            let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || work(&rank))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let other = |result: &&Result<T, Error>| matches!(result, Err(error) if !matches!(error, Error::Lost { .. }));
        match results.iter().find(other) {
            Some(Err(error)) => Err(error.clone()),
            _ => results.into_iter().collect(),
        }
    }

    fn connected(self) -> Vec<OfThreads> {
        let n = self.size * self.size * Channel::ALL.len();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..n).map(|_| mpsc::channel()).unzip();
        let mut receivers: Vec<_> = receivers.into_iter().map(Some).collect();
        let place = |from, to, channel| (from * self.size + to) * Channel::ALL.len() + channel;
        let channels = 0..Channel::ALL.len();
        let all = move |f: &mut dyn FnMut(usize, usize)| {
            (0..self.size).for_each(|other| channels.clone().for_each(|channel| f(other, channel)));
        };
        let ranks = (0..self.size).map(|rank| {
            let (mut to, mut from) = (Vec::new(), Vec::new());
            all(&mut |other, channel| {
                to.push(senders[place(rank, other, channel)].clone());
                from.extend(receivers[place(other, rank, channel)].take().map(Mutex::new));
            });
            let delays = self.delays.map(|seed| Mutex::new(seed ^ (rank as u64) << 48));
            OfThreads { rank, of: self, to, from, delays, sent: AtomicU64::new(0) }
        });
        ranks.collect()
    }
}

/// One of the threads.
struct OfThreads {
    rank: usize,
    of: Threads,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
    delays: Option<Mutex<u64>>,
    sent: AtomicU64,
}

impl OfThreads {
    fn place(&self, other: usize, channel: Channel) -> Result<usize, Error> {
        if other < self.of.size {
            return Ok(other * Channel::ALL.len() + channel.number());
        }
        Err(Error::NoRank { rank: other, size: self.of.size })
    }

    /// Sleeps for a time drawn from the seed.
    fn delay(&self) {
        let Some(state) = &self.delays else { return };
        let mut state = lock(state);
        // The linear congruential generator of Knuth's MMIX.
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let micros = (*state >> 54).min(1000);
        drop(state);
        std::thread::sleep(Duration::from_micros(micros));
    }
}

fn lock<T>(x: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    x.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Ranks for OfThreads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.of.size
    }

    fn send(&self, to: usize, channel: Channel, bytes: Vec<u8>) -> Result<(), Error> {
        let place = self.place(to, channel)?;
        self.delay();
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.to[place].send(bytes).map_err(|_| Error::Lost { rank: to, waiting: self.rank })
    }

    fn receive(&self, from: usize, channel: Channel) -> Result<Vec<u8>, Error> {
        let place = self.place(from, channel)?;
        self.delay();
        let received = lock(&self.from[place]).recv_timeout(self.of.limit);
        received.map_err(|error| match error {
            RecvTimeoutError::Disconnected => Error::Lost { rank: from, waiting: self.rank },
            RecvTimeoutError::Timeout => Error::Late { rank: from, waiting: self.rank, after: self.of.limit },
        })
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
