//! Converting dense checkpoints to sparse attention: attention is replaced, position embeddings are tiled, and global
//! projections are copied.
//!
//! This follows AllenAI's conversion of RoBERTa to Longformer (Beltagy et al. 2020), and DeepSpeed's
//! `replace_model_self_attention_with_sparse_self_attention` with `extend_position_embedding`. If the target is an
//! architecture of Hugging Face, its checkpoint format is used. A layout of DeepSpeed is stored in `config.json` as
//! `sparse_attention`, which this project reads. If the window is as wide as the text, the outputs equal those of the
//! dense model.

use std::collections::BTreeMap;
use std::path::Path;

use longreach_attention::softmax::{Sizes, deepspeed};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};

use crate::directory::read_config;
use crate::{Checkpoint, Error, Fields, Location, write_atomically};

/// The sparse attention that replaces dense attention.
#[derive(Clone, Debug, PartialEq)]
pub enum SparseTarget {
    /// Longformer with this `attention_window`, which counts both sides.
    Longformer {
        /// The window; even.
        window: usize,
    },
    /// BigBird.
    BigBird {
        /// The number of tokens of a block.
        block: usize,
        /// The number of random blocks.
        random_blocks: usize,
    },
    /// A layout of DeepSpeed, given by its `sparse_attention` block.
    DeepSpeed(Value),
}

/// The result of a conversion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sparsified {
    /// Its model type.
    pub model_type: String,
    /// Tensors that the target does not have.
    pub left_out: Vec<String>,
    /// Files that were copied unchanged.
    pub copied: Vec<String>,
}

/// A tensor to be written.
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

type Tensors = BTreeMap<String, Tensor>;

/// Writes the model at `from` to the directory `to`, with sparse attention for texts of up to `longest` tokens.
/// Errors if `to` exists or the model type cannot be converted.
pub fn sparsify(from: &Location, to: &Path, target: &SparseTarget, longest: usize) -> Result<Sparsified, Error> {
    let (fields, text) = read_config(&from.directory)?;
    let mut config: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| fields.error(format!("not JSON: {e}")))?;
    let kind = fields.text("model_type")?.unwrap_or("").to_owned();
    if !["bert", "roberta", "xlm-roberta", "gpt2"].contains(&&kind[..]) {
        return Err(fields.error(format!(
            "model_type `{kind}` is not made sparse here; supported are bert, roberta, xlm-roberta and gpt2"
        )));
    }
    if to.exists() {
        let (name, reason) = (to.display().to_string(), "is there already: it is not written over".into());
        return Err(Error::NotFound { name, reason });
    }
    let checkpoint = Checkpoint::at(from)?;
    let mut tensors = Tensors::new();
    for name in checkpoint.names() {
        let (dtype, shape, bytes) = checkpoint.raw(&name)?;
        tensors.insert(modern(&name), Tensor { dtype, shape, bytes });
    }
    let mut job = Job { kind: &kind, fields: &fields, config: &mut config, tensors, longest, left_out: Vec::new() };
    match target {
        SparseTarget::DeepSpeed(layout) => job.deepspeed(layout)?,
        SparseTarget::Longformer { window } if kind == "gpt2" => {
            // An odd number, and not more than there are blocks.
            let most = longest.div_ceil(64);
            let blocks = ((window / 2 / 64).max(1) * 2 + 1).min(most - usize::from(most.is_multiple_of(2))).max(1);
            job.deepspeed(&json!({
                "mode": "bslongformer", "block": 64, "num_sliding_window_blocks": blocks, "global_block_indices": [0],
                "attention": "unidirectional",
            }))?;
        }
        SparseTarget::BigBird { block, random_blocks } if kind == "gpt2" => job.deepspeed(&json!({
            "mode": "bigbird", "block": block, "num_sliding_window_blocks": 3, "num_global_blocks": 1,
            "num_random_blocks": (*random_blocks).min(1), "attention": "unidirectional",
        }))?,
        SparseTarget::Longformer { window } => job.longformer(*window, &from.directory)?,
        SparseTarget::BigBird { block, random_blocks } => job.big_bird(*block, *random_blocks, &from.directory)?,
    }
    let (tensors, left_out) = (job.tensors, job.left_out);
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
    // The files are written to a temporary directory next to `to` and then moved, so that `to` is always complete.
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = tempfile::Builder::new().prefix(".longreach-").tempdir_in(parent).map_err(|e| Error::io(parent, e))?;
    let config = serde_json::to_vec_pretty(&config).unwrap_or_default();
    write_atomically(&folder.path().join("config.json"), |out| out.write_all(&config))?;
    let weights = folder.path().join("model.safetensors");
    let views = tensors.iter().map(|(name, t)| {
        let view = TensorView::new(t.dtype, t.shape.clone(), &t.bytes);
        (name, view.expect("the bytes match the shape"))
    });
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|e| Error::Checkpoint { file: weights.display().to_string(), message: e.to_string() })?;
    write_atomically(&weights, |out| out.write_all(&bytes))?;
    let copied = copy_tokenizer(&from.directory, folder.path(), longest, &kind)?;
    let folder = folder.keep();
    // The permissions of an ordinary new directory, since a temporary one is private.
    #[cfg(unix)]
    let _ = std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755));
    std::fs::rename(&folder, to).map_err(|e| Error::io(to, e))?;
    Ok(Sparsified { model_type, left_out, copied })
}

