//! The tokenizer of a file, in the form of `tokenizer.json`: the ids of texts are those of other implementations.

use std::path::Path;

use longreach_gguf::tokenizer::{self, Around, Vocabulary, World};
use longreach_gguf::{Gguf, Header};

/// A file of the goldens.
fn open(kind: &str) -> tokenizer::Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/tokenizers/{kind}.gguf"));
    let file = Gguf::open(path).expect("a golden");
    tokenizer::read(&file).expect("a tokenizer").expect("a tokenizer")
}

/// The texts of the goldens, and their ids.
fn expected(kind: &str) -> Vec<(String, Vec<u32>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tokenizers/expected.json");
    let text = std::fs::read_to_string(path).expect("the goldens");
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let texts: Vec<String> = serde_json::from_value(all["texts"].clone()).expect("texts");
    let ids: Vec<Vec<u32>> = serde_json::from_value(all[kind].clone()).expect("ids");
    assert_eq!(texts.len(), ids.len());
    texts.into_iter().zip(ids).collect()
}

fn hugging_face(read: &tokenizer::Tokenizer) -> tokenizers::Tokenizer {
    let Vocabulary::Json(text) = &read.vocabulary else { panic!("want a tokenizer.json") };
    text.parse().expect("a tokenizer.json")
}

/// Compares the ids of all texts.
fn agrees(kind: &str) -> tokenizers::Tokenizer {
    let tokenizer = hugging_face(&open(kind));
    for (text, ids) in expected(kind) {
        let found = tokenizer.encode_fast(&*text, true).expect("ids");
        assert_eq!(found.get_ids(), ids, "{kind}: {text:?}");
    }
    tokenizer
}

/// Texts without special tokens come back from their ids.
fn round_trips(tokenizer: &tokenizers::Tokenizer) {
    for (text, _) in expected("gpt2").into_iter().filter(|(text, _)| !text.contains('<')) {
        let ids = tokenizer.encode_fast(&*text, true).expect("ids");
        assert_eq!(tokenizer.decode(ids.get_ids(), true).expect("a text"), text);
    }
}

#[test]
fn byte_level() {
    round_trips(&agrees("gpt2"));
    let read = open("gpt2");
    assert_eq!(read.around, Around { bos: true, ..Around::default() }, "as Llama 3 has it");
    assert_eq!((read.tokens, read.special.bos, read.special.eos), (343, Some(340), Some(341)));
    assert_eq!(read.special.ends, [341], "a user-defined `<|end|>` ends nothing");
    assert_eq!(read.chat_template.as_deref(), Some("{{ a }}"));
    assert_eq!(read.chat_templates.into_iter().collect::<Vec<_>>(), [("tool_use".into(), "{{ b }}".into())]);
}

#[test]
fn sentencepiece() {
    round_trips(&agrees("llama"));
    let read = open("llama");
    assert_eq!(read.around, Around { bos: true, eos: true, separator: false });
    assert_eq!((read.special.bos, read.special.eos, read.special.unknown), (Some(1), Some(2), Some(0)), "by default");
    assert_eq!(read.special.ends, [2]);
}

#[test]
fn word_piece() {
    let tokenizer = agrees("bert");
    let pair = tokenizer.encode_fast(("the cat", "sat"), true).expect("ids");
    let types: Vec<u32> = pair.get_type_ids().to_vec();
    let last = pair.get_ids().iter().rposition(|id| *id == 3).expect("a separator");
    let first = pair.get_ids().iter().position(|id| *id == 3).expect("a separator");
    assert_eq!((pair.get_ids()[0], last), (2, types.len() - 1));
    assert!(types[..=first].iter().all(|kind| *kind == 0) && types[first + 1..].iter().all(|kind| *kind == 1));
}

#[test]
fn unigram() {
    let tokenizer = agrees("t5");
    let ids = tokenizer.encode_fast("the  cat sat", true).expect("ids");
    assert_eq!(tokenizer.decode(ids.get_ids(), true).expect("a text"), "the cat sat");
}

