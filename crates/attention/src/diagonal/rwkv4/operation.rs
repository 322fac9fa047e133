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
    name: "rwkv4",
    family: "diagonal",
    forms: &[Form::Naive, Form::Recurrent, Form::Step],
    cost: "O(T D)",
    state: "3 D",
    paper: "Peng et al. 2023, RWKV",
    note: "",
    example: "{}",
    operation: &Op,
};

/// Reads the inputs of a call.
fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    x.no_parameters()?;
    Ok(Inputs { k: x.tensor("k")?, v: x.tensor("v")?, w: x.tensor("w")?, u: x.tensor("u")?, sequences: x.sequences() })
}

impl Recurrence for Op {
    const ABOUT: About = About {
        inputs: &[
            Argument::input("k", &["B", "T", "D"], "the logarithms of the weights"),
            Argument::input("v", &["B", "T", "D"], "values"),
            Argument::input("w", &["D"], "the decay's logarithm, at most 0").between(-1.0, -0.01),
            Argument::input("u", &["D"], "the bonus of the token itself"),
        ],
        parameters: &[],
        output: &["B", "T", "D"],
        state: &["sequences", "3", "D"],
    };

    calls!([Step => step, _ => recurrent], [k, v, w, u, state]);
}
