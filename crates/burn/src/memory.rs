//! Attention with memories: Transformer-XL's relative attention, Infini-attention, HMT's recall.

use burn::tensor::Tensor;
use longreach_attention::memory::{hmt, infini as infini_kernel, transformer_xl as transformer_xl_kernel};
use longreach_attention::softmax::{Cotangent, Output};
use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4, Axis, Ix4, concatenate, s};

use crate::bridge::{Call, Inputs, Operator, Plain};
use crate::softmax::Kept;

/// The inputs of [`transformer_xl()`].
#[derive(Clone, Debug)]
pub struct TransformerXl {
    /// `[B, T, H, D]`
    pub q: Tensor<4>,
    /// `[B, S, H, D]`, the memory first
    pub k: Tensor<4>,
    /// `[B, S, H, E]`
    pub v: Tensor<4>,
    /// The projected position embedding of each distance, `[R, H, D]` with `R` at least `S`
    pub r: Tensor<3>,
    /// The biases added to queries in content scores and in position scores, `[H, D]` each
    pub biases: Option<[Tensor<2>; 2]>,
    /// The factor of the scores.
    pub scale: f32,
    /// The number of keys before its own that a query attends to; all if `None`.
    pub left: Option<usize>,
}

/// The output, `[B, T, H, E]`: [`longreach_attention::memory::transformer_xl`].
pub fn transformer_xl(x: TransformerXl) -> Tensor<4> {
    let mut call = Call::new().with(x.q).with(x.k).with(x.v).with(x.r);
    let biased = x.biases.is_some();
    for bias in x.biases.into_iter().flatten() {
        call = call.with(bias);
    }
    call.run(ByDistance { biased, scale: x.scale, left: x.left, kept: Kept::default() }).output()
}

#[derive(Debug)]
struct ByDistance {
    biased: bool,
    scale: f32,
    left: Option<usize>,
    kept: Kept<Output>,
}

impl ByDistance {
    fn inputs<'a>(&self, x: &'a Inputs) -> transformer_xl_kernel::Inputs<'a> {
        transformer_xl_kernel::Inputs {
            u: self.biased.then(|| x.view(4)),
            w: self.biased.then(|| x.view(5)),
            left: self.left,
            ..transformer_xl_kernel::Inputs::new(x.view(0), x.view(1), x.view(2), x.view(3), self.scale)
        }
    }
}

impl Operator for ByDistance {
    fn name(&self) -> &str {
        "transformer_xl"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let output = transformer_xl_kernel::chunk(&self.inputs(inputs), cx).unwrap_or_else(|e| panic!("{e}"));
        self.kept.pass(output, |output| vec![Plain::array(output.out)])
    }

    fn will_be_differentiated(&self, _: &[bool]) {
        self.kept.want();
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let x = self.inputs(inputs);
        let output = self.kept.get(|| transformer_xl_kernel::chunk(&x, cx).unwrap_or_else(|e| panic!("{e}")));
        let d = Cotangent { out: d_out[0].view(), lse: None };
        let g = transformer_xl_kernel::backward(&x, output.view(), &d, cx).unwrap_or_else(|e| panic!("{e}"));
        let mut gradients = vec![Plain::array(g.q), Plain::array(g.k), Plain::array(g.v), Plain::array(g.r)];
        if self.biased {
            gradients.extend([Plain::array(g.u), Plain::array(g.w)]);
        }
        gradients
    }
}

/// The inputs of [`infini()`].
#[derive(Clone, Debug)]
pub struct Infini {
    /// `[B, T, H, K]`
    pub q: Tensor<4>,
    /// `[B, T, G, K]`
    pub k: Tensor<4>,
    /// `[B, T, G, V]`
    pub v: Tensor<4>,
    /// Queries and keys of local attention, if they differ from those of the memory.
    pub local: Option<[Tensor<4>; 2]>,
    /// The gate between memory and local attention per head, before the sigmoid, `[H]`
    pub gate: Tensor<1>,
    /// The state before the first token.
    pub state: InfiniState,
    /// The number of tokens of a segment.
    pub segment: usize,
    /// Whether the memory is updated by the delta rule: what it already returns for a key is subtracted from the
    /// value.
    pub delta: bool,
    /// The lower limit of the memory's denominators.
    pub epsilon: f32,
    /// The factor of the scores of local attention.
    pub scale: f32,
}

/// The state of [`infini()`].
#[derive(Clone, Debug)]
pub struct InfiniState {
    /// The memory, with the sums of keys as its last column, `[B, G, K, V + 1]`
    pub memory: Tensor<4>,
    /// The pending update of the current segment, `[B, G, K, V + 1]`
    pub pending: Tensor<4>,
    /// The keys of the current segment, `[B, segment, G, K]`, of which the first `seen` are valid.
    pub keys: Tensor<4>,
    /// The values of the current segment, `[B, segment, G, V]`
    pub values: Tensor<4>,
    /// The number of tokens of the current segment that were read; less than `segment`.
    pub seen: usize,
}

/// The output, `[B, T, H, V]`, and the state after the last token: [`longreach_attention::memory::infini`].
pub fn infini(x: Infini) -> (Tensor<4>, InfiniState) {
    let InfiniState { memory, pending, keys, values, seen } = x.state;
    let tokens = x.q.dims()[1];
    // The local queries and keys are appended along the head axis, since a pack holds at most nine tensors.
    let local = x.local.is_some();
    let (q, k) = match x.local {
        Some([ql, kl]) => (Tensor::cat(vec![x.q, ql], 2), Tensor::cat(vec![x.k, kl], 2)),
        None => (x.q, x.k),
    };
    let call = Call::new().with(q).with(k).with(x.v).with(x.gate);
    let call = call.with(memory).with(pending).with(keys).with(values);
    let (segment, delta, epsilon, scale) = (x.segment, x.delta, x.epsilon, x.scale);
    let mut out = call.run(Segments { local, segment, seen, delta, epsilon, scale });
    let o = out.output();
    let (memory, pending, keys, values) = (out.output(), out.output(), out.output(), out.output());
    (o, InfiniState { memory, pending, keys, values, seen: (seen + tokens) % segment.max(1) })
}

