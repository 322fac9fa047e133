//! The mechanism as an operation on tensors by name.

use longreach_simd::Cx;
use ndarray::{Array2, ArrayView4};

use super::{OP, Rotary, backward, chunk, naive};
use crate::operation::{Argument, Call, Operation, Signature, Tensors, exact, parameter, rounded, tensors};
use crate::{Error, Form, error};

pub(crate) struct Op;

/// Positions, the length that scalings see, and the parameters.
fn read(call: &mut Call<'_>) -> Result<(Array2<usize>, usize, Rotary), Error> {
    let x: ArrayView4<'_, f32> = call.tensor("x")?;
    let (b, t, _, d) = x.dim();
    let positions = call.whole("positions")?.unwrap_or_else(|| Array2::from_shape_fn((1, t), |(_, i)| i));
    let rows = if positions.dim().0 == 1 { 1 } else { b };
    error::shape(OP, "positions", &[rows, t], positions.shape())?;
    let last = positions.iter().max().map_or(0, |last| last + 1);
    let length = call.take("length")?.unwrap_or(last);
    if !call.has("width") {
        call.set("width", d.into());
    }
    Ok((positions, length, call.read()?))
}

impl Operation for Op {
    fn signature(&self) -> Signature {
        Signature {
            inputs: vec![
                Argument::input("x", &["B", "T", "H", "D"], "queries or keys"),
                Argument::optional("positions", &["B or 1", "T"], "where the tokens stand; 0, 1, 2, … if absent"),
            ],
            parameters: vec![
                parameter("width", "D", "how many channels of a head are turned; even"),
                parameter("theta", "10000", "the base of the frequencies"),
                parameter("interleaved", "false", "pair neighbouring channels, not the halves"),
                parameter("scaling", r#"{"rope_type": "default"}"#, "`rope_scaling` as in a model's config.json"),
                parameter("length", "the last position + 1", "tokens of the sequence: some scalings depend on it"),
            ],
            outputs: vec![Argument::input("o", &["B", "T", "H", "D"], "the output")],
            forms: &[Form::Naive, Form::Chunk],
            example: r#"{"theta": 10000.0}"#,
        }
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let (positions, length, rotary) = read(call)?;
        let x = call.tensor("x")?;
        let angles = rotary.angles(positions.view(), length, cx)?;
        if form == Form::Naive {
            angles.check(x.shape())?;
            return Ok(tensors([("o", rounded(naive(exact(x).view(), positions.view(), length, &rotary)?))]));
        }
        Ok(tensors([("o", chunk(x, &angles, cx)?.into_dyn())]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let (positions, length, rotary) = read(call)?;
        let (x, d): (ArrayView4<'_, f32>, ArrayView4<'_, f32>) = (call.tensor("x")?, call.tensor("do")?);
        error::shape(OP, "do", x.shape(), d.shape())?;
        Ok(tensors([("dx", backward(d, &rotary.angles(positions.view(), length, cx)?, cx)?.into_dyn())]))
    }
}
