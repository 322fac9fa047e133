//! Ring attention: every rank keeps its queries, and keys and values go round.
//!
//! In step `n` of `N`, rank `r` attends to the keys of rank `r − n` while it sends them to rank `r + 1`. Outputs are merged by their
//! log-sum-exps:
//!
//! $$ o \leftarrow \sum_n e^{\mathrm{lse}_n - \mathrm{lse}} o_n, \qquad \mathrm{lse} = \ln \textstyle\sum_n e^{\mathrm{lse}_n} $$
//!
//! In the backward pass the gradients of keys and values go round with them, and arrive where the keys are. A rank sends
//! `4 (N − 1)/N · T G (D + E)` bytes forward; backward the same, and `4 T G (D + E)` of gradients. Liu et al. 2023 (Ring Attention),
//! §3; the zigzag ([`Spread::Zigzag`](crate::layout::Spread::Zigzag)) makes each step cost every rank the same in causal attention.

use std::ops::Range;

use longreach_attention::softmax::{self, Cotangent, Gradient, Inputs, Output, OutputView, Pattern};
use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4, s};

use crate::part::Whole;
use crate::{Channel, Error, Layout, Ranks, bytes_of, numbers_of};

/// What the ranks agree on: which tokens each holds, and which keys a query of the whole text attends to.
#[derive(Clone, Copy)]
pub struct Over<'a> {
    /// The tokens of each rank; it has as many ranks as there are.
    pub layout: &'a Layout,
    /// The pattern over the whole text.
    pub pattern: &'a dyn Pattern,
    /// The ranks.
    pub ranks: &'a dyn Ranks,
}

impl std::fmt::Debug for Over<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rank = (self.ranks.rank(), self.ranks.size());
        f.debug_struct("Over")
            .field("layout", self.layout)
            .field("pattern", &self.pattern)
            .field("rank", &rank)
            .finish()
    }
}

impl Over<'_> {
    /// Checks a call and returns the pattern over the whole text.
    pub(crate) fn check(&self, x: &Inputs<'_>) -> Result<Whole<'_>, Error> {
        let op = self.pattern.name();
        let (b, t, h, d) = x.q.dim();
        let (_, _, g, e) = x.v.dim();
        let own = self.layout.own(self.ranks.rank());
        let wanted = [
            ("q", x.q.shape(), [b, own, h, d]),
            ("k", x.k.shape(), [b, own, g, d]),
            ("v", x.v.shape(), [b, own, g, e]),
        ];
        for (input, found, want) in wanted {
            if found != want {
                let (want, found) = (want.to_vec(), found.to_vec());
                return Err(longreach_attention::Error::Shape { op, input, want, found }.into());
            }
        }
        if self.layout.ranks() != self.ranks.size() {
            let (what, first) = ("the number of ranks".to_owned(), self.layout.ranks().to_string());
            return Err(Error::Differs { what, first, rank: self.ranks.rank(), other: self.ranks.size().to_string() });
        }
        let other = [
            ("earlier", !x.earlier.is_empty()),
            ("offset", x.offset != 0),
            ("bias", x.bias.is_some()),
            ("alibi", x.alibi.is_some()),
            ("sinks", x.sinks.is_some()),
            ("weights", x.weights.is_some()),
            ("keep", x.keep.is_some()),
            ("sequences", matches!(x.sequences, longreach_attention::Sequences::Packed(_))),
        ];
        if let Some((option, _)) = other.iter().find(|(_, given)| *given) {
            let message = format!("`{option}` is given: over ranks, attention takes q, k, v, a scale and a soft-cap");
            return Err(Error::Unsupported { name: op.to_owned(), message });
        }
        debug_assert_eq!(t, own);
        Whole::new(self.pattern, b, h, self.layout.tokens())
    }
}

/// Keys and values, or their gradients, of a rank.
pub(crate) struct Pair {
    pub(crate) k: Array4<f32>,
    pub(crate) v: Array4<f32>,
}

impl Pair {
    pub(crate) fn zeros(k: [usize; 4], v: [usize; 4]) -> Self {
        Self { k: Array4::zeros(k), v: Array4::zeros(v) }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        bytes_of(self.k.iter().chain(self.v.iter()))
    }

    /// Those of a message, of `n` tokens; the other axes are those of `like`.
    pub(crate) fn read(bytes: &[u8], n: usize, like: &Inputs<'_>, from: usize) -> Result<Self, Error> {
        let shape = |(b, _, g, d): (usize, usize, usize, usize)| (b, n, g, d);
        let (k, v) = (shape(like.k.dim()), shape(like.v.dim()));
        let (of_keys, of_values) = (k.0 * k.1 * k.2 * k.3, v.0 * v.1 * v.2 * v.3);
        let mut numbers = numbers_of(bytes, of_keys + of_values, from)?;
        let values = numbers.split_off(of_keys);
        let array = |shape, numbers| Array4::from_shape_vec(shape, numbers).expect("as many numbers as the shape has");
        Ok(Self { k: array(k, numbers), v: array(v, values) })
    }
}

fn tokens<'a>(x: ArrayView4<'a, f32>, own: Range<usize>) -> ArrayView4<'a, f32> {
    x.slice_move(s![.., own, .., ..])
}

