//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{ArrayD, Ix1, Ix3, Ix4};
use serde::Deserialize;

use super::{Compression, Inputs, Kind, OP, backward, chunk, naive};
use crate::operation::{
    Argument, Arguments, Axes, Call, Exact, Number, Operation, Parameter, Shapes, Tensor, Tensors, choice, parameter,
    tensors,
};
use crate::{Error, Form, Mechanism, error};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "compressive",
    family: "memory",
    forms: &[Form::Naive, Form::Chunk],
    cost: "O(N C^2 taps / c)",
    state: "(M + M / c) D",
    paper: "Rae et al. 2020, Compressive Transformer",
    note: "",
    example: "{}",
    operation: &Op,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Parameters {
    kind: Option<Kind>,
    ratio: usize,
    dilation: usize,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { kind: None, ratio: 4, dilation: 1 }
    }
}

/// The tensors and parameters of a call.
struct Read<'a, F> {
    x: Tensor<'a, F, Ix3>,
    filter: Option<(Tensor<'a, F, Ix3>, Tensor<'a, F, Ix1>)>,
    p: Option<Tensor<'a, F, Ix4>>,
    parameters: Parameters,
}

impl<'a, F: Number> Read<'a, F> {
    fn of(call: &mut Call<'a>) -> Result<Self, Error> {
        let filter = match (call.optional("w")?, call.optional("b")?) {
            (Some(w), Some(b)) => Some((w, b)),
            (None, None) => None,
            (w, _) => {
                error::parameter(OP, "w and b", false, if w.is_some() { "w" } else { "b" }, "both or none")?;
                None
            }
        };
        Ok(Self { x: call.tensor("x")?, filter, p: call.optional("p")?, parameters: call.read()? })
    }

    /// The requested compression, or the one whose tensors are given.
    fn kind(&self) -> Result<Kind, Error> {
        let kind = self.parameters.kind.unwrap_or(match (&self.filter, &self.p) {
            (Some(_), _) => Kind::Conv,
            (None, Some(_)) => Kind::Used,
            _ => Kind::Mean,
        });
        error::parameter(OP, "w and b", kind != Kind::Conv || self.filter.is_some(), "none", "tensors for `conv`")?;
        error::parameter(OP, "p", kind != Kind::Used || self.p.is_some(), "none", "a tensor for `used`")?;
        error::parameter(OP, "w and b", kind == Kind::Conv || self.filter.is_none(), "given", "none but for `conv`")?;
        error::parameter(OP, "p", kind == Kind::Used || self.p.is_none(), "given", "none but for `used`")?;
        Ok(kind)
    }

    fn inputs(&self) -> Result<Inputs<'_, F>, Error> {
        let by = match (self.kind()?, &self.filter, &self.p) {
            (Kind::Conv, Some((w, b)), _) => {
                Compression::Conv { w: w.view(), b: b.view(), dilation: self.parameters.dilation }
            }
            (Kind::Used, _, Some(p)) => Compression::Used(p.view()),
            (Kind::Max, ..) => Compression::Max,
            _ => Compression::Mean,
        };
        Ok(Inputs { x: self.x.view(), by, ratio: self.parameters.ratio })
    }
}

const PARAMETERS: &[Parameter] = &[
    parameter("kind", "null", "how they become one; if null what there are tensors for, or `mean`").one_of(&[
        choice("\"mean\""),
        choice("\"max\""),
        choice("\"conv\"").beside(&["w", "b"]),
        choice("\"used\"").beside(&["p"]),
    ]),
    parameter("ratio", "4", "how many become one"),
    parameter("dilation", "1", "of `conv`: how far the filter's taps are apart"),
];

impl Operation for Op {
    fn arguments(&self) -> Arguments {
        Arguments {
            inputs: vec![
                Argument::input("x", &["B", "N", "C"], "what falls out of the first memory, the oldest first"),
                Argument::optional("w", &["C", "C", "taps"], "the filter of `conv`, from the oldest tap to the newest")
                    .with(&["b"]),
                Argument::optional("b", &["C"], "its bias").with(&["w"]),
                Argument::optional("p", &["B", "H", "Q", "N"], "how much attention each had, for `used`")
                    .between(0.0, 1.0)
                    .constant(),
            ],
            parameters: PARAMETERS.to_vec(),
            outputs: vec![Argument::output("o", &["B", "N / ratio", "C"], "what is left of it")],
            saved: &[],
        }
    }

    fn naive(&self, call: &mut Call<'_>, _: &Cx) -> Result<Exact, Error> {
        Ok(tensors([("o", naive(&Read::of(call)?.inputs()?)?.into_dyn())]))
    }

    fn run(&self, call: &mut Call<'_>, _: Form, cx: &Cx) -> Result<Tensors, Error> {
        Ok(tensors([("o", chunk(&Read::of(call)?.inputs()?, cx)?.into_dyn())]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let d_o = call.tensor("do")?;
        let g = backward(&Read::of(call)?.inputs()?, d_o.view(), cx)?;
        let mut gradients: Vec<(&str, ArrayD<f32>)> = vec![("dx", g.x.into_dyn())];
        gradients.extend(g.w.map(|w| ("dw", w.into_dyn())));
        gradients.extend(g.b.map(|b| ("db", b.into_dyn())));
        Ok(gradients.into_iter().map(|(name, g)| (name.to_string(), g)).collect())
    }

    fn shapes(&self, call: &mut Call<'_>, _: &Axes<'_>) -> Result<Shapes, Error> {
        let read: Read<'_, f32> = Read::of(call)?;
        let x = read.inputs()?;
        x.check()?;
        let (batch, tokens, width) = x.x.dim();
        Ok([("o".to_owned(), vec![batch, tokens.div_ceil(x.ratio), width])].into())
    }
}
