//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{Array3, Array4, ArrayD, Ix2, Ix3, Ix4, s};
use serde::Deserialize;

use super::{Inputs, backward, chunk, naive, step};
use crate::operation::{
    Argument, Arguments, Call, Exact, Number, Operation, Parameter, Tensor, Tensors, attended, choice, parameter,
    with_output,
};
use crate::softmax::{Cotangent, Output};
use crate::{Error, Form, Mechanism};

/// The mechanism, with or without biases.
pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "transformer_xl",
    family: "memory",
    forms: &[Form::Naive, Form::Chunk, Form::Step],
    cost: "O(T (M + T) H D)",
    state: "M D",
    paper: "Dai et al. 2019, Transformer-XL",
    note: "",
    example: "{}",
    operation: &Op,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    scale: Option<f64>,
    left: Option<usize>,
}

/// The tensors and parameters of a call.
struct Read<'a, F> {
    qkv: [Tensor<'a, F, Ix4>; 3],
    r: Tensor<'a, F, Ix3>,
    biases: [Option<Tensor<'a, F, Ix2>>; 2],
    parameters: Parameters,
}

impl<'a, F: Number> Read<'a, F> {
    fn of(call: &mut Call<'a>) -> Result<Self, Error> {
        Ok(Self {
            qkv: [call.tensor("q")?, call.tensor("k")?, call.tensor("v")?],
            r: call.tensor("r")?,
            biases: [call.optional("u")?, call.optional("w")?],
            parameters: call.read()?,
        })
    }

    fn inputs(&self) -> Inputs<'_, F> {
        let [q, k, v] = self.qkv.each_ref().map(Tensor::view);
        let [u, w] = self.biases.each_ref().map(|bias| bias.as_ref().map(Tensor::view));
        let scale = self.parameters.scale.unwrap_or((q.dim().3 as f64).powf(-0.5));
        Inputs { q, k, v, r: self.r.view(), u, w, scale: F::nearest(scale), left: self.parameters.left }
    }
}

const PARAMETERS: &[Parameter] = &[
    parameter("scale", "null", "times which scores are taken; 1 / √D if null").such_as(&[choice("0.3")]),
    parameter("left", "null", "how far back a query sees; to the first key if null").such_as(&[choice("31")]),
];

impl Operation for Op {
    fn arguments(&self) -> Arguments {
        Arguments {
            inputs: vec![
                Argument::input("q", &["B", "T", "H", "D"], "queries of the segment"),
                Argument::input("k", &["B", "S", "H", "D"], "keys of the memory and of the segment"),
                Argument::input("v", &["B", "S", "H", "E"], "their values"),
                Argument::input("r", &["S or more", "H", "D"], "a row for each distance, from 0 on"),
                Argument::optional("u", &["H", "D"], "added to queries where they meet keys"),
                Argument::optional("w", &["H", "D"], "added to queries where they meet distances"),
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

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let read = Read::of(call)?;
        let x = read.inputs();
        let ((b, tokens, h, _), (_, keys, _, e)) = (x.q.dim(), x.v.dim());
        if form != Form::Step || tokens == 0 {
            let Output { out, lse } = chunk(&x, cx)?;
            return Ok(attended(out, lse));
        }
        let mut all = Output { out: Array4::zeros((b, tokens, h, e)), lse: Array3::zeros((b, tokens, h)) };
        for t in 0..tokens {
            let seen = s![.., ..(keys + t + 1).saturating_sub(tokens), .., ..];
            let one = Inputs { q: x.q.slice(s![.., t..t + 1, .., ..]), k: x.k.slice(seen), v: x.v.slice(seen), ..x };
            let got = step(&one, cx)?;
            all.out.slice_mut(s![.., t..t + 1, .., ..]).assign(&got.out);
            all.lse.slice_mut(s![.., t..t + 1, ..]).assign(&got.lse);
        }
        Ok(attended(all.out, all.lse))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let (d_o, d_lse, saved) = (call.tensor("do")?, call.optional("dlse")?, call.saved()?);
        let d = Cotangent { out: d_o.view(), lse: d_lse.as_ref().map(Tensor::view) };
        let read = Read::of(call)?;
        let x = read.inputs();
        let g = with_output(saved, || chunk(&x, cx), |output| backward(&x, output, &d, cx))?;
        let mut gradients: Vec<(&str, ArrayD<f32>)> =
            vec![("dq", g.q.into_dyn()), ("dk", g.k.into_dyn()), ("dv", g.v.into_dyn()), ("dr", g.r.into_dyn())];
        gradients.extend(x.u.map(|_| ("du", g.u.into_dyn())));
        gradients.extend(x.w.map(|_| ("dw", g.w.into_dyn())));
        Ok(gradients.into_iter().map(|(name, g)| (name.to_string(), g)).collect())
    }
}
