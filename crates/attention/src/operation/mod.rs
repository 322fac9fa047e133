//! Mechanisms called by name, with named tensors and JSON parameters: for a command line, a scripting language, or a
//! comparison with another implementation. A [`Named`] mechanism describes its arguments ([`Signature`]) and runs any of its
//! forms.
//!
//! Inputs are [`Views`], which are read where they are unless a kernel needs another type or layout. The outputs are
//! `o` and, where they exist, `lse` and `state` (after the last token); [`Named::naive`] returns them in f64, and
//! [`Named::shapes`] their shapes alone. The backward pass reads the gradient of each differentiable output (`do`,
//! `dlse`, `dstate`), of which only `do` is required, and returns `d` + name for each given input that is
//! differentiable; the gradient of a state is returned even if the state is absent, which means zero.
//!
//! ```
//! use longreach_attention::operation::{Sample, named};
//! use longreach_attention::Form;
//! use longreach_simd::Cx;
//!
//! let window = named("window")?;
//! let tensors = window.sample(&Sample { tokens: 100, ..Sample::default() });
//! let outputs = window.forward(&tensors, &serde_json::json!({"left": 31}), Form::Chunk, &Cx::new(1))?;
//! assert_eq!(outputs["o"].shape(), [1, 100, 4, 64]);
//!
//! // The gradients of the sum of the outputs.
//! let mut given = tensors.clone();
//! given.insert("do".to_owned(), outputs["o"].mapv(|_| 1.0));
//! let gradients = window.backward(&given, &serde_json::json!({"left": 31}), &Cx::new(1))?;
//! assert_eq!(gradients["dq"].shape(), tensors["q"].shape());
//! # Ok::<(), longreach_attention::Error>(())
//! ```

use std::collections::BTreeMap;

use ndarray::{Array, ArrayD, ArrayViewMutD, Dimension};
use serde_json::Value;

use longreach_simd::Cx;

use crate::{Error, Form, MECHANISMS, Mechanism};

mod argument;
mod call;
pub(crate) mod recurrence;
mod sample;
mod shapes;
mod view;

pub use argument::{Argument, Choice, Kind, Parameter, Signature};
pub(crate) use argument::{Arguments, choice, flag, parameter};
pub(crate) use call::{Bounds, Call, PACKED, with_output};
pub use sample::Sample;
pub(crate) use shapes::Axes;
pub(crate) use view::{Number, Tensor};
pub use view::{View, Views};

/// Tensors by name.
pub type Tensors = BTreeMap<String, ArrayD<f32>>;

/// The results of a definition by name, in f64.
pub type Exact = BTreeMap<String, ArrayD<f64>>;

/// Shapes by name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// A mechanism called with named tensors.
pub(crate) trait Operation: Sync {
    /// Its arguments and results.
    fn arguments(&self) -> Arguments;

    /// The definition, in f64.
    fn naive(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Exact, Error>;

    /// Runs one of its other forms and returns the outputs.
    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error>;

    /// As [`Operation::run`], with a state that is updated in place and is not among the outputs.
    fn run_in_place(
        &self,
        call: &mut Call<'_>,
        form: Form,
        state: ArrayViewMutD<'_, f32>,
        cx: &Cx,
    ) -> Result<Tensors, Error> {
        let (_, _, _) = (form, state, cx);
        let want = "a mechanism with one state, such as scan".into();
        Err(Error::Parameter { op: call.op(), parameter: "state", want, found: "not updated in place".into() })
    }

    /// The gradients with respect to its inputs.
    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error>;

    /// The shapes of its outputs. The tensors of the call have the right shapes, but no values.
    fn shapes(&self, call: &mut Call<'_>, axes: &Axes<'_>) -> Result<Shapes, Error> {
        let shape = |output: &Argument| Ok((output.name.to_owned(), axes.shape(output)?));
        call.signature().outputs.iter().map(shape).collect()
    }
}

/// A mechanism as an operation.
#[derive(Clone, Copy)]
pub struct Named(&'static Mechanism);

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Named").field(&self.name()).finish()
    }
}

/// The operation of a mechanism in [`MECHANISMS`]. An error that lists the known names if there is none.
pub fn named(name: &str) -> Result<Named, Error> {
    MECHANISMS.iter().find(|m| m.name == name).map(Named).ok_or_else(|| {
        let known: Vec<&str> = MECHANISMS.iter().map(|m| m.name).collect();
        let want = format!("one of {}", known.join(", "));
        Error::Parameter { op: "operation", parameter: "name", want, found: format!("{name:?}") }
    })
}

