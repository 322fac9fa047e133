//! Ranks of MPI.
//!
//! MPI promises that a message makes progress inside its calls only, and Open MPI makes none outside of them for large messages. So there is a
//! thread for each receiver and channel that a rank sends to, which stays with its message until that has left. Whoever waits asks now and
//! then and sleeps in between: a rank that waits for an hour costs nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mpi::environment::Universe;
use mpi::point_to_point::{Destination, MatchedReceiveVec, Source};
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::{Threading, request};

use crate::{Channel, Error, Ranks};

/// The longest message, in bytes: longer ones are sent in pieces, as MPI counts in 32 bits.
const LONGEST: usize = 1 << 28;
/// How long a rank sleeps at most before it asks again.
const NAP: Duration = Duration::from_millis(1);
/// A rank that waits longer says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// The ranks of a program that `mpirun` has started. Other processes of the job end with this one if it ends without [`Mpi::finish`].
pub struct Mpi {
    rank: usize,
    size: usize,
    threads: Mutex<HashMap<(usize, Channel), (Sender<Vec<u8>>, JoinHandle<()>)>>,
    sent: AtomicU64,
    waiting: fn(usize),
    /// Ends MPI when it is dropped.
    universe: Mutex<Option<Universe>>,
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mpi").field("rank", &self.rank).field("size", &self.size).finish()
    }
}

fn lock<T>(x: &Mutex<T>) -> MutexGuard<'_, T> {
    x.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Mpi {
    /// Starts MPI in this process, which can be done once. `waiting` is called with the number of a rank that has sent nothing for ten seconds.
    /// An error if it was started before, or if the library cannot be called by several threads at once.
    pub fn start(waiting: fn(usize)) -> Result<Self, Error> {
        let started = mpi::initialize_with_threading(Threading::Multiple);
        let (universe, threading) =
            started.ok_or_else(|| Error::Transport("MPI was started before in this process".into()))?;
        if threading != Threading::Multiple {
            let message = "the MPI library cannot be called by several threads (MPI_THREAD_MULTIPLE)";
            return Err(Error::Transport(message.into()));
        }
        let world = universe.world();
        let number = |n: i32| usize::try_from(n).unwrap_or(0);
        let (rank, size) = (number(world.rank()), number(world.size()));
        Ok(Self {
            rank,
            size,
            threads: Mutex::default(),
            sent: AtomicU64::new(0),
            waiting,
            universe: Mutex::new(Some(universe)),
        })
    }

    /// Waits until all messages have left and every rank is here, then ends MPI. No message may be sent or received afterwards.
    pub fn finish(&self) -> Result<(), Error> {
        self.barrier()?;
        let threads = std::mem::take(&mut *lock(&self.threads));
        for (_, (sender, thread)) in threads {
            drop(sender);
            thread.join().map_err(|_| Error::Transport("a thread that sends has ended".into()))?;
        }
        drop(lock(&self.universe).take());
        Ok(())
    }

    /// Ends all processes of the job, with this exit status.
    pub fn abort(&self, status: i32) -> ! {
        SimpleCommunicator::world().abort(status)
    }

    fn number(&self, of: usize) -> Result<i32, Error> {
        let known = i32::try_from(of).ok().filter(|_| of < self.size && of != self.rank);
        known.ok_or(Error::NoRank { rank: of, size: self.size })
    }

    /// The next message of a rank, as MPI has it.
    fn piece(&self, from: i32, channel: Channel) -> Vec<u8> {
        let world = SimpleCommunicator::world();
        let source = world.process_at_rank(from);
        let (start, mut said, mut nap) = (Instant::now(), false, Duration::from_micros(10));
        loop {
            if let Some(message) = source.immediate_matched_probe_with_tag(channel.number() as i32) {
                return message.matched_receive_vec::<u8>().0;
            }
            // What is waited for at the start and at the end may take as long as it likes.
            let patient = matches!(channel, Channel::Control | Channel::Tokens);
            if !said && !patient && start.elapsed() > PATIENCE {
                (self.waiting)(from as usize);
                said = true;
            }
            std::thread::sleep(nap);
            nap = NAP.min(nap * 2);
        }
    }
}

/// Sends what comes, in order.
fn sends(to: i32, channel: Channel, messages: &Receiver<Vec<u8>>) {
    while let Ok(bytes) = messages.recv() {
        send(to, channel, &(bytes.len() as u64).to_le_bytes());
        bytes.chunks(LONGEST).for_each(|piece| send(to, channel, piece));
    }
}

/// Returns when the bytes have left.
fn send(to: i32, channel: Channel, bytes: &[u8]) {
    let world = SimpleCommunicator::world();
    let destination = world.process_at_rank(to);
    request::scope(|scope| {
        let mut sending = destination.immediate_send_with_tag(scope, bytes, channel.number() as i32);
        let mut nap = Duration::from_micros(10);
        while let Err(still) = sending.test() {
            sending = still;
            std::thread::sleep(nap);
            nap = NAP.min(nap * 2);
        }
    });
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn send(&self, to: usize, channel: Channel, bytes: Vec<u8>) -> Result<(), Error> {
        let number = self.number(to)?;
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let mut threads = lock(&self.threads);
        let (sender, _) = threads.entry((to, channel)).or_insert_with(|| {
            let (sender, messages) = self::channel();
            (sender, std::thread::spawn(move || sends(number, channel, &messages)))
        });
        sender.send(bytes).map_err(|_| Error::Lost { rank: to, waiting: self.rank })
    }

    fn receive(&self, from: usize, channel: Channel) -> Result<Vec<u8>, Error> {
        let number = self.number(from)?;
        let head = self.piece(number, channel);
        let length =
            <[u8; 8]>::try_from(&head[..]).ok().and_then(|head| usize::try_from(u64::from_le_bytes(head)).ok());
        let length = length.ok_or_else(|| Error::Message {
            from,
            found: format!("{} bytes", head.len()),
            want: "the length of a message".into(),
        })?;
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let piece = self.piece(number, channel);
            if bytes.is_empty() { bytes = piece } else { bytes.extend(piece) }
        }
        Ok(bytes)
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