#[derive(Debug)]
struct Segments {
    local: bool,
    segment: usize,
    seen: usize,
    delta: bool,
    epsilon: f32,
    scale: f32,
}

impl Segments {
    fn inputs<'a>(&self, x: &'a Inputs) -> infini_kernel::Inputs<'a> {
        let half = |i: usize, half: usize| {
            let view: ArrayView4<'a, f32> = x.view(i);
            let heads = view.dim().2 / if self.local { 2 } else { 1 };
            view.slice_move(s![.., .., half * heads..(half + 1) * heads, ..])
        };
        infini_kernel::Inputs {
            q: half(0, 0),
            k: half(1, 0),
            v: x.view(2),
            local: self.local.then(|| [half(0, 1), half(1, 1)]),
            gate: x.view(3),
            segment: self.segment,
            delta: self.delta,
            epsilon: self.epsilon,
            scale: self.scale,
        }
    }

    fn state(&self, x: &Inputs) -> infini_kernel::State {
        let of = |i: usize| x.view::<Ix4>(i).as_standard_layout().into_owned();
        let seen = |i: usize| x.view::<Ix4>(i).slice(s![.., ..self.seen, .., ..]).as_standard_layout().into_owned();
        infini_kernel::State { memory: of(4), pending: of(5), keys: seen(6), values: seen(7) }
    }

    /// Pads the keys or values of an incomplete segment to a whole segment.
    fn whole(&self, x: &Array4<f32>) -> Plain {
        let (b, n, g, width) = x.dim();
        let mut whole = Array4::zeros((b, self.segment, g, width));
        whole.slice_mut(s![.., ..n, .., ..]).assign(x);
        Plain::array(whole)
    }
}

impl Operator for Segments {
    fn name(&self) -> &str {
        "infini"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let mut state = self.state(inputs);
        let o = infini_kernel::chunk(&self.inputs(inputs), &mut state, cx).unwrap_or_else(|e| panic!("{e}"));
        let (keys, values) = (self.whole(&state.keys), self.whole(&state.values));
        vec![Plain::array(o), Plain::array(state.memory), Plain::array(state.pending), keys, values]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let (x, state) = (self.inputs(inputs), self.state(inputs));
        let [d_o, d_memory, d_pending] = [&d_out[0], &d_out[1], &d_out[2]].map(|d| d.view::<Ix4>());
        let g = infini_kernel::backward(&x, &state, d_o, d_memory, d_pending, cx);
        let mut g = g.unwrap_or_else(|e| panic!("{e}"));
        // The remaining keys of the current segment are the last of these keys, preceded by earlier ones of the
        // state.
        let tokens = x.q.dim().1;
        let left = (self.seen + tokens) % self.segment;
        let (new, old) = (left.min(tokens), left - left.min(tokens));
        let to_keys = match &mut g.local {
            Some([_, k]) => k,
            None => &mut g.k,
        };
        for (d, to, before) in [(&d_out[3], to_keys, &mut g.state.keys), (&d_out[4], &mut g.v, &mut g.state.values)] {
            let d = d.view::<Ix4>();
            let mut rows = to.slice_mut(s![.., tokens - new.., .., ..]);
            rows += &d.slice(s![.., old..left, .., ..]);
            let mut rows = before.slice_mut(s![.., self.seen - old.., .., ..]);
            rows += &d.slice(s![.., ..old, .., ..]);
        }
        let (q, k) = match g.local {
            Some([ql, kl]) => (concatenate![Axis(2), g.q, ql], concatenate![Axis(2), g.k, kl]),
            None => (g.q, g.k),
        };
        let (keys, values) = (self.whole(&g.state.keys), self.whole(&g.state.values));
        let mut gradients = vec![Plain::array(q), Plain::array(k), Plain::array(g.v), Plain::array(g.gate)];
        gradients.extend([Plain::array(g.state.memory), Plain::array(g.state.pending), keys, values]);
        gradients
    }
}

/// Recalls memories `[B, N, D]` for summaries `[B, Q, D]`, with projections `[D, R]`:
/// [`longreach_attention::memory::hmt`].
pub fn recall(s: Tensor<3>, m: Tensor<3>, wq: Tensor<2>, wk: Tensor<2>) -> Tensor<3> {
    Call::new().with(s).with(m).with(wq).with(wk).run(Recall).output()
}

#[derive(Debug)]
struct Recall;

impl Recall {
    fn inputs(x: &Inputs) -> hmt::Inputs<'_> {
        hmt::Inputs { s: x.view(0), m: x.view(1), wq: x.view(2), wk: x.view(3) }
    }
}

impl Operator for Recall {
    fn name(&self) -> &str {
        "recall"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        vec![Plain::array(hmt::chunk(&Self::inputs(inputs), cx).unwrap_or_else(|e| panic!("{e}")))]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let g = hmt::backward(&Self::inputs(inputs), d_out[0].view(), cx).unwrap_or_else(|e| panic!("{e}"));
        vec![Plain::array(g.s), Plain::array(g.m), Plain::array(g.wq), Plain::array(g.wk)]
    }
}
