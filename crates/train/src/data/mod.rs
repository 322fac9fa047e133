//! The data of a training: where texts come from, and which of them a step learns.

mod corpus;
mod mix;
mod records;
mod streamed;
mod windows;

pub use corpus::{Corpus, Page};
pub(crate) use mix::Mix;
pub(crate) use records::{Record, Records, hash};
pub(crate) use streamed::{Cursor, Streamed};
pub(crate) use windows::{Tokens, Windows};

use longreach_models::TableRow;

use crate::texts::Text;

/// What a model learns from at once: texts and their targets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Example {
    /// One text; or an anchor, its positive and its negatives.
    pub(crate) texts: Vec<Text>,
    /// A row of a table, in place of texts.
    pub(crate) row: Option<TableRow>,
    pub(crate) target: Target,
}

impl Example {
    /// Texts and their target.
    pub(crate) fn new(texts: Vec<Text>, target: Target) -> Self {
        Self { texts, row: None, target }
    }

    /// The number of tokens that a model reads.
    pub(crate) fn tokens(&self) -> usize {
        let texts = self.texts.iter().map(|text| text.ids.len()).sum::<usize>();
        // A token for each column and one for the answer.
        texts + self.row.as_ref().map_or(0, |row| row.known.len() + row.categories.len() + 1)
    }
}

/// What is to be predicted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// Nothing, or what the texts themselves say.
    None,
    /// A target for every token; negative ones do not count.
    Tokens(Vec<i64>),
    /// The number of a label.
    Label(usize),
    /// For each label 1 or 0.
    Labels(Vec<f32>),
    /// A number.
    Number(f32),
    /// The tokens at which an answer begins and ends, and what is needed to compare answers as texts.
    Span(usize, usize, Box<Asked>),
}

/// A window of a text that was asked about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    /// The number of the question, which all its windows share.
    pub(crate) question: u64,
    /// The bytes of the context that each token is; `None` for tokens outside of the context.
    pub(crate) places: Vec<Option<(usize, usize)>>,
    pub(crate) context: String,
    /// The right answers.
    pub(crate) answers: Vec<String>,
}
