//! What operations of mechanisms with a state share.

use longreach_simd::Cx;
use ndarray::{Array, ArrayD, ArrayView, ArrayViewD, ArrayViewMutD, Axis, Dimension, IxDyn};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Argument, Arguments, Axes, Bounds, Call, Exact, Number, Operation, PACKED, Parameter, Shapes, Tensor, Tensors,
    absent,
};
use crate::{Error, Form, Sequences, error};

/// A mechanism that updates a state.
pub(crate) trait Recurrence: Sync {
    /// Its inputs other than the state, its parameters, the axes of output and state.
    const ABOUT: About;

    /// The shape of the state.
    fn state_shape<F: Number>(&self, x: &Given<'_, F>) -> Result<Vec<usize>, Error>;

    /// The definition, in f64. Updates `state` and returns the output.
    fn naive(&self, x: &Given<'_, f64>, state: ArrayViewMutD<'_, f64>) -> Result<ArrayD<f64>, Error>;

    /// A fast form. Updates `state` and returns the output.
    fn fast(
        &self,
        x: &Given<'_, f32>,
        form: Form,
        state: ArrayViewMutD<'_, f32>,
        cx: &Cx,
    ) -> Result<ArrayD<f32>, Error>;

    /// The gradients with respect to the inputs, by name, the state last.
    fn gradient(
        &self,
        x: &Given<'_, f32>,
        cotangents: &Cotangents<'_>,
        cx: &Cx,
    ) -> Result<Vec<(&'static str, ArrayD<f32>)>, Error>;
}

/// The methods of a [`Recurrence`] in a module with `OP`, `naive`, `backward` and `inputs`, which converts the views in
/// either precision. Takes the fast forms, the last for any other form requested, and the inputs that have gradients.
macro_rules! calls {
    ([$($form:ident => $run:path,)* _ => $other:path], [$($input:ident),+]) => {
        fn state_shape<F: Number>(&self, x: &Given<'_, F>) -> Result<Vec<usize>, Error> {
            Ok(inputs(x)?.state_shape().to_vec())
        }

        fn naive(&self, x: &Given<'_, f64>, state: ndarray::ArrayViewMutD<'_, f64>) -> Result<ArrayD<f64>, Error> {
            Ok(naive(&inputs(x)?, ranked_mut(OP, state)?)?.into_dyn())
        }

        fn fast(
            &self,
            x: &Given<'_, f32>,
            form: Form,
            state: ndarray::ArrayViewMutD<'_, f32>,
            cx: &Cx,
        ) -> Result<ArrayD<f32>, Error> {
            let run = match form {
                $(Form::$form => $run,)*
                _ => $other,
            };
            Ok(run(&inputs(x)?, ranked_mut(OP, state)?, cx)?.into_dyn())
        }

        fn gradient(
            &self,
            x: &Given<'_, f32>,
            cotangents: &Cotangents<'_>,
            cx: &Cx,
        ) -> Result<Vec<(&'static str, ArrayD<f32>)>, Error> {
            let x = inputs(x)?;
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
    pub(crate) inputs: &'static [Argument],
    pub(crate) parameters: &'static [Parameter],
    pub(crate) output: &'static [&'static str],
    pub(crate) state: &'static [&'static str],
}

/// What a backward pass starts from: the initial state, and the gradients of the output and of the final state.
pub(crate) struct Cotangents<'a> {
    state: ArrayD<f32>,
    d_output: Tensor<'a, f32, IxDyn>,
    d_state: Tensor<'a, f32, IxDyn>,
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
pub(crate) struct Given<'a, F> {
    op: &'static str,
    tensors: Vec<(&'static str, ArrayViewD<'a, F>)>,
    parameters: &'a Value,
    bounds: &'a Bounds,
}

impl<'a, F: Number> Given<'a, F> {
    fn of(call: &Call<'_>, held: &'a [Held<'_, F>], parameters: &'a Value, bounds: &'a Bounds) -> Self {
        let tensors = held.iter().map(|(name, tensor)| (*name, tensor.view())).collect();
        Self { op: call.op(), tensors, parameters, bounds }
    }

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

/// The inputs of a call other than the state, in one precision.
fn held<'a, F: Number>(call: &Call<'a>, of: &About) -> Result<Vec<Held<'a, F>>, Error> {
    let read = |input: &Argument| Ok(call.optional(input.name)?.map(|tensor| (input.name, tensor)));
    of.inputs.iter().filter_map(|input| read(input).transpose()).collect()
}

type Held<'a, F> = (&'static str, Tensor<'a, F, IxDyn>);

impl<R: Recurrence> Operation for R {
    fn arguments(&self) -> Arguments {
        let About { inputs, parameters, output, state } = R::ABOUT;
        let before = Argument::optional("state", state, super::STATE);
        let outputs =
            [Argument::output("o", output, "the output"), Argument::output("state", state, "after the last token")];
        Arguments {
            inputs: inputs.iter().copied().chain([before]).collect(),
            parameters: parameters.iter().copied().chain([PACKED]).collect(),
            outputs: outputs.to_vec(),
            saved: &[],
        }
    }

