//! Errors of loading models and running them on text.

use std::path::PathBuf;

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the checkpoint or its configuration.
    #[error(transparent)]
    Model(#[from] longreach_models::Error),
    /// Ranks that could not read a text together.
    #[error(transparent)]
    Ranks(#[from] longreach_cluster::Error),
    /// A tokenizer that cannot be read, or that fails on a text.
    #[error("{file}: {message}")]
    Tokenizer {
        /// The file.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// A token of a text whose id exceeds the embedding table of the model.
    #[error(
        "{file}: the text contains the token `{token}` with id {id}, but the embedding table of the model has {rows} rows"
    )]
    NoRow {
        /// The tokenizer's file.
        file: String,
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// Number of rows of the embedding table.
        rows: usize,
    },
    /// A grammar or schema that is invalid or not supported.
    #[error("{}{message}", if at.is_empty() { String::new() } else { format!("at `{}`: ", at.trim_start_matches('.')) })]
    Grammar {
        /// The place in a schema, such as `.properties.age`; empty for the whole.
        at: String,
        /// What is wrong.
        message: String,
    },
    /// Reading or generating was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The model has no tokenizer.
    #[error("{0}: the model has no tokenizer.json and no other tokenizer, so it cannot read or generate text")]
    NoTokenizer(String),
    /// A module of a sentence-transformers pipeline that is invalid or not supported.
    #[error("{}: {message}", file.display())]
    Pipeline {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The model has no prompt of that name.
    #[error("there is no prompt `{name}`; the model has {known}")]
    Prompt {
        /// The requested prompt.
        name: String,
        /// The prompts of the model, separated by commas.
        known: String,
    },
    /// An input limit or question length outside of what the model supports, in tokens.
    #[error("an input of {found} tokens is not supported: want {least} to {most}")]
    Limit {
        /// The requested length.
        found: usize,
        /// The shortest supported length.
        least: usize,
        /// The longest supported length.
        most: usize,
    },
    /// Token vectors were requested of a model that makes one vector per text.
    #[error("{0}: not a late-interaction model: it makes one vector per text")]
    NotLate(String),
    /// The model lacks the head that a task needs, or the text lacks a mask.
    #[error("{name}: {message}")]
    Head {
        /// The model.
        name: String,
        /// What the model has and what the task needs.
        message: String,
    },
    /// The output of the model is NaN or infinite.
    #[error(
        "{name}: the model's output holds NaN or infinite numbers: its weights may be damaged, or overflow in this dtype (try --dtype f32)"
    )]
    NotFinite {
        /// The model.
        name: String,
    },
    /// Text that is not UTF-8.
    #[error("{name}: not UTF-8 at byte {at}")]
    NotUtf8 {
        /// Name of the source.
        name: String,
        /// Offset of the first invalid byte.
        at: u64,
    },
    /// An empty prompt.
    #[error("{0}: the prompt is empty")]
    Empty(String),
    /// The model has no chat template.
    #[error(
        "{0} has no chat template (`chat_template` in tokenizer_config.json, or chat_template.jinja): it was not trained for conversations; `generate` continues a text with it"
    )]
    NoTemplate(String),
    /// A chat template that cannot be run, or that refuses the messages.
    #[error("{file}: {message}")]
    Template {
        /// The file.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// A token id outside the vocabulary of the model.
    #[error("token id {id} is out of range: the vocabulary has {vocabulary} tokens")]
    Token {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// The text exceeds the learned positions of the model.
    #[error("the text has {found} tokens, but the model has positions for {longest} only")]
    TooLong {
        /// Length of the text in tokens.
        found: u64,
        /// Number of positions.
        longest: usize,
    },
    /// The text is longer than those that the model was trained for.
    #[error(
        "the text has {found} tokens or more, but the model was trained for {longest}: shorten it, use another model, keep only a window of it (--window {} --sinks 4), or read on regardless (--extrapolate)",
        longest.div_ceil(2)
    )]
    Untrained {
        /// Length of the text in tokens, as far as it is known.
        found: u64,
        /// The longest text that the model was trained for.
        longest: usize,
    },
    /// Windows of a text that the model cannot read.
    #[error("{0}")]
    Windows(String),
    /// A text with a single token, which nothing predicts.
    #[error("{0}: the text has a single token: a loss needs one that predicts and one that is predicted")]
    Short(String),
    /// A sampling option out of range.
    #[error("{name}: want {want}, found {found}")]
    Sampling {
        /// The option.
        name: &'static str,
        /// Its valid range.
        want: &'static str,
        /// Its value.
        found: String,
    },
    /// A conversation was to be saved before there was an answer.
    #[error("the model has not answered yet: there is no state to save")]
    NotAnswered,
    /// A model that tokens cannot be proposed to, or that cannot propose them.
    #[error("{name}: {message}")]
    Speculation {
        /// The model.
        name: String,
        /// Why not.
        message: String,
    },
    /// A text that is too short to be predicted.
    #[error("the text has {0} tokens, but at least two are needed")]
    TooShort(usize),
    /// Models that cannot be compared.
    #[error("the vocabularies have {reference} and {model} tokens: only models of one vocabulary can be compared")]
    Vocabularies {
        /// The tokens of the first.
        reference: usize,
        /// The tokens of the second.
        model: usize,
    },
    /// A token was requested before any was read.
    #[error("no token was read yet: generation starts from a prompt or a saved state")]
    NotStarted,
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A saved state of another model.
    #[error("{}: saved with another model, dtype or tokenizer: fingerprint: want {want}…, found {found}…", path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// The beginning of the fingerprint of the model that should go on from it.
        want: String,
        /// The beginning of the fingerprint in the file.
        found: String,
    },
    /// A saved state that is damaged or of another version.
    #[error("{}: {message}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}
