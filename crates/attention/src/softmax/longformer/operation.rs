//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{Array2, Array3, Array4, Ix4, s};

use super::{Global, Longformer, OP, backward, chunk, texts};
use crate::operation::{
    Argument, Arguments, Call, Exact, Number, Operation, PACKED, Parameter, Tensor, Tensors, attended, choice,
    parameter, with_output,
};
use crate::softmax::operation::{OFFSET, OPTIONS, OUTPUTS, QKV, Read, SCALE, SOFTCAP};
use crate::softmax::{self, Cotangent, Gradient, Inputs, Output};
use crate::{Error, Form, Mechanism, error};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "longformer",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk],
    cost: "O(T (W + globals) H D)",
    state: "2 S G D",
    paper: "Beltagy et al. 2020, Longformer",
    note: "",
    example: r#"{"window": 64, "global": [0, 1]}"#,
    operation: &Op,
};

fn pattern<F: Number>(call: &mut Call<'_>, read: &Read<'_, F>) -> Result<Longformer, Error> {
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
        (Some(marks), None) => marks.into_owned(),
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
fn global<'a, F: Number>(call: &Call<'a>) -> Result<Option<[Tensor<'a, F, Ix4>; 3]>, Error> {
    let names = ["gq", "gk", "gv"];
    let given: Vec<&str> = names.into_iter().filter(|name| call.gives(name)).collect();
    if given.is_empty() {
        return Ok(None);
    }
    error::parameter(OP, "gq, gk and gv", given.len() == 3, given, "all three or none")?;
    let [q, k, v] = names;
    Ok(Some([call.tensor(q)?, call.tensor(k)?, call.tensor(v)?]))
}

fn views<'a, F: Number>(own: &'a [Tensor<'_, F, Ix4>; 3]) -> Global<'a, F> {
    let [q, k, v] = own.each_ref().map(Tensor::view);
    Global { q, k, v }
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
    fn arguments(&self) -> Arguments {
        let own = [
            Argument::optional("global", &["B or 1", "T"], "which tokens are global; 0 is not").flags(),
            Argument::optional(
                "gq",
                &["B", "T", "H", "D"],
                "queries of global tokens, where they have projections of their own; `bias`, `alibi`, `sinks` and `offset` are then refused",
            )
            .with(&["gk", "gv"]),
            Argument::optional("gk", &["B", "S", "G", "D"], "the keys those meet").with(&["gq", "gv"]),
            Argument::optional("gv", &["B", "S", "G", "E"], "the values those meet").with(&["gq", "gk"]),
        ];
        Arguments {
            inputs: QKV.into_iter().chain(own).chain(OPTIONS).collect(),
            parameters: PARAMETERS.to_vec(),
            outputs: OUTPUTS.to_vec(),
            saved: &["o", "lse"],
        }
    }

    fn naive(&self, call: &mut Call<'_>, _: &Cx) -> Result<Exact, Error> {
        let read = Read::of(call)?;
        let pattern = pattern(call, &read)?;
        let (x, own) = (read.inputs(), global(call)?);
        let (out, lse) = match &own {
            None => softmax::naive(&x, &pattern)?,
            Some(own) => naive(&x, &views(own), &pattern)?,
        };
        Ok(attended(out, lse))
    }

    fn run(&self, call: &mut Call<'_>, _: Form, cx: &Cx) -> Result<Tensors, Error> {
        let read = Read::of(call)?;
        let pattern = pattern(call, &read)?;
        let (x, own) = (read.inputs(), global(call)?);
        let Output { out, lse } = match &own {
            None => softmax::chunk(&x, &pattern, cx)?,
            Some(own) => chunk(&x, &views(own), &pattern, cx)?,
        };
        Ok(attended(out, lse))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let (d_o, d_lse, saved) = (call.tensor("do")?, call.optional("dlse")?, call.saved()?);
        let d = Cotangent { out: d_o.view(), lse: d_lse.as_ref().map(Tensor::view) };
        let read = Read::of(call)?;
        let pattern = pattern(call, &read)?;
        let (x, own) = (read.inputs(), global(call)?);
        let Some(own) = &own else {
            let forward = || softmax::chunk(&x, &pattern, cx);
            let g = with_output(saved, forward, |output| softmax::backward(&x, &pattern, output, &d, cx))?;
            return Ok(named(g, ["dq", "dk", "dv"]));
        };
        let own = views(own);
        let forward = || chunk(&x, &own, &pattern, cx);
        let g = with_output(saved, forward, |output| backward(&x, &own, &pattern, output, &d, cx))?;
        let mut gradients = named(g.local, ["dq", "dk", "dv"]);
        gradients.extend(named(g.global, ["dgq", "dgk", "dgv"]));
        Ok(gradients)
    }
}

/// Gradients by name, those of queries, keys and values by these names.
fn named(g: Gradient, names: [&str; 3]) -> Tensors {
    let mut gradients: Tensors =
        names.into_iter().zip([g.q, g.k, g.v]).map(|(name, g)| (name.to_string(), g.into_dyn())).collect();
    gradients.extend(g.bias.map(|g| ("dbias".to_string(), g.into_dyn())));
    gradients.extend(g.sinks.map(|g| ("dsinks".to_string(), g.into_dyn())));
    gradients
}

/// The definition with separate global projections: rows of global queries use one set, other rows the other.
fn naive(
    x: &Inputs<'_, f64, f64>,
    own: &Global<'_, f64>,
    pattern: &Longformer,
) -> Result<(Array4<f64>, Array3<f64>), Error> {
    super::check(x, pattern, own)?;
    let (mut out, mut lse) = softmax::naive(x, pattern)?;
    let (all, all_lse) = softmax::naive(&Inputs { q: own.q, k: own.k, v: own.v, ..*x }, pattern)?;
    for ((b, i, h), lse) in lse.indexed_iter_mut().filter(|((b, i, _), _)| pattern.is_global(*b, *i)) {
        out.slice_mut(s![b, i, h, ..]).assign(&all.slice(s![b, i, h, ..]));
        *lse = all_lse[[b, i, h]];
    }
    Ok((out, lse))
}
