//! The mechanism as an operation on named tensors.

use longreach_simd::Cx;
use ndarray::ArrayD;
use serde::Deserialize;

use super::{Inputs, OP, backward, chunk, naive, recurrent, step};
use crate::operation::recurrence::{About, Cotangents, Given, Recurrence, calls, ranked_mut};
use crate::operation::{Argument, Number, Parameter, flag, parameter};
use crate::{Error, Form, Mechanism};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "cosformer",
    family: "linear",
    forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Step],
    cost: "O(T H K V)",
    state: "2 H K (V + 1)",
    paper: "Qin et al. 2022, cosFormer",
    note: "",
    example: r#"{"length": 1024}"#,
    operation: &Op,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    length: f64,
    #[serde(default = "yes")]
    causal: bool,
}

fn yes() -> bool {
    true
}

/// The inputs.
fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    let Parameters { length, causal } = x.parameters()?;
    Ok(Inputs {
        q: x.tensor("q")?,
        k: x.tensor("k")?,
        v: x.tensor("v")?,
        positions: x.tensor("positions")?,
        length,
        causal,
        sequences: x.sequences(),
    })
}

const PARAMETERS: &[Parameter] =
    &[parameter("length", "", "the last position there will be"), flag("causal", "true", "hide the future")];

impl Recurrence for Op {
    const ABOUT: About = About {
        inputs: &[
            Argument::input("q", &["B", "T", "G", "K"], "queries; head h reads group h / (H / G)").between(0.1, 1.0),
            Argument::input("k", &["B", "T", "G", "K"], "keys").between(0.1, 1.0),
            Argument::input("v", &["B", "T", "H", "V"], "values"),
            Argument::input("positions", &["B", "T"], "where each token stands, from 1 on")
                .between(1.0, 512.0)
                .constant(),
        ],
        parameters: PARAMETERS,
        output: &["B", "T", "H", "V"],
        state: &["sequences", "H", "2 K", "V + 1"],
    };

    calls!([Chunk => chunk, Step => step, _ => recurrent], [q, k, v, state]);
}
