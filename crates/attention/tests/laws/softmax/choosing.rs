//! Mechanisms that select by content, pool, sort, or split the sequence.

use super::*;

#[test]
fn moba_laws() {
    let cases = [
        PLAIN.square(150),
        Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(257) },
        Case { queries: 3, keys: 200, offset: 197, ..PLAIN },
    ];
    for case in cases {
        let arrays = Arrays::of(&case);
        let (of, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
        let x = inputs(&case, &of, &arrays.keep, &slopes);
        let sizes =
            Sizes { batch: 2, heads: case.heads, queries: case.offset..case.offset + case.queries, keys: case.keys };
        for moba in [Moba { block: 16, top: 3 }, Moba { block: 10, top: 1 }, Moba { block: 64, top: 9 }] {
            let (q, k) = (exact(&arrays.of[0]), exact(&arrays.of[1]));
            let want = moba::naive(v!(q), v!(k), case.offset, &moba);
            for cx in contexts() {
                let chosen = moba::select(&x, &moba, &cx).expect("valid");
                let mut lists = want.iter();
                for b in 0..2 {
                    for h in 0..case.heads {
                        for i in sizes.queries.clone() {
                            assert_eq!(
                                chosen.list(&sizes, b, h, i),
                                lists.next().expect("a list"),
                                "{moba:?}: {b} {h} {i}"
                            );
                        }
                    }
                }
                mask_is_definition(&chosen, &sizes);
                forms_are_naive(case, &chosen, &cx);
            }
        }
        // With all blocks it is dense attention.
        let all = moba::select(&x, &Moba { block: 16, top: 100 }, &Cx::new(1)).expect("valid");
        forms_are_naive(case, &all, &Cx::new(1));
        let (a, b) = (softmax::chunk(&x, &all, &Cx::new(1)), softmax::chunk(&x, &Dense { causal: true }, &Cx::new(1)));
        assert_close("all blocks", &wide(&a.expect("valid").out), &wide(&b.expect("valid").out), FORMS);
    }
    let small = Arrays::of(&SMALL);
    let (of, slopes) = (small.narrow(), softmax::alibi(2));
    let x = inputs(&SMALL, &of, &small.keep, &slopes);
    gradient_is_slope(SMALL, &moba::select(&x, &Moba { block: 16, top: 2 }, &Cx::new(2)).expect("valid"), &Cx::new(2));
    assert!(pattern_error(moba::select(&x, &Moba { block: 0, top: 2 }, &Cx::new(2))).contains("`block` is 0"));
    assert!(pattern_error(moba::select(&x, &Moba { block: 8, top: 0 }, &Cx::new(2))).contains("`top` is 0"));
}

#[test]
fn infllm_v2_laws() {
    let small = InfLlmV2 { kernel: 8, stride: 4, block: 16, init_blocks: 1, window: 32, top: 3, dense_below: 0 };
    for case in [
        Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(257) },
        Case { heads: 4, groups: 1, width: (16, 16), queries: 2, keys: 203, offset: 201, ..PLAIN },
    ] {
        let arrays = Arrays::of(&case);
        let (of, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
        let x = inputs(&case, &of, &arrays.keep, &slopes);
        let sizes =
            Sizes { batch: 2, heads: case.heads, queries: case.offset..case.offset + case.queries, keys: case.keys };
        for pattern in [
            small,
            InfLlmV2 { window: 0, ..small },
            InfLlmV2 { top: 0, ..small },
            InfLlmV2 { dense_below: 999, ..small },
            InfLlmV2 { dense_below: 150, ..small },
        ] {
            let (q, k) = (exact(&arrays.of[0]), exact(&arrays.of[1]));
            let want = infllm_v2::naive(v!(q), v!(k), 0.25, case.offset, &pattern);
            let chosen = infllm_v2::select(&x, &pattern, &Cx::new(2)).expect("valid");
            let per_group = case.heads / case.groups;
            for b in 0..2 {
                for h in 0..case.heads {
                    for (t, i) in sizes.queries.clone().enumerate() {
                        let list = &want[(b * case.groups + h / per_group) * case.queries + t];
                        assert_eq!(chosen.list(&sizes, b, h, i), list, "{pattern:?}: {b} {h} {i}");
                    }
                }
            }
            mask_is_definition(&chosen, &sizes);
            forms_are_naive(case, &chosen, &Cx::new(1));
        }
        let error = pattern_error(infllm_v2::select(&x, &InfLlmV2 { stride: 5, ..small }, &Cx::new(1)));
        assert!(error.contains("`block` is 16, want a multiple of the stride, 5"), "{error}");
    }
}

