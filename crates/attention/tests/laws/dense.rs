use longreach_attention::softmax::dense::{Inputs, chunk, naive};
use longreach_simd::Cx;
use longreach_testkit::Kind::{Shared, Token};
use longreach_testkit::Tensor;
use longreach_testkit::laws::LENGTHS;
use longreach_testkit::tolerance::{FORWARD, assert_close};

use crate::{array, contexts, exact, v, wide};

/// Sizes and options of a call.
#[derive(Clone, Copy)]
struct Case {
    queries: usize,
    keys: usize,
    heads: usize,
    groups: usize,
    width: (usize, usize),
    softcap: Option<f64>,
    bias: bool,
    sinks: bool,
    causal: Option<usize>,
}

const PLAIN: Case = Case {
    queries: 100,
    keys: 100,
    heads: 2,
    groups: 2,
    width: (64, 64),
    softcap: None,
    bias: false,
    sinks: false,
    causal: None,
};

fn agrees(case: Case, cx: &Cx) {
    let Case { queries: t, keys: s, heads: h, groups: g, width: (d, e), .. } = case;
    let q = Tensor::random("q", Token, &[2, t, h, d], -2.0..2.0, 1);
    let k = Tensor::random("k", Token, &[2, s, g, d], -2.0..2.0, 2);
    let value = Tensor::random("v", Token, &[2, s, g, e], -2.0..2.0, 3);
    let bias = Tensor::random("bias", Shared, &[1, h, t, s], -3.0..3.0, 4);
    let sinks = Tensor::random("sinks", Shared, &[h], -1.0..3.0, 5);
    let scale = (d as f64).powf(-0.5);
    let (eq, ek, ev, eb, es) = (exact(&q), exact(&k), exact(&value), exact(&bias), exact(&sinks));
    let definition = Inputs {
        q: v!(eq),
        k: v!(ek),
        v: v!(ev),
        scale,
        softcap: case.softcap,
        bias: case.bias.then(|| v!(eb)),
        sinks: case.sinks.then(|| v!(es)),
        causal: case.causal,
    };
    let (out, lse) = naive(&definition);
    let (q, k, value, bias, sinks) = (array(&q), array(&k), array(&value), array(&bias), array(&sinks));
    let inputs = Inputs {
        q: v!(q),
        k: v!(k),
        v: v!(value),
        scale: scale as f32,
        softcap: case.softcap.map(|c| c as f32),
        bias: case.bias.then(|| v!(bias)),
        sinks: case.sinks.then(|| v!(sinks)),
        causal: case.causal,
    };
    let got = chunk(&inputs, cx).expect("valid inputs");
    let what = format!("T = {t}, S = {s}, D = {d}, E = {e}, {}", cx.isa);
    assert_close(&what, &wide(&got.out), &out.into_iter().collect::<Vec<_>>(), FORWARD);
    assert_close(&what, &wide(&got.lse), &lse.into_iter().collect::<Vec<_>>(), FORWARD);
}

#[test]
fn every_length_is_naive() {
    for cx in contexts() {
        for &t in LENGTHS {
            agrees(Case { queries: t, keys: t, causal: Some(0), ..PLAIN }, &cx);
            agrees(Case { queries: t, keys: t, ..PLAIN }, &cx);
            agrees(Case { queries: 7, keys: 300 + t, causal: Some(293 + t), ..PLAIN }, &cx);
        }
    }
}

#[test]
fn every_width_and_group_is_naive() {
    for cx in contexts() {
        for (d, e) in [(16, 16), (33, 17), (80, 96), (128, 128), (256, 40), (1, 1)] {
            agrees(Case { width: (d, e), causal: Some(0), ..PLAIN }, &cx);
        }
        agrees(Case { heads: 6, groups: 2, causal: Some(0), ..PLAIN }, &cx);
        agrees(Case { heads: 5, groups: 1, queries: 70, keys: 600, ..PLAIN }, &cx);
    }
}

#[test]
fn every_option_is_naive() {
    for cx in contexts() {
        let long = Case { queries: 90, keys: 300, causal: Some(210), ..PLAIN };
        agrees(Case { softcap: Some(3.0), ..long }, &cx);
        agrees(Case { bias: true, ..long }, &cx);
        agrees(Case { sinks: true, ..long }, &cx);
        agrees(Case { softcap: Some(20.0), bias: true, sinks: true, ..long }, &cx);
    }
}

#[test]
fn bf16_is_f32_of_the_same_numbers() {
    let half =
        |name, seed| array(&Tensor::random(name, Token, &[1, 70, 2, 33], -2.0..2.0, seed)).mapv(half::bf16::from_f32);
    let (q, k, value) = (half("q", 1), half("k", 2), half("v", 3));
    let (wq, wk, wv) = (q.mapv(|x| x.to_f32()), k.mapv(|x| x.to_f32()), value.mapv(|x| x.to_f32()));
    for cx in contexts() {
        let (scale, softcap, bias, sinks, causal) = (0.2, None, None, None, Some(0));
        let narrow = Inputs { q: v!(q), k: v!(k), v: v!(value), scale, softcap, bias, sinks, causal };
        let wide = Inputs { q: v!(wq), k: v!(wk), v: v!(wv), scale, softcap, bias, sinks, causal };
        let (narrow, wide) = (chunk(&narrow, &cx).expect("valid inputs"), chunk(&wide, &cx).expect("valid inputs"));
        assert_eq!((narrow.out, narrow.lse), (wide.out, wide.lse), "{}", cx.isa);
    }
}
