//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;

use super::{Inputs, backward, chunk, naive};
use crate::operation::{Argument, Call, Operation, Signature, Tensors, exact, rounded, tensors};
use crate::{Error, Form};

pub(crate) struct Op;

fn inputs<'a>(call: &Call<'a>) -> Result<Inputs<'a>, Error> {
    Ok(Inputs { s: call.tensor("s")?, m: call.tensor("m")?, wq: call.tensor("wq")?, wk: call.tensor("wk")? })
}

impl Operation for Op {
    fn signature(&self) -> Signature {
        Signature {
            inputs: vec![
                Argument::input("s", &["B", "Q", "D"], "summaries"),
                Argument::input("m", &["B", "N", "D"], "memories, the oldest first"),
                Argument::input("wq", &["D", "R"], "the projection of summaries"),
                Argument::input("wk", &["D", "R"], "the projection of memories"),
            ],
            parameters: vec![],
            outputs: vec![Argument::output("o", &["B", "Q", "D"], "what is recalled")],
            forms: &[Form::Naive, Form::Chunk],
            example: "{}",
        }
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let x = inputs(call)?;
        if form == Form::Naive {
            let (s, m, wq, wk) = (exact(x.s), exact(x.m), exact(x.wq), exact(x.wk));
            let out = naive(&Inputs { s: s.view(), m: m.view(), wq: wq.view(), wk: wk.view() })?;
            return Ok(tensors([("o", rounded(out))]));
        }
        Ok(tensors([("o", chunk(&x, cx)?.into_dyn())]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let d_o = call.tensor("do")?;
        let g = backward(&inputs(call)?, d_o, cx)?;
        let gradients =
            [("ds", g.s.into_dyn()), ("dm", g.m.into_dyn()), ("dwq", g.wq.into_dyn()), ("dwk", g.wk.into_dyn())];
        Ok(tensors(gradients))
    }
}