/// Keys that are summarised in parts, and queries that select one by one from summaries in segments, give the selection
/// of the whole.
#[test]
fn infllm_v2_in_parts_is_the_whole() {
    let case = Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(257) };
    let arrays = Arrays::of(&case);
    let (of, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
    let (x, cx) = (inputs(&case, &of, &arrays.keep, &slopes), Cx::new(1));
    let rows = |x: ndarray::ArrayView4<'_, f32>, rows: std::ops::Range<usize>| {
        x.slice_axis(ndarray::Axis(1), rows.into()).to_owned()
    };
    for pattern in [
        InfLlmV2 { kernel: 8, stride: 4, block: 16, init_blocks: 1, window: 32, top: 3, dense_below: 0 },
        InfLlmV2 { kernel: 7, stride: 3, block: 12, init_blocks: 2, window: 12, top: 4, dense_below: 90 },
        InfLlmV2 { kernel: 5, stride: 5, block: 5, init_blocks: 0, window: 0, top: 6, dense_below: 1 },
    ] {
        let whole = infllm_v2::select(&x, &pattern, &cx).expect("valid");
        let all = infllm_v2::summaries(x.k, &pattern, &cx).expect("valid");
        let (mut segments, mut tail, mut n) = (Vec::new(), 0, 0);
        for to in [1, 3, 40, 41, 42, 130, 200, 257] {
            let more = infllm_v2::summaries(rows(x.k, tail..to).view(), &pattern, &cx).expect("valid");
            n += more.dim().1;
            tail = n * pattern.stride;
            assert_eq!(n, pattern.complete(to), "{pattern:?} at {to}");
            segments.push(more);
        }
        assert_eq!(
            ndarray::concatenate(ndarray::Axis(1), &segments.iter().map(|x| x.view()).collect::<Vec<_>>()),
            Ok(all)
        );
        let summaries: Vec<_> = segments.iter().map(|x| x.view()).collect();
        let sizes = |queries| Sizes { batch: 2, heads: case.heads, queries, keys: case.keys };
        for i in 0..case.keys {
            let k = infllm_v2::Summarised { summaries: &summaries, scale: x.scale, offset: i };
            let one = infllm_v2::select_from(rows(x.q, i..i + 1).view(), &k, &pattern, &cx).expect("valid");
            for (b, h) in (0..2).flat_map(|b| (0..case.heads).map(move |h| (b, h))) {
                let want = whole.list(&sizes(0..case.keys), b, h, i);
                assert_eq!(one.list(&sizes(i..i + 1), b, h, i), want, "{pattern:?}: {b} {h} {i}");
            }
        }
    }
}

#[test]
fn summaries_that_do_not_fit_are_refused() {
    let x = |shape: (usize, usize, usize, usize)| ndarray::Array4::<f32>::zeros(shape);
    let refused = |summaries: &ndarray::Array4<f32>, offset: usize, pattern: InfLlmV2| {
        let k = infllm_v2::Summarised { summaries: &[summaries.view()], scale: 1.0, offset };
        pattern_error(infllm_v2::select_from(x((1, 2, 4, 8)).view(), &k, &pattern, &Cx::new(1)))
    };
    let of = InfLlmV2::default();
    assert!(refused(&x((1, 3, 3, 8)), 0, of).contains("`groups` is 3, want a divisor of 4 heads"));
    assert!(refused(&x((1, 3, 2, 7)), 0, of).contains("summaries"));
    assert!(refused(&x((2, 3, 2, 8)), 0, of).contains("summaries"));
    assert!(refused(&x((1, 3, 2, 8)), usize::MAX, of).contains("`offset`"));
    assert!(refused(&x((1, 3, 2, 8)), 0, InfLlmV2 { stride: 0, ..of }).contains("`stride` is 0"));
}

