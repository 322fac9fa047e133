//! Tokens with a function, and which of them are put around a text.

use super::keys::Keys;
use super::tokens::{Token, TokenType};
use crate::Error;

/// The ids of tokens with a function, as far as a file has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Special {
    /// Begins a text; BERT's `[CLS]`.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn of a conversation.
    pub eot: Option<u32>,
    /// Ends a message that is not the last of a turn, such as the call of a tool.
    pub eom: Option<u32>,
    /// Stands for text without a token.
    pub unknown: Option<u32>,
    /// Fills up a batch.
    pub padding: Option<u32>,
    /// Separates two texts.
    pub separator: Option<u32>,
    /// Stands for a token to predict.
    pub mask: Option<u32>,
    /// All tokens that end what a model generates, in ascending order: `eos`, `eot`, `eom`, and control tokens whose
    /// texts are known to do so.
    pub ends: Vec<u32>,
}

/// Which special tokens are put around a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// [`Special::bos`] before it.
    pub bos: bool,
    /// [`Special::eos`] behind it.
    pub eos: bool,
    /// [`Special::separator`] before the second of two texts; BERT has it behind each text.
    pub separator: bool,
}

/// Texts of control tokens that end a turn or a message, whatever the entries of the file are.
const ENDS: [&str; 21] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "</s>",
    "<eos>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

impl Special {
    /// Reads the ids; those that a kind of tokenizer has by default are as in llama.cpp. Errors if an id is not in the
    /// vocabulary; without `tokens`, all are accepted.
    pub(super) fn read(keys: &Keys<'_>, kind: &str, tokens: &[Token<'_>]) -> Result<Self, Error> {
        let mut special = Self::read_ids(keys, kind, tokens.len())?;
        special.ends.extend(
            (0..).zip(tokens).filter(|(_, t)| t.of == TokenType::Control && ENDS.contains(&&*t.text)).map(|(id, _)| id),
        );
        let has = |text| (0..).zip(tokens).find(|(id, t)| t.text == text && special.ends.contains(id));
        // In formats with channels, `<|end|>` ends a message, and others end a turn.
        let calls = has("<|call|>").or(has("<|calls|>")).is_some();
        let channels = calls && has("<|return|>").or(has("<|flush|>")).is_some();
        if channels && let Some((end, _)) = has("<|end|>") {
            special.ends.retain(|id| *id != end);
        }
        special.end_with_own();
        Ok(special)
    }

    /// Reads the ids without looking at the texts. `tokens` is the number of tokens, 0 if it is not known.
    pub(super) fn read_ids(keys: &Keys<'_>, kind: &str, tokens: usize) -> Result<Self, Error> {
        let id = |name: &str, default: Option<u32>| -> Result<Option<u32>, Error> {
            let name = format!("{name}_token_id");
            let inside = |id: &u32| tokens == 0 || usize::try_from(*id).is_ok_and(|id| id < tokens);
            match keys.get::<u32>(&name)? {
                None => Ok(default.filter(inside)),
                Some(id) if inside(&id) => Ok(Some(id)),
                Some(id) => Err(keys.error(&name, format!("{id} is not below {tokens}, the number of tokens"))),
            }
        };
        let [bos, eos, unknown, padding, separator, mask] = match kind {
            "llama" => [Some(1), Some(2), Some(0), None, None, None],
            "bert" => [Some(101), None, Some(100), Some(0), Some(102), Some(103)],
            "t5" => [None, Some(1), Some(2), Some(0), None, None],
            _ => [None; 6],
        };
        let bos = if kind == "bert" { id("cls", bos)? } else { bos };
        let mut special = Self {
            bos: id("bos", bos)?,
            eos: id("eos", eos)?,
            eot: id("eot", None)?,
            eom: id("eom", None)?,
            unknown: id("unknown", unknown)?,
            padding: id("padding", padding)?,
            // The key is misspelled in the format.
            separator: id("seperator", separator)?,
            mask: id("mask", mask)?,
            ends: Vec::new(),
        };
        special.end_with_own();
        Ok(special)
    }

    /// Completes [`Special::ends`] with the ids of the entries.
    fn end_with_own(&mut self) {
        self.ends.extend([self.eos, self.eot, self.eom].into_iter().flatten());
        self.ends.sort_unstable();
        self.ends.dedup();
    }
}

impl Around {
    /// Reads what the file says; otherwise `default`.
    pub(super) fn read(keys: &Keys<'_>, default: Self) -> Result<Self, Error> {
        Ok(Self {
            bos: keys.get("add_bos_token")?.unwrap_or(default.bos),
            eos: keys.get("add_eos_token")?.unwrap_or(default.eos),
            separator: keys.get("add_sep_token")?.unwrap_or(default.separator),
        })
    }
}
