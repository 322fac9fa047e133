//! Files mapped into memory.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// A file's bytes, read from disk as they are touched and shared with every process that maps it.
///
/// Like every mapping, it shows changes another process makes to the file; one that cuts the file short while it is in
/// use ends this process. Checkpoints are written to another name and renamed, which does neither.
#[derive(Clone, Debug)]
pub struct Mapped(Arc<memmap2::Mmap>);

impl Mapped {
    /// Maps a whole file.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is private and read-only; that the file is not changed under it is what the documentation
        // above asks for, and what no program that maps files can enforce.
        Ok(Self(Arc::new(unsafe { memmap2::Mmap::map(file)? })))
    }

    /// Gives the memory of a range back, to be read from disk again should it be touched again.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        // SAFETY: nothing was ever written to a read-only mapping of a file, so its pages are the file's before and after.
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