#[test]
fn hierarchical_laws() {
    for (of, case) in [
        (Hierarchical { block: 16, causal: true }, Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(257) }),
        (Hierarchical { block: 16, causal: false }, Case { width: (16, 8), padding: true, ..PLAIN.square(150) }),
        (
            Hierarchical { block: 48, causal: false },
            Case { width: (8, 8), sinks: true, softcap: Some(3.0), ..PLAIN.square(200) },
        ),
        (Hierarchical { block: 64, causal: true }, PLAIN.square(50)),
        (Hierarchical { block: 16, causal: true }, Case { queries: 3, keys: 200, offset: 197, ..PLAIN }),
        (Hierarchical { block: 16, causal: false }, PLAIN.square(1)),
    ] {
        let arrays = Arrays::of(&case);
        let (narrow, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
        let x = inputs(&case, &narrow, &arrays.keep, &slopes);
        let exactly = |arrays: &Arrays| {
            let wide: Vec<_> = arrays.of.iter().map(exact).collect();
            let x = Inputs {
                offset: case.offset,
                softcap: case.softcap,
                sinks: case.sinks.then(|| v!(wide[4])),
                keep: case.padding.then(|| arrays.keep.view()),
                ..Inputs::scaled(v!(wide[0]), v!(wide[1]), v!(wide[2]), (case.width.0 as f64).powf(-0.5))
            };
            hierarchical::naive(&x, &of).expect("sizes that fit").0
        };
        let want: Vec<f64> = exactly(&arrays).into_iter().collect();
        for cx in contexts() {
            let got = hierarchical::chunk(&x, &of, &cx).expect("valid");
            assert_close("hierarchical", &wide(&got.out), &want, FORWARD);
            let d = got.out.mapv(|x| (x * 5.0).cos());
            let cotangent = Cotangent { out: d.view(), lse: None };
            let gradient = hierarchical::backward(&x, &of, got.view(), &cotangent, &cx).expect("valid");
            for (i, gradient) in [&gradient.q, &gradient.k, &gradient.v].into_iter().enumerate() {
                is_slope(NAMES[i], &wide(gradient), |moved| {
                    let mut arrays = arrays.clone();
                    arrays.of[i].data.iter_mut().zip(moved).for_each(|(x, d)| *x += d);
                    exactly(&arrays).iter().zip(&d).map(|(a, b)| a * f64::from(*b)).sum()
                });
            }
        }
        // With one block it is dense attention.
        let all = Hierarchical { block: 512, causal: of.causal };
        let got = hierarchical::chunk(&x, &all, &Cx::new(1)).expect("valid");
        let dense = softmax::chunk(&x, &Dense { causal: of.causal }, &Cx::new(1)).expect("valid");
        assert_close("one block", &wide(&got.out), &wide(&dense.out), FORMS);
    }
    let x = ndarray::Array4::<f32>::zeros((1, 8, 2, 4));
    let x = Inputs::new(x.view(), x.view(), x.view());
    let error = pattern_error(hierarchical::chunk(&x, &Hierarchical { block: 8, causal: true }, &Cx::new(1)));
    assert!(error.contains("`block` is 8, want a multiple of 16"), "{error}");
}

