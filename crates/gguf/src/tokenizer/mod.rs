//! The tokenizer inside a GGUF file, in the form of Hugging Face's `tokenizer.json`.
//!
//! Entries `tokenizer.ggml.*` list the tokens by id, with a type, a score and, for byte-pair encoding, merges. They do
//! not say how a text is normalised and split into words: `tokenizer.ggml.model` and `tokenizer.ggml.pre` only name it.
//! [`read`] combines both. A name that is not known is an error, since a wrong split changes a model's answers
//! unnoticed.
//!
//! | `tokenizer.ggml.model` | tokenizer | becomes |
//! | --- | --- | --- |
//! | `gpt2` | byte-level byte-pair encoding | `BPE`, with the merges of the file |
//! | `llama` | SentencePiece's byte-pair encoding | `BPE`, with merges made from tokens and scores |
//! | `gemma4` | the same | `BPE`, with the merges of the file |
//! | `bert` | WordPiece | `WordPiece` |
//! | `t5` | SentencePiece's unigram model | `Unigram` |
//! | `rwkv` | RWKV's World vocabulary | [`World`], which `tokenizer.json` cannot express |
//! | `no_vocab`, `none` | no tokenizer | `None` |

use std::collections::BTreeMap;

use crate::{Error, Gguf};

mod byte_level;
mod charsmap;
mod json;
mod keys;
mod patterns;
mod sentencepiece;
mod special;
mod tokens;
mod unigram;
mod word_piece;
mod world;
mod write;

use keys::Keys;
pub use special::{Around, Special};
use tokens::Tokens;
pub use world::World;
pub use write::{Written, write};

/// The tokenizer of a file.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// The tokens, and how texts become tokens.
    pub vocabulary: Vocabulary,
    /// The number of tokens. It may differ from the rows of the embedding table.
    pub tokens: usize,
    /// The ids of tokens with a function.
    pub special: Special,
    /// Which special tokens are put around a text. A `tokenizer.json` that was made from the entries does so itself.
    pub around: Around,
    /// The chat template, in Jinja.
    pub chat_template: Option<String>,
    /// Further chat templates by name, such as `tool_use`.
    pub chat_templates: BTreeMap<String, String>,
}

/// The tokens of a file, and how texts become tokens.
#[derive(Clone, Debug)]
pub enum Vocabulary {
    /// The text of a `tokenizer.json`.
    Json(String),
    /// RWKV's World vocabulary.
    World(World),
}

/// Reads the tokenizer of a file; `None` if the file has none.
///
/// The `tokenizer.json` in the entry `tokenizer.huggingface.json` is used as it is, if there is one. Otherwise the
/// tokenizer is made from the entries `tokenizer.ggml.*`. Its memory is at most a few hundred times what these take.
///
/// Errors, naming the key, if the kind of tokenizer or the name of its split is unknown; if an entry is missing or
/// contradicts another, such as lists of different lengths, a merge of unknown tokens, a token that occurs twice or an
/// id that is not in the vocabulary; and if a score is not finite.
pub fn read(file: &Gguf) -> Result<Option<Tokenizer>, Error> {
    let keys = Keys::of(file);
    let kind: Option<&str> = keys.get("model")?;
    let (vocabulary, tokens, special, around) = match keys.own_json()? {
        Some(text) => {
            let tokens = keys.token_count()?;
            let special = Special::read(&keys, kind.unwrap_or_default(), &[])?;
            (Vocabulary::Json(text.to_owned()), tokens, special, Around::read(&keys, Around::default())?)
        }
        None => match kind {
            None | Some("no_vocab" | "none") => return Ok(None),
            Some("rwkv") => world::read(&keys)?,
            Some(kind) => {
                let read = Tokens::read(&keys)?;
                let special = Special::read(&keys, kind, &read.list)?;
                let (text, around) = match kind {
                    "gpt2" => byte_level::convert(&keys, &read, &special)?,
                    "llama" => sentencepiece::convert(&keys, &read, &special)?,
                    "gemma4" => sentencepiece::convert_listed(&keys, &read, &special)?,
                    "bert" => word_piece::convert(&keys, &read, &special)?,
                    "t5" => unigram::convert(&keys, &read, &special)?,
                    _ => {
                        let known = "gpt2, llama, gemma4, bert, t5, rwkv, none";
                        return Err(keys.unknown("model", kind, known));
                    }
                };
                (Vocabulary::Json(text), read.list.len(), special, around)
            }
        },
    };
    let (chat_template, chat_templates) = keys.chat_templates()?;
    Ok(Some(Tokenizer { vocabulary, tokens, special, around, chat_template, chat_templates }))
}
