//! A GGUF file, or all parts of one, mapped into memory.

use std::fmt;
use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use longreach_simd::file::Mapped;

use crate::parse::{self, Parsed};
use crate::tensor::Info;
use crate::{Error, Metadata, Tensor, split};

/// A GGUF file, or all parts of one, mapped into memory.
///
/// Opening reads the headers only. Values and tensors are read where they lie when they are asked for. As with any
/// mapped file, a program that truncates the file meanwhile kills this process: see [`Mapped`].
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    metadata: Metadata,
    parts: Vec<Part>,
    /// In the order of the files.
    tensors: Vec<Info>,
    /// The indices of the tensors, sorted by name.
    order: Vec<usize>,
}

/// A mapped file.
pub(crate) struct Part {
    pub(crate) file: String,
    pub(crate) bytes: Bytes,
    /// `None` if the bytes are not those of a mapped file.
    pub(crate) mapped: Option<Mapped>,
}

/// A file and what its header says.
pub(crate) type Opened = (Part, Parsed);

impl Gguf {
    /// Opens a file. If it is a part of a split file, `NAME-00001-of-00004.gguf` and so on, opens all parts, whichever
    /// is given: they have to be in one directory.
    ///
    /// Errors if the file cannot be mapped, is not GGUF, contradicts itself or is cut short, or if a part is missing or
    /// does not belong to the others.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let given = map(path)?;
        let (first, others) = match split::Position::of(&given.1.metadata)? {
            None => (given, Vec::new()),
            Some(position) => split::open_all(path, given, position)?,
        };
        Self::assemble(first, others)
    }

    /// Reads a file in memory; errors refer to it as `name`. Errors as [`Gguf::open`] does, and if the file is a part
    /// of a split one.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self, Error> {
        let header = parse::parse(name, bytes.clone())?;
        if let Some(position) = split::Position::of(&header.metadata)? {
            let message = format!("is {position} of a split file: open it by its path");
            return Err(Error::file(name, message));
        }
        Self::assemble((Part { file: name.to_owned(), bytes, mapped: None }, header), Vec::new())
    }

    /// Puts the parts together; the metadata are those of the first.
    fn assemble((part, header): Opened, others: Vec<Opened>) -> Result<Self, Error> {
        let Parsed { version, metadata, mut tensors, .. } = header;
        let mut parts = vec![part];
        for (part, header) in others {
            tensors.extend(header.tensors.into_iter().map(|info| Info { part: parts.len(), ..info }));
            parts.push(part);
        }
        let order = parse::sorted(tensors.len(), |i| &tensors[i].name);
        let order = order.map_err(|name| Error::tensor(&metadata.file, name, "is in two parts"))?;
        Ok(Self { version, metadata, parts, tensors, order })
    }

    /// The version of the format: 2 or 3, which are read alike.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The metadata; of a split file, those of its first part, which has all.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let at = self.order.binary_search_by(|i| (*self.tensors[*i].name).cmp(name)).ok()?;
        Some(self.view(&self.tensors[self.order[at]]))
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.tensors.iter().map(|info| self.view(info))
    }

    /// The names of the files, as errors have them: one, or all parts in order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &str> {
        self.parts.iter().map(|part| &part.file[..])
    }

    /// The bytes of all files, in order. They keep the files mapped.
    pub fn contents(&self) -> impl ExactSizeIterator<Item = Bytes> {
        self.parts.iter().map(|part| part.bytes.clone())
    }

    fn view<'a>(&'a self, info: &'a Info) -> Tensor<'a> {
        Tensor { info, part: &self.parts[info.part] }
    }
}

/// Maps a file and reads its header.
pub(crate) fn map(path: &Path) -> Result<Opened, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let mapped = Mapped::new(&File::open(path).map_err(failed)?).map_err(failed)?;
    mapped.prefer_huge_pages();
    let (file, bytes) = (path.display().to_string(), Bytes::from_owner(mapped.clone()));
    let header = parse::parse(&file, bytes.clone())?;
    Ok((Part { file, bytes, mapped: Some(mapped) }, header))
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.file, self.bytes.len())
    }
}
