//! Every encoder and head against transformers: single rows, padded batches, and packed batches.

use std::path::PathBuf;

use longreach_models::{DType, ENCODERS, Encoded, EncoderModel, Location, Task};
use longreach_nn::{Over, Reading};
use longreach_testkit::goldens::Golden;
use longreach_testkit::tolerance;
use ndarray::Array2;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/encoders")
}

fn load(name: &str, dtype: Option<DType>) -> EncoderModel {
    EncoderModel::load(&Location { directory: root().join(name), weights: None }, dtype).expect("a golden checkpoint")
}

/// All directories of goldens.
fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root())
        .expect("goldens")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .filter(|name| root().join(name).is_dir())
        .collect();
    names.sort();
    names
}

/// A case of a golden.
struct Case {
    what: String,
    batch: usize,
    tokens: usize,
    ids: Vec<u32>,
    types: Option<Vec<u32>>,
    keep: Option<Array2<bool>>,
    global: Option<Array2<bool>>,
}

fn integers(golden: &Golden, name: &str) -> Option<Vec<i64>> {
    golden.has(name).then(|| golden.integers(name).1)
}

impl Case {
    fn read(name: &str, golden: &Golden, n: usize) -> Option<Self> {
        let tensor = |part: &str| format!("c{n}.{part}");
        if !golden.has(&tensor("input_ids")) {
            return None;
        }
        let (shape, ids) = golden.integers(&tensor("input_ids"));
        let (batch, tokens) = (shape[0], shape[1]);
        let marks = |part: &str| {
            let marks = integers(golden, &tensor(part))?.into_iter().map(|m| m != 0).collect();
            Some(Array2::from_shape_vec((batch, tokens), marks).expect("a mark a token"))
        };
        let unsigned = |x: Vec<i64>| x.into_iter().map(|x| x as u32).collect::<Vec<_>>();
        Some(Self {
            what: format!("{name}, case {n}"),
            batch,
            tokens,
            ids: unsigned(ids),
            types: integers(golden, &tensor("token_type_ids")).map(unsigned),
            keep: marks("attention_mask"),
            global: marks("global_attention_mask"),
        })
    }

    /// The global tokens of the golden, or those that the model chooses by default.
    fn globals(&self, model: &EncoderModel) -> Option<Array2<bool>> {
        let own = || self.ids.chunks(self.tokens).flat_map(|row| model.globals(row)).collect();
        let own = || Array2::from_shape_vec((self.batch, self.tokens), own()).expect("a mark a token");
        Some(self.global.clone().unwrap_or_else(own)).filter(|marks| marks.iter().any(|m| *m))
    }

    fn there(&self, b: usize, t: usize) -> bool {
        self.keep.as_ref().is_none_or(|keep| keep[[b, t]])
    }

    fn padded(&self, model: &EncoderModel) -> Encoded {
        let global = self.globals(model);
        model.forward(&Reading {
            ids: &self.ids,
            batch: self.batch,
            types: self.types.as_deref(),
            keep: self.keep.as_ref(),
            global: global.as_ref(),
            packed: None,
        })
    }

    /// The rows packed without padding, and the position of each token in the padded batch.
    fn packed(&self, model: &EncoderModel) -> (Encoded, Vec<usize>) {
        let mut at = Vec::new();
        let mut bounds = vec![0];
        for b in 0..self.batch {
            at.extend((0..self.tokens).filter(|t| self.there(b, *t)).map(|t| b * self.tokens + t));
            bounds.push(at.len());
        }
        let of = |x: &[u32]| at.iter().map(|i| x[*i]).collect::<Vec<u32>>();
        let (ids, types) = (of(&self.ids), self.types.as_deref().map(of));
        let global = self.globals(model).map(|marks| {
            let marks = at.iter().map(|i| marks[[i / self.tokens, i % self.tokens]]).collect();
            Array2::from_shape_vec((1, at.len()), marks).expect("a mark a token")
        });
        let reading = Reading {
            ids: &ids,
            batch: 1,
            types: types.as_deref(),
            keep: None,
            global: global.as_ref(),
            packed: Some(&bounds),
        };
        (model.forward(&reading), at)
    }
}

fn numbers<const D: usize>(x: burn::tensor::Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64], counts: impl Fn(usize) -> bool) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (g, w)) in got.iter().zip(want).enumerate().filter(|(i, _)| counts(*i)) {
        let error = (g - w).abs();
        // The scores of a question's tokens are lowered by 10⁶, where f32 has a resolution of 1/16.
        if *w < -1e5 && *g < -1e5 {
            continue;
        }
        assert!(error <= tolerance::LOGITS, "{what}: element {i} is {g}, want {w}: error {error:.1e}");
    }
}

/// The golden's scores of the head, as rows of scores.
fn scores(golden: &Golden, n: usize) -> Option<Vec<f64>> {
    let get = |part: &str| golden.has(&format!("c{n}.{part}")).then(|| golden.floats(&format!("c{n}.{part}")).1);
    get("logits").or_else(|| {
        let (starts, ends) = (get("start_logits")?, get("end_logits")?);
        Some(starts.into_iter().zip(ends).flat_map(|(start, end)| [start, end]).collect())
    })
}

