//! `longreach forward`

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use longreach_cluster::Ranks;
use longreach_engine::CHUNK;
use longreach_models::{EncoderModel, Task, check_writable, write_atomically};
use longreach_nn::{Over, Reading};
use ndarray::Array2;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;

use super::generate::megabytes;
use crate::failure::Failure;
use crate::model::ModelArgs;
use crate::ranks;

/// Compute the hidden states and logits of given tokens
///
/// Use it to compare a model with another implementation. FILE.json is {"input_ids": [[1, 2, 3], …], "attention_mask": [[1, 1, 1], …]} with rows of equal
/// length; the mask is optional and 0 at padding. The output holds the f32 tensors `last_hidden_state` [B, T, d] and `logits` [B, T, vocabulary].
///
/// For encoders, FILE.json may also hold "token_type_ids" and "global_attention_mask". The output then holds `last_hidden_state` and, where the checkpoint
/// has them, `pooler_output` [B, d] and the scores of its head: `logits`, or `start_logits` and `end_logits`.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach forward --model state-spaces/mamba-130m-hf --tokens tokens.json --out whole.safetensors
  longreach forward --model state-spaces/mamba-130m-hf --tokens tokens.json --chunk 512 --out chunked.safetensors
  longreach forward --model bert-base-uncased --tokens tokens.json --out encoder.safetensors")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// File with the tokens, as described above
    #[arg(long, value_name = "FILE.json")]
    tokens: PathBuf,
    /// File to write the tensors to
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Process N tokens at a time and carry the state over [default: all tokens at once]
    #[arg(long, value_name = "N", conflicts_with = "step", value_parser = clap::value_parser!(u32).range(1..))]
    chunk: Option<u32>,
    /// Process one token at a time, as in decoding
    #[arg(long)]
    step: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    input_ids: Vec<Vec<u32>>,
    attention_mask: Option<Vec<Vec<u8>>>,
    token_type_ids: Option<Vec<Vec<u32>>>,
    global_attention_mask: Option<Vec<Vec<u8>>>,
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
                    "`input_ids`: row {i}: token id {id} is out of range: the vocabulary has {vocabulary} tokens"
                )));
            }
        }
        let shape = vec![length; tokens.input_ids.len()];
        let masks =
            [("attention_mask", &tokens.attention_mask), ("global_attention_mask", &tokens.global_attention_mask)];
        let found = masks.map(|(name, mask)| (name, mask.as_ref().map(|m| m.iter().map(Vec::len).collect::<Vec<_>>())));
        let types = tokens.token_type_ids.as_ref().map(|t| t.iter().map(Vec::len).collect());
        for (name, lengths) in found.into_iter().chain([("token_type_ids", types)]) {
            if let Some(lengths) = lengths.filter(|lengths| *lengths != shape) {
                let rows = shape.len();
                return Err(wrong(format!("`{name}`: want {rows} rows of {length}, found rows of {lengths:?}")));
            }
        }
        for (name, mask) in masks {
            if mask.iter().flatten().flatten().any(|m| *m > 1) {
                return Err(wrong(format!("`{name}`: want 0 or 1")));
            }
        }
        Ok(tokens)
    }
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if let Some(ranks) = ranks::job() {
        return together(&args, ranks);
    }
    check_writable(&args.out, &[&args.tokens])?;
    if let Some(encoder) = args.model.encoder()? {
        if args.step || args.chunk.is_some() {
            return Err(Failure::new("--chunk and --step: an encoder processes all tokens at once"));
        }
        return encode(&encoder, &args);
    }
    let engine = args.model.load()?;
    let tokens = Tokens::read(&args.tokens, engine.model.decoder.vocabulary())?;
    for (name, given) in [
        ("token_type_ids", tokens.token_type_ids.is_some()),
        ("global_attention_mask", tokens.global_attention_mask.is_some()),
    ] {
        if given {
            return Err(Failure::new(format!("{}: `{name}`: the model is not an encoder", args.tokens.display())));
        }
    }
    let length = tokens.input_ids[0].len();
    if let Some(longest) = engine.model.decoder.longest().filter(|longest| length > *longest) {
        return Err(too_long(&args.tokens, length, longest));
    }
    let piece = if args.step { 1 } else { args.chunk.map_or(length, |n| n as usize) };
    let batch = tokens.input_ids.len();
    let mask = tokens.attention_mask.as_ref().map(|m| m.concat());
    let got = engine.model.evaluate(&tokens.input_ids.concat(), mask.as_deref(), batch, length, piece);
    let shaped = |x: Vec<f32>| (vec![batch, length, x.len() / (batch * length)], x);
    write(&args.out, vec![("last_hidden_state", shaped(got.hidden)), ("logits", shaped(got.logits))])
}

