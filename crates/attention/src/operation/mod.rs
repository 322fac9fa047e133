//! Mechanisms called by name, on tensors and parameters by name: for a command line, a scripting language, a comparison with another
//! implementation. An [`Operation`] says what it takes ([`Signature`]) and runs any of its forms.
//!
//! Outputs are `o`, where there are such `lse` and `state` (that after the last token). The gradient reads `d` and the name of each output that says so
//! (`do`, `dlse`, `dstate`), of which only `do` must be there, and gives `d` and the name of each input that is given and says so; the gradient to a state
//! is given even if the state is absent, which means zero.
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

/// A tensor of an operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// Its axes, in letters of the glossary.
    pub axes: &'static [&'static str],
    /// Whether it must be there.
    pub needed: bool,
    /// What it is.
    pub about: &'static str,
    /// Of an input, whether it gets a gradient, `d` and its name; of an output, whether the gradient may start there, given as `d` and its name.
    pub gradient: bool,
    /// The other tensors that must be given with it.
    pub with: &'static [&'static str],
    /// Between what a sample of it lies.
    pub range: (f32, f32),
    /// Whether samples hold it.
    pub sampled: bool,
    /// Whether its samples are whole numbers.
    pub whole: bool,
}

impl Argument {
    /// An input that must be there.
    pub(crate) const fn input(name: &'static str, axes: &'static [&'static str], about: &'static str) -> Self {
        let (range, with) = ((-1.0, 1.0), &[] as &[&str]);
        Self { name, axes, needed: true, about, gradient: true, with, range, sampled: true, whole: false }
    }

    /// An input that may be left out.
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

    /// To be given together with others.
    pub(crate) const fn with(self, with: &'static [&'static str]) -> Self {
        Self { with, ..self }
    }

    /// With samples between two numbers.
    pub(crate) const fn between(self, low: f32, high: f32) -> Self {
        Self { range: (low, high), ..self }
    }

    /// In every sample, though it may be left out.
    pub(crate) const fn sampled(self) -> Self {
        Self { sampled: true, ..self }
    }

    /// With samples that are whole numbers, and without a gradient.
    pub(crate) const fn whole(self) -> Self {
        Self { whole: true, gradient: false, ..self }
    }

    /// With samples of 0 and 1, and without a gradient.
    pub(crate) const fn zeros_and_ones(self) -> Self {
        self.between(0.0, 2.0).whole()
    }
}

/// A value that a parameter may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// As JSON.
    pub value: &'static str,
    /// Other parameters that it needs, or is best with, as a JSON object.
    pub with: &'static str,
    /// Optional tensors that it needs.
    pub tensors: &'static [&'static str],
}

/// A value that needs nothing else.
pub(crate) const fn choice(value: &'static str) -> Choice {
    Choice { value, with: "{}", tensors: &[] }
}

impl Choice {
    /// With other parameters.
    pub(crate) const fn with(self, with: &'static str) -> Self {
        Self { with, ..self }
    }

    /// With optional tensors.
    pub(crate) const fn beside(self, tensors: &'static [&'static str]) -> Self {
        Self { tensors, ..self }
    }
}

/// A parameter of an operation. `null` for its value is as if it were not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its value where none is given, as JSON; empty where one must be.
    pub default: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Values it may have: all there are, or examples of them.
    pub choices: &'static [Choice],
    /// Whether the choices are all there are.
    pub closed: bool,
    /// Whether it is a block of a larger file, whose other fields are passed over.
    pub of_file: bool,
}

/// A parameter in one line.
pub(crate) const fn parameter(name: &'static str, default: &'static str, about: &'static str) -> Parameter {
    Parameter { name, default, about, choices: &[], closed: false, of_file: false }
}

/// A parameter that is true or false.
pub(crate) const fn flag(name: &'static str, default: &'static str, about: &'static str) -> Parameter {
    parameter(name, default, about).one_of(BOOLEANS)
}

const BOOLEANS: &[Choice] = &[choice("false"), choice("true")];

