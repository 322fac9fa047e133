//! Loading the tokenizer of a model directory, as transformers' `AutoTokenizer` does.
//!
//! `tokenizer.json` is used with the overrides of `tokenizer_config.json`. `vocab.txt`, `vocab.json` with `merges.txt`, SentencePiece models and word-level
//! vocabularies ([`crate::words`]) are converted to its form. RWKV's vocabulary cannot be expressed in it ([`crate::world`]).

use std::path::Path;
use std::sync::Arc;

use longreach_models::json::NotNumbers;
use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer as HuggingFace};

use crate::tokenizer::{Kind, Tokenizer};
use crate::world::World;
use crate::{Error, words};

mod class;
mod definition;
pub(crate) mod gguf;
mod legacy;
mod names;
mod overrides;
mod pieces;
mod sentencepiece;

use class::Class;
use names::Names;

/// Size of the word cache of a tokenizer.
const WORDS: usize = 200;
/// File name of RWKV's vocabulary.
const WORLD: &str = "rwkv_vocab_v20230424.txt";

/// The tokenizer configuration of a directory.
struct Files<'d> {
    directory: &'d Path,
    /// `tokenizer_config.json`, merged with `special_tokens_map.json` where transformers reads it.
    settings: Map<String, Value>,
    class: Class,
    names: Names,
}

/// A tokenizer under construction.
struct Draft {
    /// The file it is read from.
    file: String,
    /// Its definition in the form of `tokenizer.json`.
    text: String,
    /// Tokens to mark as special if the vocabulary has them.
    special: Vec<AddedToken>,
    /// The special tokens around a text, unless the definition has them.
    around: Option<Template>,
}

/// Templates for one text and for a pair: special tokens, `None` for the next text, each with its token type.
struct Template {
    single: Vec<(Option<String>, u8)>,
    pair: Vec<(Option<String>, u8)>,
}

/// Loads the tokenizer of a directory; `None` if there is none. With `lower`, texts are lowercased first.
pub(crate) fn find(directory: &Path, lower: bool) -> Result<Option<Tokenizer>, Error> {
    let mut files = Files::read(directory)?;
    let has = |name: &str| directory.join(name).exists();
    let mut draft = if has("tokenizer.json") {
        overrides::draft(&files)?
    } else if has("vocab.txt") {
        legacy::word_pieces(&files)?
    } else if has("vocab.json") && has("merges.txt") {
        legacy::byte_pairs(&files)?
    } else if let Some(name) = sentencepiece::FILES.into_iter().find(|name| has(name)) {
        pieces::draft(&mut files, name)?
    } else if has(WORLD) {
        return files.world().map(Some);
    } else if let Some(text) = words::find(directory)? {
        Draft { file: directory.display().to_string(), text, special: Vec::new(), around: None }
    } else {
        return Ok(None);
    };
    if lower {
        draft.text = lowercased(&draft.file, &draft.text)?;
    }
    draft.finish(&files.names).map(Some)
}

/// Parses a `tokenizer.json`.
pub(crate) fn parse(file: &str, text: &str) -> Result<Tokenizer, Error> {
    Draft { file: file.to_owned(), text: text.to_owned(), special: Vec::new(), around: None }.finish(&Names::default())
}

impl<'d> Files<'d> {
    fn read(directory: &'d Path) -> Result<Self, Error> {
        let mut settings = settings(directory)?;
        let class = Class::of(&settings, &object(&directory.join("config.json"))?);
        let names = Names::read(directory, &mut settings)?;
        Ok(Self { directory, settings, class, names })
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.settings.get(name).and_then(Value::as_bool).unwrap_or(default)
    }

    /// The text of a special token.
    fn token(&self, name: &str, default: &str) -> String {
        special(&self.settings, name, default)
    }

    /// Reads a file; returns its path for errors, and its text.
    fn text(&self, name: &str) -> Result<(String, String), Error> {
        let path = self.directory.join(name);
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let file = path.display().to_string();
        is_what_its_name_says(&file, text.as_bytes())?;
        // A byte order mark is skipped.
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        Ok((file, text))
    }

    fn world(&self) -> Result<Tokenizer, Error> {
        let (file, text) = self.text(WORLD)?;
        let mut world = World::parse(&text).map_err(|message| wrong(&file, message))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(text.as_bytes());
        for (id, token) in self.names.numbered() {
            world.add(token.content.clone(), id, !token.special);
            hasher.update(format!("{id} {token:?}").as_bytes());
        }
        Ok(Tokenizer { file, kind: Kind::World(Arc::new(world)), hash: hasher.finalize() })
    }
}

