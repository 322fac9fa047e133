//! The family's mechanisms as operations with named tensors.

use longreach_simd::Cx;
use ndarray::{Array4, Axis, CowArray, Ix1, Ix2, Ix4, s};

use super::masked::Masked;
use super::named::ByLength;
use super::{Attend, Cotangent, Inputs, Output, Sizes, mechanism};
use crate::operation::{
    Argument, Arguments, Bounds, Call, Exact, Number, Operation, PACKED, Parameter, Tensor, Tensors, attended, choice,
    flag, parameter, tensors, with_output,
};
use crate::{Error, Form, error};

/// A mechanism on queries, keys and values.
pub(crate) struct Attention {
    /// Parameters other than the family's.
    pub(crate) parameters: &'static [Parameter],
    /// The parameters of the family that it takes.
    pub(crate) common: &'static [Parameter],
    /// The optional tensors of the family that it takes.
    pub(crate) options: &'static [Argument],
}

/// A mechanism that takes all options of the family.
pub(super) const ALL: Attention = Attention { parameters: &[], common: COMMON, options: &OPTIONS };

const COMMON: &[Parameter] = &[SCALE, OFFSET, SOFTCAP, PACKED];

pub(super) const CAUSAL: Parameter = flag("causal", "false", "hide the future");

pub(super) const QKV: [Argument; 3] = [
    Argument::input("q", &["B", "T", "H", "D"], "queries"),
    Argument::input("k", &["B", "S", "G", "D"], "keys; head h reads group h / (H / G)"),
    Argument::input("v", &["B", "S", "G", "E"], "values"),
];

pub(super) const KEEP: Argument = Argument::optional("keep", &["B", "S"], "which keys are there: 0 at padding").flags();

/// The optional tensors that modify scores.
pub(super) const OPTIONS: [Argument; 5] = [
    Argument::optional("bias", &["B or 1", "H or 1", "T", "S"], "added to the scores"),
    Argument::optional("alibi", &["H"], "slopes m: m |i - j| is taken from the scores").constant(),
    Argument::optional("sinks", &["H"], "a score that competes with the keys and has no value"),
    Argument::optional("weights", &["B", "S"], "the logarithm of how often each key counts").constant(),
    KEEP,
];

pub(super) const SCALE: Parameter =
    parameter("scale", "null", "the factor of the scores; 1 / √D if null").such_as(&[choice("0.3")]);
pub(super) const OFFSET: Parameter = parameter("offset", "0", "the position of the first query among the keys");
pub(super) const SOFTCAP: Parameter = parameter("softcap", "null", "c of c tanh(score / c)").such_as(&[choice("5")]);

pub(super) const OUTPUTS: [Argument; 2] = [
    Argument::output("o", &["B", "T", "H", "E"], "the output"),
    Argument::output("lse", &["B", "T", "H"], "the logarithm of the sum of the exponentials"),
];

/// The tensors and parameters of a call that the family shares.
pub(super) struct Read<'a, F> {
    pub(super) qkv: [Tensor<'a, F, Ix4>; 3],
    bias: Option<Tensor<'a, F, Ix4>>,
    alibi: Option<Tensor<'a, F, Ix1>>,
    sinks: Option<Tensor<'a, F, Ix1>>,
    weights: Option<Tensor<'a, F, Ix2>>,
    keep: Option<CowArray<'a, bool, Ix2>>,
    bounds: Bounds,
    scale: f64,
    offset: usize,
    softcap: Option<f64>,
}

impl<'a, F: Number> Read<'a, F> {
    pub(super) fn of(call: &mut Call<'a>) -> Result<Self, Error> {
        let qkv = [call.tensor("q")?, call.tensor("k")?, call.tensor("v")?];
        let width = qkv[0].shape()[3] as f64;
        Ok(Self {
            bias: call.optional("bias")?,
            alibi: call.optional("alibi")?,
            sinks: call.optional("sinks")?,
            weights: call.optional("weights")?,
            keep: call.flags("keep")?,
            bounds: call.bounds()?,
            scale: call.take("scale")?.unwrap_or(width.powf(-0.5)),
            offset: call.take("offset")?.unwrap_or(0),
            softcap: call.take("softcap")?,
            qkv,
        })
    }

