//! Softmax attention under sparse patterns: ranks send each other the keys that a pattern visits, and no others.
//!
//! A pattern does not depend on the content, so that every rank knows which keys every other attends to. Under a causal window of `left`
//! keys these are the last `left` of the part before (a halo); under a pattern with global tokens, also their keys; under dense attention
//! all keys, which is better done by a [`ring`](crate::ring). A rank sends `4 · n · G (D + E)` bytes for `n` keys, whole blocks of which
//! another visits some; backward it returns as many for the gradients. Where parts begin at multiples of 64 tokens, the results of a
//! causal window are those of one rank in every bit: its keys are one range, and begin at such a multiple.

use std::ops::Range;

use longreach_attention::softmax::{self, Cotangent, Gradient, Inputs, Output, OutputView};
use longreach_simd::Cx;
use ndarray::{Array4, Axis, s};

use crate::part::Whole;
use crate::ring::{Over, Pair, absorb, of_part};
use crate::{Channel, Error, Layout};

/// A range of keys that queries of a rank attend to: where the keys are in the text, and the ranks and places that hold them.
struct Fetched {
    keys: Range<usize>,
    pieces: Vec<Piece>,
}

struct Piece {
    rank: usize,
    /// Among the rank's own tokens.
    own: Range<usize>,
    /// Among the keys of the range.
    at: Range<usize>,
}

/// What each piece of queries of a rank needs.
fn needs(whole: &Whole<'_>, layout: &Layout, rank: usize) -> Vec<Vec<Fetched>> {
    let holders: Vec<_> = (0..layout.ranks()).flat_map(|r| layout.placed(r).map(move |placed| (r, placed))).collect();
    let pieces = |keys: &Range<usize>| {
        let mut pieces = Vec::new();
        for (rank, (piece, own)) in &holders {
            let both = keys.start.max(piece.start)..keys.end.min(piece.end);
            if !both.is_empty() {
                let from = own.start + both.start - piece.start;
                let (own, at) = (from..from + both.len(), both.start - keys.start..both.end - keys.start);
                pieces.push(Piece { rank: *rank, own, at });
            }
        }
        pieces.sort_by_key(|piece| piece.at.start);
        pieces
    };
    let of_queries = |queries: &Range<usize>| {
        let ranges = whole.needed(queries.clone()).into_iter();
        ranges.map(|keys| Fetched { pieces: pieces(&keys), keys }).collect()
    };
    layout.pieces(rank).iter().map(of_queries).collect()
}

/// The number of keys that a rank receives of others.
pub fn received(over: &Over<'_>, x: &Inputs<'_>) -> Result<usize, Error> {
    let (whole, me) = (over.check(x)?, over.ranks.rank());
    let all = needs(&whole, over.layout, me);
    Ok(all.iter().flatten().flat_map(|fetched| &fetched.pieces).filter(|p| p.rank != me).map(|p| p.at.len()).sum())
}

/// Sends the keys that others need and returns those that this rank needs.
fn fetch(x: &Inputs<'_>, whole: &Whole<'_>, over: &Over<'_>) -> Result<Vec<Vec<(Fetched, Pair)>>, Error> {
    let me = over.ranks.rank();
    for to in (0..over.ranks.size()).filter(|to| *to != me) {
        for fetched in needs(whole, over.layout, to).into_iter().flatten() {
            for piece in fetched.pieces.iter().filter(|piece| piece.rank == me) {
                let rows = |x: &ndarray::ArrayView4<'_, f32>| x.slice(s![.., piece.own.clone(), .., ..]).to_owned();
                let pair = Pair { k: rows(&x.k), v: rows(&x.v) };
                over.ranks.send(to, Channel::Keys, pair.bytes())?;
            }
        }
    }
    let gather = |fetched: Fetched| {
        let n = fetched.keys.len();
        let shape = |(b, _, g, d): (usize, usize, usize, usize)| [b, n, g, d];
        let mut pair = Pair::zeros(shape(x.k.dim()), shape(x.v.dim()));
        for piece in &fetched.pieces {
            let (mut k, mut v) = (
                pair.k.slice_mut(s![.., piece.at.clone(), .., ..]),
                pair.v.slice_mut(s![.., piece.at.clone(), .., ..]),
            );
            if piece.rank == me {
                k.assign(&x.k.slice(s![.., piece.own.clone(), .., ..]));
                v.assign(&x.v.slice(s![.., piece.own.clone(), .., ..]));
            } else {
                let bytes = over.ranks.receive(piece.rank, Channel::Keys)?;
                let got = Pair::read(&bytes, piece.at.len(), x, piece.rank)?;
                k.assign(&got.k);
                v.assign(&got.v);
            }
        }
        Ok::<_, Error>((fetched, pair))
    };
    let all = needs(whole, over.layout, me).into_iter();
    all.map(|of_piece| of_piece.into_iter().map(gather).collect()).collect()
}

