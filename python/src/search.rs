//! Indices of passages, and questions to them.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;

use longreach_engine::{Cancel, Similarity, TextEncoder};
use longreach_models::Progress as Shown;
use longreach_search::documents::{Input, Options};
use longreach_search::index::{self, Passages};
use longreach_search::output::Existing;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::encoder::Encoder;
use crate::error::{Failure, run, work};

/// A memory-mapped index.
#[pyclass(frozen, module = "longreach._core")]
pub(crate) struct Index {
    index: index::Index,
}

/// A passage: score, row, file, where it begins and ends in bytes, its text, its fields.
type Found = (f32, u64, Option<String>, u64, u64, String, Vec<Option<String>>);

/// What is indexed, and how.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Build {
    model: OsString,
    input: OsString,
    path: PathBuf,
    column: Option<String>,
    fields: Vec<String>,
    passage: usize,
    overlap: usize,
    batch_tokens: usize,
    similarity: Option<String>,
    overwrite: bool,
}

/// Builds an index and returns the number of its passages. An interrupted build resumes when it is called again.
#[pyfunction]
pub(crate) fn build_index(py: Python<'_>, what: Build) -> PyResult<u64> {
    let similarity = what.similarity.as_deref().map(named).transpose()?;
    let cancel = Cancel::default();
    work(py, &cancel, || {
        let input = Input::of(&what.input)?;
        let options = Options { column: what.column, fields: what.fields, ..Options::default() };
        // Building lowers the input limit, so the encoder is one of its own. Its weights are mapped, and shared so.
        let mut encoder = TextEncoder::load(&what.model, None, Shown::Hidden)?;
        let passages = Passages { tokens: what.passage, overlap: what.overlap, batch: what.batch_tokens.max(1) };
        let existing = if what.overwrite { Existing::Replace } else { Existing::Refuse };
        let build = index::Build { input: &input, options: &options, passages, similarity, existing };
        let mut progress = |_: &longreach_search::job::Progress| match cancel.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        Ok(index::build(&mut encoder, &build, &what.path, &mut progress)?.rows)
    })
}

fn named(name: &str) -> PyResult<Similarity> {
    Similarity::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, similarity)| similarity).ok_or_else(|| {
        let known: Vec<&str> = Similarity::ALL.iter().map(|(name, _)| *name).collect();
        PyValueError::new_err(format!("`similarity` is {name:?}, want one of {}", known.join(", ")))
    })
}

#[pymethods]
impl Index {
    /// Opens an index and verifies its checksums.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let index = run(py, || Ok(index::Index::open(&longreach_burn::context(), &path)?))?;
        Ok(Self { index })
    }

    #[getter]
    fn passages(&self) -> u64 {
        self.index.about().passages
    }

    /// The names of the copied fields.
    #[getter]
    fn fields(&self) -> Vec<String> {
        self.index.about().fields.clone()
    }

    #[getter]
    fn model(&self) -> &str {
        &self.index.about().model
    }

    /// The passages that match a query best.
    fn query(&self, py: Python<'_>, encoder: &Encoder, text: &str, n: usize) -> PyResult<Vec<Found>> {
        let found = work(py, &Cancel::default(), || {
            let questions = self.index.with(&encoder.encoder)?;
            Ok::<_, Failure>(questions.ask(&longreach_burn::context(), text, n)?)
        })?;
        let one = |f: index::Found| (f.score, f.row, f.file, f.bytes.start, f.bytes.end, f.text, f.fields);
        Ok(found.into_iter().map(one).collect())
    }
}
