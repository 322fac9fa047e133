//! Memory-mapped files.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// The bytes of a memory-mapped file: paged in on access and shared with every process that maps it.
///
/// Changes that another process makes to the file are visible, and truncating it while it is in use kills this process.
/// Checkpoints are written to a temporary name and renamed, which does neither.
#[derive(Clone, Debug)]
pub struct Mapped(Arc<memmap2::Mmap>);

impl Mapped {
    /// Maps a whole file.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is private and read-only. That the file is not modified meanwhile is documented above; no
        // program that maps files can enforce it.
        Ok(Self(Arc::new(unsafe { memmap2::Mmap::map(file)? })))
    }

    /// Drops the pages of a byte range from memory; they are read from disk again on the next access.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        // SAFETY: a read-only mapping of a file is never dirty, so its pages hold the file's bytes before and after.
        let _ = unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
