//! The family's mechanisms as operations with named tensors.

use longreach_simd::Cx;
use ndarray::{Array4, Axis, CowArray, Ix1, Ix2, Ix4, s};

use super::masked::Masked;
use super::named::ByLength;
use super::{Attend, Cotangent, Inputs, Output, Sizes, mechanism};
use crate::operation::{
    Argument, Bounds, Call, Exact, Number, Operation, PACKED, Parameter, Signature, Tensor, Tensors, attended, choice,
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
    pub(crate) example: &'static str,
    pub(crate) forms: &'static [Form],
}

const NCS: &[Form] = &[Form::Naive, Form::Chunk, Form::Step];
const NC: &[Form] = &[Form::Naive, Form::Chunk];

/// A mechanism that takes all options of the family.
const ALL: Attention = Attention { parameters: &[], common: COMMON, options: &OPTIONS, example: "{}", forms: NCS };

const COMMON: &[Parameter] = &[SCALE, OFFSET, SOFTCAP, PACKED];

const CAUSAL: Parameter = flag("causal", "false", "hide the future");

pub(crate) static DENSE: Attention = Attention { parameters: &[CAUSAL], example: r#"{"causal": true}"#, ..ALL };

pub(crate) static MASKED: Attention = Attention {
    parameters: &[
        parameter(
            "start",
            "null",
            "compressed rows, in place of `mask`: query i sees indices[start[i] .. start[i + 1]]; needs `indices`",
        ),
        parameter("indices", "null", "the keys of all rows, one behind the other; needs `start`"),
    ],
    options: &MASKED_OPTIONS,
    forms: NC,
    ..ALL
};

const MASKED_OPTIONS: [Argument; 6] = {
    let [bias, alibi, sinks, weights, keep] = OPTIONS;
    [MASK, bias, alibi, sinks, weights, keep]
};

pub(crate) static WINDOW: Attention = Attention {
    parameters: &[parameter("left", "", "how far back a query sees"), parameter("right", "0", "how far ahead it sees")],
    example: r#"{"left": 128, "right": 128}"#,
    ..ALL
};

pub(crate) static DILATED: Attention = Attention {
    parameters: &[
        parameter("left", "", "how far back a query sees, in steps of the dilation"),
        parameter("right", "0", "how far ahead it sees, in steps of the dilation"),
        parameter("dilation", "", "a list: the distance of the keys it sees, one for all heads or one for each"),
    ],
    example: r#"{"left": 16, "right": 16, "dilation": [8]}"#,
    ..ALL
};

pub(crate) static BIGBIRD: Attention = Attention {
    parameters: &[
        parameter("block", "64", "tokens of a block"),
        parameter("random_blocks", "3", "random blocks a row of blocks"),
        parameter(
            "seed",
            "null",
            "the number of the layer in training; null outside, where all random blocks are block 0",
        )
        .such_as(&[choice("1")]),
        parameter("max_length", "4096", "the longest sequence of the model; the draw depends on it"),
    ],
    example: r#"{"block": 64, "random_blocks": 3, "seed": 0, "max_length": 4096}"#,
    ..ALL
};

pub(crate) static SPARSE_TRANSFORMER: Attention =
    Attention {
        parameters: &[
            parameter("kind", "", "every `stride`th key back, or the last keys of every stretch")
                .one_of(&[choice("\"strided\""), choice("\"fixed\"")]),
            parameter("stride", "", "how long a stretch is"),
            parameter("columns", "1", "for `fixed`: how many keys of a stretch all later ones see"),
            parameter(
                "positions",
                "1",
                "for `fixed`: how many places in a stretch there are for them, which heads take in turn",
            ),
            parameter("which", "\"merged\"", "both patterns in every head, one of them alone, or heads in turn")
                .one_of(&[choice("\"merged\""), choice("\"near\""), choice("\"far\""), choice("\"alternating\"")]),
        ],
        example: r#"{"kind": "fixed", "stride": 128, "columns": 32}"#,
        ..ALL
    };

pub(crate) static DEEPSPEED: Attention = Attention {
    parameters: &[
        parameter(
            "mode",
            "\"fixed\"",
            "the layout; `localslidingwindow` is of the class, DeepSpeed's files have no name for it",
        )
        .one_of(&[
            choice("\"dense\""),
            choice("\"fixed\""),
            choice("\"variable\""),
            choice("\"bigbird\""),
            choice("\"bslongformer\""),
            choice("\"localslidingwindow\""),
        ]),
        parameter("block", "16", "tokens of a block"),
        parameter("attention", "null", "what is seen; all if null, but for `localslidingwindow`; not of `dense`")
            .one_of(&[choice("\"bidirectional\"").with(FIXED), choice("\"unidirectional\"").with(FIXED)]),
        parameter(
            "hidden",
            "\"tokens\"",
            "of `unidirectional`: every token behind the query, or whole blocks only, as DeepSpeed without a mask",
        )
        .one_of(&[choice("\"tokens\"").with(PAST), choice("\"blocks\"").with(PAST)]),
        parameter("different_layout_per_head", "false", "a layout for each head; not of `localslidingwindow`")
            .one_of(&[choice("false").with(DRAWN), choice("true").with(DRAWN)]),
        parameter("num_local_blocks", "null", "of `fixed`: blocks of a stretch; 4 if null")
            .such_as(&[choice("2").with(FIXED)]),
        parameter("num_global_blocks", "null", "of `fixed`, of each stretch, and `bigbird`, the first ones; 1 if null")
            .such_as(&[choice("2").with(FIXED), choice("2").with(BIG)]),
        parameter(
            "num_different_global_patterns",
            "null",
            "of `fixed`, with a layout per head: as many heads differ; 1 if null",
        )
        .such_as(&[choice("2").with(r#"{"mode": "fixed", "different_layout_per_head": true}"#)]),
        parameter(
            "horizontal_global_attention",
            "null",
            "of `fixed` and `variable`: global blocks see all; false if null",
        )
        .one_of(&[choice("false").with(FIXED), choice("true").with(FIXED), choice("true").with(VARIABLE)]),
        parameter(
            "num_random_blocks",
            "null",
            "of `variable` and `bigbird`: random blocks a row; 0 if null, where the class of `bigbird` has 1",
        )
        .such_as(&[choice("1").with(VARIABLE), choice("1").with(BIG)]),
        parameter("local_window_blocks", "null", "of `variable`: a list, blocks of each stretch; [4] if null")
            .such_as(&[choice("[1, 2]").with(VARIABLE)]),
        parameter(
            "global_block_indices",
            "null",
            "of `variable` and `bslongformer`: a list, where global blocks begin; [0] if null",
        )
        .such_as(&[choice("[1, 3]").with(VARIABLE), choice("[1, 3]").with(LONG)]),
        parameter(
            "global_block_end_indices",
            "null",
            "of `variable` and `bslongformer`: a list, where each ends; one block each if null",
        )
        .such_as(&[choice("[2, 5]").with(r#"{"mode": "variable", "global_block_indices": [1, 3]}"#)]),
        parameter(
            "num_sliding_window_blocks",
            "null",
            "of `bigbird`, `bslongformer` and `localslidingwindow`: blocks of the window; 3 if null",
        )
        .such_as(&[choice("5").with(BIG), choice("5").with(LONG), choice("5").with(SLIDING)]),
        parameter("seed", "0", "of Python's generator, for random blocks"),
        parameter("enabled", "true", "false is `dense`").one_of(&[choice("true"), choice("false")]),
        parameter("sparsity_structure", "null", "`mode` in another spelling")
            .such_as(&[choice("\"bigbird\"").with("{\"mode\": null}")]),
        parameter("block_size", "null", "`block` in another spelling")
            .such_as(&[choice("32").with("{\"block\": null}")]),
        parameter(
            "local_window_size",
            "null",
            "tokens of a stretch or of the window, in place of their number of blocks; not of `dense`",
        )
        .such_as(&[
            choice("32").with(FIXED),
            choice("32").with(VARIABLE),
            choice("80").with(LONG),
            choice("80").with(BIG),
        ]),
        parameter(
            "random_blocks",
            "null",
            "`num_random_blocks` in another spelling; true is 1, and false, which every mode takes, 0",
        )
        .such_as(&[choice("true").with(BIG), choice("2").with(VARIABLE)]),
        Parameter {
            of_file: true,
            ..parameter(
                "sparse_attention",
                "null",
                "all of these in one object, as in a ds_config.json, whose other fields may stand beside it",
            )
            .such_as(&[choice(r#"{"mode": "fixed", "block": 32}"#)])
        },
    ],
    example: r#"{"mode": "bslongformer", "block": 16, "num_sliding_window_blocks": 5}"#,
    ..ALL
};

const FIXED: &str = r#"{"mode": "fixed"}"#;
const PAST: &str = r#"{"mode": "fixed", "attention": "unidirectional"}"#;
const VARIABLE: &str = r#"{"mode": "variable"}"#;
const DRAWN: &str = r#"{"mode": "variable", "num_random_blocks": 1}"#;
const BIG: &str = r#"{"mode": "bigbird"}"#;
const LONG: &str = r#"{"mode": "bslongformer"}"#;
const SLIDING: &str = r#"{"mode": "localslidingwindow"}"#;

pub(crate) static STREAMING: Attention = Attention {
    parameters: &[
        parameter("sinks", "4", "how many of the first tokens every query sees"),
        parameter("recent", "", "how many of the latest tokens it sees, its own among them"),
    ],
    example: r#"{"sinks": 4, "recent": 256}"#,
    ..ALL
};

pub(crate) static LONGNET: Attention = Attention {
    parameters: &[
        parameter("segments", "", "a list: tokens of a segment, for each branch"),
        parameter("dilations", "", "a list: every how manyth of them is kept, for each branch"),
        CAUSAL,
        parameter(
            "gradient",
            "\"exact\"",
            "of the mixture's weights; `detached` takes them for constants, as torchscale does",
        )
        .one_of(&[choice("\"exact\""), choice("\"detached\"")]),
    ],
    common: &[SCALE, SOFTCAP, PACKED],
    options: &[KEEP],
    example: r#"{"segments": [64, 256, 1024], "dilations": [1, 2, 4], "causal": true}"#,
    forms: NC,
};

pub(crate) static HIERARCHICAL: Attention = Attention {
    parameters: &[parameter("block", "64", "tokens of a block: a multiple of 16"), CAUSAL],
    common: &[SCALE, OFFSET, SOFTCAP, PACKED],
    options: &[OPTIONS[2], KEEP],
    example: r#"{"block": 64, "causal": true}"#,
    forms: NC,
};

pub(crate) static H_TRANSFORMER_1D: Attention = Attention {
    parameters: &[parameter("block", "16", "cells of a block at every level: an even number"), CAUSAL],
    common: &[SCALE, SOFTCAP],
    options: &[KEEP],
    example: r#"{"block": 16, "causal": true}"#,
    forms: NC,
};

pub(crate) static MOBA: Attention = Attention {
    parameters: &[
        parameter("block", "", "keys of a block"),
        parameter("top", "", "how many blocks a query sees, its own among them"),
    ],
    example: r#"{"block": 512, "top": 3}"#,
    ..ALL
};

pub(crate) static INFLLM_V2: Attention = Attention {
    parameters: &[
        parameter("kernel", "32", "keys of a summary"),
        parameter("stride", "16", "keys between summaries"),
        parameter("block", "64", "keys of a block; a multiple of the stride"),
        parameter("init_blocks", "1", "how many of the first blocks are forced"),
        parameter("window", "2048", "how many of the latest keys are forced, by whole blocks"),
        parameter("top", "64", "how many blocks are chosen beside the window's"),
        parameter("dense_below", "8192", "queries that see fewer keys, their own included, attend to all of them"),
    ],
    example: r#"{"window": 512, "top": 16, "dense_below": 0}"#,
    ..ALL
};

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

const MASK: Argument = Argument::optional(
    "mask",
    &["B or 1", "H or 1", "T", "S"],
    "which pairs are seen; 0 is not; where it is absent, `start` and `indices` must be given",
)
.flags()
.sampled();

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
    fn signature(&self) -> Signature {
        Signature {
            inputs: QKV.iter().chain(self.options).copied().collect(),
            parameters: self.parameters.iter().chain(self.common).copied().collect(),
            outputs: OUTPUTS.to_vec(),
            forms: self.forms,
            example: self.example,
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
