//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::ArrayD;

use super::{Inputs, OP, backward, naive, recurrent, step};
use crate::operation::recurrence::{About, Cotangents, Given, Recurrence, calls, ranked_mut};
use crate::operation::{Argument, Number};
use crate::{Error, Form, Mechanism};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "rg_lru",
    family: "diagonal",
    forms: &[Form::Naive, Form::Recurrent, Form::Step],
    cost: "O(T D)",
    state: "D",
    paper: "De et al. 2024, Griffin",
    note: "",
    example: "{}",
    operation: &Op,
};

/// Reads the inputs of a call.
fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    x.no_parameters()?;
    Ok(Inputs {
        x: x.tensor("x")?,
        r: x.tensor("r")?,
        i: x.tensor("i")?,
        lambda: x.tensor("lambda")?,
        reset: x.optional("reset")?,
        sequences: x.sequences(),
    })
}

impl Recurrence for Op {
    const ABOUT: About = About {
        inputs: &[
            Argument::input("x", &["B", "T", "D"], "the input"),
            Argument::input("r", &["B", "T", "D"], "the recurrence gate before its sigmoid"),
            Argument::input("i", &["B", "T", "D"], "the input gate before its sigmoid"),
            Argument::input("lambda", &["D"], "softplus of it is how fast a channel forgets").between(-4.0, 0.0),
            Argument::optional("reset", &["B", "T"], "not zero where a text begins").flags(),
        ],
        parameters: &[],
        output: &["B", "T", "D"],
        state: &["sequences", "D"],
    };

    calls!([Step => step, _ => recurrent], [x, r, i, lambda, state]);
}
