//! Reading a model as what a GGUF file is to contain, and writing that file.

use std::ffi::OsStr;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use longreach_engine::write_tokenizer;
use longreach_gguf::Gguf;
use longreach_models::gguf::{Contents, Quantised, Quantising, quantise};
use longreach_models::{Error, Location, Progress};

use crate::failure::Failure;

/// The contents of a GGUF file, or of a model in a directory or on the Hub, with its tokenizer; `pre` is llama.cpp's name of
/// its pre-tokenizer. Prints notes about what is left out.
pub(crate) fn contents(name: &OsStr, at: &Location, pre: Option<&str>) -> Result<Contents, Failure> {
    if let Some(file) = at.gguf() {
        return Ok(Contents::of_gguf(Gguf::open(&file).map_err(Error::from)?)?);
    }
    let shown = Path::new(name).file_name().unwrap_or(name).to_string_lossy();
    let mut contents = Contents::of_directory(at, &shown)?;
    let rows = contents.rows();
    let mut notes = contents.notes().to_vec();
    notes.extend(write_tokenizer(&at.directory, rows, pre, contents.header_mut())?);
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    Ok(contents)
}

/// Finds a model, which is downloaded if it is on the Hub.
pub(crate) fn find(name: &OsStr) -> Result<Location, Failure> {
    Ok(Location::find(name, Progress::Shown)?)
}

/// A bar of bytes.
pub(crate) fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {eta} left").expect("a template"));
    bar
}

/// Writes a GGUF file, and prints its size and what each type loses.
pub(crate) fn write(contents: &Contents, to: &Path, how: &Quantising) -> Result<(), Failure> {
    let bar = bar();
    let done = quantise(contents, to, how, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    report(&done);
    Ok(())
}

fn report(done: &Quantised) {
    let name = match &done.files[..] {
        [one] => one.display().to_string(),
        files => format!("{} and {} more", files[0].display(), files.len() - 1),
    };
    eprintln!("{name}: {:.1} MB, {:.2} bits a weight", done.bytes as f64 / 1e6, done.bits);
    for (kind, weights, error) in &done.types {
        let error = error.map_or_else(String::new, |error| format!(", relative error {error:.4}"));
        eprintln!("  {:8} {:.1} M weights{error}", kind.name(), *weights as f64 / 1e6);
    }
}
