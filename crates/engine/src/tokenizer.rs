//! Tokenizers: from text to token ids and back.

use std::path::Path;
use std::sync::Arc;

use longreach_gguf::Gguf;
use longreach_models::Location;
use tokenizers::Model;

use crate::stream::TextStream;
use crate::world::World;
use crate::writer::Recent;
use crate::{Error, Writer, vocabulary};

/// A tokenizer of the Hugging Face `tokenizers` library, or RWKV's, which that library cannot express. A clone shares its vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    /// The file it was read from, for errors.
    pub(crate) file: String,
    pub(crate) kind: Kind,
    /// A hash of its definition.
    pub(crate) hash: blake3::Hash,
}

#[derive(Clone)]
pub(crate) enum Kind {
    HuggingFace(Arc<tokenizers::Tokenizer>),
    World(Arc<World>),
}

impl Tokenizer {
    /// Loads the tokenizer of a model directory as transformers' `AutoTokenizer` would; `None` if there is none. An error if a file is damaged or unsupported.
    pub fn load(directory: &Path) -> Result<Option<Self>, Error> {
        vocabulary::find(directory, false)
    }

    /// Loads the tokenizer of a model, without its weights: that of a directory, or of a GGUF file. `None` if it has none.
    pub fn of(location: &Location) -> Result<Option<Self>, Error> {
        match location.gguf() {
            Some(file) => {
                let gguf = Gguf::open(&file).map_err(longreach_models::Error::from)?;
                Ok(vocabulary::gguf::find(&gguf)?.map(|texts| texts.tokenizer))
            }
            None => Self::load(&location.directory),
        }
    }

    /// Parses a `tokenizer.json`; `name` is its source in errors.
    pub fn parse(name: &str, json: &str) -> Result<Self, Error> {
        vocabulary::parse(name, json)
    }

