//! Models of text and other media, of which the text model is used.

use crate::{Error, Fields};

/// The configuration of the text model: `text_config`, and what it leaves out from the outer object.
pub(crate) fn text_config(f: &Fields) -> Result<Fields, Error> {
    let Some(mut text) = f.objects("text_config")?.into_iter().next() else {
        return Err(f.error("field `text_config` is missing"));
    };
    for name in ["tie_word_embeddings", "eos_token_id"] {
        if let Some(outside) = f.get(name) {
            text.set_default(name, outside.clone());
        }
    }
    Ok(text)
}
