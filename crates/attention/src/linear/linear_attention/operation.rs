//! The mechanism as an operation on named tensors.

use longreach_simd::Cx;
use ndarray::ArrayD;
use serde::Deserialize;

use super::{EPSILON, Inputs, Map, OP, backward, chunk, naive, recurrent, step};
use crate::operation::recurrence::{About, Cotangents, Given, Recurrence, calls, ranked_mut};
use crate::operation::{Argument, Number, Parameter, choice, flag, parameter};
use crate::{Error, Form, Mechanism};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "linear_attention",
    family: "linear",
    forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Step],
    cost: "O(T H F V)",
    state: "H F (V + 1)",
    paper: "Katharopoulos et al. 2020; Arora et al. 2024, Based",
    note: "flash-linear-attention has a `scale` of 1 / √K where none is given; its models of Based make features of K^-1/4 x, which is the map `based`, not `taylor`",
    example: "{}",
    operation: &Op,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Parameters {
    map: Map,
    normalize: bool,
    epsilon: f64,
    causal: bool,
    scale: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { map: Map::Elu, normalize: true, epsilon: EPSILON, causal: true, scale: 1.0 }
    }
}

/// The inputs.
fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    let Parameters { map, normalize, epsilon, causal, scale } = x.parameters()?;
    Ok(Inputs {
        q: x.tensor("q")?,
        k: x.tensor("k")?,
        v: x.tensor("v")?,
        map,
        normalize: normalize.then_some(epsilon),
        causal,
        scale,
        sequences: x.sequences(),
    })
}

const PARAMETERS: &[Parameter] = &[
    parameter("map", "\"elu\"", "the features").one_of(&[
        choice("\"elu\""),
        choice("\"relu\""),
        choice("\"relu2\""),
        choice("\"exp\""),
        choice("\"identity\"").with(r#"{"normalize": false}"#),
        choice("\"taylor\""),
        choice("\"based\""),
    ]),
    flag("normalize", "true", "divide by the sum of the weights"),
    parameter("epsilon", "1e-6", "added to that sum"),
    flag("causal", "true", "hide the future"),
    parameter("scale", "1.0", "times which the features of queries are taken"),
];

impl Recurrence for Op {
    const ABOUT: About = About {
        inputs: &[
            Argument::input("q", &["B", "T", "G", "K"], "queries; head h reads group h / (H / G)"),
            Argument::input("k", &["B", "T", "G", "K"], "keys"),
            Argument::input("v", &["B", "T", "H", "V"], "values"),
        ],
        parameters: PARAMETERS,
        output: &["B", "T", "H", "V"],
        state: &["sequences", "H", "F", "V (+ 1)"],
    };

    calls!([Chunk => chunk, Step => step, _ => recurrent], [q, k, v, state]);
}
