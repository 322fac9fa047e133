//! Mechanisms by name: the functions of `longreach.ops` are made of their signatures.

use longreach_attention::operation::{Argument, Kind as Type, Named, Sample, Shapes, View, Views, named};
use longreach_attention::{Error, Form, MECHANISMS};
use ndarray::{ArrayD, ArrayViewD};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use serde_json::Value;

use crate::array::{Array, Input, Kind};
use crate::error::{Failure, caught, run};

/// Tensors of a call by name.
type Given<'py> = Vec<(String, Bound<'py, PyAny>)>;

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
    inputs: Given<'_>,
    parameters: &str,
    form: &str,
    heads_first: bool,
) -> PyResult<Vec<(String, Array)>> {
    let form = form_of(name, form)?;
    let call = caught(|| Ok(Call::of(name, inputs, parameters, heads_first)?))?;
    let wide = call.inputs.iter().find(|input| input.kind() == Kind::F64);
    match wide {
        Some(_) if form == Form::Naive => {
            let exact = call.run(py, |call, views| call.operation.naive(views, &call.parameters, &context()))?;
            caught(|| Ok(exact.into_iter().map(|(name, x)| call.turned(name, x)).collect()))
        }
        Some(input) => Err(PyTypeError::new_err(format!(
            "{name}: `{}` is float64; kernels compute in float32: cast it, or use form='naive'",
            input.name()
        ))),
        None => {
            let out = call.run(py, |call, views| call.operation.forward(views, &call.parameters, form, &context()))?;
            caught(|| Ok(out.into_iter().map(|(name, x)| call.turned(name, x)).collect()))
        }
    }
}

/// Reads one token by the form `step`, changes `state` to that after it, and returns the other outputs by name.
#[pyfunction]
pub(crate) fn step_in_place(
    py: Python<'_>,
    name: &str,
    inputs: Given<'_>,
    state: &Bound<'_, PyAny>,
    parameters: &str,
) -> PyResult<Vec<(String, Array)>> {
    let call = caught(|| Ok(Call::of(name, inputs, parameters, false)?))?;
    let mut state = Input::of("state", state)?;
    let out = call.run(py, |call, views| {
        let state = state.view_mut()?;
        Ok::<_, Failure>(call.operation.forward_in_place(views, &call.parameters, Form::Step, state, &context())?)
    })?;
    caught(|| Ok(out.into_iter().map(|(name, x)| call.turned(name, x)).collect()))
}

/// The gradients of a mechanism, `d` and the name of the input each; `inputs` include those of outputs.
#[pyfunction]
pub(crate) fn backward(
    py: Python<'_>,
    name: &str,
    inputs: Given<'_>,
    parameters: &str,
    heads_first: bool,
) -> PyResult<Vec<(String, Array)>> {
    let call = caught(|| Ok(Call::of(name, inputs, parameters, heads_first)?))?;
    if let Some(input) = call.inputs.iter().find(|input| input.kind() == Kind::F64) {
        let input = input.name();
        return Err(PyTypeError::new_err(format!("{name}: `{input}` is float64; gradients are computed in float32")));
    }
    let out = call.run(py, |call, views| call.operation.backward(views, &call.parameters, &context()))?;
    caught(|| Ok(out.into_iter().map(|(name, x)| call.turned(name, x)).collect()))
}

/// The shapes of the outputs for inputs of these shapes.
#[pyfunction]
pub(crate) fn shapes(
    name: &str,
    inputs: Vec<(String, Vec<usize>)>,
    parameters: &str,
    heads_first: bool,
) -> PyResult<Vec<(String, Vec<usize>)>> {
    let call = caught(|| Ok(Call::of(name, Vec::new(), parameters, heads_first)?))?;
    let inputs: Shapes = inputs.into_iter().map(|(name, shape)| (name.clone(), call.swapped(&name, shape))).collect();
    let found = caught(|| Ok(call.operation.shapes(&inputs, &call.parameters)?))?;
    Ok(found.into_iter().map(|(name, shape)| (name.clone(), call.swapped(&name, shape))).collect())
}

/// The outputs that the gradient reads if it is given them.
#[pyfunction]
pub(crate) fn saved(name: &str) -> PyResult<Vec<&'static str>> {
    let operation = named(name).map_err(|e| PyErr::from(Failure::from(e)))?;
    Ok(operation.signature().saved.to_vec())
}

