//! What every conversion does to the tensors and the configuration.

use longreach_attention::softmax::{Sizes, deepspeed};
use serde_json::{Map, Value, json};

use super::Tensors;
use crate::{Error, Fields};

/// A conversion: the configuration and the tensors, which become those of the target.
pub(super) struct Job<'a> {
    pub(super) kind: &'a str,
    pub(super) fields: &'a Fields,
    pub(super) config: &'a mut Map<String, Value>,
    pub(super) tensors: Tensors,
    pub(super) longest: usize,
    pub(super) left_out: Vec<String>,
}

impl Job<'_> {
    /// The prefix of the body in the source, without a dot; empty for a bare body.
    pub(super) fn body(&self) -> &'static str {
        match self.kind {
            "bert" => "bert",
            "gpt2" => "transformer",
            _ => "roberta",
        }
    }

    pub(super) fn set(&mut self, name: &str, value: Value) {
        self.config.insert(name.to_owned(), value);
    }

    /// The number of rows before the first position of a text.
    pub(super) fn first(&self) -> Result<usize, Error> {
        match self.kind {
            "bert" | "gpt2" => Ok(0),
            _ => Ok(self.fields.id("pad_token_id", 1)? as usize + 1),
        }
    }

    /// Tiles the position table to `longest` rows after the `first` rows that precede a text.
    pub(super) fn tile(&mut self, first: usize) -> Result<(), Error> {
        let end = if self.kind == "gpt2" { "wpe.weight" } else { "embeddings.position_embeddings.weight" };
        let known = self.tensors.keys().find(|name| name.ends_with(end)).cloned();
        let Some(name) = known else {
            let message = format!("has no position embeddings (`{end}`)");
            return Err(Error::Checkpoint { file: self.fields.file().to_owned(), message });
        };
        let (before, longest) = (self.first()?, self.longest);
        let wrong = |message: String| Error::Checkpoint { file: name.clone(), message };
        let Some(table) = self.tensors.get_mut(&name) else { return Ok(()) };
        let [rows, width] = table.shape[..] else {
            return Err(wrong(format!("shape {:?}, want two axes", table.shape)));
        };
        if rows <= before {
            return Err(wrong(format!("{rows} rows, want more than the {before} that precede a text")));
        }
        let row = width * table.dtype.bitsize() / 8;
        let mut bytes = Vec::with_capacity((first + longest) * row);
        for i in 0..first {
            match before {
                // A row for padding, which the source does not have.
                0 => bytes.extend(std::iter::repeat_n(0, row)),
                _ => bytes.extend_from_slice(&table.bytes[i.min(before - 1) * row..][..row]),
            }
        }
        for i in 0..longest {
            let at = before + i % (rows - before);
            bytes.extend_from_slice(&table.bytes[at * row..][..row]);
        }
        (table.shape, table.bytes) = (vec![first + longest, width], bytes);
        Ok(())
    }

    pub(super) fn deepspeed(&mut self, layout: &Value) -> Result<(), Error> {
        let layout = layout.get("sparse_attention").unwrap_or(layout).clone();
        let known = deepspeed::Config::parse(&layout.to_string());
        let keys = self.longest;
        let fits = known.and_then(|layout| {
            let keys = keys.next_multiple_of(layout.block());
            layout.layout(&Sizes { batch: 1, heads: 1, queries: 0..keys, keys }, 0).map(|_| ())
        });
        fits.map_err(|e| self.fields.error(format!("`sparse_attention`: {e}")))?;
        if self.kind == "gpt2" && layout.get("attention") != Some(&json!("unidirectional")) {
            let want = "want \"attention\": \"unidirectional\" for a decoder";
            return Err(self.fields.error(format!("`sparse_attention`: {want}")));
        }
        let first = self.first()?;
        self.tile(first)?;
        let rows = json!(first + self.longest);
        let names: &[&str] = if self.kind == "gpt2" { &["n_positions", "n_ctx"] } else { &["max_position_embeddings"] };
        names.iter().for_each(|name| self.set(name, rows.clone()));
        self.set("sparse_attention", layout);
        Ok(())
    }

    /// Renames the tensors; those without a new name are left out.
    pub(super) fn rename(&mut self, new: impl Fn(&str) -> Option<String>) {
        let tensors = std::mem::take(&mut self.tensors);
        for (name, tensor) in tensors {
            match new(&name) {
                Some(new) => {
                    self.tensors.insert(new, tensor);
                }
                None => self.left_out.push(name),
            }
        }
    }

    /// The architecture's name with the prefix of another model.
    pub(super) fn architecture(&mut self, to: &str) {
        let named = self.fields.get("architectures").and_then(|a| a.as_array()?.first()?.as_str());
        let task = named.and_then(|name| name.find("For").or_else(|| name.find("Model")).map(|at| &name[at..]));
        let task =
            task.unwrap_or("Model").replace("ForPreTraining", "ForMaskedLM").replace("LMHeadModel", "ForMaskedLM");
        self.set("architectures", json!([format!("{to}{task}")]));
    }

    pub(super) fn dense_only(&self) -> Result<(), Error> {
        for name in ["is_decoder", "add_cross_attention"] {
            if self.fields.flag(name, false)? {
                return Err(self.fields.error(format!("field `{name}`: want false, only encoders are converted")));
            }
        }
        match self.fields.text("position_embedding_type")? {
            None | Some("absolute") => Ok(()),
            Some(other) => {
                Err(self.fields.error(format!("field `position_embedding_type`: want \"absolute\", found \"{other}\"")))
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    None,
    Words,
    Sequence,
    Token,
    Question,
}

impl Task {
    pub(super) fn of(fields: &Fields) -> Self {
        let named = fields.get("architectures").and_then(|a| a.as_array()?.first()?.as_str()).unwrap_or_default();
        [
            ("ForMaskedLM", Task::Words),
            ("ForPreTraining", Task::Words),
            ("ForSequenceClassification", Task::Sequence),
            ("ForTokenClassification", Task::Token),
            ("ForQuestionAnswering", Task::Question),
        ]
        .into_iter()
        .find(|(end, _)| named.ends_with(end))
        .map_or(Task::None, |(_, task)| task)
    }
}
