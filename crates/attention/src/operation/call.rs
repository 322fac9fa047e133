//! What an operation reads of a call.

use ndarray::{Array, CowArray, Dimension, Ix3, Ix4, IxDyn};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::view::{self, Number, Tensor, View, Views};
use super::{Argument, Parameter, Signature, absent, parameter};
use crate::softmax::{Output, OutputView};
use crate::{Error, Sequences};

/// A call to an operation, whose tensors are all known and have the right rank.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    op: &'static str,
    views: Views<'a>,
    parameters: Map<String, Value>,
    signature: Signature,
    /// Whether tensors are read for their shapes alone, and none is copied.
    pub(super) shapes_only: bool,
}

impl<'a> Call<'a> {
    /// Checks the names and ranks of tensors, and the names of parameters.
    pub(super) fn new(
        op: &'static str,
        signature: Signature,
        views: Views<'a>,
        parameters: &Value,
    ) -> Result<Self, Error> {
        let Signature { inputs, outputs, saved, .. } = &signature;
        for (name, tensor) in views.iter() {
            let Some(argument) = argument(&signature, name) else {
                let gradients = outputs.iter().filter(|output| output.gradient).map(|o| format!("d{}", o.name));
                let names = inputs.iter().map(|input| input.name.to_owned());
                let mut all: Vec<String> = names.chain(gradients).chain(saved.iter().map(|s| (*s).into())).collect();
                all.sort_unstable();
                let want = format!("only {}", all.join(", "));
                return Err(Error::Parameter { op, parameter: "inputs", want, found: format!("{name:?}") });
            };
            if tensor.shape().len() != argument.axes.len() {
                let (want, found) = (argument.shape(), format!("{:?}", tensor.shape()));
                let want = format!("a tensor {want}");
                return Err(Error::Parameter { op, parameter: argument.name, want, found });
            }
        }
        if let Some(input) = inputs.iter().find(|input| input.needed && views.get(input.name).is_none()) {
            return Err(absent(op, input.name, &format!("a tensor {}", input.shape())));
        }
        let parameters = signature.parameters(op, parameters)?;
        Ok(Self { op, views, parameters, signature, shapes_only: false })
    }

    /// The operation's name.
    pub(crate) fn op(&self) -> &'static str {
        self.op
    }

    /// Whether a tensor is given.
    pub(crate) fn gives(&self, name: &str) -> bool {
        self.views.get(name).is_some()
    }

    /// A tensor as it was given.
    pub(crate) fn view(&self, name: &str) -> Option<&View<'a>> {
        self.views.get(name)
    }

    /// The arguments and results of the operation.
    pub(super) fn signature(&self) -> &Signature {
        &self.signature
    }

    /// A tensor, if given.
    pub(crate) fn optional<F: Number, D: Dimension>(
        &self,
        name: &'static str,
    ) -> Result<Option<Tensor<'a, F, D>>, Error> {
        let Some(view) = self.views.get(name) else { return Ok(None) };
        let free = argument(&self.signature, name).map_or(0, Argument::free_axes);
        let free = if self.shapes_only { view.shape().len() } else { free };
        let array = F::read(view).ok_or_else(|| self.wrong_type(name, view))?;
        Ok(Some(Tensor::new(self.ranked(name, view, array)?, free)))
    }

    /// A required tensor.
    pub(crate) fn tensor<F: Number, D: Dimension>(&self, name: &'static str) -> Result<Tensor<'a, F, D>, Error> {
        self.optional(name)?.ok_or_else(|| absent(self.op, name, "a tensor"))
    }

    /// As [`Call::optional`] in f32, where the definition too computes in f32: f64 is rounded.
    pub(crate) fn rounded<D: Dimension>(&self, name: &'static str) -> Result<Option<Tensor<'a, f32, D>>, Error> {
        let Some(View::F64(wide)) = self.views.get(name) else { return self.optional(name) };
        let narrow = CowArray::from(wide.mapv(|x| x as f32));
        Ok(Some(Tensor::new(self.ranked(name, &View::F64(wide.clone()), narrow)?, 0)))
    }

    /// A tensor of non-negative integers, if given.
    pub(crate) fn whole<D: Dimension>(&self, name: &'static str) -> Result<Option<Array<usize, D>>, Error> {
        let Some(view) = self.views.get(name) else { return Ok(None) };
        let indices = view::indices(view).map_err(|found| {
            let want = match view {
                View::F32(_) => format!("whole numbers up to {}", 1 << 24),
                _ => "whole numbers".into(),
            };
            Error::Parameter { op: self.op, parameter: name, want, found: found.into_owned() }
        })?;
        Ok(Some(self.ranked(name, view, indices.into())?.into_owned()))
    }

    /// A boolean tensor, in which 0 is false and all else true, if given.
    pub(crate) fn flags<D: Dimension>(&self, name: &'static str) -> Result<Option<CowArray<'a, bool, D>>, Error> {
        let Some(view) = self.views.get(name) else { return Ok(None) };
        self.ranked(name, view, view::flags(view)).map(Some)
    }

    /// The output of attention and its log-sum-exp, if the call of a gradient has both.
    pub(crate) fn saved(&self) -> Result<Option<Saved<'a>>, Error> {
        let (Some(out), Some(lse)) = (self.optional("o")?, self.optional("lse")?) else { return Ok(None) };
        Ok(Some(Saved { out, lse }))
    }

    fn ranked<T, D: Dimension>(
        &self,
        name: &'static str,
        view: &View<'_>,
        x: CowArray<'a, T, IxDyn>,
    ) -> Result<CowArray<'a, T, D>, Error> {
        x.into_dimensionality().map_err(|_| Error::Parameter {
            op: self.op,
            parameter: name,
            want: format!("a tensor of {} axes", D::NDIM.unwrap_or(0)),
            found: format!("{:?}", view.shape()),
        })
    }

    fn wrong_type(&self, name: &'static str, view: &View<'_>) -> Error {
        let want = "f32: kernels compute in f32, and only the form naive in f64".into();
        Error::Parameter { op: self.op, parameter: name, want, found: format!("in {}", view.dtype()) }
    }

    /// Whether a parameter is given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.parameters.contains_key(name)
    }

    /// Removes a parameter and returns its value.
    pub(crate) fn take<P: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<P>, Error> {
        let Some(value) = self.parameters.remove(name) else { return Ok(None) };
        let found = value.to_string();
        serde_json::from_value(value).map(Some).map_err(|e| Error::read(self.op, name, format!("{found}: {e}")))
    }

    /// The boundaries of packed sequences, `cu_seqlens`, if given.
    pub(crate) fn bounds(&mut self) -> Result<Bounds, Error> {
        Ok(Bounds(self.take("cu_seqlens")?))
    }

    /// Removes and returns the remaining parameters.
    pub(crate) fn rest(&mut self) -> Value {
        Value::Object(std::mem::take(&mut self.parameters))
    }

    /// The remaining parameters, deserialised.
    pub(crate) fn read<P: DeserializeOwned>(&mut self) -> Result<P, Error> {
        serde_json::from_value(self.rest()).map_err(|e| Error::read(self.op, "parameters", e))
    }
}