/// Attention of the rank's own queries to the keys of all ranks. Errors on shapes other than those of the layout, on a pattern that
/// does not support the length of the text, on options of scores other than the scale and the soft-cap, and if a rank fails.
pub fn forward(x: &Inputs<'_>, over: &Over<'_>, cx: &Cx) -> Result<Output, Error> {
    let whole = over.check(x)?;
    let (me, n) = (over.ranks.rank(), over.ranks.size());
    let mut held = Pair { k: x.k.to_owned(), v: x.v.to_owned() };
    let (b, t, h, _) = x.q.dim();
    // Attention to no key: zeros, with a log-sum-exp of −∞.
    let lse = ndarray::Array3::from_elem((b, t, h), f32::NEG_INFINITY);
    let mut all = Output { out: Array4::zeros((b, t, h, x.v.dim().3)), lse };
    for step in 0..n {
        let from = (me + n - step) % n;
        if step + 1 < n {
            over.ranks.send((me + 1) % n, Channel::Keys, held.bytes())?;
        }
        for (queries, own) in over.layout.placed(me) {
            for (keys, theirs) in over.layout.placed(from).filter(|(keys, _)| !keys.is_empty()) {
                let part = whole.part(queries.start, keys.start)?;
                let [k, v] = [&held.k, &held.v].map(|x| tokens(x.view(), theirs.clone()));
                let more = softmax::chunk(&Inputs { q: tokens(x.q, own.clone()), k, v, ..*x }, &part, cx)?;
                absorb(&mut all, own.clone(), more, cx)?;
            }
        }
        if step + 1 < n {
            let next = (me + n - step - 1) % n;
            let bytes = over.ranks.receive((me + n - 1) % n, Channel::Keys)?;
            held = Pair::read(&bytes, over.layout.own(next), x, next)?;
        }
    }
    Ok(all)
}

/// Merges attention of the queries `own` to more keys.
pub(crate) fn absorb(all: &mut Output, own: Range<usize>, more: Output, cx: &Cx) -> Result<(), Error> {
    let before = Output {
        out: all.out.slice(s![.., own.clone(), .., ..]).to_owned(),
        lse: all.lse.slice(s![.., own.clone(), ..]).to_owned(),
    };
    let merged = softmax::merge("ring attention", vec![before, more], cx)?;
    all.out.slice_mut(s![.., own.clone(), .., ..]).assign(&merged.out);
    all.lse.slice_mut(s![.., own, ..]).assign(&merged.lse);
    Ok(())
}

/// The gradients of the rank's own queries, keys and values, from what [`forward`] returned on it. Errors as [`forward`].
pub fn backward(
    x: &Inputs<'_>,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    over: &Over<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let whole = over.check(x)?;
    let (me, n) = (over.ranks.rank(), over.ranks.size());
    let mut held = Pair { k: x.k.to_owned(), v: x.v.to_owned() };
    let shape = |x: ArrayView4<'_, f32>, own| [x.dim().0, own, x.dim().2, x.dim().3];
    let mut grown = Pair::zeros(shape(x.k, over.layout.own(me)), shape(x.v, over.layout.own(me)));
    let mut dq = Array4::zeros(x.q.dim());
    for step in 0..n {
        let from = (me + n - step) % n;
        if step + 1 < n {
            over.ranks.send((me + 1) % n, Channel::Keys, held.bytes())?;
        }
        for (queries, own) in over.layout.placed(me) {
            for (keys, theirs) in over.layout.placed(from).filter(|(keys, _)| !keys.is_empty()) {
                let part = whole.part(queries.start, keys.start)?;
                let [k, v] = [&held.k, &held.v].map(|x| tokens(x.view(), theirs.clone()));
                let inputs = Inputs { q: tokens(x.q, own.clone()), k, v, ..*x };
                let more = of_part(&inputs, &part, &own, output, d, cx)?;
                let mut to = dq.slice_mut(s![.., own.clone(), .., ..]);
                to += &more.q;
                let mut to = grown.k.slice_mut(s![.., theirs.clone(), .., ..]);
                to += &more.k;
                let mut to = grown.v.slice_mut(s![.., theirs, .., ..]);
                to += &more.v;
            }
        }
        if n == 1 {
            break;
        }
        // Gradients move on with their keys, and one step further: then they are where the keys were made.
        over.ranks.send((me + 1) % n, Channel::Result, grown.bytes())?;
        let next = (me + n - step - 1) % n;
        let before = (me + n - 1) % n;
        if step + 1 < n {
            let bytes = over.ranks.receive(before, Channel::Keys)?;
            held = Pair::read(&bytes, over.layout.own(next), x, next)?;
        }
        let bytes = over.ranks.receive(before, Channel::Result)?;
        grown = Pair::read(&bytes, over.layout.own(next), x, next)?;
    }
    Ok(Gradient { q: dq, k: grown.k, v: grown.v, sinks: None, bias: None })
}

/// The gradient of attention of the queries `own` to a part of their keys.
pub(crate) fn of_part(
    x: &Inputs<'_>,
    part: &dyn Pattern,
    own: &Range<usize>,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let output =
        OutputView { out: tokens(output.out, own.clone()), lse: output.lse.slice_move(s![.., own.clone(), ..]) };
    let d =
        Cotangent { out: tokens(d.out, own.clone()), lse: d.lse.map(|lse| lse.slice_move(s![.., own.clone(), ..])) };
    Ok(softmax::backward(x, part, output, &d, cx)?)
}
