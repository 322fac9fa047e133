//! Checks of an output path before the work begins: it can be written, and it is not the input.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::documents::{Input, whole};
use crate::vectors::Format;

/// What to do if the output already exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Return an error and keep it.
    Refuse,
    /// Replace it once the new output is complete.
    Replace,
}

/// Checks the path of a vector file and returns its format. An error if the path cannot be written, is the input, or exists and must not be replaced.
pub fn check_file(out: &Path, input: &Input, existing: Existing) -> Result<Format, Error> {
    let format = Format::of(out)?;
    if out.is_dir() {
        return Err(Error::file(out, "is a folder: the output must be a file"));
    }
    place(out)?;
    if out.exists() {
        // Catches hard links, symbolic links and other spellings of the path.
        for file in input.files()? {
            if same(out, &file) {
                let message = format!("is the input ({}): choose another output", file.display());
                return Err(Error::file(out, message));
            }
        }
        replaceable(out, existing)?;
    }
    Ok(format)
}

/// Checks the path of what shards are joined in, as [`check_file`].
pub(crate) fn check_joined(out: &Path, shards: &[PathBuf], existing: Existing) -> Result<Format, Error> {
    for shard in shards {
        std::fs::metadata(shard).map_err(|e| Error::io(shard, e))?;
        check_file(out, &Input::File(shard.clone()), existing)?;
    }
    Format::of(out)
}

/// Checks the path of an index. An error if it cannot be written, contains the input, or exists and is not an index or must not be replaced.
pub fn check_index(out: &Path, input: &Input, existing: Existing) -> Result<(), Error> {
    place(out)?;
    if !out.exists() {
        return Ok(());
    }
    let real = out.canonicalize().map_err(|e| Error::io(out, e))?;
    let read: Option<PathBuf> = match input {
        Input::Standard => None,
        Input::File(path) | Input::Folder(path) => Some(path.canonicalize().map_err(|e| Error::io(path, e))?),
    };
    if read.is_some_and(|read| read.starts_with(&real)) {
        let message = format!("is the input or contains it ({}): choose another output", input.name());
        return Err(Error::file(out, message));
    }
    replaceable(out, existing)?;
    if !(out.join("index.json").exists() && out.join("passages.arrow").exists()) {
        return Err(Error::file(out, "already exists and is not an index, so it is not replaced: choose another name"));
    }
    Ok(())
}

fn replaceable(out: &Path, existing: Existing) -> Result<(), Error> {
    match existing {
        Existing::Replace => Ok(()),
        Existing::Refuse => {
            Err(Error::file(out, "already exists: choose another name, or omit --no-overwrite to replace it"))
        }
    }
}

/// Checks that the folder of the output exists and that a file can be created in it.
fn place(out: &Path) -> Result<(), Error> {
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match std::fs::metadata(parent) {
        Ok(about) if about.is_dir() => {}
        Ok(_) => return Err(Error::file(out, format!("{} is not a folder", parent.display()))),
        Err(e) => return Err(Error::file(out, format!("cannot access the folder {}: {e}", parent.display()))),
    }
    let made = tempfile::Builder::new().prefix(".longreach-").tempfile_in(parent);
    made.map(|_| ()).map_err(|e| Error::file(out, format!("cannot be written in {}: {e}", parent.display())))
}

/// Whether two paths refer to the same file.
fn same(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if let (Ok(a), Ok(b)) = (std::fs::metadata(a), std::fs::metadata(b))
            && (a.dev(), a.ino()) == (b.dev(), b.ino())
        {
            return true;
        }
    }
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b) || whole(a) == whole(b)
}
