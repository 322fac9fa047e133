//! How byte-level tokenizers split a text into words, by the names of `tokenizer.ggml.pre`.
//!
//! The patterns are those of the `tokenizer.json` of the models; llama.cpp has given them their names. The
//! `tokenizer.json` of Qwen and of GPT-NeoX also compose characters (Unicode's form C) first. A GGUF file does not say
//! so: as in llama.cpp and in transformers' reader of GGUF, characters stay as they are.

use serde_json::{Value, json};

/// A way to split texts, and what else the name implies.
pub(super) struct Pattern {
    split: Split,
    /// A word that is a token is not split by merges.
    pub(super) ignore_merges: bool,
    /// The beginning-of-text token is added unless the file denies it.
    pub(super) add_bos: bool,
}

enum Split {
    /// One pattern after another, each of which splits the pieces of those before. What no match covers is a piece.
    Regexes(&'static [&'static str]),
    /// The pattern of GPT-2.
    Gpt2,
    /// Single digits, then the pattern of GPT-2.
    DigitsGpt2,
    /// Falcon: runs of punctuation, then the pattern of GPT-2, then three digits each.
    Falcon,
}

/// A pattern that begins with English contractions in any case, and ends with line breaks and spaces.
macro_rules! modern {
    ($middle:literal) => {
        concat!(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|", $middle, r"|\s*[\r\n]+|\s+(?!\S)|\s+")
    };
}

const LLAMA_3: &[&str] = &[modern!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*")];

const QWEN_2: &[&str] = &[modern!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*")];

const QWEN_35: &[&str] = &[modern!(r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*")];

const SEED_CODER: &[&str] = &[modern!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+")];

const TEKKEN: &[&str] = &[concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)];

const GPT_4O: &[&str] = &[concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)];

const DEEPSEEK_CODER: &[&str] = &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"];

const DEEPSEEK_3: &[&str] = &[
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"##,
        r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// The names, as an error lists them.
pub(super) const KNOWN: &str = "one of llama.cpp's names for GPT-2, Llama 3, Qwen 2, StarCoder, Falcon, Tekken, \
                                GPT-4o or DeepSeek 3 and their descendants";

/// The pattern of a name; `None` if it is not known.
pub(super) fn pattern(name: &str) -> Option<Pattern> {
    let plain = |split| Pattern { split, ignore_merges: false, add_bos: false };
    let regexes = |regexes| plain(Split::Regexes(regexes));
    Some(match name {
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
        | "jina-v5-nano" => Pattern { ignore_merges: true, add_bos: true, ..regexes(LLAMA_3) },
        "dbrx" | "smaug-bpe" | "chatglm-bpe" => regexes(LLAMA_3),
        "glm4" | "glm5" => Pattern { ignore_merges: true, ..regexes(LLAMA_3) },
        "qwen35" => regexes(QWEN_35),
        "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "hunyuan" | "megrez" | "kormo" | "f2llmv2" | "grok-2"
        | "solar-open" => regexes(QWEN_2),
        "seed-coder" => regexes(SEED_CODER),
        "tekken" => Pattern { ignore_merges: true, add_bos: true, ..regexes(TEKKEN) },
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => regexes(GPT_4O),
        "deepseek-coder" => regexes(DEEPSEEK_CODER),
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => regexes(DEEPSEEK_3),
        "gpt-2" | "mpt" | "olmo" | "jais" | "phi-2" | "jina-es" | "jina-de" | "jina-v1-en" | "jina-v2-es"
        | "jina-v2-de" | "jina-v2-code" | "roberta-bpe" | "modern-bert" | "gigachat" | "a.x-4.0" | "mellum"
        | "exaone4" | "trillion" | "granite-docling" => plain(Split::Gpt2),
        "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => {
            plain(Split::DigitsGpt2)
        }
        "falcon" => plain(Split::Falcon),
        _ => return None,
    })
}

impl Pattern {
    /// The pre-tokenizer, which ends in byte letters.
    pub(super) fn pre_tokenizer(&self) -> Value {
        let steps = match self.split {
            Split::Regexes(regexes) => {
                let mut steps: Vec<Value> = regexes.iter().map(|regex| split(regex)).collect();
                steps.push(byte_level(false));
                steps
            }
            Split::Gpt2 => vec![byte_level(true)],
            Split::DigitsGpt2 => vec![json!({"type": "Digits", "individual_digits": true}), byte_level(true)],
            Split::Falcon => vec![
                json!({"type": "Punctuation", "behavior": "Contiguous"}),
                byte_level(true),
                split("[0-9][0-9][0-9]"),
            ],
        };
        super::json::sequence_of("pretokenizers", steps)
    }
}

fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

/// Bytes as letters; with the pattern of GPT-2 before that, if `split`.
pub(super) fn byte_level(split: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": split})
}