    pub(super) fn inputs(&self) -> Inputs<'_, F, F> {
        let [q, k, v] = self.qkv.each_ref().map(Tensor::view);
        Inputs {
            offset: self.offset,
            softcap: self.softcap.map(F::nearest),
            bias: self.bias.as_ref().map(Tensor::view),
            alibi: self.alibi.as_ref().map(Tensor::view),
            sinks: self.sinks.as_ref().map(Tensor::view),
            weights: self.weights.as_ref().map(Tensor::view),
            keep: self.keep.as_ref().map(|keep| keep.view()),
            sequences: self.bounds.sequences(),
            ..Inputs::scaled(q, k, v, F::nearest(self.scale))
        }
    }
}

impl Attention {
    fn mechanism<F: Number>(&self, call: &mut Call<'_>, read: &Read<'_, F>) -> Result<Box<dyn Attend>, Error> {
        let op = call.op();
        if self.masks() {
            let rows = call.has("start") || call.has("indices");
            match call.flags("mask")? {
                Some(_) if rows => error::parameter(op, "mask", false, "given", "none beside `start` and `indices`")?,
                Some(mask) => return Ok(Box::new(super::Patterned::new(Masked::dense(mask.view())))),
                None if rows => {}
                None => error::parameter(op, "mask", false, "none", "a tensor, or `start` and `indices` in its place")?,
            }
        }
        let (b, t, h, _) = read.qkv[0].dim();
        let of = Sizes {
            batch: b,
            heads: h,
            queries: read.offset..read.offset.saturating_add(t),
            keys: read.qkv[1].dim().1,
        };
        if read.bounds.packed() && ByLength::knows(op) {
            return Ok(Box::new(ByLength::new(op, call.rest())));
        }
        mechanism(op, &call.rest(), &of)
    }

    fn masks(&self) -> bool {
        self.options.iter().any(|option| option.name == "mask")
    }
}

impl Operation for Attention {
    fn arguments(&self) -> Arguments {
        Arguments {
            inputs: QKV.iter().chain(self.options).copied().collect(),
            parameters: self.parameters.iter().chain(self.common).copied().collect(),
            outputs: OUTPUTS.to_vec(),
            saved: &["o", "lse"],
        }
    }

    fn naive(&self, call: &mut Call<'_>, _: &Cx) -> Result<Exact, Error> {
        let read = Read::of(call)?;
        let (out, lse) = self.mechanism(call, &read)?.naive(&read.inputs())?;
        Ok(attended(out, lse))
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let read = Read::of(call)?;
        let mechanism = self.mechanism(call, &read)?;
        let x = read.inputs();
        let Output { out, lse } =
            if form == Form::Step { steps(&*mechanism, &x, cx)? } else { mechanism.chunk(&x, cx)? };
        Ok(attended(out, lse))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let (d_o, d_lse, saved) = (call.tensor("do")?, call.optional("dlse")?, call.saved()?);
        let d = Cotangent { out: d_o.view(), lse: d_lse.as_ref().map(Tensor::view) };
        let read = Read::of(call)?;
        let mechanism = self.mechanism(call, &read)?;
        let x = read.inputs();
        let forward = || mechanism.chunk(&x, cx);
        let g = with_output(saved, forward, |output| mechanism.backward(&x, output, &d, cx))?;
        let mut gradients = tensors([("dq", g.q.into_dyn()), ("dk", g.k.into_dyn()), ("dv", g.v.into_dyn())]);
        let others = [("dbias", g.bias.map(|g| g.into_dyn())), ("dsinks", g.sinks.map(|g| g.into_dyn()))];
        gradients.extend(others.into_iter().filter_map(|(name, g)| Some((name.to_string(), g?))));
        Ok(gradients)
    }
}

/// Runs each query alone against all keys, as in decoding.
fn steps(mechanism: &dyn Attend, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
    let (b, t, h, _) = x.q.dim();
    if t == 0 {
        return mechanism.step(x, cx);
    }
    let mut output = Output { out: Array4::zeros((b, t, h, x.v.dim().3)), lse: ndarray::Array3::zeros((b, t, h)) };
    for i in 0..t {
        let bias = x.bias.map(|bias| bias.slice_move(s![.., .., i..i + 1, ..]));
        let one = Inputs { q: x.q.slice_move(s![.., i..i + 1, .., ..]), offset: x.offset + i, bias, ..*x };
        let part = mechanism.step(&one, cx)?;
        output.out.slice_axis_mut(Axis(1), (i..i + 1).into()).assign(&part.out);
        output.lse.slice_axis_mut(Axis(1), (i..i + 1).into()).assign(&part.lse);
    }
    Ok(output)
}
