//! Tables that are compressed with gzip or Zstandard, by the end of their names: they are decompressed as they are read.

use std::io::{self, BufReader, Read};
use std::path::Path;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// `.gz`: one member or several, as tools that append write them.
    Gzip,
    /// `.zst`
    Zstandard,
}

impl Compression {
    /// The compression that the name of a file says; `None` if none.
    pub(super) fn of_name(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "gz" => Some(Self::Gzip),
            "zst" => Some(Self::Zstandard),
            _ => None,
        }
    }

    /// A reader of what `reader` has compressed. Its memory does not depend on the size of the file. Errors are those of
    /// reading, and say what is damaged.
    pub(super) fn reader(self, reader: impl Read + 'static) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 16, reader))),
            Self::Zstandard => Box::new(zstd::stream::read::Decoder::new(reader)?),
        })
    }
}
