//! Conversion of SentencePiece models to tokenizers, as the tokenizer classes of transformers do it: XLM-RoBERTa and CamemBERT renumber the pieces, merges are
//! derived for BPE, and normalizers and prefixes depend on the class.

use std::collections::HashMap;

use base64::Engine as _;
use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::class::Class;
use super::overrides::llama_parts;
use super::sentencepiece::{Algorithm, PieceKind, SentencePiece};
use super::{Draft, Files, Template, is_what_its_name_says, wrong};
use crate::Error;

/// Largest accepted value of `extra_ids` of T5.
const MOST_EXTRA: u64 = 100_000;

/// The parts of a tokenizer definition, without the template.
struct Parts {
    model: Value,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
}

/// Converts the SentencePiece model in the file `name`.
pub(super) fn draft(files: &mut Files<'_>, name: &str) -> Result<Draft, Error> {
    let path = files.directory.join(name);
    let file = path.display().to_string();
    let bytes = std::fs::read(&path).map_err(|source| Error::Io { path, source })?;
    is_what_its_name_says(&file, &bytes)?;
    let model = SentencePiece::parse(&bytes).map_err(|message| wrong(&file, message))?;
    let class = match &files.class {
        // These classes do not use SentencePiece, so the file name decides.
        Class::Bert | Class::Roberta | Class::Gpt2 | Class::GptNeoX if name == "sentencepiece.bpe.model" => {
            Class::XlmRoberta
        }
        Class::Bert | Class::Roberta | Class::Gpt2 | Class::GptNeoX => Class::Backend,
        Class::Other(class) => {
            let message = format!("SentencePiece models of the tokenizer class `{class}` are not supported");
            return Err(wrong(&file, message));
        }
        class => class.clone(),
    };
    let names = Named::of(&class, &model);
    names.state(files, &model);
    let fairseq = |n: usize| {
        let own = model.pieces.get(n..).ok_or_else(|| {
            wrong(&file, format!("has {} pieces; a model of this class has {n} or more", model.pieces.len()))
        })?;
        Ok::<_, Error>(own.iter().map(|piece| (piece.text.clone(), f64::from(piece.score))))
    };
    let token = |name: &str| files.token(name, names.default(name));
    let parts = match class {
        Class::XlmRoberta => {
            let mut vocabulary: Vec<(String, f64)> =
                ["bos_token", "pad_token", "eos_token", "unk_token"].map(|name| (token(name), 0.0)).into();
            vocabulary.extend(fairseq(3)?);
            vocabulary.push((token("mask_token"), 0.0));
            split_words(files, unigram(&vocabulary, 3, false), precompiled(&model))
        }
        Class::Camembert => {
            let mut vocabulary: Vec<(String, f64)> = vec![
                ("<s>NOTUSED".into(), 0.0),
                (token("pad_token"), 0.0),
                ("</s>NOTUSED".into(), 0.0),
                (token("unk_token"), 0.0),
                ("<unk>NOTUSED".into(), -100.0),
            ];
            vocabulary.extend(fairseq(1)?);
            vocabulary.push((token("mask_token"), 0.0));
            split_words(files, unigram(&vocabulary, 3, false), precompiled(&model))
        }
        Class::T5 => {
            let mut vocabulary: Vec<(String, f64)> = fairseq(0)?.collect();
            let extra = files.settings.get("extra_ids").and_then(Value::as_u64).unwrap_or(100);
            if extra > MOST_EXTRA {
                let config = files.directory.join("tokenizer_config.json").display().to_string();
                return Err(wrong(&config, format!("field `extra_ids`: want at most {MOST_EXTRA}, found {extra}")));
            }
            vocabulary.extend((0..extra).rev().map(|i| (format!("<extra_id_{i}>"), 0.0)));
            split_words(files, unigram(&vocabulary, 2, false), precompiled(&model))
        }
        Class::Albert => {
            let vocabulary: Vec<(String, f64)> = fairseq(0)?.collect();
            split_words(files, unigram(&vocabulary, 1, false), albert_normalizer(files, &model))
        }
        Class::BigBird => {
            let vocabulary: Vec<(String, f64)> = fairseq(0)?.collect();
            let unknown = (token("unk_token"), 0.0);
            let unknown = vocabulary.iter().position(|piece| *piece == unknown).unwrap_or(100);
            let metaspace = metaspace(if files.flag("add_prefix_space", true) { "always" } else { "never" });
            Parts {
                model: unigram(&vocabulary, unknown, false),
                normalizer: replaced(" {2,}", "▁"),
                pre_tokenizer: metaspace.clone(),
                decoder: metaspace,
            }
        }
        Class::Reformer => {
            let normalizer = match precompiled(&model) {
                Value::Null => Value::Null,
                map => json!({"type": "Sequence", "normalizers": [map, replaced(" {2,}", " ")]}),
            };
            let unknown = json!(token("unk_token"));
            let (pre_tokenizer, decoder) = (metaspace("always"), metaspace("always"));
            Parts { model: bpe(&file, &model, unknown, false)?, normalizer, pre_tokenizer, decoder }
        }
        Class::Llama => {
            let (pre_tokenizer, decoder) = llama_parts(files);
            Parts { model: bpe(&file, &model, Value::Null, true)?, normalizer: Value::Null, pre_tokenizer, decoder }
        }
        _ => own(files, &file, &model)?,
    };
    let text = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": null,
        "decoder": parts.decoder,
        "model": parts.model,
    });
    let stated = |flag: &str, name: &str| {
        let default = names.default(name);
        let known = !default.is_empty() || files.settings.contains_key(name);
        (files.flag(flag, false) && known).then(|| files.token(name, default))
    };
    let around = match class {
        Class::XlmRoberta | Class::Camembert => Template::pair_of_four(&token("bos_token"), &token("eos_token")),
        Class::T5 => Template::ends(None, Some("</s>".into())).of_one_type(),
        Class::Albert => Template::pair_of_two("[CLS]", "[SEP]"),
        Class::BigBird => Template::pair_of_two(&token("cls_token"), &token("sep_token")),
        _ => Template::ends(stated("add_bos_token", "bos_token"), stated("add_eos_token", "eos_token")),
    };
    Ok(Draft { file, text: text.to_string(), special: Vec::new(), around: Some(around) })
}