    /// The Hugging Face tokenizer; `None` for RWKV's.
    pub fn hugging_face(&self) -> Option<&tokenizers::Tokenizer> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => Some(tokenizer),
            Kind::World(_) => None,
        }
    }

    /// The Hugging Face tokenizer and its file; an error for RWKV's.
    pub(crate) fn into_hugging_face(self) -> Result<(tokenizers::Tokenizer, String), Error> {
        match self.kind {
            Kind::HuggingFace(tokenizer) => Ok((Arc::unwrap_or_clone(tokenizer), self.file)),
            Kind::World(_) => {
                let message = "RWKV's vocabulary is not supported for encoders: want a tokenizer.json".into();
                Err(Error::Tokenizer { file: self.file, message })
            }
        }
    }

    /// Encodes a text without special tokens around it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => {
                Ok(tokenizer.encode_fast(text, false).map_err(|e| self.wrong(&e))?.get_ids().to_vec())
            }
            Kind::World(world) => world.encode(text).map_err(|message| self.said(message)),
        }
    }

    /// Encodes a text with the special tokens that the tokenizer adds around every text.
    pub fn encode_around(&self, text: &str) -> Result<Around, Error> {
        let tokenizer = match &self.kind {
            Kind::HuggingFace(tokenizer) => tokenizer,
            Kind::World(_) => return Ok(Around { ids: self.encode(text)?, behind: Vec::new() }),
        };
        let encoding = tokenizer.encode_fast(text, true).map_err(|e| self.wrong(&e))?;
        let mut ids = encoding.get_ids().to_vec();
        let added = encoding.get_special_tokens_mask().iter().rev().take_while(|mask| **mask == 1).count();
        // Around an empty text, all special tokens count as before it.
        let behind = if added == ids.len() { Vec::new() } else { ids.split_off(ids.len() - added) };
        Ok(Around { ids, behind })
    }

    /// The special tokens that the tokenizer adds before every text, such as a start-of-text token.
    pub fn prefix(&self) -> Result<Vec<u32>, Error> {
        let Kind::HuggingFace(tokenizer) = &self.kind else { return Ok(Vec::new()) };
        // Around an empty text, tokens before it cannot be distinguished from those after it.
        let encoding = tokenizer.encode_fast("a", true).map_err(|e| self.wrong(&e))?;
        let mask = encoding.get_special_tokens_mask();
        let before = mask.iter().take_while(|mask| **mask == 1).count();
        Ok(if before == mask.len() { Vec::new() } else { encoding.get_ids()[..before].to_vec() })
    }

    /// Decodes tokens to text, skipping special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => tokenizer.decode(ids, true).map_err(|e| self.wrong(&e)),
            Kind::World(world) => {
                let bytes: Vec<u8> = ids.iter().filter_map(|id| world.shown(*id)).flatten().copied().collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }

    /// A [`Writer`] that decodes tokens following `read`.
    pub fn writer(&self, read: &[u32]) -> Result<Writer, Error> {
        let mut recent = Recent::default();
        recent.add(self, read);
        Writer::new(self, &recent)
    }

    /// The vocabulary entry of an id; `None` if there is none.
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => token(tokenizer, id),
            Kind::World(world) => world.token(id).map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
        }
    }

    /// The id of a vocabulary entry; `None` if there is none, and for RWKV's vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.hugging_face().and_then(|tokenizer| tokenizer.token_to_id(token))
    }

    /// The bytes that a token stands for behind other text, which may end within a character; those of its name if it is special, and none if there is no
    /// such token.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        match &self.kind {
            Kind::World(world) => world.token(id).map(<[u8]>::to_vec).unwrap_or_default(),
            Kind::HuggingFace(tokenizer) => {
                let Some(token) = token(tokenizer, id) else { return Vec::new() };
                let shown = if self.shows(id) { self.stream().bytes_of(&token).ok() } else { None };
                shown.unwrap_or(token.into_bytes())
            }
        }
    }

    /// The texts that become a token of their own wherever they stand, such as `<|im_start|>`.
    pub fn added(&self) -> Vec<String> {
        let Kind::HuggingFace(tokenizer) = &self.kind else { return Vec::new() };
        tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content).collect()
    }

    /// Whether decoding shows a token: it is in the vocabulary and not special.
    pub fn shows(&self, id: u32) -> bool {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => shown(tokenizer, id).is_some(),
            Kind::World(world) => world.shown(id).is_some(),
        }
    }

    /// A decoding stream at the start of a text.
    pub(crate) fn stream(&self) -> TextStream {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => TextStream::new(tokenizer.get_decoder()),
            Kind::World(_) => TextStream::bytes(),
        }
    }

    /// Decodes one more token of a stream and returns the text that is final.
    pub(crate) fn push(&self, stream: &mut TextStream, id: u32) -> Result<String, Error> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => shown(tokenizer, id).map_or(Ok(String::new()), |token| stream.push(token)),
            Kind::World(world) => world.shown(id).map_or(Ok(String::new()), |bytes| stream.push_bytes(bytes)),
        }
    }

    /// An error for the first token without a row in an embedding table of `rows` rows.
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

/// The tokens of a text with special tokens around them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Around {
    /// The special tokens before the text, and the text.
    pub ids: Vec<u32>,
    /// The special tokens after the text.
    pub behind: Vec<u32>,
}

/// An error for the first token without a row in an embedding table of `rows` rows.
pub(crate) fn within(file: &str, token: impl Fn(u32) -> Option<String>, ids: &[u32], rows: usize) -> Result<(), Error> {
    let Some(&id) = ids.iter().find(|id| **id as usize >= rows) else { return Ok(()) };
    Err(match token(id) {
        Some(token) => Error::NoRow { file: file.to_owned(), token, id, rows },
        None => Error::Token { id, vocabulary: rows },
    })
}

/// The vocabulary entry of an id.
pub(crate) fn token(tokenizer: &tokenizers::Tokenizer, id: u32) -> Option<String> {
    tokenizer.get_added_vocabulary().simple_id_to_token(id).or_else(|| tokenizer.get_model().id_to_token(id))
}

fn shown(tokenizer: &tokenizers::Tokenizer, id: u32) -> Option<String> {
    token(tokenizer, id).filter(|token| !tokenizer.get_added_vocabulary().is_special_token(token))
}
