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

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};

use crate::directory::read_config;
use crate::{Checkpoint, Error, Location, write_atomically};

mod architectures;
mod job;
mod tokenizer;

use job::Job;

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
    let copied = tokenizer::copy(&from.directory, folder.path(), longest, &kind)?;
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
