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
    name: "rwkv7",
    family: "delta",
    forms: &[Form::Naive, Form::Recurrent, Form::Step],
    cost: "O(T H K V)",
    state: "H K V",
    paper: "Peng et al. 2025, RWKV-7",
    note: "the authors have no scale, nor has flash-linear-attention (`chunk_rwkv7`): give `scale` 1",
    example: "{}",
    operation: &Op,
};

/// The inputs.
fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    Ok(Inputs {
        q: x.tensor("q")?,
        k: x.tensor("k")?,
        v: x.tensor("v")?,
        g: x.tensor("g")?,
        kappa: x.tensor("kappa")?,
        a: x.tensor("a")?,
        scale: F::nearest(x.parameters::<Scale>()?.of(x.tensor("q")?)),
        sequences: x.sequences(),
    })
}

impl Recurrence for Op {
    const ABOUT: About = About {
        inputs: &[
            Argument::input("q", &["B", "T", "H", "K"], "queries"),
            Argument::input("k", &["B", "T", "H", "K"], "keys"),
            Argument::input("v", &["B", "T", "H", "V"], "values"),
            Argument::input("g", &["B", "T", "H", "K"], "the gate's logarithm, at most 0").between(-0.5, -0.01),
            Argument::input("kappa", &["B", "T", "H", "K"], "what is erased by, of length 1").between(-0.2, 0.2),
            Argument::input("a", &["B", "T", "H", "K"], "how much of it is erased, the rate of learning in context")
                .between(0.0, 1.0),
        ],
        parameters: &[SCALE],
        output: &["B", "T", "H", "V"],
        state: &["sequences", "H", "K", "V"],
    };

    calls!([Step => step, _ => recurrent], [q, k, v, g, kappa, a, state]);
}
