//! Memory-mapped files, and whether they lie on huge pages.
//!
//! A mapped file is read through translations of addresses, fewer of them with huge pages of 2 MiB than with pages of 4 KiB. The
//! page cache decides which pages a mapping has: a kernel
//! whose file system has large folios maps a file with huge pages if it has read it in pieces of 2 MiB, which it does for a
//! mapping that asks for them ([`Mapped::prefer_huge_pages`]). What is already cached in smaller pieces stays so until it is
//! dropped and read again ([`reread`]).

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

    /// Asks that what is read from disk through this mapping be read in huge pages, for files that are read from end to
    /// end. It changes nothing for what is cached already, or where the kernel or the file system has none.
    pub fn prefer_huge_pages(&self) {
        #[cfg(target_os = "linux")]
        let _ = self.0.advise(memmap2::Advice::HugePage);
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

/// A huge page, in bytes.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// How a file lies in the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cached {
    /// Bytes that are cached, counted in whole pieces of 2 MiB by whether their first page is.
    pub bytes: usize,
    /// Bytes of these that are mapped with huge pages.
    pub huge: usize,
}

/// How much of a file is cached, and how much of that on huge pages. Nothing is read from disk. Costs a page fault for every
/// 2 MiB that are cached. `None` where the system does not tell (anything but Linux).
pub fn cached(mapped: &Mapped) -> Option<Cached> {
    #[cfg(target_os = "linux")]
    return linux::cached(&mapped.0);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = mapped;
        None
    }
}

/// Reads a file into the page cache, in huge pages if the kernel has them for its file system, and calls `heard` with the bytes
/// that are there.
///
/// If the file is cached in smaller pages, it is dropped from the cache first, after what has not been written to disk is
/// written, and read from disk again. That needs no other memory than the page cache, and lasts until the kernel needs the
/// memory for something else. What another process has mapped is not dropped. The file must not be mapped by the caller.
/// Errors are those of mapping and writing.
pub fn reread(file: &File, heard: &mut dyn FnMut(usize)) -> io::Result<()> {
    if file.metadata()?.len() == 0 {
        return Ok(());
    }
    let length = {
        let mapped = Mapped::new(file)?;
        let length = mapped.as_ref().len();
        #[cfg(target_os = "linux")]
        if cached(&mapped).is_some_and(|cached| cached.huge >= length / HUGE * HUGE && cached.bytes >= length) {
            heard(length);
            return Ok(());
        }
        length
    };
    #[cfg(target_os = "linux")]
    linux::forget(file)?;
    let mapped = Mapped::new(file)?;
    mapped.prefer_huge_pages();
    let (mut sum, bytes) = (0, mapped.as_ref());
    /// A page on every system that longreach runs on has at least so many bytes.
    const PAGE: usize = 4096;
    for at in (0..length).step_by(PAGE) {
        sum ^= bytes[at];
        if at % (32 << 20) == 0 {
            heard(at);
        }
    }
    std::hint::black_box(sum);
    heard(length);
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io::{self, BufRead, BufReader};
    use std::os::fd::AsRawFd;

    use super::{Cached, HUGE};

    pub(super) fn cached(mapped: &memmap2::Mmap) -> Option<Cached> {
        let mut cached = Cached::default();
        let mut sum = 0;
        for at in (0..mapped.len()).step_by(HUGE) {
            if is_cached(&mapped[at..]) {
                sum ^= mapped[at];
                cached.bytes += HUGE.min(mapped.len() - at);
            }
        }
        std::hint::black_box(sum);
        cached.huge = huge(mapped.as_ptr().addr())?;
        Some(cached)
    }

    /// Whether the first page of these bytes, which begin at a page, is in memory.
    fn is_cached(bytes: &[u8]) -> bool {
        let mut here = 0_u8;
        // SAFETY: the address is that of a page of a mapping, and one byte is written for a length within one page.
        let said = unsafe { libc::mincore(bytes.as_ptr().cast_mut().cast(), bytes.len().min(4096), &raw mut here) };
        said == 0 && here & 1 == 1
    }

    /// The bytes of the mapping at an address that are mapped with huge pages, as the kernel says it of this process.
    fn huge(address: usize) -> Option<usize> {
        let mut here = false;
        for line in BufReader::new(File::open("/proc/self/smaps").ok()?).lines() {
            let line = line.ok()?;
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let bounds = range.and_then(|(start, end)| {
                Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
            });
            match bounds {
                Some(bounds) => here = bounds.contains(&address),
                None if here => {
                    if let Some(said) = line.strip_prefix("FilePmdMapped:") {
                        return said.trim().strip_suffix(" kB")?.parse::<usize>().ok().map(|kib| kib << 10);
                    }
                }
                None => (),
            }
        }
        None
    }

    /// Writes what is not on disk yet, and drops the file from the page cache.
    pub(super) fn forget(file: &File) -> io::Result<()> {
        file.sync_data()?;
        // SAFETY: the descriptor is open as long as `file` is borrowed, and the advice changes no byte of the file.
        match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file is read again with the bytes that it had, empty files and ends that fill no page as well; afterwards it is
    /// cached, and what is on huge pages is a part of that.
    #[test]
    fn a_file_is_read_again() {
        for length in [0, 1, 4096, (5 << 20) + 17] {
            let path = std::env::temp_dir().join(format!("longreach-reread-{}-{length}", std::process::id()));
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let file = File::open(&path).unwrap();
            let mut heard = vec![0];
            reread(&file, &mut |bytes| heard.push(bytes)).unwrap();
            assert!(heard.is_sorted() && heard.last() == Some(&length), "{heard:?}");
            if length > 0 {
                let mapped = Mapped::new(&file).unwrap();
                assert!(mapped.as_ref() == bytes);
                if let Some(cached) = cached(&mapped) {
                    assert_eq!(cached.bytes, length);
                    assert!(cached.huge <= length, "{cached:?}");
                }
            }
            std::fs::remove_file(&path).unwrap();
        }
    }
}