#[test]
fn hidden_states_and_scores_are_those_of_transformers() {
    for name in names() {
        let golden = Golden::read(root().join(&name).join("expected.safetensors"));
        let model = load(&name, None);
        let mut cases = 0;
        while let Some(case) = Case::read(&name, &golden, cases) {
            let n = cases;
            cases += 1;
            let got = case.padded(&model);
            let d = got.hidden.dims()[2];
            let there = |i: usize| case.there(i / case.tokens, i % case.tokens);
            let (_, hidden) = golden.floats(&format!("c{n}.last_hidden_state"));
            close(&format!("{}, hidden state", case.what), &numbers(got.hidden), &hidden, |i| there(i / d));
            if golden.has(&format!("c{n}.pooler_output")) {
                let pooled = numbers(got.pooled.expect("a pooler"));
                close(
                    &format!("{}, pooler", case.what),
                    &pooled,
                    &golden.floats(&format!("c{n}.pooler_output")).1,
                    |_| true,
                );
            }
            let want = scores(&golden, n);
            assert_eq!(want.is_some(), model.head.is_some(), "{name}: a head where there are scores");
            let Some(want) = want else { continue };
            let got = got.scores.expect("a head");
            let width = got.dims()[1];
            let a_row_a_token = got.dims()[0] == case.ids.len();
            close(&format!("{}, scores", case.what), &numbers(got), &want, |i| !a_row_a_token || there(i / width));
        }
        assert!(cases >= 3, "{name}: {cases} cases");
    }
}

#[test]
fn packed_is_what_transformers_gives() {
    for name in names() {
        // The results of these models depend on the padding of a row.
        if ["big_bird", "nystromformer", "reformer"].iter().any(|of| name.starts_with(of)) {
            continue;
        }
        let golden = Golden::read(root().join(&name).join("expected.safetensors"));
        let model = load(&name, None);
        for n in 0.. {
            let Some(case) = Case::read(&name, &golden, n) else { break };
            // These models count positions including padding.
            let left = case.keep.as_ref().is_some_and(|keep| keep.column(0).iter().any(|there| !there));
            if left && ["bert", "distilbert"].iter().any(|of| name.starts_with(of)) {
                continue;
            }
            let (got, at) = case.packed(&model);
            let d = got.hidden.dims()[2];
            let (_, hidden) = golden.floats(&format!("c{n}.last_hidden_state"));
            let want: Vec<f64> = at.iter().flat_map(|i| hidden[i * d..(i + 1) * d].to_vec()).collect();
            close(&format!("{}, packed", case.what), &numbers(got.hidden), &want, |_| true);
            if let (Some(scores), Some(got)) = (scores(&golden, n), got.scores) {
                let width = got.dims()[1];
                let want = match model.head.as_ref().map(|head| head.over()) {
                    Some(Over::Tokens) => at.iter().flat_map(|i| scores[i * width..(i + 1) * width].to_vec()).collect(),
                    _ => scores,
                };
                close(&format!("{}, packed, scores", case.what), &numbers(got), &want, |_| true);
            }
        }
    }
}

#[test]
fn packed_is_alone() {
    for name in names() {
        let golden = Golden::read(root().join(&name).join("expected.safetensors"));
        let model = load(&name, None);
        let case = Case::read(&name, &golden, 1).expect("a batch");
        let (got, at) = case.packed(&model);
        let got = numbers(got.hidden);
        let global = case.globals(&model);
        let mut from = 0;
        for b in 0..case.batch {
            let mine: Vec<usize> = at.iter().copied().filter(|i| i / case.tokens == b).collect();
            let ids: Vec<u32> = mine.iter().map(|i| case.ids[*i]).collect();
            let types: Option<Vec<u32>> = case.types.as_ref().map(|t| mine.iter().map(|i| t[*i]).collect());
            let global = global.as_ref().map(|marks| {
                let marks = mine.iter().map(|i| marks[[b, i % case.tokens]]).collect();
                Array2::from_shape_vec((1, mine.len()), marks).expect("a mark a token")
            });
            let reading = Reading { types: types.as_deref(), global: global.as_ref(), ..Reading::one(&ids) };
            let alone = numbers(model.forward(&reading).hidden);
            close(&format!("{name}, row {b}"), &got[from..from + alone.len()], &alone, |_| true);
            from += alone.len();
        }
    }
}

#[test]
fn every_encoder_and_head_has_goldens() {
    let names = names();
    for encoder in ENCODERS {
        for head in ["base", "masked-lm", "sequence", "token", "question"] {
            // Reformer has no token classification head, but has a causal language-model head.
            let head = if encoder.model_type == "reformer" && head == "token" { "causal" } else { head };
            // transformers has no such head.
            if encoder.model_type == "nomic_bert" && head == "question" {
                continue;
            }
            // GPT-2 is not an encoder without one of the other heads.
            if encoder.model_type == "gpt2" && ["base", "masked-lm"].contains(&head) {
                continue;
            }
            for config in ["a", "b"] {
                let name = format!("{}-{head}-{config}", encoder.model_type);
                assert!(names.contains(&name), "{name}");
                let task = load(&name, None).description.head.map(|(task, _)| task);
                let want = match head {
                    "masked-lm" | "causal" => Some(Task::MaskedLm),
                    "sequence" => Some(Task::Sequence),
                    "token" => Some(Task::Token),
                    "question" => Some(Task::Question),
                    _ => None,
                };
                assert_eq!(task, want, "{name}");
            }
        }
    }
}

#[test]
fn eight_bits_are_close_and_refuse_nothing() {
    // In a Reformer, a token in another bucket attends to other tokens.
    for name in names().iter().filter(|name| !name.starts_with("reformer")) {
        let golden = Golden::read(root().join(name).join("expected.safetensors"));
        let (full, rounded) = (load(name, None), load(name, Some(DType::Int8)));
        assert_eq!(rounded.dtype, DType::Int8);
        let case = Case::read(name, &golden, 1).expect("a batch");
        let [a, b] = [&full, &rounded].map(|model| numbers(case.padded(model).hidden));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        assert!(cosine > 0.99 && a != b, "{name}: {cosine}");
    }
}