/// Computes the hidden states and logits with all ranks, in chunks.
fn together(args: &Args, ranks: &dyn Ranks) -> Result<(), Failure> {
    if args.step || args.model.encoder()?.is_some() {
        return Err(Failure::new(
            "ranks read the chunks of a language model in turn: --step and encoders need --ranks off",
        ));
    }
    if ranks::leads() {
        check_writable(&args.out, &[&args.tokens])?;
    }
    let engine = args.model.load()?;
    ranks.agree("the model", &engine.fingerprint())?;
    ranks.agree("the instruction set", &engine.isa())?;
    if !ranks::leads() {
        engine.follow(ranks)?;
        return ranks::sent(ranks).map(drop);
    }
    let tokens = Tokens::read(&args.tokens, engine.model.decoder.vocabulary())?;
    let Tokens { input_ids, attention_mask: None, token_type_ids: None, global_attention_mask: None } = tokens else {
        let file = args.tokens.display();
        return Err(Failure::new(format!("{file}: ranks read rows without masks and types: use --ranks off")));
    };
    let (batch, length) = (input_ids.len(), input_ids[0].len());
    if let Some(longest) = engine.model.decoder.longest().filter(|longest| length > *longest) {
        return Err(too_long(&args.tokens, length, longest));
    }
    let (mut hidden, mut logits) = (Vec::new(), Vec::new());
    for row in &input_ids {
        let got = engine.evaluate_over(row, args.chunk.map_or(CHUNK, |n| n as usize), ranks)?;
        hidden.extend(got.hidden);
        logits.extend(got.logits);
    }
    engine.dismiss(ranks)?;
    let sent = ranks::sent(ranks)?;
    let shaped = |x: Vec<f32>| (vec![batch, length, x.len() / (batch * length)], x);
    write(&args.out, vec![("last_hidden_state", shaped(hidden)), ("logits", shaped(logits))])?;
    eprintln!("read {} tokens on {} ranks, sent {}", batch * length, ranks.size(), megabytes(sent));
    Ok(())
}

fn too_long(file: &Path, length: usize, longest: usize) -> Failure {
    Failure::new(format!(
        "{}: `input_ids`: {length} tokens per row, but the model reads at most {longest}",
        file.display()
    ))
}

/// Runs an encoder on the tokens and writes its outputs.
fn encode(model: &EncoderModel, args: &Args) -> Result<(), Failure> {
    let d = &model.description;
    let tokens = Tokens::read(&args.tokens, d.body.vocabulary())?;
    let (batch, length) = (tokens.input_ids.len(), tokens.input_ids[0].len());
    if let Some(longest) = d.longest.filter(|longest| length > *longest) {
        return Err(too_long(&args.tokens, length, longest));
    }
    let kinds = d.body.types().unwrap_or(0);
    if let Some(kind) = tokens.token_type_ids.iter().flatten().flatten().find(|kind| **kind as usize >= kinds.max(1)) {
        let file = args.tokens.display();
        return Err(Failure::new(format!(
            "{file}: `token_type_ids`: type {kind} is out of range: the model has {kinds} token types"
        )));
    }
    let marks = |mask: &Option<Vec<Vec<u8>>>| {
        let marks = mask.as_ref()?.concat().into_iter().map(|m| m != 0).collect();
        Array2::from_shape_vec((batch, length), marks).ok()
    };
    let own = || tokens.input_ids.iter().flat_map(|row| model.globals(row)).collect();
    let (keep, global) = (marks(&tokens.attention_mask), marks(&tokens.global_attention_mask));
    let global = global.or_else(|| Array2::from_shape_vec((batch, length), own()).ok());
    let (ids, types) = (tokens.input_ids.concat(), tokens.token_type_ids.as_ref().map(|types| types.concat()));
    let got = model.forward(&Reading {
        ids: &ids,
        batch,
        types: types.as_deref(),
        keep: keep.as_ref(),
        global: global.as_ref(),
        packed: None,
    });
    let numbers = |x: TensorData| x.try_into_vec::<f32>().unwrap_or_default();
    let mut out = vec![("last_hidden_state", (got.hidden.dims().to_vec(), numbers(got.hidden.into_data())))];
    if let Some(pooled) = got.pooled {
        out.push(("pooler_output", (pooled.dims().to_vec(), numbers(pooled.into_data()))));
    }
    if let Some(scores) = got.scores {
        let [rows, width] = scores.dims();
        let each = model.head.as_ref().is_some_and(|head| head.over() == Over::Tokens);
        let shape = if each { vec![batch, length, width] } else { vec![rows, width] };
        let scores = numbers(scores.into_data());
        if matches!(d.head, Some((Task::Question, _))) {
            for (i, name) in ["start_logits", "end_logits"].into_iter().enumerate() {
                out.push((name, (vec![batch, length], scores.iter().skip(i).step_by(2).copied().collect())));
            }
        } else {
            out.push(("logits", (shape, scores)));
        }
    }
    write(&args.out, out)
}

/// A tensor's shape and its values in row-major order.
type Shaped = (Vec<usize>, Vec<f32>);

fn write(file: &Path, tensors: Vec<(&str, Shaped)>) -> Result<(), Failure> {
    for (name, (_, numbers)) in &tensors {
        note_not_finite(name, numbers.iter());
    }
    let bytes = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let tensors: Vec<_> = tensors.into_iter().map(|(name, (shape, x))| (name, shape, bytes(&x))).collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the length of the data matches the shape"))
    });
    let bytes = safetensors::serialize(views, None::<HashMap<String, String>>)?;
    Ok(write_atomically(file, |out| out.write_all(&bytes))?)
}

/// Prints a note if an output holds NaN or infinite values.
pub(crate) fn note_not_finite<'a>(name: &str, numbers: impl ExactSizeIterator<Item = &'a f32>) {
    let all = numbers.len();
    let n = numbers.filter(|x| !x.is_finite()).count();
    if n > 0 {
        eprintln!("note: `{name}`: {n} of {all} values are NaN or infinite");
    }
}
