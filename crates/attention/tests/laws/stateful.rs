//! Every mechanism with a state as the subject of the laws: its signature says what its inputs are.

use longreach_attention::Form;
use longreach_attention::operation::{Argument, Exact, Kind, Named, Shapes, Tensors, Views, named};
use longreach_simd::Cx;
use longreach_testkit::Kind::{Constant, Shared, State, Token};
use longreach_testkit::{Output, Subject, Tensor};
use ndarray::ArrayD;
use serde_json::{Value, json};

use crate::{exact, narrow, wide};

/// Groups, heads, and the widths of a key and of a value.
pub(crate) type Sizes = [usize; 4];

/// A mechanism with parameters and sizes.
#[derive(Clone)]
pub(crate) struct Stateful {
    of: Named,
    parameters: Value,
    sizes: Sizes,
    /// By which gates and other inputs of negative numbers are multiplied.
    strength: f64,
    /// Ranges of inputs other than those of the signature.
    ranges: &'static [(&'static str, f64, f64)],
    /// Applied to each input of a sample.
    each: fn(Tensor) -> Tensor,
}

impl Stateful {
    /// A mechanism with a scale of 0.5, if it has one, and no other parameters.
    pub(crate) fn new(name: &str, sizes: Sizes, strength: f64) -> Self {
        let of = named(name).expect("a mechanism");
        let scaled = of.signature().parameters.iter().any(|parameter| parameter.name == "scale");
        let parameters = if scaled { json!({"scale": 0.5}) } else { json!({}) };
        Self { of, parameters, sizes, strength, ranges: &[], each: |x| x }
    }

    /// With these parameters.
    pub(crate) fn with(self, parameters: Value) -> Self {
        Self { parameters, ..self }
    }

    /// With inputs in these ranges.
    pub(crate) fn between(self, ranges: &'static [(&'static str, f64, f64)]) -> Self {
        Self { ranges, ..self }
    }

    /// With samples of which each tensor is changed.
    pub(crate) fn changed(self, each: fn(Tensor) -> Tensor) -> Self {
        Self { each, ..self }
    }

    fn inputs(&self) -> Vec<Argument> {
        let inputs = self.of.signature().inputs.into_iter();
        inputs.filter(|input| input.name != "state" && (input.needed || input.sampled)).collect()
    }

    fn size(&self, axis: &str) -> usize {
        let [g, h, k, v] = self.sizes;
        match axis {
            "G" => g,
            "H" => h,
            "K" => k,
            "V" => v,
            "M" => 9,
            other => panic!("an axis {other} of {}", self.of.name()),
        }
    }

    fn parameters(&self, packed: Option<&[usize]>) -> Value {
        let mut parameters = self.parameters.clone();
        if let Some(bounds) = packed {
            parameters["cu_seqlens"] = json!(bounds);
        }
        parameters
    }

    /// Runs a form on tensors in f32; the error's text if it is refused.
    pub(crate) fn outputs(
        &self,
        form: &str,
        x: &[Tensor],
        packed: Option<&[usize]>,
        cx: &Cx,
    ) -> Result<Tensors, String> {
        let form = Form::ALL.into_iter().find(|of| of.name() == form).expect("a form");
        self.of.forward(&named_tensors(x), &self.parameters(packed), form, cx).map_err(|e| e.to_string())
    }

    /// As [`Stateful::outputs`], with the state updated in place.
    pub(crate) fn in_place(&self, x: &[Tensor], state: &mut ArrayD<f32>, cx: &Cx) -> Result<Tensors, String> {
        let inputs = named_tensors(&x[..x.len() - 1]);
        let run = self.of.forward_in_place(&inputs, &self.parameters, Form::Recurrent, state.view_mut(), cx);
        run.map_err(|e| e.to_string())
    }

    /// The gradients by name; the error's text if they are refused.
    pub(crate) fn gradients(
        &self,
        x: &[Tensor],
        packed: Option<&[usize]>,
        d: &Output,
        cx: &Cx,
    ) -> Result<Tensors, String> {
        let mut inputs = named_tensors(x);
        let shapes: Shapes = x.iter().map(|x| (x.name.to_owned(), x.shape.clone())).collect();
        let shapes = self.of.shapes(&shapes, &self.parameters(packed)).map_err(|e| e.to_string())?;
        inputs.insert("do".into(), narrow(&shapes["o"], &d.out));
        inputs.insert("dstate".into(), narrow(&shapes["state"], &d.state));
        self.of.backward(&inputs, &self.parameters(packed), cx).map_err(|e| e.to_string())
    }
}

