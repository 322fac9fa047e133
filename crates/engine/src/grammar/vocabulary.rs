//! The vocabulary of a model as the bytes of its tokens, from which masks are made.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

use super::calls::TAGS;
use super::{factory, wrong};
use crate::{Engine, Error, Tokenizer};

/// The tokens of a model by their bytes.
pub(crate) struct Vocabulary {
    pub(super) factory: ParserFactory,
    /// The trie of the bytes.
    pub(super) words: TokEnv,
    /// Special tokens that grammars see as the text of their name.
    pub(crate) shown: Vec<u32>,
}

/// A trie whose texts are divided by the longest token: grammars look at bytes, so that any division serves.
struct Words(TokTrie);

impl TokenizerEnv for Words {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.0.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

/// The bytes of a token in the trie; special ones begin with a byte that is in no text.
fn word(tokenizer: &Tokenizer, id: u32, special: bool) -> Vec<u8> {
    let bytes = tokenizer.bytes(id);
    if special && !bytes.is_empty() { [&[TokTrie::SPECIAL_TOKEN_MARKER], &bytes[..]].concat() } else { bytes }
}

impl Vocabulary {
    /// The vocabulary of a model. O(bytes of the vocabulary) time.
    pub(crate) fn new(engine: &Engine) -> Result<Self, Error> {
        let tokenizer = engine.tokenizer()?;
        let rows = engine.model.decoder.vocabulary() as u32;
        let tag = |id: u32| !tokenizer.shows(id) && tokenizer.token(id).is_some_and(|name| TAGS.contains(&&*name));
        let shown: Vec<u32> = (0..rows).filter(|id| tag(*id)).collect();
        let ends: Vec<u32> = engine.model.description.eos.iter().copied().filter(|id| *id < rows).collect();
        let special = |id: u32| ends.contains(&id) || (!tokenizer.shows(id) && !shown.contains(&id));
        let mut words: Vec<Vec<u8>> = (0..rows).map(|id| word(tokenizer, id, special(id))).collect();
        // The trie wants a token that ends texts. Where the model has none, one behind its vocabulary stands for it, which is never sampled.
        if ends.is_empty() {
            words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], &b"<end>"[..]].concat());
        }
        if words.iter().any(|word| word.len() > 1024) {
            return Err(wrong("the vocabulary has a token of more than 1,024 bytes, for which no masks can be made"));
        }
        let end = ends.first().copied().unwrap_or(rows);
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words);
        let trie = if ends.len() > 1 { trie.with_eos_tokens(&ends) } else { trie };
        let words: TokEnv = Arc::new(Words(trie));
        Ok(Self { factory: factory(&words)?, words, shown })
    }
}
