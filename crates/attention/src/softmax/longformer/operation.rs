//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{Array2, ArrayView4};

use super::{Global, Longformer, OP, backward, chunk, texts};
use crate::operation::{
    Argument, Call, Operation, PACKED, Parameter, Signature, Tensors, choice, parameter, rounded, tensors,
};
use crate::softmax::operation::{OFFSET, OPTIONS, OUTPUTS, QKV, Read, SCALE, SOFTCAP};
use crate::softmax::{self, Cotangent, Gradient, Output};
use crate::{Error, Form, error};

pub(crate) struct Op;

fn pattern(call: &mut Call<'_>, read: &Read<'_>) -> Result<Longformer, Error> {
    let window: usize = call.take("window")?.unwrap_or_default();
    let positions: Option<Vec<usize>> = call.take("global")?;
    let tokens = read.qkv[1].dim().1;
    read.inputs().sizes(OP)?.0.within(OP)?;
    // Positions are given once, for all sequences.
    let sequences = texts(read.inputs().sequences, read.qkv[1].dim().0, tokens)?;
    let longest = sequences.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
    let beyond = positions.iter().flatten().find(|i| **i >= longest);
    error::none(OP, "global", beyond, format!("positions among {longest} tokens"))?;
    let marks = match (call.flags("global")?, positions) {
        (Some(_), Some(positions)) => {
            error::none(OP, "global", Some(positions), "no parameter beside a tensor of that name")?;
            Array2::default((1, tokens))
        }
        (Some(marks), None) => marks,
        (None, positions) => {
            let mut marks = Array2::default((1, tokens));
            let positions = positions.unwrap_or_default();
            let places = sequences.iter().flat_map(|of| positions.iter().map(|i| of.start + i).filter(|i| *i < of.end));
            places.for_each(|i| marks[[0, i]] = true);
            marks
        }
    };
    let batch = read.qkv[0].dim().0;
    let rows = if marks.dim().0 == 1 { 1 } else { batch };
    error::shape(OP, "global", &[rows, tokens], marks.shape())?;
    Ok(Longformer::new(window, marks.view()))
}

/// The projections of global tokens: an error unless all three or none are given.
fn global<'a>(call: &Call<'a>) -> Result<Option<Global<'a>>, Error> {
    let given: [Option<ArrayView4<'a, f32>>; 3] = [call.optional("gq")?, call.optional("gk")?, call.optional("gv")?];
    match given {
        [Some(q), Some(k), Some(v)] => Ok(Some(Global { q, k, v })),
        [None, None, None] => Ok(None),
        _ => {
            let found: Vec<&str> = ["gq", "gk", "gv"]
                .into_iter()
                .zip(&given)
                .filter(|(_, given)| given.is_some())
                .map(|(name, _)| name)
                .collect();
            error::parameter(OP, "gq, gk and gv", false, found, "all three or none")?;
            Ok(None)
        }
    }
}

const PARAMETERS: &[Parameter] = &[
    parameter("window", "", "how far a query sees on either side"),
    parameter("global", "[]", "positions of global tokens in a sequence, in place of the tensor of that name")
        .such_as(&[choice("[0, 5]")]),
    SCALE,
    OFFSET,
    SOFTCAP,
    PACKED,
];

impl Operation for Op {
    fn signature(&self) -> Signature {
        let own = [
            Argument::optional("global", &["B or 1", "T"], "which tokens are global; 0 is not").zeros_and_ones(),
            Argument::optional(
                "gq",
                &["B", "T", "H", "D"],
                "queries of global tokens, where they have projections of their own; `bias`, `alibi`, `sinks` and `offset` are then refused",
            )
            .with(&["gk", "gv"]),
            Argument::optional("gk", &["B", "S", "G", "D"], "the keys those meet").with(&["gq", "gv"]),
            Argument::optional("gv", &["B", "S", "G", "E"], "the values those meet").with(&["gq", "gk"]),
        ];
        Signature {
            inputs: QKV.into_iter().chain(own).chain(OPTIONS).collect(),
            parameters: PARAMETERS.to_vec(),
            outputs: OUTPUTS.to_vec(),
            forms: &[Form::Naive, Form::Chunk],
            example: r#"{"window": 64, "global": [0, 1]}"#,
        }
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let read = Read::of(call)?;
        let pattern = pattern(call, &read)?;
        let (x, own) = (read.inputs(), global(call)?);
        let Output { out, lse } = match (form, own) {
            (Form::Naive, None) => {
                let (out, lse) = read.exact(|x| softmax::naive(x, &pattern))?;
                return Ok(tensors([("o", rounded(out)), ("lse", rounded(lse))]));
            }
            (Form::Naive, Some(own)) => {
                let (out, lse) = naive(&read, &own, &pattern)?;
                return Ok(tensors([("o", rounded(out)), ("lse", rounded(lse))]));
            }
            (_, None) => softmax::chunk(&x, &pattern, cx)?,
            (_, Some(own)) => chunk(&x, &own, &pattern, cx)?,
        };
        Ok(tensors([("o", out.into_dyn()), ("lse", lse.into_dyn())]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let read = Read::of(call)?;
        let pattern = pattern(call, &read)?;
        let (x, own) = (read.inputs(), global(call)?);
        let d = Cotangent { out: call.tensor("do")?, lse: call.optional("dlse")? };
        let named = |g: Gradient, names: [&str; 3]| {
            let mut gradients: Tensors =
                names.into_iter().zip([g.q, g.k, g.v]).map(|(name, g)| (name.to_string(), g.into_dyn())).collect();
            gradients.extend(g.bias.map(|g| ("dbias".to_string(), g.into_dyn())));
            gradients.extend(g.sinks.map(|g| ("dsinks".to_string(), g.into_dyn())));
            gradients
        };
        let Some(own) = own else {
            let output = softmax::chunk(&x, &pattern, cx)?;
            return Ok(named(softmax::backward(&x, &pattern, &output, &d, cx)?, ["dq", "dk", "dv"]));
        };
        let output = chunk(&x, &own, &pattern, cx)?;
        let g = backward(&x, &own, &pattern, &output, &d, cx)?;
        let mut gradients = named(g.local, ["dq", "dk", "dv"]);
        gradients.extend(named(g.global, ["dgq", "dgk", "dgv"]));
        Ok(gradients)
    }
}

/// The definition with separate global projections: rows of global queries use one set, other rows the other.
fn naive(
    read: &Read<'_>,
    own: &Global<'_>,
    pattern: &Longformer,
) -> Result<(ndarray::Array4<f64>, ndarray::Array3<f64>), Error> {
    super::check(&read.inputs(), pattern, own)?;
    let [q, k, v] = [own.q, own.k, own.v].map(crate::operation::exact);
    read.exact(|x| {
        let (mut out, mut lse) = softmax::naive(x, pattern)?;
        let global = softmax::Inputs { q: q.view(), k: k.view(), v: v.view(), ..*x };
        let (all, all_lse) = softmax::naive(&global, pattern)?;
        for ((b, i, h), lse) in lse.indexed_iter_mut().filter(|((b, i, _), _)| pattern.is_global(*b, *i)) {
            out.slice_mut(ndarray::s![b, i, h, ..]).assign(&all.slice(ndarray::s![b, i, h, ..]));
            *lse = all_lse[[b, i, h]];
        }
        Ok((out, lse))
    })
}