impl Parameter {
    /// With all values there are.
    pub(crate) const fn one_of(self, choices: &'static [Choice]) -> Self {
        Self { choices, closed: true, ..self }
    }

    /// With examples of its values.
    pub(crate) const fn such_as(self, choices: &'static [Choice]) -> Self {
        Self { choices, closed: false, ..self }
    }
}

/// What an operation takes and gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// The tensors it takes.
    pub inputs: Vec<Argument>,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// The tensors it gives.
    pub outputs: Vec<Argument>,
    /// Its forms.
    pub forms: &'static [Form],
    /// Parameters to begin with, as JSON.
    pub example: &'static str,
}

/// Sizes of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `B`
    pub batch: usize,
    /// `T`, and as many keys
    pub tokens: usize,
    /// `H`
    pub heads: usize,
    /// Channels of a head
    pub width: usize,
    /// Where the numbers begin.
    pub seed: u64,
}

impl Default for Sample {
    fn default() -> Self {
        Self { batch: 1, tokens: 128, heads: 4, width: 64, seed: 0 }
    }
}

impl Sample {
    /// The size of an axis: `D` is a head's width, or, with `channels`, all heads'.
    fn size(&self, axis: &str, channels: bool) -> usize {
        match axis {
            "B" | "B or 1" => self.batch,
            "T" | "S" => self.tokens,
            "H" | "G" | "H or 1" => self.heads,
            "D" if channels => self.heads * self.width,
            "N" if channels => 16,
            "W" => 4,
            // Half of the buckets, and the rounds, of a hash.
            "n/2" => (self.tokens / 64).max(1),
            "rounds" => 2,
            "taps" => 3,
            "N / ratio" => self.width / 4,
            digits => digits.parse().unwrap_or(self.width),
        }
    }
}

/// A mechanism on tensors by name.
pub trait Operation: Sync {
    /// What it takes and gives.
    fn signature(&self) -> Signature;

    /// Its outputs, by one of its forms.
    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error>;

    /// Gradients to its inputs.
    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error>;
}

/// An operation by its name.
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

/// The mechanism of this name in [`MECHANISMS`], as an operation.
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

    /// What it takes and gives.
    pub fn signature(&self) -> Signature {
        self.operation.signature()
    }

    /// Random inputs of given sizes, from numbers that are the same everywhere.
    pub fn sample(&self, of: &Sample) -> Tensors {
        self.sample_with(of, &[])
    }

    /// As [`Named::sample`], with inputs that may be left out. What carries a state is of the wrong shape: it is what a call gave.
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

    /// Its outputs, by one of its forms.
    pub fn forward(&self, tensors: &Tensors, parameters: &Value, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let forms = self.signature().forms;
        if !forms.contains(&form) {
            let known: Vec<&str> = forms.iter().map(|form| form.name()).collect();
            let want = format!("one of {}", known.join(", "));
            return Err(Error::Parameter { op: self.name, parameter: "form", want, found: form.name().into() });
        }
        // Some mechanisms are made of others, which name themselves.
        self.operation.run(&mut self.call(tensors, parameters)?, form, cx).map_err(|e| e.of(self.name))
    }

    /// Gradients to its inputs, given `do` and where there are such `dlse` and `dstate`.
    pub fn backward(&self, tensors: &Tensors, parameters: &Value, cx: &Cx) -> Result<Tensors, Error> {
        self.operation.gradient(&mut self.call(tensors, parameters)?, cx).map_err(|e| e.of(self.name))
    }

    fn call<'a>(&self, tensors: &'a Tensors, parameters: &Value) -> Result<Call<'a>, Error> {
        let op = self.name;
        let signature = self.signature();
        let Signature { inputs, outputs, .. } = &signature;
        let starts = outputs.iter().filter(|output| output.gradient);
        let mut known: BTreeMap<String, &Argument> = inputs.iter().map(|input| (input.name.into(), input)).collect();
        // They may be there though nobody asks for the gradient.
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
    /// The parameters that are given, all of them known; an error if one is missing.
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

