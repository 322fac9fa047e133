//! Byte-level BPE (Sennrich et al. 2016, as in GPT-2), trained on the training text.

use std::path::Path;

use tokenizers::models::bpe::{BPE, BpeTrainerBuilder, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, TokenizerBuilder, TokenizerImpl};

use crate::{Config, Error, Page};

/// The token that separates texts; it has id 0 in vocabularies trained here.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";

fn said(e: tokenizers::Error) -> Error {
    Error::Tokenizer(e.to_string())
}

/// The tokenizer of a training: that of an earlier run in `file`, or one that is trained now and written to `file`.
pub(crate) fn of(config: &Config, pages: &[Page], file: &Path) -> Result<longreach_engine::Tokenizer, Error> {
    if !file.exists() {
        let mut trainer = BpeTrainerBuilder::new()
            .show_progress(false)
            .vocab_size(config.tokenizer.vocabulary.unwrap_or(4096))
            .min_frequency(2)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut tokenizer = byte_level(BPE::default())?;
        tokenizer.train(&mut trainer, pages.iter().map(|p| p.text.as_str())).map_err(said)?;
        tokenizer.save(file, false).map_err(said)?;
    }
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
    Ok(longreach_engine::Tokenizer::parse(&file.display().to_string(), &text)?)
}

/// A byte-level tokenizer around a BPE model.
fn byte_level(model: BPE) -> Result<TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>, Error> {
    TokenizerBuilder::new()
        .with_model(model)
        .with_normalizer(None::<NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
        .with_post_processor(Some(ByteLevel::default()))
        .with_decoder(Some(ByteLevel::default()))
        .build()
        .map_err(said)
}

/// Size of the vocabulary of [`bytes`].
pub(crate) const BYTES: usize = 256;

/// A tokenizer whose tokens are bytes, as a `tokenizer.json`.
pub(crate) fn bytes() -> Result<String, Error> {
    // Byte-level tokenizers map printable bytes to themselves and the others to code points from 256 on (GPT-2).
    let printed = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let rest = |byte: u32| 256 + (0..byte).filter(|b| !printed(*b)).count() as u32;
    let letter = |byte: u32| char::from_u32(if printed(byte) { byte } else { rest(byte) }).map(String::from);
    let vocabulary = (0..BYTES as u32).filter_map(|byte| Some((letter(byte)?, byte))).collect::<Vocab>();
    let model = BPE::builder().vocab_and_merges(vocabulary, Vec::new()).build().map_err(said)?;
    byte_level(model)?.to_string(false).map_err(said)
}

/// Encodes pages, without special tokens.
pub(crate) fn encode(tokenizer: &longreach_engine::Tokenizer, pages: &[Page]) -> Result<Vec<Vec<u32>>, Error> {
    let Some(tokenizer) = tokenizer.hugging_face() else {
        return pages.iter().map(|page| Ok(tokenizer.encode(&page.text)?)).collect();
    };
    let encoded = tokenizer.encode_batch_fast(pages.iter().map(|p| p.text.as_str()).collect(), false).map_err(said)?;
    Ok(encoded.into_iter().map(|e| e.get_ids().to_vec()).collect())
}
