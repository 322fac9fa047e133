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
    name: "rwkv6",
    family: "linear",
    forms: &[Form::Naive, Form::Recurrent, Form::Step],
    cost: "O(T H K V)",
    state: "H K V",
    paper: "Peng et al. 2024, Eagle and Finch",
    note: "the authors have no scale, nor has the layer of flash-linear-attention: give `scale` 1; its function has 1 / √K where none is given, as here",
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
        u: x.tensor("u")?,
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
            Argument::input("g", &["B", "T", "H", "K"], "the gate's logarithm, at most 0").between(-0.5, -0.01),
            Argument::input("u", &["H", "K"], "the bonus"),
        ],
        parameters: &[SCALE],
        output: &["B", "T", "H", "V"],
        state: &["sequences", "H", "K", "V"],
    };

    calls!([Step => step, _ => recurrent], [q, k, v, g, u, state]);
}