fn named_tensors(x: &[Tensor]) -> Tensors {
    x.iter().map(|x| (x.name.to_owned(), narrow(&x.shape, &x.data))).collect()
}

fn output<F: Copy + Into<f64>>(outputs: &std::collections::BTreeMap<String, ArrayD<F>>) -> Output {
    let of = |name: &str| outputs[name].iter().map(|x| (*x).into()).collect();
    Output { out: of("o"), state: of("state") }
}

impl Subject for Stateful {
    type Cx = Cx;

    fn sample(&self, b: usize, t: usize, seed: u64) -> Vec<Tensor> {
        let mut tensors = Vec::new();
        for input in self.inputs() {
            let (low, high) = self
                .ranges
                .iter()
                .find(|(name, ..)| *name == input.name)
                .map_or((f64::from(input.range.0), f64::from(input.range.1)), |(_, low, high)| (*low, *high));
            let low = if high <= 0.0 { low * self.strength } else { low };
            let (kind, shape): (_, Vec<usize>) = match input.axes {
                [_, "T", rest @ ..] => {
                    let kind = if input.gradient && input.kind == Kind::Number { Token } else { Constant };
                    (kind, [b, t].into_iter().chain(rest.iter().map(|axis| self.size(axis))).collect())
                }
                axes => (Shared, axes.iter().map(|axis| self.size(axis)).collect()),
            };
            tensors.push(Tensor::random(input.name, kind, &shape, low..high, seed));
        }
        let shapes: Shapes = tensors.iter().map(|x| (x.name.to_owned(), x.shape.clone())).collect();
        let shape = self.of.shapes(&shapes, &self.parameters).expect("a sample that fits").remove("state");
        let mut state = Tensor::random("state", State, &shape.expect("a state"), -1.0..1.0, seed);
        // One more column than the values, for the denominator.
        let (columns, values) = (*state.shape.last().expect("a matrix"), self.sizes[3]);
        if columns > values {
            state.data.iter_mut().skip(values).step_by(columns).for_each(|z| *z += 3.0);
        }
        tensors.push(state);
        tensors.into_iter().map(self.each).collect()
    }

    fn naive(&self, x: &[Tensor], packed: Option<&[usize]>) -> Output {
        let views: Views<'_> = x.iter().map(|x| (x.name, exact(x))).collect();
        let outputs: Exact = self.of.naive(&views, &self.parameters(packed), &Cx::new(1)).expect("valid inputs");
        output(&outputs)
    }

    fn forms(&self) -> &'static [&'static str] {
        let has = |form| self.of.mechanism().forms.contains(&form);
        match (has(Form::Recurrent), has(Form::Chunk)) {
            (true, true) => &["recurrent", "chunk"],
            (true, false) => &["recurrent"],
            (false, _) => &["chunk"],
        }
    }

    fn run(&self, form: &str, x: &[Tensor], packed: Option<&[usize]>, cx: &Cx) -> Output {
        output(&self.outputs(form, x, packed, cx).expect("valid inputs"))
    }

    fn gradient(&self, x: &[Tensor], packed: Option<&[usize]>, d: &Output, cx: &Cx) -> Vec<Vec<f64>> {
        let gradients = self.gradients(x, packed, d, cx).expect("valid inputs");
        let of = |x: &Tensor| gradients.get(&format!("d{}", x.name)).map_or(Vec::new(), wide);
        x.iter().map(of).collect()
    }
}
