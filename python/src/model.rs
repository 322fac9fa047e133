//! Language models: loading, tokens, scores and logits.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use longreach_engine::{CHUNK, Cancel, Engine, TextEncoder};
use longreach_models::{DType, Location, Progress};
use ndarray::{ArrayD, IxDyn};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::array::Array;
use crate::encoder::Encoder;
use crate::error::{Failure, run, work};
use crate::session::Session;

/// A loaded language model.
#[pyclass(frozen, module = "longreach._core")]
pub(crate) struct Model {
    pub(crate) engine: Engine,
}

/// Loads a language model or an encoder.
#[pyfunction]
pub(crate) fn load(py: Python<'_>, name: Option<OsString>, dtype: Option<&str>, progress: bool) -> PyResult<Py<PyAny>> {
    let dtype = dtype.map(dtype_of).transpose()?;
    let shown = if progress { Progress::Shown } else { Progress::Hidden };
    let Some(name) = name else {
        let engine = work(py, &Cancel::default(), || Ok(Engine::embedded(dtype)?))?;
        return Ok(Py::new(py, Model { engine })?.into_any());
    };
    enum Loaded {
        Model(Engine),
        Encoder(Arc<TextEncoder>),
    }
    let loaded = work(py, &Cancel::default(), || {
        let at = Location::find(&name, shown)?;
        if TextEncoder::is_at(&at)? {
            return Ok(Loaded::Encoder(Arc::new(TextEncoder::load(&name, dtype, shown)?)));
        }
        Ok(Loaded::Model(Engine::load(&name, dtype, shown)?))
    })?;
    Ok(match loaded {
        Loaded::Model(engine) => Py::new(py, Model { engine })?.into_any(),
        Loaded::Encoder(encoder) => Py::new(py, Encoder::new(encoder))?.into_any(),
    })
}

fn dtype_of(name: &str) -> PyResult<DType> {
    let known = [DType::F32, DType::Bf16, DType::Int8];
    known
        .into_iter()
        .find(|dtype| dtype.name() == name)
        .ok_or_else(|| PyValueError::new_err(format!("load: `dtype` is {name:?}, want one of float32, bfloat16, int8")))
}

#[pymethods]
impl Model {
    #[getter]
    fn name(&self) -> &str {
        &self.engine.name
    }

    #[getter]
    fn dtype(&self) -> &str {
        self.engine.model.dtype.name()
    }

    #[getter]
    fn parameters(&self) -> usize {
        self.engine.model.parameters()
    }

    #[getter]
    fn vocabulary(&self) -> usize {
        self.engine.model.decoder.vocabulary()
    }

    #[getter]
    fn longest(&self) -> Option<usize> {
        self.engine.longest()
    }

    /// The configuration, as JSON.
    #[getter]
    fn config(&self) -> &str {
        &self.engine.model.config
    }

    /// The end-of-text tokens.
    #[getter]
    fn eos(&self) -> Vec<u32> {
        self.engine.model.description.eos.clone()
    }

    /// The most tokens of a text, if the model says so, whether it samples, and the strings that end a text.
    fn defaults(&self) -> (Option<usize>, Option<bool>, Vec<String>) {
        let config = &self.engine.model.generation;
        (config.max_new_tokens, config.sample, config.stops.clone())
    }

    fn notes(&self) -> Vec<String> {
        self.engine.model.notes()
    }

    fn fingerprint(&self, py: Python<'_>) -> PyResult<String> {
        run(py, || Ok(self.engine.fingerprint()))
    }

    fn session(&self) -> Session {
        Session::new(self.engine.session())
    }

    fn resume(&self, py: Python<'_>, path: PathBuf) -> PyResult<Session> {
        let resumed = run(py, || Ok(self.engine.resume(&path)?))?;
        Ok(Session::resumed(resumed))
    }

