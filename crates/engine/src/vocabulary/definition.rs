//! `tokenizer.json`, parsed once.
//!
//! The reader of the `tokenizers` library parses a model into a generic value, that into another, and only that into the model; for a
//! vocabulary of 262,144 tokens this takes several times the memory of the tokenizer, and most of the time until the first token. Here
//! the lists of byte-pair encodings and of unigram models are parsed into what the library's builders take; everything else is
//! left to its reader, and so are models of other types.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

/// Parses a definition, with a cache of `words` words. Errors as the library's reader does.
pub(super) fn parse(text: &str, words: usize) -> Result<Tokenizer, String> {
    let said = |e: &dyn fmt::Display| e.to_string();
    let Definition { mut rest, added_tokens, model } = serde_json::from_str(text).map_err(|e| said(&e))?;
    let Some(model) = model.build(words).transpose() else {
        let mut tokenizer = Tokenizer::from_str(text).map_err(|e| said(&e))?;
        let mut model = tokenizer.get_model().clone();
        model.resize_cache(words);
        tokenizer.with_model(model);
        return Ok(tokenizer);
    };
    let model = model?;
    rest.insert("added_tokens".into(), json!([]));
    rest.insert("model".into(), json!({"type": "BPE", "vocab": {}, "merges": []}));
    let mut tokenizer: Tokenizer = serde_json::from_value(Value::Object(rest)).map_err(|e| said(&e))?;
    tokenizer.with_model(model);
    tokenizer.add_tokens(&added_tokens.into_iter().map(Into::into).collect::<Vec<_>>());
    Ok(tokenizer)
}

/// The parts of a `tokenizer.json`.
#[derive(Deserialize)]
struct Definition {
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Model,
    /// All but the added tokens and the model.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A model, as far as it is written.
#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    vocab: Vocabulary,
    merges: Option<Merges>,
    /// Everything but the lists.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Default)]
enum Vocabulary {
    #[default]
    Missing,
    /// Ids by token.
    Ids(Vocab),
    /// Tokens with scores.
    Scores(Vec<(String, f64)>),
}

/// Pairs of tokens, best first.
struct Merges(Vec<(String, String)>);

impl Model {
    /// The model of the library; `None` for those whose lists were not kept.
    fn build(self, words: usize) -> Result<Option<ModelWrapper>, String> {
        let kind = self.rest.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        match (&*kind, self.vocab, self.merges) {
            ("BPE", Vocabulary::Ids(ids), Some(Merges(merges))) => {
                let options: Bpe = serde_json::from_value(Value::Object(self.rest)).map_err(|e| e.to_string())?;
                let mut built = BPE::builder().vocab_and_merges(ids, merges).cache_capacity(words);
                built = built.fuse_unk(options.fuse_unk.unwrap_or_default());
                built = built.byte_fallback(options.byte_fallback.unwrap_or_default());
                built = built.ignore_merges(options.ignore_merges.unwrap_or_default());
                built = options.dropout.into_iter().fold(built, |built, dropout| built.dropout(dropout));
                built = options.unk_token.into_iter().fold(built, |built, token| built.unk_token(token));
                let prefix = options.continuing_subword_prefix.into_iter();
                built = prefix.fold(built, |built, prefix| built.continuing_subword_prefix(prefix));
                let suffix = options.end_of_word_suffix.into_iter();
                built = suffix.fold(built, |built, suffix| built.end_of_word_suffix(suffix));
                Ok(Some(ModelWrapper::BPE(built.build().map_err(|e| e.to_string())?)))
            }
            ("Unigram", Vocabulary::Scores(scores), None) => {
                #[derive(Deserialize)]
                struct Options {
                    unk_id: Option<usize>,
                    #[serde(default)]
                    byte_fallback: bool,
                }
                let options: Options = serde_json::from_value(Value::Object(self.rest)).map_err(|e| e.to_string())?;
                let built = Unigram::from(scores, options.unk_id, options.byte_fallback).map_err(|e| e.to_string())?;
                let mut model = ModelWrapper::Unigram(built);
                model.resize_cache(words);
                Ok(Some(model))
            }
            _ => Ok(None),
        }
    }
}

/// The options of a byte-pair encoding.
#[derive(Deserialize)]
struct Bpe {
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
}

/// An added token. Its id is what the library gives it.
#[derive(Deserialize)]
struct Added {
    #[serde(rename = "id")]
    _id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl From<Added> for AddedToken {
    fn from(a: Added) -> Self {
        let Added { _id, content, single_word, lstrip, rstrip, normalized, special } = a;
        Self { content, single_word, lstrip, rstrip, normalized, special }
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of ids by token, or a list of tokens with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut ids = Vocab::default();
                while let Some((token, id)) = map.next_entry::<String, u32>()? {
                    ids.insert(token, id);
                }
                Ok(Vocabulary::Ids(ids))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                let mut scores = Vec::new();
                while let Some(one) = list.next_element()? {
                    scores.push(one);
                }
                Ok(Vocabulary::Scores(scores))
            }
        }
        from.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut merges = Vec::new();
                while let Some(Merge(pair)) = list.next_element()? {
                    merges.extend(pair);
                }
                Ok(Merges(merges))
            }
        }
        from.deserialize_seq(List)
    }
}