impl Draft {
    /// Parses the definition, adds tokens, and sets the template.
    fn finish(self, names: &Names) -> Result<Tokenizer, Error> {
        let file = &self.file;
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.text.as_bytes());
        // The default word cache would grow over the first megabytes of a text.
        let mut tokenizer =
            definition::parse(&self.text, WORDS).map_err(|e| wrong(file, format!("not a tokenizer: {e}")))?;
        drop(self.text);
        // Truncation and padding are up to the caller, not to the file.
        let _ = tokenizer.with_truncation(None);
        tokenizer.with_padding(None);
        let mut added = names.missing(&tokenizer);
        let has = |token: &AddedToken| tokenizer.token_to_id(&token.content).is_some();
        let known = |token: &AddedToken| added.iter().any(|known| known.content == token.content);
        let special: Vec<AddedToken> = self.special.into_iter().filter(|token| has(token) && !known(token)).collect();
        added.extend(special);
        if !added.is_empty() {
            tokenizer.add_tokens(&added);
            hasher.update(format!("{added:?}").as_bytes());
        }
        if let Some(template) = self.around {
            let processor = template.processor(file, &tokenizer)?;
            hasher.update(processor.to_string().as_bytes());
            let processor: PostProcessorWrapper =
                serde_json::from_value(processor).map_err(|e| wrong(file, format!("not a post-processor: {e}")))?;
            tokenizer.with_post_processor(Some(processor));
        }
        let hash = hasher.finalize();
        Ok(Tokenizer { file: self.file, kind: Kind::HuggingFace(Arc::new(tokenizer)), hash })
    }
}

impl Template {
    /// Each text between the tokens `first` and `last`, if given.
    fn ends(first: Option<String>, last: Option<String>) -> Self {
        let one = |kind: u8| {
            let token = |token: &Option<String>| token.clone().map(|token| (Some(token), kind));
            token(&first).into_iter().chain([(None, kind)]).chain(token(&last)).collect::<Vec<_>>()
        };
        Self { single: one(0), pair: [one(0), one(1)].concat() }
    }

    /// BERT: `first A last`, or `first A last B last` with token type 1 for the second text.
    fn pair_of_two(first: &str, last: &str) -> Self {
        let (first, last) = (Some(first.to_owned()), Some(last.to_owned()));
        let single = vec![(first, 0), (None, 0), (last.clone(), 0)];
        let pair = [&single[..], &[(None, 1), (last, 1)]].concat();
        Self { single, pair }
    }

    /// RoBERTa: `first A last`, or `first A last last B last`.
    fn pair_of_four(first: &str, last: &str) -> Self {
        let (first, last) = (Some(first.to_owned()), Some(last.to_owned()));
        let single = vec![(first, 0), (None, 0), (last.clone(), 0)];
        let pair = [&single[..], &[(last.clone(), 0), (None, 0), (last, 0)]].concat();
        Self { single, pair }
    }

    /// The same with token type 0 everywhere.
    fn of_one_type(mut self) -> Self {
        self.pair.iter_mut().for_each(|(_, kind)| *kind = 0);
        self
    }

    fn processor(&self, file: &str, tokenizer: &HuggingFace) -> Result<Value, Error> {
        let mut special = Map::new();
        for token in self.single.iter().chain(&self.pair).filter_map(|(token, _)| token.as_ref()) {
            let id = tokenizer.token_to_id(token).ok_or_else(|| wrong(file, format!("has no `{token}`")))?;
            special.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
        }
        let list = |parts: &[(Option<String>, u8)]| -> Vec<Value> {
            let mut texts = ["A", "B"].into_iter();
            let part = |(token, kind): &(Option<String>, u8)| match token {
                Some(token) => json!({"SpecialToken": {"id": token, "type_id": kind}}),
                None => json!({"Sequence": {"id": texts.next().unwrap_or("B"), "type_id": kind}}),
            };
            parts.iter().map(part).collect()
        };
        let (single, pair) = (list(&self.single), list(&self.pair));
        Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}))
    }
}

fn wrong(file: &str, message: String) -> Error {
    Error::Tokenizer { file: file.to_owned(), message }
}

fn lowercased(file: &str, text: &str) -> Result<String, Error> {
    let mut all: Value = serde_json::from_str(text).map_err(|e| wrong(file, format!("not JSON: {e}")))?;
    let first = json!({"type": "Lowercase"});
    let normalizer = match all["normalizer"].take() {
        Value::Null => first,
        own => json!({"type": "Sequence", "normalizers": [first, own]}),
    };
    all["normalizer"] = normalizer;
    Ok(all.to_string())
}

/// Reads the JSON object of a file; empty if there is no file.
fn object(file: &Path) -> Result<Map<String, Value>, Error> {
    if !file.exists() {
        return Ok(Map::new());
    }
    let text = std::fs::read_to_string(file).map_err(|source| Error::Io { path: file.to_owned(), source })?;
    let name = file.display().to_string();
    match longreach_models::json::parse(&text, NotNumbers::Text) {
        Ok(Value::Object(map)) => Ok(map),
        _ => {
            is_what_its_name_says(&name, text.as_bytes())?;
            Err(wrong(&name, "want a JSON object".into()))
        }
    }
}

/// An error if a file is recognised as something else, such as a git-lfs pointer or an HTML page.
fn is_what_its_name_says(file: &str, bytes: &[u8]) -> Result<(), Error> {
    match longreach_models::recognise(&bytes[..bytes.len().min(512)]) {
        Some(what) if !bytes.is_empty() => Err(wrong(file, format!("this file is {what}"))),
        _ => Ok(()),
    }
}

/// Reads `tokenizer_config.json`; empty if there is no file.
pub(crate) fn settings(directory: &Path) -> Result<Map<String, Value>, Error> {
    object(&directory.join("tokenizer_config.json"))
}

/// The text of a special token, given as a string or as an object with `content`.
pub(crate) fn special(settings: &Map<String, Value>, name: &str, default: &str) -> String {
    let value = settings.get(name);
    let text = value.and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str()));
    text.unwrap_or(default).to_owned()
}
