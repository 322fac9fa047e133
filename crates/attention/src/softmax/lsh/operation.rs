//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{Array2, Array4};

use super::{Lsh, OP, Padding, backward, chunk, hash, naive, padding_last};
use crate::operation::{
    Argument, Call, Operation, Parameter, Signature, Tensors, choice, exact, flag, parameter, rounded, tensors,
};
use crate::{Error, Form, error};

pub(crate) struct Op;

/// The inputs other than `x` and `v`.
struct Read {
    buckets: Array4<usize>,
    keep: Option<Array2<bool>>,
    lsh: Lsh,
}

fn read(call: &mut Call<'_>) -> Result<Read, Error> {
    let keep = call.flags("keep")?;
    let padding = call.take("padding")?.unwrap_or_default();
    let buckets = match (call.whole("buckets")?, call.optional::<ndarray::IxDyn>("rotations")?) {
        (Some(_), Some(_)) => {
            error::none(OP, "rotations", Some("given"), "none beside `buckets`, which are made from them")?;
            Array4::default((0, 0, 0, 0))
        }
        (Some(buckets), None) => buckets,
        (None, Some(rotations)) => {
            let mut buckets = hash(call.tensor("x")?, &[rotations.view()])?;
            if let (Padding::Last, Some(keep)) = (padding, &keep) {
                padding_last(&mut buckets, 2 * rotations.shape()[3], keep.view())?;
            }
            buckets
        }
        (None, None) => {
            error::none(OP, "buckets", Some("none"), "either `buckets` or `rotations` to make them")?;
            Array4::default((0, 0, 0, 0))
        }
    };
    Ok(Read { buckets, keep, lsh: call.read()? })
}

const PARAMETERS: &[Parameter] = &[
                parameter("chunk", "64", "tokens of a chunk; it divides the length of a longer sequence"),
                parameter("before", "1", "how many chunks before its own a token sees"),
                parameter("after", "0", "how many behind it"),
                flag("causal", "false", "hide the future"),
                parameter(
                    "padding",
                    "\"own\"",
                    "where `rotations` put padding: where its vector falls, or in a bucket behind all others, as in models of Hugging Face",
                )
                .one_of(&[choice("\"own\""), choice("\"last\"")]),
            ];

impl Operation for Op {
    fn signature(&self) -> Signature {
        Signature {
            inputs: vec![
                Argument::input("x", &["B", "T", "H", "D"], "queries and keys, one and the same"),
                Argument::input("v", &["B", "T", "H", "E"], "values"),
                Argument::optional(
                    "buckets",
                    &["B", "H", "rounds", "T"],
                    "the bucket of every token, counted on from round to round; in place of `rotations`",
                )
                .between(0.0, 8.0)
                .whole(),
                Argument::optional(
                    "rotations",
                    &["H", "D", "rounds", "n/2"],
                    "random rotations to n buckets; needed where there are no `buckets`",
                )
                .constant()
                .sampled(),
                Argument::optional("keep", &["B", "T"], "which tokens are there: 0 at padding").zeros_and_ones(),
            ],
            parameters: PARAMETERS.to_vec(),
            outputs: {
                let [o, lse] = super::super::operation::OUTPUTS;
                vec![o, lse.constant()]
            },
            forms: &[Form::Naive, Form::Chunk],
            example: r#"{"chunk": 64}"#,
        }
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let Read { buckets, keep, lsh } = read(call)?;
        let (x, v, keep) = (call.tensor("x")?, call.tensor("v")?, keep.as_ref().map(|keep| keep.view()));
        if form == Form::Naive {
            super::check(x, v, buckets.view(), keep, &lsh)?;
            let (out, lse) = naive(exact(x).view(), exact(v).view(), buckets.view(), keep, &lsh);
            return Ok(tensors([("o", rounded(out)), ("lse", rounded(lse))]));
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
