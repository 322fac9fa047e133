//! Sessions: a text being read and generated, which one thread works on at a time.

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use longreach_engine::{Cancel, Resumed, Sampler, Sampling, Stops, Writer};
use ndarray::{ArrayD, IxDyn};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::array::Array;
use crate::error::{Failure, run, work};

/// A text that a model reads and continues.
#[pyclass(frozen, module = "longreach._core")]
pub(crate) struct Session {
    text: Arc<Mutex<Text>>,
}

/// A session, and where the random numbers that continue it are.
#[derive(Clone)]
struct Text {
    session: longreach_engine::Session,
    seed: u64,
    position: u128,
}

impl Session {
    pub(crate) fn new(session: longreach_engine::Session) -> Self {
        Self::of(Text { session, seed: 0, position: 0 })
    }

    pub(crate) fn resumed(resumed: Resumed) -> Self {
        Self::of(Text { session: resumed.session, seed: resumed.seed, position: resumed.position })
    }

    fn of(text: Text) -> Self {
        Self { text: Arc::new(Mutex::new(text)) }
    }
}

/// The text, if no other thread works on it.
fn taken(text: &Mutex<Text>) -> Result<MutexGuard<'_, Text>, Failure> {
    match text.try_lock() {
        Ok(text) => Ok(text),
        Err(TryLockError::Poisoned(text)) => Ok(text.into_inner()),
        Err(TryLockError::WouldBlock) => {
            Err(PyRuntimeError::new_err("this session is at work in another thread").into())
        }
    }
}

impl Text {
    /// The sampler that continues the random numbers of the session, or begins those of `seed`.
    fn sampler(&self, mut sampling: Sampling, seed: Option<u64>) -> Result<Sampler, Failure> {
        sampling.seed = seed.unwrap_or(self.seed);
        let mut sampler = Sampler::new(sampling)?;
        if seed.is_none() {
            sampler.set_position(self.position);
        }
        Ok(sampler)
    }

    fn note(&mut self, sampler: &Sampler) {
        (self.seed, self.position) = (sampler.seed(), sampler.position());
    }

    /// Reads with a flag that ends it.
    fn read(
        &mut self,
        cancel: &Cancel,
        f: impl FnOnce(&mut longreach_engine::Session) -> Result<(), longreach_engine::Error>,
    ) -> Result<(), Failure> {
        self.session.set_cancel(cancel.clone());
        let result = f(&mut self.session);
        self.session.set_cancel(Cancel::default());
        Ok(result?)
    }
}

#[pymethods]
impl Session {
    fn read_text(&self, py: Python<'_>, text: &str) -> PyResult<()> {
        let cancel = Cancel::default();
        work(py, &cancel, || taken(&self.text)?.read(&cancel, |session| session.read_text(text)))
    }

    fn read_ids(&self, py: Python<'_>, ids: Vec<u32>) -> PyResult<()> {
        let cancel = Cancel::default();
        work(py, &cancel, || taken(&self.text)?.read(&cancel, |session| session.read(&ids)))
    }

    /// Reads an open text file in constant memory.
    fn read_file(&self, py: Python<'_>, file: Py<PyAny>, name: &str) -> PyResult<()> {
        let cancel = Cancel::default();
        let mut failed = None;
        let reader = File { file, rest: Vec::new(), failed: &mut failed };
        let result =
            work(py, &cancel, || taken(&self.text)?.read(&cancel, |session| session.read_from(reader, name, |_| {})));
        match failed {
            Some(error) => Err(error),
            None => result,
        }
    }

    /// Reads what stands before every text.
    fn read_start(&self, py: Python<'_>) -> PyResult<()> {
        let cancel = Cancel::default();
        work(py, &cancel, || taken(&self.text)?.read(&cancel, longreach_engine::Session::read_start))
    }

    /// Samples the next token and reads it.
    fn next_token(&self, py: Python<'_>, options: &Bound<'_, PyDict>) -> PyResult<u32> {
        let options = Options::of(options)?;
        let cancel = Cancel::default();
        work(py, &cancel, || {
            let mut text = taken(&self.text)?;
            let (sampling, seed) = options.over(&text.session);
            let mut sampler = text.sampler(sampling, seed)?;
            let id = text.session.next_token(&mut sampler)?;
            text.note(&sampler);
            Ok(id)
        })
    }

