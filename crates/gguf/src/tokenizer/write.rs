//! Writing a tokenizer into a GGUF file: the entries from which [`read`](super::read) makes the same one again.

use std::collections::HashMap;

use serde_json::Value;

use super::keys::{PREFIX, TEMPLATE};
use super::patterns::recognise;
use super::special::Special;
use super::tokens::TokenType;
use crate::{Error, Header, ToValue};

/// A tokenizer to be written.
#[derive(Clone, Debug)]
pub struct Written<'a> {
    /// The file it comes from, for errors.
    pub file: &'a str,
    /// The text of a `tokenizer.json`.
    pub json: &'a str,
    /// The rows of the embedding table: tokens beyond them are left out, and rows beyond the tokens get tokens without
    /// use.
    pub rows: usize,
    /// llama.cpp's name of the pre-tokenizer; that of the `tokenizer.json` if `None`.
    pub pre: Option<&'a str>,
    /// The tokens with a function, as far as the model's files name them.
    pub special: Special,
    /// The chat template.
    pub chat_template: Option<&'a str>,
}

/// Sets the entries `tokenizer.*` of a file. Returns notes for the user, one sentence each.
///
/// Byte-level byte-pair encodings and those of SentencePiece can be written. Errors, naming the field, if the tokenizer is
/// another one, if a part of it has no entry, or if the pre-tokenizer has no name that is known.
pub fn write(header: &mut Header, of: &Written<'_>) -> Result<Vec<String>, Error> {
    let all: Value = serde_json::from_str(of.json).map_err(|e| wrong(of, format!("not JSON: {e}")))?;
    let model = &all["model"];
    let kind = model["type"].as_str().unwrap_or("BPE");
    if kind != "BPE" {
        let message = format!("field `model.type`: `{kind}` is not written, want BPE");
        return Err(wrong(of, message));
    }
    let mut out = Entries { header, of };
    let mut notes = Vec::new();
    let bytes = all["pre_tokenizer"].to_string().contains("\"ByteLevel\"");
    let list = Listed::of(&all, of, &mut notes)?;
    let pairs = merges(model, of)?;
    if bytes {
        if !unicode_form(&all["normalizer"]) {
            return Err(wrong(of, format!("field `normalizer`: {} has no entry", all["normalizer"])));
        }
        if !all["normalizer"].is_null() {
            notes.push(
                "the tokenizer composes characters (Unicode's form C) first, which a GGUF file does not say".into(),
            );
        }
        let ignores = model["ignore_merges"].as_bool().unwrap_or(false);
        let pre = of.pre.or_else(|| recognise(&all["pre_tokenizer"], ignores));
        let pre = pre.ok_or_else(|| {
            let found = &all["pre_tokenizer"];
            wrong(of, format!("field `pre_tokenizer`: {found} has no name that is known: give llama.cpp's name of it"))
        })?;
        out.set("model", "gpt2")?;
        out.set("pre", pre)?;
        out.set("merges", pairs.iter().map(|(left, right)| format!("{left} {right}")).collect::<Vec<_>>())?;
    } else {
        let prefix = space_prefix(&all, of)?;
        out.set("model", "llama")?;
        out.set("pre", of.pre.unwrap_or("default"))?;
        out.set("scores", scores(&list, &pairs))?;
        out.set("add_space_prefix", prefix)?;
    }
    out.set("tokens", list.texts)?;
    out.set("token_type", list.types.iter().map(|of| of.number()).collect::<Vec<i32>>())?;
    out.around(&all, list.types.len())?;
    Ok(notes)
}

fn wrong(of: &Written<'_>, message: impl Into<String>) -> Error {
    Error::file(of.file, message)
}

/// The entries of a file.
struct Entries<'a> {
    header: &'a mut Header,
    of: &'a Written<'a>,
}

impl Entries<'_> {
    fn set(&mut self, name: &str, value: impl ToValue) -> Result<(), Error> {
        self.header.set(&format!("{PREFIX}{name}"), value)
    }

    /// The tokens with a function, those around a text, and the chat template.
    fn around(&mut self, all: &Value, tokens: usize) -> Result<(), Error> {
        let [first, last] = ends_of_texts(&all["post_processor"]);
        let special = self.of.special.clone();
        let other = |token: Option<u32>| token.filter(|id| special.ends.contains(id) && Some(*id) != special.eos);
        let ids = [
            ("bos", first.or(special.bos)),
            ("eos", last.or(special.eos)),
            ("eot", special.eot.or_else(|| special.ends.iter().find_map(|id| other(Some(*id))))),
            ("eom", special.eom),
            ("unknown", special.unknown),
            ("padding", special.padding),
            ("seperator", special.separator),
            ("mask", special.mask),
        ];
        for (name, id) in ids {
            let key = format!("{name}_token_id");
            match id.filter(|id| usize::try_from(*id).is_ok_and(|id| id < tokens)) {
                Some(id) => self.set(&key, id)?,
                None => self.header.remove(&format!("{PREFIX}{key}")),
            }
        }
        self.set("add_bos_token", first.is_some())?;
        self.set("add_eos_token", last.is_some())?;
        match self.of.chat_template {
            Some(template) => self.header.set(TEMPLATE, template),
            None => Ok(()),
        }
    }
}

/// The tokens by id.
struct Listed {
    texts: Vec<String>,
    types: Vec<TokenType>,
}

