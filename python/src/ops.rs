//! Mechanisms by name: the functions of `longreach.ops` are made of their signatures.

use longreach_attention::operation::{Argument, Named, Sample, Tensors, named};
use longreach_attention::{Form, MECHANISMS};
use ndarray::ArrayD;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use serde_json::Value;

use crate::array::{Array, Input, Kind};
use crate::error::{Failure, caught, run};

/// The names of all mechanisms.
#[pyfunction]
pub(crate) fn names() -> Vec<&'static str> {
    MECHANISMS.iter().map(|mechanism| mechanism.name).collect()
}

/// The description of a mechanism, as JSON.
#[pyfunction]
pub(crate) fn describe(name: &str) -> PyResult<String> {
    let described = longreach_cli::describe(name).map_err(|e| PyErr::from(Failure::from(e)))?;
    Ok(described.to_string())
}

/// Runs a form of a mechanism and returns its outputs by name.
#[pyfunction]
pub(crate) fn forward(
    py: Python<'_>,
    name: &str,
    inputs: Vec<(String, Bound<'_, PyAny>)>,
    parameters: &str,
    form: &str,
    heads_first: bool,
) -> PyResult<Vec<(String, Array)>> {
    let call = caught(|| Ok(Call::of(name, inputs, parameters, heads_first)?))?;
    let form = form_of(name, form)?;
    call.only_floats_of_32_bits(form)?;
    call.results(py, |call| call.operation.forward(&call.tensors, &call.parameters, form, &longreach_burn::context()))
}

/// The gradients of a mechanism, `d` and the name of the input each; `inputs` include those of outputs.
#[pyfunction]
pub(crate) fn backward(
    py: Python<'_>,
    name: &str,
    inputs: Vec<(String, Bound<'_, PyAny>)>,
    parameters: &str,
    heads_first: bool,
) -> PyResult<Vec<(String, Array)>> {
    let call = caught(|| Ok(Call::of(name, inputs, parameters, heads_first)?))?;
    call.only_floats_of_32_bits(Form::Chunk)?;
    call.results(py, |call| call.operation.backward(&call.tensors, &call.parameters, &longreach_burn::context()))
}

/// The outputs that the gradient reads if it is given them.
#[pyfunction]
pub(crate) fn saved(name: &str) -> PyResult<Vec<&'static str>> {
    named(name).map_err(|e| PyErr::from(Failure::from(e)))?;
    Ok(Vec::new())
}

/// Random inputs of a mechanism, for tests: the same on every machine.
#[pyfunction]
pub(crate) fn _sample(name: &str, sizes: [usize; 4], seed: u64, more: Vec<String>) -> PyResult<Vec<(String, Array)>> {
    let operation = named(name).map_err(|e| PyErr::from(Failure::from(e)))?;
    let [batch, tokens, heads, width] = sizes;
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let tensors = operation.sample_with(&Sample { batch, tokens, heads, width, seed }, &more);
    Ok(tensors.into_iter().map(|(name, array)| (name, Array::from(array))).collect())
}

/// The address at which a kernel would read a tensor.
#[pyfunction]
pub(crate) fn data_ptr(tensor: &Bound<'_, PyAny>) -> PyResult<usize> {
    Input::of("tensor", tensor)?.address()
}

/// Panics, for tests.
#[pyfunction]
pub(crate) fn _panic(py: Python<'_>) -> PyResult<()> {
    run(py, || panic!("on purpose"))
}

/// Keeps this thread at work without the interpreter's lock, for tests.
#[pyfunction]
pub(crate) fn _work(py: Python<'_>, milliseconds: u64) -> PyResult<()> {
    run(py, || {
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        Ok(())
    })
}

struct Call {
    operation: Named,
    tensors: Tensors,
    parameters: Value,
    wide: Option<String>,
    heads_first: bool,
}

impl Call {
    fn of(
        name: &str,
        inputs: Vec<(String, Bound<'_, PyAny>)>,
        parameters: &str,
        heads_first: bool,
    ) -> PyResult<Self> {
        let operation = named(name).map_err(|e| PyErr::from(Failure::from(e)))?;
        let parameters = serde_json::from_str(parameters).map_err(|e| PyValueError::new_err(e.to_string()))?;
        let signature = operation.signature();
        let mut tensors = Tensors::new();
        let mut wide = None;
        for (input, object) in inputs {
            let given = Input::of(&input, &object)?;
            if given.kind() == Kind::F64 {
                wide.get_or_insert_with(|| given.name().to_owned());
            }
            let mut array = given.floats()?.view().to_owned();
            let of_output = input.strip_prefix('d').and_then(|name| signature.outputs.iter().find(|o| o.name == name));
            let argument = signature.inputs.iter().find(|a| a.name == input).or(of_output);
            if heads_first && argument.is_some_and(|argument| per_head(argument, array.ndim())) {
                array.swap_axes(1, 2);
            }
            tensors.insert(input, array.as_standard_layout().into_owned());
        }
        Ok(Self { operation, tensors, parameters, wide, heads_first })
    }

    /// An error if a tensor holds 64-bit floats, which only the definition computes with.
    fn only_floats_of_32_bits(&self, form: Form) -> PyResult<()> {
        match &self.wide {
            Some(input) if form != Form::Naive => Err(PyTypeError::new_err(format!(
                "{}: `{input}` is float64; kernels compute in float32: cast it, or use form='naive'",
                self.operation.name()
            ))),
            _ => Ok(()),
        }
    }

    fn results(
        self,
        py: Python<'_>,
        f: impl FnOnce(&Self) -> Result<Tensors, longreach_attention::Error> + Send,
    ) -> PyResult<Vec<(String, Array)>> {
        let results = run(py, || Ok(f(&self)?))?;
        let signature = self.operation.signature();
        let argument = |name: &str| {
            let of_input = name.strip_prefix('d').unwrap_or(name);
            let output = signature.outputs.iter().find(|a| a.name == name);
            output.or_else(|| signature.inputs.iter().find(|a| a.name == of_input)).copied()
        };
        let turned = |name: String, mut array: ArrayD<f32>| {
            if self.heads_first && argument(&name).is_some_and(|argument| per_head(&argument, array.ndim())) {
                array.swap_axes(1, 2);
            }
            (name, Array::from(array))
        };
        caught(|| Ok(results.into_iter().map(|(name, array)| turned(name, array)).collect()))
    }
}

/// Whether the axes of a tensor begin with batch, token, head: those that `[batch, heads, seq, …]` swaps.
fn per_head(argument: &Argument, axes: usize) -> bool {
    let token = matches!(argument.axes.get(1), Some(&("T" | "S")));
    let head = matches!(argument.axes.get(2), Some(&("H" | "G" | "H or 1")));
    token && head && axes == argument.axes.len()
}

fn form_of(name: &str, form: &str) -> PyResult<Form> {
    let all = [Form::Naive, Form::Chunk, Form::Recurrent, Form::Step];
    all.into_iter().find(|known| known.name() == form).ok_or_else(|| {
        PyValueError::new_err(format!("{name}: `form` is {form:?}, want one of naive, chunk, recurrent, step"))
    })
}
