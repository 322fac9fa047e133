//! The files of a folder, read recursively in order of path.

use std::path::{Path, PathBuf};

use super::kind::{self, Kind};
use super::source::{Source, checked};
use super::{Document, Options, Place, Rows, of_file};
use crate::Error;

/// The documents of a folder.
pub(super) struct Folder {
    files: Vec<PathBuf>,
    options: Options,
    next: usize,
    /// The table being read.
    table: Option<Rows>,
    bytes: u64,
    /// Files skipped because they are not text.
    pub(super) left_out: usize,
    /// Symbolic links that are broken or form a cycle.
    pub(super) broken_links: usize,
}

/// Longer files are skipped, in bytes.
const LARGEST: u64 = 1 << 30;

impl Folder {
    pub(super) fn of(path: &Path, options: &Options) -> Result<Self, Error> {
        let mut walk = Walk { leave_out: options.leave_out.iter().map(|p| whole(p)).collect(), ..Walk::default() };
        let begin = path.canonicalize().map_err(|e| Error::io(path, e))?;
        walk.folder(path, &mut vec![begin])?;
        let Walk { mut files, broken_links, .. } = walk;
        files.sort();
        let asked = options.column.is_some() || !options.fields.is_empty();
        let table = |file: &PathBuf| {
            let kind = options.format.or_else(|| Kind::of_name(file).ok().flatten());
            kind.is_some_and(Kind::is_table)
        };
        if asked && !files.is_empty() && !files.iter().any(table) {
            let message = "has no columns: there is no JSON, .csv, .tsv or .parquet file in it";
            return Err(Error::file(path, message));
        }
        let options = options.clone();
        Ok(Self { files, options, next: 0, table: None, bytes: 0, left_out: 0, broken_links })
    }

    /// The files, in order.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Total size of the files in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|about| about.len()).sum()
    }

    pub(super) fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        loop {
            if let Some(table) = &mut self.table {
                if let Some((mut document, read)) = table.next()? {
                    document.fields.resize(self.options.fields.len(), None);
                    return Ok(Some((document, self.bytes + read)));
                }
                self.table = None;
                self.bytes += self.files.get(self.next - 1).map_or(0, |file| length(file));
            }
            let Some(path) = self.files.get(self.next) else { return Ok(None) };
            self.next += 1;
            let kind = match self.options.format {
                Some(kind) => Ok(Some(kind)),
                None => Kind::of_name(path),
            };
            match kind {
                // The extension is that of an unsupported format.
                Err(_) => self.left_out += 1,
                Ok(Some(kind)) if kind.is_table() => {
                    self.table = Some(of_file(path, &self.options)?);
                    continue;
                }
                Ok(Some(Kind::Lines)) if looks_like_text(path)? => {
                    let plain = Options { format: Some(Kind::Lines), ..Options::default() };
                    self.table = Some(of_file(path, &plain)?);
                    continue;
                }
                Ok(Some(Kind::Lines)) => self.left_out += 1,
                Ok(_) => match text(path)? {
                    Some((text, start)) => {
                        self.bytes += length(path);
                        let file = Some(path.display().to_string());
                        let fields = vec![None; self.options.fields.len()];
                        return Ok(Some((Document { text, file, start, place: Place::Whole, fields }, self.bytes)));
                    }
                    None => self.left_out += 1,
                },
            }
            self.bytes += length(path);
        }
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |about| about.len())
}

/// The text of a file and its byte offset; `None` if it is not text.
fn text(path: &Path) -> Result<Option<(String, u64)>, Error> {
    if length(path) > LARGEST || !looks_like_text(path)? {
        return Ok(None);
    }
    let mut source = Source::open(path)?;
    let mut bytes = Vec::new();
    match std::io::Read::read_to_end(&mut source, &mut bytes) {
        // The bytes only looked like a byte order mark.
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => return Ok(None),
        other => other.map_err(|e| Error::io(path, e))?,
    };
    let start = if source.head().starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    Ok(checked(bytes).ok().map(|text| (text, start)))
}

/// Whether the first bytes of a file may be text.
fn looks_like_text(path: &Path) -> Result<bool, Error> {
    let source = Source::open(path)?;
    let marked = source.head().starts_with(b"\xff\xfe") || source.head().starts_with(b"\xfe\xff");
    Ok(kind::refused(source.head()).is_none() && (marked || !source.head().contains(&0)))
}

/// A recursive walk that collects files.
#[derive(Default)]
struct Walk {
    files: Vec<PathBuf>,
    broken_links: usize,
    leave_out: Vec<PathBuf>,
}

impl Walk {
    /// Adds the files of a folder. `above` holds the canonical paths of its ancestors and, last, its own.
    fn folder(&mut self, path: &Path, above: &mut Vec<PathBuf>) -> Result<(), Error> {
        for entry in std::fs::read_dir(path).map_err(|e| Error::io(path, e))? {
            let entry = entry.map_err(|e| Error::io(path, e))?;
            let (name, at) = (entry.file_name(), entry.path());
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let about = match std::fs::metadata(&at) {
                Err(_) if link => {
                    self.broken_links += 1;
                    continue;
                }
                other => other.map_err(|e| Error::io(&at, e))?,
            };
            let real = match above.last() {
                Some(folder) if !link => folder.join(&name),
                _ => at.canonicalize().map_err(|e| Error::io(&at, e))?,
            };
            if self.leave_out.contains(&real) {
                continue;
            }
            if about.is_file() {
                self.files.push(at);
            } else if about.is_dir() && above.contains(&real) {
                self.broken_links += 1;
            } else if about.is_dir() && !is_ours(&at) {
                above.push(real);
                self.folder(&at, above)?;
                above.pop();
            }
        }
        Ok(())
    }
}

/// Whether a folder is an index or holds the shards of a job.
fn is_ours(path: &Path) -> bool {
    let begun = path.extension().is_some_and(|e| e == "partial") && path.join("job.json").exists();
    begun || (path.join("index.json").exists() && path.join("passages.arrow").exists())
}

/// The canonical path of a file that need not exist yet.
pub(crate) fn whole(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (parent.canonicalize(), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}
