//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{ArrayD, CowArray, Ix2, Ix4};
use serde::Deserialize;

use super::{Inputs, OP, Padding, Start, backward, chunk, naive};
use crate::operation::{
    Argument, Arguments, Call, Exact, Number, Operation, Parameter, Tensor, Tensors, choice, parameter, tensors,
};
use crate::{Error, Form, Mechanism, error};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "nystrom",
    family: "lowrank",
    forms: &[Form::Naive, Form::Chunk],
    cost: "O(T m H D + H m^3)",
    state: "0",
    paper: "Xiong et al. 2021, Nystromformer",
    note: "",
    example: "{}",
    operation: &Op,
};

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
struct Read<'a, F> {
    qkv: [Tensor<'a, F, Ix4>; 3],
    conv: Option<Tensor<'a, F, Ix2>>,
    keep: Option<CowArray<'a, bool, Ix2>>,
    parameters: Parameters,
    scale: f64,
}

impl<'a, F: Number> Read<'a, F> {
    fn of(call: &mut Call<'a>) -> Result<Self, Error> {
        let parameters: Parameters = call.read()?;
        let causal = parameters.causal;
        error::parameter(OP, "causal", !causal, causal, "false: a landmark mixes tokens, those to come among them")?;
        let q: Tensor<'a, F, Ix4> = call.tensor("q")?;
        let scale = parameters.scale.unwrap_or((q.dim().3 as f64).powf(-0.5));
        let qkv = [q, call.tensor("k")?, call.tensor("v")?];
        Ok(Self { qkv, conv: call.optional("conv")?, keep: call.flags("keep")?, parameters, scale })
    }

    fn inputs(&self) -> Inputs<'_, F> {
        let [q, k, v] = self.qkv.each_ref().map(Tensor::view);
        let Parameters { landmarks, iterations, init, padding, .. } = self.parameters;
        let (conv, keep) = (self.conv.as_ref().map(Tensor::view), self.keep.as_ref().map(|keep| keep.view()));
        let scale = F::nearest(self.scale);
        Inputs { q, k, v, conv, keep, landmarks, iterations, start: init, padding, scale }
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
    fn arguments(&self) -> Arguments {
        Arguments {
            inputs: vec![
                Argument::input("q", &["B", "T", "H", "D"], "queries"),
                Argument::input("k", &["B", "T", "H", "D"], "keys"),
                Argument::input("v", &["B", "T", "H", "E"], "values"),
                Argument::optional(
                    "conv",
                    &["H", "taps"],
                    "a filter a head along the values, of odd width; its result is added",
                ),
                Argument::optional("keep", &["B", "T"], "which tokens are there and not padding; 0 is not").flags(),
            ],
            parameters: PARAMETERS.to_vec(),
            outputs: vec![Argument::output("o", &["B", "T", "H", "E"], "the output")],
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
        let mut gradients: Vec<(&str, ArrayD<f32>)> =
            vec![("dq", g.q.into_dyn()), ("dk", g.k.into_dyn()), ("dv", g.v.into_dyn())];
        gradients.extend(g.conv.map(|conv| ("dconv", conv.into_dyn())));
        Ok(gradients.into_iter().map(|(name, g)| (name.to_string(), g)).collect())
    }
}
