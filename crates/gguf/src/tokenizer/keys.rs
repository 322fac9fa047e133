//! The metadata entries that describe a tokenizer: the only place that reads them from the file.

use std::collections::BTreeMap;

use crate::{Error, FromValue, Gguf, Metadata};

pub(super) const PREFIX: &str = "tokenizer.ggml.";
pub(super) const TEMPLATE: &str = "tokenizer.chat_template";

/// The entries of a tokenizer.
pub(super) struct Keys<'a> {
    metadata: &'a Metadata,
}

impl<'a> Keys<'a> {
    pub(super) fn of(file: &'a Gguf) -> Self {
        Self { metadata: file.metadata() }
    }

    /// The value of `tokenizer.ggml.{name}`, if it is there.
    pub(super) fn get<T: FromValue<'a>>(&self, name: &str) -> Result<Option<T>, Error> {
        self.metadata.get(&format!("{PREFIX}{name}"))
    }

    /// The value of `tokenizer.ggml.{name}`.
    pub(super) fn require<T: FromValue<'a>>(&self, name: &str) -> Result<T, Error> {
        self.metadata.require(&format!("{PREFIX}{name}"))
    }

    /// An array of bytes, which files have as signed or unsigned.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(value) = self.metadata.value(&format!("{PREFIX}{name}")) else { return Ok(None) };
        if value.element_type() == crate::ValueType::I8 {
            let signed: Vec<i8> = value.to()?;
            return Ok(Some(signed.into_iter().map(i8::cast_unsigned).collect()));
        }
        value.to().map(Some)
    }

    /// The number of tokens that are listed.
    pub(super) fn token_count(&self) -> Result<usize, Error> {
        Ok(self.get::<crate::Strings<'_>>("tokens")?.map_or(0, |tokens| tokens.len()))
    }

    /// The `tokenizer.json` that a few files contain.
    pub(super) fn own_json(&self) -> Result<Option<&'a str>, Error> {
        self.metadata.get("tokenizer.huggingface.json")
    }

    /// `general.architecture`, or an empty string.
    pub(super) fn architecture(&self) -> Result<&'a str, Error> {
        Ok(self.metadata.get("general.architecture")?.unwrap_or_default())
    }

    /// The chat template, and those with a name.
    pub(super) fn chat_templates(&self) -> Result<(Option<String>, BTreeMap<String, String>), Error> {
        let own: Option<&str> = self.metadata.get(TEMPLATE)?;
        let mut named = BTreeMap::new();
        for value in self.metadata.iter() {
            let name = value.key().strip_prefix(TEMPLATE).and_then(|rest| rest.strip_prefix('.'));
            if let Some(name) = name {
                named.insert(name.to_owned(), value.to::<&str>()?.to_owned());
            }
        }
        Ok((own.map(str::to_owned), named))
    }

    /// An error about `tokenizer.ggml.{name}`.
    pub(super) fn error(&self, name: &str, message: impl Into<String>) -> Error {
        Error::key(self.metadata.file(), &format!("{PREFIX}{name}"), message)
    }

    /// The error that a value of `tokenizer.ggml.{name}` is not known.
    pub(super) fn unknown(&self, name: &str, found: &str, known: &str) -> Error {
        let found = found.escape_debug();
        self.error(
            name,
            format!(
                "`{found}` is not supported (want {known}): use the tokenizer of the original model, --tokenizer DIR"
            ),
        )
    }
}
