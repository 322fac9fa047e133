//! Tokens that stand beside the vocabulary: `added_tokens_decoder` of `tokenizer_config.json`, or, where it has none, `special_tokens_map.json` and
//! `added_tokens.json`; and the named special tokens.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer as HuggingFace};

use super::{object, wrong};
use crate::Error;

/// The names of special tokens, in the order in which they are added.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The tokens that a directory's files add to its vocabulary.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// By their numbers.
    numbered: BTreeMap<u32, AddedToken>,
    /// The named ones, by their places in [`NAMED`].
    named: BTreeMap<usize, AddedToken>,
    /// Those that are special besides; none if no file says so.
    extra: Option<Vec<AddedToken>>,
}

impl Names {
    /// Reads them; what `special_tokens_map.json` says goes into the settings.
    pub(super) fn read(directory: &Path, settings: &mut Map<String, Value>) -> Result<Self, Error> {
        let mut names = Self::default();
        let config = directory.join("tokenizer_config.json").display().to_string();
        let decoder = match settings.get("added_tokens_decoder") {
            None => None,
            Some(Value::Object(decoder)) => Some(decoder.clone()),
            Some(_) => return Err(wrong(&config, "field `added_tokens_decoder`: want an object".into())),
        };
        let mut added = Map::new();
        if let Some(decoder) = &decoder {
            for (id, token) in decoder {
                let field = || format!("field `added_tokens_decoder.{id}`");
                let number = id.parse().map_err(|_| wrong(&config, format!("{}: want a number", field())))?;
                let token = described(token).ok_or_else(|| wrong(&config, format!("{}: want a token", field())))?;
                names.numbered.insert(number, token);
            }
        } else {
            // A saved tokenizer says here what its configuration does not.
            settings.extend(object(&directory.join("special_tokens_map.json"))?);
            added = object(&directory.join("added_tokens.json"))?;
        }
        for (place, name) in NAMED.into_iter().enumerate() {
            if let Some(token) = settings.get(name).and_then(described) {
                let token =
                    names.numbered.values().find(|known| known.content == token.content).cloned().unwrap_or(token);
                names.named.insert(place, token.special(true));
            }
        }
        let lists = ["extra_special_tokens", "additional_special_tokens"].map(|name| settings.get(name)?.as_array());
        names.extra = lists
            .into_iter()
            .flatten()
            .max_by_key(|list| list.len())
            .map(|list| list.iter().filter_map(described).map(|token| token.special(true)).collect());
        let file = directory.join("added_tokens.json").display().to_string();
        for (token, id) in added {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| wrong(&file, format!("field `{token}`: want the number of a token")))?;
            let special = names.special(&token);
            names.numbered.insert(id, AddedToken::from(token, special));
        }
        Ok(names)
    }

    /// The tokens that have numbers.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u32, &AddedToken)> {
        self.numbered.iter().map(|(id, token)| (*id, token))
    }

    /// Whether a token is a named one, or special besides.
    fn special(&self, token: &str) -> bool {
        self.named.values().chain(self.extra.iter().flatten()).any(|known| known.content == token)
    }

    /// The tokens that a tokenizer lacks among its added ones, in the order in which they are added: one that is there with other properties gets these.
    pub(super) fn missing(&self, tokenizer: &HuggingFace) -> Vec<AddedToken> {
        let has = tokenizer.get_added_vocabulary();
        let equal = |token: &AddedToken| has.get_added_tokens_decoder().values().any(|known| known == token);
        let stated = |token: &AddedToken| {
            has.get_vocab().contains_key(&token.content) || self.numbered.values().any(|n| n.content == token.content)
        };
        let named = |token: &AddedToken| self.named.values().any(|named| named.content == token.content);
        let numbered = self.numbered.values().map(|token| token.clone().special(token.special || named(token)));
        let mut missing: Vec<AddedToken> = numbered.filter(|token| !equal(token)).collect();
        for token in self.named.values().chain(self.extra.iter().flatten()) {
            if !stated(token) && !missing.contains(token) {
                missing.push(token.clone());
            }
        }
        missing
    }

    /// The token with a number.
    pub(super) fn at(&self, id: u32) -> Option<&AddedToken> {
        self.numbered.get(&id)
    }

    /// Names a special token where no file does.
    pub(super) fn name(&mut self, name: &str, token: AddedToken) {
        if let Some(place) = NAMED.iter().position(|known| *known == name) {
            self.named.entry(place).or_insert(token.special(true));
        }
    }

    /// Says which tokens are special besides, where no file does.
    pub(super) fn extra_unless_stated(&mut self, tokens: Vec<AddedToken>) {
        self.extra.get_or_insert(tokens);
    }

    /// Has the tokens with numbers found in the text as it is written.
    pub(super) fn match_raw(&mut self) {
        let raw = |token: &mut AddedToken| token.normalized = false;
        self.numbered.values_mut().chain(self.named.values_mut()).for_each(raw);
    }
}

/// A token as JSON has it: its text, or an object with its properties.
fn described(value: &Value) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return Some(AddedToken::from(text, true));
    }
    let content = value.get("content")?.as_str()?;
    let flag = |name: &str, default: bool| value.get(name).and_then(Value::as_bool).unwrap_or(default);
    let special = flag("special", false);
    let token = AddedToken::from(content, special).single_word(flag("single_word", false));
    let token = token.lstrip(flag("lstrip", false)).rstrip(flag("rstrip", false));
    Some(token.normalized(flag("normalized", !special)))
}
