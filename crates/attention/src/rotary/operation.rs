//! The mechanism as an operation on named tensors.

use longreach_simd::Cx;
use ndarray::{Array2, Ix4};
use serde_json::Value;

use super::{OP, Rotary, Scaling, backward, chunk, naive};
use crate::operation::{
    Argument, Arguments, Call, Choice, Exact, Operation, Parameter, Tensor, Tensors, View, choice, flag, parameter,
    tensors,
};
use crate::{Error, Form, Mechanism, error};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "rotary",
    family: "",
    forms: &[Form::Naive, Form::Chunk],
    cost: "O(T H D)",
    state: "0",
    paper: "Su et al. 2021, RoFormer",
    note: "",
    example: r#"{"theta": 10000.0}"#,
    operation: &Op,
};

/// Reads the positions, the length of the sequence for scalings, and the parameters.
fn read(call: &mut Call<'_>) -> Result<(Array2<usize>, usize, Rotary), Error> {
    let &[b, t, _, d] = call.view("x").map_or(&[][..], View::shape) else {
        return Err(Error::Parameter { op: OP, parameter: "x", want: "a tensor".into(), found: "none".into() });
    };
    let positions = call.whole("positions")?.unwrap_or_else(|| Array2::from_shape_fn((1, t), |(_, i)| i));
    let rows = if positions.dim().0 == 1 { 1 } else { b };
    error::shape(OP, "positions", &[rows, t], positions.shape())?;
    let last = positions.iter().max().map_or(0, |last| last + 1);
    let length = call.take("length")?.unwrap_or(last);
    let given: Value = call.take("scaling")?.unwrap_or_default();
    let scaling = Scaling::from_config(&given, call.take("max_position_embeddings")?)?;
    let theta = call.take("theta")?;
    // Newer files have the base in the same object as the scaling.
    let inside = given.get("rope_theta").and_then(Value::as_f64);
    if let (Some(theta), Some(inside)) = (theta, inside) {
        error::parameter(
            OP,
            "theta",
            theta == inside,
            theta,
            format!("what `rope_theta` of `scaling` says, {inside}"),
        )?;
    }
    let rotary = Rotary {
        width: call.take("width")?.unwrap_or(d),
        theta: theta.or(inside).unwrap_or(10_000.0),
        interleaved: call.take("interleaved")?.unwrap_or(false),
        scaling,
    };
    Ok((positions, length, rotary))
}

/// One example per kind of scaling.
const SCALINGS: &[Choice] = &[
    choice(r#"{"rope_type": "default"}"#),
    choice(r#"{"rope_type": "linear", "factor": 2.0}"#),
    choice(r#"{"type": "linear", "factor": 2.0, "rope_theta": 500.0}"#),
    choice(r#"{"rope_type": "dynamic", "factor": 2.0}"#).with(LONGEST),
    choice(r#"{"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}"#),
    choice(r#"{"type": "yarn", "factor": 2.0, "attention_factor": null}"#).with(LONGEST),
    choice(r#"{"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 3.0], "original_max_position_embeddings": 64}"#)
        .with(LONGEST),
    choice(r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}"#).with(LONGEST),
    choice(r#"{"rope_type": "proportional", "partial_rotary_factor": 0.5}"#),
];

const DYNAMIC: &str = r#"{"scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 128}"#;

const LONGEST: &str = r#"{"max_position_embeddings": 128}"#;

const PARAMETERS: &[Parameter] = &[
    parameter("width", "null", "how many channels of a head are turned, an even number; all of them if null")
        .such_as(&[choice("2")]),
    parameter("theta", "null", "the base of the frequencies; `rope_theta` of `scaling`, or 10000, if null")
        .such_as(&[choice("500")]),
    flag("interleaved", "false", "pair neighbouring channels, not the halves"),
    parameter(
        "scaling",
        "null",
        "`rope_scaling` or `rope_parameters` of a model's config.json: `rope_type` (or `type`) and its fields",
    )
    .such_as(SCALINGS),
    parameter(
        "max_position_embeddings",
        "null",
        "the model's longest sequence, for scalings that do not say `original_max_position_embeddings`",
    )
    .such_as(&[choice("4096").with(r#"{"scaling": {"type": "yarn", "factor": 2.0}}"#)]),
    parameter("length", "null", "tokens of the sequence, on which some scalings depend; the last position + 1 if null")
        .such_as(&[choice("4096").with(DYNAMIC)]),
];

impl Operation for Op {
    fn arguments(&self) -> Arguments {
        Arguments {
            inputs: vec![
                Argument::input("x", &["B", "T", "H", "D"], "queries or keys"),
                Argument::optional("positions", &["B or 1", "T"], "where the tokens stand; 0, 1, 2, … if absent")
                    .between(0.0, 512.0)
                    .whole(),
            ],
            parameters: PARAMETERS.to_vec(),
            outputs: vec![Argument::output("o", &["B", "T", "H", "D"], "the output")],
            saved: &[],
        }
    }

    fn naive(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Exact, Error> {
        let (positions, length, rotary) = read(call)?;
        let x = call.tensor("x")?;
        rotary.angles(positions.view(), length, cx)?.check(x.shape())?;
        Ok(tensors([("o", naive(x.view(), positions.view(), length, &rotary)?.into_dyn())]))
    }

    fn run(&self, call: &mut Call<'_>, _: Form, cx: &Cx) -> Result<Tensors, Error> {
        let (positions, length, rotary) = read(call)?;
        let x: Tensor<'_, f32, Ix4> = call.tensor("x")?;
        let angles = rotary.angles(positions.view(), length, cx)?;
        Ok(tensors([("o", chunk(x.view(), &angles, cx)?.into_dyn())]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let (positions, length, rotary) = read(call)?;
        let (x, d): (Tensor<'_, f32, Ix4>, Tensor<'_, f32, Ix4>) = (call.tensor("x")?, call.tensor("do")?);
        error::shape(OP, "do", x.shape(), d.shape())?;
        Ok(tensors([("dx", backward(d.view(), &rotary.angles(positions.view(), length, cx)?, cx)?.into_dyn())]))
    }
}
