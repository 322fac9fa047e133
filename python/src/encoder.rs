//! Encoders: vectors, hidden states and the tasks of their heads.

use std::sync::{Arc, Mutex};

use longreach_engine::{Cancel, Long, Prompt, TextEncoder};
use longreach_models::EncoderModel;
use longreach_nn::Reading;
use ndarray::{Array2, ArrayD, IxDyn};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::array::{Array, Input};
use crate::arrow::{Chunks, Table, Texts};
use crate::embedding;
use crate::error::{Failure, caught, run, work};

/// A loaded encoder. Settings that a call needs otherwise are changed on one that shares nothing with it.
#[pyclass(frozen, module = "longreach._core")]
pub(crate) struct Encoder {
    pub(crate) encoder: Arc<TextEncoder>,
    /// The hash of its files, once it was asked for.
    fingerprint: Mutex<Option<String>>,
}

/// A label or a word, and its score.
type Scored = (String, f32);

impl Encoder {
    pub(crate) fn new(encoder: Arc<TextEncoder>) -> Self {
        Self { encoder, fingerprint: Mutex::new(None) }
    }
}

#[pymethods]
impl Encoder {
    #[getter]
    fn name(&self) -> &str {
        &self.encoder.name
    }

    #[getter]
    fn dtype(&self) -> &str {
        self.encoder.model.dtype.name()
    }

    #[getter]
    fn config(&self) -> &str {
        &self.encoder.model.config
    }

    #[getter]
    fn limit(&self) -> usize {
        self.encoder.limit()
    }

    #[getter]
    fn width(&self) -> usize {
        self.encoder.width()
    }

    #[getter]
    fn late(&self) -> bool {
        self.encoder.is_late()
    }

    #[getter]
    fn normalizes(&self) -> bool {
        self.encoder.pipeline.normalizes()
    }