#[test]
fn characters_are_normalised() {
    // `q` leads from the root's node at 256 to unit 256 ^ 0x71, and from there to unit 256, which has the place of `k`.
    let mut units = [0u32; 512];
    units[0] = 256 << 10;
    units[256 ^ 0x71] = 0x71 << 10 | 1 << 8 | 0x71;
    units[256] = 1 << 31;
    let mut map = 2048u32.to_le_bytes().to_vec();
    map.extend(units.into_iter().flat_map(u32::to_le_bytes));
    map.extend(b"k\0");
    let read = read(|header| {
        header.set("tokenizer.ggml.model", "t5")?;
        header.set("tokenizer.ggml.tokens", ["<pad>", "</s>", "<unk>", "k", "a"])?;
        header.set("tokenizer.ggml.scores", [0f32, 0.0, 0.0, -1.0, -1.0])?;
        header.set("tokenizer.ggml.precompiled_charsmap", map)
    });
    let tokenizer = hugging_face(&read.expect("a tokenizer"));
    assert_eq!(tokenizer.encode_fast("aqkx", true).expect("ids").get_ids(), [4, 3, 3, 2, 1]);
}

#[test]
fn world() {
    let read = open("rwkv");
    let Vocabulary::World(World { tokens, control }) = &read.vocabulary else { panic!("want bytes") };
    assert_eq!((read.tokens, tokens.len()), (272, 272));
    assert_eq!((&control[..], read.special.eos, &read.special.ends[..]), (&[0][..], Some(0), &[0][..]));
    assert_eq!(tokens[0], b"<s>");
    assert!((0..=255u8).all(|byte| tokens[usize::from(byte) + 1] == [byte]), "every byte is a token");
    assert!(tokens[270].is_empty() && tokens[271].is_empty(), "padding matches nothing");
    for (text, ids) in expected("rwkv") {
        assert_eq!(greedy(tokens, control, text.as_bytes()), ids, "{text:?}");
    }
}

/// The longest token at each place, control tokens first.
fn greedy(tokens: &[Vec<u8>], control: &[u32], mut text: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    while !text.is_empty() {
        let all = (0u32..).zip(tokens).filter(|(_, token)| !token.is_empty() && text.starts_with(token));
        let (id, token) = all.max_by_key(|(id, token)| (control.contains(id), token.len())).expect("a token");
        ids.push(id);
        text = &text[token.len()..];
    }
    ids
}

/// What is read from a file with these entries.
fn read(entries: impl FnOnce(&mut Header) -> Result<(), longreach_gguf::Error>) -> Option<tokenizer::Tokenizer> {
    let mut header = Header::new();
    entries(&mut header).expect("entries");
    let bytes = header.write_to(Vec::new()).and_then(|writer| writer.finish()).expect("a file");
    let file = Gguf::from_bytes("model.gguf", bytes.into()).expect("a file");
    tokenizer::read(&file).expect("a tokenizer")
}

#[test]
fn files_without_a_tokenizer_have_none() {
    assert!(read(|_| Ok(())).is_none());
    assert!(read(|header| header.set("tokenizer.ggml.model", "no_vocab")).is_none());
    assert!(read(|header| header.set("tokenizer.ggml.model", "none")).is_none());
}

#[test]
fn a_tokenizer_json_in_the_file_is_used() {
    let found = read(|header| {
        header.set("tokenizer.ggml.model", "gpt2")?;
        header.set("tokenizer.ggml.pre", "whatever")?;
        header.set("tokenizer.ggml.eos_token_id", 7u32)?;
        header.set("tokenizer.huggingface.json", "{}")
    })
    .expect("a tokenizer");
    assert!(matches!(found.vocabulary, Vocabulary::Json(text) if text == "{}"));
    assert_eq!((found.special.eos, found.special.ends), (Some(7), vec![7]));
}

