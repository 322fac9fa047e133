//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::ArrayD;
use serde::Deserialize;

use super::{Activation, Inputs, OP, backward, chunk, naive, step};
use crate::operation::recurrence::{About, Cotangents, Given, Recurrence, calls, ranked_mut};
use crate::operation::{Argument, Number, Parameter, choice, parameter};
use crate::{Error, Form, Mechanism};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "short_conv",
    family: "",
    forms: &[Form::Naive, Form::Chunk, Form::Step],
    cost: "O(T D W)",
    state: "(W - 1) D",
    paper: "Fu et al. 2022, H3",
    note: "",
    example: "{}",
    operation: &Op,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    #[serde(default)]
    activation: Activation,
}

fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    let Parameters { activation } = x.parameters()?;
    let bias = x.optional("bias")?;
    Ok(Inputs { x: x.tensor("x")?, w: x.tensor("w")?, bias, activation, sequences: x.sequences() })
}

const PARAMETERS: &[Parameter] =
    &[parameter("activation", "\"none\"", "what the output passes").one_of(&[choice("\"none\""), choice("\"silu\"")])];

impl Recurrence for Op {
    const ABOUT: About = About {
        inputs: &[
            Argument::input("x", &["B", "T", "D"], "the input"),
            Argument::input("w", &["W", "D"], "the taps; the last meets the current token"),
            Argument::optional("bias", &["D"], "added before the activation"),
        ],
        parameters: PARAMETERS,
        output: &["B", "T", "D"],
        state: &["sequences", "W - 1", "D"],
    };

    calls!([Step => step, _ => chunk], [x, w, bias, state]);
}
