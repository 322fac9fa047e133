//! What operations of mechanisms with a state share.

use longreach_simd::Cx;
use ndarray::{Array, ArrayD, ArrayView, ArrayViewD, ArrayViewMutD, Axis, Dimension, IxDyn};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Argument, Bounds, Call, Operation, PACKED, Parameter, Signature, Tensors, absent, exact, rounded};
use crate::{Error, Form, Sequences, error};

/// A mechanism that updates a state.
pub(crate) trait Recurrence: Sync {
    /// Its inputs other than the state, its parameters, the axes of output and state, its forms.
    fn about(&self) -> About;

    /// The shape of the state.
    fn state_shape(&self, x: &Views<'_, f32>) -> Result<Vec<usize>, Error>;

    /// The definition, in f64. Updates `state` and returns the output.
    fn naive(&self, x: &Views<'_, f64>, state: ArrayViewMutD<'_, f64>) -> Result<ArrayD<f64>, Error>;

    /// A fast form. Updates `state` and returns the output.
    fn fast(
        &self,
        x: &Views<'_, f32>,
        form: Form,
        state: ArrayViewMutD<'_, f32>,
        cx: &Cx,
    ) -> Result<ArrayD<f32>, Error>;

    /// The gradients with respect to the inputs, by name, the state last.
    fn gradient(
        &self,
        x: &Views<'_, f32>,
        cotangents: &Cotangents<'_>,
        cx: &Cx,
    ) -> Result<Vec<(&'static str, ArrayD<f32>)>, Error>;
}

/// The methods of a [`Recurrence`] in a module with `OP`, `naive`, `backward` and `inputs`, which converts the views in
/// either precision. Takes the fast forms, the last for any other form requested, and the inputs that have gradients.
macro_rules! calls {
    ([$($form:ident => $run:path,)* _ => $other:path], [$($input:ident),+]) => {
        fn state_shape(&self, x: &Views<'_, f32>) -> Result<Vec<usize>, Error> {
            Ok(inputs(x, |n| n as f32)?.state_shape().to_vec())
        }

        fn naive(&self, x: &Views<'_, f64>, state: ndarray::ArrayViewMutD<'_, f64>) -> Result<ArrayD<f64>, Error> {
            Ok(naive(&inputs(x, |n| n)?, ranked_mut(OP, state)?)?.into_dyn())
        }

        fn fast(
            &self,
            x: &Views<'_, f32>,
            form: Form,
            state: ndarray::ArrayViewMutD<'_, f32>,
            cx: &Cx,
        ) -> Result<ArrayD<f32>, Error> {
            let run = match form {
                $(Form::$form => $run,)*
                _ => $other,
            };
            Ok(run(&inputs(x, |n| n as f32)?, ranked_mut(OP, state)?, cx)?.into_dyn())
        }

        fn gradient(
            &self,
            x: &Views<'_, f32>,
            cotangents: &Cotangents<'_>,
            cx: &Cx,
        ) -> Result<Vec<(&'static str, ArrayD<f32>)>, Error> {
            let x = inputs(x, |n| n as f32)?;
            let g = backward(&x, cotangents.state(OP)?, cotangents.d_output(OP)?, cotangents.d_state(OP)?, cx)?;
            Ok(vec![$((stringify!($input), g.$input.into_dyn())),+])
        }
    };
}

pub(crate) use calls;

/// The parameters of mechanisms that have only a scale.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scale {
    scale: Option<f64>,
}

impl Scale {
    /// The scale; `1 / √K` if not given.
    pub(crate) fn of<F>(&self, keys: ArrayView<'_, F, ndarray::Ix4>) -> f64 {
        self.scale.unwrap_or_else(|| (keys.dim().3 as f64).powf(-0.5))
    }
}

/// `scale`, as the command line describes it.
pub(crate) const SCALE: Parameter =
    super::parameter("scale", "null", "the factor of the output; 1 / √K if null").such_as(&[super::choice("0.3")]);

/// The description of a [`Recurrence`].
pub(crate) struct About {
    pub(crate) inputs: Vec<Argument>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) output: &'static [&'static str],
    pub(crate) state: &'static [&'static str],
    /// Example parameters, as JSON.
    pub(crate) example: &'static str,
    pub(crate) forms: &'static [Form],
}

