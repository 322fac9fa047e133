//! Checkpoints as found in practice: with prefixes of wrappers, in PyTorch's format, in f64, of other packages. Each
//! must load as the same model as the golden it was derived from.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use longreach_models::{Checkpoint, EncoderModel, Location, Model};
use longreach_nn::Reading;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn at(folder: &Path) -> Location {
    Location { directory: folder.to_owned(), weights: None }
}

struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn tensors(file: &Path) -> HashMap<String, Tensor> {
    let bytes = std::fs::read(file).expect("weights");
    let all = SafeTensors::deserialize(&bytes).expect("safetensors");
    let one = |(name, view): (String, TensorView<'_>)| {
        (name, Tensor { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() })
    };
    all.tensors().into_iter().map(one).collect()
}

fn write(file: &Path, tensors: &HashMap<String, Tensor>) {
    let views = tensors.iter().map(|(name, t)| {
        (name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).expect("as many bytes as the shape asks for"))
    });
    std::fs::write(file, safetensors::serialize(views, None).expect("serialised")).expect("written");
}

/// A copy of a golden with changed weights and configuration.
fn changed(
    name: &str,
    weights: impl FnOnce(HashMap<String, Tensor>) -> HashMap<String, Tensor>,
    config: impl FnOnce(&mut Value),
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    let text = std::fs::read(golden(name).join("config.json")).expect("a configuration");
    let mut value: Value = serde_json::from_slice(&text).expect("JSON");
    config(&mut value);
    std::fs::write(folder.path().join("config.json"), value.to_string()).expect("written");
    write(&folder.path().join("model.safetensors"), &weights(tensors(&golden(name).join("model.safetensors"))));
    folder
}

fn renamed(tensors: HashMap<String, Tensor>, name: impl Fn(&str) -> String) -> HashMap<String, Tensor> {
    tensors.into_iter().map(|(old, tensor)| (name(&old), tensor)).collect()
}

const IDS: [u32; 7] = [5, 1, 9, 2, 2, 7, 3];

fn written(folder: &Path) -> Vec<f32> {
    let model = Model::load(&at(folder), None).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(model.notes(), Vec::<String>::new());
    model.evaluate(&IDS, None, 1, IDS.len(), 4).logits
}

fn encoded(folder: &Path) -> Vec<f32> {
    let model = EncoderModel::load(&at(folder), None).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(model.notes(|_| false), Vec::<String>::new());
    model.forward(&Reading::one(&IDS)).hidden.into_data().iter::<f32>().collect()
}

#[test]
fn what_wrappers_put_before_names_is_seen_through() {
    let want = written(&golden("mamba-a"));
    for before in ["module.", "_orig_mod.", "model.module.", "state_dict.model."] {
        let folder = changed("mamba-a", |t| renamed(t, |name| format!("{before}{name}")), |_| {});
        assert_eq!(written(folder.path()), want, "{before}");
    }
    let want = encoded(&golden("encoders/bert-question-a"));
    // The body alone, with or without a wrapper, loads as the same body without a head.
    for before in ["", "model.", "module.encoder_model."] {
        let bare = |t: HashMap<String, Tensor>| {
            let body =
                t.into_iter().filter_map(|(name, t)| Some((format!("{before}{}", name.strip_prefix("bert.")?), t)));
            body.collect()
        };
        let body = |config: &mut Value| config["architectures"] = json!(["BertModel"]);
        assert_eq!(encoded(changed("encoders/bert-question-a", bare, body).path()), want, "{before:?}");
    }
}

#[test]
fn doubles_are_rounded_and_read() {
    let double = |mut t: HashMap<String, Tensor>| {
        for tensor in t.values_mut() {
            let numbers = tensor.bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)));
            tensor.bytes = numbers.flat_map(f64::to_le_bytes).collect();
            tensor.dtype = Dtype::F64;
        }
        t
    };
    assert_eq!(written(changed("mamba-a", double, |_| {}).path()), written(&golden("mamba-a")));
}

#[test]
fn a_missing_tensor_is_named_with_those_nearest_to_it() {
    let without = |mut t: HashMap<String, Tensor>| {
        t.remove("backbone.layers.1.mixer.x_proj.weight");
        t
    };
    let folder = changed("mamba-a", without, |_| {});
    let said = Model::load(&at(folder.path()), None).expect_err("a tensor is missing").to_string();
    assert!(said.contains("`backbone.layers.1.mixer.x_proj.weight` is missing"), "{said}");
    assert!(said.contains("`backbone.layers.0.mixer.x_proj.weight`"), "{said}");
}

