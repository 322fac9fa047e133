//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{ArrayD, ArrayView2, ArrayView4};
use serde::Deserialize;

use super::{Inputs, OP, backward, chunk, naive};
use crate::operation::{
    Argument, Call, Operation, Parameter, Signature, Tensors, choice, exact, parameter, rounded, tensors,
};
use crate::softmax::Cotangent;
use crate::{Error, Form, error};

pub(crate) struct Op;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    scale: Option<f64>,
    #[serde(default)]
    causal: bool,
}

/// The tensors and parameters of a call.
struct Read<'a> {
    qkv: [ArrayView4<'a, f32>; 3],
    e: ArrayView2<'a, f32>,
    f: Option<ArrayView2<'a, f32>>,
    scale: f64,
}

impl<'a> Read<'a> {
    fn of(call: &mut Call<'a>) -> Result<Self, Error> {
        let Parameters { scale, causal } = call.read()?;
        error::parameter(
            OP,
            "causal",
            !causal,
            causal,
            "false: a projected key mixes all tokens, those to come among them",
        )?;
        let q: ArrayView4<'a, f32> = call.tensor("q")?;
        let scale = scale.unwrap_or((q.dim().3 as f64).powf(-0.5));
        Ok(Self { qkv: [q, call.tensor("k")?, call.tensor("v")?], e: call.tensor("e")?, f: call.optional("f")?, scale })
    }

    fn inputs(&self) -> Inputs<'_> {
        let [q, k, v] = self.qkv;
        Inputs { q, k, v, e: self.e, f: self.f, scale: self.scale as f32 }
    }
}

const PARAMETERS: &[Parameter] = &[
    parameter("scale", "null", "times which scores are taken; 1 / √D if null").such_as(&[choice("0.3")]),
    parameter("causal", "false", "true is refused: every projected key mixes all tokens").one_of(&[choice("false")]),
];

impl Operation for Op {
    fn signature(&self) -> Signature {
        Signature {
            inputs: vec![
                Argument::input("q", &["B", "T", "H", "D"], "queries"),
                Argument::input("k", &["B", "S", "G", "D"], "keys; head h reads group h / (H / G)"),
                Argument::input("v", &["B", "S", "G", "E"], "values"),
                Argument::input("e", &["S", "R"], "what keys are projected by; there may be rows for more tokens"),
                Argument::optional("f", &["S", "R"], "what values are projected by, if not by `e`"),
            ],
            parameters: PARAMETERS.to_vec(),
            outputs: vec![
                Argument::output("o", &["B", "T", "H", "E"], "the output"),
                Argument::output("lse", &["B", "T", "H"], "the logarithm of the sum of the exponentials"),
            ],
            forms: &[Form::Naive, Form::Chunk],
            example: "{}",
        }
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let read = Read::of(call)?;
        if form == Form::Naive {
            let ([q, k, v], e, f) = (read.qkv.map(exact), exact(read.e), read.f.map(exact));
            let (q, k, v, e, f) = (q.view(), k.view(), v.view(), e.view(), f.as_ref().map(|f| f.view()));
            let (out, lse) = naive(&Inputs { q, k, v, e, f, scale: read.scale })?;
            return Ok(tensors([("o", rounded(out)), ("lse", rounded(lse))]));
        }
        let output = chunk(&read.inputs(), cx)?;
        Ok(tensors([("o", output.out.into_dyn()), ("lse", output.lse.into_dyn())]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let d = Cotangent { out: call.tensor("do")?, lse: call.optional("dlse")? };
        let read = Read::of(call)?;
        let x = read.inputs();
        let g = backward(&x, &chunk(&x, cx)?, &d, cx)?;
        let mut gradients: Vec<(&str, ArrayD<f32>)> =
            vec![("dq", g.q.into_dyn()), ("dk", g.k.into_dyn()), ("dv", g.v.into_dyn()), ("de", g.e.into_dyn())];
        gradients.extend(g.f.map(|f| ("df", f.into_dyn())));
        Ok(gradients.into_iter().map(|(name, g)| (name.to_string(), g)).collect())
    }
}
