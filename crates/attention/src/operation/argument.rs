//! The description of an operation's arguments and results.

use serde_json::{Map, Value};

use super::absent;
use crate::{Error, Form};

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
    /// What its elements are.
    pub kind: Kind,
}

/// What the elements of a tensor argument are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Numbers: f32, or f64 for the definition.
    Number,
    /// Non-negative integers.
    Index,
    /// Flags.
    Flag,
}

impl Kind {
    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Number => "number",
            Kind::Index => "index",
            Kind::Flag => "flag",
        }
    }
}

impl Argument {
    /// A required input.
    pub(crate) const fn input(name: &'static str, axes: &'static [&'static str], about: &'static str) -> Self {
        let (range, with) = ((-1.0, 1.0), &[] as &[&str]);
        Self { name, axes, needed: true, about, gradient: true, with, range, sampled: true, kind: Kind::Number }
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

    /// Of integers, without a gradient.
    pub(crate) const fn whole(self) -> Self {
        Self { kind: Kind::Index, gradient: false, ..self }
    }

    /// Of flags, without a gradient.
    pub(crate) const fn flags(self) -> Self {
        Self { kind: Kind::Flag, ..self.between(0.0, 2.0).constant() }
    }

    /// Its axes in brackets.
    pub fn shape(&self) -> String {
        format!("[{}]", self.axes.join(", "))
    }

    /// How many of its first axes kernels take with any strides; the others must be contiguous.
    pub(super) fn free_axes(&self) -> usize {
        match self.axes {
            [_, "T" | "S", ..] | [_, _, "T", ..] => 2,
            _ => 0,
        }
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
    /// Outputs that the gradient reads. It computes them again unless its call has all of them.
    pub saved: &'static [&'static str],
}

/// What an operation says of itself; the rest of its [`Signature`] stands in the mechanism's entry in the list.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) inputs: Vec<Argument>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) outputs: Vec<Argument>,
    pub(crate) saved: &'static [&'static str],
}

impl Signature {
    /// The given parameters; an error if one is unknown or a required one is missing.
    pub(super) fn parameters(&self, op: &'static str, given: &Value) -> Result<Map<String, Value>, Error> {
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
