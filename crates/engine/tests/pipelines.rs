//! What stands behind an encoder does what sentence-transformers and transformers' pipelines do: modules in their order, labels, pairs, stretches.

use std::path::{Path, PathBuf};

use longreach_engine::{Prompt, Similarity, TextEncoder};
use longreach_models::Progress;
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, to).expect("copied");
        }
    }
}

fn load(folder: &Path) -> TextEncoder {
    TextEncoder::load(folder, None, Progress::Hidden).expect("a golden directory")
}

fn refused(folder: &Path) -> String {
    match TextEncoder::load(folder, None, Progress::Hidden) {
        Ok(_) => panic!("{} loads", folder.display()),
        Err(e) => e.to_string(),
    }
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).expect("a file")).expect("JSON")
}

/// Changes a JSON file of an object.
fn change(file: &Path, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let mut value = read(file);
    change(value.as_object_mut().expect("an object"));
    std::fs::write(file, value.to_string()).expect("written");
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    let row = |row: &Value| row.as_array().expect("a row").iter().map(|x| x.as_f64().expect("a number")).collect();
    value.as_array().expect("rows").iter().map(row).collect()
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= 2e-5, "{what}: element {i} is {g}, want {w}");
    }
}

/// A copy of st-bert-mean with the modules of the golden over it.
fn with_modules() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    copy(&golden("st-bert-mean"), folder.path());
    copy(&golden("modules"), folder.path());
    folder
}

#[test]
fn modules_are_applied_in_their_order_and_saved_settings_hold() {
    let folder = with_modules();
    let (encoder, expected) = (load(folder.path()), read(&golden("modules/expected.json")));
    assert_eq!((encoder.width(), encoder.pipeline.similarity), (7, Some(Similarity::Dot)));
    assert_eq!(encoder.prompt(Prompt::Default).expect("the default"), "", "a prompt that is null is none");
    assert_eq!(encoder.prompt(Prompt::Document).expect("a prompt"), "passage: ");
    let got = encoder.embed(&texts(&expected["texts"]), Prompt::Default).expect("vectors");
    for (got, want) in got.iter().zip(rows(&expected["vectors"])) {
        close("modules", got, &want);
    }
}

#[test]
fn what_a_pipeline_does_not_support_is_refused_by_name() {
    let with = |change: &dyn Fn(&Path)| {
        let folder = with_modules();
        change(folder.path());
        refused(folder.path())
    };
    let modules = |edit: &dyn Fn(&mut Vec<Value>)| {
        with(&|folder: &Path| {
            let mut list = read(&folder.join("modules.json"));
            edit(list.as_array_mut().expect("a list"));
            std::fs::write(folder.join("modules.json"), list.to_string()).expect("written");
        })
    };
    let said = modules(&|list| list[2]["type"] = json!("sentence_transformers.models.Asym"));
    assert!(said.contains("`Asym`"), "{said}");
    let said = modules(&|list| list[0]["type"] = json!("custom_st.Transformer"));
    assert!(said.contains("custom code of the model"), "{said}");
    let said = modules(&|list| list.swap(1, 2));
    assert!(said.contains("before the pooling"), "{said}");
    let said = modules(&|list| list[1]["path"] = json!("../other"));
    assert!(said.contains("leads out of the directory"), "{said}");
    let said = with(&|folder| {
        change(&folder.join("4_Dense/config.json"), |map| {
            drop(map.insert("activation_function".into(), json!("torch.nn.Mish")))
        });
    });
    assert!(said.contains("Mish"), "{said}");
    let said = with(&|folder| {
        let file = folder.join("config_sentence_transformers.json");
        change(&file, |map| drop(map.insert("similarity_fn_name".into(), json!("tanimoto"))));
    });
    assert!(said.contains("similarity_fn_name") && said.contains("tanimoto"), "{said}");
    // A module that takes other vectors than it gets is found when the model is loaded.
    let said = modules(&|list| drop(list.remove(1)));
    assert!(said.contains("before the pooling"), "{said}");
    let said = modules(&|list| list.truncate(1));
    assert!(said.contains("no module `Pooling`"), "{said}");
}

