//! Rotary positions within the cache, compared with one call per query and its cache.

use longreach_attention::rotary::{self, Rotary, Scaling};
use longreach_attention::softmax::streaming::{self, Rolling, Streaming};
use longreach_attention::softmax::{Cotangent, Inputs};
use longreach_simd::Cx;
use longreach_testkit::Kind::Token;
use longreach_testkit::Tensor;
use longreach_testkit::tolerance::{FORWARD, GRADIENT, assert_close};
use ndarray::{Array2, Array3, Array4, ArrayView4, s};

use crate::contexts;

const ROTARY: Rotary = Rotary { width: 8, theta: 30.0, interleaved: false, scaling: Scaling::Default };
const OF: Streaming = Streaming { sinks: 3, recent: 7 };
const T: usize = 50;

/// Each query by itself: the keys of its cache in order, key `n` rotated to position `n`, and the query to the last.
fn naive(q: ArrayView4<'_, f64>, k: ArrayView4<'_, f64>, v: ArrayView4<'_, f64>) -> Array4<f64> {
    let mut out = Array4::zeros(q.dim());
    for i in 0..T {
        let cache: Vec<usize> = OF.cache(i + 1).collect();
        let take = |x: &ArrayView4<'_, f64>, at: &[usize]| x.select(ndarray::Axis(1), at);
        let turned = |x: Array4<f64>, positions: Vec<usize>| {
            let positions = Array2::from_shape_vec((1, positions.len()), positions).expect("one row");
            rotary::naive(x.view(), positions.view(), T, &ROTARY).expect("a width that fits")
        };
        let keys = turned(take(&k, &cache), (0..cache.len()).collect());
        let query = turned(take(&q, &[i]), vec![cache.len() - 1]);
        for h in 0..2 {
            let score = |n: usize| {
                let products = (0..8).map(|c| keys[[0, n, h, c]] * query[[0, 0, h, c]]);
                (0.4 * products.sum::<f64>()).exp()
            };
            let weights: Vec<f64> = (0..cache.len()).map(score).collect();
            let total: f64 = weights.iter().sum();
            for (j, weight) in cache.iter().zip(weights) {
                out.slice_mut(s![0, i, h, ..]).scaled_add(weight / total, &v.slice(s![0, *j, h, ..]));
            }
        }
    }
    out
}

fn array(x: &Tensor) -> Array4<f64> {
    Array4::from_shape_vec((1, T, 2, 8), x.data.clone()).expect("as many numbers as the shape asks for")
}

#[test]
fn many_queries_match_one_query_per_cache() {
    let [q, k, v, d, towards] = [1, 2, 3, 4, 5].map(|seed| Tensor::random("x", Token, &[1, T, 2, 8], -1.0..1.0, seed));
    let [q, k, v, d, towards] = [&q, &k, &v, &d, &towards].map(array);
    let want = naive(q.view(), k.view(), v.view());
    let single = |x: &Array4<f64>| x.mapv(|x| x as f32);
    let wide = |x: &Array4<f32>| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    for cx in contexts() {
        let angles = |positions: &dyn Fn(usize) -> usize| {
            let positions = Array2::from_shape_fn((1, T), |(_, i)| positions(i));
            ROTARY.angles(positions.view(), T, &cx).expect("a width that fits")
        };
        let (text, cached) = (angles(&|i| i), angles(&|i| OF.place(i)));
        let turn = |x: &Array4<f64>, angles| rotary::chunk(single(x).view(), angles, &cx).expect("angles that fit");
        let (near_q, far, k_, v_) = (turn(&q, &text), turn(&q, &cached), turn(&k, &text), single(&v));
        let run = |first: usize, last: usize, cx: &Cx| {
            // As in a cache, only the previous keys within reach are passed.
            let from = first.saturating_sub(OF.recent - 1);
            let part = |x: &Array4<f32>, from: usize, to: usize| x.slice(s![.., from..to, .., ..]).to_owned();
            let [q, k, v] = [part(&near_q, first, last), part(&k_, from, last), part(&v_, from, last)];
            let (far, sink_k, sink_v) =
                (part(&far, first, last), part(&k_, 0, OF.sinks.min(last)), part(&v_, 0, OF.sinks.min(last)));
            let near = Inputs { offset: first - from, ..Inputs::scaled(q.view(), k.view(), v.view(), 0.4) };
            let (k, v) = (sink_k.view(), sink_v.view());
            let x = Rolling { near, far: far.view(), k, v, position: first };
            streaming::chunk(&x, &OF, cx).expect("inputs that fit").out
        };
        assert_close("whole", &wide(&run(0, T, &cx)), want.as_slice().expect("contiguous"), FORWARD);
        for (first, last) in [(0, 1), (0, 9), (5, 6), (9, 12), (20, 21), (20, 45)] {
            let want: Vec<f64> = want.slice(s![.., first..last, .., ..]).iter().copied().collect();
            assert_close(&format!("{first}..{last}"), &wide(&run(first, last, &cx)), &want, FORWARD);
        }
        // The gradient, along one direction per input.
        let near = Inputs::scaled(near_q.view(), k_.view(), v_.view(), 0.4);
        let (sink_k, sink_v) = (k_.slice(s![.., ..3, .., ..]), v_.slice(s![.., ..3, .., ..]));
        let x = Rolling { near, far: far.view(), k: sink_k, v: sink_v, position: 0 };
        let output = streaming::chunk(&x, &OF, &cx).expect("inputs that fit");
        let (dout, no) = (single(&d), Array3::zeros(output.lse.dim()));
        let d_out = Cotangent { out: dout.view(), lse: Some(no.view()) };
        let g = streaming::backward(&x, &OF, output.view(), &d_out, &cx).expect("inputs that fit");
        let back = |g: &Array4<f32>, angles| rotary::backward(g.view(), angles, &cx).expect("angles that fit");
        let dq = back(&g.near.q, &text) + back(&g.far.q, &cached);
        let (mut dk, mut dv) = (g.near.k.clone(), g.near.v.clone());
        dk.slice_mut(s![.., ..3, .., ..]).scaled_add(1.0, &g.far.k);
        dv.slice_mut(s![.., ..3, .., ..]).scaled_add(1.0, &g.far.v);
        let dk = back(&dk, &text);
        let slope = |which: usize| {
            let at = |by: f64| {
                let mut x = [q.clone(), k.clone(), v.clone()];
                x[which].scaled_add(by, &towards);
                (naive(x[0].view(), x[1].view(), x[2].view()) * &d).sum()
            };
            (at(1e-5) - at(-1e-5)) / 2e-5
        };
        for (which, g) in [dq, dk, dv].iter().enumerate() {
            let found: f64 = g.iter().zip(&towards).map(|(g, t)| f64::from(*g) * t).sum();
            assert_close(&format!("gradient {which}"), &[found], &[slope(which)], GRADIENT);
        }
    }
}
