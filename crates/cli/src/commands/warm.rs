//! `longreach warm`

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use longreach_models::{Error, Location, Progress};
use longreach_simd::file::{Cached, Mapped, cached, reread};

use super::generate::megabytes;
use crate::failure::Failure;
use crate::progress;

/// Read the weights of a model into the page cache, on huge pages where the system has them
///
/// Weights that are used as they are stored are mapped, and every token reads them through the page cache. A file that was downloaded
/// or copied is cached in small pages, and on some virtual machines translating their addresses takes memory bandwidth. This command
/// writes the file to disk if need be, drops it from the cache, and reads it again in pages of 2 MiB. That is needed once, as long as
/// the file stays cached, and holds for every program that maps the file. `longreach info MODEL` says how a file is cached. Linux alone
/// has such pages, for file systems with large folios; elsewhere the file is read as it is.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach warm Qwen/Qwen3-0.6B
  longreach warm model-q4_k_m.gguf && longreach chat --model model-q4_k_m.gguf")]
pub(crate) struct Args {
    /// Directory, weights file or Hugging Face Hub id
    model: OsString,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let files = Location::find(&args.model, Progress::Shown)?.weight_files()?;
    let mut sizes = Vec::new();
    for path in &files {
        sizes.push(open(path)?.metadata().map_err(|source| failed(path, source))?.len());
    }
    let bar = progress::bytes("reading", sizes.iter().sum())?;
    let mut before = 0;
    for (path, size) in files.iter().zip(&sizes) {
        let mut heard = |bytes: usize| bar.set_position(before + bytes as u64);
        reread(&open(path)?, &mut heard).map_err(|source| failed(path, source))?;
        before += size;
    }
    bar.finish_and_clear();
    println!("{}", described(&files).unwrap_or_else(|| format!("{} are read", megabytes(before))));
    Ok(())
}

/// How the files lie in the page cache, in words. `None` where the system does not tell.
pub(super) fn described(files: &[PathBuf]) -> Option<String> {
    let (mut all, mut size) = (Cached::default(), 0);
    for path in files {
        let mapped = Mapped::new(&File::open(path).ok()?).ok()?;
        let one = cached(&mapped)?;
        size += mapped.as_ref().len();
        all.bytes += one.bytes;
        all.huge += one.huge;
    }
    Some(in_words(all, size))
}

fn in_words(cached: Cached, size: usize) -> String {
    let bytes = |bytes: usize| megabytes(bytes as u64);
    let pages = match cached {
        Cached { bytes: 0, .. } => String::new(),
        Cached { huge: 0, .. } => ", on small pages".into(),
        Cached { bytes, huge } => {
            format!(", {:.0} % of it on pages of 2 MiB", 100.0 * huge as f64 / bytes as f64)
        }
    };
    format!("{} of {} are cached{pages}", bytes(cached.bytes), bytes(size))
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: std::io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cached_is_said_in_words() {
        let said = |bytes, huge| in_words(Cached { bytes, huge }, 10 << 20);
        assert!(said(0, 0).ends_with("are cached") && said(5 << 20, 0).ends_with("are cached, on small pages"));
        assert!(said(10 << 20, 8 << 20).ends_with("80 % of it on pages of 2 MiB"), "{}", said(10 << 20, 8 << 20));
    }
}