#[test]
fn a_folder_of_the_model_may_be_written_with_a_dot() {
    let folder = with_modules();
    let want = load(folder.path()).embed(&["words"], Prompt::Default).expect("vectors");
    let within = folder.path().join("0_Transformer");
    std::fs::create_dir(&within).expect("a directory");
    for entry in std::fs::read_dir(folder.path()).expect("a directory").flatten() {
        let name = entry.file_name();
        let of_encoder = !["modules.json", "config_sentence_transformers.json"].iter().any(|own| name == *own);
        if entry.path().is_file() && of_encoder {
            std::fs::rename(entry.path(), within.join(name)).expect("moved");
        }
    }
    let file = folder.path().join("modules.json");
    let mut list = read(&file);
    list[0]["path"] = json!("./0_Transformer");
    std::fs::write(&file, list.to_string()).expect("written");
    assert_eq!(load(folder.path()).embed(&["words"], Prompt::Default).expect("vectors"), want);
}

#[test]
fn scores_of_labels_are_those_of_transformers_pipeline() {
    let expected = read(&golden("labels/expected.json"));
    for (problem, scores) in [
        (Value::Null, "single"),
        (json!("single_label_classification"), "single"),
        (json!("multi_label_classification"), "multi"),
        (json!("regression"), "regression"),
    ] {
        let folder = tempfile::tempdir().expect("a directory");
        copy(&golden("labels"), folder.path());
        change(&folder.path().join("config.json"), |map| {
            map.insert("problem_type".into(), problem.clone());
            // Words in other fields decide nothing.
            map.insert("_name_or_path".into(), json!("someone/multi_label_classification"));
        });
        let encoder = load(folder.path());
        for (text, want) in texts(&expected["texts"]).iter().zip(rows(&expected[scores])) {
            let scored = encoder.classify(text).expect("labels");
            assert!(scored.windows(2).all(|w| w[0].score >= w[1].score), "the likeliest first");
            let of = |label: &str| scored.iter().find(|s| s.label == label).expect("a label").score;
            close(&format!("{problem} {text}"), &["0", "1", "2"].map(of), &want);
        }
    }
    let folder = tempfile::tempdir().expect("a directory");
    copy(&golden("labels"), folder.path());
    change(&folder.path().join("config.json"), |map| drop(map.insert("problem_type".into(), json!("ordinal"))));
    assert!(refused(folder.path()).contains("`problem_type`"));
}

#[test]
fn pairs_are_scored_as_transformers_does_and_cut_off_the_longer_first() {
    let expected = read(&golden("labels/expected.json"));
    let encoder = load(&golden("labels"));
    let pairs = expected["pairs"].as_array().expect("pairs");
    for (i, (pair, want)) in pairs.iter().zip(rows(&expected["of_pairs"])).enumerate() {
        let (scored, cut) = encoder.classify_pair(texts(pair)[0], texts(pair)[1]).expect("labels");
        let of = |label: &str| scored.iter().find(|s| s.label == label).expect("a label").score;
        close(&format!("pair {i}"), &["0", "1", "2"].map(of), &want);
        assert_eq!(cut, i == 2, "pair {i}: only the last is longer than the model reads");
    }
}

#[test]
fn a_classifier_without_architectures_is_known_by_its_weights() {
    let want = load(&golden("labels")).classify("words").expect("labels");
    let folder = tempfile::tempdir().expect("a directory");
    copy(&golden("labels"), folder.path());
    change(&folder.path().join("config.json"), |map| {
        map.remove("architectures");
        map.remove("id2label");
    });
    let got = load(folder.path()).classify("words").expect("labels");
    let scores = |scored: &[longreach_engine::Scored]| scored.iter().map(|s| s.score).collect::<Vec<_>>();
    assert_eq!(scores(&got), scores(&want));
    assert!(got.iter().all(|s| s.label.starts_with("LABEL_")), "{got:?}");
    let folder = tempfile::tempdir().expect("a directory");
    copy(&golden("entities"), folder.path());
    change(&folder.path().join("config.json"), |map| drop(map.remove("architectures")));
    let text = "A quick river flows under the old stone bridge.";
    let entities = |encoder: TextEncoder| encoder.entities(text).expect("entities");
    assert_eq!(entities(load(folder.path())), entities(load(&golden("entities"))));
}

#[test]
fn stretches_are_those_of_transformers_pipeline() {
    let (expected, encoder) = (read(&golden("entities/expected.json")), load(&golden("entities")));
    let want = expected["entities"].as_array().expect("a list");
    for (text, want) in texts(&expected["texts"]).iter().zip(want) {
        let got = encoder.entities(text).expect("entities");
        let want = want.as_array().expect("a list");
        assert_eq!(got.len(), want.len(), "{text}: {got:?}, want {want:?}");
        for (got, want) in got.iter().zip(want) {
            assert_eq!(got.label, want[0].as_str().expect("a label"), "{text}");
            close(text, &[got.score], &[want[1].as_f64().expect("a score")]);
            // Places are bytes here, characters there.
            let at = |i: usize| want[i].as_u64().expect("a place") as usize;
            let characters: String = text.chars().skip(at(2)).take(at(3) - at(2)).collect();
            assert_eq!(&text[got.bytes.clone()], characters, "{text}");
        }
    }
}

