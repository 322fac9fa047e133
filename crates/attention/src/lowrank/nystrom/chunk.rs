//! Two softmaxes with few keys or few queries, by the softmax kernel, and small matrices between them.

use longreach_simd::Cx;
use ndarray::{Array2, Array4, Axis, CowArray, Ix4, s};

use super::inverse::{greatest, inverse, weights};
use super::{ALL, Inputs, OP, Padding, Start, attention, conv, gathered, landmarks};
use crate::Error;
use crate::linear::fresh;
use crate::softmax::{self, Output};

/// The intermediate results of one sequence.
pub(super) struct Sample<'a> {
    pub(super) tokens: Vec<usize>,
    pub(super) q: CowArray<'a, f32, Ix4>,
    pub(super) k: CowArray<'a, f32, Ix4>,
    pub(super) v: CowArray<'a, f32, Ix4>,
    /// The mask of keys for the landmarks.
    pub(super) keep: Option<Array2<bool>>,
    /// `None` if there are no more tokens than landmarks.
    pub(super) through: Option<Landmarks>,
}

/// The intermediate results between the two softmaxes.
pub(super) struct Landmarks {
    pub(super) q: Array4<f32>,
    pub(super) k: Array4<f32>,
    /// `A` of each head, and the column with the largest sum.
    pub(super) a: Vec<Array2<f32>>,
    pub(super) column: Vec<usize>,
    /// `c` of each head.
    pub(super) c: Vec<f32>,
    /// `Z` of each head, before and after every iteration.
    pub(super) z: Vec<Vec<Array2<f32>>>,
    /// The output of the landmarks' attention, and `Z` times it, which queries read.
    pub(super) read: Output,
    pub(super) values: Array4<f32>,
}

/// Attention of all tokens. Errors on wrong shapes.
pub fn chunk(x: &Inputs<'_>, cx: &Cx) -> Result<Array4<f32>, Error> {
    x.check()?;
    let mut out = fresh(x.v.dim());
    for (b, sample) in samples(x, cx)?.iter().enumerate() {
        let got = read(x, sample, cx)?.out;
        for (i, t) in sample.tokens.iter().enumerate() {
            out.slice_mut(s![b, *t, .., ..]).assign(&got.slice(s![0, i, .., ..]));
        }
    }
    if let Some(filters) = x.conv {
        conv::add(&line(x), filters, false, &mut out, cx);
    }
    blank(x, &mut out);
    Ok(out)
}

/// The input of the convolution.
pub(super) fn line(x: &Inputs<'_>) -> Array4<f32> {
    let mut v = x.v.as_standard_layout().into_owned();
    blank(x, &mut v);
    v
}

/// Zeroes the outputs of padding where it is [`Padding::Neutral`].
pub(super) fn blank(x: &Inputs<'_>, out: &mut Array4<f32>) {
    if x.padding == Padding::Seen {
        return;
    }
    for ((b, t), _) in x.keep.iter().flat_map(|keep| keep.indexed_iter()).filter(|(_, keep)| !**keep) {
        out.slice_mut(s![b, t, .., ..]).fill(0.0);
    }
}

/// The queries' attention, over landmarks or over all keys.
pub(super) fn read(x: &Inputs<'_>, sample: &Sample<'_>, cx: &Cx) -> Result<Output, Error> {
    let call = match &sample.through {
        None => attention([sample.q.view(), sample.k.view(), sample.v.view()], sample.keep.as_ref(), x.scale),
        Some(of) => attention([sample.q.view(), of.k.view(), of.values.view()], None, x.scale),
    };
    softmax::chunk(&call, &ALL, cx).map_err(|e| e.of(OP))
}

/// All sequences, up to the queries' attention.
pub(super) fn samples<'a>(x: &Inputs<'a>, cx: &Cx) -> Result<Vec<Sample<'a>>, Error> {
    let (heads, m) = (x.q.dim().2, x.landmarks);
    let mut samples = Vec::new();
    for b in 0..x.q.dim().0 {
        let tokens = x.tokens(b);
        let [q, k, v] = [x.q, x.k, x.v].map(|x| gathered(&x, b, &tokens));
        let keep = x.seen(b);
        let mut through = None;
        if tokens.len() > m {
            let (ql, kl) = (landmarks(q.view(), m), landmarks(k.view(), m));
            let call = attention([ql.view(), k.view(), v.view()], keep.as_ref(), x.scale);
            let read = softmax::chunk(&call, &ALL, cx).map_err(|e| e.of(OP))?;
            let of = |x: &Array4<f32>, h: usize| x.slice(s![0, .., h, ..]).to_owned();
            let a: Vec<_> = (0..heads).map(|h| weights(of(&ql, h).view(), of(&kl, h).view(), x.scale)).collect();
            let (c, column) = a.iter().map(greatest).unzip();
            let values = Array4::zeros(read.out.dim());
            through = Some(Landmarks { q: ql, k: kl, a, column, c, z: vec![Vec::new(); heads], read, values });
        }
        samples.push(Sample { tokens, q, k, v, keep, through });
    }
    if x.start == Start::Original {
        let all = samples.iter().flat_map(|sample| sample.through.iter().flat_map(|of| of.c.iter().copied()));
        let most = all.fold(f32::NEG_INFINITY, f32::max);
        samples.iter_mut().flat_map(|sample| &mut sample.through).for_each(|of| of.c.fill(most));
    }
    for of in samples.iter_mut().flat_map(|sample| &mut sample.through) {
        let parts = of.z.iter_mut().zip(&of.a).zip(&of.c).zip(of.values.axis_iter_mut(Axis(2))).enumerate();
        let read = &of.read.out;
        cx.team.for_each(parts, |(h, (((z, a), c), mut values))| {
            *z = inverse(a, *c, x.iterations);
            if let Some(z) = z.last() {
                let product: Array2<f32> = z.dot(&read.slice(s![0, .., h, ..]));
                values.slice_mut(s![0, .., ..]).assign(&product);
            }
        });
    }
    Ok(samples)
}
