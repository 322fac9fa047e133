//! The mechanism as an operation on named tensors.

use longreach_simd::Cx;
use ndarray::ArrayD;

use super::{Inputs, OP, backward, naive, recurrent, step};
use crate::operation::recurrence::{About, Cotangents, Given, Recurrence, SCALE, Scale, calls, ranked_mut};
use crate::operation::{Argument, Number};
use crate::{Error, Form, Mechanism};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "hgrn2",
    family: "linear",
    forms: &[Form::Naive, Form::Recurrent, Form::Step],
    cost: "O(T H K V)",
    state: "H K V",
    paper: "Qin et al. 2024, HGRN2",
    note: "",
    example: "{}",
    operation: &Op,
};

/// The inputs.
fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    Ok(Inputs {
        q: x.tensor("q")?,
        g: x.tensor("g")?,
        v: x.tensor("v")?,
        scale: F::nearest(x.parameters::<Scale>()?.of(x.tensor("q")?)),
        sequences: x.sequences(),
    })
}

impl Recurrence for Op {
    const ABOUT: About = About {
        inputs: &[
            Argument::input("q", &["B", "T", "H", "K"], "queries"),
            Argument::input("g", &["B", "T", "H", "K"], "the gate's logarithm, at most 0").between(-0.5, -0.01),
            Argument::input("v", &["B", "T", "H", "V"], "values"),
        ],
        parameters: &[SCALE],
        output: &["B", "T", "H", "V"],
        state: &["sequences", "H", "K", "V"],
    };

    calls!([Step => step, _ => recurrent], [q, g, v, state]);
}
