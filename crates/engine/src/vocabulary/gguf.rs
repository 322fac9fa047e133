//! The tokenizer and the chat template of a GGUF file.

use std::sync::Arc;

use longreach_gguf::Gguf;
use longreach_gguf::tokenizer::{self, Vocabulary};

use super::{Draft, Names};
use crate::tokenizer::{Kind, Tokenizer};
use crate::world::World;
use crate::{ChatTemplate, Error};

/// What a GGUF file says of texts.
pub(crate) struct Texts {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) chat: Option<ChatTemplate>,
    /// All tokens that end a text.
    pub(crate) ends: Vec<u32>,
    /// The token before a text.
    pub(crate) bos: Option<u32>,
}

/// Reads the tokenizer and the chat template of a file; `None` if it has no tokenizer.
pub(crate) fn find(gguf: &Gguf) -> Result<Option<Texts>, Error> {
    let failed = |e: longreach_gguf::Error| Error::from(longreach_models::Error::from(e));
    let Some(found) = tokenizer::read(gguf).map_err(failed)? else { return Ok(None) };
    let file = gguf.metadata().file().to_owned();
    let tokenizer = match found.vocabulary {
        Vocabulary::Json(text) => {
            Draft { file: file.clone(), text, special: Vec::new(), around: None }.finish(&Names::default())?
        }
        Vocabulary::World(world) => {
            let mut hasher = blake3::Hasher::new();
            for (id, token) in world.tokens.iter().enumerate() {
                hasher.update(&(id as u64).to_le_bytes()).update(&(token.len() as u64).to_le_bytes()).update(token);
            }
            let kind = Kind::World(Arc::new(World::of(world.tokens, &world.control)));
            Tokenizer { file: file.clone(), kind, hash: hasher.finalize() }
        }
    };
    let special = &found.special;
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    let named = [
        ("bos_token", special.bos),
        ("eos_token", special.eos),
        ("unk_token", special.unknown),
        ("pad_token", special.padding),
        ("sep_token", special.separator),
        ("mask_token", special.mask),
    ];
    let named = named.into_iter().filter_map(|(name, id)| Some((name.to_owned(), token(id)?)));
    let chat = found.chat_template.map(|source| ChatTemplate::new(file, source).with_special(named));
    Ok(Some(Texts { chat, ends: special.ends.clone(), bos: special.bos, tokenizer }))
}
