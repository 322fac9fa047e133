//! A global allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, which counts. A test binary that installs it can ask for [`allocated`] and [`peak`]:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: longreach_testkit::Counting = longreach_testkit::Counting;
/// ```
#[derive(Debug)]
pub struct Counting;

static NUMBER: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let live = LIVE.get() + bytes;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

#[expect(unsafe_code, reason = "an allocator is unsafe")]
// SAFETY: all calls are forwarded to the system allocator; the counters do not affect memory, and do not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NUMBER.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        count(layout.size() as isize);
        // SAFETY: the caller upholds the contract of `alloc`, which is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller upholds the contract of `dealloc`, which is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Memory that was allocated on all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// How many times.
    pub number: usize,
    /// How many bytes, freed or not.
    pub bytes: usize,
}

/// What was allocated on all threads while something was computed, and the result. Tests of the same process that run
/// at the same time are counted, too.
pub fn allocated<T>(compute: impl FnOnce() -> T) -> (Allocated, T) {
    let now = || (NUMBER.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    let before = now();
    let result = compute();
    let after = now();
    (Allocated { number: after.0 - before.0, bytes: after.1 - before.1 }, result)
}

/// The most bytes that this thread held at once while something was computed, beyond those before, and the result.
pub fn peak<T>(compute: impl FnOnce() -> T) -> (usize, T) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = compute();
    ((PEAK.get() - before).unsigned_abs(), result)
}