impl Listed {
    fn of(all: &Value, of: &Written<'_>, notes: &mut Vec<String>) -> Result<Self, Error> {
        let vocabulary = all["model"]["vocab"].as_object();
        let vocabulary = vocabulary.ok_or_else(|| wrong(of, "field `model.vocab`: want an object"))?;
        let mut list: Vec<Option<(String, TokenType)>> = vec![None; of.rows];
        let mut left_out = 0usize;
        let mut put = |text: &str, id: &Value, kind: TokenType| {
            let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
            let id = id.ok_or_else(|| wrong(of, format!("token `{}`: want an id", text.escape_debug())))?;
            match list.get_mut(id) {
                Some(place) => *place = Some((text.to_owned(), kind)),
                None => left_out += 1,
            }
            Ok::<_, Error>(())
        };
        let falls_back = all["model"]["byte_fallback"].as_bool().unwrap_or(false);
        let is_byte = |text: &str| {
            let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            falls_back && digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
        };
        for (text, id) in vocabulary {
            put(text, id, if is_byte(text) { TokenType::Byte } else { TokenType::Normal })?;
        }
        let unknown = all["model"]["unk_token"].as_str();
        for token in all["added_tokens"].as_array().into_iter().flatten() {
            let text = token["content"].as_str().ok_or_else(|| wrong(of, "field `added_tokens`: want texts"))?;
            let kind = match token["special"].as_bool() {
                _ if unknown == Some(text) => TokenType::Unknown,
                Some(true) => TokenType::Control,
                _ => TokenType::UserDefined,
            };
            put(text, &token["id"], kind)?;
        }
        if left_out > 0 {
            notes.push(format!("{left_out} tokens beyond the {} rows of the embedding table are left out", of.rows));
        }
        let unused = |id: usize| (format!("[PAD{id}]"), TokenType::Unused);
        let list = list.into_iter().enumerate().map(|(id, token)| token.unwrap_or_else(|| unused(id)));
        let (texts, types) = list.unzip();
        Ok(Self { texts, types })
    }
}

/// The merges, each as a text of two tokens with a space between them, or as a list of two.
fn merges<'a>(model: &'a Value, of: &Written<'_>) -> Result<Vec<(&'a str, &'a str)>, Error> {
    let list = model["merges"].as_array().ok_or_else(|| wrong(of, "field `model.merges`: want a list"))?;
    let one = |merge: &'a Value| match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(pair) => match &pair[..] {
            [left, right] => Some((left.as_str()?, right.as_str()?)),
            _ => None,
        },
        _ => None,
    };
    let pair = |merge: &'a Value| {
        one(merge).ok_or_else(|| wrong(of, format!("field `model.merges`: want two tokens, found {merge}")))
    };
    list.iter().map(pair).collect()
}

/// Scores of tokens by which SentencePiece joins tokens in the order of the merges: the first to be joined has the best.
fn scores(list: &Listed, merges: &[(&str, &str)]) -> Vec<f32> {
    let mut ranks = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let score = |(text, of): (&String, &TokenType)| match of {
        TokenType::Normal => -(ranks.get(text).copied().unwrap_or(merges.len()) as f32),
        _ => 0.0,
    };
    list.texts.iter().zip(&list.types).map(score).collect()
}

/// Whether a normalizer does nothing but compose characters.
fn unicode_form(of: &Value) -> bool {
    match of["type"].as_str() {
        None => of.is_null(),
        Some("NFC") => true,
        Some("Sequence") => of["normalizers"].as_array().is_some_and(|list| list.iter().all(unicode_form)),
        Some(_) => false,
    }
}

/// Whether SentencePiece puts a space before a text. Errors if its spaces are others, or a step is not one of them.
fn space_prefix(all: &Value, of: &Written<'_>) -> Result<bool, Error> {
    let (mut prefix, mut spaces) = (false, false);
    let normalizer = &all["normalizer"];
    let steps = match normalizer["type"].as_str() {
        Some("Sequence") => normalizer["normalizers"].as_array().map_or(&[][..], |list| list),
        Some(_) => std::slice::from_ref(normalizer),
        None => &[],
    };
    for step in steps {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == "▁" => prefix = true,
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == "▁" => spaces = true,
            _ => return Err(wrong(of, format!("field `normalizer`: {step} has no entry"))),
        }
    }
    let pre = &all["pre_tokenizer"];
    match pre["type"].as_str() {
        None => {}
        Some("Metaspace") if pre["replacement"] == "▁" => {
            spaces = true;
            prefix |= match pre["prepend_scheme"].as_str() {
                Some(scheme) => scheme != "never",
                None => pre["add_prefix_space"].as_bool().unwrap_or(true),
            };
        }
        // Once spaces have become `▁`, there are none to split at.
        Some("Split") if spaces && pre["pattern"]["String"] == " " => {}
        Some(_) => return Err(wrong(of, format!("field `pre_tokenizer`: {pre} has no entry"))),
    }
    if spaces { Ok(prefix) } else { Err(wrong(of, "field `normalizer`: want one that makes spaces `▁`")) }
}

/// The ids of the tokens that a post-processor puts before and behind a text.
fn ends_of_texts(of: &Value) -> [Option<u32>; 2] {
    match of["type"].as_str() {
        Some("Sequence") => {
            let list = of["processors"].as_array().into_iter().flatten();
            list.map(ends_of_texts).find(|ends| *ends != [None; 2]).unwrap_or_default()
        }
        Some("TemplateProcessing") => {
            let id = |part: Option<&Value>| {
                let name = part?["SpecialToken"]["id"].as_str()?;
                u32::try_from(of["special_tokens"][name]["ids"][0].as_u64()?).ok()
            };
            let single = of["single"].as_array().map_or(&[][..], |list| list);
            [id(single.first()), id(single.last())]
        }
        _ => [None; 2],
    }
}