/// What a backward pass starts from: the initial state, and the gradients of the output and of the final state.
pub(crate) struct Cotangents<'a> {
    state: ArrayD<f32>,
    d_output: ArrayViewD<'a, f32>,
    d_state: ArrayD<f32>,
}

impl Cotangents<'_> {
    pub(crate) fn state<D: Dimension>(&self, op: &'static str) -> Result<ArrayView<'_, f32, D>, Error> {
        ranked(op, "state", self.state.view())
    }

    pub(crate) fn d_output<D: Dimension>(&self, op: &'static str) -> Result<ArrayView<'_, f32, D>, Error> {
        ranked(op, "do", self.d_output.view())
    }

    pub(crate) fn d_state<D: Dimension>(&self, op: &'static str) -> Result<ArrayView<'_, f32, D>, Error> {
        ranked(op, "dstate", self.d_state.view())
    }
}

/// Converts a view to the rank that a kernel takes, or fails with the parameter's name.
pub(crate) fn ranked<'a, F, D: Dimension>(
    op: &'static str,
    name: &'static str,
    x: ArrayView<'a, F, IxDyn>,
) -> Result<ArrayView<'a, F, D>, Error> {
    let found = format!("{:?}", x.shape());
    x.into_dimensionality().map_err(|_| Error::Parameter {
        op,
        parameter: name,
        want: format!("a tensor of {} axes", D::NDIM.unwrap_or(0)),
        found,
    })
}

/// As [`ranked`], mutable.
pub(crate) fn ranked_mut<'a, F, D: Dimension>(
    op: &'static str,
    x: ArrayViewMutD<'a, F>,
) -> Result<ndarray::ArrayViewMut<'a, F, D>, Error> {
    let found = format!("{:?}", x.shape());
    x.into_dimensionality().map_err(|_| Error::Parameter {
        op,
        parameter: "state",
        want: format!("a tensor of {} axes", D::NDIM.unwrap_or(0)),
        found,
    })
}

/// The inputs in one precision.
pub(crate) struct Views<'a, F> {
    op: &'static str,
    tensors: Vec<(&'static str, ArrayViewD<'a, F>)>,
    parameters: &'a Value,
    bounds: &'a Bounds,
}

impl<'a, F> Views<'a, F> {
    pub(crate) fn optional<D: Dimension>(&self, name: &'static str) -> Result<Option<ArrayView<'_, F, D>>, Error> {
        let found = self.tensors.iter().find(|(known, _)| *known == name);
        found.map(|(_, tensor)| ranked(self.op, name, tensor.view())).transpose()
    }

    pub(crate) fn tensor<D: Dimension>(&self, name: &'static str) -> Result<ArrayView<'_, F, D>, Error> {
        self.optional(name)?.ok_or_else(|| absent(self.op, name, "a tensor"))
    }

    pub(crate) fn sequences(&self) -> Sequences<'_> {
        self.bounds.sequences()
    }

    /// An error if any parameter is given.
    pub(crate) fn no_parameters(&self) -> Result<(), Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct No {}
        self.parameters::<No>().map(|_| ())
    }

    /// The operation's own parameters.
    pub(crate) fn parameters<P: DeserializeOwned>(&self) -> Result<P, Error> {
        serde_json::from_value(self.parameters.clone()).map_err(|e| Error::read(self.op, "parameters", e))
    }
}

/// The inputs of a call other than the state.
fn views<'a>(call: &Call<'a>, of: &About, parameters: &'a Value, bounds: &'a Bounds) -> Views<'a, f32> {
    let given = of.inputs.iter().filter_map(|input| Some((input.name, call.tensors.get(input.name)?.view())));
    Views { op: call.op, tensors: given.collect(), parameters, bounds }
}

