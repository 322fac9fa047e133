//! Turns panics of third-party readers on damaged files into errors.
//!
//! A last resort, used for Parquet pages only: the values of a column cannot be validated without decoding them.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread would be caught and returned as an error, so that a panic hook need not report it.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// The result of `read`, or the message of its panic. Values that `read` borrows must not be used after a panic.
pub(crate) fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}
