//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{Array2, ArrayD, ArrayView2, ArrayView4};
use serde::Deserialize;

use super::{Inputs, OP, Padding, Start, backward, chunk, naive};
use crate::operation::{
    Argument, Call, Operation, Parameter, Signature, Tensors, choice, exact, parameter, rounded, tensors,
};
use crate::{Error, Form, error};

pub(crate) struct Op;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Parameters {
    landmarks: usize,
    iterations: usize,
    init: Start,
    padding: Padding,
    scale: Option<f64>,
    causal: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        let (init, padding) = (Start::default(), Padding::default());
        Self { landmarks: 64, iterations: 6, init, padding, scale: None, causal: false }
    }
}

/// The tensors and parameters of a call.
struct Read<'a> {
    qkv: [ArrayView4<'a, f32>; 3],
    conv: Option<ArrayView2<'a, f32>>,
    keep: Option<Array2<bool>>,
    parameters: Parameters,
    scale: f64,
}

impl<'a> Read<'a> {
    fn of(call: &mut Call<'a>) -> Result<Self, Error> {
        let parameters: Parameters = call.read()?;
        let causal = parameters.causal;
        error::parameter(OP, "causal", !causal, causal, "false: a landmark mixes tokens, those to come among them")?;
        let q: ArrayView4<'a, f32> = call.tensor("q")?;
        let scale = parameters.scale.unwrap_or((q.dim().3 as f64).powf(-0.5));
        let qkv = [q, call.tensor("k")?, call.tensor("v")?];
        Ok(Self { qkv, conv: call.optional("conv")?, keep: call.flags("keep")?, parameters, scale })
    }

    fn with<'b, F>(
        &'b self,
        [q, k, v]: [ArrayView4<'b, F>; 3],
        conv: Option<ArrayView2<'b, F>>,
        scale: F,
    ) -> Inputs<'b, F> {
        let Parameters { landmarks, iterations, init, padding, .. } = self.parameters;
        let keep = self.keep.as_ref().map(|keep| keep.view());
        Inputs { q, k, v, conv, keep, landmarks, iterations, start: init, padding, scale }
    }

    fn inputs(&self) -> Inputs<'_> {
        self.with(self.qkv, self.conv, self.scale as f32)
    }
}

const PARAMETERS: &[Parameter] = &[
                parameter("landmarks", "64", "how many"),
                parameter("iterations", "6", "towards the inverse"),
                parameter(
                    "init",
                    "\"own\"",
                    "the largest sum that the inverse begins with: of each head, or of all heads of the batch, as models of Hugging Face have by default",
                )
                .one_of(&[choice("\"own\""), choice("\"original\"")]),
                parameter("padding", "\"neutral\"", "what padding is to landmarks: nothing, or a token like others")
                    .one_of(&[choice("\"neutral\""), choice("\"seen\"")]),
                parameter("scale", "null", "times which scores are taken; 1 / √D if null").such_as(&[choice("0.3")]),
                parameter("causal", "false", "true is refused: every landmark mixes tokens").one_of(&[choice("false")]),
            ];

impl Operation for Op {
    fn signature(&self) -> Signature {
        Signature {
            inputs: vec![
                Argument::input("q", &["B", "T", "H", "D"], "queries"),
                Argument::input("k", &["B", "T", "H", "D"], "keys"),
                Argument::input("v", &["B", "T", "H", "E"], "values"),
                Argument::optional(
                    "conv",
                    &["H", "taps"],
                    "a filter a head along the values, of odd width; its result is added",
                ),
                Argument::optional("keep", &["B", "T"], "which tokens are there and not padding; 0 is not")
                    .zeros_and_ones(),
            ],
            parameters: PARAMETERS.to_vec(),
            outputs: vec![Argument::output("o", &["B", "T", "H", "E"], "the output")],
            forms: &[Form::Naive, Form::Chunk],
            example: "{}",
        }
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let read = Read::of(call)?;
        if form == Form::Naive {
            let (qkv, conv) = (read.qkv.map(exact), read.conv.map(exact));
            let views = qkv.each_ref().map(|x| x.view());
            let out = naive(&read.with(views, conv.as_ref().map(|conv| conv.view()), read.scale))?;
            return Ok(tensors([("o", rounded(out))]));
        }
        Ok(tensors([("o", chunk(&read.inputs(), cx)?.into_dyn())]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let d_o = call.tensor("do")?;
        let read = Read::of(call)?;
        let g = backward(&read.inputs(), d_o, cx)?;
        let mut gradients: Vec<(&str, ArrayD<f32>)> =
            vec![("dq", g.q.into_dyn()), ("dk", g.k.into_dyn()), ("dv", g.v.into_dyn())];
        gradients.extend(g.conv.map(|conv| ("dconv", conv.into_dyn())));
        Ok(gradients.into_iter().map(|(name, g)| (name.to_string(), g)).collect())
    }
}
