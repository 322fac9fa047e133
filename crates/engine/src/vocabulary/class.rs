//! The tokenizer class of transformers that a directory selects. It decides which settings override `tokenizer.json` and how a bare vocabulary is read.

use serde_json::{Map, Value};

/// A tokenizer class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Bert,
    Roberta,
    Gpt2,
    GptNeoX,
    Llama,
    XlmRoberta,
    Camembert,
    T5,
    Albert,
    BigBird,
    Reformer,
    /// A generic class, determined by the files.
    Backend,
    /// A class that is not supported.
    Other(String),
}

/// Classes by name, without the suffix `Fast`.
const NAMES: &[(&str, Class)] = &[
    ("BertTokenizer", Class::Bert),
    ("DistilBertTokenizer", Class::Bert),
    ("ElectraTokenizer", Class::Bert),
    ("RobertaTokenizer", Class::Roberta),
    ("LongformerTokenizer", Class::Roberta),
    ("GPT2Tokenizer", Class::Gpt2),
    ("GPTNeoXTokenizer", Class::GptNeoX),
    ("LlamaTokenizer", Class::Llama),
    ("XLMRobertaTokenizer", Class::XlmRoberta),
    ("CamembertTokenizer", Class::Camembert),
    ("T5Tokenizer", Class::T5),
    ("AlbertTokenizer", Class::Albert),
    ("BigBirdTokenizer", Class::BigBird),
    ("ReformerTokenizer", Class::Reformer),
    ("PreTrainedTokenizer", Class::Backend),
    ("TokenizersBackend", Class::Backend),
    ("PythonBackend", Class::Backend),
];

/// Default classes of model types.
const TYPES: &[(&str, Class)] = &[
    ("bert", Class::Bert),
    ("distilbert", Class::Bert),
    ("roberta", Class::Roberta),
    ("longformer", Class::Roberta),
    ("xlm-roberta", Class::XlmRoberta),
    ("camembert", Class::Camembert),
    ("gpt2", Class::Gpt2),
    ("mamba", Class::GptNeoX),
    ("mamba2", Class::GptNeoX),
    ("falcon_mamba", Class::GptNeoX),
    ("rwkv", Class::GptNeoX),
    ("reformer", Class::Reformer),
    ("big_bird", Class::BigBird),
    ("nystromformer", Class::Backend),
    ("modernbert", Class::Backend),
];

impl Class {
    /// The class named by `tokenizer_config.json` or else `config.json`, or the default of the model type. Model types with the generic class (`Backend`)
    /// ignore a named class.
    pub(super) fn of(settings: &Map<String, Value>, config: &Map<String, Value>) -> Self {
        let text = |map: &Map<String, Value>, name: &str| map.get(name).and_then(Value::as_str).map(str::to_owned);
        let named = text(settings, "tokenizer_class").or_else(|| text(config, "tokenizer_class"));
        let of_type = text(config, "model_type");
        let of_type = TYPES.iter().find(|(name, _)| of_type.as_deref() == Some(*name)).map(|(_, class)| class.clone());
        let Some(named) = named else { return of_type.unwrap_or(Class::Backend) };
        if of_type == Some(Class::Backend) {
            return Class::Backend;
        }
        let name = named.strip_suffix("Fast").unwrap_or(&named);
        NAMES.iter().find(|(known, _)| *known == name).map_or(Class::Other(named.clone()), |(_, class)| class.clone())
    }
}
