//! The family's mechanisms as operations on tensors by name.

use longreach_simd::Cx;
use ndarray::{Array2, Array4, ArrayView1, ArrayView2, ArrayView4, Axis, s};

use super::masked::Masked;
use super::named::ByLength;
use super::{Attend, Cotangent, Inputs, Output, Sizes, mechanism};
use crate::operation::{
    Argument, Bounds, Call, Operation, PACKED, Parameter, Signature, Tensors, exact, parameter, rounded, tensors,
};
use crate::{Error, Form};

/// A mechanism that takes queries, keys and values.
pub(crate) struct Attention {
    /// What it has beside the family's parameters.
    pub(crate) parameters: &'static [Parameter],
    pub(crate) example: &'static str,
    pub(crate) forms: &'static [Form],
}

const NCS: &[Form] = &[Form::Naive, Form::Chunk, Form::Step];
const NC: &[Form] = &[Form::Naive, Form::Chunk];

const CAUSAL: Parameter = parameter("causal", "false", "hide the future");

pub(crate) static DENSE: Attention = Attention { parameters: &[CAUSAL], example: r#"{"causal": true}"#, forms: NCS };

pub(crate) static MASKED: Attention = Attention {
    parameters: &[
        parameter(
            "start",
            "",
            "compressed rows, where there is no `mask`: query i sees indices[start[i] .. start[i + 1]]",
        ),
        parameter("indices", "", "the keys of all rows, one behind the other"),
    ],
    example: "{}",
    forms: NC,
};

pub(crate) static WINDOW: Attention = Attention {
    parameters: &[parameter("left", "", "how far back a query sees"), parameter("right", "0", "how far ahead it sees")],
    example: r#"{"left": 128, "right": 128}"#,
    forms: NCS,
};

pub(crate) static DILATED: Attention = Attention {
    parameters: &[
        parameter("left", "", "how far back a query sees, in steps of the dilation"),
        parameter("right", "0", "how far ahead it sees, in steps of the dilation"),
        parameter("dilation", "", "the distance of the keys it sees: one for all heads, or one for each"),
    ],
    example: r#"{"left": 16, "right": 16, "dilation": [8]}"#,
    forms: NCS,
};

pub(crate) static BIGBIRD: Attention = Attention {
    parameters: &[
        parameter("block", "64", "tokens of a block"),
        parameter("random_blocks", "3", "random blocks a row of blocks"),
        parameter(
            "seed",
            "null",
            "the number of the layer in training; null outside, where all random blocks are block 0",
        ),
        parameter("max_length", "4096", "the longest sequence of the model; the draw depends on it"),
    ],
    example: r#"{"block": 64, "random_blocks": 3, "seed": 0, "max_length": 4096}"#,
    forms: NCS,
};

pub(crate) static SPARSE_TRANSFORMER: Attention = Attention {
    parameters: &[
        parameter("kind", "", "`strided`, every `stride`th key back; or `fixed`, the last keys of every stretch"),
        parameter("stride", "", "how long a stretch is"),
        parameter("columns", "1", "for `fixed`: how many keys of a stretch all later ones see"),
        parameter("which", "\"merged\"", "`near`, `far`, both `merged`, or heads `alternating`"),
    ],
    example: r#"{"kind": "fixed", "stride": 128, "columns": 32}"#,
    forms: NCS,
};

pub(crate) static DEEPSPEED: Attention = Attention {
    parameters: &[
        parameter("mode", "", "`dense`, `fixed`, `variable`, `bigbird`, `bslongformer` or `localsliding`"),
        parameter(
            "…",
            "",
            "the fields DeepSpeed's `sparse_attention` block has for the mode; a whole ds_config.json will do",
        ),
        parameter("seed", "0", "of Python's generator, for random blocks"),
    ],
    example: r#"{"mode": "bslongformer", "block": 16, "num_sliding_window_blocks": 5}"#,
    forms: NCS,
};

pub(crate) static STREAMING: Attention = Attention {
    parameters: &[
        parameter("sinks", "4", "how many of the first tokens every query sees"),
        parameter("recent", "", "how many of the latest tokens it sees, its own among them"),
    ],
    example: r#"{"sinks": 4, "recent": 256}"#,
    forms: NCS,
};

pub(crate) static LONGNET: Attention = Attention {
    parameters: &[
        parameter("segments", "", "tokens of a segment, for each branch"),
        parameter("dilations", "", "every how manyth of them is kept, for each branch"),
        CAUSAL,
    ],
    example: r#"{"segments": [64, 256, 1024], "dilations": [1, 2, 4], "causal": true}"#,
    forms: NC,
};

pub(crate) static HIERARCHICAL: Attention = Attention {
    parameters: &[parameter("block", "64", "tokens of a block: a multiple of 16"), CAUSAL],
    example: r#"{"block": 64, "causal": true}"#,
    forms: NC,
};

pub(crate) static MOBA: Attention = Attention {
    parameters: &[
        parameter("block", "", "keys of a block"),
        parameter("top", "", "how many blocks a query sees, its own among them"),
    ],
    example: r#"{"block": 512, "top": 3}"#,
    forms: NCS,
};

pub(crate) static INFLLM_V2: Attention = Attention {
    parameters: &[
        parameter("kernel", "32", "keys of a summary"),
        parameter("stride", "16", "keys between summaries"),
        parameter("block", "64", "keys of a block; a multiple of the stride"),
        parameter("init_blocks", "1", "how many of the first blocks are forced"),
        parameter("window", "2048", "how many of the latest keys are forced, by whole blocks"),
        parameter("top", "64", "how many blocks are chosen beside the window's"),
        parameter("dense_below", "8192", "shorter sequences are attended to densely"),
    ],
    example: r#"{"window": 512, "top": 16, "dense_below": 0}"#,
    forms: NCS,
};

pub(super) const QKV: [Argument; 3] = [
    Argument::input("q", &["B", "T", "H", "D"], "queries"),
    Argument::input("k", &["B", "S", "G", "D"], "keys; head h reads group h / (H / G)"),
    Argument::input("v", &["B", "S", "G", "E"], "values"),
];

pub(super) const KEEP: Argument = Argument::optional("keep", &["B", "S"], "which keys are there: 0 at padding");

/// What scores may be changed by.
pub(super) const OPTIONS: [Argument; 5] = [
    Argument::optional("bias", &["B or 1", "H or 1", "T", "S"], "added to the scores"),
    Argument::optional("alibi", &["H"], "slopes m: m |i - j| is taken from the scores"),
    Argument::optional("sinks", &["H"], "a score that competes with the keys and has no value"),
    Argument::optional(
        "weights",
        &["B", "S"],
        "the logarithm of how often each key counts; a constant to the gradient",
    ),
    KEEP,
];

const MASK: Argument =
    Argument::optional("mask", &["B or 1", "H or 1", "T", "S"], "which pairs are seen; 0 is not").zeros_and_ones();

pub(super) const SCALE: Parameter = parameter("scale", "1 / √D", "the factor of the scores");
pub(super) const OFFSET: Parameter = parameter("offset", "0", "the position of the first query among the keys");
pub(super) const SOFTCAP: Parameter = parameter("softcap", "null", "c of c tanh(score / c)");

pub(super) const OUTPUTS: [Argument; 2] = [
    Argument::input("o", &["B", "T", "H", "E"], "the output"),
    Argument::input("lse", &["B", "T", "H"], "the logarithm of the sum of the exponentials"),
];

/// What is read off a call of the family.
pub(super) struct Read<'a> {
    pub(super) qkv: [ArrayView4<'a, f32>; 3],
    bias: Option<ArrayView4<'a, f32>>,
    alibi: Option<ArrayView1<'a, f32>>,
    sinks: Option<ArrayView1<'a, f32>>,
    weights: Option<ArrayView2<'a, f32>>,
    keep: Option<Array2<bool>>,
    bounds: Bounds,
    scale: f32,
    offset: usize,
    softcap: Option<f32>,
}

impl<'a> Read<'a> {
    pub(super) fn of(call: &mut Call<'a>) -> Result<Self, Error> {
        let qkv = [call.tensor("q")?, call.tensor("k")?, call.tensor("v")?];
        let width = qkv[0].shape()[3] as f32;
        Ok(Self {
            bias: call.optional("bias")?,
            alibi: call.optional("alibi")?,
            sinks: call.optional("sinks")?,
            weights: call.optional("weights")?,
            keep: call.flags("keep")?,
            bounds: call.bounds()?,
            scale: call.take("scale")?.unwrap_or(width.powf(-0.5)),
            offset: call.take("offset")?.unwrap_or(0),
            softcap: call.take::<Option<f32>>("softcap")?.flatten(),
            qkv,
        })
    }

    pub(super) fn inputs(&self) -> Inputs<'_> {
        let [q, k, v] = self.qkv;
        Inputs {
            offset: self.offset,
            softcap: self.softcap,
            bias: self.bias,
            alibi: self.alibi,
            sinks: self.sinks,
            weights: self.weights,
            keep: self.keep.as_ref().map(|keep| keep.view()),
            sequences: self.bounds.sequences(),
            ..Inputs::scaled(q, k, v, self.scale)
        }
    }

    /// The inputs in f64, to `then`.
    pub(super) fn exact<R>(&self, then: impl FnOnce(&Inputs<'_, f64, f64>) -> R) -> R {
        let [q, k, v] = self.qkv.map(exact);
        let (bias, alibi) = (self.bias.map(exact), self.alibi.map(exact));
        let (sinks, weights) = (self.sinks.map(exact), self.weights.map(exact));
        then(&Inputs {
            offset: self.offset,
            softcap: self.softcap.map(f64::from),
            bias: bias.as_ref().map(|x| x.view()),
            alibi: alibi.as_ref().map(|x| x.view()),
            sinks: sinks.as_ref().map(|x| x.view()),
            weights: weights.as_ref().map(|x| x.view()),
            keep: self.keep.as_ref().map(|keep| keep.view()),
            sequences: self.bounds.sequences(),
            ..Inputs::scaled(q.view(), k.view(), v.view(), f64::from(self.scale))
        })
    }
}

impl Attention {
    fn mechanism(&self, call: &mut Call<'_>, read: &Read<'_>) -> Result<Box<dyn Attend>, Error> {
        let op = call.op();
        if let Some(mask) = call.flags("mask")? {
            call.done(&self.signature().parameters)?;
            return Ok(Box::new(super::Patterned::new(Masked::dense(mask.view()))));
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
        self.parameters.first().is_some_and(|first| first.name == "start")
    }
}

impl Operation for Attention {
    fn signature(&self) -> Signature {
        let mask = self.masks().then_some(MASK);
        let parameters = self.parameters.iter().copied().chain([SCALE, OFFSET, SOFTCAP, PACKED]);
        Signature {
            inputs: QKV.into_iter().chain(mask).chain(OPTIONS).collect(),
            parameters: parameters.collect(),
            outputs: OUTPUTS.to_vec(),
            forms: self.forms,
            example: self.example,
        }
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let read = Read::of(call)?;
        let mechanism = self.mechanism(call, &read)?;
        if form == Form::Naive {
            let (out, lse) = read.exact(|x| mechanism.naive(x))?;
            return Ok(tensors([("o", rounded(out)), ("lse", rounded(lse))]));
        }
        let x = read.inputs();
        let Output { out, lse } =
            if form == Form::Step { steps(&*mechanism, &x, cx)? } else { mechanism.chunk(&x, cx)? };
        Ok(tensors([("o", out.into_dyn()), ("lse", lse.into_dyn())]))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let read = Read::of(call)?;
        let mechanism = self.mechanism(call, &read)?;
        let x = read.inputs();
        let output = mechanism.chunk(&x, cx)?;
        let d = Cotangent { out: call.tensor("do")?, lse: call.optional("dlse")? };
        let g = mechanism.backward(&x, &output, &d, cx)?;
        let mut gradients = tensors([("dq", g.q.into_dyn()), ("dk", g.k.into_dyn()), ("dv", g.v.into_dyn())]);
        let others = [("dbias", g.bias.map(|g| g.into_dyn())), ("dsinks", g.sinks.map(|g| g.into_dyn()))];
        gradients.extend(others.into_iter().filter_map(|(name, g)| Some((name.to_string(), g?))));
        Ok(gradients)
    }
}

/// Each query by itself against all keys, as in decoding.
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