#[test]
fn control_tokens_that_end_a_turn_are_found_by_their_text() {
    let found = |texts: &[&str]| {
        let tokens = [&["a"], texts].concat();
        let types: Vec<i32> = tokens.iter().map(|token| if *token == "a" { 1 } else { 3 }).collect();
        let read = read(|header| {
            header.set("tokenizer.ggml.model", "gpt2")?;
            header.set("tokenizer.ggml.pre", "gpt-2")?;
            header.set("tokenizer.ggml.tokens", &tokens[..])?;
            header.set("tokenizer.ggml.token_type", types)?;
            header.set("tokenizer.ggml.merges", &[""; 0][..])?;
            header.set("tokenizer.ggml.eot_token_id", 0u32)
        });
        read.expect("a tokenizer").special.ends
    };
    assert_eq!(found(&["<|im_start|>", "<|im_end|>", "<|endoftext|>"]), [0, 2, 3]);
    assert_eq!(found(&["<|end|>", "<|user|>"]), [0, 1]);
    assert_eq!(found(&["<|end|>", "<|return|>", "<|call|>"]), [0, 2, 3], "there, `<|end|>` ends a message only");
}

#[test]
fn pairs_have_the_tokens_of_both_texts() {
    let ids = |separator: bool| {
        let read = read(|header| {
            header.set("tokenizer.ggml.model", "gpt2")?;
            header.set("tokenizer.ggml.pre", "roberta-bpe")?;
            header.set("tokenizer.ggml.tokens", ["a", "<s>", "</s>"])?;
            header.set("tokenizer.ggml.token_type", [1i32, 3, 3])?;
            header.set("tokenizer.ggml.merges", &[""; 0][..])?;
            header.set("tokenizer.ggml.bos_token_id", 1u32)?;
            header.set("tokenizer.ggml.eos_token_id", 2u32)?;
            header.set("tokenizer.ggml.seperator_token_id", 2u32)?;
            header.set("tokenizer.ggml.add_bos_token", true)?;
            header.set("tokenizer.ggml.add_eos_token", true)?;
            header.set("tokenizer.ggml.add_sep_token", separator)
        });
        let tokenizer = hugging_face(&read.expect("a tokenizer"));
        tokenizer.encode_fast(("a", "aa"), true).expect("ids").get_ids().to_vec()
    };
    assert_eq!(ids(true), [1, 0, 2, 2, 0, 0, 2]);
    assert_eq!(ids(false), [1, 0, 2, 1, 0, 0, 2]);
}

#[test]
fn merges_of_gemma_are_in_the_order_of_tokens() {
    let ids = |architecture: &str| {
        let read = read(|header| {
            header.set("general.architecture", architecture)?;
            header.set("tokenizer.ggml.model", "llama")?;
            header.set("tokenizer.ggml.tokens", ["a", "b", "c", "ab", "bc"])?;
            header.set("tokenizer.ggml.scores", [0f32, 0.0, 0.0, -2.0, -1.0])?;
            header.set("tokenizer.ggml.add_space_prefix", false)?;
            header.set("tokenizer.ggml.add_bos_token", false)
        });
        hugging_face(&read.expect("a tokenizer")).encode_fast("abc", true).expect("ids").get_ids().to_vec()
    };
    assert_eq!((ids("gemma3"), ids("llama")), (vec![3, 2], vec![0, 4]));
}

