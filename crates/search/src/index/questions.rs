//! Queries against an index, with the encoder that built it.

use longreach_engine::{Pooling, Prompt, TextEncoder};
use longreach_simd::Cx;
use serde_json::Value;

use super::{About, Found, Index};
use crate::Error;

impl About {
    /// Dtype of the encoder that built the index, by name.
    pub fn dtype(&self) -> Option<&str> {
        self.settings["dtype"].as_str()
    }

    /// Sets the pooling and normalisation of an encoder to those that the index was built with.
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
            encoder.pipeline.set_normalize(normalize);
        }
    }
}

/// An index with a matching encoder.
pub struct Questions<'a> {
    index: &'a Index,
    encoder: &'a TextEncoder,
}

impl Index {
    /// Pairs the index with an encoder for queries. An error that names the difference if its vectors are not comparable with those of the index.
    ///
    /// Hashes all weights once: O(bytes of the weights) time.
    pub fn with<'a>(&'a self, encoder: &'a TextEncoder) -> Result<Questions<'a>, Error> {
        let about = &self.about;
        let kind = |late: bool, width: usize| {
            let each = if late { "token" } else { "text" };
            format!("one vector of {width} dimensions per {each}")
        };
        let (own, asked) = (kind(about.late, about.width), kind(encoder.is_late(), encoder.width()));
        if own != asked {
            return Err(Error::file(&self.path, format!("holds {own}, but the model makes {asked}")));
        }
        if encoder.fingerprint() != about.fingerprint {
            let message = format!(
                "was built with another model: the configuration, weights or tokenizer of {} differ from those of {} at that time",
                encoder.name, about.model
            );
            return Err(Error::file(&self.path, message));
        }
        let settings = encoder.settings();
        let names = settings.as_object().into_iter().chain(about.settings.as_object()).flatten().map(|(name, _)| name);
        // The input limit may differ for queries, and the similarity is that of the index.
        for name in names.filter(|name| !["limit", "similarity"].contains(&name.as_str())) {
            let (own, asked) = (&about.settings[name], &settings[name]);
            if own != asked {
                let message = format!("was built with another `{name}`: {own}, but the query uses {asked}");
                return Err(Error::file(&self.path, message));
            }
        }
        Ok(Questions { index: self, encoder })
    }
}

impl Questions<'_> {
    /// The `n` passages that match a query best, best first; none for a blank query. An error if the vector of the query is not finite.
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
            return Err(Error::NotFinite { origin: format!("the query `{question}`") });
        }
        Ok(self.index.best(cx, &vector, n))
    }
}
