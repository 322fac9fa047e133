//! Options for how documents are read, and for whether an existing output may be replaced.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

use clap::Args;
use longreach_search::documents::{Input, Kind, Options};
use longreach_search::output::Existing;

use crate::failure::Failure;

/// How documents are read.
#[derive(Args)]
pub(crate) struct DocumentArgs {
    /// Field or column that holds the text [default: text, or the only field that holds strings]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Format of the input, or of each file of a folder: lines, text (one document per file), jsonl, json, csv, tsv or parquet [default: detected]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Kind>,
    /// Fields or columns to copy to the output with each document, as strings
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    fields: Vec<String>,
}

impl DocumentArgs {
    pub(crate) fn options(&self) -> Options {
        Options { format: self.format, column: self.column.clone(), fields: self.fields.clone(), ..Options::default() }
    }
}

/// Whether an output may be replaced.
#[derive(Args)]
pub(crate) struct OverwriteArgs {
    /// Fail if the output already exists, instead of replacing it once the new output is complete
    #[arg(long)]
    no_overwrite: bool,
}

impl OverwriteArgs {
    pub(crate) fn existing(&self) -> Existing {
        if self.no_overwrite { Existing::Refuse } else { Existing::Replace }
    }

    /// Prints a note if `out` exists and will be replaced. Call it after the check that it may be.
    pub(crate) fn note(&self, out: &Path) {
        if out.exists() {
            eprintln!("note: {} already exists and will be replaced once the new output is complete", out.display());
        }
    }
}

/// The text of an input as one: that of a text file or of standard input as it is, and documents of tables and folders with an
/// empty line between them. `column` is that of tables.
pub(crate) fn whole_text(name: &OsStr, column: Option<&str>) -> Result<String, Failure> {
    const TABLES: [&str; 6] = ["jsonl", "ndjson", "json", "csv", "tsv", "parquet"];
    let input = Input::of(name)?;
    let shown = input.name();
    let failed = |e: std::io::Error| Failure::new(format!("{shown}: {e}"));
    let text = match &input {
        Input::Standard => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(failed)?;
            text
        }
        Input::File(path)
            if !path.extension().is_some_and(|end| TABLES.iter().any(|table| end.eq_ignore_ascii_case(table))) =>
        {
            std::fs::read_to_string(path).map_err(failed)?
        }
        _ => {
            let mut documents = input.documents(column)?;
            let mut texts = Vec::new();
            while let Some((document, _)) = documents.next()? {
                texts.push(document.text);
            }
            texts.join("\n\n")
        }
    };
    if text.trim().is_empty() {
        return Err(Failure::new(format!("{shown}: the input has no text")));
    }
    Ok(text)
}
