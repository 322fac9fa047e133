//! Patterns that do not depend on the content of the keys.

use super::*;

#[test]
fn dense_laws() {
    prove(&Dense { causal: false });
    prove(&Dense { causal: true });
}

#[test]
fn window_laws() {
    for (left, right) in [(0, 0), (4, 0), (0, 3), (16, 16), (63, 64), (1000, 1)] {
        prove(&Window { left, right });
    }
}

#[test]
fn streaming_laws() {
    for (sinks, recent) in [(4, 10), (0, 1), (70, 64), (1, 1000)] {
        prove(&Streaming { sinks, recent });
    }
    let cache = |seen| Streaming { sinks: 2, recent: 3 }.cache(seen).collect::<Vec<_>>();
    assert_eq!([cache(1), cache(4), cache(7)], [vec![0], vec![0, 1, 2, 3], vec![0, 1, 4, 5, 6]]);
}

#[test]
fn masked_laws() {
    // Sparse, dense and regular masks; a predicate does not know the offset of the queries.
    let scattered = |h: usize, i: usize, j: usize| (i * 31 + j * 17 + h * 5).is_multiple_of(23);
    let blocks = |_: usize, i: usize, j: usize| (i / 64 + j / 64).is_multiple_of(2) && i > 5;
    for cx in contexts() {
        for keep in [&scattered as &dyn Fn(usize, usize, usize) -> bool, &blocks] {
            for &t in LENGTHS {
                let pattern = Masked::predicate(2, t, t, keep);
                mask_is_definition(&pattern, &Sizes { batch: 1, heads: 2, queries: 0..t, keys: t });
                forms_are_naive(Case { width: (16, 16), ..PLAIN.square(t) }, &pattern, &cx);
            }
            gradient_is_slope(SMALL, &Masked::predicate(2, 70, 70, keep), &cx);
        }
    }
    let dense = ndarray::Array4::from_shape_fn((2, 1, 40, 90), |(b, _, i, j)| (b + i * j) % 7 == 1);
    let pattern = Masked::dense(dense.view());
    assert_eq!(pattern.kept(), dense.iter().filter(|kept| **kept).count());
    mask_is_definition(&pattern, &Sizes { batch: 2, heads: 3, queries: 50..90, keys: 90 });
    let compressed = Masked::compressed(&[0, 2, 2, 5], &[3, 0, 4, 2, 1], 5).expect("rows");
    let wide = ndarray::arr2(&[[1, 0, 0, 1, 0], [0; 5], [0, 1, 1, 0, 1]]).mapv(|x| x == 1);
    assert_eq!(compressed, Masked::dense(wide.view().insert_axis(ndarray::Axis(0)).insert_axis(ndarray::Axis(0))));
    assert!(Masked::compressed(&[0, 2], &[3, 5], 5).expect_err("beyond").to_string().contains("indices"));
    let error = forward(&pattern, 20).expect_err("another size").to_string();
    assert_eq!(error, "masked: `mask` has shape [2, 1, 40, 90], want [2, 1, 20, 20]");
}

