//! Code of others that may panic on damaged files: its panics become errors.
//!
//! The last resort, for Parquet's pages alone: what a column's values decode to cannot be checked beforehand without decoding them.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, now, is that of a reader of a damaged file: it becomes an error, and a panic hook need not report it.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// What `read` gives, or what it panics with. What it borrows must not be used after a panic.
pub(crate) fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}
