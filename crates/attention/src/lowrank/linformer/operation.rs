//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{ArrayD, Ix2, Ix4};
use serde::Deserialize;

use super::{Inputs, OP, backward, chunk, naive};
use crate::operation::{
    Argument, Arguments, Call, Exact, Number, Operation, Parameter, Tensor, Tensors, attended, choice, parameter,
    with_output,
};
use crate::softmax::{Cotangent, Output};
use crate::{Error, Form, Mechanism, error};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "linformer",
    family: "lowrank",
    forms: &[Form::Naive, Form::Chunk],
    cost: "O((S + T) R H D)",
    state: "0",
    paper: "Wang et al. 2020, Linformer",
    note: "",
    example: "{}",
    operation: &Op,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    scale: Option<f64>,
    #[serde(default)]
    causal: bool,
}

/// The tensors and parameters of a call.
struct Read<'a, F> {
    qkv: [Tensor<'a, F, Ix4>; 3],
    e: Tensor<'a, F, Ix2>,
    f: Option<Tensor<'a, F, Ix2>>,
    scale: f64,
}

impl<'a, F: Number> Read<'a, F> {
    fn of(call: &mut Call<'a>) -> Result<Self, Error> {
        let Parameters { scale, causal } = call.read()?;
        error::parameter(
            OP,
            "causal",
            !causal,
            causal,
            "false: a projected key mixes all tokens, those to come among them",
        )?;
        let q: Tensor<'a, F, Ix4> = call.tensor("q")?;
        let scale = scale.unwrap_or((q.dim().3 as f64).powf(-0.5));
        Ok(Self { qkv: [q, call.tensor("k")?, call.tensor("v")?], e: call.tensor("e")?, f: call.optional("f")?, scale })
    }

    fn inputs(&self) -> Inputs<'_, F> {
        let [q, k, v] = self.qkv.each_ref().map(Tensor::view);
        let f = self.f.as_ref().map(Tensor::view);
        Inputs { q, k, v, e: self.e.view(), f, scale: F::nearest(self.scale) }
    }
}

const PARAMETERS: &[Parameter] = &[
    parameter("scale", "null", "times which scores are taken; 1 / √D if null").such_as(&[choice("0.3")]),
    parameter("causal", "false", "true is refused: every projected key mixes all tokens").one_of(&[choice("false")]),
];

impl Operation for Op {
    fn arguments(&self) -> Arguments {
        Arguments {
            inputs: vec![
                Argument::input("q", &["B", "T", "H", "D"], "queries"),
                Argument::input("k", &["B", "S", "G", "D"], "keys; head h reads group h / (H / G)"),
                Argument::input("v", &["B", "S", "G", "E"], "values"),
                Argument::input("e", &["S or more", "R"], "what keys are projected by"),
                Argument::optional("f", &["S or more", "R"], "what values are projected by, if not by `e`"),
            ],
            parameters: PARAMETERS.to_vec(),
            outputs: vec![
                Argument::output("o", &["B", "T", "H", "E"], "the output"),
                Argument::output("lse", &["B", "T", "H"], "the logarithm of the sum of the exponentials"),
            ],
            saved: &["o", "lse"],
        }
    }

    fn naive(&self, call: &mut Call<'_>, _: &Cx) -> Result<Exact, Error> {
        let (out, lse) = naive(&Read::of(call)?.inputs())?;
        Ok(attended(out, lse))
    }

    fn run(&self, call: &mut Call<'_>, _: Form, cx: &Cx) -> Result<Tensors, Error> {
        let Output { out, lse } = chunk(&Read::of(call)?.inputs(), cx)?;
        Ok(attended(out, lse))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let (d_o, d_lse, saved) = (call.tensor("do")?, call.optional("dlse")?, call.saved()?);
        let d = Cotangent { out: d_o.view(), lse: d_lse.as_ref().map(Tensor::view) };
        let read = Read::of(call)?;
        let x = read.inputs();
        let g = with_output(saved, || chunk(&x, cx), |output| backward(&x, output, &d, cx))?;
        let mut gradients: Vec<(&str, ArrayD<f32>)> =
            vec![("dq", g.q.into_dyn()), ("dk", g.k.into_dyn()), ("dv", g.v.into_dyn()), ("de", g.e.into_dyn())];
        gradients.extend(g.f.map(|f| ("df", f.into_dyn())));
        Ok(gradients.into_iter().map(|(name, g)| (name.to_string(), g)).collect())
    }
}
