//! Mechanisms called by name, with named tensors and JSON parameters: for a command line, a scripting language, or a
//! comparison with another implementation. An [`Operation`] describes its arguments ([`Signature`]) and runs any of its
//! forms.
//!
//! The outputs are `o` and, where they exist, `lse` and `state` (after the last token). The backward pass reads the
//! gradient of each differentiable output (`do`, `dlse`, `dstate`), of which only `do` is required, and returns `d` +
//! name for each given input that is differentiable; the gradient of a state is returned even if the state is absent,
//! which means zero.
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
//! # Ok::<(), longreach_attention::Error>(())
//! ```

use std::collections::BTreeMap;

use ndarray::{Array, ArrayD, ArrayView, Dimension, IxDyn};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use longreach_simd::Cx;

use crate::{Error, Form, MECHANISMS, Sequences};

pub(crate) mod recurrence;

/// Tensors by name.
pub type Tensors = BTreeMap<String, ArrayD<f32>>;

/// The description of a tensor argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// Its axes, in letters of the glossary.
    pub axes: &'static [&'static str],
    /// Whether it is required.
    pub needed: bool,
    /// A description for users.
    pub about: &'static str,
    /// For an input, whether it has a gradient, named `d` + name; for an output, whether the backward pass reads its
    /// gradient, `d` + name.
    pub gradient: bool,
    /// Other tensors that must be given with it.
    pub with: &'static [&'static str],
    /// The range of its values in a sample.
    pub range: (f32, f32),
    /// Whether samples contain it.
    pub sampled: bool,
    /// Whether its samples are integers.
    pub whole: bool,
}

impl Argument {
    /// A required input.
    pub(crate) const fn input(name: &'static str, axes: &'static [&'static str], about: &'static str) -> Self {
        let (range, with) = ((-1.0, 1.0), &[] as &[&str]);
        Self { name, axes, needed: true, about, gradient: true, with, range, sampled: true, whole: false }
    }

    /// An optional input.
    pub(crate) const fn optional(name: &'static str, axes: &'static [&'static str], about: &'static str) -> Self {
        Self { needed: false, sampled: false, ..Self::input(name, axes, about) }
    }

    /// An output.
    pub(crate) const fn output(name: &'static str, axes: &'static [&'static str], about: &'static str) -> Self {
        Self::input(name, axes, about)
    }

    /// Without a gradient.
    pub(crate) const fn constant(self) -> Self {
        Self { gradient: false, ..self }
    }

    /// Must be given together with others.
    pub(crate) const fn with(self, with: &'static [&'static str]) -> Self {
        Self { with, ..self }
    }

    /// With samples in `low .. high`.
    pub(crate) const fn between(self, low: f32, high: f32) -> Self {
        Self { range: (low, high), ..self }
    }

    /// Contained in every sample, although optional.
    pub(crate) const fn sampled(self) -> Self {
        Self { sampled: true, ..self }
    }

    /// With integer samples, and without a gradient.
    pub(crate) const fn whole(self) -> Self {
        Self { whole: true, gradient: false, ..self }
    }

    /// With samples of 0 and 1, and without a gradient.
    pub(crate) const fn zeros_and_ones(self) -> Self {
        self.between(0.0, 2.0).whole()
    }
}

/// A value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The value, as JSON.
    pub value: &'static str,
    /// Other parameters that it needs, or works best with, as a JSON object.
    pub with: &'static str,
    /// Optional tensors that it needs.
    pub tensors: &'static [&'static str],
}

/// A value that needs nothing else.
pub(crate) const fn choice(value: &'static str) -> Choice {
    Choice { value, with: "{}", tensors: &[] }
}

impl Choice {
    /// With these other parameters.
    pub(crate) const fn with(self, with: &'static str) -> Self {
        Self { with, ..self }
    }

    /// With these optional tensors.
    pub(crate) const fn beside(self, tensors: &'static [&'static str]) -> Self {
        Self { tensors, ..self }
    }
}

/// A parameter of an operation. The value `null` means the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its default, as JSON; empty if the parameter is required.
    pub default: &'static str,
    /// A description for users.
    pub about: &'static str,
    /// Its values: all of them, or examples.
    pub choices: &'static [Choice],
    /// Whether the choices are exhaustive.
    pub closed: bool,
    /// Whether it is a block of a larger configuration file, whose other fields are ignored.
    pub of_file: bool,
}

