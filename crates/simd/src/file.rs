//! Files mapped into memory.

use std::fs::File;
use std::io;

/// A file's bytes, read from disk as they are touched and shared with every process that maps it.
///
/// Like every mapping, it shows changes another process makes to the file; one that cuts the file short while it is in
/// use ends this process. Checkpoints are written to another name and renamed, which does neither.
#[derive(Debug)]
pub struct Mapped(memmap2::Mmap);

impl Mapped {
    /// Maps a whole file.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is private and read-only; that the file is not changed under it is what the documentation
        // above asks for, and what no program that maps files can enforce.
        Ok(Self(unsafe { memmap2::Mmap::map(file)? }))
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