#[test]
fn h_transformer_1d_laws() {
    for (of, case) in [
        (
            HTransformer1d { block: 16, causal: true },
            Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(257) },
        ),
        (HTransformer1d { block: 2, causal: false }, Case { width: (16, 8), padding: true, ..PLAIN.square(150) }),
        (HTransformer1d { block: 6, causal: true }, Case { width: (8, 8), padding: true, ..PLAIN.square(97) }),
        (HTransformer1d { block: 24, causal: false }, Case { width: (8, 8), softcap: Some(3.0), ..PLAIN.square(200) }),
        (HTransformer1d { block: 4, causal: false }, Case { heads: 4, groups: 1, width: (4, 4), ..PLAIN.square(130) }),
        (HTransformer1d { block: 16, causal: false }, PLAIN.square(33)),
        (HTransformer1d { block: 16, causal: false }, PLAIN.square(1)),
    ] {
        let arrays = Arrays::of(&case);
        let (narrow, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
        let x = inputs(&case, &narrow, &arrays.keep, &slopes);
        let exactly = |arrays: &Arrays| {
            let wide: Vec<_> = arrays.of.iter().map(exact).collect();
            let x = Inputs {
                softcap: case.softcap,
                keep: case.padding.then(|| arrays.keep.view()),
                ..Inputs::scaled(v!(wide[0]), v!(wide[1]), v!(wide[2]), (case.width.0 as f64).powf(-0.5))
            };
            h_transformer_1d::naive(&x, &of).expect("sizes that fit")
        };
        let (out, lse) = exactly(&arrays);
        let (out, lse): (Vec<f64>, Vec<f64>) = (out.into_iter().collect(), lse.into_iter().collect());
        for cx in contexts() {
            let got = h_transformer_1d::chunk(&x, &of, &cx).expect("valid");
            assert_close("h_transformer_1d", &wide(&got.out), &out, FORWARD);
            lse_close("h_transformer_1d", &wide(&got.lse), &lse);
            let d = got.out.mapv(|x| (x * 5.0).cos());
            let dlse = got.lse.mapv(|x| (x * 3.0).sin());
            let cotangent = Cotangent { out: d.view(), lse: Some(dlse.view()) };
            let gradient = h_transformer_1d::backward(&x, &of, got.view(), &cotangent, &cx).expect("valid");
            for (i, gradient) in [&gradient.q, &gradient.k, &gradient.v].into_iter().enumerate() {
                is_slope(NAMES[i], &wide(gradient), |moved| {
                    let mut arrays = arrays.clone();
                    arrays.of[i].data.iter_mut().zip(moved).for_each(|(x, d)| *x += d);
                    let (out, lse) = exactly(&arrays);
                    let of_lse: f64 =
                        lse.iter().zip(&dlse).map(|(a, b)| if a.is_finite() { a * f64::from(*b) } else { 0.0 }).sum();
                    of_lse + out.iter().zip(&d).map(|(a, b)| a * f64::from(*b)).sum::<f64>()
                });
            }
        }
        // With two blocks it is dense attention.
        let all = HTransformer1d { block: 256, causal: of.causal };
        let got = h_transformer_1d::chunk(&x, &all, &Cx::new(1)).expect("valid");
        let dense = softmax::chunk(&x, &Dense { causal: of.causal }, &Cx::new(1)).expect("valid");
        assert_close("two blocks", &wide(&got.out), &wide(&dense.out), FORMS);
        if of.causal {
            // Later tokens do not change a token's output.
            let (t, half) = (case.queries, case.queries / 2);
            let mut later = narrow.clone();
            for x in &mut later[..3] {
                x.slice_axis_mut(ndarray::Axis(1), (half..t).into()).mapv_inplace(|x| 3.0 - x);
            }
            let moved = inputs(&case, &later, &arrays.keep, &slopes);
            let before = |x: &Inputs<'_>| {
                let out = h_transformer_1d::chunk(x, &of, &Cx::new(1)).expect("valid").out;
                out.slice_axis_move(ndarray::Axis(1), (..half).into())
            };
            assert_eq!(before(&moved), before(&x));
        }
    }
    let x = ndarray::Array4::<f32>::zeros((1, 8, 2, 4));
    let x = Inputs::new(x.view(), x.view(), x.view());
    let error = pattern_error(h_transformer_1d::chunk(&x, &HTransformer1d { block: 3, causal: true }, &Cx::new(1)));
    assert!(error.contains("`block` is 3, want an even number"), "{error}");
    let error = pattern_error(h_transformer_1d::chunk(
        &Inputs { offset: 2, ..x },
        &HTransformer1d { block: 2, causal: true },
        &Cx::new(1),
    ));
    assert!(error.contains("`queries` is 2..10, want those of all 8 keys"), "{error}");
}

