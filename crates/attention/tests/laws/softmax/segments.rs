//! Keys and values in segments, as a KV cache has them, in every type.

use half::bf16;
use longreach_attention::softmax::Segment;
use longreach_simd::product::{Cached, Q8};
use ndarray::{Array4, s};

use super::*;

/// Keys and values that a cache holds in several segments, in f32 or bf16, are read as if they were one array of their
/// values in f32, bit for bit.
#[test]
fn segments_in_bf16_are_their_values() {
    let random = |shape: &[usize], seed| {
        let x = Tensor::random("x", Token, shape, -1.0..1.0, seed);
        Array4::from_shape_vec((shape[0], shape[1], shape[2], shape[3]), x.data).expect("as many numbers as places")
    };
    let half = |x: &Array4<f64>| x.mapv(bf16::from_f64);
    let wide = |x: &Array4<bf16>| x.mapv(bf16::to_f32);
    let lengths = [3, 70, 1, 300];
    let all: usize = lengths.iter().sum();
    let [k, v] = [(20, 1), (9, 2)].map(|(width, seed)| half(&random(&[2, all, 2, width], seed)));
    let patterns: [&dyn Pattern; 3] =
        [&Dense { causal: true }, &Window { left: 40, right: 0 }, &Streaming { sinks: 2, recent: 9 }];
    for (pattern, queries) in patterns.into_iter().flat_map(|pattern| [(pattern, 1), (pattern, 3), (pattern, 80)]) {
        let q = random(&[2, queries, 4, 20], 3).mapv(|x| x as f32);
        let mut from = 0;
        let segments: Vec<[_; 2]> = lengths
            .iter()
            .map(|n| {
                from += n;
                [&k, &v].map(|x| x.slice(s![.., from - n..from, .., ..]))
            })
            .collect();
        let halves: Vec<[Segment<'_>; 2]> =
            segments.iter().map(|[k, v]| [Segment::Bf16(k.view()), Segment::Bf16(v.view())]).collect();
        let [wide_k, wide_v] = [wide(&k), wide(&v)];
        let none = Array4::zeros((2, 0, 2, 20));
        let at = |x| Inputs { offset: all - queries, ..x };
        let cached =
            at(Inputs { earlier: &halves, ..Inputs::new(q.view(), none.view(), none.slice(s![.., .., .., ..9])) });
        let one = at(Inputs::new(q.view(), wide_k.view(), wide_v.view()));
        for cx in contexts() {
            for run in [softmax::chunk, softmax::step] {
                let [cached, one] = [&cached, &one].map(|x| run(x, pattern, &cx).expect("valid inputs"));
                assert_eq!(cached, one, "{} with {queries} queries", pattern.name());
            }
        }
    }
    // Two types in one call are refused.
    let q = random(&[2, 1, 4, 20], 3).mapv(|x| x as f32);
    let (floats, half) = ([wide(&k), wide(&v)], [Segment::Bf16(k.view()), Segment::Bf16(v.view())]);
    let mixed = Inputs { earlier: &[half], ..Inputs::new(q.view(), floats[0].view(), floats[1].view()) };
    let error = softmax::step(&mixed, &Dense { causal: true }, &Cx::new(1)).expect_err("two types");
    assert!(error.to_string().contains("in f32 and in bf16"), "{error}");
}

/// Keys and values in blocks of Q8_0 are read as if they were their values in f32, bit for bit, by few and by many queries, under
/// patterns of blocks and of single pairs.
#[test]
fn segments_of_blocks_are_their_values() {
    let random = |shape: &[usize], seed| {
        let x = Tensor::random("x", Token, shape, -1.0..1.0, seed);
        Array4::from_shape_vec((shape[0], shape[1], shape[2], shape[3]), x.data).expect("as many numbers as places")
    };
    let lengths = [3, 70, 1, 40];
    let all: usize = lengths.iter().sum();
    let (groups, d, e) = (2, 64, 32);
    let rounded = |width: usize, seed| {
        let x = random(&[2, all, groups, width], seed).mapv(|x| x as f32);
        let blocks: Vec<Q8> = x.as_slice().expect("contiguous").chunks(Q8::BLOCK).map(Q8::round).collect();
        let wide = (0..blocks.len() * Q8::BLOCK).map(|i| Q8::number(&blocks, i)).collect();
        let blocks = Array4::from_shape_vec((2, all, groups, width / Q8::BLOCK), blocks).expect("blocks");
        (blocks, Array4::from_shape_vec((2, all, groups, width), wide).expect("numbers"))
    };
    let ((k, wide_k), (v, wide_v)) = (rounded(d, 1), rounded(e, 2));
    let own = Streaming { sinks: 2, recent: 9 };
    let patterns: [&dyn Pattern; 4] =
        [&Dense { causal: true }, &Window { left: 40, right: 0 }, &own, &Alone(Dense { causal: true })];
    for (pattern, queries) in patterns.into_iter().flat_map(|pattern| [(pattern, 1), (pattern, 3), (pattern, 20)]) {
        let q = random(&[2, queries, 4, d], 3).mapv(|x| x as f32);
        let mut from = 0;
        let segments: Vec<[Segment<'_>; 2]> = lengths
            .iter()
            .map(|n| {
                from += n;
                let part = s![.., from - n..from, .., ..];
                [Segment::Q8(k.slice(part)), Segment::Q8(v.slice(part))]
            })
            .collect();
        let none = Array4::zeros((2, 0, groups, d));
        let at = |x| Inputs { offset: all - queries, ..x };
        let cached = Inputs::new(q.view(), none.view(), none.slice(s![.., .., .., ..e]));
        let cached = at(Inputs { earlier: &segments, ..cached });
        let one = at(Inputs::new(q.view(), wide_k.view(), wide_v.view()));
        for cx in contexts() {
            for run in [softmax::chunk, softmax::step] {
                let [cached, one] = [&cached, &one].map(|x| run(x, pattern, &cx).expect("valid inputs"));
                assert_eq!(cached, one, "{} with {queries} queries", pattern.name());
            }
        }
    }
}