/// Attention of the rank's own queries to the keys of all ranks. Errors as [`ring::forward`](crate::ring::forward).
pub fn forward(x: &Inputs<'_>, over: &Over<'_>, cx: &Cx) -> Result<Output, Error> {
    let whole = over.check(x)?;
    let (b, t, h, _) = x.q.dim();
    let lse = ndarray::Array3::from_elem((b, t, h), f32::NEG_INFINITY);
    let mut all = Output { out: Array4::zeros((b, t, h, x.v.dim().3)), lse };
    let fetched = fetch(x, &whole, over)?;
    for ((queries, own), of_piece) in over.layout.placed(over.ranks.rank()).zip(fetched) {
        let one = of_piece.len() == 1;
        for (fetched, pair) in of_piece {
            let part = whole.part(queries.start, fetched.keys.start)?;
            let q = x.q.slice_move(s![.., own.clone(), .., ..]);
            let more = softmax::chunk(&Inputs { q, k: pair.k.view(), v: pair.v.view(), ..*x }, &part, cx)?;
            if one {
                all.out.slice_mut(s![.., own.clone(), .., ..]).assign(&more.out);
                all.lse.slice_mut(s![.., own.clone(), ..]).assign(&more.lse);
            } else {
                absorb(&mut all, own.clone(), more, cx)?;
            }
        }
    }
    Ok(all)
}

/// The gradients of the rank's own queries, keys and values, from what [`forward`] returned on it. Gradients of keys that several
/// ranks attend to are added in the order of ranks.
pub fn backward(
    x: &Inputs<'_>,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    over: &Over<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let whole = over.check(x)?;
    let me = over.ranks.rank();
    let shape = |(b, t, g, d): (usize, usize, usize, usize)| [b, t, g, d];
    let mut own_keys = Pair::zeros(shape(x.k.dim()), shape(x.v.dim()));
    let mut dq = Array4::zeros(x.q.dim());
    let fetched = fetch(x, &whole, over)?;
    let mut mine = Vec::new();
    for ((queries, own), of_piece) in over.layout.placed(me).zip(fetched) {
        for (fetched, pair) in of_piece {
            let part = whole.part(queries.start, fetched.keys.start)?;
            let q = x.q.slice_move(s![.., own.clone(), .., ..]);
            let inputs = Inputs { q, k: pair.k.view(), v: pair.v.view(), ..*x };
            let more = of_part(&inputs, &part, &own, output, d, cx)?;
            let mut to = dq.slice_mut(s![.., own.clone(), .., ..]);
            to += &more.q;
            for piece in fetched.pieces {
                let rows = |x: &Array4<f32>| x.slice_axis(Axis(1), piece.at.clone().into()).to_owned();
                let pair = Pair { k: rows(&more.k), v: rows(&more.v) };
                if piece.rank == me {
                    mine.push((piece.own, pair));
                } else {
                    over.ranks.send(piece.rank, Channel::Result, pair.bytes())?;
                }
            }
        }
    }
    let mut add = |own: Range<usize>, pair: &Pair| {
        let mut to = own_keys.k.slice_mut(s![.., own.clone(), .., ..]);
        to += &pair.k;
        let mut to = own_keys.v.slice_mut(s![.., own, .., ..]);
        to += &pair.v;
    };
    for rank in 0..over.ranks.size() {
        if rank == me {
            mine.drain(..).for_each(|(own, pair)| add(own, &pair));
            continue;
        }
        for fetched in needs(&whole, over.layout, rank).into_iter().flatten() {
            for piece in fetched.pieces.iter().filter(|piece| piece.rank == me) {
                let bytes = over.ranks.receive(rank, Channel::Result)?;
                add(piece.own.clone(), &Pair::read(&bytes, piece.at.len(), x, rank)?);
            }
        }
    }
    Ok(Gradient { q: dq, k: own_keys.k, v: own_keys.v, sinks: None, bias: None })
}
