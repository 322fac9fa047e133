//! Softmax attention over selected keys: every mechanism of the family that takes queries, keys and values.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use burn::tensor::{DType, Tensor};
use longreach_attention::Sequences;
use longreach_attention::softmax::{self, Attend, Cotangent, Output, OutputView, Segment};
use longreach_simd::Cx;
use ndarray::Array2;

use crate::bridge::{Call, Held, Inputs, Operator, Plain};
use crate::device::is_on_host;
use crate::q8::{as_wide_as, none_like, widened};

mod infllm_v2;
mod longformer;
mod lsh;
mod nsa;
mod streaming;

pub use infllm_v2::{InfLlmV2Selection, infllm_v2_selection, infllm_v2_summaries};
pub use longformer::{LongformerAttention, longformer_attention};
pub use lsh::{Hash as LshHash, LshAttention, lsh_attention};
pub use nsa::{NsaAttention, nsa_attention};
pub use streaming::{StreamingAttention, streaming_attention};

/// The inputs of [`attention()`]: shapes as in [`softmax::Inputs`].
#[derive(Clone, Debug)]
pub struct Attention {
    /// `[B, T, H, D]`
    pub q: Tensor<4>,
    /// `[B, S, G, D]`
    pub k: Tensor<4>,
    /// `[B, S, G, E]`
    pub v: Tensor<4>,
    /// Added to the scores, `[B or 1, H or 1, T, S]`
    pub bias: Option<Tensor<4>>,
    /// A sink logit per head that competes with the keys, `[H]`
    pub sinks: Option<Tensor<1>>,
    /// The arguments that are not tensors.
    pub options: Options,
}

/// The arguments of a call that are not tensors.
#[derive(Clone, Debug)]
pub struct Options {
    /// The mechanism, which determines the keys that a query attends to.
    pub mechanism: Arc<dyn Attend>,
    /// The factor of the scores.
    pub scale: f32,
    /// The position of the first query among the keys.
    pub offset: usize,
    /// The soft-cap of the scores.
    pub softcap: Option<f32>,
    /// The slopes of ALiBi, `[H]`
    pub alibi: Option<Vec<f32>>,
    /// Which keys are not padding, `[B, S]`
    pub keep: Option<Array2<bool>>,
    /// The bounds of packed sequences.
    pub packed: Option<Vec<usize>>,
}

impl Options {
    /// A mechanism with scale `D^{-1/2}` for heads of `width` channels, and no other options.
    pub fn new(mechanism: impl Attend + 'static, width: usize) -> Self {
        Self::shared(Arc::new(mechanism), width)
    }

    /// As [`Options::new`], with a shared mechanism.
    pub fn shared(mechanism: Arc<dyn Attend>, width: usize) -> Self {
        Self {
            mechanism,
            scale: (width as f32).powf(-0.5),
            offset: 0,
            softcap: None,
            alibi: None,
            keep: None,
            packed: None,
        }
    }
}

/// With fewer queries than this, work is divided over the keys instead of the queries.
pub(crate) const FEW: usize = 8;

/// The output `[B, T, H, E]`, and the log-sum-exp `[B, T, H]`.
pub fn attention(x: Attention) -> (Tensor<4>, Tensor<3>) {
    let mut call = Call::new().with(x.q).with(x.k).with(x.v);
    let (bias, sinks) = (x.bias.is_some(), x.sinks.is_some());
    if let Some(bias) = x.bias {
        call = call.with(bias);
    }
    if let Some(sinks) = x.sinks {
        call = call.with(sinks);
    }
    let mut out = call.run(Softmax { options: x.options, bias, sinks, earlier: Vec::new() });
    (out.output(), out.output())
}

/// Attention of `q: [B, T, H, D]` to cached keys and values in segments `[B, n, G, D]` and `[B, n, G, E]`, oldest first
/// → `[B, T, H, E]`. The last ones may be those of the queries themselves: see [`Options::offset`]. `sinks` is a logit
/// per head.
///
/// All segments that are not empty are in f32, or all are in bf16, or all are Q8_0 blocks ([`to_q8`](crate::to_q8)), whose output is
/// filled up with zeros to a multiple of 32 channels. They are read where they are. They are copied to one
/// tensor in f32 if gradients are recorded, if the mechanism needs contiguous keys, or on a device that is not the host. Panics if there are no segments.
pub fn cached_attention(
    q: Tensor<4>,
    segments: Vec<[Tensor<4>; 2]>,
    sinks: Option<Tensor<1>>,
    options: Options,
) -> Tensor<4> {
    let hold = options.mechanism.reads_segments() && !q.is_autodiff() && is_on_host(&q);
    let q = as_wide_as(&segments.last().expect("at least one segment")[0], q);
    let (earlier, [k, v]) = held(segments, hold);
    let mut call = Call::new().with(q).with(k).with(v);
    let has_sinks = sinks.is_some();
    if let Some(sinks) = sinks {
        call = call.with(sinks);
    }
    call.run(Softmax { options, bias: false, sinks: has_sinks, earlier }).output()
}

