//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{Array4, CowArray, Ix2, Ix4, IxDyn};

use super::{Lsh, OP, Padding, backward, chunk, hash, naive, padding_last};
use crate::operation::{
    Argument, Arguments, Call, Exact, Operation, Parameter, Tensor, Tensors, absent, attended, choice, flag, parameter,
    tensors, with_output,
};
use crate::softmax::Output;
use crate::{Error, Form, Mechanism, error};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "lsh",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk],
    cost: "O(rounds T chunk H D)",
    state: "2 S H D",
    paper: "Kitaev et al. 2020, Reformer",
    note: "models of Hugging Face sort padding behind all tokens, which is `padding` \"last\", and count a chunk twice that is met from both sides of a short circle; here it counts once",
    example: r#"{"chunk": 64}"#,
    operation: &Op,
};

/// The inputs other than `x` and `v`.
struct Read<'a> {
    buckets: Array4<usize>,
    keep: Option<CowArray<'a, bool, Ix2>>,
    lsh: Lsh,
}

fn read<'a>(call: &mut Call<'a>) -> Result<Read<'a>, Error> {
    let keep = call.flags("keep")?;
    let padding = call.take("padding")?.unwrap_or_default();
    let buckets = match (call.whole("buckets")?, call.rounded::<IxDyn>("rotations")?) {
        (Some(_), Some(_)) => {
            error::none(OP, "rotations", Some("given"), "none beside `buckets`, which are made from them")?;
            Array4::default((0, 0, 0, 0))
        }
        (Some(buckets), None) => buckets,
        (None, Some(rotations)) => {
            // Vectors are hashed in f32 for the definition too.
            let vectors: Tensor<'_, f32, Ix4> = call.rounded("x")?.ok_or_else(|| absent(OP, "x", "a tensor"))?;
            let mut buckets = hash::<f32>(vectors.view(), &[rotations.view()])?;
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
    fn arguments(&self) -> Arguments {
        Arguments {
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
                Argument::optional("keep", &["B", "T"], "which tokens are there: 0 at padding").flags(),
            ],
            parameters: PARAMETERS.to_vec(),
            outputs: {
                let [o, lse] = super::super::operation::OUTPUTS;
                vec![o, lse.constant()]
            },
            saved: &["o", "lse"],
        }
    }

    fn naive(&self, call: &mut Call<'_>, _: &Cx) -> Result<Exact, Error> {
        let Read { buckets, keep, lsh } = read(call)?;
        let (x, v): (Tensor<'_, f64, Ix4>, Tensor<'_, f64, Ix4>) = (call.tensor("x")?, call.tensor("v")?);
        let keep = keep.as_ref().map(|keep| keep.view());
        super::check(x.view(), v.view(), buckets.view(), keep, &lsh)?;
        let (out, lse) = naive(x.view(), v.view(), buckets.view(), keep, &lsh);
        Ok(attended(out, lse))
    }

    fn run(&self, call: &mut Call<'_>, _: Form, cx: &Cx) -> Result<Tensors, Error> {
        let Read { buckets, keep, lsh } = read(call)?;
        let (x, v) = (call.tensor("x")?, call.tensor("v")?);
        let keep = keep.as_ref().map(|keep| keep.view());
        let Output { out, lse } = chunk(x.view(), v.view(), buckets.view(), keep, &lsh, cx)?;
        Ok(attended(out, lse))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let saved = call.saved()?;
        let Read { buckets, keep, lsh } = read(call)?;
        let (x, v, d_o) = (call.tensor("x")?, call.tensor("v")?, call.tensor("do")?);
        let (x, v, buckets, keep) = (x.view(), v.view(), buckets.view(), keep.as_ref().map(|keep| keep.view()));
        let forward = || chunk(x, v, buckets, keep, &lsh, cx);
        let g = with_output(saved, forward, |output| backward(x, v, buckets, keep, &lsh, output, d_o.view(), cx))?;
        Ok(tensors([("dx", g.x.into_dyn()), ("dv", g.v.into_dyn())]))
    }
}
