//! `longreach forward`

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use longreach_engine::Engine;
use longreach_models::write_atomically;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;

use crate::failure::Failure;
use crate::model::ModelArgs;

/// Compute hidden states and logits of given tokens, to compare with another implementation
///
/// FILE.json is {"input_ids": [[1, 2, 3], …], "attention_mask": [[1, 1, 1], …]}, rows of equal length; the mask is optional
/// and is 0 at padding. The output holds f32 tensors `last_hidden_state` [B, T, d] and `logits` [B, T, vocabulary].
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The tokens
    #[arg(long, value_name = "FILE.json")]
    tokens: PathBuf,
    /// Where the tensors go
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Read N tokens at a time, carrying the state on
    #[arg(long, value_name = "N", conflicts_with = "step", value_parser = clap::value_parser!(u32).range(1..))]
    chunk: Option<u32>,
    /// Read token by token
    #[arg(long)]
    step: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    input_ids: Vec<Vec<u32>>,
    attention_mask: Option<Vec<Vec<u8>>>,
}

impl Tokens {
    fn read(file: &Path, vocabulary: usize) -> Result<Self, Failure> {
        let wrong = |message: String| Failure::new(format!("{}: {message}", file.display()));
        let text = std::fs::read(file).map_err(|e| wrong(e.to_string()))?;
        let tokens: Tokens = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        let length = tokens.input_ids.first().map_or(0, Vec::len);
        if length == 0 {
            return Err(wrong("`input_ids` is empty".into()));
        }
        for (i, row) in tokens.input_ids.iter().enumerate() {
            if row.len() != length {
                return Err(wrong(format!("`input_ids`: row {i}: want {length} tokens, found {}", row.len())));
            }
            if let Some(id) = row.iter().find(|id| **id as usize >= vocabulary) {
                return Err(wrong(format!(
                    "`input_ids`: row {i}: token id {id} is out of range: the model has {vocabulary}"
                )));
            }
        }
        if let Some(mask) = &tokens.attention_mask {
            let lengths: Vec<usize> = mask.iter().map(Vec::len).collect();
            if lengths != vec![length; tokens.input_ids.len()] {
                let rows = tokens.input_ids.len();
                return Err(wrong(format!(
                    "`attention_mask`: want {rows} rows of {length}, found rows of {lengths:?}"
                )));
            }
            if mask.iter().flatten().any(|m| *m > 1) {
                return Err(wrong("`attention_mask`: want 0 or 1".into()));
            }
        }
        Ok(tokens)
    }
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let engine = args.model.load()?;
    let tokens = Tokens::read(&args.tokens, engine.model.decoder.vocabulary())?;
    let length = tokens.input_ids[0].len();
    let piece = if args.step { 1 } else { args.chunk.map_or(length, |n| n as usize) };
    let (hidden, logits) = compute(&engine, &tokens, length, piece);
    write(&args.out, tokens.input_ids.len(), length, &hidden, &logits)
}

/// Hidden states and logits, rows of tokens one behind the other.
fn compute(engine: &Engine, tokens: &Tokens, length: usize, piece: usize) -> (Vec<f32>, Vec<f32>) {
    let batch = tokens.input_ids.len();
    let mask = tokens.attention_mask.as_ref().map(|m| m.concat());
    let paths = engine.model.evaluate(&tokens.input_ids.concat(), mask.as_deref(), batch, length, piece);
    (paths.hidden, paths.logits)
}

fn write(file: &Path, batch: usize, length: usize, hidden: &[f32], logits: &[f32]) -> Result<(), Failure> {
    let bytes = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let tensors = [("last_hidden_state", hidden), ("logits", logits)];
    let tensors = tensors.map(|(name, x)| (name, vec![batch, length, x.len() / (batch * length)], bytes(x)));
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape asks for"))
    });
    let bytes = safetensors::serialize(views, None::<HashMap<String, String>>)?;
    Ok(write_atomically(file, |out| out.write_all(&bytes))?)
}