/// Earlier segments to be read where they are, and the keys and values of the last one in f32, which are empty if it is
/// not in f32. All are copied to one segment unless `hold` is true and no gradient is recorded. Panics if there are no
/// segments.
fn held(mut segments: Vec<[Tensor<4>; 2]>, hold: bool) -> (Vec<[Held; 2]>, [Tensor<4>; 2]) {
    let mut last = segments.pop().expect("at least one segment");
    let rounded = last[0].dtype() != DType::F32;
    if rounded && hold {
        let empty = last.each_ref().map(none_like);
        segments.push(std::mem::replace(&mut last, empty));
    } else if rounded {
        segments = segments.into_iter().map(|segment| segment.map(widened)).collect();
        last = last.map(widened);
    }
    if segments.is_empty() {
        return (Vec::new(), last);
    }
    if hold && !last[0].is_autodiff() {
        let held = segments.iter().map(|[k, v]| Some([Held::new(k.clone())?, Held::new(v.clone())?]));
        if let Some(held) = held.collect() {
            return (held, last);
        }
    }
    segments.push(last);
    let joined = |part: usize| Tensor::cat(segments.iter().map(|segment| segment[part].clone()).collect(), 1);
    (Vec::new(), [joined(0), joined(1)])
}

#[derive(Debug)]
pub(crate) struct Softmax {
    pub(crate) options: Options,
    /// Whether the fourth input is a bias.
    pub(crate) bias: bool,
    /// Whether the last input is a sink logit per head.
    pub(crate) sinks: bool,
    /// Keys and values before those among the inputs.
    pub(crate) earlier: Vec<[Held; 2]>,
}

/// Results of the forward pass that are stored only if a backward pass will follow.
#[derive(Debug)]
pub(crate) struct Kept<O> {
    wanted: AtomicBool,
    output: OnceLock<O>,
}

impl<O> Default for Kept<O> {
    fn default() -> Self {
        Self { wanted: AtomicBool::new(false), output: OnceLock::new() }
    }
}

impl<O> Kept<O> {
    pub(crate) fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Applies `of` to an output, which is copied first if a backward pass will need it.
    pub(crate) fn pass<R>(&self, output: O, of: impl FnOnce(O) -> R) -> R
    where
        O: Clone,
    {
        if self.wanted.load(Ordering::Relaxed) {
            let _ = self.output.set(output.clone());
        }
        of(output)
    }

    pub(crate) fn get(&self, again: impl FnOnce() -> O) -> &O {
        self.output.get_or_init(again)
    }
}

fn outputs(output: Output) -> Vec<Plain> {
    vec![Plain::array(output.out), Plain::array(output.lse)]
}

/// The output of the forward pass, of an operator that saves both parts.
fn saved_output(inputs: &Inputs) -> OutputView<'_> {
    OutputView { out: inputs.saved(0), lse: inputs.saved(1) }
}

impl Softmax {
    fn inputs<'a>(&'a self, x: &'a Inputs, earlier: &'a [[Segment<'a>; 2]]) -> softmax::Inputs<'a> {
        let Options { scale, offset, softcap, alibi, keep, packed, .. } = &self.options;
        softmax::Inputs {
            earlier,
            offset: *offset,
            softcap: *softcap,
            bias: self.bias.then(|| x.view(3)),
            alibi: alibi.as_ref().map(|slopes| slopes[..].into()),
            sinks: self.sinks.then(|| x.view(3 + usize::from(self.bias))),
            keep: keep.as_ref().map(|keep| keep.view()),
            sequences: packed.as_ref().map_or(Sequences::Batch, |bounds| Sequences::Packed(bounds)),
            ..softmax::Inputs::scaled(x.view(0), x.view(1), x.view(2), *scale)
        }
    }
}

impl Operator for Softmax {
    fn name(&self) -> &str {
        "attention"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let earlier: Vec<_> = self.earlier.iter().map(|[k, v]| [k.segment(), v.segment()]).collect();
        let x = self.inputs(inputs, &earlier);
        let mechanism = &self.options.mechanism;
        let output = if x.q.dim().1 < FEW { mechanism.step(&x, cx) } else { mechanism.chunk(&x, cx) };
        outputs(output.unwrap_or_else(|e| panic!("{e}")))
    }

    fn saves(&self) -> Vec<usize> {
        vec![0, 1]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let x = self.inputs(inputs, &[]);
        let output = saved_output(inputs);
        let d = Cotangent { out: d_out[0].view(), lse: Some(d_out[1].view()) };
        let g = self.options.mechanism.backward(&x, output, &d, cx).unwrap_or_else(|e| panic!("{e}"));
        let mut gradients = vec![Plain::array(g.q), Plain::array(g.k), Plain::array(g.v)];
        gradients.extend(g.bias.map(Plain::array));
        gradients.extend(g.sinks.map(Plain::array));
        gradients
    }
}
