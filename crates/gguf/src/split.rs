//! Split files: the names of the parts, and how all of them are found from any one.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::gguf::{Opened, map};
use crate::parse::{ALIGNMENT, DEFAULT_ALIGNMENT, Parsed};
use crate::{Error, Metadata};

/// The keys that every part has: its number from 0, the number of parts, and the number of tensors in all of them.
pub(crate) const NUMBER: &str = "split.no";
pub(crate) const COUNT: &str = "split.count";
pub(crate) const TENSORS: &str = "split.tensors.count";

/// The path of a part of a split file: `NAME-00001-of-00004.gguf` in place of `NAME.gguf`, for part 1 of 4.
pub fn split_path(path: &Path, part: usize, parts: usize) -> PathBuf {
    let is_gguf = path.extension().is_some_and(|extension| extension == "gguf");
    let stem = if is_gguf { path.file_stem() } else { path.file_name() };
    let mut name = stem.unwrap_or_default().to_owned();
    name.push(format!("-{part:05}-of-{parts:05}.gguf"));
    path.with_file_name(name)
}

/// What a file says of its place among the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// From 1, as in the names of the files.
    part: u64,
    parts: u64,
    /// The number of tensors in all parts.
    tensors: u64,
}

impl Position {
    /// `None` if the file is a whole one. Errors if a key is missing, has a wrong type, or is out of range.
    pub(crate) fn of(metadata: &Metadata) -> Result<Option<Self>, Error> {
        let parts: u64 = metadata.get(COUNT)?.unwrap_or(1);
        if parts <= 1 {
            return Ok(None);
        }
        let number: u64 = metadata.require(NUMBER)?;
        if number >= parts {
            return Err(Error::key(&metadata.file, NUMBER, format!("is {number}, but `{COUNT}` is {parts}")));
        }
        Ok(Some(Self { part: number + 1, parts, tensors: metadata.require(TENSORS)? }))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part {} of {}", self.part, self.parts)
    }
}

/// Opens all parts of the split file to which `given`, at `path`, belongs: returns the first, and the others in order.
pub(crate) fn open_all(path: &Path, given: Opened, position: Position) -> Result<(Opened, Vec<Opened>), Error> {
    let file = given.0.file.clone();
    let Some((stem, part, parts)) = parse_name(path) else {
        let end = format!("-{:05}-of-{:05}.gguf", position.part, position.parts);
        let message = format!("is {position} of a split file, so its name must end in {end} as those of the others do");
        return Err(Error::file(&file, message));
    };
    if (part, parts) != (position.part, position.parts) {
        return Err(Error::file(&file, format!("is named part {part} of {parts}, but is {position}")));
    }
    let mut given = Some(given);
    let mut open = |part: u64| match given.take_if(|_| part == position.part) {
        Some(given) => Ok(given),
        None => {
            let path = path.with_file_name(format!("{stem}-{part:05}-of-{parts:05}.gguf"));
            let next = map(&path).map_err(|error| missing(error, &file, position))?;
            belongs(&next, Position { part, ..position }, &file)?;
            Ok(next)
        }
    };
    let (first, mut others) = (open(1)?, Vec::new());
    // A wrong number of parts costs nothing: the first that is missing ends the loop.
    for part in 2..=parts {
        let next = open(part)?;
        same_alignment(&first.1, &next)?;
        others.push(next);
    }
    let found: usize = [&first].into_iter().chain(&others).map(|(_, header)| header.tensors.len()).sum();
    if u64::try_from(found).ok() != Some(position.tensors) {
        let message = format!("is {}, but the {parts} parts have {found} tensors", position.tensors);
        return Err(Error::key(&file, TENSORS, message));
    }
    Ok((first, others))
}

/// The parts of a name `NAME-00001-of-00004.gguf`.
fn parse_name(path: &Path) -> Option<(&str, u64, u64)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, parts) = stem.rsplit_once("-of-")?;
    let (name, part) = rest.rsplit_once('-')?;
    let number = |digits: &str| {
        let five = digits.len() == 5 && digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse().ok().filter(|_| five)
    };
    Some((name, number(part)?, number(parts)?))
}

/// The error for a part that cannot be opened.
fn missing(error: Error, file: &str, of: Position) -> Error {
    match error {
        Error::Io { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
            Error::file(file, format!("is {of} of a split file, but {} does not exist", path.display()))
        }
        other => other,
    }
}

/// Checks that a file is the part it is named as, of the same split file as `other`.
fn belongs((part, header): &Opened, want: Position, other: &str) -> Result<(), Error> {
    match Position::of(&header.metadata)? {
        Some(found) if found == want => Ok(()),
        Some(found) if (found.part, found.parts) == (want.part, want.parts) => {
            let message = format!("is {}, but {} in {other}", found.tensors, want.tensors);
            Err(Error::key(&part.file, TENSORS, message))
        }
        Some(found) => Err(Error::file(&part.file, format!("is {found}, want {want}, which its name says"))),
        None => Err(Error::file(&part.file, format!("is a whole file, want {want}, which its name says"))),
    }
}

/// Checks that there is no doubt where the data of a part begin.
///
/// Every part is a file of its own, with its own alignment. But the writer of the `gguf` package for Python repeats an
/// alignment other than the default in no other part, and yet pads all of them by it.
fn same_alignment(first: &Parsed, (part, header): &Opened) -> Result<(), Error> {
    let said = header.metadata.value(ALIGNMENT).is_some();
    let [own, of_first] = [header.alignment, first.alignment].map(|n| header.end.checked_next_multiple_of(n));
    if said || header.tensors.is_empty() || own == of_first {
        return Ok(());
    }
    let message = format!(
        "is missing: the data may begin at a multiple of {DEFAULT_ALIGNMENT}, the default, or of {}, \
         which the first part says",
        first.alignment
    );
    Err(Error::key(&part.file, ALIGNMENT, message))
}