impl<R: Recurrence> Operation for R {
    fn signature(&self) -> Signature {
        let about = self.about();
        let state = Argument::optional("state", about.state, super::STATE);
        let outputs = [
            Argument::output("o", about.output, "the output"),
            Argument::output("state", about.state, "after the last token"),
        ];
        Signature {
            inputs: about.inputs.into_iter().chain([state]).collect(),
            parameters: about.parameters.into_iter().chain([PACKED]).collect(),
            outputs: outputs.to_vec(),
            forms: about.forms,
            example: about.example,
        }
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let (bounds, about) = (call.bounds()?, self.about());
        let parameters = call.rest();
        let x = views(call, &about, &parameters, &bounds);
        let mut state = state(self, call, &x)?;
        let out = match form {
            Form::Naive => {
                let wide: Vec<_> = x.tensors.iter().map(|(name, tensor)| (*name, exact(tensor.view()))).collect();
                let tensors = wide.iter().map(|(name, tensor)| (*name, tensor.view())).collect();
                let mut exact_state = exact(state.view());
                let x = Views { op: call.op, tensors, parameters: &parameters, bounds: &bounds };
                let out = self.naive(&x, exact_state.view_mut())?;
                state = rounded(exact_state);
                rounded(out)
            }
            Form::Step => {
                bounds.none_for_steps(call.op)?;
                let tokens = |input: &Argument| input.axes.get(1) == Some(&"T");
                let length = about.inputs.iter().find(|input| tokens(input) && input.needed);
                let length = length.and_then(|input| call.tensors.get(input.name)).map_or(0, |x| x.shape()[1]);
                let mut out: Option<ArrayD<f32>> = None;
                for t in 0..length {
                    let mut tensors = Vec::new();
                    for (name, tensor) in &x.tensors {
                        let whole = about.inputs.iter().any(|input| input.name == *name && !tokens(input));
                        let mut tensor = tensor.view();
                        if !whole {
                            error::parameter(
                                call.op,
                                name,
                                tensor.shape()[1] == length,
                                tensor.shape(),
                                format!("{length} tokens"),
                            )?;
                            tensor.slice_axis_inplace(Axis(1), (t..t + 1).into());
                        }
                        tensors.push((*name, tensor));
                    }
                    let one = Views { op: call.op, tensors, parameters: &parameters, bounds: &bounds };
                    let part = self.fast(&one, Form::Step, state.view_mut(), cx)?;
                    let out = out.get_or_insert_with(|| {
                        let mut shape = part.shape().to_vec();
                        shape[1] = length;
                        Array::zeros(IxDyn(&shape))
                    });
                    out.slice_axis_mut(Axis(1), (t..t + 1).into()).assign(&part);
                }
                match out {
                    Some(out) => out,
                    None => self.fast(&x, Form::Recurrent, state.view_mut(), cx)?,
                }
            }
            form => self.fast(&x, form, state.view_mut(), cx)?,
        };
        Ok(super::tensors([("o", out), ("state", state)]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let (bounds, about) = (call.bounds()?, self.about());
        let parameters = call.rest();
        let x = views(call, &about, &parameters, &bounds);
        let state = state(self, call, &x)?;
        let d_state = match call.tensors.get("dstate") {
            Some(d) => d.clone(),
            None => ArrayD::zeros(state.raw_dim()),
        };
        let output = call.tensors.get("do").ok_or_else(|| absent(call.op, "do", "the gradient of the output"))?;
        let gradients = Recurrence::gradient(self, &x, &Cotangents { state, d_output: output.view(), d_state }, cx)?;
        let given = |name: &str| name == "state" || call.tensors.contains_key(name);
        Ok(gradients.into_iter().filter(|(name, _)| given(name)).map(|(name, g)| (format!("d{name}"), g)).collect())
    }
}

/// The initial state: zero if absent. An error if its shape is wrong.
fn state(of: &impl Recurrence, call: &Call<'_>, x: &Views<'_, f32>) -> Result<ArrayD<f32>, Error> {
    let shape = of.state_shape(x)?;
    match call.tensors.get("state") {
        Some(state) => {
            error::shape(call.op, "state", &shape, state.shape())?;
            Ok(state.clone())
        }
        None => Ok(ArrayD::zeros(IxDyn(&shape))),
    }
}
