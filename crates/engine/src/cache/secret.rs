//! A secret of a directory, with which tenants are hashed: nobody can guess the name of another's state.

use std::path::Path;

use super::disk::write_private;

/// A new secret.
pub(super) fn fresh() -> [u8; 32] {
    rand::random()
}

/// The secret of a directory, which is made once and kept in it. `None` if it can neither be read nor written: the states of
/// tenants are then not found by other processes.
pub(super) fn of(directory: &Path) -> Option<[u8; 32]> {
    let file = directory.join("secret");
    let read = || std::fs::read(&file).ok()?.try_into().ok();
    read().or_else(|| {
        // Whoever is first: of two processes that make one at once, both read the one that stays.
        write_private(&file, &fresh()).ok()?;
        read()
    })
}
