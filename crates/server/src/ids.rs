//! Names and numbers that nobody has had before.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that is not repeated and cannot be guessed from others: a keyed hash of a counter, with keys from the operating system.
pub(crate) fn fresh_number() -> u64 {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    KEYS.get_or_init(RandomState::new).hash_one(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A name with this beginning.
pub(crate) fn fresh(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", fresh_number(), fresh_number() as u32)
}
