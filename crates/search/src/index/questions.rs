//! Questions to an index, by the encoder that made it.

use longreach_engine::{Pooling, Prompt, TextEncoder};
use longreach_simd::Cx;
use serde_json::Value;

use super::{About, Found, Index};
use crate::Error;

impl About {
    /// The precision of the matrices of the encoder, by name.
    pub fn dtype(&self) -> Option<&str> {
        self.settings["dtype"].as_str()
    }

    /// Makes the encoder's pooling and normalisation those that the index was made with.
    pub fn restore(&self, encoder: &mut TextEncoder) {
        let named = |name: &Value| {
            let known = Pooling::ALL.iter().find(|(known, _)| name.as_str() == Some(known));
            known.map(|(_, pooling)| *pooling)
        };
        let pooling =
            self.settings["pooling"].as_array().map(|list| list.iter().map(named).collect::<Option<Vec<_>>>());
        if let Some(Some(pooling)) = pooling {
            encoder.pipeline.pooling = pooling;
        }
        if let Some(normalize) = self.settings["normalize"].as_bool() {
            encoder.pipeline.normalize = normalize;
        }
    }
}

/// An index with the encoder that made it.
pub struct Questions<'a> {
    index: &'a Index,
    encoder: &'a TextEncoder,
}

impl Index {
    /// The index with an encoder for questions. An error that names what differs, if it is not the one whose vectors the index holds.
    ///
    /// Reads all weights once.
    pub fn with<'a>(&'a self, encoder: &'a TextEncoder) -> Result<Questions<'a>, Error> {
        let about = &self.about;
        let kind = |late: bool, width: usize| {
            let each = if late { "token" } else { "text" };
            format!("a vector of {width} numbers a {each}")
        };
        let (own, asked) = (kind(about.late, about.width), kind(encoder.is_late(), encoder.width()));
        if own != asked {
            return Err(Error::file(&self.path, format!("holds {own}, the model makes {asked}")));
        }
        if encoder.fingerprint() != about.fingerprint {
            let message = format!(
                "was made by another model: configuration, weights or tokenizer of {} are not those of {} as it was then",
                encoder.name, about.model
            );
            return Err(Error::file(&self.path, message));
        }
        let settings = encoder.settings();
        let names = settings.as_object().into_iter().chain(about.settings.as_object()).flatten().map(|(name, _)| name);
        // How much of a text is read is a question's own affair, and how vectors are compared the index's.
        for name in names.filter(|name| !["limit", "similarity"].contains(&name.as_str())) {
            let (own, asked) = (&about.settings[name], &settings[name]);
            if own != asked {
                let message = format!("was made with another `{name}`: with {own}, and now it is {asked}");
                return Err(Error::file(&self.path, message));
            }
        }
        Ok(Questions { index: self, encoder })
    }
}

impl Questions<'_> {
    /// The `n` passages that answer a question best, the best first. A blank question has no answer.
    pub fn ask(&self, cx: &Cx, question: &str, n: usize) -> Result<Vec<Found>, Error> {
        if question.trim().is_empty() {
            return Ok(Vec::new());
        }
        let vector = if self.encoder.is_late() {
            self.encoder.late_query(question)?
        } else {
            self.encoder.embed(&[question], Prompt::Query)?.concat()
        };
        if !vector.iter().all(|x| x.is_finite()) {
            return Err(Error::NotFinite { origin: format!("the question `{question}`") });
        }
        Ok(self.index.best(cx, &vector, n))
    }
}