/// The current name of a norm's tensor.
fn modern(name: &str) -> String {
    match name.rsplit_once('.') {
        Some((of, "gamma")) => format!("{of}.weight"),
        Some((of, "beta")) => format!("{of}.bias"),
        _ => name.to_owned(),
    }
}

struct Job<'a> {
    kind: &'a str,
    fields: &'a Fields,
    config: &'a mut Map<String, Value>,
    tensors: Tensors,
    longest: usize,
    left_out: Vec<String>,
}

impl Job<'_> {
    /// The prefix of the body in the source, without a dot; empty for a bare body.
    fn body(&self) -> &'static str {
        match self.kind {
            "bert" => "bert",
            "gpt2" => "transformer",
            _ => "roberta",
        }
    }

    fn set(&mut self, name: &str, value: Value) {
        self.config.insert(name.to_owned(), value);
    }

    /// The number of rows before the first position of a text.
    fn first(&self) -> Result<usize, Error> {
        match self.kind {
            "bert" | "gpt2" => Ok(0),
            _ => Ok(self.fields.id("pad_token_id", 1)? as usize + 1),
        }
    }

    /// Tiles the position table to `longest` rows after the `first` rows that precede a text.
    fn tile(&mut self, first: usize) -> Result<(), Error> {
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

    fn deepspeed(&mut self, layout: &Value) -> Result<(), Error> {
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
    fn rename(&mut self, new: impl Fn(&str) -> Option<String>) {
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
    fn architecture(&mut self, to: &str) {
        let named = self.fields.get("architectures").and_then(|a| a.as_array()?.first()?.as_str());
        let task = named.and_then(|name| name.find("For").or_else(|| name.find("Model")).map(|at| &name[at..]));
        let task =
            task.unwrap_or("Model").replace("ForPreTraining", "ForMaskedLM").replace("LMHeadModel", "ForMaskedLM");
        self.set("architectures", json!([format!("{to}{task}")]));
    }

    fn dense_only(&self) -> Result<(), Error> {
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

    fn longformer(&mut self, window: usize, directory: &Path) -> Result<(), Error> {
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

    fn big_bird(&mut self, block: usize, random_blocks: usize, directory: &Path) -> Result<(), Error> {
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

/// The task of a head, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Task {
    None,
    Words,
    Sequence,
    Token,
    Question,
}

impl Task {
    fn of(fields: &Fields) -> Self {
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

/// Copies the files of a tokenizer, and sets the maximum length in its configuration.
fn copy_tokenizer(from: &Path, to: &Path, longest: usize, kind: &str) -> Result<Vec<String>, Error> {
    let mut copied = Vec::new();
    for name in [
        "tokenizer.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "spiece.model",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
    ] {
        let file = from.join(name);
        if file.exists() {
            std::fs::copy(&file, to.join(name)).map_err(|e| Error::io(&file, e))?;
            copied.push(name.to_owned());
        }
    }
    if copied.is_empty() {
        return Ok(copied);
    }
    let file = from.join("tokenizer_config.json");
    let mut settings: Map<String, Value> = match std::fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|e| Error::Config { file: file.display().to_string(), message: format!("not JSON: {e}") })?,
        Err(_) => Map::new(),
    };
    settings.insert("model_max_length".into(), json!(longest));
    let class = match kind {
        "bert" => "BertTokenizer",
        "gpt2" => "GPT2Tokenizer",
        "roberta" => "RobertaTokenizer",
        _ => "XLMRobertaTokenizer",
    };
    settings.entry("tokenizer_class").or_insert_with(|| json!(class));
    let text = serde_json::to_vec_pretty(&settings).unwrap_or_default();
    write_atomically(&to.join("tokenizer_config.json"), |out| out.write_all(&text))?;
    Ok(copied)
}
