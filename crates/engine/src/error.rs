//! What can go wrong with a job.

use std::path::PathBuf;

/// A job that cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model.
    #[error(transparent)]
    Model(#[from] longreach_models::Error),
    /// The tokenizer.
    #[error("{file}: {message}")]
    Tokenizer {
        /// The file.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// A token of a text for which the model has no row of embeddings.
    #[error("{file}: the text has the token `{token}`, whose id is {id}, but the model has {rows} rows of embeddings")]
    NoRow {
        /// The tokenizer's file.
        file: String,
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the table.
        rows: usize,
    },
    /// A model without a tokenizer was asked for text.
    #[error("{0}: the model has no tokenizer.json nor any other tokenizer, so it cannot read or write text")]
    NoTokenizer(String),
    /// What a directory says of its pipeline cannot be.
    #[error("{}: {message}", file.display())]
    Pipeline {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A prompt that a model does not have.
    #[error("there is no prompt `{name}`; the model has {known}")]
    Prompt {
        /// What was asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A length that a model cannot read.
    #[error("a text of {found} tokens cannot be read: want {least} to {most}")]
    Limit {
        /// What was asked for.
        found: usize,
        /// The least.
        least: usize,
        /// The most.
        most: usize,
    },
    /// A model that makes one vector of a text was asked for one a token.
    #[error("{0}: not a model of late interaction: it makes one vector of a text")]
    NotLate(String),
    /// A model that is no encoder or lacks the head.
    #[error("{name}: {message}")]
    Head {
        /// The model.
        name: String,
        /// What it has and what was wanted.
        message: String,
    },
    /// What a model computes is NaN or infinite.
    #[error(
        "{name}: the model's output holds NaN or infinite numbers: its weights may be damaged, or too large for their precision (try --dtype f32)"
    )]
    NotFinite {
        /// The model.
        name: String,
    },
    /// Text that is not UTF-8.
    #[error("{name}: not UTF-8 at byte {at}")]
    NotUtf8 {
        /// Where the text is from.
        name: String,
        /// The first byte that is wrong.
        at: u64,
    },
    /// Nothing to read.
    #[error("{0}: the prompt is empty")]
    Empty(String),
    /// A token that the model does not have.
    #[error("token id {id} is out of range: the model has {vocabulary}")]
    Token {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// More tokens than a model with learned positions has positions for.
    #[error("the text has {found} tokens, the model has positions for {longest}")]
    TooLong {
        /// How many there are.
        found: u64,
        /// How many there may be.
        longest: usize,
    },
    /// An option of sampling that makes no sense.
    #[error("{name}: want {want}, found {found}")]
    Sampling {
        /// The option.
        name: &'static str,
        /// What it may be.
        want: &'static str,
        /// What it is.
        found: String,
    },
    /// Nothing was read, so there is nothing to go on from.
    #[error("nothing was read yet: a text starts from a prompt or a saved state")]
    NotStarted,
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A state file that is damaged or another model's.
    #[error("{}: {message}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}
