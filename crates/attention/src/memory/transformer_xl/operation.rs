//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{Array3, Array4, ArrayD, ArrayView2, ArrayView3, ArrayView4, s};
use serde::Deserialize;

use super::{Inputs, backward, chunk, naive, step};
use crate::operation::{
    Argument, Call, Operation, Parameter, Signature, Tensors, choice, exact, parameter, rounded, tensors,
};
use crate::softmax::{Cotangent, Output};
use crate::{Error, Form};

/// The mechanism, with or without biases.
pub(crate) struct Op;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    scale: Option<f64>,
    left: Option<usize>,
}

/// The tensors and parameters of a call.
struct Read<'a> {
    qkv: [ArrayView4<'a, f32>; 3],
    r: ArrayView3<'a, f32>,
    biases: [Option<ArrayView2<'a, f32>>; 2],
    parameters: Parameters,
}

impl<'a> Read<'a> {
    fn of(call: &mut Call<'a>) -> Result<Self, Error> {
        Ok(Self {
            qkv: [call.tensor("q")?, call.tensor("k")?, call.tensor("v")?],
            r: call.tensor("r")?,
            biases: [call.optional("u")?, call.optional("w")?],
            parameters: call.read()?,
        })
    }

    fn scale(&self) -> f64 {
        self.parameters.scale.unwrap_or((self.qkv[0].dim().3 as f64).powf(-0.5))
    }

    fn inputs(&self) -> Inputs<'_> {
        let ([q, k, v], [u, w]) = (self.qkv, self.biases);
        Inputs { q, k, v, r: self.r, u, w, scale: self.scale() as f32, left: self.parameters.left }
    }
}

const PARAMETERS: &[Parameter] = &[
    parameter("scale", "null", "times which scores are taken; 1 / √D if null").such_as(&[choice("0.3")]),
    parameter("left", "null", "how far back a query sees; to the first key if null").such_as(&[choice("31")]),
];

impl Operation for Op {
    fn signature(&self) -> Signature {
        Signature {
            inputs: vec![
                Argument::input("q", &["B", "T", "H", "D"], "queries of the segment"),
                Argument::input("k", &["B", "S", "H", "D"], "keys of the memory and of the segment"),
                Argument::input("v", &["B", "S", "H", "E"], "their values"),
                Argument::input(
                    "r",
                    &["S", "H", "D"],
                    "a row for each distance, from 0 on; there may be more than keys",
                ),
                Argument::optional("u", &["H", "D"], "added to queries where they meet keys"),
                Argument::optional("w", &["H", "D"], "added to queries where they meet distances"),
            ],
            parameters: PARAMETERS.to_vec(),
            outputs: vec![
                Argument::output("o", &["B", "T", "H", "E"], "the output"),
                Argument::output("lse", &["B", "T", "H"], "the logarithm of the sum of the exponentials"),
            ],
            forms: &[Form::Naive, Form::Chunk, Form::Step],
            example: "{}",
        }
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let read = Read::of(call)?;
        let output = match form {
            Form::Naive => {
                let [q, k, v] = read.qkv.map(exact);
                let (r, [u, w]) = (exact(read.r), read.biases.map(|bias| bias.map(exact)));
                let (u, w) = (u.as_ref().map(|u| u.view()), w.as_ref().map(|w| w.view()));
                let (scale, left) = (read.scale(), read.parameters.left);
                let (q, k, v, r) = (q.view(), k.view(), v.view(), r.view());
                let (out, lse) = naive(&Inputs { q, k, v, r, u, w, scale, left })?;
                return Ok(tensors([("o", rounded(out)), ("lse", rounded(lse))]));
            }
            Form::Step if read.qkv[0].dim().1 > 0 => {
                let x = read.inputs();
                let ((b, tokens, h, _), (_, keys, _, e)) = (x.q.dim(), x.v.dim());
                let mut all = Output { out: Array4::zeros((b, tokens, h, e)), lse: Array3::zeros((b, tokens, h)) };
                for t in 0..tokens {
                    let seen = s![.., ..(keys + t + 1).saturating_sub(tokens), .., ..];
                    let one =
                        Inputs { q: x.q.slice(s![.., t..t + 1, .., ..]), k: x.k.slice(seen), v: x.v.slice(seen), ..x };
                    let got = step(&one, cx)?;
                    all.out.slice_mut(s![.., t..t + 1, .., ..]).assign(&got.out);
                    all.lse.slice_mut(s![.., t..t + 1, ..]).assign(&got.lse);
                }
                all
            }
            _ => chunk(&read.inputs(), cx)?,
        };
        Ok(tensors([("o", output.out.into_dyn()), ("lse", output.lse.into_dyn())]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let d = Cotangent { out: call.tensor("do")?, lse: call.optional("dlse")? };
        let read = Read::of(call)?;
        let x = read.inputs();
        let g = backward(&x, &chunk(&x, cx)?, &d, cx)?;
        let mut gradients: Vec<(&str, ArrayD<f32>)> =
            vec![("dq", g.q.into_dyn()), ("dk", g.k.into_dyn()), ("dv", g.v.into_dyn()), ("dr", g.r.into_dyn())];
        gradients.extend(x.u.map(|_| ("du", g.u.into_dyn())));
        gradients.extend(x.w.map(|_| ("dw", g.w.into_dyn())));
        Ok(gradients.into_iter().map(|(name, g)| (name.to_string(), g)).collect())
    }
}
