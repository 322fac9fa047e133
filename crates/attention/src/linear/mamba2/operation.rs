//! The mechanism as an operation on named tensors.

use longreach_simd::Cx;
use ndarray::ArrayD;
use serde::Deserialize;

use super::{Inputs, OP, backward, chunk, naive, recurrent, step};
use crate::operation::recurrence::{About, Cotangents, Given, Recurrence, calls, ranked_mut};
use crate::operation::{Argument, Number, Parameter, choice, parameter};
use crate::{Error, Form, Mechanism};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "mamba2",
    family: "linear",
    forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Step],
    cost: "O(T H N P)",
    state: "H N P",
    paper: "Dao and Gu 2024, Mamba-2",
    note: "",
    example: "{}",
    operation: &Op,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    #[serde(default)]
    dt_min: f64,
    dt_max: Option<f64>,
}

/// The inputs.
fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    let Parameters { dt_min, dt_max } = x.parameters()?;
    Ok(Inputs {
        x: x.tensor("x")?,
        dt: x.tensor("dt")?,
        dt_bias: x.tensor("dt_bias")?,
        dt_limit: (F::nearest(dt_min), F::nearest(dt_max.unwrap_or(f64::INFINITY))),
        a: x.tensor("a")?,
        b: x.tensor("b")?,
        c: x.tensor("c")?,
        d: x.tensor("d")?,
        sequences: x.sequences(),
    })
}

const PARAMETERS: &[Parameter] = &[
    parameter("dt_min", "0.0", "the least step after softplus"),
    parameter("dt_max", "null", "the largest; no limit if null").such_as(&[choice("0.5")]),
];

impl Recurrence for Op {
    const ABOUT: About = About {
        inputs: &[
            Argument::input("x", &["B", "T", "H", "P"], "what is written to the state"),
            Argument::input("dt", &["B", "T", "H"], "the step before softplus"),
            Argument::input("dt_bias", &["H"], "added to it"),
            Argument::input("a", &["H"], "the matrix A, negative").between(-1.0, -0.1),
            Argument::input("b", &["B", "T", "G", "N"], "the matrix B; head h reads group h / (H / G)"),
            Argument::input("c", &["B", "T", "G", "N"], "the matrix C"),
            Argument::input("d", &["H"], "the matrix D"),
        ],
        parameters: PARAMETERS,
        output: &["B", "T", "H", "P"],
        state: &["sequences", "H", "N", "P"],
    };

    calls!([Chunk => chunk, Step => step, _ => recurrent], [x, dt, dt_bias, a, b, c, d, state]);
}