/// A parameter without choices.
pub(crate) const fn parameter(name: &'static str, default: &'static str, about: &'static str) -> Parameter {
    Parameter { name, default, about, choices: &[], closed: false, of_file: false }
}

/// A boolean parameter.
pub(crate) const fn flag(name: &'static str, default: &'static str, about: &'static str) -> Parameter {
    parameter(name, default, about).one_of(BOOLEANS)
}

const BOOLEANS: &[Choice] = &[choice("false"), choice("true")];

impl Parameter {
    /// With an exhaustive list of values.
    pub(crate) const fn one_of(self, choices: &'static [Choice]) -> Self {
        Self { choices, closed: true, ..self }
    }

    /// With examples of its values.
    pub(crate) const fn such_as(self, choices: &'static [Choice]) -> Self {
        Self { choices, closed: false, ..self }
    }
}

/// The arguments and results of an operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// Input tensors.
    pub inputs: Vec<Argument>,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// Output tensors.
    pub outputs: Vec<Argument>,
    /// Its forms.
    pub forms: &'static [Form],
    /// Example parameters, as JSON.
    pub example: &'static str,
}

/// The sizes of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `B`
    pub batch: usize,
    /// `T`, also the number of keys
    pub tokens: usize,
    /// `H`
    pub heads: usize,
    /// Channels of a head
    pub width: usize,
    /// The seed of the random numbers.
    pub seed: u64,
}

impl Default for Sample {
    fn default() -> Self {
        Self { batch: 1, tokens: 128, heads: 4, width: 64, seed: 0 }
    }
}

impl Sample {
    /// The size of an axis. `D` is the width of a head or, with `channels`, of all heads together.
    fn size(&self, axis: &str, channels: bool) -> usize {
        match axis {
            "B" | "B or 1" => self.batch,
            "T" | "S" => self.tokens,
            "H" | "G" | "H or 1" => self.heads,
            "D" if channels => self.heads * self.width,
            "N" if channels => 16,
            "W" => 4,
            // Half the number of buckets of a hash, and its rounds.
            "n/2" => (self.tokens / 64).max(1),
            "rounds" => 2,
            "taps" => 3,
            "N / ratio" => self.width / 4,
            digits => digits.parse().unwrap_or(self.width),
        }
    }
}

/// A mechanism called with named tensors.
pub trait Operation: Sync {
    /// Its arguments and results.
    fn signature(&self) -> Signature;

    /// Runs one of its forms and returns the outputs.
    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error>;

    /// The gradients with respect to its inputs.
    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error>;
}

/// An operation with its name.
#[derive(Clone, Copy)]
pub struct Named {
    name: &'static str,
    operation: &'static dyn Operation,
}

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Named").field(&self.name).finish()
    }
}

/// The operation of a mechanism in [`MECHANISMS`]. An error that lists the known names if there is none.
pub fn named(name: &str) -> Result<Named, Error> {
    match MECHANISMS.iter().find(|m| m.name == name) {
        Some(m) => Ok(Named { name: m.name, operation: m.operation }),
        None => {
            let known: Vec<&str> = MECHANISMS.iter().map(|m| m.name).collect();
            let want = format!("one of {}", known.join(", "));
            Err(Error::Parameter { op: "operation", parameter: "name", want, found: format!("{name:?}") })
        }
    }
}

impl Named {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its arguments and results.
    pub fn signature(&self) -> Signature {
        self.operation.signature()
    }

    /// Random inputs of the given sizes; the same on every machine.
    pub fn sample(&self, of: &Sample) -> Tensors {
        self.sample_with(of, &[])
    }

    /// As [`Named::sample`], with the optional inputs named in `more`. A state in such a sample does not have the right
    /// shape: take it from the outputs of a call.
    pub fn sample_with(&self, of: &Sample, more: &[&str]) -> Tensors {
        let inputs = self.signature().inputs;
        let channels = inputs.iter().all(|input| !input.axes.contains(&"H") || !input.axes.contains(&"D"));
        let mut tensors = Tensors::new();
        for (n, input) in inputs.iter().enumerate() {
            if !(input.sampled || input.needed || more.contains(&input.name)) {
                continue;
            }
            let (low, high) = input.range;
            let shape: Vec<usize> = input.axes.iter().map(|axis| of.size(axis, channels)).collect();
            let mut state = of.seed ^ ((n as u64 + 1) << 32);
            let whole = |x: f32| if input.whole { x.floor() } else { x };
            let next = |_| whole(low + (high - low) * uniform(&mut state));
            tensors.insert(input.name.into(), ArrayD::from_shape_fn(IxDyn(&shape), next));
        }
        tensors
    }

