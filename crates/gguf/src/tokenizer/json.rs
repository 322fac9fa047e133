//! The parts of a `tokenizer.json` that all kinds share.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::special::{Around, Special};
use super::tokens::{Token, Tokens};
use crate::Error;

/// What differs between kinds of tokenizers. The model, which has the lists of tokens and merges, is written without a generic value
/// in between, which would take several times their memory.
pub(super) struct Parts<M> {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
    pub(super) model: M,
}

/// Special tokens that absorb the spaces beside them.
#[derive(Default)]
pub(super) struct Strips {
    /// The token that absorbs spaces before it.
    pub(super) before: Option<u32>,
    /// Whether a control token absorbs spaces behind it.
    pub(super) behind: bool,
}

/// A byte-pair encoding, with its fields in the order of `tokenizer.json`.
#[derive(Serialize)]
pub(super) struct Bpe<'t> {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'t str>,
    continuing_subword_prefix: Option<&'t str>,
    end_of_word_suffix: Option<&'t str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Ids<'t>,
    merges: Vec<[&'t str; 2]>,
}

impl<'t> Bpe<'t> {
    /// One of these tokens and merges, without options.
    pub(super) fn new(tokens: &'t Tokens<'_>, merges: Vec<[&'t str; 2]>) -> Self {
        Self {
            kind: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab: Ids(tokens),
            merges,
        }
    }

    /// As SentencePiece does it: what has no token is the unknown token, or its bytes if tokens for them exist.
    pub(super) fn of_pieces(mut self, unknown: Option<&'t str>, byte_fallback: bool) -> Self {
        (self.unk_token, self.fuse_unk, self.byte_fallback) = (unknown, true, byte_fallback);
        self
    }

    /// Whether a word that is a token is one, whatever the merges make of it.
    pub(super) fn ignoring_merges(mut self, ignore_merges: bool) -> Self {
        self.ignore_merges = ignore_merges;
        self
    }
}

/// The ids by token.
struct Ids<'t>(&'t Tokens<'t>);

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.list.iter().enumerate().map(|(id, token)| (&token.text, id)))
    }
}

/// A `tokenizer.json`.
pub(super) fn document(parts: Parts<impl Serialize>, tokens: &Tokens<'_>, strips: &Strips) -> String {
    #[derive(Serialize)]
    struct Document<M> {
        version: &'static str,
        truncation: (),
        padding: (),
        added_tokens: Vec<Value>,
        normalizer: Value,
        pre_tokenizer: Value,
        post_processor: Value,
        decoder: Value,
        model: M,
    }
    let Parts { normalizer, pre_tokenizer, post_processor, decoder, model } = parts;
    let added = (0u32..).zip(&tokens.list).filter(|(_, token)| token.of.is_added());
    let added_tokens = added.map(|(id, token)| added_token(id, token, strips)).collect();
    let (version, truncation, padding) = ("1.0", (), ());
    let document = Document {
        version,
        truncation,
        padding,
        added_tokens,
        normalizer,
        pre_tokenizer,
        post_processor,
        decoder,
        model,
    };
    // Keys are text, and what is written to is memory: the only reasons for an error.
    serde_json::to_string(&document).expect("an object with text as keys")
}

fn added_token(id: u32, token: &Token<'_>, strips: &Strips) -> Value {
    json!({
        "id": id,
        "content": token.text,
        "single_word": false,
        "lstrip": strips.before == Some(id),
        "rstrip": strips.behind && !matches!(&*token.text, "<unk>" | "<s>" | "<|endoftext|>"),
        // The text is searched for them before it is normalised.
        "normalized": false,
        "special": token.of.is_special(),
    })
}

/// The ids by token, as a value.
pub(super) fn vocabulary<'t>(tokens: impl Iterator<Item = &'t str>) -> Value {
    Value::Object(tokens.enumerate().map(|(id, text)| (text.to_owned(), json!(id))).collect::<Map<_, _>>())
}

/// The tokens around a text and around a pair. Errors if one that is to be there is not in the vocabulary.
pub(super) fn template(
    keys: &Keys<'_>,
    tokens: &Tokens<'_>,
    special: &Special,
    around: Around,
) -> Result<Value, Error> {
    let mut template = Template { tokens, named: Map::new() };
    let mut wanted = |flag: bool, id: Option<u32>, name: &str, flag_name: &str| match (flag, id) {
        (false, _) => Ok(None),
        (true, Some(id)) => Ok(Some(template.token(id))),
        (true, None) => Err(keys.error(name, format!("is missing, but {flag_name} asks for it"))),
    };
    let first = wanted(around.bos, special.bos, "bos_token_id", "add_bos_token")?;
    let last = wanted(around.eos, special.eos, "eos_token_id", "add_eos_token")?;
    if first.is_none() && last.is_none() {
        return Ok(Value::Null);
    }
    // A file that asks for separators but has none has not been made for pairs: its texts stay apart as they are.
    let between = wanted(around.separator && special.separator.is_some(), special.separator, "", "")?;
    let single = [parts(&first), vec![sequence("A", 0)], parts(&last)].concat();
    let second = if between.is_some() { parts(&between) } else { parts(&first) };
    let pair = [single.clone(), second, vec![sequence("B", 0)], parts(&last)].concat();
    Ok(template.processor(single, pair))
}

/// BERT's tokens: `first A last`, or `first A last B last` with type 1 for the second text.
pub(super) fn pair_template(tokens: &Tokens<'_>, first: u32, last: u32) -> Value {
    let mut template = Template { tokens, named: Map::new() };
    let (first, last) = (template.token(first), template.token(last));
    let behind = json!({"SpecialToken": {"id": last["SpecialToken"]["id"], "type_id": 1}});
    let single = vec![first, sequence("A", 0), last];
    let pair = [single.clone(), vec![sequence("B", 1), behind]].concat();
    template.processor(single, pair)
}

/// A post-processor under construction.
struct Template<'t, 'a> {
    tokens: &'t Tokens<'a>,
    named: Map<String, Value>,
}

impl Template<'_, '_> {
    /// A special token of the template. `id` is in the vocabulary, as [`Special`] has checked.
    fn token(&mut self, id: u32) -> Value {
        let found = usize::try_from(id).ok().and_then(|id| self.tokens.list.get(id));
        let text = found.map_or_else(String::new, |token| token.text.to_string());
        self.named.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
        json!({"SpecialToken": {"id": text, "type_id": 0}})
    }

    fn processor(self, single: Vec<Value>, pair: Vec<Value>) -> Value {
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": self.named})
    }
}

fn parts(token: &Option<Value>) -> Vec<Value> {
    token.iter().cloned().collect()
}

fn sequence(name: &str, kind: u32) -> Value {
    json!({"Sequence": {"id": name, "type_id": kind}})
}

/// A sequence of normalizers or pre-tokenizers: null if there is none, and the only one by itself.
pub(super) fn sequence_of(list: &str, mut steps: Vec<Value>) -> Value {
    match steps.len() {
        0 => Value::Null,
        1 => steps.remove(0),
        _ => json!({"type": "Sequence", list: steps}),
    }
}

/// SentencePiece's decoder: `▁` becomes a space, and bytes become characters; without the space before the text.
pub(super) fn sentencepiece_decoder(space_prefix: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if space_prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// SentencePiece's spaces: each becomes `▁`, with one before the text if `space_prefix`.
pub(super) fn sentencepiece_spaces(space_prefix: bool) -> Vec<Value> {
    let mut steps = Vec::new();
    if space_prefix {
        steps.push(json!({"type": "Prepend", "prepend": "▁"}));
    }
    steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}));
    steps
}