impl Named {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Its entry in the list of mechanisms.
    pub fn mechanism(&self) -> &'static Mechanism {
        self.0
    }

    /// Its arguments and results.
    pub fn signature(&self) -> Signature {
        let Mechanism { forms, example, operation, .. } = self.0;
        let Arguments { inputs, parameters, outputs, saved } = operation.arguments();
        Signature { inputs, parameters, outputs, forms, example, saved }
    }

    /// Runs one of its forms and returns the outputs. Errors on unknown, missing or misshapen tensors, on tensors in
    /// f64 unless the form is the definition, on bad parameters, and on a form that the mechanism lacks.
    pub fn forward<'a>(
        &self,
        inputs: impl Into<Views<'a>>,
        parameters: &Value,
        form: Form,
        cx: &Cx,
    ) -> Result<Tensors, Error> {
        self.check(form)?;
        if form == Form::Naive {
            let exact = self.naive(inputs, parameters, cx)?;
            return Ok(exact.into_iter().map(|(name, x)| (name, x.mapv(|x| x as f32))).collect());
        }
        let run = |call: &mut Call<'_>| self.0.operation.run(call, form, cx);
        self.call(inputs.into(), parameters, run)
    }

    /// The outputs of the definition, in f64. Tensors may be in f64 too. Errors as [`Named::forward`].
    pub fn naive<'a>(&self, inputs: impl Into<Views<'a>>, parameters: &Value, cx: &Cx) -> Result<Exact, Error> {
        self.call(inputs.into(), parameters, |call| self.0.operation.naive(call, cx))
    }

    /// As [`Named::forward`], for a mechanism whose only state is called `state`: this is updated in place, and is
    /// neither among the inputs nor among the outputs. Errors on another shape than that of the output `state`, and on
    /// a state that is not contiguous.
    pub fn forward_in_place<'a>(
        &self,
        inputs: impl Into<Views<'a>>,
        parameters: &Value,
        form: Form,
        state: ArrayViewMutD<'_, f32>,
        cx: &Cx,
    ) -> Result<Tensors, Error> {
        self.check(form)?;
        let run = |call: &mut Call<'_>| self.0.operation.run_in_place(call, form, state, cx);
        self.call(inputs.into(), parameters, run)
    }

    /// The gradients with respect to its inputs, given `do` and, where they exist, `dlse` and `dstate`. What the
    /// forward pass returned may be given as well: if the outputs named in [`Signature::saved`] are among the inputs,
    /// they are not computed again. Errors as [`Named::forward`].
    pub fn backward<'a>(&self, inputs: impl Into<Views<'a>>, parameters: &Value, cx: &Cx) -> Result<Tensors, Error> {
        self.call(inputs.into(), parameters, |call| self.0.operation.gradient(call, cx))
    }

    /// The shapes of the outputs for inputs of these shapes, without computing them. Errors on shapes that disagree, and
    /// on unknown or missing parameters; the values of parameters are checked as far as shapes depend on them.
    pub fn shapes(&self, inputs: &Shapes, parameters: &Value) -> Result<Shapes, Error> {
        let mut views = Views::default();
        for (name, shape) in inputs {
            let zeros = view::zeros(shape).ok_or_else(|| Error::Parameter {
                op: self.name(),
                parameter: "inputs",
                want: "shapes whose number of elements fits the address space".into(),
                found: format!("{name} {shape:?}"),
            })?;
            views.insert(name, zeros);
        }
        let signature = self.signature();
        self.call(views, parameters, |call| {
            call.shapes_only = true;
            let axes = Axes::of(self.name(), &signature, inputs)?;
            self.0.operation.shapes(call, &axes)
        })
    }

    /// An error if the mechanism lacks a form.
    fn check(&self, form: Form) -> Result<(), Error> {
        let forms = self.0.forms;
        if forms.contains(&form) {
            return Ok(());
        }
        let known: Vec<&str> = forms.iter().map(|form| form.name()).collect();
        let want = format!("one of {}", known.join(", "));
        Err(Error::Parameter { op: self.name(), parameter: "form", want, found: form.name().into() })
    }

    /// Checks a call and runs it. Some mechanisms are composed of others, whose errors carry their own names.
    fn call<R>(
        &self,
        views: Views<'_>,
        parameters: &Value,
        run: impl FnOnce(&mut Call<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut call = Call::new(self.name(), self.signature(), views, parameters)?;
        run(&mut call).map_err(|e| e.of(self.name()))
    }
}

/// The error of a call without a required tensor or parameter.
pub(crate) fn absent(op: &'static str, parameter: &'static str, want: &str) -> Error {
    Error::Parameter { op, parameter, want: want.into(), found: "none".into() }
}

/// The description of an initial state.
pub(crate) const STATE: &str = "before the first token; zero if absent";

/// Tensors from pairs.
pub(crate) fn tensors<F, const N: usize>(pairs: [(&str, ArrayD<F>); N]) -> BTreeMap<String, ArrayD<F>> {
    pairs.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect()
}

/// The output of attention and its log-sum-exp, by name.
pub(crate) fn attended<F>(out: Array<F, impl Dimension>, lse: Array<F, impl Dimension>) -> BTreeMap<String, ArrayD<F>> {
    tensors([("o", out.into_dyn()), ("lse", lse.into_dyn())])
}
