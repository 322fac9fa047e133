//! The texts of files and folders in memory, with the lines that places in them are named by.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;
use longreach_search::documents::{Input, Kind, Options, Place};
use longreach_search::split::Lines;

use crate::failure::Failure;

/// How texts are read.
#[derive(Args)]
pub(crate) struct TextArgs {
    /// Field or column of a table that holds the text [default: text, or the only field that holds strings]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Format of the input, or of each file of a folder: text (one text per file), lines, jsonl, json, csv, tsv or parquet [default: that of the name, or text]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Kind>,
}

/// A text and where it is from.
pub(crate) struct Text {
    /// Its file.
    pub(crate) name: String,
    pub(crate) text: String,
    place: Place,
    lines: Lines,
}

impl Text {
    /// A place in it: `file:12` or `file:12–14` by lines, or the row of a table.
    pub(crate) fn place(&self, bytes: &Range<usize>) -> String {
        let name = &self.name;
        match self.place {
            Place::Row(row) => format!("{name}, row {row}"),
            Place::Line(line) => format!("{name}:{line}"),
            Place::Whole => match self.lines(bytes) {
                (first, last) if first == last => format!("{name}:{first}"),
                (first, last) => format!("{name}:{first}–{last}"),
            },
        }
    }

    /// The first and the last line of a range of its bytes, counted from 1.
    pub(crate) fn lines(&self, bytes: &Range<usize>) -> (usize, usize) {
        match self.place {
            Place::Line(line) => (line as usize, line as usize),
            _ => self.lines.range(bytes),
        }
    }
}

/// Reads all texts of files and folders; `-` is standard input. Blank ones are left out. An error if there is none.
pub(crate) fn read(inputs: &[OsString], args: &TextArgs) -> Result<Vec<Text>, Failure> {
    let mut texts = Vec::new();
    for name in inputs {
        let input = Input::of(name)?;
        // A file is a text unless its name says that it is a table.
        let table = matches!(&input, Input::File(path) if !matches!(Kind::of_name(path), Ok(None)));
        let whole = !table && !matches!(input, Input::Folder(_));
        let format = args.format.or(whole.then_some(Kind::Text));
        let mut options = Options { format, column: args.column.clone(), ..Options::default() };
        let tables = tables_without_text(&input, &options)?;
        let skipped = tables.len();
        options.leave_out = tables;
        let mut documents = input.read(&options)?;
        while let Some((document, _)) = documents.next()? {
            if document.text.trim().is_empty() {
                continue;
            }
            let lines = Lines::of(&document.text);
            let name = document.file.unwrap_or_else(|| "standard input".into());
            texts.push(Text { name, text: document.text, place: document.place, lines });
        }
        for (n, what) in [
            (documents.left_out(), "files that are not text"),
            (documents.broken_links(), "symbolic links that are broken or form a cycle"),
            (skipped, "tables in which no column, or more than one, holds strings (--column names one)"),
        ] {
            if n > 0 {
                eprintln!("note: {}: {what}: {n}; skipped", input.name());
            }
        }
    }
    if texts.is_empty() {
        let names: Vec<_> = inputs.iter().map(|name| name.to_string_lossy()).collect();
        return Err(Failure::new(format!(
            "{}: no text found: want a file with text, a table with a column of texts, or a folder of them",
            names.join(", ")
        )));
    }
    Ok(texts)
}

/// The tables of a folder in which a column of texts is not found, if none was named.
fn tables_without_text(input: &Input, options: &Options) -> Result<Vec<PathBuf>, Failure> {
    if !matches!(input, Input::Folder(_)) || options.column.is_some() || options.format.is_some() {
        return Ok(Vec::new());
    }
    let table = |file: &PathBuf| matches!(Kind::of_name(file), Ok(Some(kind)) if kind.is_table());
    let files = input.files()?.into_iter().filter(table);
    Ok(files.filter(|file| Input::File(file.clone()).check(options).is_err()).collect())
}

/// The files among inputs, which an output must not replace.
pub(crate) fn paths(inputs: &[OsString]) -> Vec<&Path> {
    inputs.iter().filter(|name| *name != "-").map(Path::new).filter(|path| path.is_file()).collect()
}
