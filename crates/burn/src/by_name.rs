//! Every mechanism by name as a differentiable operation: its signature says what its tensors are.

use burn::tensor::Tensor;
use longreach_attention::operation::{Named, Tensors, Views, named};
use longreach_attention::{Error, Form};
use longreach_simd::Cx;
use serde_json::Value;

use crate::bridge::{self, Inputs, Operator, Plain, Results};
use crate::softmax::Kept;

/// A call of a mechanism by name, to which tensors are added. Layers call the operations with types of their own, which
/// update states in place; this one is for what has no such operation.
///
/// ```
/// use burn::tensor::Tensor;
/// use longreach_burn::{Mechanism, cpu};
///
/// let x = Tensor::<4>::ones([1, 10, 2, 16], &cpu());
/// let window = Mechanism::new("window", serde_json::json!({"left": 3}))?;
/// let mut outputs = window.with("q", x.clone()).with("k", x.clone()).with("v", x).run();
/// let (o, lse) = (outputs.output::<4>(), outputs.output::<3>());
/// assert_eq!((o.dims(), lse.dims()), ([1, 10, 2, 16], [1, 10, 2]));
/// # Ok::<(), longreach_attention::Error>(())
/// ```
#[derive(Debug)]
pub struct Mechanism {
    of: ByName,
    call: bridge::Call,
}

impl Mechanism {
    /// A call of a mechanism with parameters, as `longreach list NAME` prints them. Errors on an unknown name.
    pub fn new(name: &str, parameters: Value) -> Result<Self, Error> {
        let of = named(name)?;
        let form = of.mechanism().forms.iter().copied().find(|form| *form != Form::Naive).unwrap_or(Form::Naive);
        let of = ByName { of, parameters, form, names: Vec::new(), kept: Kept::default() };
        Ok(Self { of, call: bridge::Call::new() })
    }

    /// Adds a tensor, in f32; flags and integers are numbers. A tensor that was added before is not replaced.
    #[must_use]
    pub fn with<const D: usize>(mut self, name: &str, tensor: Tensor<D>) -> Self {
        self.of.names.push(name.to_owned());
        self.call = self.call.with(tensor);
        self
    }

    /// The outputs, in the order of the signature. Panics on unknown, missing or misshapen tensors, on bad parameters,
    /// and on more than nine tensors.
    pub fn run(self) -> Results {
        self.call.run(self.of)
    }
}

#[derive(Debug)]
struct ByName {
    of: Named,
    parameters: Value,
    form: Form,
    /// The names of the inputs, in order.
    names: Vec<String>,
    /// The outputs that the gradient reads.
    kept: Kept<Tensors>,
}

impl ByName {
    fn views<'a>(&'a self, inputs: &'a Inputs) -> Views<'a> {
        self.names.iter().enumerate().map(|(i, name)| (name.as_str(), inputs.view::<ndarray::IxDyn>(i))).collect()
    }

    fn outputs(&self, inputs: &Inputs, cx: &Cx) -> Tensors {
        let outputs = self.of.forward(self.views(inputs), &self.parameters, self.form, cx);
        outputs.unwrap_or_else(|e| panic!("{e}"))
    }
}

impl Operator for ByName {
    fn name(&self) -> &str {
        self.of.mechanism().name
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        self.kept.pass(self.outputs(inputs, cx), |mut outputs| {
            let outputs = self.of.signature().outputs.into_iter().filter_map(|output| outputs.remove(output.name));
            outputs.map(Plain::array).collect()
        })
    }

    fn will_be_differentiated(&self, _: &[bool]) {
        self.kept.want();
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let (signature, kept) = (self.of.signature(), self.kept.get(|| self.outputs(inputs, cx)));
        let mut views = self.views(inputs);
        let gradients = signature.outputs.iter().zip(d_out).filter(|(output, _)| output.gradient);
        let gradients: Vec<_> =
            gradients.map(|(output, d)| (format!("d{}", output.name), d.view::<ndarray::IxDyn>())).collect();
        gradients.iter().for_each(|(name, d)| views.insert(name, d.clone()));
        for (name, output) in kept.iter().filter(|(name, _)| signature.saved.contains(&name.as_str())) {
            views.insert(name, output);
        }
        let mut gradients = self.of.backward(views, &self.parameters, cx).unwrap_or_else(|e| panic!("{e}"));
        let gradient = |(i, name): (usize, &String)| match gradients.remove(&format!("d{name}")) {
            Some(gradient) => Plain::array(gradient),
            None => Plain::unwritten(inputs.shape(i)),
        };
        self.names.iter().enumerate().map(gradient).collect()
    }
}