    fn naive(&self, call: &mut Call<'_>, _: &Cx) -> Result<Exact, Error> {
        let (bounds, about) = (call.bounds()?, &R::ABOUT);
        let parameters = call.rest();
        let held = held(call, about)?;
        let x = Given::of(call, &held, &parameters, &bounds);
        let mut state = state(call, &self.state_shape(&x)?)?;
        let out = Recurrence::naive(self, &x, state.view_mut())?;
        Ok(super::tensors([("o", out), ("state", state)]))
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let (bounds, about) = (call.bounds()?, &R::ABOUT);
        let parameters = call.rest();
        let held = held(call, about)?;
        let x = Given::of(call, &held, &parameters, &bounds);
        let mut state = state(call, &self.state_shape(&x)?)?;
        let out = forward(self, &x, about, form, state.view_mut(), cx)?;
        Ok(super::tensors([("o", out), ("state", state)]))
    }

    fn run_in_place(
        &self,
        call: &mut Call<'_>,
        form: Form,
        state: ArrayViewMutD<'_, f32>,
        cx: &Cx,
    ) -> Result<Tensors, Error> {
        let (bounds, about) = (call.bounds()?, &R::ABOUT);
        let parameters = call.rest();
        error::parameter(call.op(), "state", !call.gives("state"), "an input", "given once, to be updated in place")?;
        let held = held(call, about)?;
        let x = Given::of(call, &held, &parameters, &bounds);
        error::shape(call.op(), "state", &self.state_shape(&x)?, state.shape())?;
        Ok(super::tensors([("o", forward(self, &x, about, form, state, cx)?)]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let (bounds, about) = (call.bounds()?, &R::ABOUT);
        let parameters = call.rest();
        let held = held(call, about)?;
        let x = Given::of(call, &held, &parameters, &bounds);
        let state: ArrayD<f32> = state(call, &self.state_shape(&x)?)?;
        let d_state = match call.optional("dstate")? {
            Some(d) => d,
            None => Tensor::new(ArrayD::zeros(state.raw_dim()).into(), 0),
        };
        let d_output = call.optional("do")?.ok_or_else(|| absent(call.op(), "do", "the gradient of the output"))?;
        let gradients = Recurrence::gradient(self, &x, &Cotangents { state, d_output, d_state }, cx)?;
        let given = |name: &str| name == "state" || call.gives(name);
        Ok(gradients.into_iter().filter(|(name, _)| given(name)).map(|(name, g)| (format!("d{name}"), g)).collect())
    }

    fn shapes(&self, call: &mut Call<'_>, axes: &Axes<'_>) -> Result<Shapes, Error> {
        let (bounds, about) = (call.bounds()?, &R::ABOUT);
        let parameters = call.rest();
        let held = held::<f32>(call, about)?;
        let state = self.state_shape(&Given::of(call, &held, &parameters, &bounds))?;
        if let Some(given) = axes.input("state") {
            error::shape(call.op(), "state", &state, given)?;
        }
        let o = axes.shape(&Argument::output("o", about.output, ""))?;
        Ok([("o".to_owned(), o), ("state".to_owned(), state)].into())
    }
}

/// Runs a form other than the definition.
fn forward(
    of: &impl Recurrence,
    x: &Given<'_, f32>,
    about: &About,
    form: Form,
    state: ArrayViewMutD<'_, f32>,
    cx: &Cx,
) -> Result<ArrayD<f32>, Error> {
    match form {
        Form::Step => steps(of, x, about, state, cx),
        form => of.fast(x, form, state, cx),
    }
}

/// Reads the tokens one by one.
fn steps(
    of: &impl Recurrence,
    x: &Given<'_, f32>,
    about: &About,
    mut state: ArrayViewMutD<'_, f32>,
    cx: &Cx,
) -> Result<ArrayD<f32>, Error> {
    x.bounds.none_for_steps(x.op)?;
    let by_token = |name: &str| about.inputs.iter().any(|input| input.name == name && input.axes.get(1) == Some(&"T"));
    let length = x.tensors.iter().find(|(name, _)| by_token(name)).map_or(0, |(_, tensor)| tensor.shape()[1]);
    let mut out: Option<ArrayD<f32>> = None;
    for t in 0..length {
        let mut tensors = Vec::new();
        for (name, tensor) in &x.tensors {
            let mut tensor = tensor.view();
            if by_token(name) {
                let want = || format!("{length} tokens");
                error::parameter(x.op, name, tensor.shape()[1] == length, tensor.shape(), want())?;
                tensor.slice_axis_inplace(Axis(1), (t..t + 1).into());
            }
            tensors.push((*name, tensor));
        }
        let one = Given { tensors, ..*x };
        let part = of.fast(&one, Form::Step, state.view_mut(), cx)?;
        let out = out.get_or_insert_with(|| {
            let mut shape = part.shape().to_vec();
            shape[1] = length;
            Array::zeros(IxDyn(&shape))
        });
        out.slice_axis_mut(Axis(1), (t..t + 1).into()).assign(&part);
    }
    match out {
        Some(out) => Ok(out),
        None => of.fast(x, Form::Recurrent, state, cx),
    }
}

/// The initial state, copied: zero if absent. An error if its shape is wrong.
fn state<F: Number>(call: &Call<'_>, shape: &[usize]) -> Result<ArrayD<F>, Error> {
    let Some(state) = call.optional::<F, IxDyn>("state")? else {
        return Ok(ArrayD::from_elem(IxDyn(shape), F::nearest(0.0)));
    };
    error::shape(call.op(), "state", shape, state.shape())?;
    Ok(state.view().as_standard_layout().into_owned())
}
