//! Saving and restoring sessions, bit for bit.
//!
//! A saved state is a safetensors file with the state of every layer, the logits after the last token and the set of tokens seen. Its metadata holds the
//! fingerprint of model, dtype and tokenizer, and restoring it with another is an error.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::TensorData;
use longreach_models::write_atomically;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::writer::RECENT;
use crate::{Engine, Error, Sampler, Session};

/// A restored session and the position of its sampler.
pub struct Resumed {
    /// The restored session.
    pub session: Session,
    /// Seed of the sampler that was saved with it.
    pub seed: u64,
    /// Position of that sampler in its random stream, in 32-bit words.
    pub position: u128,
}

/// The name of the format and its version.
const FORMAT: &str = "longreach state 3";
/// The previous version, which lacks the last tokens: text generated after it is decoded as if in the middle of a text.
const WITHOUT_RECENT: &str = "longreach state 2";

impl Session {
    /// Saves the session and the position of the sampler to a file, atomically. An error before the first token, or if the file cannot be written.
    pub fn save(&self, file: &Path, sampler: &Sampler) -> Result<(), Error> {
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (name, data) in self.cache.tensors() {
            let bytes = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
            tensors.push((name, Dtype::F32, data.shape().to_vec(), bytes));
        }
        let logits: Vec<u8> = self.logits()?.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push(("logits".into(), Dtype::F32, vec![self.logits.len()], logits));
        let seen: Vec<u8> = self.seen.iter().map(|s| *s as u8).collect();
        tensors.push(("seen".into(), Dtype::U8, vec![seen.len()], seen));
        let recent: Vec<u8> = self.recent.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        tensors.push(("recent".into(), Dtype::U32, vec![self.recent.ids.len()], recent));
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("the length of the data matches the shape"))
        });
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("fingerprint".to_owned(), self.engine.fingerprint()),
            ("tokens".to_owned(), self.tokens.to_string()),
            ("recent".to_owned(), if self.recent.cut { "cut" } else { "whole" }.to_owned()),
            ("seed".to_owned(), sampler.seed().to_string()),
            ("position".to_owned(), sampler.position().to_string()),
        ]);
        let wrong = |message: String| Error::State { path: file.to_owned(), message };
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| wrong(e.to_string()))?;
        Ok(write_atomically(file, |out| out.write_all(&bytes))?)
    }
}

impl Engine {
    /// Restores a saved session. An error if the file is damaged, or was saved with another model, dtype or tokenizer.
    pub fn resume(&self, file: &Path) -> Result<Resumed, Error> {
        let wrong = |message: String| Error::State { path: file.to_owned(), message };
        let bytes = std::fs::read(file).map_err(|source| Error::Io { path: file.to_owned(), source })?;
        let stored = SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("not a complete state file: {e}")))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let field = |name: &str| metadata.get(name).map(String::as_str).unwrap_or_default();
        if ![FORMAT, WITHOUT_RECENT].contains(&field("format")) {
            return Err(wrong(format!("format: want `{FORMAT}`, found `{}`", field("format"))));
        }
        if field("fingerprint") != self.fingerprint() {
            let (want, found) = (self.fingerprint(), field("fingerprint"));
            return Err(wrong(format!(
                "saved with another model, dtype or tokenizer: fingerprint: want {}…, found {}…",
                &want[..12],
                found.get(..12).unwrap_or(found)
            )));
        }
        let number =
            |name: &str| field(name).parse().map_err(|_| wrong(format!("{name}: `{}` is not a number", field(name))));
        let (tokens, seed, position): (u128, u128, u128) = (number("tokens")?, number("seed")?, number("position")?);
        let mut session = Session::new(self.clone());
        let narrow = |name: &str, n: u128| u64::try_from(n).map_err(|_| wrong(format!("{name}: out of range")));
        session.tokens = narrow("tokens", tokens)?;
        let seed = narrow("seed", seed)?;
        let of_shape = |name: &str, dtype: Dtype, shape: &[usize]| {
            let tensor = stored.tensor(name).map_err(|_| wrong(format!("tensor `{name}` is missing")))?;
            if tensor.shape() != shape || tensor.dtype() != dtype {
                let (d, s) = (tensor.dtype(), tensor.shape());
                return Err(wrong(format!("tensor `{name}`: want {dtype:?} {shape:?}, found {d:?} {s:?}")));
            }
            Ok(tensor.data().to_vec())
        };
        let floats = |name: &str, shape: &[usize]| {
            let bytes = of_shape(name, Dtype::F32, shape)?;
            Ok::<_, Error>(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>())
        };
        let read = usize::try_from(tokens).map_err(|_| wrong("tokens: out of range".into()))?;
        let get = |name: &str, want: &[Option<usize>]| {
            let tensor = stored.tensor(name).map_err(|_| format!("tensor `{name}` is missing"))?;
            let (found, dtype) = (tensor.shape(), tensor.dtype());
            let fits =
                found.len() == want.len() && found.iter().zip(want).all(|(n, want)| want.is_none_or(|w| w == *n));
            if !fits || dtype != Dtype::F32 {
                let want: Vec<String> = want.iter().map(|n| n.map_or("any".into(), |n| n.to_string())).collect();
                return Err(format!("tensor `{name}`: want F32 [{}], found {dtype:?} {found:?}", want.join(", ")));
            }
            let numbers: Vec<f32> = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            Ok(TensorData::new(numbers, found.to_vec()))
        };
        session.cache = session.cache.restored(read, get).map_err(wrong)?;
        session.logits = floats("logits", &[session.seen.len()])?;
        session.seen = of_shape("seen", Dtype::U8, &[session.seen.len()])?.into_iter().map(|s| s != 0).collect();
        session.recent.cut = tokens > 0 && field("recent") != "whole";
        if field("format") == FORMAT {
            let tensor = stored.tensor("recent").map_err(|_| wrong("tensor `recent` is missing".into()))?;
            let (dtype, shape) = (tensor.dtype(), tensor.shape());
            if dtype != Dtype::U32 || shape.len() != 1 || shape[0] > RECENT {
                let message = format!("tensor `recent`: want U32 [at most {RECENT}], found {dtype:?} {shape:?}");
                return Err(wrong(message));
            }
            session.recent.ids = tensor.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        }
        Ok(Resumed { session, seed, position })
    }
}
