//! The mechanism as an operation on named tensors.

use longreach_simd::Cx;
use ndarray::ArrayD;
use serde::Deserialize;

use super::{Inputs, OP, backward, chunk, naive, recurrent, step};
use crate::operation::recurrence::{About, Cotangents, Given, Recurrence, calls, ranked_mut};
use crate::operation::{Argument, Number, parameter};
use crate::{Error, Form, Mechanism};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "scan",
    family: "linear",
    forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Step],
    cost: "O(T H K V)",
    state: "H K V",
    paper: "Dao and Gu 2024, Mamba-2, section 6",
    note: "",
    example: "{}",
    operation: &Op,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    #[serde(default = "one")]
    scale: f64,
}

fn one() -> f64 {
    1.0
}

/// The inputs.
fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    let Parameters { scale: by } = x.parameters()?;
    Ok(Inputs {
        q: x.tensor("q")?,
        k: x.tensor("k")?,
        v: x.tensor("v")?,
        g: x.optional("g")?,
        beta: x.optional("beta")?,
        skip: x.optional("skip")?,
        scale: F::nearest(by),
        sequences: x.sequences(),
    })
}

impl Recurrence for Op {
    const ABOUT: About = About {
        inputs: &[
            Argument::input("q", &["B", "T", "G", "K"], "queries; head h reads group h / (H / G)"),
            Argument::input("k", &["B", "T", "G", "K"], "keys"),
            Argument::input("v", &["B", "T", "H", "V"], "values"),
            Argument::optional("g", &["B", "T", "H"], "the gate's logarithm, at most 0; absent means 0")
                .between(-0.5, -0.01)
                .sampled(),
            Argument::optional("beta", &["B", "T", "H"], "how strongly a token is written; absent means 1"),
            Argument::optional("skip", &["H"], "how much of the value passes by the state"),
        ],
        parameters: &[parameter("scale", "1.0", "the factor of the output")],
        output: &["B", "T", "H", "V"],
        state: &["sequences", "H", "K", "V"],
    };

    calls!([Chunk => chunk, Step => step, _ => recurrent], [q, k, v, g, beta, skip, state]);
}
