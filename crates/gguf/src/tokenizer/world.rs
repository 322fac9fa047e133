//! RWKV's World vocabulary, `rwkv`: byte strings, of which the longest that matches is taken.

use super::Vocabulary;
use super::keys::Keys;
use super::special::{Around, Special};
use super::tokens::{TokenType, types};
use crate::{Error, Strings};

/// RWKV's World vocabulary: at each place of a text, the longest token that matches is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// The bytes of each token by id. They are empty for ids without one, which pad the embedding table.
    pub tokens: Vec<Vec<u8>>,
    /// The ids of control tokens, in ascending order: a text is searched for them first, and decoding hides them.
    pub control: Vec<u32>,
}

/// Reads the vocabulary. Errors if a token is not a Python literal of bytes.
pub(super) fn read(keys: &Keys<'_>) -> Result<(Vocabulary, usize, Special, Around), Error> {
    let texts: Strings<'_> = keys.require("tokens")?;
    let types = types(keys, texts.len())?;
    let special = Special::read_ids(keys, "rwkv", types.len())?;
    let mut world = World { tokens: Vec::with_capacity(types.len()), control: Vec::new() };
    for ((id, text), of) in (0u32..).zip(texts).zip(types) {
        let wrong = || keys.error("tokens", format!("token {id} is not a Python literal: {}", text.escape_ascii()));
        world.tokens.push(match of {
            TokenType::Unused => Vec::new(),
            _ => unescape(text).ok_or_else(wrong)?,
        });
        if of.is_special() {
            world.control.push(id);
        }
    }
    let tokens = world.tokens.len();
    Ok((Vocabulary::World(world), tokens, special, Around::read(keys, Around::default())?))
}

/// The bytes of a Python literal without its quotes; `None` if an escape is not known or not complete.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.iter());
    while let Some(byte) = rest.next() {
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'x' => 16 * digit(*rest.next()?)? + digit(*rest.next()?)?,
            same @ (b'\\' | b'\'' | b'"') => *same,
            _ => return None,
        });
    }
    Some(bytes)
}

/// The value of a hexadecimal digit.
fn digit(letter: u8) -> Option<u8> {
    u8::try_from(char::from(letter).to_digit(16)?).ok()
}