/// Between 0 and 1, by a 64-bit generator of Steele et al. 2014 (SplitMix).
fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}

/// A call, as an operation sees it: all tensors are known to it and have the right number of axes.
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

    /// A tensor, if it is there.
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

    /// A tensor that must be there.
    pub fn tensor<D: Dimension>(&self, name: &'static str) -> Result<ArrayView<'a, f32, D>, Error> {
        self.optional(name)?.ok_or_else(|| absent(self.op, name, "a tensor"))
    }

    /// A tensor of whole numbers, at least 0, if it is there.
    pub fn whole<D: Dimension>(&self, name: &'static str) -> Result<Option<Array<usize, D>>, Error> {
        let Some(tensor) = self.optional::<D>(name)? else { return Ok(None) };
        if let Some(x) = tensor.iter().find(|x| x.fract() != 0.0 || **x < 0.0 || **x > (1 << 24) as f32) {
            let want = format!("whole numbers up to {}", 1 << 24);
            return Err(Error::Parameter { op: self.op, parameter: name, want, found: x.to_string() });
        }
        Ok(Some(tensor.mapv(|x| x as usize)))
    }

    /// A tensor of which 0 is false and all else true, if it is there.
    pub fn flags<D: Dimension>(&self, name: &'static str) -> Result<Option<Array<bool, D>>, Error> {
        Ok(self.optional::<D>(name)?.map(|tensor| tensor.mapv(|x| x != 0.0)))
    }

    /// Whether a parameter is given.
    pub fn has(&self, name: &str) -> bool {
        self.parameters.contains_key(name)
    }

    /// Takes a parameter out.
    pub fn take<P: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<P>, Error> {
        let Some(value) = self.parameters.remove(name) else { return Ok(None) };
        let found = value.to_string();
        serde_json::from_value(value).map(Some).map_err(|e| Error::read(self.op, name, format!("{found}: {e}")))
    }

    /// The boundaries of packed sequences, `cu_seqlens`, where they are given.
    pub fn bounds(&mut self) -> Result<Bounds, Error> {
        Ok(Bounds(self.take("cu_seqlens")?))
    }

    /// Takes what parameters are left.
    pub fn rest(&mut self) -> Value {
        Value::Object(std::mem::take(&mut self.parameters))
    }

    /// What parameters are left, as a mechanism's type.
    pub fn read<P: DeserializeOwned>(&mut self) -> Result<P, Error> {
        serde_json::from_value(self.rest()).map_err(|e| Error::read(self.op, "parameters", e))
    }
}

/// Where packed sequences begin and end, if they are packed.
#[derive(Clone, Debug)]
pub struct Bounds(Option<Vec<usize>>);

impl Bounds {
    /// As the kernels take them.
    pub fn sequences(&self) -> Sequences<'_> {
        self.0.as_deref().map_or(Sequences::Batch, Sequences::Packed)
    }

    /// An error if sequences are packed: a step has one token of each.
    pub fn none_for_steps(&self, op: &'static str) -> Result<(), Error> {
        let Some(bounds) = &self.0 else { return Ok(()) };
        let want = "none where tokens are read one by one";
        crate::error::parameter(op, "cu_seqlens", false, bounds, want)
    }
}

/// The boundaries of packed sequences.
pub(crate) const PACKED: Parameter =
    parameter("cu_seqlens", "null", "where packed sequences begin and end, in a batch of one: [0, …, T]");

/// The state before the first token.
pub(crate) const STATE: &str = "before the first token; zero if absent";

/// Tensors from pairs.
pub(crate) fn tensors<const N: usize>(pairs: [(&str, ArrayD<f32>); N]) -> Tensors {
    pairs.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect()
}

/// A tensor in f64, and back.
pub(crate) fn exact<D: Dimension>(x: ArrayView<'_, f32, D>) -> Array<f64, D> {
    x.mapv(f64::from)
}

/// A result of the definition, rounded.
pub(crate) fn rounded<D: Dimension>(x: Array<f64, D>) -> ArrayD<f32> {
    x.mapv(|x| x as f32).into_dyn()
}