    /// Runs one of its forms and returns the outputs. Errors on unknown, missing or misshapen tensors, on bad
    /// parameters, and on a form that the mechanism lacks.
    pub fn forward(&self, tensors: &Tensors, parameters: &Value, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let forms = self.signature().forms;
        if !forms.contains(&form) {
            let known: Vec<&str> = forms.iter().map(|form| form.name()).collect();
            let want = format!("one of {}", known.join(", "));
            return Err(Error::Parameter { op: self.name, parameter: "form", want, found: form.name().into() });
        }
        // Some mechanisms are composed of others, whose errors carry their own names.
        self.operation.run(&mut self.call(tensors, parameters)?, form, cx).map_err(|e| e.of(self.name))
    }

    /// The gradients with respect to its inputs, given `do` and, where they exist, `dlse` and `dstate`. Errors as
    /// [`Named::forward`].
    pub fn backward(&self, tensors: &Tensors, parameters: &Value, cx: &Cx) -> Result<Tensors, Error> {
        self.operation.gradient(&mut self.call(tensors, parameters)?, cx).map_err(|e| e.of(self.name))
    }

    fn call<'a>(&self, tensors: &'a Tensors, parameters: &Value) -> Result<Call<'a>, Error> {
        let op = self.name;
        let signature = self.signature();
        let Signature { inputs, outputs, .. } = &signature;
        let starts = outputs.iter().filter(|output| output.gradient);
        let mut known: BTreeMap<String, &Argument> = inputs.iter().map(|input| (input.name.into(), input)).collect();
        // Gradients of outputs are accepted in a forward call too.
        known.extend(starts.map(|output| (format!("d{}", output.name), output)));
        for (name, tensor) in tensors {
            let Some(argument) = known.get(name) else {
                let known: Vec<&str> = known.keys().map(String::as_str).collect();
                let want = format!("only {}", known.join(", "));
                return Err(Error::Parameter { op, parameter: "inputs", want, found: format!("{name:?}") });
            };
            if tensor.ndim() != argument.axes.len() {
                let want = format!("a tensor [{}]", argument.axes.join(", "));
                return Err(Error::Parameter {
                    op,
                    parameter: argument.name,
                    want,
                    found: format!("{:?}", tensor.shape()),
                });
            }
        }
        if let Some(input) = inputs.iter().find(|input| input.needed && !tensors.contains_key(input.name)) {
            return Err(absent(op, input.name, &format!("a tensor [{}]", input.axes.join(", "))));
        }
        Ok(Call { op, tensors, parameters: signature.parameters(op, parameters)? })
    }
}

impl Signature {
    /// The given parameters; an error if one is unknown or a required one is missing.
    fn parameters(&self, op: &'static str, given: &Value) -> Result<Map<String, Value>, Error> {
        let mut map = match given {
            Value::Null => Map::new(),
            Value::Object(map) => map.clone(),
            other => {
                let want = "a JSON object".into();
                return Err(Error::Parameter { op, parameter: "parameters", want, found: other.to_string() });
            }
        };
        map.retain(|_, value| !value.is_null());
        let known = |name: &str| self.parameters.iter().find(|parameter| parameter.name == name);
        let file = map.keys().any(|name| known(name).is_some_and(|parameter| parameter.of_file));
        if let Some(name) = map.keys().find(|name| !file && known(name).is_none()) {
            let known: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name).collect();
            let want = if known.is_empty() { "none".into() } else { format!("only {}", known.join(", ")) };
            return Err(Error::Parameter { op, parameter: "parameters", want, found: format!("{name:?}") });
        }
        match self.parameters.iter().find(|needed| needed.default.is_empty() && !map.contains_key(needed.name)) {
            Some(missing) => Err(absent(op, missing.name, missing.about)),
            None => Ok(map),
        }
    }
}

fn absent(op: &'static str, parameter: &'static str, want: &str) -> Error {
    Error::Parameter { op, parameter, want: want.into(), found: "none".into() }
}

/// A number in `[0, 1)` from the 64-bit SplitMix generator of Steele et al. 2014.
fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}

/// A call to an operation, whose tensors are all known and have the right rank.
#[derive(Debug)]
pub struct Call<'a> {
    op: &'static str,
    tensors: &'a Tensors,
    parameters: Map<String, Value>,
}