    fn resume_bytes(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<Session> {
        let resumed = run(py, || Ok(self.engine.resume_from(bytes, "the saved state".as_ref())?))?;
        Ok(Session::resumed(resumed))
    }

    /// The tokens of a text, with the special ones that the tokenizer adds around every text if `special`.
    fn encode(&self, py: Python<'_>, text: &str, special: bool) -> PyResult<Vec<u32>> {
        run(py, || {
            let tokenizer = self.engine.tokenizer()?;
            if !special {
                return Ok(tokenizer.encode(text)?);
            }
            let mut around = tokenizer.encode_around(text)?;
            around.ids.append(&mut around.behind);
            Ok(around.ids)
        })
    }

    /// The text of tokens, without special ones.
    fn decode(&self, py: Python<'_>, ids: Vec<u32>) -> PyResult<String> {
        run(py, || Ok(self.engine.tokenizer()?.decode(&ids)?))
    }

    /// The vocabulary entry of a token.
    fn token(&self, id: u32) -> PyResult<Option<String>> {
        Ok(self.engine.tokenizer().map_err(Failure::from)?.token(id))
    }

    /// The token of a vocabulary entry.
    fn id(&self, token: &str) -> PyResult<Option<u32>> {
        Ok(self.engine.tokenizer().map_err(Failure::from)?.id(token))
    }

    /// The negative log-likelihood in nats of each token of a text but the first, and the number of bytes that they are scored over.
    fn losses(&self, py: Python<'_>, ids: Vec<u32>) -> PyResult<Array> {
        let losses = self.each(py, &ids, CHUNK, |rows, ids, first, out: &mut Vec<f64>| {
            for (i, row) in rows.iter().enumerate() {
                if let Some(id) = ids.get(first + i + 1) {
                    out.push(nll(row, *id));
                }
            }
        })?;
        let n = losses.len();
        Ok(ArrayD::from_shape_vec(IxDyn(&[n]), losses).map_err(|e| PyValueError::new_err(e.to_string()))?.into())
    }

    /// The logits after every token, `[tokens, vocabulary]`.
    fn logits(&self, py: Python<'_>, ids: Vec<u32>, chunk: usize) -> PyResult<Array> {
        let logits = self.each(py, &ids, chunk, |rows, _, _, out: &mut Vec<f32>| {
            rows.iter().for_each(|row| out.extend_from_slice(row))
        })?;
        let shape = [ids.len(), self.engine.model.decoder.vocabulary()];
        let wrong = |e: ndarray::ShapeError| PyValueError::new_err(e.to_string());
        Ok(ArrayD::from_shape_vec(IxDyn(&shape), logits).map_err(wrong)?.into())
    }

    /// The hidden states after the last norm, `[tokens, d]`.
    fn hidden(&self, py: Python<'_>, ids: Vec<u32>, chunk: usize) -> PyResult<Array> {
        self.known(&ids)?;
        let cancel = Cancel::default();
        let (numbers, width) = work(py, &cancel, || {
            let decoder = &self.engine.model.decoder;
            let mut cache = decoder.start(1);
            let (mut numbers, mut width) = (Vec::new(), 0);
            for piece in ids.chunks(chunk.max(1)) {
                let hidden = self.engine.run(|| decoder.forward(piece, &mut cache, None));
                width = hidden.dims()[2];
                numbers.extend(hidden.into_data().iter::<f32>());
                heed(&cancel)?;
            }
            Ok((numbers, width))
        })?;
        let wrong = |e: ndarray::ShapeError| PyValueError::new_err(e.to_string());
        Ok(ArrayD::from_shape_vec(IxDyn(&[ids.len(), width]), numbers).map_err(wrong)?.into())
    }
}

/// Rows of logits that are computed together.
const ROWS: usize = 64;

impl Model {
    /// Errors if a token is out of range, there is none, or there are more than the model can read.
    fn known(&self, ids: &[u32]) -> PyResult<()> {
        let vocabulary = self.engine.model.decoder.vocabulary();
        let failed = |error: longreach_engine::Error| Err(PyErr::from(Failure::from(error)));
        if let Some(&id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return failed(longreach_engine::Error::Token { id, vocabulary });
        }
        match self.engine.longest().filter(|longest| ids.len() > *longest) {
            Some(longest) => failed(longreach_engine::Error::Untrained { found: ids.len() as u64, longest }),
            None if ids.is_empty() => failed(longreach_engine::Error::Empty("the tokens".into())),
            None => Ok(()),
        }
    }

    /// Calls `of` with the logits after some tokens at a time, all tokens, and the number of the first of them.
    fn each<T: Send>(
        &self,
        py: Python<'_>,
        ids: &[u32],
        chunk: usize,
        of: impl Fn(&[&[f32]], &[u32], usize, &mut Vec<T>) + Sync,
    ) -> PyResult<Vec<T>> {
        self.known(ids)?;
        let cancel = Cancel::default();
        work(py, &cancel, || {
            let decoder = &self.engine.model.decoder;
            let mut cache = decoder.start(1);
            let (mut out, mut read) = (Vec::new(), 0);
            for piece in ids.chunks(chunk.max(1)) {
                let hidden = self.engine.run(|| decoder.forward(piece, &mut cache, None));
                for from in (0..piece.len()).step_by(ROWS) {
                    let rows = ROWS.min(piece.len() - from);
                    let logits = self.engine.run(|| decoder.logits(hidden.clone().narrow(1, from, rows)).into_data());
                    let logits: Vec<f32> = logits.iter::<f32>().collect();
                    let rows: Vec<&[f32]> = logits.chunks(decoder.vocabulary().max(1)).collect();
                    of(&rows, ids, read + from, &mut out);
                    heed(&cancel)?;
                }
                read += piece.len();
            }
            Ok(out)
        })
    }
}

/// The negative log-likelihood of a token under logits, in nats.
fn nll(logits: &[f32], id: u32) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |most, x| most.max(*x));
    let sum: f64 = logits.iter().map(|x| f64::from(*x - most).exp()).sum();
    f64::from(most) + sum.ln() - f64::from(logits[id as usize])
}

pub(crate) fn heed(cancel: &Cancel) -> Result<(), Failure> {
    if cancel.is_cancelled() { Err(Failure::Interrupted) } else { Ok(()) }
}