#[test]
fn nsa_laws() {
    for (nsa, case) in [
        (Nsa { block: 16, top: 4, window: 10 }, Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(130) }),
        (
            Nsa { block: 10, top: 1, window: 1 },
            Case { heads: 2, groups: 1, width: (8, 4), softcap: Some(4.0), ..PLAIN.square(65) },
        ),
        (Nsa { block: 8, top: 3, window: 70 }, Case { queries: 2, keys: 90, offset: 88, width: (8, 8), ..PLAIN }),
        (Nsa::default(), Case { width: (8, 8), ..PLAIN.square(17) }),
    ] {
        let arrays = Arrays::of(&case);
        let gates = Tensor::random("gates", Token, &[2, case.queries, case.heads, 3], 0.0..1.0, 9);
        let (narrow, slopes, narrow_gates) = (arrays.narrow(), softmax::alibi(case.heads), array(&gates));
        let x = inputs(&case, &narrow, &arrays.keep, &slopes);
        let exactly = |arrays: &Arrays, gates: &Tensor| {
            let wide: Vec<_> = arrays.of.iter().map(exact).collect();
            let x = Inputs {
                offset: case.offset,
                softcap: case.softcap,
                ..Inputs::scaled(v!(wide[0]), v!(wide[1]), v!(wide[2]), (case.width.0 as f64).powf(-0.5))
            };
            let gates = exact(gates);
            nsa::naive(&x, v!(gates), &nsa)
        };
        let want: Vec<f64> = exactly(&arrays, &gates).into_iter().collect();
        for cx in contexts() {
            let got = nsa::chunk(&x, v!(narrow_gates), &nsa, &cx).expect("valid");
            assert_close("nsa", &wide(&got.out), &want, FORWARD);
            let d = got.out.mapv(|x| (x * 5.0).cos());
            let (gradient, of_gates) = nsa::backward(&x, v!(narrow_gates), &nsa, &got, d.view(), &cx).expect("valid");
            let dot = |out: ndarray::Array4<f64>| out.iter().zip(&d).map(|(a, b)| a * f64::from(*b)).sum::<f64>();
            for (i, gradient) in [&gradient.q, &gradient.k, &gradient.v].into_iter().enumerate() {
                is_slope(NAMES[i], &wide(gradient), |moved| {
                    let mut arrays = arrays.clone();
                    arrays.of[i].data.iter_mut().zip(moved).for_each(|(x, d)| *x += d);
                    dot(exactly(&arrays, &gates))
                });
            }
            is_slope("gates", &wide(&of_gates), |moved| {
                let mut gates = gates.clone();
                gates.data.iter_mut().zip(moved).for_each(|(x, d)| *x += d);
                dot(exactly(&arrays, &gates))
            });
        }
    }
    let x = ndarray::Array4::<f32>::zeros((1, 8, 2, 4));
    let x = Inputs::new(x.view(), x.view(), x.view());
    let gates = ndarray::Array4::zeros((1, 8, 2, 2));
    assert!(pattern_error(nsa::chunk(&x, gates.view(), &Nsa::default(), &Cx::new(1))).contains("`gates`"));
}

