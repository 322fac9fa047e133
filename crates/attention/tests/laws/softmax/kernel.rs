//! The softmax kernel: every option, width and precision, and invalid inputs.

use ndarray::{Array4, s};

use super::*;

/// A pattern computed by blocks, and pair by pair.
fn ways<'a>(blocks: &'a dyn Pattern, alone: &'a dyn Pattern) -> [&'a dyn Pattern; 2] {
    [blocks, alone]
}

/// Parameters as large as their type allows are valid values or errors: they neither panic nor hang.
#[test]
fn huge_parameters_are_accepted_or_refused() {
    let huge = usize::MAX;
    let of = Sizes { batch: 2, heads: 2, queries: 0..70, keys: 70 };
    for (name, parameters) in [
        ("window", format!(r#"{{"left": {huge}, "right": {huge}}}"#)),
        ("streaming", format!(r#"{{"sinks": {huge}, "recent": {huge}}}"#)),
        ("longformer", format!(r#"{{"window": {huge}, "global": [{huge}]}}"#)),
        ("dilated", format!(r#"{{"left": {huge}, "right": {huge}, "dilation": [{huge}]}}"#)),
        ("sparse_transformer", format!(r#"{{"kind": "strided", "stride": {huge}}}"#)),
        ("sparse_transformer", format!(r#"{{"kind": "fixed", "stride": {huge}, "columns": {huge}}}"#)),
        ("longnet", format!(r#"{{"segments": [{huge}, {huge}], "dilations": [1, {huge}]}}"#)),
        ("bigbird", format!(r#"{{"block": 16, "random_blocks": {huge}}}"#)),
        ("bigbird", format!(r#"{{"block": {huge}}}"#)),
        ("bigbird", format!(r#"{{"block": 16, "seed": 1, "max_length": {huge}}}"#)),
        ("deepspeed", format!(r#"{{"mode": "variable", "block": 10, "local_window_blocks": [{huge}, {huge}]}}"#)),
        ("deepspeed", format!(r#"{{"block": 10, "num_local_blocks": {huge}, "num_global_blocks": {huge}}}"#)),
        ("deepspeed", format!(r#"{{"mode": "bslongformer", "block": 10, "global_block_indices": [{huge}]}}"#)),
    ] {
        let parameters: serde_json::Value = serde_json::from_str(&parameters).expect("JSON");
        if let Ok(pattern) = softmax::named(name, &parameters, &of) {
            mask_is_definition(&*pattern, &of);
            forward(&*pattern, 70).expect("valid");
        }
    }
    let x = ndarray::Array4::from_elem((1, 70, 2, 16), 0.5);
    let few = Inputs::new(x.view(), x.slice(ndarray::s![.., ..20, .., ..]), x.slice(ndarray::s![.., ..20, .., ..]));
    let x = Inputs::new(x.view(), x.view(), x.view());
    let cx = &Cx::new(1);
    let dilated = Dilated { left: huge, right: huge, dilation: vec![huge] };
    dilated::chunk(&x, &dilated, cx).expect("valid");
    // More queries than keys: some phases have no keys.
    let case = Case { queries: 70, keys: 20, width: (8, 8), ..PLAIN };
    kernel_is_naive(case, &Dilated { left: 1, right: 1, dilation: vec![30] }, [dilated::chunk, dilated::step], cx);
    dilated::chunk(&few, &dilated, cx).expect("valid");
    let strided = sparse_transformer::SparseTransformer::Strided { stride: huge, which: Default::default() };
    sparse_transformer::chunk(&x, &strided, cx).expect("valid");
    hierarchical::chunk(&x, &Hierarchical { block: huge / 16 * 16, causal: false }, cx).expect("valid");
    moba::select(&x, &Moba { block: huge, top: huge }, cx).expect("valid");
    let of = InfLlmV2 {
        // Twice the stride is still a position.
        stride: huge / 2,
        kernel: huge / 2,
        block: huge / 2,
        window: huge,
        top: huge,
        dense_below: 0,
        init_blocks: huge,
    };
    infllm_v2::select(&x, &of, cx).expect("valid");
}

#[test]
fn every_width_and_group_is_naive() {
    for cx in contexts() {
        for causal in ways(&Dense { causal: true }, &Alone(Dense { causal: true })) {
            for width in [(16, 16), (33, 17), (80, 96), (128, 128), (256, 40), (1, 1)] {
                forms_are_naive(Case { width, ..PLAIN }, causal, &cx);
                gradient_is_slope(Case { width: (width.0.min(40), width.1.min(36)), ..SMALL.square(20) }, causal, &cx);
            }
            forms_are_naive(Case { heads: 6, groups: 2, ..PLAIN }, causal, &cx);
            gradient_is_slope(Case { heads: 6, groups: 2, ..SMALL.square(20) }, causal, &cx);
        }
        forms_are_naive(Case { heads: 5, groups: 1, queries: 70, keys: 600, ..PLAIN }, &Dense { causal: false }, &cx);
    }
}

#[test]
fn every_option_is_naive() {
    let packed = [0, 37, 37, 38, 130];
    for cx in contexts() {
        for causal in ways(&Dense { causal: true }, &Alone(Dense { causal: true })) {
            for (long, small) in [
                (PLAIN, SMALL),
                (
                    Case { queries: 90, keys: 300, offset: 210, ..PLAIN },
                    Case { queries: 9, keys: 30, offset: 21, ..SMALL },
                ),
            ] {
                let options = |case| {
                    [
                        Case { softcap: Some(3.0), ..case },
                        Case { bias: Some((1, 2)), ..case },
                        Case { bias: Some((case.batch, 1)), ..case },
                        Case { alibi: true, ..case },
                        Case { sinks: true, ..case },
                        Case { padding: true, ..case },
                        Case {
                            softcap: Some(20.0),
                            bias: Some((1, 1)),
                            alibi: true,
                            sinks: true,
                            padding: true,
                            ..case
                        },
                    ]
                };
                options(long).into_iter().for_each(|case| forms_are_naive(case, causal, &cx));
                options(small).into_iter().for_each(|case| gradient_is_slope(case, causal, &cx));
            }
            forms_are_naive(Case { batch: 1, packed: Some(&packed), ..PLAIN.square(130) }, causal, &cx);
            gradient_is_slope(Case { packed: Some(&packed[..4]), ..SMALL.square(38) }, causal, &cx);
        }
        forms_are_naive(Case { batch: 1, packed: Some(&packed), ..PLAIN.square(130) }, &Dense { causal: false }, &cx);
    }
}

/// A gradient whose keys are split into parts, with ranges that begin within a part.
#[test]
fn long_gradients_are_slopes() {
    let case = Case { heads: 1, groups: 1, width: (2, 2), ..SMALL };
    let cx = &Cx::new(2);
    gradient_is_slope(Case { queries: 30, keys: 1100, offset: 1060, ..case }, &Dense { causal: true }, cx);
    gradient_is_slope(Case { queries: 600, keys: 20, ..case }, &Dense { causal: false }, cx);
}

#[test]
fn bf16_inputs_equal_their_f32_values() {
    let half =
        |name, seed| array(&Tensor::random(name, Token, &[1, 70, 2, 33], -2.0..2.0, seed)).mapv(half::bf16::from_f32);
    let (q, k, value) = (half("q", 1), half("k", 2), half("v", 3));
    let (wq, wk, wv) = (q.mapv(|x| x.to_f32()), k.mapv(|x| x.to_f32()), value.mapv(|x| x.to_f32()));
    let causal = Dense { causal: true };
    for cx in contexts() {
        let narrow = Inputs { scale: 0.2, ..Inputs::new(v!(q), v!(k), v!(value)) };
        let wide = Inputs { scale: 0.2, ..Inputs::new(v!(wq), v!(wk), v!(wv)) };
        let (a, b) = (softmax::chunk(&narrow, &causal, &cx), softmax::chunk(&wide, &causal, &cx));
        assert_eq!(a.clone().expect("valid"), b.expect("valid"), "{}", cx.isa);
        let (c, d) = (softmax::step(&narrow, &causal, &cx), softmax::step(&wide, &causal, &cx));
        assert_eq!(c.expect("valid"), d.expect("valid"), "{}", cx.isa);
        let output = a.expect("valid");
        let d = Cotangent { out: output.out.view(), lse: None };
        let (a, b) = (
            softmax::backward(&narrow, &causal, output.view(), &d, &cx),
            softmax::backward(&wide, &causal, output.view(), &d, &cx),
        );
        assert_eq!(a.expect("valid"), b.expect("valid"), "{}", cx.isa);
    }
}

#[test]
fn results_are_bit_identical_for_any_thread_count() {
    let case = Case { heads: 4, groups: 2, ..PLAIN.square(700) };
    let (arrays, slopes) = (Arrays::of(&case), softmax::alibi(4));
    let of = arrays.narrow();
    let x = inputs(&case, &of, &arrays.keep, &slopes);
    for causal in ways(&Dense { causal: true }, &Alone(Dense { causal: true })) {
        let all = |cx: &Cx| {
            let output = softmax::chunk(&x, causal, cx).expect("valid");
            let d = Cotangent { out: output.out.view(), lse: None };
            let gradient = softmax::backward(&x, causal, output.view(), &d, cx).expect("valid");
            (softmax::step(&x, causal, cx).expect("valid"), gradient, output)
        };
        assert_eq!(all(&Cx::new(1)), all(&Cx::new(3)));
    }
}

/// NaN spreads to the rows that attend to it, and to no others.
#[test]
fn nan_stays_in_its_rows() {
    let case = PLAIN.square(90);
    let all = contexts().into_iter().zip([false; 9]).chain(contexts().into_iter().zip([true; 9]));
    for (cx, alone) in all {
        let causal = ways(&Dense { causal: true }, &Alone(Dense { causal: true }))[usize::from(alone)];
        let (arrays, slopes) = (Arrays::of(&case), softmax::alibi(case.heads));
        let mut of = arrays.narrow();
        let clean = [
            softmax::chunk(&inputs(&case, &of, &arrays.keep, &slopes), causal, &cx).expect("valid"),
            softmax::step(&inputs(&case, &of, &arrays.keep, &slopes), causal, &cx).expect("valid"),
        ];
        of[0][[0, 5, 0, 3]] = f32::NAN;
        of[1][[0, 70, 0, 3]] = f32::NAN;
        of[2][[0, 60, 1, 3]] = f32::INFINITY;
        of[2][[1, 80, 1, 7]] = f32::NAN;
        let x = inputs(&case, &of, &arrays.keep, &slopes);
        for (got, clean) in [softmax::chunk(&x, causal, &cx), softmax::step(&x, causal, &cx)].into_iter().zip(clean) {
            for ((at, got), clean) in got.expect("valid").out.indexed_iter().zip(&clean.out) {
                let spoilt = match at {
                    (0, t, 0, _) => t == 5 || t >= 70,
                    (0, t, 1, 3) => t >= 60,
                    (1, t, 1, 7) => t >= 80,
                    _ => false,
                };
                assert_eq!(spoilt, !got.is_finite(), "{at:?}: {got}, {}", cx.isa);
                assert!(spoilt || (got - clean).abs() < 1e-5, "{at:?}: {got}, {clean}, {}", cx.isa);
            }
        }
    }
}

/// In the gradient, a NaN in a query spreads to the keys it attends to, and no further.
#[test]
fn nan_gradients_stay_with_the_attended_keys() {
    let case = Case { softcap: Some(20.0), ..PLAIN.square(200) };
    let all = contexts().into_iter().zip([false; 9]).chain(contexts().into_iter().zip([true; 9]));
    for (cx, alone) in all {
        let window = Window { left: 10, right: 0 };
        let pairs = Alone(window);
        let window = ways(&window, &pairs)[usize::from(alone)];
        let (arrays, slopes) = (Arrays::of(&case), softmax::alibi(case.heads));
        let mut of = arrays.narrow();
        let dout = of[2].mapv(|x| 0.3 - x);
        let gradient = |of: &Vec<ArrayD<f32>>, dout: &ArrayD<f32>| {
            let x = inputs(&case, of, &arrays.keep, &slopes);
            let output = softmax::chunk(&x, window, &cx).expect("valid");
            let d = Cotangent { out: dout.view().into_dimensionality().expect("four axes"), lse: None };
            softmax::backward(&x, window, output.view(), &d, &cx).expect("valid")
        };
        let clean = gradient(&of, &dout);
        of[0][[0, 5, 0, 3]] = f32::NAN;
        of[1][[0, 70, 0, 3]] = f32::NAN;
        of[2][[0, 60, 1, 3]] = f32::INFINITY;
        let mut odd = dout;
        odd[[1, 130, 1, 7]] = f32::NAN;
        let got = gradient(&of, &odd);
        let query = |b: usize, t: usize, h: usize| match (b, h) {
            (0, 0) => t == 5 || (70..=80).contains(&t),
            (0, 1) => (60..=70).contains(&t),
            (1, 1) => t == 130,
            _ => false,
        };
        let key = |b: usize, j: usize, h: usize| (j..=j + 10).any(|t| query(b, t, h));
        let spoilt: [&dyn Fn(usize, usize, usize) -> bool; 3] = [&query, &key, &key];
        for (n, (got, clean)) in [(&got.q, &clean.q), (&got.k, &clean.k), (&got.v, &clean.v)].into_iter().enumerate() {
            for (((b, t, h, c), got), clean) in got.indexed_iter().zip(clean) {
                let spoilt = spoilt[n](b, t, h);
                assert_eq!(spoilt, got.is_nan(), "{n}, {b} {t} {h} {c}: {got}, {}", cx.isa);
                assert!(spoilt || (got - clean).abs() < 1e-5, "{n}, {b} {t} {h} {c}: {got}, {clean}, {}", cx.isa);
            }
        }
    }
}

#[test]
fn merged_parts_equal_the_whole() {
    let case = Case { keys: 200, ..PLAIN };
    let (arrays, slopes, cx) = (Arrays::of(&case), softmax::alibi(2), Cx::new(2));
    let of = arrays.narrow();
    let x = inputs(&case, &of, &arrays.keep, &slopes);
    let all = Dense { causal: false };
    let whole = softmax::chunk(&x, &all, &cx).expect("valid");
    let part = |range: std::ops::Range<usize>| {
        let mut part = x;
        part.k.slice_collapse(ndarray::s![.., range.clone(), .., ..]);
        part.v.slice_collapse(ndarray::s![.., range, .., ..]);
        part
    };
    let parts = [part(0..30), part(30..199), part(199..200)];
    let merged: Vec<_> = parts.iter().map(|x| softmax::chunk(x, &all, &cx).expect("valid")).collect();
    let merged = softmax::merge("test", merged, &Cx::new(2)).expect("valid");
    assert_close("merged", &wide(&merged.out), &wide(&whole.out), FORMS);
    assert_close("merged", &wide(&merged.lse), &wide(&whole.lse), FORMS);
    let d = Cotangent { out: whole.out.view(), lse: None };
    let gradient = softmax::backward(&x, &all, whole.view(), &d, &cx).expect("valid");
    let gradients: Vec<_> =
        parts.iter().map(|x| softmax::backward(x, &all, merged.view(), &d, &cx).expect("valid")).collect();
    let q = gradients.iter().map(|g| g.q.clone()).reduce(|a, b| a + b).expect("some");
    assert_close("dq", &wide(&q), &wide(&gradient.q), FORMS);
    let k: Vec<_> = gradients.iter().map(|g| g.k.view()).collect();
    let k = ndarray::concatenate(ndarray::Axis(1), &k).expect("shapes agree");
    assert_close("dk", &wide(&k), &wide(&gradient.k), FORMS);
}

#[test]
fn invalid_inputs_are_named() {
    let case = PLAIN.square(20);
    let (arrays, slopes, cx) = (Arrays::of(&case), softmax::alibi(2), Cx::new(1));
    let of = arrays.narrow();
    let x = inputs(&case, &of, &arrays.keep, &slopes);
    let all = Dense { causal: false };
    let refused = |x: Inputs<'_>| softmax::chunk(&x, &all, &cx).expect_err("does not fit").to_string();
    let narrow = x.k.slice_move(ndarray::s![.., .., .., ..60]);
    assert_eq!(refused(Inputs { k: narrow, ..x }), "dense: `k` has shape [2, 20, 2, 60], want [2, 20, 2, 64]");
    let short = x.k.slice_move(ndarray::s![.., ..19, .., ..]);
    assert_eq!(refused(Inputs { k: short, ..x }), "dense: `k` has shape [2, 19, 2, 64], want [2, 20, 2, 64]");
    assert_eq!(refused(Inputs { sinks: Some(slopes[..1].into()), ..x }), "dense: `sinks` has shape [1], want [2]");
    let three = ndarray::Array4::zeros((2, 20, 3, 64));
    assert_eq!(refused(Inputs { q: three.view(), ..x }), "dense: 3 heads cannot share 2 groups");
    let strided = x.v.slice_move(ndarray::s![.., .., .., ..;2]);
    assert!(matches!(softmax::chunk(&Inputs { v: strided, ..x }, &all, &cx), Err(Error::Layout { input: "v", .. })));
    let packed = Inputs { sequences: Sequences::Packed(&[0, 20]), ..x };
    assert!(matches!(softmax::chunk(&packed, &all, &cx), Err(Error::Boundaries { batch: 2, .. })));
}

/// Queries of one call have the results of as many calls, bit for bit, whatever the number of keys: parts of the keys do not
/// depend on the keys that follow.
#[test]
fn few_queries_are_those_of_a_growing_cache() {
    let random = |shape: [usize; 4], seed| {
        let x = Tensor::random("x", Token, &shape, -2.0..2.0, seed);
        Array4::from_shape_vec(shape, x.data.iter().map(|x| *x as f32).collect()).expect("as many numbers as places")
    };
    let most = 4110;
    let [k, v] = [1, 2].map(|seed| random([1, most, 1, 9], seed));
    let q = random([1, 4, 2, 9], 3);
    for keys in [60, 65, 130, 1024, 1027, 1090, 2050, most] {
        let first = |x: &'_ Array4<f32>, n: usize| x.slice(s![.., ..n, .., ..]).to_owned();
        for pattern in [&Dense { causal: true } as &dyn Pattern, &Streaming { sinks: 2, recent: 70 }] {
            for cx in contexts() {
                let call = |queries: std::ops::Range<usize>| {
                    let n = keys - 4 + queries.end;
                    let (k, v, q) = (first(&k, n), first(&v, n), q.slice(s![.., queries.clone(), .., ..]));
                    let x = Inputs { offset: n - queries.len(), ..Inputs::new(q, k.view(), v.view()) };
                    softmax::step(&x, pattern, &cx).expect("valid inputs").out
                };
                let all = call(0..4);
                for i in 0..4 {
                    assert_eq!(all.slice(s![.., i..i + 1, .., ..]), call(i..i + 1), "{} {keys} {i}", pattern.name());
                }
            }
        }
    }
}