/// A merge; `None` for a line that says the version of a list of lines.
struct Merge(Option<(String, String)>);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens, in a list or with a space between them")
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Merge, E> {
                if line.starts_with("#version") {
                    return Ok(Merge(None));
                }
                match line.split(' ').collect::<Vec<_>>()[..] {
                    [left, right] => Ok(Merge(Some((left.to_owned(), right.to_owned())))),
                    _ => Err(E::custom(format_args!("merge `{line}`: want two tokens with a space between them"))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge, A::Error> {
                let missing = || A::Error::custom("want two tokens in a merge");
                let pair = (list.next_element()?.ok_or_else(missing)?, list.next_element()?.ok_or_else(missing)?);
                match list.next_element::<String>()? {
                    None => Ok(Merge(Some(pair))),
                    Some(_) => Err(missing()),
                }
            }
        }
        from.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The library's own reading of the same text.
    fn same(text: &str) {
        let (ours, library) = (parse(text, 7).expect("a tokenizer"), Tokenizer::from_str(text).expect("a tokenizer"));
        assert_eq!(ours.to_string(true).expect("JSON"), library.to_string(true).expect("JSON"));
    }

    fn document(model: Value) -> Value {
        let added = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": true, "rstrip": false, "normalized": false, "special": true});
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [added(0, "<unk>"), added(9, "<new>")],
            "normalizer": {"type": "Lowercase"}, "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Fuse"}, "model": model,
        })
    }

    #[test]
    fn models_are_those_of_the_library() {
        let ids = json!({"<unk>": 0, "a": 1, "b": 2, "ab": 3, "c": 4, "abc": 5});
        let bpe = |merges: Value| {
            json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": "</w>", "fuse_unk": true, "byte_fallback": true, "ignore_merges": true, "vocab": ids, "merges": merges})
        };
        same(&document(bpe(json!([["a", "b"], ["ab", "c"]]))).to_string());
        same(&document(bpe(json!(["#version: 0.2", "a b", "ab c"]))).to_string());
        same(&document(bpe(json!([]))).to_string());
        let scores = json!([["<unk>", 0.0], ["a", -1.5], ["b", -2.0], ["ab", -2.25]]);
        same(&document(json!({"type": "Unigram", "unk_id": 0, "vocab": scores, "byte_fallback": false})).to_string());
        let words = json!({"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"});
        same(&document(words).to_string());
        // From before models had a type.
        same(&document(json!({"vocab": ids, "merges": [["a", "b"]], "unk_token": "<unk>"})).to_string());
    }

    #[test]
    fn damaged_models_are_refused() {
        let bpe = |vocab: Value, merges: Value| {
            document(json!({"type": "BPE", "vocab": vocab, "merges": merges})).to_string()
        };
        let ids = json!({"a": 0, "b": 1});
        for text in [
            bpe(ids.clone(), json!([["a", "b"]])),
            bpe(ids.clone(), json!([["a"]])),
            bpe(ids.clone(), json!([["a", "b", "ab"]])),
            bpe(ids.clone(), json!(["a b c"])),
            bpe(json!({"a": -1}), json!([])),
            bpe(json!(3), json!([])),
            document(json!({"type": "BPE", "vocab": ids})).to_string(),
            document(json!([])).to_string(),
            "{}".into(),
            "[]".into(),
            "".into(),
        ] {
            assert!(parse(&text, 7).is_err() && Tokenizer::from_str(&text).is_err(), "{text}");
        }
    }
}