#[test]
fn longnet_laws() {
    for (segments, dilations, causal) in [
        (&[1000][..], &[1][..], true),
        (&[16, 64, 300], &[1, 2, 4], true),
        (&[16, 64, 300], &[1, 2, 4], false),
        (&[20, 50], &[3, 7], false),
        (&[7], &[2], true),
    ] {
        let longnet =
            LongNet { segments: segments.to_vec(), dilations: dilations.to_vec(), causal, gradient: Mixture::Exact };
        for case in [
            Case { heads: 4, groups: 2, width: (16, 16), padding: true, ..PLAIN.square(150) },
            Case { heads: 3, groups: 1, width: (16, 8), softcap: Some(4.0), ..PLAIN.square(64) },
            Case { heads: 2, groups: 2, width: (4, 4), ..PLAIN.square(1) },
        ] {
            let arrays = Arrays::of(&case);
            let (of, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
            let x = inputs(&case, &of, &arrays.keep, &slopes);
            let exactly = |arrays: &Arrays| {
                let of: Vec<_> = arrays.of.iter().map(exact).collect();
                let x = Inputs {
                    softcap: case.softcap,
                    keep: case.padding.then(|| arrays.keep.view()),
                    ..Inputs::scaled(v!(of[0]), v!(of[1]), v!(of[2]), (case.width.0 as f64).powf(-0.5))
                };
                longnet::naive(&x, &longnet).expect("valid")
            };
            let (out, lse) = exactly(&arrays);
            for cx in contexts() {
                let got = longnet::chunk(&x, &longnet, &cx).expect("valid");
                assert_close("longnet", &wide(&got.out), &out.iter().copied().collect::<Vec<_>>(), FORWARD);
                lse_close("longnet", &wide(&got.lse), &lse.iter().copied().collect::<Vec<_>>());
                let d = got.out.mapv(|x| (x * 5.0).cos());
                let cotangent = Cotangent { out: d.view(), lse: None };
                let gradient = longnet::backward(&x, &longnet, got.view(), &cotangent, &cx).expect("valid");
                for (i, gradient) in [&gradient.q, &gradient.k, &gradient.v].into_iter().enumerate() {
                    is_slope(NAMES[i], &wide(gradient), |moved| {
                        let mut arrays = arrays.clone();
                        arrays.of[i].data.iter_mut().zip(moved).for_each(|(x, d)| *x += d);
                        exactly(&arrays).0.iter().zip(&d).map(|(a, b)| a * f64::from(*b)).sum()
                    });
                }
            }
        }
    }
    let x = ndarray::Array4::<f32>::zeros((1, 8, 2, 4));
    let x = Inputs::new(x.view(), x.view(), x.view());
    let refused = |segments: &[usize], dilations: &[usize]| {
        let longnet = LongNet {
            segments: segments.to_vec(),
            dilations: dilations.to_vec(),
            causal: true,
            gradient: Mixture::Exact,
        };
        pattern_error(longnet::chunk(&x, &longnet, &Cx::new(1)))
    };
    assert!(refused(&[], &[]).contains("`segments`"));
    assert!(refused(&[4, 0], &[1, 1]).contains("`segments`"));
    assert!(refused(&[4], &[1, 2]).contains("`dilations`"));
}

/// The gradient of a mixture with constant weights, as in torchscale.
#[test]
fn longnet_with_detached_weights() {
    let branches = [(16, 1), (64, 2), (300, 4)];
    let of = |branches: &[(usize, usize)]| LongNet {
        segments: branches.iter().map(|branch| branch.0).collect(),
        dilations: branches.iter().map(|branch| branch.1).collect(),
        causal: true,
        gradient: Mixture::Detached,
    };
    let case = Case { heads: 4, groups: 2, width: (8, 8), padding: true, ..PLAIN.square(150) };
    let arrays = Arrays::of(&case);
    let (narrow, slopes) = (arrays.narrow(), softmax::alibi(case.heads));
    let x = inputs(&case, &narrow, &arrays.keep, &slopes);
    let parts = |arrays: &Arrays| {
        let wide: Vec<_> = arrays.of.iter().map(exact).collect();
        let keep = Some(arrays.keep.view());
        let x = Inputs { keep, ..Inputs::scaled(v!(wide[0]), v!(wide[1]), v!(wide[2]), 8f64.powf(-0.5)) };
        branches.map(|branch| longnet::naive(&x, &of(&[branch])).expect("valid"))
    };
    let still = parts(&arrays);
    let total = still[1..].iter().fold(still[0].1.mapv(f64::exp), |sum, (_, lse)| sum + lse.mapv(f64::exp));
    let weights = still.map(|(_, lse)| lse.mapv(f64::exp) / &total.mapv(|x| if x > 0.0 { x } else { 1.0 }));
    for cx in contexts() {
        let all = of(&branches);
        let got = longnet::chunk(&x, &all, &cx).expect("valid");
        let d = got.out.mapv(|x| (x * 5.0).cos());
        let cotangent = Cotangent { out: d.view(), lse: None };
        let gradient = longnet::backward(&x, &all, got.view(), &cotangent, &cx).expect("valid");
        for (i, gradient) in [&gradient.q, &gradient.k, &gradient.v].into_iter().enumerate() {
            is_slope(NAMES[i], &wide(gradient), |moved| {
                let mut arrays = arrays.clone();
                arrays.of[i].data.iter_mut().zip(moved).for_each(|(x, d)| *x += d);
                let mixed = parts(&arrays).into_iter().zip(&weights).map(|((out, _), weight)| {
                    let weighted = out * weight.view().insert_axis(ndarray::Axis(3));
                    weighted.iter().zip(&d).map(|(a, b)| a * f64::from(*b)).sum::<f64>()
                });
                mixed.sum()
            });
        }
    }
}

/// Padding in a bucket of its own, as in models of Hugging Face, with the same buckets.
#[test]
fn padding_is_sorted_last() {
    let of = longreach_attention::operation::named("lsh").expect("a mechanism");
    let sample = longreach_attention::operation::Sample { batch: 2, tokens: 512, heads: 2, width: 4, seed: 1 };
    let mut inputs = of.sample_with(&sample, &["keep"]);
    let rotations = inputs["rotations"].view();
    let n = 2 * rotations.shape()[3];
    let mut buckets = lsh::hash(v!(inputs["x"]) as ndarray::ArrayView4<'_, f32>, &[rotations]).expect("rotations");
    for ((b, _, round, t), bucket) in buckets.indexed_iter_mut() {
        let kept = inputs["keep"][[b, t]] != 0.0;
        *bucket = if kept { *bucket % n } else { n } + round * (n + 1);
    }
    let run = |inputs: &longreach_attention::operation::Tensors, padding: &str| {
        let parameters = serde_json::json!({ "padding": padding });
        of.forward(inputs, &parameters, longreach_attention::Form::Chunk, &Cx::new(1)).expect("valid")
    };
    let (own, last) = (run(&inputs, "own"), run(&inputs, "last"));
    inputs.remove("rotations");
    inputs.insert("buckets".into(), buckets.mapv(|bucket| bucket as f32).into_dyn());
    assert_eq!(last, run(&inputs, "own"));
    assert_ne!(last, own);
}

#[test]
fn lsh_laws() {
    for (t, heads, rounds, lsh, padding) in [
        (40, 2, 1, Lsh { chunk: 8, ..Lsh::default() }, false),
        (64, 2, 3, Lsh { chunk: 16, causal: true, ..Lsh::default() }, true),
        (60, 1, 2, Lsh { chunk: 20, before: 1, after: 1, causal: true }, false),
        (30, 2, 2, Lsh { chunk: 30, causal: true, ..Lsh::default() }, true),
        (20, 1, 1, Lsh { chunk: 5, before: 9, after: 9, causal: false }, false),
    ] {
        let x = Tensor::random("x", Token, &[3, t, heads, 8], -2.0..2.0, 1);
        let value = Tensor::random("v", Token, &[3, t, heads, 6], -2.0..2.0, 2);
        let rotations = array(&Tensor::random("r", Shared, &[heads, 8, rounds, 3], -1.0..1.0, 3));
        let kept = Array2::from_shape_fn((3, t), |(b, j)| b == 0 || j < t - t / 4 && j != 1);
        let keep = padding.then(|| kept.view());
        let (nx, nv) = (array(&x), array(&value));
        let (nx, nv): (ndarray::ArrayView4<'_, f32>, ndarray::ArrayView4<'_, f32>) = (v!(nx), v!(nv));
        let buckets = lsh::hash(nx, &[rotations.view()]).expect("rotations");
        assert!(buckets.iter().all(|b| *b < 6 * rounds));
        let exactly = |x: &Tensor, value: &Tensor| {
            let (x, value) = (exact(x), exact(value));
            lsh::naive(v!(x), v!(value), buckets.view(), keep, &lsh).0
        };
        let want: Vec<f64> = exactly(&x, &value).into_iter().collect();
        for cx in contexts() {
            let got = lsh::chunk(nx, nv, buckets.view(), keep, &lsh, &cx).expect("valid");
            assert_close("lsh", &wide(&got.out), &want, FORWARD);
            let d = got.out.mapv(|x| (x * 5.0).cos());
            let gradient = lsh::backward(nx, nv, buckets.view(), keep, &lsh, got.view(), d.view(), &cx).expect("valid");
            let dot = |out: ndarray::Array4<f64>| out.iter().zip(&d).map(|(a, b)| a * f64::from(*b)).sum::<f64>();
            let moved = |of: &Tensor, by: &[f64]| {
                let mut of = of.clone();
                of.data.iter_mut().zip(by).for_each(|(x, d)| *x += d);
                of
            };
            is_slope("x", &wide(&gradient.x), |by| dot(exactly(&moved(&x, by), &value)));
            is_slope("v", &wide(&gradient.v), |by| dot(exactly(&x, &moved(&value, by))));
        }
    }
    let x = ndarray::Array4::<f32>::zeros((1, 10, 2, 4));
    let buckets = ndarray::Array4::zeros((1, 2, 1, 10));
    let refused =
        lsh::chunk(x.view(), x.view(), buckets.view(), None, &Lsh { chunk: 4, ..Lsh::default() }, &Cx::new(1));
    assert!(pattern_error(refused).contains("`chunk` is 4, want a divisor of the 10 tokens"));
}

/// With one bucket and chunks that see everything, LSH attention is dense attention of the vectors to their normalised
/// selves; with more rounds it approaches that.
#[test]
fn lsh_approaches_dense() {
    let (t, cx) = (256, Cx::new(2));
    let x = array(&Tensor::random("x", Token, &[1, t, 1, 16], -3.0..3.0, 1));
    let x: ndarray::ArrayView4<'_, f32> = v!(x);
    let dense =
        lsh::chunk(x, x, ndarray::Array4::zeros((1, 1, 1, t)).view(), None, &Lsh { chunk: t, ..Lsh::default() }, &cx);
    let dense = dense.expect("valid").out;
    let mut keys = x.to_owned();
    for mut row in keys.rows_mut() {
        let norm = (row.dot(&row) / 16.0 + 1e-6).sqrt() * 4.0;
        row /= norm;
    }
    let others = Masked::predicate(1, t, t, |_, i, j| i != j);
    let plain = softmax::chunk(&Inputs::scaled(x, keys.view(), x, 1.0), &others, &cx).expect("valid");
    assert_close("one bucket", &wide(&dense), &wide(&plain.out), FORMS);
    let error = |rounds: usize| {
        let rotations = array(&Tensor::random("r", Shared, &[1, 16, rounds, 4], -1.0..1.0, 5));
        let buckets = lsh::hash(x, &[rotations.view()]).expect("rotations");
        let got = lsh::chunk(x, x, buckets.view(), None, &Lsh { chunk: 32, ..Lsh::default() }, &cx).expect("valid");
        (got.out - &dense).mapv(|x| x * x).mean().expect("not empty")
    };
    let errors = [1, 4, 16].map(error);
    assert!(errors[0] > 2.0 * errors[1] && errors[1] > 1.5 * errors[2], "{errors:?}");
}
