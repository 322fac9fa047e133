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
    name: "dplr",
    family: "delta",
    forms: &[Form::Naive, Form::Recurrent, Form::Step],
    cost: "O(T H K V)",
    state: "H K V",
    paper: "Peng et al. 2025, RWKV-7, eq. 17",
    note: "",
    example: "{}",
    operation: &Op,
};

/// The inputs.
fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    Ok(Inputs {
        q: x.tensor("q")?,
        k: x.tensor("k")?,
        v: x.tensor("v")?,
        a: x.tensor("a")?,
        b: x.tensor("b")?,
        g: x.tensor("g")?,
        scale: F::nearest(x.parameters::<Scale>()?.of(x.tensor("k")?)),
        sequences: x.sequences(),
    })
}

impl Recurrence for Op {
    const ABOUT: About = About {
        inputs: &[
            Argument::input("q", &["B", "T", "G", "K"], "queries; head h reads group h / (H / G)"),
            Argument::input("k", &["B", "T", "G", "K"], "keys"),
            Argument::input("v", &["B", "T", "H", "V"], "values"),
            Argument::input("a", &["B", "T", "H", "K"], "what reads that which is erased").between(-0.2, 0.2),
            Argument::input("b", &["B", "T", "H", "K"], "where it goes").between(-0.2, 0.2),
            Argument::input("g", &["B", "T", "H", "K"], "the gate's logarithm, at most 0").between(-0.5, -0.01),
        ],
        parameters: &[SCALE],
        output: &["B", "T", "H", "V"],
        state: &["sequences", "H", "K", "V"],
    };

    calls!([Step => step, _ => recurrent], [q, k, v, a, b, g, state]);
}
