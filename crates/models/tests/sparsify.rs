//! Converting dense models to sparse attention: with a window as wide as the text the outputs are those of the dense
//! model, and the result loads like any other model.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use longreach_models::{EncoderModel, Location, Model, SparseTarget, sparsify};
use longreach_nn::Reading;
use serde_json::json;

fn golden(name: &str) -> Location {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    Location { directory, weights: None }
}

fn at(directory: &Path) -> Location {
    Location { directory: directory.to_owned(), weights: None }
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

#[track_caller]
fn close(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    let apart = a.iter().zip(b).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(apart < 2e-5, "{what}: {apart}");
}

/// Ids that are neither padding nor special tokens.
fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 8 + i * 7 % 37).collect()
}

fn deepspeed() -> SparseTarget {
    SparseTarget::DeepSpeed(json!({"mode": "bslongformer", "block": 16, "num_sliding_window_blocks": 13}))
}

/// All targets for texts of up to 200 tokens; each attends to the whole of a text of 30 tokens.
fn targets() -> [(SparseTarget, &'static str); 3] {
    [
        (SparseTarget::Longformer { window: 128 }, "longformer"),
        (SparseTarget::BigBird { block: 16, random_blocks: 1 }, "big_bird"),
        (deepspeed(), ""),
    ]
}

#[test]
fn encoders_seen_whole_are_what_they_were() {
    let folder = tempfile::tempdir().expect("a directory");
    for kind in ["bert", "roberta", "xlm-roberta"] {
        for head in ["base", "masked-lm", "sequence", "token", "question"] {
            for config in ["a", "b"] {
                let name = format!("encoders/{kind}-{head}-{config}");
                let dense = EncoderModel::load(&golden(&name), None).expect("a golden");
                let ids = ids(30);
                let want = dense.forward(&Reading::one(&ids));
                let (want, scores) = (numbers(want.hidden), want.scores.map(numbers));
                for (target, becomes) in targets() {
                    let to = folder.path().join(format!("{kind}-{head}-{config}-{becomes}"));
                    let done = sparsify(&golden(&name), &to, &target, 200).expect("made sparse");
                    assert_eq!(done.model_type, if becomes.is_empty() { kind } else { becomes });
                    let model = EncoderModel::load(&at(&to), None).expect("it loads");
                    assert_eq!(model.description.longest, Some(200), "{name}, {becomes}");
                    let got = model.forward(&Reading::one(&ids));
                    close(&format!("{name}, {becomes}"), &numbers(got.hidden), &want);
                    match (got.scores.map(numbers), &scores) {
                        (Some(got), Some(want)) => close(&format!("{name}, {becomes}, scores"), &got, want),
                        (None, Some(_)) => {
                            assert!(!done.left_out.is_empty(), "{name}, {becomes}: a head without a word")
                        }
                        (got, None) => assert!(got.is_none()),
                    }
                    // Longer than the original supports.
                    let long = numbers(model.forward(&Reading::one(&ids_of(&model, 200))).hidden);
                    assert!(long.iter().all(|x| x.is_finite()));
                }
            }
        }
    }
}

fn ids_of(model: &EncoderModel, n: usize) -> Vec<u32> {
    let vocabulary = model.description.body.vocabulary() as u32;
    (0..n as u32).map(|i| 8 + i * 7 % (vocabulary - 8)).collect()
}

#[test]
fn positions_are_tiled() {
    let folder = tempfile::tempdir().expect("a directory");
    let dense = EncoderModel::load(&golden("encoders/roberta-base-a"), None).expect("a golden");
    let rows = dense.description.longest.expect("learned positions");
    let to = folder.path().join("long");
    sparsify(&golden("encoders/roberta-base-a"), &to, &SparseTarget::Longformer { window: 2 }, 3 * rows)
        .expect("made sparse");
    let model = EncoderModel::load(&at(&to), None).expect("it loads");
    // One token repeated: where positions repeat, so do the outputs of a window of one token on either side, except
    // at the seams.
    let ids = vec![9; 3 * rows];
    let hidden = numbers(model.forward(&Reading::one(&ids)).hidden);
    let d = model.description.body.width();
    let layers = model.encoder.attentions().count();
    for t in layers..rows - layers {
        close("a tile", &hidden[t * d + rows * d..][..d], &hidden[t * d + 2 * rows * d..][..d]);
    }
}

#[test]
fn a_decoder_seen_whole_is_what_it_was() {
    let folder = tempfile::tempdir().expect("a directory");
    for name in ["gpt2-a", "gpt2-b"] {
        let dense = Model::load(&golden(name), None).expect("a golden");
        let ids = ids(60);
        let want = dense.evaluate(&ids, None, 1, 60, 60).logits;
        let layout =
            json!({"mode": "bslongformer", "block": 16, "num_sliding_window_blocks": 9, "attention": "unidirectional"});
        let targets = [
            SparseTarget::DeepSpeed(json!({"sparse_attention": layout})),
            SparseTarget::Longformer { window: 512 },
            SparseTarget::BigBird { block: 64, random_blocks: 1 },
        ];
        for (i, target) in targets.iter().enumerate() {
            let to = folder.path().join(format!("{name}-{i}"));
            sparsify(&golden(name), &to, target, 300).expect("made sparse");
            let model = Model::load(&at(&to), None).expect("it loads");
            assert_eq!(model.decoder.longest(), Some(300));
            close("whole", &model.evaluate(&ids, None, 1, 60, 60).logits, &want);
            close("steps", &model.evaluate(&ids, None, 1, 60, 1).logits, &want);
            let long: Vec<u32> = (0..300).map(|t| t % 40).collect();
            let whole = model.evaluate(&long, None, 1, 300, 300).logits;
            close("long, in pieces", &model.evaluate(&long, None, 1, 300, 37).logits, &whole);
        }
    }
}

#[test]
fn what_cannot_be_made_sparse_is_named() {
    let folder = tempfile::tempdir().expect("a directory");
    let to = folder.path().join("x");
    for (name, target, want) in [
        ("mamba-a", deepspeed(), "`mamba` is not made sparse here"),
        ("encoders/bert-base-a", SparseTarget::Longformer { window: 3 }, "want an even number, found 3"),
        ("encoders/bert-base-a", SparseTarget::DeepSpeed(json!({"mode": "spiral"})), "sparse_attention"),
        ("encoders/bert-base-a", SparseTarget::BigBird { block: 0, random_blocks: 1 }, "want at least 1 of each"),
        ("gpt2-a", SparseTarget::DeepSpeed(json!({"mode": "fixed"})), "unidirectional"),
    ] {
        let error = sparsify(&golden(name), &to, &target, 100).expect_err("an error").to_string();
        assert!(error.contains(want), "{error}");
        assert!(!to.exists());
    }
    sparsify(&golden("gpt2-a"), &to, &SparseTarget::Longformer { window: 64 }, 200).expect("made sparse");
    let error = sparsify(&golden("gpt2-a"), &to, &deepspeed(), 200).expect_err("an error").to_string();
    assert!(error.contains("is there already"), "{error}");
}