/// JSON without its comments (`//`, `#`, `/* */`), which files of DeepSpeed often have.
#[pyfunction]
pub(crate) fn without_comments(json: &str) -> String {
    longreach_attention::softmax::deepspeed::without_comments(json)
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

fn context() -> std::sync::Arc<longreach_simd::Cx> {
    longreach_burn::context()
}

/// A call: the tensors of the caller, in its order of axes.
struct Call {
    operation: Named,
    arguments: Vec<Argument>,
    inputs: Vec<Input>,
    parameters: Value,
    heads_first: bool,
}

/// A tensor that was converted.
enum Own {
    F32(ArrayD<f32>),
    I64(ArrayD<i64>),
    Bool(ArrayD<bool>),
}

impl Call {
    fn of(name: &str, inputs: Given<'_>, parameters: &str, heads_first: bool) -> PyResult<Self> {
        let operation = named(name).map_err(|e| PyErr::from(Failure::from(e)))?;
        let parameters = serde_json::from_str(parameters).map_err(|e| PyValueError::new_err(e.to_string()))?;
        let signature = operation.signature();
        let inputs = inputs.iter().map(|(name, object)| Input::of(name, object)).collect::<PyResult<_>>()?;
        let arguments = signature.inputs.into_iter().chain(signature.outputs).collect();
        Ok(Self { operation, arguments, inputs, parameters, heads_first })
    }

    /// The description of a tensor: an input, an output, or the gradient of one.
    fn argument(&self, name: &str) -> Option<&Argument> {
        let known = |name: &str| self.arguments.iter().find(|argument| argument.name == name);
        known(name).or_else(|| known(name.strip_prefix('d')?))
    }

    /// Whether a tensor has axes that `[batch, heads, seq, …]` swaps.
    fn swaps(&self, name: &str, axes: usize) -> bool {
        self.heads_first && self.argument(name).is_some_and(|argument| per_head(argument, axes))
    }

    fn swapped(&self, name: &str, mut shape: Vec<usize>) -> Vec<usize> {
        if self.swaps(name, shape.len()) {
            shape.swap(1, 2);
        }
        shape
    }

    /// A view in the order of the kernels.
    fn view<'a, T>(&self, name: &str, mut view: ArrayViewD<'a, T>) -> View<'a>
    where
        View<'a>: From<ArrayViewD<'a, T>>,
    {
        if self.swaps(name, view.ndim()) {
            view.swap_axes(1, 2);
        }
        view.into()
    }

    /// A result in the order of the caller.
    fn turned<T>(&self, name: String, mut array: ArrayD<T>) -> (String, Array)
    where
        Array: From<ArrayD<T>>,
    {
        if self.swaps(&name, array.ndim()) {
            array.swap_axes(1, 2);
        }
        (name, array.into())
    }

    /// Runs a function on views of the tensors, without the interpreter's lock.
    fn run<R: Send, E: Into<Failure>>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&Self, Views<'_>) -> Result<R, E> + Send,
    ) -> PyResult<R> {
        run(py, || {
            let own = self.inputs.iter().map(|input| self.converted(input)).collect::<PyResult<Vec<_>>>()?;
            let mut views = Views::default();
            for (input, own) in self.inputs.iter().zip(&own) {
                let name = input.name();
                let view = match own {
                    Some(Own::F32(array)) => self.view(name, array.view()),
                    Some(Own::I64(array)) => self.view(name, array.view()),
                    Some(Own::Bool(array)) => self.view(name, array.view()),
                    None => match input.kind() {
                        Kind::F64 => self.view(name, input.view::<f64>()?),
                        Kind::Bf16 => self.view(name, input.view::<half::bf16>()?),
                        Kind::I64 => self.view(name, input.view::<i64>()?),
                        _ => self.view(name, input.view::<f32>()?),
                    },
                };
                views.insert(name, view);
            }
            f(self, views).map_err(|error| self.told(error.into()))
        })
    }

    /// A copy of a tensor whose type the kernels do not read.
    fn converted(&self, input: &Input) -> PyResult<Option<Own>> {
        Ok(Some(match input.kind() {
            Kind::F16 => Own::F32(input.floats()?.view().to_owned()),
            Kind::I32 => Own::I64(input.view::<i32>()?.mapv(i64::from)),
            Kind::U8 if self.argument(input.name()).is_some_and(|argument| argument.kind == Type::Flag) => {
                Own::Bool(input.view::<u8>()?.mapv(|x| x != 0))
            }
            Kind::U8 => Own::I64(input.view::<u8>()?.mapv(i64::from)),
            Kind::F32 | Kind::F64 | Kind::Bf16 | Kind::I64 => return Ok(None),
        }))
    }

    /// An error with shapes in the order of the caller.
    fn told(&self, error: Failure) -> Failure {
        match error {
            Failure::Op(Error::Shape { op, input, want, found }) => {
                let (want, found) = (self.swapped(input, want), self.swapped(input, found));
                Failure::Op(Error::Shape { op, input, want, found })
            }
            error => error,
        }
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
