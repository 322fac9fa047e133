//! A tokenizer: what turns a text into the numbers of a model's table of embeddings, and back.

use std::path::Path;

use tokenizers::Model;

use crate::stream::TextStream;
use crate::world::World;
use crate::writer::Recent;
use crate::{Error, Writer, vocabulary};

/// A tokenizer of Hugging Face's library, or RWKV's, which that library cannot express.
pub struct Tokenizer {
    /// What it was read from, for errors.
    pub(crate) file: String,
    pub(crate) kind: Kind,
    /// What tells it from any other.
    pub(crate) hash: blake3::Hash,
}

pub(crate) enum Kind {
    HuggingFace(Box<tokenizers::Tokenizer>),
    World(Box<World>),
}

impl Tokenizer {
    /// The tokenizer of a model's directory, if it has one: what transformers' `AutoTokenizer` makes of its files.
    pub fn load(directory: &Path) -> Result<Option<Self>, Error> {
        vocabulary::find(directory, false)
    }

    /// The tokenizer that a `tokenizer.json` describes; `name` says in errors where it is from.
    pub fn parse(name: &str, json: &str) -> Result<Self, Error> {
        vocabulary::parse(name, json)
    }

    /// Hugging Face's tokenizer, if it is one.
    pub fn hugging_face(&self) -> Option<&tokenizers::Tokenizer> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => Some(tokenizer),
            Kind::World(_) => None,
        }
    }

    /// Hugging Face's tokenizer and the file it is from; an error if it is another.
    pub(crate) fn into_hugging_face(self) -> Result<(tokenizers::Tokenizer, String), Error> {
        match self.kind {
            Kind::HuggingFace(tokenizer) => Ok((*tokenizer, self.file)),
            Kind::World(_) => {
                let message = "encoders with RWKV's vocabulary cannot be read: want a tokenizer.json".into();
                Err(Error::Tokenizer { file: self.file, message })
            }
        }
    }

    /// The tokens of a text alone.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => {
                Ok(tokenizer.encode_fast(text, false).map_err(|e| self.wrong(&e))?.get_ids().to_vec())
            }
            Kind::World(world) => world.encode(text).map_err(|message| self.said(message)),
        }
    }

    /// The tokens of a text with those that the tokenizer puts around every text.
    pub fn encode_around(&self, text: &str) -> Result<Around, Error> {
        let tokenizer = match &self.kind {
            Kind::HuggingFace(tokenizer) => tokenizer,
            Kind::World(_) => return Ok(Around { ids: self.encode(text)?, behind: Vec::new() }),
        };
        let encoding = tokenizer.encode_fast(text, true).map_err(|e| self.wrong(&e))?;
        let mut ids = encoding.get_ids().to_vec();
        let added = encoding.get_special_tokens_mask().iter().rev().take_while(|mask| **mask == 1).count();
        // Around a text without a token, all of them stand before it.
        let behind = if added == ids.len() { Vec::new() } else { ids.split_off(ids.len() - added) };
        Ok(Around { ids, behind })
    }

    /// The text of tokens, without the special ones.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => tokenizer.decode(ids, true).map_err(|e| self.wrong(&e)),
            Kind::World(world) => {
                let bytes: Vec<u8> = ids.iter().filter_map(|id| world.shown(*id)).flatten().copied().collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }

    /// What turns tokens that follow these into text.
    pub fn writer(&self, read: &[u32]) -> Result<Writer<'_>, Error> {
        let mut recent = Recent::default();
        recent.add(self, read);
        Writer::new(self, &recent)
    }

    /// A token as it is written in the vocabulary; none of an id without one.
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => token(tokenizer, id),
            Kind::World(world) => world.token(id).map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
        }
    }

    /// Whether a token has a text: it is in the vocabulary and not special.
    pub(crate) fn shows(&self, id: u32) -> bool {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => shown(tokenizer, id).is_some(),
            Kind::World(world) => world.shown(id).is_some(),
        }
    }

    /// A stream of text, at the beginning of one.
    pub(crate) fn stream(&self) -> TextStream {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => TextStream::new(tokenizer.get_decoder()),
            Kind::World(_) => TextStream::bytes(),
        }
    }

    /// What a token adds to the settled text of a stream.
    pub(crate) fn push(&self, stream: &mut TextStream, id: u32) -> Result<String, Error> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => shown(tokenizer, id).map_or(Ok(String::new()), |token| stream.push(token)),
            Kind::World(world) => world.shown(id).map_or(Ok(String::new()), |bytes| stream.push_bytes(bytes)),
        }
    }

    /// An error for the first token that is not among `rows` rows of embeddings.
    pub(crate) fn within(&self, ids: &[u32], rows: usize) -> Result<(), Error> {
        within(&self.file, |id| self.token(id), ids, rows)
    }

    fn wrong(&self, e: &tokenizers::Error) -> Error {
        self.said(e.to_string())
    }

    fn said(&self, message: String) -> Error {
        Error::Tokenizer { file: self.file.clone(), message }
    }
}

/// A text's tokens with those put around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Around {
    /// What is put before the text, and the text.
    pub ids: Vec<u32>,
    /// What is put behind it.
    pub behind: Vec<u32>,
}

/// An error for the first token that is not among `rows` rows of embeddings.
pub(crate) fn within(file: &str, token: impl Fn(u32) -> Option<String>, ids: &[u32], rows: usize) -> Result<(), Error> {
    let Some(&id) = ids.iter().find(|id| **id as usize >= rows) else { return Ok(()) };
    Err(match token(id) {
        Some(token) => Error::NoRow { file: file.to_owned(), token, id, rows },
        None => Error::Token { id, vocabulary: rows },
    })
}

/// A token as it is written in the vocabulary.
pub(crate) fn token(tokenizer: &tokenizers::Tokenizer, id: u32) -> Option<String> {
    tokenizer.get_added_vocabulary().simple_id_to_token(id).or_else(|| tokenizer.get_model().id_to_token(id))
}

fn shown(tokenizer: &tokenizers::Tokenizer, id: u32) -> Option<String> {
    token(tokenizer, id).filter(|token| !tokenizer.get_added_vocabulary().is_special_token(token))
}
