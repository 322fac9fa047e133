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
    name: "mamba",
    family: "diagonal",
    forms: &[Form::Naive, Form::Recurrent, Form::Step],
    cost: "O(T D N)",
    state: "N D",
    paper: "Gu and Dao 2023, Mamba",
    note: "",
    example: "{}",
    operation: &Op,
};

fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    x.no_parameters()?;
    Ok(Inputs {
        x: x.tensor("x")?,
        dt: x.tensor("dt")?,
        dt_bias: x.tensor("dt_bias")?,
        a: x.tensor("a")?,
        b: x.tensor("b")?,
        c: x.tensor("c")?,
        d: x.tensor("d")?,
        z: x.optional("z")?,
        sequences: x.sequences(),
    })
}

impl Recurrence for Op {
    const ABOUT: About = About {
        inputs: &[
            Argument::input("x", &["B", "T", "D"], "what is written to the state"),
            Argument::input("dt", &["B", "T", "D"], "the step before softplus"),
            Argument::input("dt_bias", &["D"], "added to it"),
            Argument::input("a", &["N", "D"], "the matrix A, negative").between(-1.0, -0.1),
            Argument::input("b", &["B", "T", "N"], "the matrix B"),
            Argument::input("c", &["B", "T", "N"], "the matrix C"),
            Argument::input("d", &["D"], "the matrix D"),
            Argument::optional("z", &["B", "T", "D"], "what gates the output through silu"),
        ],
        parameters: &[],
        output: &["B", "T", "D"],
        state: &["sequences", "N", "D"],
    };

    calls!([Step => step, _ => recurrent], [x, dt, dt_bias, a, b, c, d, z, state]);
}