/// The argument of this name: an input, the gradient of an output, or an output that a gradient reads. The last two are
/// accepted in a forward call too.
fn argument<'s>(signature: &'s Signature, name: &str) -> Option<&'s Argument> {
    let output = |name: &str| signature.outputs.iter().find(|output| output.name == name);
    let input = signature.inputs.iter().find(|input| input.name == name);
    let gradient = || output(name.strip_prefix('d')?).filter(|output| output.gradient);
    input.or_else(gradient).or_else(|| output(name).filter(|output| signature.saved.contains(&output.name)))
}

/// The outputs of a forward pass that its caller has kept for the gradient.
#[derive(Debug)]
pub(crate) struct Saved<'a> {
    out: Tensor<'a, f32, Ix4>,
    lse: Tensor<'a, f32, Ix3>,
}

/// Calls `then` with the output that the caller has kept, or else with the output computed `again`.
pub(crate) fn with_output<R>(
    saved: Option<Saved<'_>>,
    again: impl FnOnce() -> Result<Output, Error>,
    then: impl FnOnce(OutputView<'_>) -> Result<R, Error>,
) -> Result<R, Error> {
    match saved {
        Some(saved) => then(OutputView { out: saved.out.view(), lse: saved.lse.view() }),
        None => then(again()?.view()),
    }
}

/// The boundaries of packed sequences, if any.
#[derive(Clone, Debug)]
pub(crate) struct Bounds(Option<Vec<usize>>);

impl Bounds {
    /// The sequences, as kernels take them.
    pub(crate) fn sequences(&self) -> Sequences<'_> {
        self.0.as_deref().map_or(Sequences::Batch, Sequences::Packed)
    }

    /// Whether sequences are packed.
    pub(crate) fn packed(&self) -> bool {
        self.0.is_some()
    }

    /// An error if sequences are packed: a step takes one token per sequence.
    pub(crate) fn none_for_steps(&self, op: &'static str) -> Result<(), Error> {
        let Some(bounds) = &self.0 else { return Ok(()) };
        let want = "none where tokens are read one by one";
        crate::error::parameter(op, "cu_seqlens", false, bounds, want)
    }
}

/// The boundaries of packed sequences.
pub(crate) const PACKED: Parameter =
    parameter("cu_seqlens", "null", "where packed sequences begin and end, in a batch of one: [0, …, T]");
