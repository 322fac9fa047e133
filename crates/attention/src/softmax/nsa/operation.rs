//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;

use super::{Nsa, backward, check, chunk, naive};
use crate::operation::{Argument, Arguments, Call, Exact, Operation, Tensors, parameter, tensors};
use crate::softmax::operation::{OFFSET, OUTPUTS, QKV, Read, SCALE, SOFTCAP};
use crate::{Error, Form, Mechanism};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "nsa",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk],
    cost: "O(T (T / b + k b + w) H D)",
    state: "2 S G D",
    paper: "Yuan et al. 2025, Native sparse attention",
    note: "",
    example: r#"{"block": 64, "top": 16, "window": 512}"#,
    operation: &Op,
};

impl Operation for Op {
    fn arguments(&self) -> Arguments {
        let gates = Argument::input(
            "gates",
            &["B", "T", "H", "3"],
            "how much means, chosen blocks and window count, in the paper sigmoids",
        );
        Arguments {
            inputs: QKV.into_iter().chain([gates.between(0.0, 1.0)]).collect(),
            parameters: vec![
                parameter("block", "64", "keys of a block"),
                parameter("top", "16", "how many blocks are chosen, the query's own among them"),
                parameter("window", "512", "keys of the window, the query's own among them"),
                SCALE,
                OFFSET,
                SOFTCAP,
            ],
            outputs: OUTPUTS[..1].to_vec(),
            saved: &[],
        }
    }

    fn naive(&self, call: &mut Call<'_>, _: &Cx) -> Result<Exact, Error> {
        let (read, gates) = (Read::of(call)?, call.tensor("gates")?);
        let nsa: Nsa = call.read()?;
        let x = read.inputs();
        check(&x, gates.view(), &nsa)?;
        Ok(tensors([("o", naive(&x, gates.view(), &nsa).into_dyn())]))
    }

    fn run(&self, call: &mut Call<'_>, _: Form, cx: &Cx) -> Result<Tensors, Error> {
        let (read, gates) = (Read::of(call)?, call.tensor("gates")?);
        let nsa: Nsa = call.read()?;
        Ok(tensors([("o", chunk(&read.inputs(), gates.view(), &nsa, cx)?.out.into_dyn())]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let (read, gates, d_o) = (Read::of(call)?, call.tensor("gates")?, call.tensor("do")?);
        let nsa: Nsa = call.read()?;
        let x = read.inputs();
        let attended = chunk(&x, gates.view(), &nsa, cx)?;
        let (g, dgates) = backward(&x, gates.view(), &nsa, &attended, d_o.view(), cx)?;
        let [q, k, v] = [g.q, g.k, g.v].map(|g| g.into_dyn());
        Ok(tensors([("dq", q), ("dk", k), ("dv", v), ("dgates", dgates.into_dyn())]))
    }
}