/// The default special tokens of a class.
struct Named(Vec<(&'static str, AddedToken)>);

impl Named {
    fn of(class: &Class, model: &SentencePiece) -> Self {
        let special = |text: &str| AddedToken::from(text, true);
        let list: Vec<(&'static str, AddedToken)> = match class {
            Class::XlmRoberta | Class::Camembert => {
                let mask = special("<mask>").lstrip(*class == Class::Camembert);
                let mut list: Vec<_> = [
                    ("bos_token", "<s>"),
                    ("eos_token", "</s>"),
                    ("unk_token", "<unk>"),
                    ("sep_token", "</s>"),
                    ("pad_token", "<pad>"),
                    ("cls_token", "<s>"),
                ]
                .map(|(name, text)| (name, special(text)))
                .into();
                list.push(("mask_token", mask));
                list
            }
            Class::T5 => [("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")]
                .map(|(name, text)| (name, special(text)))
                .into(),
            Class::Albert => [
                ("bos_token", "[CLS]"),
                ("eos_token", "[SEP]"),
                ("unk_token", "<unk>"),
                ("sep_token", "[SEP]"),
                ("pad_token", "<pad>"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ]
            .map(|(name, text)| (name, special(text)))
            .into(),
            Class::BigBird => [
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "[SEP]"),
                ("pad_token", "<pad>"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ]
            .map(|(name, text)| (name, special(text).lstrip(name == "mask_token")))
            .into(),
            Class::Reformer => {
                [("eos_token", "</s>"), ("unk_token", "<unk>")].map(|(name, text)| (name, special(text))).into()
            }
            Class::Llama => [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")]
                .map(|(name, text)| (name, special(text)))
                .into(),
            _ => [
                ("bos_token", model.bos, &model.bos_piece),
                ("eos_token", model.eos, &model.eos_piece),
                ("unk_token", model.unk, &model.unk_piece),
            ]
            .into_iter()
            .filter(|(_, id, _)| *id >= 0)
            .map(|(name, _, text)| (name, special(text)))
            .collect(),
        };
        Self(list)
    }

    /// The default text of a special token; empty if the class has none.
    fn default(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| *known == name).map_or("", |(_, token)| &token.content)
    }

    /// Adds the defaults to the names of the files, with control and user-defined pieces as extra special tokens.
    fn state(&self, files: &mut Files<'_>, model: &SentencePiece) {
        self.0.iter().for_each(|(name, token)| files.names.name(name, token.clone()));
        let generic = !matches!(
            files.class,
            Class::XlmRoberta
                | Class::Camembert
                | Class::T5
                | Class::Albert
                | Class::BigBird
                | Class::Reformer
                | Class::Llama
        );
        let kinds = |piece: &&super::sentencepiece::Piece| match piece.kind {
            PieceKind::Control => true,
            // The generic tokenizer splits them off before segmentation.
            PieceKind::UserDefined => !generic,
            _ => false,
        };
        let extra = model.pieces.iter().filter(kinds);
        let extra = extra.map(|p| AddedToken::from(p.text.clone(), p.kind == PieceKind::Control).normalized(false));
        files.names.extra_unless_stated(extra.collect());
        if generic && model.dummy_prefix {
            files.names.match_raw();
        }
    }
}

/// The layout of XLM-RoBERTa, T5 and ALBERT: words split at white space, each with a prefix.
fn split_words(files: &Files<'_>, model: Value, normalizer: Value) -> Parts {
    let fixed = files.class == Class::T5;
    let metaspace = metaspace(if fixed || files.flag("add_prefix_space", true) { "always" } else { "never" });
    let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace.clone()]});
    Parts { model, normalizer, pre_tokenizer, decoder: metaspace }
}