#[test]
fn weights_that_nobody_asked_for_are_told_and_copies_are_not() {
    let more = |mut t: HashMap<String, Tensor>| {
        let table = &t["backbone.embeddings.weight"];
        let copy = Tensor { dtype: table.dtype, shape: table.shape.clone(), bytes: table.bytes.clone() };
        let other = Tensor { dtype: Dtype::F32, shape: vec![1], bytes: vec![0; 4] };
        t.insert("lm_head.weight".into(), copy);
        t.insert("value_head.weight".into(), other);
        t.insert("backbone.position_ids".into(), Tensor { dtype: Dtype::I64, shape: vec![1], bytes: vec![0; 8] });
        t
    };
    let folder = changed("mamba-a", more, |config| config["tie_word_embeddings"] = json!(true));
    let model = Model::load(&at(folder.path()), None).expect("a model");
    let notes = model.notes();
    assert!(notes.len() == 1 && notes[0].ends_with("does not use: `value_head.weight`"), "{notes:?}");
}

#[test]
fn checkpoints_of_mamba_ssm_are_those_of_transformers() {
    let names =
        |t: HashMap<String, Tensor>| renamed(t, |name| name.replace("backbone.embeddings.", "backbone.embedding."));
    // mamba-b sets all fields to values of its own; the two packages share their meaning.
    for (name, layer) in [("mamba-a", "Mamba1"), ("mamba2-a", "Mamba2")] {
        let of = |c: &mut Value| {
            let mut ssm = json!({"layer": layer, "d_state": c["state_size"], "d_conv": c["conv_kernel"], "expand": c["expand"],
                "conv_bias": c["use_conv_bias"], "bias": c["use_bias"]});
            if layer == "Mamba2" {
                ssm["headdim"] = c["head_dim"].clone();
            } else {
                ssm["dt_rank"] = c["time_step_rank"].clone();
            }
            *c = json!({"d_model": c["hidden_size"], "n_layer": c["num_hidden_layers"], "vocab_size": c["vocab_size"], "ssm_cfg": ssm,
                "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 1,
                "tie_embeddings": c.get("tie_word_embeddings").cloned().unwrap_or(json!(layer == "Mamba1")), "attn_layer_idx": [],
                "attn_cfg": {}, "d_intermediate": 0});
        };
        assert_eq!(written(changed(name, names, of).path()), written(&golden(name)), "{name}");
    }
    // With several groups, of which each has a norm of its own; mamba-ssm's ε is fixed.
    let groups = changed("mamba2-b", names, |c| {
        let ssm = json!({"layer": "Mamba2", "d_state": c["state_size"], "d_conv": c["conv_kernel"], "expand": c["expand"],
            "conv_bias": c["use_conv_bias"], "bias": c["use_bias"], "headdim": c["head_dim"], "ngroups": c["n_groups"],
            "dt_limit": c["time_step_limit"]});
        *c = json!({"d_model": c["hidden_size"], "n_layer": c["num_hidden_layers"], "vocab_size": c["vocab_size"], "ssm_cfg": ssm,
            "pad_vocab_size_multiple": 1, "tie_embeddings": c["tie_word_embeddings"]});
    });
    let same = changed("mamba2-b", |t| t, |c| c["layer_norm_epsilon"] = json!(1e-5));
    assert_eq!(written(groups.path()), written(same.path()));
    // Sizes that the configuration leaves open are taken from the tensors.
    let open = changed("mamba-a", names, |c| {
        *c = json!({"d_model": c["hidden_size"], "n_layer": c["num_hidden_layers"], "vocab_size": c["vocab_size"],
            "ssm_cfg": {"d_conv": c["conv_kernel"], "expand": c["expand"], "conv_bias": c["use_conv_bias"], "bias": c["use_bias"]},
            "tie_embeddings": c.get("tie_word_embeddings").cloned().unwrap_or(json!(true))});
    });
    assert_eq!(written(open.path()), written(&golden("mamba-a")));
    for (field, value, part) in [
        ("attn_layer_idx", json!([1]), "`attn_layer_idx`"),
        ("d_intermediate", json!(64), "`d_intermediate`"),
        ("rms_norm", json!(false), "`rms_norm`"),
        ("ssm_cfg", json!({"layer": "Mamba3"}), "Mamba3"),
        ("ssm_cfg", json!({"layer": "Mamba2", "headdim": 4, "ngroups": 3}), "ssm_cfg.ngroups"),
        ("ssm_cfg", json!({"layer": "Mamba1", "new_trick": 1}), "ssm_cfg.new_trick"),
    ] {
        let folder = changed("mamba-a", names, |c| {
            *c = json!({"d_model": 8, "n_layer": 1, "vocab_size": 10, "ssm_cfg": {}});
            c[field] = value;
        });
        let said = Model::load(&at(folder.path()), None).expect_err("not supported").to_string();
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_directory_says_what_it_holds_instead_of_a_model() {
    let refused = |write: &dyn Fn(&Path)| {
        let folder = changed("mamba-a", |t| t, |_| {});
        write(folder.path());
        Model::load(&at(folder.path()), None).expect_err("no model").to_string()
    };
    let put = |name: &'static str, bytes: &'static [u8]| {
        move |folder: &Path| std::fs::write(folder.join(name), bytes).expect("written")
    };
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n";
    for (file, bytes, part) in [
        ("model.safetensors", &lfs[..], "git-lfs"),
        ("config.json", lfs, "git-lfs"),
        ("model.safetensors", b"<!DOCTYPE html><html></html>", "HTML"),
        ("model.safetensors", b"", "empty"),
        ("model.safetensors", b"GGUF\x03\0\0\0", "GGUF"),
        ("adapter_config.json", b"{\"peft_type\": \"LORA\", \"base_model_name_or_path\": \"a/b\"}", "`a/b`"),
    ] {
        let said = refused(&put(file, bytes));
        assert!(said.contains(file) && said.contains(part), "{said}");
    }
    let said = refused(&|folder| {
        let file = folder.join("model.safetensors");
        let bytes = std::fs::read(&file).expect("weights");
        std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("written");
    });
    assert!(said.contains("cut short"), "{said}");
    let said = refused(&|folder| std::fs::remove_file(folder.join("model.safetensors")).expect("removed"));
    assert!(said.contains("no weights"), "{said}");
    let said = refused(&|folder| {
        let file = folder.join("config.json");
        let text = std::fs::read_to_string(&file).expect("a configuration");
        std::fs::write(&file, text.replacen('{', "{\"quantization_config\": {\"quant_method\": \"aqlm\"},", 1))
            .expect("written");
    });
    assert!(said.contains("aqlm"), "{said}");
}

#[test]
fn the_only_file_of_weights_is_taken_and_several_are_named() {
    let want = written(&golden("mamba-a"));
    let folder = changed("mamba-a", |t| t, |_| {});
    let to = |name: &str| folder.path().join(name);
    std::fs::rename(to("model.safetensors"), to("finetuned.safetensors")).expect("moved");
    std::fs::write(to("training_args.bin"), b"PK").expect("written");
    assert_eq!(written(folder.path()), want);
    std::fs::copy(to("finetuned.safetensors"), to("other.safetensors")).expect("copied");
    let said = Checkpoint::open(folder.path()).expect_err("two files").to_string();
    assert!(said.contains("finetuned.safetensors") && said.contains("other.safetensors"), "{said}");
}

#[test]
fn tokens_that_end_a_text_are_those_of_the_generation_config_and_null_is_none() {
    let eos = |config: Value, generation: Option<Value>| {
        let folder = changed("mamba-a", |t| t, |c| c["eos_token_id"] = config);
        if let Some(value) = generation {
            std::fs::write(folder.path().join("generation_config.json"), value.to_string()).expect("written");
        }
        Model::load(&at(folder.path()), None).expect("a model").description.eos
    };
    assert_eq!(eos(json!(3), None), vec![3]);
    assert_eq!(eos(Value::Null, None), Vec::<u32>::new());
    assert_eq!(eos(json!(3), Some(json!({"eos_token_id": [4, 5]}))), vec![4, 5]);
    assert_eq!(eos(json!(3), Some(json!({"temperature": 0.5}))), vec![3]);
    assert_eq!(eos(json!(3), Some(json!({"eos_token_id": null}))), Vec::<u32>::new());
}

#[test]
fn pickles_are_read_in_shards_and_out_of_the_dictionaries_of_trainings() {
    let want = written(&golden("mamba-a"));
    assert_eq!(written(&golden("mamba-a-pickled")), want);
    for name in ["training.pt", "training.pth", "training.bin"] {
        let folder = tempfile::tempdir().expect("a directory");
        std::fs::copy(golden("mamba-a-pickled/config.json"), folder.path().join("config.json")).expect("copied");
        let file = folder.path().join(name);
        std::fs::copy(golden("mamba-a-pickled/training.pt"), &file).expect("copied");
        // By its path, and as the only file of its directory.
        let named = Location::find(&file, longreach_models::Progress::Hidden).expect("a file");
        let model = Model::load(&named, None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(model.notes(), Vec::<String>::new(), "{name}: what belongs to the optimizer is no weight");
        assert_eq!(model.evaluate(&IDS, None, 1, IDS.len(), 4).logits, want, "{name}");
        if name != "training.pt" {
            continue;
        }
        let bytes = std::fs::read(&file).expect("a pickle");
        std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("written");
        let said = Model::load(&named, None).expect_err("half of it is missing").to_string();
        assert!(said.contains("training.pt") && said.contains("cut short"), "{said}");
    }
}
