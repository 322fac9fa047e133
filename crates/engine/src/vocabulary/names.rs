//! Added and special tokens of a directory: `added_tokens_decoder` of `tokenizer_config.json` or, in its absence, `special_tokens_map.json` and
//! `added_tokens.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer as HuggingFace};

use super::{object, wrong};
use crate::Error;

/// The names of special tokens, in the order in which they are added.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The added and special tokens of a directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// Added tokens by id.
    numbered: BTreeMap<u32, AddedToken>,
    /// Named special tokens by their index in [`NAMED`].
    named: BTreeMap<usize, AddedToken>,
    /// Further special tokens; `None` if no file lists them.
    extra: Option<Vec<AddedToken>>,
}

impl Names {
    /// Reads the files; entries of `special_tokens_map.json` are merged into `settings`.
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
                let number = id.parse().map_err(|_| wrong(&config, format!("{}: want an id", field())))?;
                let token = described(token).ok_or_else(|| wrong(&config, format!("{}: want a token", field())))?;
                names.numbered.insert(number, token);
            }
        } else {
            // Older checkpoints list their special tokens here.
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
            let id = id.ok_or_else(|| wrong(&file, format!("field `{token}`: want a token id")))?;
            let special = names.special(&token);
            names.numbered.insert(id, AddedToken::from(token, special));
        }
        Ok(names)
    }

    /// The added tokens with their ids.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u32, &AddedToken)> {
        self.numbered.iter().map(|(id, token)| (*id, token))
    }

    /// Whether a token is special.
    fn special(&self, token: &str) -> bool {
        self.named.values().chain(self.extra.iter().flatten()).any(|known| known.content == token)
    }

    /// The tokens to add to a tokenizer, in order; those that it has with other properties are included, to override them.
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

    /// The added token with an id.
    pub(super) fn at(&self, id: u32) -> Option<&AddedToken> {
        self.numbered.get(&id)
    }

    /// Sets the default of a named special token.
    pub(super) fn name(&mut self, name: &str, token: AddedToken) {
        if let Some(place) = NAMED.iter().position(|known| *known == name) {
            self.named.entry(place).or_insert(token.special(true));
        }
    }

    /// Sets the default of the further special tokens.
    pub(super) fn extra_unless_stated(&mut self, tokens: Vec<AddedToken>) {
        self.extra.get_or_insert(tokens);
    }

    /// Makes all tokens match the text before normalisation.
    pub(super) fn match_raw(&mut self) {
        let raw = |token: &mut AddedToken| token.normalized = false;
        self.numbered.values_mut().chain(self.named.values_mut()).for_each(raw);
    }
}

/// Parses a token: its text, or an object with its properties.
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
