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

/// Names of one pattern. The first is that of the model whose pattern it was.
struct Named {
    names: &'static [&'static str],
    pattern: Pattern,
}

const fn named(names: &'static [&'static str], split: Split) -> Named {
    Named { names, pattern: Pattern { split, ignore_merges: false, add_bos: false } }
}

impl Named {
    const fn ignoring_merges(mut self) -> Self {
        self.pattern.ignore_merges = true;
        self
    }

    const fn with_bos(mut self) -> Self {
        self.pattern.add_bos = true;
        self
    }
}

/// All names.
static PATTERNS: &[Named] = &[
    named(
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        Split::Regexes(LLAMA_3),
    )
    .ignoring_merges()
    .with_bos(),
    named(&["dbrx", "smaug-bpe", "chatglm-bpe"], Split::Regexes(LLAMA_3)),
    named(&["glm4", "glm5"], Split::Regexes(LLAMA_3)).ignoring_merges(),
    named(&["qwen35"], Split::Regexes(QWEN_35)),
    named(
        &["qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan", "megrez", "kormo", "f2llmv2", "grok-2", "solar-open"],
        Split::Regexes(QWEN_2),
    ),
    named(&["seed-coder"], Split::Regexes(SEED_CODER)),
    named(&["tekken"], Split::Regexes(TEKKEN)).ignoring_merges().with_bos(),
    named(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], Split::Regexes(GPT_4O)),
    named(&["deepseek-coder"], Split::Regexes(DEEPSEEK_CODER)),
    named(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], Split::Regexes(DEEPSEEK_3)),
    named(
        &[
            "gpt-2",
            "mpt",
            "olmo",
            "jais",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v2-code",
            "roberta-bpe",
            "modern-bert",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "exaone4",
            "trillion",
            "granite-docling",
        ],
        Split::Gpt2,
    ),
    named(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        Split::DigitsGpt2,
    ),
    named(&["falcon"], Split::Falcon),
];

/// The pattern of a name; `None` if it is not known.
pub(super) fn pattern(name: &str) -> Option<&'static Pattern> {
    PATTERNS.iter().find(|one| one.names.contains(&name)).map(|one| &one.pattern)
}

/// The name of a pre-tokenizer of a `tokenizer.json`; `None` if it is not known.
pub(super) fn recognise(pre_tokenizer: &Value, ignore_merges: bool) -> Option<&'static str> {
    let found = steps(pre_tokenizer)?;
    let same = |one: &&Named| {
        one.pattern.ignore_merges == ignore_merges && steps(&one.pattern.pre_tokenizer()).as_ref() == Some(&found)
    };
    PATTERNS.iter().find(same).map(|one| one.names[0])
}

/// The steps of a pre-tokenizer, each as a text that is the same for those that do the same; `None` if one is not known.
fn steps(of: &Value) -> Option<Vec<String>> {
    let flag = |name: &str| of[name].as_bool();
    let step = match of["type"].as_str()? {
        "Sequence" => {
            let all: Option<Vec<Vec<String>>> = of["pretokenizers"].as_array()?.iter().map(steps).collect();
            return Some(all?.concat());
        }
        "Split" => {
            // What is left between the matches is kept apart by the one, and dropped by the other: nothing is left.
            match (of["behavior"].as_str()?, flag("invert")?) {
                ("Isolated", false) | ("Removed", true) => {}
                _ => return None,
            }
            format!("split {}", of["pattern"]["Regex"].as_str()?)
        }
        "ByteLevel" if flag("add_prefix_space") == Some(false) => {
            format!("bytes, split: {}", flag("use_regex").unwrap_or(true))
        }
        "Digits" => format!("digits, each: {}", flag("individual_digits")?),
        "Punctuation" => format!("punctuation {}", of["behavior"].as_str()?),
        _ => return None,
    };
    Some(vec![step])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_recognised() {
        for one in PATTERNS {
            let found = recognise(&one.pattern.pre_tokenizer(), one.pattern.ignore_merges).expect("a name");
            let found = pattern(found).expect("a pattern");
            assert_eq!(found.pre_tokenizer(), one.pattern.pre_tokenizer(), "{:?}", one.names);
            assert_eq!(found.ignore_merges, one.pattern.ignore_merges, "{:?}", one.names);
        }
        assert_eq!(recognise(&split("."), false), None);
        let spaced = json!({"type": "ByteLevel", "add_prefix_space": true, "use_regex": true});
        assert_eq!(recognise(&spaced, false), None, "a space before each text has no name");
    }

    #[test]
    fn no_name_stands_twice() {
        let mut names: Vec<&str> = PATTERNS.iter().flat_map(|one| one.names).copied().collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }
}
