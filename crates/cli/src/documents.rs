//! The options that say how documents are read, and whether an output may be replaced.

use std::path::Path;

use clap::Args;
use longreach_search::documents::{Kind, Options};
use longreach_search::output::Existing;

/// How documents are read.
#[derive(Args)]
pub(crate) struct DocumentArgs {
    /// The field or column that holds the text [default: text, or the only one that holds texts]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// What the input is, or each file of a folder: lines, text (a file a document), jsonl, json, csv, tsv or parquet [default: by name and first bytes]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Kind>,
    /// Fields or columns that are carried with each document, as texts
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    fields: Vec<String>,
}

impl DocumentArgs {
    pub(crate) fn options(&self) -> Options {
        Options { format: self.format, column: self.column.clone(), fields: self.fields.clone(), leave_out: Vec::new() }
    }
}

/// Whether an output may be replaced.
#[derive(Args)]
pub(crate) struct OverwriteArgs {
    /// Fail if the output is there already, instead of replacing it when the new one is whole
    #[arg(long)]
    no_overwrite: bool,
}

impl OverwriteArgs {
    pub(crate) fn existing(&self) -> Existing {
        if self.no_overwrite { Existing::Refuse } else { Existing::Replace }
    }

    /// Says that an output that is there will be replaced, once it is known that it may be.
    pub(crate) fn note(&self, out: &Path) {
        if out.exists() {
            eprintln!("note: {} is there already, and is replaced when the new one is whole", out.display());
        }
    }
}