#[test]
fn layouts_laws() {
    let of = |t: usize| Sizes { batch: 1, heads: 4, queries: 0..t, keys: t };
    for (json, block) in [
        (r#"{"mode": "fixed", "block": 8, "attention": "unidirectional"}"#, 8),
        (r#"{"mode": "fixed", "different_layout_per_head": true, "num_different_global_patterns": 4}"#, 16),
        (r#"{"mode": "bigbird", "block": 24, "num_random_blocks": 1, "num_sliding_window_blocks": 1}"#, 24),
        (r#"{"mode": "bslongformer", "block": 10, "attention": "unidirectional", "num_sliding_window_blocks": 1}"#, 10),
        (r#"{"mode": "variable", "block": 100, "local_window_blocks": [1]}"#, 100),
        (r#"{"mode": "localslidingwindow", "block": 64, "num_sliding_window_blocks": 1}"#, 64),
    ] {
        let config = deepspeed::Config::parse(json).expect("a configuration");
        for blocks in [1, 2, 5, 9] {
            let t = blocks * block;
            let layout = config.layout(&of(t), 1).expect("a layout");
            mask_is_definition(&layout, &of(t));
            mask_is_definition(&layout, &Sizes { queries: t / 3..t / 2, ..of(t - t / 4) });
            for cx in contexts() {
                forms_are_naive(Case { heads: 4, groups: 2, width: (16, 16), ..PLAIN.square(t) }, &layout, &cx);
            }
        }
        gradient_is_slope(
            SMALL.square(5 * block).few(),
            &config.layout(&of(5 * block), 1).expect("a layout"),
            &Cx::new(2),
        );
    }
    for seed in [None, Some(3)] {
        let pattern = BigBird { block: 16, random_blocks: 2, seed, ..BigBird::default() };
        for t in [160, 203, 257] {
            let layout = pattern.layout(&of(t)).expect("a layout");
            mask_is_definition(&layout, &of(t));
            for cx in contexts() {
                forms_are_naive(
                    Case { heads: 4, groups: 4, padding: true, width: (16, 16), ..PLAIN.square(t) },
                    &layout,
                    &cx,
                );
            }
        }
        gradient_is_slope(SMALL.square(190).few(), &pattern.layout(&of(190)).expect("a layout"), &Cx::new(2));
    }
    assert!(pattern_error(BigBird::default().layout(&of(192))).contains("`tokens` is 192, want at least 193"));
}

#[test]
fn dilated_laws() {
    let of = |left, right, dilation: &[usize]| Dilated { left, right, dilation: dilation.to_vec() };
    for pattern in [of(5, 5, &[1]), of(5, 0, &[3]), of(20, 7, &[1, 1, 2, 2]), of(3, 100, &[1, 4, 4, 200])] {
        mask_is_definition(&pattern, &Sizes { batch: 1, heads: 4, queries: 0..150, keys: 150 });
        for cx in contexts() {
            for case in rich() {
                forms_are_naive(case, &pattern, &cx);
                kernel_is_naive(case, &pattern, [dilated::chunk, dilated::step], &cx);
                gradient_is_that_of_the_family_kernel(case, &pattern, dilated::backward, &cx);
            }
        }
        gradient_is_slope(Case { heads: 4, groups: 4, ..SMALL.square(30) }, &pattern, &Cx::new(2));
    }
    assert!(pattern_error(forward(&of(5, 5, &[0]), 20)).contains("`dilation` is [0], want one for all"));
    assert!(pattern_error(forward(&of(5, 5, &[1, 2, 3]), 20)).contains("each of 2 heads"));
}

#[test]
fn sparse_transformer_laws() {
    use sparse_transformer::SparseTransformer::{Fixed, Strided};
    use sparse_transformer::{Which, backward, chunk, step};
    for which in [Which::Merged, Which::Near, Which::Far, Which::Alternating] {
        for pattern in [
            Strided { stride: 7, which },
            Strided { stride: 64, which },
            Strided { stride: 500, which },
            Fixed { stride: 20, columns: 3, positions: 1, which },
            Fixed { stride: 64, columns: 16, positions: 4, which },
            Fixed { stride: 128, columns: 64, positions: 2, which },
        ] {
            for t in [1, 64, 257] {
                mask_is_definition(&pattern, &Sizes { batch: 1, heads: 4, queries: 0..t, keys: t });
            }
            mask_is_definition(&pattern, &Sizes { batch: 1, heads: 4, queries: 100..130, keys: 130 });
            for cx in contexts() {
                for case in rich() {
                    kernel_is_naive(case, &pattern, [chunk, step], &cx);
                    gradient_is_that_of_the_family_kernel(case, &pattern, backward, &cx);
                }
            }
            gradient_is_slope(Case { heads: 4, groups: 4, ..SMALL.square(30) }, &pattern, &Cx::new(2));
        }
    }
    assert!(pattern_error(forward(&Strided { stride: 0, which: Which::Merged }, 20)).contains("`stride` is 0"));
    let wide = Fixed { stride: 8, columns: 5, positions: 2, which: Which::Merged };
    assert!(
        pattern_error(forward(&wide, 20)).contains("`columns` is 5, want at least 1, and at most 8 with 2 positions")
    );
}

#[test]
fn longformer_laws() {
    let global =
        |b: usize, t: usize, every: usize| Array2::from_shape_fn((b, t), |(b, i)| (i + b) % every == 0 || i == 2 * b);
    for (window, every) in [(3, 1000), (20, 40), (64, 3), (0, 7)] {
        for t in [1, 64, 100, 257] {
            let marks = global(2, t, every);
            let pattern = Longformer::new(window, marks.view());
            mask_is_definition(&pattern, &Sizes { batch: 2, heads: 2, queries: 0..t, keys: t });
            for cx in contexts() {
                let case = Case { width: (16, 16), ..PLAIN.square(t) };
                forms_are_naive(case, &pattern, &cx);
                forms_are_naive(Case { padding: true, ..case }, &pattern, &cx);
            }
        }
        let marks = global(1, 70, every);
        gradient_is_slope(SMALL, &Longformer::new(window, marks.view()), &Cx::new(2));
    }
}

/// With separate projections, local queries follow the pattern and global queries are dense attention.
#[test]
fn longformer_has_two_sets_of_projections() {
    let case = Case { padding: true, ..PLAIN.square(90) };
    let (arrays, slopes) = (Arrays::of(&case), softmax::alibi(2));
    let (of, cx) = (arrays.narrow(), Cx::new(2));
    let other = |x: &ArrayD<f32>| x.mapv(|x| 1.5 - x).into_dimensionality::<ndarray::Ix4>().expect("rank");
    let [q, k, value] = [other(&of[0]), other(&of[1]), other(&of[2])];
    let x = inputs(&case, &of, &arrays.keep, &slopes);
    let marks = Array2::from_shape_fn((2, 90), |(b, i)| i == 0 || b == 0 && i % 30 == 7);
    let pattern = Longformer::new(8, marks.view());
    let global = longformer::Global { q: q.view(), k: k.view(), v: value.view() };
    let got = longformer::chunk(&x, &global, &pattern, &cx).expect("valid");
    let shared = softmax::chunk(&x, &pattern, &cx).expect("valid");
    let theirs = Inputs { keep: x.keep, ..Inputs::new(q.view(), k.view(), value.view()) };
    let dense = softmax::chunk(&theirs, &Dense { causal: false }, &cx).expect("valid");
    let pick = |b: usize, i: usize| if marks[[b, i]] { &dense } else { &shared };
    for b in 0..2 {
        for i in 0..90 {
            let at = ndarray::s![b, i, .., ..];
            assert_close("out", &wide(got.out.slice(at)), &wide(pick(b, i).out.slice(at)), FORMS);
        }
    }
    // The gradient is the sum over both kinds of rows.
    let d = shared.out.mapv(|x| (3.0 * x).sin());
    let of_rows = |global: bool| {
        let mut d = d.clone();
        for ((b, i), marked) in marks.indexed_iter() {
            if *marked != global {
                d.slice_mut(ndarray::s![b, i, .., ..]).fill(0.0);
            }
        }
        d
    };
    let cotangent = Cotangent { out: d.view(), lse: None };
    let gradients = longformer::backward(&x, &global, &pattern, got.view(), &cotangent, &cx).expect("valid");
    let (local_rows, global_rows) = (of_rows(false), of_rows(true));
    let local = Cotangent { out: local_rows.view(), lse: None };
    let local = softmax::backward(&x, &pattern, shared.view(), &local, &cx).expect("valid");
    let all = Cotangent { out: global_rows.view(), lse: None };
    let all = softmax::backward(&theirs, &Dense { causal: false }, dense.view(), &all, &cx).expect("valid");
    for (got, want) in [(&gradients.local, &local), (&gradients.global, &all)] {
        assert_close("q", &wide(&got.q), &wide(&want.q), FORMS);
        assert_close("k", &wide(&got.k), &wide(&want.k), FORMS);
        assert_close("v", &wide(&got.v), &wide(&want.v), FORMS);
    }
}

#[test]
fn patterns_have_names_and_pictures() {
    let of = Sizes { batch: 1, heads: 4, queries: 0..512, keys: 512 };
    for (name, parameters) in softmax::STATIC.iter().filter(|(name, _)| *name != "masked") {
        let parameters = serde_json::from_str(parameters).expect("JSON");
        let pattern = softmax::named(name, &parameters, &of).expect("valid");
        assert_eq!(pattern.name(), *name);
        for h in [0, 3] {
            let fine = softmax::picture(&*pattern, &of, (0, h), (512, 512)).expect("valid");
            let seen = |(i, j): (usize, usize)| u64::from(pattern.count(&of, 0, h, i, j) > 0);
            assert!(fine.indexed_iter().all(|(at, cell)| *cell == seen(at)), "{name}, head {h}");
            let coarse = softmax::picture(&*pattern, &of, (0, h), (3, 7)).expect("valid");
            assert_eq!(coarse.sum(), fine.sum());
        }
    }
}