/// The ids are those of `GemmaTokenizer` of transformers 5.24 with this vocabulary and these merges.
#[test]
fn merges_that_are_listed() {
    const TOKENS: [&str; 24] = [
        "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<0x41>", "<0xE2>", "<0x98>", "<0x82>", "▁", "t", "h", "e", "s",
        "a", "th", "the", "▁the", "▁s", "se", "sea", "\n", "\n\n", "▁▁",
    ];
    const MERGES: [&str; 8] = ["t h", "th e", "▁ the", "▁ s", "s e", "se a", "\n \n", "▁ ▁"];
    let found = read(|header| {
        header.set("general.architecture", "gemma4")?;
        header.set("tokenizer.ggml.model", "gemma4")?;
        header.set("tokenizer.ggml.tokens", &TOKENS[..])?;
        let kinds: Vec<i32> = (0..24).map(|id| [3, 3, 3, 2, 3, 6, 6, 6, 6].get(id).copied().unwrap_or(1)).collect();
        header.set("tokenizer.ggml.token_type", &kinds[..])?;
        header.set("tokenizer.ggml.merges", &MERGES[..])?;
        header.set("tokenizer.ggml.bos_token_id", 2u32)?;
        header.set("tokenizer.ggml.unknown_token_id", 3u32)?;
        header.set("tokenizer.ggml.add_space_prefix", false)
    });
    let tokenizer = hugging_face(&found.expect("a tokenizer"));
    for (text, ids) in [
        ("the sea", &[2, 16, 18, 12, 14][..]),
        ("sea  the\n\nthe", &[2, 20, 9, 17, 22, 16]),
        ("A the☂ sehat", &[2, 5, 17, 6, 7, 8, 18, 12, 11, 14, 10]),
        (" the", &[2, 17]),
    ] {
        let found = tokenizer.encode_fast(text, true).expect("ids");
        assert_eq!(found.get_ids(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(found.get_ids(), true).expect("a text"), text);
    }
}
/// A tokenizer that is written into a file and read again.
fn written(read: &tokenizer::Tokenizer, pre: Option<&str>) -> tokenizer::Tokenizer {
    let Vocabulary::Json(json) = &read.vocabulary else { panic!("want a tokenizer.json") };
    let mut header = Header::new();
    header.set("general.architecture", "llama").expect("set");
    let of = tokenizer::Written {
        file: "tokenizer.json",
        json,
        rows: read.tokens + 3,
        pre,
        special: read.special.clone(),
        chat_template: read.chat_template.as_deref(),
    };
    tokenizer::write(&mut header, &of).expect("written");
    let file = header.write_to(Vec::new()).expect("a writer").finish().expect("a file");
    tokenizer::read(&Gguf::from_bytes("a file", file.into()).expect("a file"))
        .expect("a tokenizer")
        .expect("a tokenizer")
}

#[test]
fn what_is_written_is_read_again() {
    for kind in ["gpt2", "llama"] {
        let read = open(kind);
        let again = written(&read, None);
        assert_eq!(again.tokens, read.tokens + 3, "{kind}: rows without a token have one without use");
        assert_eq!((again.around, again.chat_template.clone()), (read.around, read.chat_template.clone()), "{kind}");
        assert_eq!((again.special.bos, again.special.eos), (read.special.bos, read.special.eos), "{kind}");
        assert_eq!(again.special.ends, read.special.ends, "{kind}");
        let tokenizer = hugging_face(&again);
        for (text, ids) in expected(kind) {
            let found = tokenizer.encode_fast(&*text, true).expect("ids");
            assert_eq!(found.get_ids(), ids, "{kind}: {text:?}");
        }
    }
}

#[test]
fn a_split_without_a_name_is_an_error_unless_it_is_given() {
    let mut read = open("gpt2");
    let Vocabulary::Json(json) = &mut read.vocabulary else { panic!("want a tokenizer.json") };
    *json = json.replace(r"\\p{N}{1,3}", r"\\p{N}{1,4}");
    let of = |pre| tokenizer::Written {
        file: "tokenizer.json",
        json,
        rows: read.tokens,
        pre,
        special: read.special.clone(),
        chat_template: None,
    };
    let error = tokenizer::write(&mut Header::new(), &of(None)).expect_err("four digits");
    assert!(error.to_string().contains("pre_tokenizer") && error.to_string().contains("{1,4}"), "{error}");
    tokenizer::write(&mut Header::new(), &of(Some("llama-bpe"))).expect("a name");
}
