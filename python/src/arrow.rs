//! Arrays and tables of Arrow in and out, without a copy, by its capsules: what pyarrow, polars, DuckDB and pandas speak.
//!
//! Protocol: the Arrow PyCapsule interface. A capsule holds the address of a structure of the C data or C stream interface.
#![expect(unsafe_code, reason = "capsules hold addresses, and what lies there cannot be checked")]

use std::ffi::CStr;
use std::sync::Mutex;

use arrow_array::cast::AsArray;
use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi_and_data_type};
use arrow_array::ffi_stream::{ArrayStreamReader, FFI_ArrowArrayStream};
use arrow_array::{Array, ArrayReader, ArrayRef, RecordBatchReader, make_array};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};

/// The names of the capsules.
const STREAM: &CStr = c"arrow_array_stream";
const ARRAY: &CStr = c"arrow_array";
const SCHEMA: &CStr = c"arrow_schema";

/// Arrays of one type that another library has, read one after another.
pub(crate) struct Chunks {
    /// The type, and the name if there is one.
    pub(crate) field: Field,
    arrays: Box<dyn Iterator<Item = Result<ArrayRef, ArrowError>> + Send>,
}

impl Iterator for Chunks {
    type Item = Result<ArrayRef, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.arrays.next()
    }
}

impl Chunks {
    /// Those of an object that has `__arrow_c_stream__` or `__arrow_c_array__`; `None` if it has neither.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        if object.hasattr("__arrow_c_stream__")? {
            let capsule = object.call_method0("__arrow_c_stream__")?;
            let at = capsule.cast::<PyCapsule>()?.pointer_checked(Some(STREAM))?.cast::<FFI_ArrowArrayStream>();
            // SAFETY: a capsule of this name holds such a structure, which is moved out and marked as released.
            let reader = unsafe { ArrayStreamReader::from_raw(at.as_ptr()) }.map_err(wrong)?;
            return Ok(Some(Self { field: reader.field().as_ref().clone(), arrays: Box::new(reader) }));
        }
        if object.hasattr("__arrow_c_array__")? {
            let both = object.call_method0("__arrow_c_array__")?;
            let both = both.cast::<PyTuple>()?;
            let (schema, array) = (both.get_item(0)?, both.get_item(1)?);
            let schema = schema.cast::<PyCapsule>()?.pointer_checked(Some(SCHEMA))?.cast::<FFI_ArrowSchema>();
            let array = array.cast::<PyCapsule>()?.pointer_checked(Some(ARRAY))?.cast::<FFI_ArrowArray>();
            // SAFETY: capsules of these names hold such structures, and live until the end of this block. The array is moved
            // out and marked as released, and its producer says that it is of the type of the schema.
            let (field, array) = unsafe {
                let field = Field::try_from(schema.as_ref()).map_err(wrong)?;
                let array = FFI_ArrowArray::from_raw(array.as_ptr());
                (field.clone(), from_ffi_and_data_type(array, field.data_type().clone()).map_err(wrong)?)
            };
            return Ok(Some(Self { field, arrays: Box::new(std::iter::once(Ok(make_array(array)))) }));
        }
        Ok(None)
    }
}

pub(crate) fn wrong(error: ArrowError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Whether arrays of a type are texts.
pub(crate) fn holds_texts(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The texts of an array, where they lie; none if it is not one of texts.
pub(crate) fn texts(array: &dyn Array) -> Vec<Option<&str>> {
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().collect(),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().collect(),
        DataType::Utf8View => array.as_string_view().iter().collect(),
        _ => Vec::new(),
    }
}

/// Texts of Python: a list of strings, or arrays of Arrow, whose characters are read where they lie.
pub(crate) enum Texts {
    List(Vec<String>),
    Arrow(Vec<ArrayRef>),
}

impl Texts {
    /// The texts of an object. Errors if it is another thing, or a text is missing.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let Some(chunks) = Chunks::of(object)? else {
            return Ok(Self::List(object.extract()?));
        };
        let kind = chunks.field.data_type().clone();
        if !holds_texts(&kind) {
            return Err(PyTypeError::new_err(format!("`texts` is of the type {kind}, want strings")));
        }
        let arrays = object.py().detach(|| chunks.collect::<Result<Vec<_>, _>>()).map_err(wrong)?;
        let mut before = 0;
        for array in &arrays {
            if let Some(row) = (0..array.len()).find(|row| array.is_null(*row)) {
                return Err(PyValueError::new_err(format!("`texts`: text {} is null", before + row)));
            }
            before += array.len();
        }
        Ok(Self::Arrow(arrays))
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Option<&str>> {
        match self {
            Self::List(list) => list.iter().map(|text| Some(text.as_str())).collect(),
            Self::Arrow(arrays) => arrays.iter().flat_map(|array| texts(array)).collect(),
        }
    }
}

/// A table that is computed while it is read, once.
#[pyclass(frozen, module = "longreach._core")]
pub(crate) struct Table {
    schema: SchemaRef,
    reader: Mutex<Option<Box<dyn RecordBatchReader + Send>>>,
}

impl Table {
    pub(crate) fn new(reader: Box<dyn RecordBatchReader + Send>) -> Self {
        Self { schema: reader.schema(), reader: Mutex::new(Some(reader)) }
    }
}

#[pymethods]
impl Table {
    /// The names of the columns.
    #[getter]
    fn columns(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema = FFI_ArrowSchema::try_from(self.schema.as_ref()).map_err(wrong)?;
        PyCapsule::new_with_value(py, schema, SCHEMA)
    }

    /// `requested_schema` may be ignored, as the protocol says.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        let reader = self.reader.lock().unwrap_or_else(|e| e.into_inner()).take();
        let reader = reader.ok_or_else(|| PyValueError::new_err("this table was read already: make it again"))?;
        PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(reader), STREAM)
    }
}
