//! A thread pool for many short parallel regions.
//!
//! Decoding one token is hundreds of parallel regions of a few microseconds each. The workers of a general pool sleep
//! between two regions, and waking them costs a system call; these workers spin for a short while before they park.

use std::any::Any;
use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::{JoinHandle, Thread};

use crate::split::{Part, Stack};

/// Spin iterations of an idle worker before it parks: some tens of microseconds.
const SPINS: usize = 4_000;

/// A fixed set of threads that run the pieces of one job at a time.
///
/// The calling thread takes part. A call from inside a job, or while another thread's job runs, is executed by the
/// caller alone, so nesting is safe. In the child of a fork, which has none of the parent's threads, teams of the
/// parent consist of the caller from [`after_fork`] on.
pub struct Team {
    workers: Vec<Worker>,
    shared: Arc<Shared>,
    turn: Mutex<()>,
    /// The number of forks that this process descended from when the workers were started.
    forks: usize,
}

/// The number of forks that this process descends from, as far as [`after_fork`] was told of them.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// Tells all teams that this process is the child of a fork: their workers exist in the parent only, and waiting for
/// them would never end. Call it in the child before anything else of this library; a new [`Team`] has workers again.
pub fn after_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

struct Worker {
    handle: Option<JoinHandle<()>>,
    thread: Thread,
}

/// A job: the function that runs piece `i`, with its lifetime erased (see `Team::run`).
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync));
// SAFETY: the pointee is `Sync`, and `Team::run` keeps it alive until every worker has left the job.
unsafe impl Send for Job {}

struct Shared {
    /// Incremented for every job; workers wait for it to change.
    epoch: AtomicUsize,
    job: Mutex<Option<(Job, usize)>>,
    next: AtomicUsize,
    /// Number of workers that have not yet left the current job.
    inside: AtomicUsize,
    parked: AtomicUsize,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Team {
    /// A team of `threads` threads including the caller's; zero counts as one.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: Mutex::new(None),
            next: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let workers = (1..threads.max(1))
            .filter_map(|i| {
                let shared = Arc::clone(&shared);
                // If the system refuses a thread, the team is smaller.
                let handle =
                    std::thread::Builder::new().name(format!("longreach-{i}")).spawn(move || work(&shared)).ok()?;
                Some(Worker { thread: handle.thread().clone(), handle: Some(handle) })
            })
            .collect();
        Self { workers, shared, turn: Mutex::new(()), forks: FORKS.load(Ordering::Relaxed) }
    }

    /// The number of threads, including the caller's.
    pub fn threads(&self) -> usize {
        if self.is_alone() { 1 } else { self.workers.len() + 1 }
    }

    /// Whether there are no workers, or none in this process.
    fn is_alone(&self) -> bool {
        self.workers.is_empty() || self.forks != FORKS.load(Ordering::Relaxed)
    }

    /// Calls `f(0) … f(pieces - 1)`, in any order and on any of the threads, and returns when all calls have returned.
    ///
    /// If a piece panics, the panic is resumed here after the others are done.
    pub fn run(&self, pieces: usize, f: impl Fn(usize) + Sync) {
        let turn = match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if pieces <= 1 || self.is_alone() || turn.is_none() {
            (0..pieces).for_each(f);
            return;
        }
        let shared = &*self.shared;
        let f: &(dyn Fn(usize) + Sync) = &f;
        // SAFETY: only the lifetime changes. Workers use the pointer only between the change of `epoch` below and their
        // decrement of `inside`, and this function neither returns nor unwinds before `inside` is zero.
        let job = Job(unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(f)
        });
        *shared.job.lock().unwrap_or_else(|e| e.into_inner()) = Some((job, pieces));
        shared.next.store(0, Ordering::Relaxed);
        shared.inside.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        if shared.parked.load(Ordering::SeqCst) > 0 {
            self.workers.iter().for_each(|w| w.thread.unpark());
        }
        let mine = catch_unwind(AssertUnwindSafe(|| drain(shared, job, pieces)));
        let mut spins = 0;
        while shared.inside.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        drop(turn);
        if let Err(payload) = mine {
            resume_unwind(payload);
        }
        if let Some(payload) = shared.panic.lock().unwrap_or_else(|e| e.into_inner()).take() {
            resume_unwind(payload);
        }
    }

    /// Calls `f` once for each item, in any order and on any of the threads.
    pub fn for_each<T: Send>(&self, items: impl IntoIterator<Item = T>, f: impl Fn(T) + Sync) {
        struct Items<T>(*mut T);
        // SAFETY: each item is read by exactly one piece, and `T: Send`.
        unsafe impl<T: Send> Sync for Items<T> {}
        impl<T> Items<T> {
            /// # Safety
            /// `i` is in bounds, and no other call takes it.
            unsafe fn take(&self, i: usize) -> T {
                // SAFETY: guaranteed by the caller.
                unsafe { self.0.add(i).read() }
            }
        }
        let items: Vec<T> = items.into_iter().collect();
        if items.len() <= 1 || self.is_alone() {
            items.into_iter().for_each(f);
            return;
        }
        let mut items = ManuallyDrop::new(items);
        let base = Items(items.as_mut_ptr());
        let n = items.len();
        // If a piece panics, the items not yet taken are leaked, which is safe.
        // SAFETY: `run` calls each index below `n` at most once.
        self.run(n, |i| f(unsafe { base.take(i) }));
        // SAFETY: all items have been moved out; only the allocation remains.
        unsafe { items.set_len(0) };
        drop(ManuallyDrop::into_inner(items));
    }

    /// Runs `f(i, column, a_part, b_part)` in parallel over column blocks of paired matrices: `a` and `b` hold
    /// contiguous matrices of the same width, of `rows_of_a` and `rows_of_b` rows; the two parts are the columns
    /// `column .. column + block` of matrix `i` of each. Allocates nothing.
    pub fn for_each_columns(
        &self,
        [(a, rows_of_a), (b, rows_of_b)]: [(&mut [f32], usize); 2],
        (width, block): (usize, usize),
        f: impl Fn(usize, usize, Part<'_>, Part<'_>) + Sync,
    ) {
        let block = block.max(1);
        let blocks = width.div_ceil(block);
        let (a, b) = (Stack::of(a, rows_of_a, width), Stack::of(b, rows_of_b, width));
        self.run(a.count.min(b.count) * blocks, |n| {
            let (i, column) = (n / blocks, n % blocks * block);
            // SAFETY: `run` calls each index at most once, and different indices have different columns.
            let (a, b) = unsafe { (a.part(i, column, block), b.part(i, column, block)) };
            f(i, column, a, b);
        });
    }

    /// Runs `f(i, a_piece, b_piece)` in parallel over the `i`th pieces of `a` and `b`, of `of_a` and `of_b` elements
    /// each (the last may be shorter). Allocates nothing.
    pub fn for_each_pieces<T: Send, U: Send>(
        &self,
        (a, of_a): (&mut [T], usize),
        (b, of_b): (&mut [U], usize),
        f: impl Fn(usize, &mut [T], &mut [U]) + Sync,
    ) {
        struct Pieces<T>(*mut T, usize, usize);
        // SAFETY: each piece is taken by exactly one call, and `T: Send`.
        unsafe impl<T: Send> Sync for Pieces<T> {}
        impl<T> Pieces<T> {
            fn of(all: &mut [T], each: usize) -> Self {
                Self(all.as_mut_ptr(), all.len(), each)
            }

            fn count(&self) -> usize {
                if self.2 == 0 { 0 } else { self.1.div_ceil(self.2) }
            }

            /// # Safety
            /// Piece `i` exists, and no other call takes it.
            #[allow(clippy::mut_from_ref, reason = "no other call takes it")]
            unsafe fn piece(&self, i: usize) -> &mut [T] {
                let first = i * self.2;
                // SAFETY: guaranteed by the caller.
                unsafe { std::slice::from_raw_parts_mut(self.0.add(first), self.2.min(self.1 - first)) }
            }
        }
        let (a, b) = (Pieces::of(a, of_a), Pieces::of(b, of_b));
        // SAFETY: `i` is less than both counts, and `run` calls each index at most once.
        self.run(a.count().min(b.count()), |i| unsafe { f(i, a.piece(i), b.piece(i)) });
    }
}