fn albert_normalizer(files: &Files<'_>, model: &SentencePiece) -> Value {
    let quotes = |from: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": "\""});
    let mut list = vec![quotes("``"), quotes("''")];
    if !files.flag("keep_accents", false) {
        list.extend([json!({"type": "NFKD"}), json!({"type": "StripAccents"})]);
    }
    if files.flag("do_lower_case", true) {
        list.push(json!({"type": "Lowercase"}));
    }
    list.extend(Some(precompiled(model)).filter(|map| !map.is_null()));
    json!({"type": "Sequence", "normalizers": list})
}

/// The generic conversion, which reproduces SentencePiece itself.
fn own(files: &Files<'_>, file: &str, model: &SentencePiece) -> Result<Parts, Error> {
    let defined: Vec<(usize, &str)> = (model.pieces.iter().enumerate())
        .filter(|(_, piece)| piece.kind == PieceKind::UserDefined)
        .map(|(i, piece)| (i, &*piece.text))
        .collect();
    let legacy = files.settings.get("legacy").is_none_or(|v| v.as_bool() == Some(true));
    let (vocabulary, names) = match model.algorithm {
        Algorithm::Unigram => {
            let vocabulary: Vec<(String, f64)> =
                model.pieces.iter().map(|piece| (piece.text.clone(), f64::from(piece.score))).collect();
            let unknown = usize::try_from(model.unk);
            let unknown = unknown.map_err(|_| wrong(file, format!("unk_id: want 0 or more, found {}", model.unk)))?;
            (unigram(&vocabulary, unknown, model.byte_fallback), Vec::new())
        }
        Algorithm::Bpe => {
            let names = renamed(files, model);
            (ranked_bpe(file, model, &names, !defined.is_empty())?, names)
        }
    };
    let mut normalizers: Vec<Value> = Some(precompiled(model)).filter(|map| !map.is_null()).into_iter().collect();
    if model.remove_extra_spaces {
        normalizers.extend([replaced(r"\A +| +\z", ""), replaced(" {2,}", " ")]);
    }
    if model.escape_spaces {
        normalizers.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}));
    }
    if model.dummy_prefix && legacy {
        // `Metaspace` adds no prefix to a text that already begins with one; SentencePiece does.
        normalizers.push(replaced(r"\A▁", "▁▁"));
    }
    let mut before: Vec<Value> = Vec::new();
    if model.dummy_prefix {
        let scheme = if legacy { "always" } else { "first" };
        before.push(json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false}));
    }
    if !defined.is_empty() {
        let mut texts: Vec<&str> =
            defined.iter().map(|(i, text)| names.get(*i).map_or(*text, String::as_str)).collect();
        texts.sort_by_key(|text| std::cmp::Reverse(text.chars().count()));
        let pattern: Vec<String> = texts.into_iter().map(escaped).collect();
        before.push(json!({
            "type": "Split", "pattern": {"Regex": pattern.join("|")}, "behavior": "Isolated", "invert": false,
        }));
    }
    let mut decoders = vec![json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "})];
    if model.byte_fallback {
        decoders.push(json!({"type": "ByteFallback"}));
    }
    if model.dummy_prefix || model.byte_fallback {
        decoders.push(json!({"type": "Fuse"}));
    }
    if model.dummy_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let sequence = |list: Vec<Value>| {
        if list.is_empty() { Value::Null } else { json!({"type": "Sequence", "pretokenizers": list}) }
    };
    Ok(Parts {
        model: vocabulary,
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: sequence(before),
        decoder: json!({"type": "Sequence", "decoders": decoders}),
    })
}

