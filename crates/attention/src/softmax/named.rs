//! Patterns by name, with parameters from JSON.

use longreach_simd::Cx;
use ndarray::{Array3, Array4};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::bigbird::BigBird;
use super::deepspeed;
use super::dense::Dense;
use super::dilated::Dilated;
use super::h_transformer_1d::HTransformer1d;
use super::hierarchical::Hierarchical;
use super::infllm_v2::InfLlmV2;
use super::longformer::Longformer;
use super::longnet::LongNet;
use super::masked::Masked;
use super::moba::Moba;
use super::sparse_transformer::SparseTransformer;
use super::streaming::Streaming;
use super::window::Window;
use super::{Attend, Cotangent, Gradient, Inputs, Output, OutputView, Pattern, Patterned, Sizes, packed_sequences};
use crate::{Error, Mechanism};

/// The patterns that do not depend on the content, with example parameters.
pub const STATIC: &[(&str, &str)] = &[
    example(super::dense::operation::MECHANISM),
    ("masked", r#"{"start": [0, 1, 3], "indices": [0, 0, 1]}"#),
    example(super::window::operation::MECHANISM),
    example(super::dilated::operation::MECHANISM),
    example(super::longformer::operation::MECHANISM),
    example(super::bigbird::operation::MECHANISM),
    example(super::sparse_transformer::operation::MECHANISM),
    example(super::deepspeed::operation::MECHANISM),
    example(super::streaming::operation::MECHANISM),
    example(super::longnet::operation::MECHANISM),
];

const fn example(of: Mechanism) -> (&'static str, &'static str) {
    (of.name, of.example)
}

/// The pattern of this name over the given sizes. Parameters are the fields of the mechanism's type; `masked` takes
/// compressed rows (`start`, `indices`), `longformer` a `window` and the positions of `global` tokens, `deepspeed` its
/// own configuration plus `seed` and `hidden`. Errors on unknown names and bad parameters.
pub fn named(name: &str, parameters: &Value, of: &Sizes) -> Result<Box<dyn Pattern>, Error> {
    let Some(&(op, _)) = STATIC.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = STATIC.iter().map(|(name, _)| *name).collect();
        let want = format!("one of {}", known.join(", "));
        return Err(Error::Parameter { op: "pattern", parameter: "name", want, found: format!("{name:?}") });
    };
    let pattern: Box<dyn Pattern> = match op {
        "dense" => Box::new(read::<Dense>(op, parameters)?),
        "window" => Box::new(read::<Window>(op, parameters)?),
        "dilated" => Box::new(read::<Dilated>(op, parameters)?),
        "sparse_transformer" => Box::new(read::<SparseTransformer>(op, parameters)?),
        "streaming" => Box::new(read::<Streaming>(op, parameters)?),
        "longnet" => Box::new(read::<LongNet>(op, parameters)?),
        "bigbird" => Box::new(read::<BigBird>(op, parameters)?.layout(of)?),
        "masked" => {
            let Rows { start, indices } = read(op, parameters)?;
            Box::new(Masked::compressed(&start, &indices, of.keys)?)
        }
        "longformer" => {
            let Globals { window, global } = read(op, parameters)?;
            of.within(op)?;
            let tokens = of.keys;
            let marks = ndarray::Array2::from_shape_fn((1, tokens), |(_, i)| global.contains(&i));
            Box::new(Longformer::new(window, marks.view()))
        }
        _ => {
            let mut parameters = parameters.clone();
            let mut beside =
                |name| parameters.as_object_mut().and_then(|fields| fields.remove(name)).unwrap_or_default();
            let (seed, hidden) = (beside("seed"), beside("hidden"));
            let seed = if seed.is_null() { 0 } else { read(op, &seed)? };
            let hidden = if hidden.is_null() { deepspeed::Hidden::Tokens } else { read(op, &hidden)? };
            Box::new(deepspeed::Config::read(parameters)?.layout(of, seed)?.hiding(hidden))
        }
    };
    pattern.check(of)?;
    Ok(pattern)
}

/// The mechanism of this name on queries, keys and values, with parameters as for [`named`]. Also includes `moba`,
/// `infllm_v2`, `hierarchical` and `h_transformer_1d`, which depend on the content.
pub fn mechanism(name: &str, parameters: &Value, of: &Sizes) -> Result<Box<dyn Attend>, Error> {
    Ok(match name {
        "dilated" => Box::new(read::<Dilated>("dilated", parameters)?),
        "sparse_transformer" => Box::new(read::<SparseTransformer>("sparse_transformer", parameters)?),
        "longnet" => Box::new(read::<LongNet>("longnet", parameters)?),
        "hierarchical" => Box::new(read::<Hierarchical>("hierarchical", parameters)?),
        "h_transformer_1d" => Box::new(read::<HTransformer1d>("h_transformer_1d", parameters)?),
        "moba" => Box::new(read::<Moba>("moba", parameters)?),
        "infllm_v2" => Box::new(read::<InfLlmV2>("infllm_v2", parameters)?),
        _ => Box::new(Patterned::from(named(name, parameters, of)?)),
    })
}

/// A mechanism whose layout depends on the sequence length: each packed sequence has its own.
#[derive(Debug)]
pub(super) struct ByLength {
    op: &'static str,
    parameters: Value,
}

impl ByLength {
    /// Whether this mechanism's layout depends on the length.
    pub(super) fn knows(op: &str) -> bool {
        ["bigbird", "deepspeed"].contains(&op)
    }

    /// The mechanism, with parameters as for [`mechanism`].
    pub(super) fn new(op: &'static str, parameters: Value) -> Self {
        Self { op, parameters }
    }

    /// The mechanism for a call with one sequence per row.
    fn of<T, F: Copy + Into<f64>>(&self, x: &Inputs<'_, T, F>) -> Result<Box<dyn Attend>, Error> {
        mechanism(self.op, &self.parameters, &x.sizes(self.op)?.0)
    }
}

impl Attend for ByLength {
    fn chunk(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
        packed_sequences::forward(self.op, x, |x| self.of(x)?.chunk(x, cx))
    }

    fn step(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
        packed_sequences::forward(self.op, x, |x| self.of(x)?.step(x, cx))
    }

    fn backward(&self, x: &Inputs<'_>, output: OutputView<'_>, d: &Cotangent<'_>, cx: &Cx) -> Result<Gradient, Error> {
        packed_sequences::backward(self.op, x, output, d, |x, output, d| self.of(x)?.backward(x, output, d, cx))
    }

    fn naive(&self, x: &Inputs<'_, f64, f64>) -> Result<(Array4<f64>, Array3<f64>), Error> {
        packed_sequences::naive(self.op, x, |x| self.of(x)?.naive(x))
    }
}

/// Deserialises parameters; a field that is `null` is treated as absent.
fn read<P: DeserializeOwned>(op: &'static str, parameters: &Value) -> Result<P, Error> {
    let mut parameters = parameters.clone();
    if let Some(fields) = parameters.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    serde_json::from_value(parameters).map_err(|error| {
        let message = match STATIC.iter().find(|(name, _)| *name == op) {
            Some((_, example)) => format!("{error}, want such as {example}"),
            None => error.to_string(),
        };
        Error::read(op, "parameters", message)
    })
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    start: Vec<usize>,
    indices: Vec<usize>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Globals {
    window: usize,
    #[serde(default)]
    global: Vec<usize>,
}
