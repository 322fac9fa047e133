//! The conversions to architectures of Hugging Face: Longformer and BigBird.

use std::path::Path;

use serde_json::{Value, json};

use super::Tensor;
use super::job::{Job, Task};
use crate::Error;

impl Job<'_> {
    pub(super) fn longformer(&mut self, window: usize, directory: &Path) -> Result<(), Error> {
        self.dense_only()?;
        if window == 0 || !window.is_multiple_of(2) {
            return Err(self.fields.error(format!("`attention_window`: want an even number, found {window}")));
        }
        let act = self.fields.text("hidden_act")?.unwrap_or("gelu").to_owned();
        let pad = self.fields.id("pad_token_id", if self.kind == "bert" { 0 } else { 1 })?;
        let first = pad as usize + 1;
        self.tile(first)?;
        let bert = self.kind == "bert";
        let body = self.body();
        // BERT's classifier reads the pooler's output, whose tanh corresponds to that of the first layer of
        // Longformer's classifier.
        let pooled = bert && self.tensors.contains_key("classifier.weight") && Task::of(self.fields) == Task::Sequence;
        let words = bert && act == "gelu";
        let inside = format!("{body}.");
        self.rename(|name| {
            if let Some(rest) = name.strip_prefix(&inside) {
                return match rest.strip_prefix("pooler.dense") {
                    Some(end) if pooled => Some(format!("classifier.dense{end}")),
                    _ => Some(format!("longformer.{rest}")),
                };
            }
            if pooled && let Some(end) = name.strip_prefix("classifier.") {
                return Some(format!("classifier.out_proj.{end}"));
            }
            for (old, new) in [
                ("cls.predictions.transform.dense", "lm_head.dense"),
                ("cls.predictions.transform.LayerNorm", "lm_head.layer_norm"),
                ("cls.predictions.decoder", "lm_head.decoder"),
                ("cls.predictions.bias", "lm_head.bias"),
            ] {
                if let Some(end) = name.strip_prefix(old) {
                    return words.then(|| format!("{new}{end}"));
                }
            }
            (!name.starts_with("cls.seq_relationship")).then(|| name.to_owned())
        });
        let own: Vec<String> = self.tensors.keys().cloned().collect();
        for name in own {
            for part in ["query", "key", "value"] {
                let inside = format!(".attention.self.{part}.");
                if let Some((before, end)) = name.split_once(&inside)
                    && let Some(t) = self.tensors.get(&name)
                {
                    let copy = Tensor { dtype: t.dtype, shape: t.shape.clone(), bytes: t.bytes.clone() };
                    self.tensors.insert(format!("{before}.attention.self.{part}_global.{end}"), copy);
                }
            }
        }
        self.architecture("Longformer");
        if self.left_out.iter().any(|name| name.starts_with("cls.predictions")) {
            self.set("architectures", json!(["LongformerModel"]));
        }
        self.set("model_type", json!("longformer"));
        self.set("attention_window", json!(window));
        self.set("max_position_embeddings", json!(first + self.longest));
        self.set("pad_token_id", json!(pad));
        if let Some(separator) = separator(directory, bert) {
            self.set("sep_token_id", json!(separator));
        }
        Ok(())
    }

    pub(super) fn big_bird(&mut self, block: usize, random_blocks: usize, directory: &Path) -> Result<(), Error> {
        self.dense_only()?;
        if block == 0 || random_blocks == 0 {
            return Err(self.fields.error(format!(
                "blocks of {block} tokens and {random_blocks} random blocks: want at least 1 of each"
            )));
        }
        self.tile(0)?;
        let (bert, body) = (self.kind == "bert", self.body());
        let act = self.fields.text("hidden_act")?.unwrap_or("gelu").to_owned();
        let task = Task::of(self.fields);
        let inside = format!("{body}.");
        let bare = !self.tensors.keys().any(|name| name.starts_with(&inside));
        let words = bert || act == "gelu";
        self.rename(|name| {
            let rest = if bare { Some(name) } else { name.strip_prefix(&inside) };
            if let Some(rest) = rest {
                let rest = rest.replace("pooler.dense.", "pooler.");
                return Some(if bare { rest } else { format!("bert.{rest}") });
            }
            for (old, new) in [
                ("lm_head.dense", "cls.predictions.transform.dense"),
                ("lm_head.layer_norm", "cls.predictions.transform.LayerNorm"),
                ("lm_head.decoder", "cls.predictions.decoder"),
                ("lm_head.bias", "cls.predictions.bias"),
            ] {
                if let Some(end) = name.strip_prefix(old) {
                    return words.then(|| format!("{new}{end}"));
                }
            }
            // BigBird's heads for sequence classification and question answering have another structure.
            let kept = name.starts_with("cls.predictions") || (task == Task::Token && name.starts_with("classifier."));
            kept.then(|| name.to_owned())
        });
        self.architecture("BigBird");
        if task == Task::Sequence || task == Task::Question || (task == Task::Words && !words) {
            self.set("architectures", json!(["BigBirdModel"]));
        }
        for (name, value) in [
            ("model_type", json!("big_bird")),
            ("attention_type", json!("block_sparse")),
            ("block_size", json!(block)),
            ("num_random_blocks", json!(random_blocks)),
            ("max_position_embeddings", json!(self.longest)),
            ("hidden_act", json!(act)),
            ("use_bias", json!(true)),
            ("rescale_embeddings", json!(false)),
        ] {
            self.set(name, value);
        }
        if let Some(separator) = separator(directory, bert) {
            self.set("sep_token_id", json!(separator));
        }
        Ok(())
    }
}

/// The separator token, by the files of the tokenizer.
fn separator(directory: &Path, bert: bool) -> Option<u64> {
    let text = if bert { "[SEP]" } else { "</s>" };
    if let Ok(file) = std::fs::read(directory.join("tokenizer.json")) {
        let all: Value = serde_json::from_slice(&file).ok()?;
        let added = all.get("added_tokens")?.as_array()?;
        return added.iter().find(|token| token["content"] == text).and_then(|token| token["id"].as_u64());
    }
    let lines = std::fs::read_to_string(directory.join("vocab.txt")).ok()?;
    lines.lines().position(|line| line == text).map(|at| at as u64)
}