/// The texts of the pieces, renamed by `added_tokens_decoder` unless another piece has that text.
fn renamed(files: &Files<'_>, model: &SentencePiece) -> Vec<String> {
    let name = |i: usize| u32::try_from(i).ok().and_then(|id| files.names.at(id));
    let kept: std::collections::HashSet<&str> =
        model.pieces.iter().enumerate().filter(|(i, _)| name(*i).is_none()).map(|(_, piece)| &*piece.text).collect();
    let text = |(i, piece): (usize, &super::sentencepiece::Piece)| match name(i) {
        Some(token) if !kept.contains(&*token.content) => token.content.clone(),
        _ => piece.text.clone(),
    };
    model.pieces.iter().enumerate().map(text).collect()
}

fn metaspace(scheme: &str) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true})
}

fn replaced(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content})
}

/// Escapes a text for a regular expression.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// The `precompiled_charsmap` of the model as a normalizer; null if it has none.
fn precompiled(model: &SentencePiece) -> Value {
    if model.charsmap.is_empty() {
        return Value::Null;
    }
    let map = base64::engine::general_purpose::STANDARD.encode(&model.charsmap);
    json!({"type": "Precompiled", "precompiled_charsmap": map})
}

fn unigram(vocabulary: &[(String, f64)], unknown: usize, byte_fallback: bool) -> Value {
    json!({"type": "Unigram", "unk_id": unknown, "vocab": vocabulary, "byte_fallback": byte_fallback})
}

/// BPE with merges ranked by the ids of the merged pieces.
fn bpe(file: &str, model: &SentencePiece, unknown: Value, byte_fallback: bool) -> Result<Value, Error> {
    model.mergeable().map_err(|message| wrong(file, message))?;
    let vocabulary: HashMap<&str, usize> = model.pieces.iter().enumerate().map(|(i, p)| (&*p.text, i)).collect();
    let mut merges = Vec::new();
    for (piece, id) in &vocabulary {
        for (left, right) in splits(piece) {
            if let (Some(l), Some(r)) = (vocabulary.get(left), vocabulary.get(right)) {
                merges.push((*id, left.chars().count(), right.chars().count(), *l, *r, left, right));
            }
        }
    }
    merges.sort_unstable();
    let merges: Vec<[&str; 2]> = merges.into_iter().map(|merge| [merge.5, merge.6]).collect();
    Ok(json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": byte_fallback, "ignore_merges": false,
        "vocab": vocabulary, "merges": merges,
    }))
}

/// BPE with merges ranked by the scores of the merged pieces, as in SentencePiece.
fn ranked_bpe(file: &str, model: &SentencePiece, names: &[String], whole: bool) -> Result<Value, Error> {
    model.mergeable().map_err(|message| wrong(file, message))?;
    let vocabulary: HashMap<&str, usize> = names.iter().enumerate().map(|(i, name)| (&**name, i)).collect();
    let normal: HashMap<&str, usize> =
        vocabulary.iter().filter(|(_, i)| model.pieces[**i].kind == PieceKind::Normal).map(|(t, i)| (*t, *i)).collect();
    let mut merges = Vec::new();
    for (piece, id) in &normal {
        let known = splits(piece).filter(|(l, r)| normal.contains_key(l) && normal.contains_key(r));
        merges.extend(known.map(|(left, right)| (model.pieces[*id].score, *id, left, right)));
    }
    merges.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    let merges: Vec<[&str; 2]> = merges.into_iter().map(|merge| [merge.2, merge.3]).collect();
    Ok(json!({
        "type": "BPE", "dropout": null, "unk_token": model.unk_piece, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": model.byte_fallback, "ignore_merges": whole,
        "vocab": vocabulary, "merges": merges,
    }))
}

/// All splits of a text into two non-empty parts.
fn splits(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.char_indices().skip(1).map(|(i, _)| text.split_at(i))
}