#[test]
fn what_the_files_have_and_the_model_does_not_use_is_told() {
    // A body alone uses no head.
    let folder = tempfile::tempdir().expect("a directory");
    copy(&golden("labels"), folder.path());
    change(&folder.path().join("config.json"), |map| drop(map.insert("architectures".into(), json!(["BertModel"]))));
    let encoder = load(folder.path());
    let notes = encoder.notes();
    assert!(notes.len() == 1 && notes[0].contains("`classifier.weight`"), "{notes:?}");
    assert!(encoder.note_on_vectors().is_some_and(|note| note.contains("mean")));
    // An architecture that is not known is told, too.
    change(&folder.path().join("config.json"), |map| drop(map.insert("architectures".into(), json!(["HF_Something"]))));
    let notes = load(folder.path()).notes();
    assert!(notes.iter().any(|note| note.contains("`HF_Something`")), "{notes:?}");
    // Where all is used and said, nothing is told.
    let whole = load(&golden("st-roberta-cls"));
    assert_eq!((whole.notes(), whole.note_on_vectors()), (Vec::new(), None));
}

/// PyLate's golden as Stanford's code writes such a model: one map without a bias among the encoder's weights, and `artifact.metadata`.
#[test]
fn a_colbert_of_stanford_is_read_as_one() {
    let folder = tempfile::tempdir().expect("a directory");
    copy(&golden("labels"), folder.path());
    let file = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&file).expect("weights");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let map: Vec<u8> = (0..8 * 24).flat_map(|i| ((i * 7 % 23) as f32 / 11.0 - 1.0).to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![8, 24], &map).expect("a matrix");
    let mut all: Vec<(String, safetensors::tensor::TensorView<'_>)> =
        tensors.tensors().into_iter().filter(|(name, _)| name.starts_with("bert.")).collect();
    all.push(("linear.weight".into(), view));
    let written = safetensors::serialize(all, None).expect("serialised");
    std::fs::write(&file, written).expect("written");
    change(&folder.path().join("config.json"), |map| drop(map.insert("architectures".into(), json!(["HF_ColBERT"]))));
    let about = json!({"dim": 8, "query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 9, "doc_maxlen": 20,
        "mask_punctuation": true, "attend_to_mask_tokens": false});
    std::fs::write(folder.path().join("artifact.metadata"), about.to_string()).expect("written");
    // This vocabulary has not the two tokens, and the error says so.
    let encoder = load(folder.path());
    assert!(encoder.is_late() && encoder.width() == 8 && encoder.notes().is_empty(), "{:?}", encoder.notes());
    assert!(encoder.late_query("words").expect_err("no such token").to_string().contains("[unused0]"));
    let about = json!({"query_token_id": "a", "doc_token_id": "b", "query_maxlen": 9, "doc_maxlen": 20});
    std::fs::write(folder.path().join("artifact.metadata"), about.to_string()).expect("written");
    let encoder = load(folder.path());
    let query = encoder.late_query("words of").expect("vectors");
    assert_eq!(query.len(), 9 * 8, "queries are filled up with mask tokens");
    for vector in query.chunks(8) {
        let length: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
    let parts = encoder.late_parts("words, of the sea.", longreach_engine::Long::Truncate).expect("tokens");
    let documents = encoder.late_documents(&[&parts[0]]).expect("vectors");
    assert_eq!(documents[0].len(), (parts[0].ids.len() - 2) * 8, "the comma and the full stop are skipped");
}

#[test]
fn a_tokenizer_that_is_something_else_is_named_for_what_it_is() {
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n";
    for (file, text, part) in [
        ("tokenizer.json", lfs, "git-lfs"),
        ("tokenizer.json", "<!DOCTYPE html><html></html>", "HTML"),
        ("tokenizer_config.json", lfs, "git-lfs"),
        ("modules.json", lfs, "git-lfs"),
        ("1_Pooling/config.json", lfs, "git-lfs"),
    ] {
        let folder = tempfile::tempdir().expect("a directory");
        copy(&golden("st-bert-mean"), folder.path());
        std::fs::write(folder.path().join(file), text).expect("written");
        let said = refused(folder.path());
        assert!(said.contains(file) && said.contains(part), "{said}");
    }
}