impl<'a> Call<'a> {
    /// The operation's name.
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// A tensor, if given.
    pub fn optional<D: Dimension>(&self, name: &'static str) -> Result<Option<ArrayView<'a, f32, D>>, Error> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(None) };
        let want = || format!("a tensor of {} axes", D::NDIM.unwrap_or(0));
        let view = tensor.view().into_dimensionality().map_err(|_| Error::Parameter {
            op: self.op,
            parameter: name,
            want: want(),
            found: format!("{:?}", tensor.shape()),
        });
        view.map(Some)
    }

    /// A required tensor.
    pub fn tensor<D: Dimension>(&self, name: &'static str) -> Result<ArrayView<'a, f32, D>, Error> {
        self.optional(name)?.ok_or_else(|| absent(self.op, name, "a tensor"))
    }

    /// A tensor of non-negative integers, if given.
    pub fn whole<D: Dimension>(&self, name: &'static str) -> Result<Option<Array<usize, D>>, Error> {
        let Some(tensor) = self.optional::<D>(name)? else { return Ok(None) };
        if let Some(x) = tensor.iter().find(|x| x.fract() != 0.0 || **x < 0.0 || **x > (1 << 24) as f32) {
            let want = format!("whole numbers up to {}", 1 << 24);
            return Err(Error::Parameter { op: self.op, parameter: name, want, found: x.to_string() });
        }
        Ok(Some(tensor.mapv(|x| x as usize)))
    }

    /// A boolean tensor, in which 0 is false and all else true, if given.
    pub fn flags<D: Dimension>(&self, name: &'static str) -> Result<Option<Array<bool, D>>, Error> {
        Ok(self.optional::<D>(name)?.map(|tensor| tensor.mapv(|x| x != 0.0)))
    }

    /// Whether a parameter is given.
    pub fn has(&self, name: &str) -> bool {
        self.parameters.contains_key(name)
    }

    /// Removes a parameter and returns its value.
    pub fn take<P: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<P>, Error> {
        let Some(value) = self.parameters.remove(name) else { return Ok(None) };
        let found = value.to_string();
        serde_json::from_value(value).map(Some).map_err(|e| Error::read(self.op, name, format!("{found}: {e}")))
    }

    /// The boundaries of packed sequences, `cu_seqlens`, if given.
    pub fn bounds(&mut self) -> Result<Bounds, Error> {
        Ok(Bounds(self.take("cu_seqlens")?))
    }

    /// Removes and returns the remaining parameters.
    pub fn rest(&mut self) -> Value {
        Value::Object(std::mem::take(&mut self.parameters))
    }

    /// The remaining parameters, deserialised.
    pub fn read<P: DeserializeOwned>(&mut self) -> Result<P, Error> {
        serde_json::from_value(self.rest()).map_err(|e| Error::read(self.op, "parameters", e))
    }
}

/// The boundaries of packed sequences, if any.
#[derive(Clone, Debug)]
pub struct Bounds(Option<Vec<usize>>);

impl Bounds {
    /// The sequences, as kernels take them.
    pub fn sequences(&self) -> Sequences<'_> {
        self.0.as_deref().map_or(Sequences::Batch, Sequences::Packed)
    }

    /// Whether sequences are packed.
    pub(crate) fn packed(&self) -> bool {
        self.0.is_some()
    }

    /// An error if sequences are packed: a step takes one token per sequence.
    pub fn none_for_steps(&self, op: &'static str) -> Result<(), Error> {
        let Some(bounds) = &self.0 else { return Ok(()) };
        let want = "none where tokens are read one by one";
        crate::error::parameter(op, "cu_seqlens", false, bounds, want)
    }
}

/// The boundaries of packed sequences.
pub(crate) const PACKED: Parameter =
    parameter("cu_seqlens", "null", "where packed sequences begin and end, in a batch of one: [0, …, T]");

/// The description of an initial state.
pub(crate) const STATE: &str = "before the first token; zero if absent";

/// Tensors from pairs.
pub(crate) fn tensors<const N: usize>(pairs: [(&str, ArrayD<f32>); N]) -> Tensors {
    pairs.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect()
}

/// Converts a tensor to f64.
pub(crate) fn exact<D: Dimension>(x: ArrayView<'_, f32, D>) -> Array<f64, D> {
    x.mapv(f64::from)
}

/// Rounds a result of the definition to f32.
pub(crate) fn rounded<D: Dimension>(x: Array<f64, D>) -> ArrayD<f32> {
    x.mapv(|x| x as f32).into_dyn()
}