    /// The name of the similarity of its vectors, if the model says.
    #[getter]
    fn similarity(&self) -> Option<&'static str> {
        self.encoder.pipeline.similarity.map(longreach_engine::Similarity::name)
    }

    fn notes(&self) -> Vec<String> {
        self.encoder.notes()
    }

    fn fingerprint(&self, py: Python<'_>) -> PyResult<String> {
        run(py, || {
            let mut known = self.fingerprint.lock().unwrap_or_else(|e| e.into_inner());
            Ok(known.get_or_insert_with(|| self.encoder.fingerprint()).clone())
        })
    }

    /// The tokens of a text with the special ones around it.
    fn encode_ids(&self, py: Python<'_>, text: &str) -> PyResult<Vec<u32>> {
        run(py, || Ok(self.encoder.parts(text, "", Long::Truncate)?.remove(0).ids))
    }

    /// The text of tokens.
    fn decode(&self, py: Python<'_>, ids: Vec<u32>) -> PyResult<String> {
        run(py, || self.encoder.tokenizer().decode(&ids, true).map_err(|e| Failure::Value(e.to_string())))
    }

    /// The vectors of texts, `[texts, width]`: of a list, or of arrays of Arrow. `prompt` is a text, or the name of one of the model's if `named`; `kind` is one
    /// of query and document.
    fn vectors(
        &self,
        py: Python<'_>,
        texts: &Bound<'_, PyAny>,
        prompt: Option<&str>,
        named: Option<&str>,
        kind: Option<&str>,
        batch_tokens: usize,
    ) -> PyResult<Array> {
        let texts = Texts::of(texts)?;
        let encoder = &self.encoder;
        let cancel = Cancel::default();
        let (rows, vectors) = work(py, &cancel, || {
            let (prompt, texts) = (encoder.prompt(asked(prompt, named, kind))?, texts.all());
            Ok((texts.len(), embedding::vectors(encoder, &texts, prompt, batch_tokens, &cancel)?))
        })?;
        shaped(&[rows, encoder.width()], vectors)
    }

    /// The texts of a list, or of arrays of Arrow, as a list.
    fn texts(&self, texts: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
        Ok(Texts::of(texts)?.all().into_iter().flatten().map(str::to_owned).collect())
    }

    /// A table with a column of vectors besides, of a table of Arrow or of an array of texts.
    fn table(
        &self,
        input: &Bound<'_, PyAny>,
        column: Option<&str>,
        prompt: Option<&str>,
        named: Option<&str>,
        batch_tokens: usize,
    ) -> PyResult<Table> {
        let chunks = Chunks::of(input)?
            .ok_or_else(|| PyTypeError::new_err("embed: `input` has no `__arrow_c_stream__` or `__arrow_c_array__`"))?;
        let prompt = self.encoder.prompt(asked(prompt, named, None)).map_err(Failure::from)?.to_owned();
        caught(|| Ok(embedding::table(&self.encoder, chunks, column, prompt, batch_tokens)?))
    }

    /// The vectors of the tokens of a text, `[tokens, width]`, of a model of late interaction.
    fn token_vectors(&self, py: Python<'_>, text: &str, query: bool) -> PyResult<Array> {
        let encoder = &self.encoder;
        let vectors = work(py, &Cancel::default(), || {
            if query {
                return Ok(encoder.late_query(text)?);
            }
            let parts = encoder.late_parts(text, Long::Truncate)?;
            Ok(encoder.late_documents(&parts.iter().collect::<Vec<_>>())?.concat())
        })?;
        let width = encoder.width().max(1);
        shaped(&[vectors.len() / width, width], vectors)
    }

    fn classify(&self, py: Python<'_>, text: &str) -> PyResult<Vec<Scored>> {
        let scored = work(py, &Cancel::default(), || Ok(self.encoder.classify(text)?))?;
        Ok(scored.into_iter().map(|scored| (scored.label, scored.score)).collect())
    }

    /// The scores of a pair of texts: natural-language inference, and rerankers.
    fn classify_pair(&self, py: Python<'_>, first: &str, second: &str) -> PyResult<Vec<Scored>> {
        let (scored, _) = work(py, &Cancel::default(), || Ok(self.encoder.classify_pair(first, second)?))?;
        Ok(scored.into_iter().map(|scored| (scored.label, scored.score)).collect())
    }

    /// Named entities: label, score, and where they begin and end in characters.
    fn entities(&self, py: Python<'_>, text: &str) -> PyResult<Vec<(String, f32, usize, usize)>> {
        let found = work(py, &Cancel::default(), || Ok(self.encoder.entities(text)?))?;
        let place = |at| characters(text, at);
        Ok(found.into_iter().map(|e| (e.label, e.score, place(e.bytes.start), place(e.bytes.end))).collect())
    }

    /// For each mask, the most probable words: word, token, probability.
    fn fill_mask(&self, py: Python<'_>, text: &str, n: usize) -> PyResult<Vec<Vec<(String, u32, f32)>>> {
        let filled = work(py, &Cancel::default(), || Ok(self.encoder.fill(text, n)?))?;
        Ok(filled.into_iter().map(|one| one.into_iter().map(|f| (f.word, f.id, f.score)).collect()).collect())
    }

    /// Answers to a question: score, and where they begin and end in characters.
    fn answer(&self, py: Python<'_>, question: &str, text: &str, n: usize) -> PyResult<Vec<(f32, usize, usize)>> {
        let found = work(py, &Cancel::default(), || Ok(self.encoder.answer(question, text, n, MOST, OVERLAP)?))?;
        let place = |at| characters(text, at);
        Ok(found.into_iter().map(|a| (a.score, place(a.bytes.start), place(a.bytes.end))).collect())
    }

    /// The last hidden states of rows of tokens, `[rows, tokens, d]`, and the pooled output if the model has one. Masks are 0 at padding, and 1 at tokens that
    /// see all.
    fn hidden(
        &self,
        py: Python<'_>,
        ids: Vec<Vec<u32>>,
        types: Option<Vec<Vec<u32>>>,
        keep: Option<Bound<'_, PyAny>>,
        global: Option<Bound<'_, PyAny>>,
    ) -> PyResult<(Array, Option<Array>)> {
        let model = &self.encoder.model;
        let [rows, length] = checked(model, &ids, types.as_deref())?;
        let keep = keep.map(|mask| flags("attention_mask", &mask, [rows, length])).transpose()?;
        let global = global.map(|mask| flags("global_attention_mask", &mask, [rows, length])).transpose()?;
        let own =
            || Array2::from_shape_vec((rows, length), ids.iter().flat_map(|row| model.globals(row)).collect()).ok();
        let global = global.or_else(own);
        let (flat, types) = (ids.concat(), types.map(|types| types.concat()));
        let got = work(py, &Cancel::default(), || {
            let got = model.forward(&Reading {
                ids: &flat,
                batch: rows,
                types: types.as_deref(),
                keep: keep.as_ref(),
                global: global.as_ref(),
                packed: None,
            });
            let hidden = (got.hidden.dims().to_vec(), got.hidden.into_data().iter::<f32>().collect::<Vec<_>>());
            let pooled = got.pooled.map(|x| (x.dims().to_vec(), x.into_data().iter::<f32>().collect::<Vec<_>>()));
            Ok((hidden, pooled))
        })?;
        let ((shape, hidden), pooled) = got;
        Ok((shaped(&shape, hidden)?, pooled.map(|(shape, numbers)| shaped(&shape, numbers)).transpose()?))
    }
}

