//! What is written, checked before the work begins: that it can be written, and that it is not what is read.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::documents::{Input, whole};
use crate::vectors::Format;

/// What becomes of an output that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is kept, and the work refused.
    Refuse,
    /// It is replaced once the new one is whole.
    Replace,
}

/// Checks where a file of vectors is to be written, and gives its format.
pub fn check_file(out: &Path, input: &Input, existing: Existing) -> Result<Format, Error> {
    let format = Format::of(out)?;
    if out.is_dir() {
        return Err(Error::file(out, "is a folder: want the name of a file"));
    }
    place(out)?;
    if out.exists() {
        // Through links and other names, too.
        for file in input.files()? {
            if same(out, &file) {
                let message = format!("is what is read ({}): choose another output", file.display());
                return Err(Error::file(out, message));
            }
        }
        replaceable(out, existing)?;
    }
    Ok(format)
}

/// Checks where an index is to be written.
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
        let message = format!("is what is read, or holds it ({}): choose another output", input.name());
        return Err(Error::file(out, message));
    }
    replaceable(out, existing)?;
    if !(out.join("index.json").exists() && out.join("passages.arrow").exists()) {
        return Err(Error::file(out, "is there already and is no index, so it is not replaced: choose another name"));
    }
    Ok(())
}

fn replaceable(out: &Path, existing: Existing) -> Result<(), Error> {
    match existing {
        Existing::Replace => Ok(()),
        Existing::Refuse => {
            Err(Error::file(out, "is there already: choose another name, or leave --no-overwrite out to replace it"))
        }
    }
}

/// Whether a file can be made beside the output.
fn place(out: &Path) -> Result<(), Error> {
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match std::fs::metadata(parent) {
        Ok(about) if about.is_dir() => {}
        Ok(_) => return Err(Error::file(out, format!("{} is no folder", parent.display()))),
        Err(e) => return Err(Error::file(out, format!("the folder {} is not there: {e}", parent.display()))),
    }
    let made = tempfile::Builder::new().prefix(".longreach-").tempfile_in(parent);
    made.map(|_| ()).map_err(|e| Error::file(out, format!("cannot be written in {}: {e}", parent.display())))
}

/// Whether two names are those of one file.
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
