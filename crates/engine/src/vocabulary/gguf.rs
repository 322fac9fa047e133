//! The tokenizer and the chat template of a GGUF file.

use std::path::Path;
use std::sync::Arc;

use longreach_gguf::tokenizer::{self, Special, Vocabulary, Written};
use longreach_gguf::{Gguf, Header};
use longreach_models::{Fields, GenerationConfig};

use super::{Draft, Names};
use crate::tokenizer::{Kind, Tokenizer};
use crate::world::World;
use crate::{ChatTemplate, Error};

/// What a GGUF file says of texts.
pub(crate) struct Texts {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) chat: Option<ChatTemplate>,
    /// All tokens that end a text.
    pub(crate) ends: Vec<u32>,
    /// The token before a text.
    pub(crate) bos: Option<u32>,
}

/// Reads the tokenizer and the chat template of a file; `None` if it has no tokenizer.
pub(crate) fn find(gguf: &Gguf) -> Result<Option<Texts>, Error> {
    let failed = |e: longreach_gguf::Error| Error::from(longreach_models::Error::from(e));
    let Some(found) = tokenizer::read(gguf).map_err(failed)? else { return Ok(None) };
    let file = gguf.metadata().file().to_owned();
    let tokenizer = match found.vocabulary {
        Vocabulary::Json(text) => {
            Draft { file: file.clone(), text, special: Vec::new(), around: None }.finish(&Names::default())?
        }
        Vocabulary::World(world) => {
            let mut hasher = blake3::Hasher::new();
            for (id, token) in world.tokens.iter().enumerate() {
                hasher.update(&(id as u64).to_le_bytes()).update(&(token.len() as u64).to_le_bytes()).update(token);
            }
            let kind = Kind::World(Arc::new(World::of(world.tokens, &world.control)));
            Tokenizer { file: file.clone(), kind, hash: hasher.finalize() }
        }
    };
    let special = &found.special;
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    let named = [
        ("bos_token", special.bos),
        ("eos_token", special.eos),
        ("unk_token", special.unknown),
        ("pad_token", special.padding),
        ("sep_token", special.separator),
        ("mask_token", special.mask),
    ];
    let named = named.into_iter().filter_map(|(name, id)| Some((name.to_owned(), token(id)?)));
    let chat = found.chat_template.map(|source| ChatTemplate::new(file, source).with_special(named));
    Ok(Some(Texts { chat, ends: special.ends.clone(), bos: special.bos, tokenizer }))
}

/// Texts in which tokenizers differ if their parts do: words, spaces, digits, punctuation, scripts, and code.
const SAMPLES: [&str; 8] = [
    "The quick brown fox's 12 dogs, 345 cats and 67890 birds: \"hello\"!",
    " leading,  two   three    spaces\tand\ttabs \n\nand lines\r\nend ",
    "fn main() { let x: Vec<u8> = vec![0x1F; 1_000]; println!(\"{x:?}\"); } // it's DON'T I'LL",
    "Zürich, São Paulo, naïve café; straße ß œuvre",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم",
    "你好，世界。こんにちは世界 안녕하세요 세계 ๑๒๓ १२३",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ½ ™",
    "a1b22c333d4444 3.14159 1,000,000 $5.00 50% @user #tag https://a.b/c?d=e&f",
];

/// Writes the tokenizer and the chat template of a model directory into the metadata of a GGUF file whose embedding table
/// has this many rows; `pre` is llama.cpp's name of the pre-tokenizer, which is recognised if `None`. Without a tokenizer
/// in the directory, nothing is written. Returns notes for the user.
///
/// Errors if a file is damaged, or if the tokenizer cannot be expressed, so that some texts would get other ids.
pub fn write_tokenizer(
    directory: &Path,
    rows: usize,
    pre: Option<&str>,
    header: &mut Header,
) -> Result<Vec<String>, Error> {
    let Some(tokenizer) = Tokenizer::load(directory)? else {
        return Ok(vec![format!("{}: there is no tokenizer, so the file has none", directory.display())]);
    };
    let wrong = |message: String| Error::Tokenizer { file: tokenizer.file.clone(), message };
    let json = match &tokenizer.kind {
        Kind::HuggingFace(tokenizer) => tokenizer.to_string(false).map_err(|e| wrong(e.to_string()))?,
        Kind::World(_) => return Err(wrong("RWKV's vocabulary is not written".into())),
    };
    let chat = ChatTemplate::load(directory)?;
    let of = Written {
        file: &tokenizer.file,
        json: &json,
        rows,
        pre,
        special: special(directory, &tokenizer)?,
        chat_template: chat.as_ref().map(ChatTemplate::source),
    };
    let failed = |e: longreach_gguf::Error| Error::from(longreach_models::Error::from(e));
    let notes = tokenizer::write(header, &of).map_err(failed)?;
    let bytes = header.clone().write_to(Vec::new()).and_then(longreach_gguf::Writer::finish).map_err(failed)?;
    let read = find(&Gguf::from_bytes("the GGUF file to be written", bytes.into()).map_err(failed)?)?;
    let Some(Texts { tokenizer: read, .. }) = read else { return Ok(notes) };
    for text in SAMPLES {
        let (want, found) = (tokenizer.encode_around(text)?, read.encode_around(text)?);
        if want != found {
            let [want, found] = [want, found].map(|around| [around.ids, around.behind].concat());
            let message = format!("the ids of {text:?} are {want:?}, but from the GGUF file they would be {found:?}");
            return Err(wrong(message));
        }
    }
    Ok(notes)
}

/// The tokens with a function that the files of a directory name.
fn special(directory: &Path, tokenizer: &Tokenizer) -> Result<Special, Error> {
    let settings = super::settings(directory)?;
    let named = |name: &str| match &tokenizer.kind {
        Kind::HuggingFace(tokenizer) => tokenizer.token_to_id(&super::special(&settings, name, "")),
        Kind::World(_) => None,
    };
    let file = directory.join("config.json");
    let text = std::fs::read_to_string(&file).map_err(|source| Error::Io { path: file.clone(), source })?;
    let fields = Fields::parse(file.display().to_string(), &text)?;
    let mut ends = match GenerationConfig::read(directory)?.eos {
        Some(eos) => eos,
        None => fields.ids("eos_token_id")?,
    };
    let eos = named("eos_token").or(ends.first().copied());
    ends.extend(eos);
    ends.sort_unstable();
    ends.dedup();
    Ok(Special {
        bos: named("bos_token").or(fields.ids("bos_token_id")?.first().copied()),
        eos,
        unknown: named("unk_token"),
        padding: named("pad_token").or(fields.ids("pad_token_id")?.first().copied()),
        separator: named("sep_token"),
        mask: named("mask_token"),
        ends,
        ..Special::default()
    })
}