/// The prompt that was asked for: a text, the name of one of the model's, or that of queries or of documents.
pub(crate) fn asked<'a>(prompt: Option<&'a str>, named: Option<&'a str>, kind: Option<&str>) -> Prompt<'a> {
    match (prompt, named, kind) {
        (Some(text), ..) => Prompt::Text(text),
        (None, Some(name), _) => Prompt::Named(name),
        (None, None, Some("query")) => Prompt::Query,
        (None, None, Some("document")) => Prompt::Document,
        (None, None, _) => Prompt::Default,
    }
}

/// The number of rows and of tokens in each. Errors if rows differ in length, and if a token or a type is out of range.
fn checked(model: &EncoderModel, ids: &[Vec<u32>], types: Option<&[Vec<u32>]>) -> PyResult<[usize; 2]> {
    let (rows, length) = (ids.len(), ids.first().map_or(0, Vec::len));
    let wrong = |message: String| PyErr::from(Failure::Value(message));
    if length == 0 || ids.iter().any(|row| row.len() != length) {
        let found: Vec<usize> = ids.iter().map(Vec::len).collect();
        return Err(wrong(format!("`input_ids`: want rows of the same length, at least 1, found {found:?}")));
    }
    if let Some(longest) = model.description.longest.filter(|longest| length > *longest) {
        return Err(wrong(format!("`input_ids`: {length} tokens a row, but the model reads at most {longest}")));
    }
    let within = |name: &str, ids: &[Vec<u32>], most: usize| match ids.iter().flatten().find(|id| **id as usize >= most)
    {
        Some(id) => Err(wrong(format!("`{name}`: {id} is out of range: the model has {most}"))),
        None => Ok(()),
    };
    within("input_ids", ids, model.description.body.vocabulary())?;
    if let Some(types) = types {
        within("token_type_ids", types, model.description.body.types().unwrap_or(0).max(1))?;
        if types.len() != rows || types.iter().any(|row| row.len() != length) {
            return Err(wrong(format!("`token_type_ids`: want {rows} rows of {length}")));
        }
    }
    Ok([rows, length])
}

/// The longest answer, and how far windows of a long text overlap, in tokens.
const MOST: usize = 30;
const OVERLAP: usize = 128;

/// The number of characters before a byte of a text: Python counts these.
fn characters(text: &str, byte: usize) -> usize {
    text.char_indices().take_while(|(at, _)| *at < byte).count()
}

fn shaped(shape: &[usize], numbers: Vec<f32>) -> PyResult<Array> {
    let array = ArrayD::from_shape_vec(IxDyn(shape), numbers).map_err(|e| PyValueError::new_err(e.to_string()))?;
    Ok(array.into())
}

/// A mask of this shape.
fn flags(name: &str, mask: &Bound<'_, PyAny>, shape: [usize; 2]) -> PyResult<Array2<bool>> {
    let given = Input::of(name, mask)?;
    let numbers = given.floats()?;
    if numbers.view().shape() != shape {
        let found = numbers.view().shape().to_vec();
        return Err(PyValueError::new_err(format!("`{name}` has shape {found:?}, want {shape:?}")));
    }
    let flags = numbers.view().mapv(|x| x != 0.0).into_dimensionality();
    flags.map_err(|e| PyValueError::new_err(e.to_string()))
}
