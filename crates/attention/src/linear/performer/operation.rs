//! The mechanism as an operation on named tensors.

use longreach_simd::Cx;
use ndarray::ArrayD;
use serde::Deserialize;

use super::{Inputs, Kernel, OP, backward, chunk, naive, recurrent, step};
use crate::operation::recurrence::{About, Cotangents, Given, Recurrence, calls, ranked_mut};
use crate::operation::{Argument, Number, Parameter, choice, flag, parameter};
use crate::{Error, Form, Mechanism};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "performer",
    family: "linear",
    forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Step],
    cost: "O(T H F (K + V))",
    state: "H F (V + 1)",
    paper: "Choromanski et al. 2021, FAVOR+",
    note: "performer-pytorch subtracts maxima in the exponent, of keys over the whole text; here none is subtracted, so that nothing looks ahead: `epsilon` is absolute, and numbers differ where q and k are not small",
    example: "{}",
    operation: &Op,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Parameters {
    kernel: Kernel,
    epsilon: f64,
    causal: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { kernel: Kernel::Softmax, epsilon: 1e-4, causal: true }
    }
}

/// The inputs.
fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    let Parameters { kernel, epsilon, causal } = x.parameters()?;
    Ok(Inputs {
        q: x.tensor("q")?,
        k: x.tensor("k")?,
        v: x.tensor("v")?,
        w: x.tensor("w")?,
        kernel,
        epsilon,
        causal,
        sequences: x.sequences(),
    })
}

const PARAMETERS: &[Parameter] = &[
    parameter("kernel", "\"softmax\"", "the kernel that the features stand for").one_of(&[
        choice("\"softmax\""),
        choice("\"hyperbolic\""),
        choice("\"relu\""),
    ]),
    parameter("epsilon", "1e-4", "added to each feature; 1e-3 for `relu` in the authors' code"),
    flag("causal", "true", "hide the future"),
];

impl Recurrence for Op {
    const ABOUT: About = About {
        inputs: &[
            Argument::input("q", &["B", "T", "G", "K"], "queries; head h reads group h / (H / G)"),
            Argument::input("k", &["B", "T", "G", "K"], "keys"),
            Argument::input("v", &["B", "T", "H", "V"], "values"),
            Argument::input("w", &["M", "K"], "the random rows"),
        ],
        parameters: PARAMETERS,
        output: &["B", "T", "H", "V"],
        state: &["sequences", "H", "F", "V + 1"],
    };

    calls!([Chunk => chunk, Step => step, _ => recurrent], [q, k, v, w, state]);
}