fn drain(shared: &Shared, job: Job, pieces: usize) {
    // SAFETY: `Team::run` keeps the function alive until the job is done.
    let f = unsafe { &*job.0 };
    loop {
        let i = shared.next.fetch_add(1, Ordering::Relaxed);
        if i >= pieces {
            return;
        }
        f(i);
    }
}

fn work(shared: &Shared) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            // Announce, check again, then park: `run` changes the epoch before it reads `parked`.
            shared.parked.fetch_add(1, Ordering::SeqCst);
            if shared.epoch.load(Ordering::SeqCst) == seen {
                std::thread::park();
            }
            shared.parked.fetch_sub(1, Ordering::SeqCst);
        }
        seen += 1;
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        let job = *shared.job.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((job, pieces)) = job
            && let Err(payload) = catch_unwind(AssertUnwindSafe(|| drain(shared, job, pieces)))
        {
            *shared.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(payload);
        }
        shared.inside.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if self.forks != FORKS.load(Ordering::Relaxed) {
            // Neither joining nor detaching a thread of another process is defined.
            std::mem::forget(std::mem::take(&mut self.workers));
            return;
        }
        self.shared.stop.store(true, Ordering::Release);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // Workers catch the panics of their jobs, so `join` does not fail.
                let _ = handle.join();
            }
        }
    }
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("threads", &self.threads()).finish()
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A scratch buffer of the calling thread. Its contents are arbitrary: write before reading.
///
/// Dropped buffers are kept for the thread's next request, so a kernel that asks for the same sizes again does not
/// allocate. A buffer starts at a cache line.
#[derive(Debug)]
pub struct Scratch {
    buffer: Vec<f32>,
    /// The first element that is at the start of a cache line.
    start: usize,
    len: usize,
}

/// The elements of a cache line.
const LINE: usize = 16;

impl Scratch {
    /// A buffer of `len` numbers. NaN in debug builds.
    pub fn new(len: usize) -> Self {
        let mut buffer = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
        if buffer.len() < len + LINE {
            buffer.resize(len + LINE, 0.0);
        }
        // The elements are aligned to their size, so at most `LINE - 1` of them precede a line.
        let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        #[cfg(debug_assertions)]
        buffer[start..start + len].fill(f32::NAN);
        Self { buffer, start, len }
    }

    /// The buffer as bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        let room = &self[..];
        // SAFETY: these are the initialised bytes of a borrowed slice, and bytes need no alignment.
        unsafe { std::slice::from_raw_parts(room.as_ptr().cast(), size_of_val(room)) }
    }

    /// The buffer as mutable bytes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let room = &mut self[..];
        // SAFETY: as in `bytes`; every bit pattern is a valid f32.
        unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), size_of_val(room)) }
    }
}

impl Deref for Scratch {
    type Target = [f32];
    #[inline(always)]
    fn deref(&self) -> &[f32] {
        &self.buffer[self.start..self.start + self.len]
    }
}

impl DerefMut for Scratch {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // While the thread is being destroyed the list may be gone; the buffer is then freed.
        let _ = SCRATCH.try_with(|free| free.borrow_mut().push(buffer));
    }
}