    /// An iterator over the text of up to `most` tokens; it ends before a string of `stop`, and at an end-of-text token unless `ignore_eos`.
    fn stream(
        &self,
        most: usize,
        stop: Vec<String>,
        ignore_eos: bool,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<Stream> {
        if stop.iter().any(String::is_empty) {
            return Err(PyValueError::new_err("stop: a text is empty"));
        }
        let options = Options::of(options)?;
        let text = taken(&self.text)?;
        text.session.logits().map_err(Failure::from)?;
        let (sampling, seed) = options.over(&text.session);
        let sampler = text.sampler(sampling, seed)?;
        let writer = text.session.writer().map_err(Failure::from)?;
        drop(text);
        let going = Going { sampler, writer, stops: Stops::new(stop), left: most, ignore_eos, ended: false };
        Ok(Stream { text: Arc::clone(&self.text), going: Mutex::new(going) })
    }

    /// The logits after the last token, `[vocabulary]`.
    fn logits(&self) -> PyResult<Array> {
        let text = taken(&self.text)?;
        let logits = text.session.logits().map_err(Failure::from)?.to_vec();
        let wrong = |e: ndarray::ShapeError| PyValueError::new_err(e.to_string());
        Ok(ArrayD::from_shape_vec(IxDyn(&[logits.len()]), logits).map_err(wrong)?.into())
    }

    #[getter]
    fn tokens(&self) -> PyResult<u64> {
        Ok(taken(&self.text)?.session.tokens())
    }

    #[getter]
    fn state_bytes(&self) -> PyResult<usize> {
        Ok(taken(&self.text)?.session.state_bytes())
    }

    fn fork(&self) -> PyResult<Self> {
        Ok(Self::of(taken(&self.text)?.clone()))
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        run(py, || {
            let text = taken(&self.text)?;
            let sampler = text.sampler(Sampling::default(), None)?;
            Ok(text.session.save(&path, &sampler)?)
        })
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = run(py, || {
            let text = taken(&self.text)?;
            let sampler = text.sampler(Sampling::default(), None)?;
            let mut bytes = Vec::new();
            text.session.save_to(&mut bytes, &sampler)?;
            Ok(bytes)
        })?;
        Ok(PyBytes::new(py, &bytes))
    }
}

/// Text that is being generated.
#[pyclass(frozen, module = "longreach._core")]
pub(crate) struct Stream {
    text: Arc<Mutex<Text>>,
    going: Mutex<Going>,
}

struct Going {
    sampler: Sampler,
    writer: Writer,
    stops: Stops,
    left: usize,
    ignore_eos: bool,
    ended: bool,
}

impl Going {
    /// Generates tokens until some text is final; `None` at the end.
    fn next(&mut self, text: &mut Text, cancel: &Cancel) -> Result<Option<String>, Failure> {
        while !self.ended {
            if cancel.is_cancelled() {
                return Err(Failure::Interrupted);
            }
            if self.left == 0 || text.session.room() == Some(0) {
                break;
            }
            let id = text.session.next_token(&mut self.sampler)?;
            text.note(&self.sampler);
            self.left -= 1;
            if !self.ignore_eos && text.ends(id) {
                break;
            }
            let piece = self.stops.push(&self.writer.text(id)?);
            self.ended = self.stops.found();
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        if self.ended {
            return Ok(None);
        }
        self.ended = true;
        let rest = self.stops.push(&self.writer.rest()?) + &self.stops.rest();
        Ok((!rest.is_empty()).then_some(rest))
    }
}

impl Text {
    fn ends(&self, id: u32) -> bool {
        self.session.engine().model.description.eos.contains(&id)
    }
}

#[pymethods]
impl Stream {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let cancel = Cancel::default();
        work(py, &cancel, || {
            let mut text = taken(&self.text)?;
            let mut going = self.going.lock().unwrap_or_else(|e| e.into_inner());
            going.next(&mut text, &cancel)
        })
    }

    /// All that is left of the text.
    fn rest(&self, py: Python<'_>) -> PyResult<String> {
        let cancel = Cancel::default();
        work(py, &cancel, || {
            let mut text = taken(&self.text)?;
            let mut going = self.going.lock().unwrap_or_else(|e| e.into_inner());
            let mut all = String::new();
            while let Some(piece) = going.next(&mut text, &cancel)? {
                all.push_str(&piece);
            }
            Ok(all)
        })
    }

    /// Ends the text.
    fn close(&self) {
        self.going.lock().unwrap_or_else(|e| e.into_inner()).ended = true;
    }
}

/// The sampling options that were given.
#[derive(Default)]
struct Options {
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Option<Vec<(u32, f32)>>,
    seed: Option<u64>,
}

impl Options {
    fn of(given: &Bound<'_, PyDict>) -> PyResult<Self> {
        let mut options = Self::default();
        for (name, value) in given {
            let name: String = name.extract()?;
            match &name[..] {
                "temperature" => options.temperature = value.extract()?,
                "top_k" => options.top_k = value.extract()?,
                "top_p" => options.top_p = value.extract()?,
                "min_p" => options.min_p = value.extract()?,
                "typical_p" => options.typical_p = value.extract()?,
                "repetition_penalty" => options.repetition_penalty = value.extract()?,
                "presence_penalty" => options.presence_penalty = value.extract()?,
                "frequency_penalty" => options.frequency_penalty = value.extract()?,
                "logit_bias" => options.logit_bias = value.extract()?,
                "seed" => options.seed = value.extract()?,
                _ => return Err(PyTypeError::new_err(format!("`{name}` is no sampling option"))),
            }
        }
        Ok(options)
    }

    /// With those of the model for the others, and the seed, if one was given.
    fn over(&self, session: &longreach_engine::Session) -> (Sampling, Option<u64>) {
        let own = Sampling::of_model(&session.engine().model.generation);
        let mut bias = own.bias.clone();
        bias.extend(self.logit_bias.iter().flatten());
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(own.temperature),
            top_k: self.top_k.unwrap_or(own.top_k),
            top_p: self.top_p.unwrap_or(own.top_p),
            min_p: self.min_p.unwrap_or(own.min_p),
            typical_p: self.typical_p.unwrap_or(own.typical_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(own.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(own.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(own.frequency_penalty),
            bias,
            ..own
        };
        (sampling, self.seed)
    }
}

/// An open text file of Python as bytes.
struct File<'a> {
    file: Py<PyAny>,
    rest: Vec<u8>,
    failed: &'a mut Option<PyErr>,
}

/// Characters that are read at a time.
const PIECE: usize = 1 << 14;

impl Read for File<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.rest.is_empty() {
            let read = Python::attach(|py| self.file.call_method1(py, "read", (PIECE,))?.extract::<String>(py));
            match read {
                Ok(text) => self.rest = text.into_bytes(),
                Err(error) => {
                    let message = error.to_string();
                    *self.failed = Some(error);
                    return Err(std::io::Error::other(message));
                }
            }
        }
        let n = out.len().min(self.rest.len());
        out[..n].copy_from_slice(&self.rest[..n]);
        self.rest.drain(..n);
        Ok(n)
    }
}
