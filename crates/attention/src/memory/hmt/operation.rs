//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{Ix2, Ix3};

use super::{Inputs, backward, chunk, naive};
use crate::operation::{Argument, Arguments, Call, Exact, Number, Operation, Tensor, Tensors, tensors};
use crate::{Error, Form, Mechanism};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "hmt",
    family: "memory",
    forms: &[Form::Naive, Form::Chunk],
    cost: "O(N D R)",
    state: "N D",
    paper: "He et al. 2025, HMT",
    note: "",
    example: "{}",
    operation: &Op,
};

/// The tensors of a call.
struct Read<'a, F> {
    rows: [Tensor<'a, F, Ix3>; 2],
    projections: [Tensor<'a, F, Ix2>; 2],
}

impl<'a, F: Number> Read<'a, F> {
    fn of(call: &Call<'a>) -> Result<Self, Error> {
        let rows = [call.tensor("s")?, call.tensor("m")?];
        Ok(Self { rows, projections: [call.tensor("wq")?, call.tensor("wk")?] })
    }

    fn inputs(&self) -> Inputs<'_, F> {
        let ([s, m], [wq, wk]) = (&self.rows, &self.projections);
        Inputs { s: s.view(), m: m.view(), wq: wq.view(), wk: wk.view() }
    }
}

impl Operation for Op {
    fn arguments(&self) -> Arguments {
        Arguments {
            inputs: vec![
                Argument::input("s", &["B", "Q", "D"], "summaries"),
                Argument::input("m", &["B", "N", "D"], "memories, the oldest first"),
                Argument::input("wq", &["D", "R"], "the projection of summaries"),
                Argument::input("wk", &["D", "R"], "the projection of memories"),
            ],
            parameters: vec![],
            outputs: vec![Argument::output("o", &["B", "Q", "D"], "what is recalled")],
            saved: &[],
        }
    }

    fn naive(&self, call: &mut Call<'_>, _: &Cx) -> Result<Exact, Error> {
        Ok(tensors([("o", naive(&Read::of(call)?.inputs())?.into_dyn())]))
    }

    fn run(&self, call: &mut Call<'_>, _: Form, cx: &Cx) -> Result<Tensors, Error> {
        Ok(tensors([("o", chunk(&Read::of(call)?.inputs(), cx)?.into_dyn())]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let d_o = call.tensor("do")?;
        let g = backward(&Read::of(call)?.inputs(), d_o.view(), cx)?;
        let gradients =
            [("ds", g.s.into_dyn()), ("dm", g.m.into_dyn()), ("dwq", g.wq.into_dyn()), ("dwk", g.wk.into_dyn())];
        Ok(tensors(gradients))
    }
}
