//! The mechanism as an operation on tensors by name.

use longreach_simd::Cx;
use ndarray::{Array2, Array4};

use super::{Lsh, OP, backward, chunk, hash, naive};
use crate::operation::{Argument, Call, Operation, Signature, Tensors, exact, parameter, rounded, tensors};
use crate::{Error, Form, error};

pub(crate) struct Op;

/// What a call has beside `x` and `v`.
struct Read {
    buckets: Array4<usize>,
    keep: Option<Array2<bool>>,
    lsh: Lsh,
}

fn read(call: &mut Call<'_>) -> Result<Read, Error> {
    let buckets = match (call.whole("buckets")?, call.optional("rotations")?) {
        (Some(buckets), _) => buckets,
        (None, Some(rotations)) => hash(call.tensor("x")?, &[rotations])?,
        (None, None) => {
            error::parameter(OP, "buckets", false, "none", "either `buckets` or `rotations` to make them")?;
            Array4::default((0, 0, 0, 0))
        }
    };
    Ok(Read { buckets, keep: call.flags("keep")?, lsh: call.read()? })
}

impl Operation for Op {
    fn signature(&self) -> Signature {
        Signature {
            inputs: vec![
                Argument::input("x", &["B", "T", "H", "D"], "queries and keys, one and the same"),
                Argument::input("v", &["B", "T", "H", "E"], "values"),
                Argument::optional(
                    "buckets",
                    &["B", "H", "rounds", "T"],
                    "the bucket of every token, counted on from round to round",
                ),
                Argument::optional(
                    "rotations",
                    &["H", "D", "rounds", "n/2"],
                    "random rotations to n buckets, where there are no `buckets`",
                )
                .between(-1.0, 1.0),
                Argument::optional("keep", &["B", "T"], "which tokens are there: 0 at padding"),
            ],
            parameters: vec![
                parameter("chunk", "64", "tokens of a chunk; it divides the length of a longer sequence"),
                parameter("before", "1", "how many chunks before its own a token sees"),
                parameter("after", "0", "how many behind it"),
                parameter("causal", "false", "hide the future"),
            ],
            outputs: super::super::operation::OUTPUTS.to_vec(),
            forms: &[Form::Naive, Form::Chunk],
            example: r#"{"chunk": 64}"#,
        }
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let Read { buckets, keep, lsh } = read(call)?;
        let (x, v, keep) = (call.tensor("x")?, call.tensor("v")?, keep.as_ref().map(|keep| keep.view()));
        if form == Form::Naive {
            super::check(x, v, buckets.view(), &lsh)?;
            let out = naive(exact(x).view(), exact(v).view(), buckets.view(), keep, &lsh);
            return Ok(tensors([("o", rounded(out))]));
        }
        let output = chunk(x, v, buckets.view(), keep, &lsh, cx)?;
        Ok(tensors([("o", output.out.into_dyn()), ("lse", output.lse.into_dyn())]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let Read { buckets, keep, lsh } = read(call)?;
        let (x, v, keep) = (call.tensor("x")?, call.tensor("v")?, keep.as_ref().map(|keep| keep.view()));
        let output = chunk(x, v, buckets.view(), keep, &lsh, cx)?;
        let g = backward(x, v, buckets.view(), keep, &lsh, &output, call.tensor("do")?, cx)?;
        Ok(tensors([("dx", g.x.into_dyn()), ("dv", g.v.into_dyn())]))
    }
}
