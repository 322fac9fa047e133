//! Converting between directories and GGUF files: what comes back is what was there, and both compute the same.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use longreach_gguf::{Gguf, TensorType};
use longreach_models::gguf::{AS_STORED, Contents, Observed, Quantising, importances, quantise, write_directory};
use longreach_models::{DType, Location, Model};
use longreach_testkit::goldens::Golden;
use longreach_testkit::tolerance;
use safetensors::SafeTensors;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn at(directory: &Path) -> Location {
    Location { directory: directory.to_owned(), weights: None }
}

fn of_gguf(file: &Path) -> Location {
    Location { directory: file.parent().expect("a folder").to_owned(), weights: Some(file.to_owned()) }
}

/// Writes the model in a directory as a GGUF file.
fn write_gguf(directory: &Path, to: &Path) {
    let contents = Contents::of_directory(&at(directory), "a model").expect("a model that GGUF expresses");
    assert_eq!(contents.notes(), &[] as &[String], "{}", directory.display());
    quantise(&contents, to, &Quantising::new(AS_STORED), &mut |_, _| ()).expect("written");
}

fn logits(model: &Model, shape: &[usize], ids: &[i64]) -> Vec<f64> {
    let ids: Vec<u32> = ids.iter().map(|id| u32::try_from(*id).expect("an id")).collect();
    let mut cache = model.decoder.start(shape[0]);
    let hidden: Tensor<3> = model.decoder.forward(&ids, &mut cache, None);
    model.decoder.logits(hidden).into_data().iter::<f64>().collect()
}

/// The goldens whose models GGUF files express.
const NAMES: &[&str] = &[
    "llama-a",
    "llama-b",
    "mistral-a",
    "mistral-b",
    "mixtral-a",
    "mixtral-b",
    "qwen2-a",
    "qwen3-a",
    "qwen3_moe-a",
    "phi3-a",
    "phi3-b",
    "smollm3-a",
    "olmo2-a",
    "olmo3-a",
    "olmo3-b",
    "gpt_oss-mxfp4",
    "gemma3_text-a",
    "mamba-a",
    "falcon_mamba-a",
    "mamba2-a",
    "mamba2-a-bf16",
    "jamba-a",
    "falcon_h1-a",
    "falcon_h1-c",
    "granitemoehybrid-a",
    "granitemoehybrid-c",
    "nemotron_h-a",
    "nemotron_h-c",
    "lfm2-a",
    "lfm2-b",
    "lfm2_moe-a",
    "qwen3_next-a",
    "minicpm-a",
    "minicpm-c",
];

/// Goldens of which llama.cpp's converter made a file, in `goldens/gguf`.
const CONVERTED: &[&str] = &[
    "llama-a",
    "llama-b",
    "mistral-b",
    "mixtral-a",
    "minicpm-c",
    "qwen2-a",
    "qwen3-a",
    "smollm3-a",
    "phi3-a",
    "phi3-b",
    "olmo2-a",
    "olmo3-a",
    "olmo3-b",
    "gpt_oss-mxfp4",
    "falcon_h1-a",
    "falcon_h1-c",
    "granitemoehybrid-a",
    "granitemoehybrid-c",
    "jamba-a",
    "lfm2-a",
    "mamba-a",
    "falcon_mamba-a",
    "nemotron_h-a",
    "qwen3_next-a",
];

#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let error = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
    assert!(error <= tolerance::LOGITS, "{what}: error {error:.1e}");
}

#[test]
fn both_forms_of_a_model_compute_the_same() {
    let temporary = tempfile::tempdir().expect("a directory");
    for name in NAMES {
        let golden = Golden::read(folder(name).join("expected.safetensors"));
        let (shape, ids) = golden.integers("input_ids");
        let load = |location: &Location| Model::load(location, Some(DType::F32)).expect("a model");
        let want = logits(&load(&at(&folder(name))), &shape, &ids);
        let file = temporary.path().join(format!("{name}.gguf"));
        write_gguf(&folder(name), &file);
        let model = load(&of_gguf(&file));
        assert!(model.notes().is_empty(), "{name}: {:?}", model.notes());
        close(&format!("{name} as GGUF"), &logits(&model, &shape, &ids), &want);
        let back = temporary.path().join(name);
        let gguf = Gguf::open(&file).expect("a file");
        let notes = write_directory(&gguf, &back, None, &mut |_, _| ()).expect("written");
        assert!(notes.is_empty(), "{name}: {notes:?}");
        close(&format!("{name} and back"), &logits(&load(&at(&back)), &shape, &ids), &want);
    }
}

/// Files of further architectures, most of which are not written, whose models directories express.
const BACK: &[&str] = &["gemma4_text-a", "gemma4_text-g", "granite-g", "kimi_linear-g", "minimax-g", "rwkv7-a"];

#[test]
fn directories_of_files_compute_the_same() {
    let temporary = tempfile::tempdir().expect("a directory");
    let ids: Vec<i64> = (0..12).map(|i| i * 5 % 31).collect();
    let of =
        |location: &Location| logits(&Model::load(location, Some(DType::F32)).expect("a model"), &[1, ids.len()], &ids);
    for name in BACK {
        let file = folder(&format!("gguf/{name}.gguf"));
        let back = temporary.path().join(name);
        let notes = write_directory(&Gguf::open(&file).expect("a file"), &back, None, &mut |_, _| ()).expect("written");
        assert!(notes.is_empty(), "{name}: {notes:?}");
        close(name, &of(&at(&back)), &of(&of_gguf(&file)));
    }
    let again = temporary.path().join("again.gguf");
    write_gguf(&temporary.path().join("minimax-g"), &again);
    close("minimax-g again", &of(&of_gguf(&again)), &of(&of_gguf(&folder("gguf/minimax-g.gguf"))));
}

/// Files whose tensors are in another order than a directory has them in, or of which a part is left out.
const REFUSED: &[&str] =
    &["bamba-a", "gpt2-a", "gpt_neox-g", "granitemoe-g", "qwen3_5_text-a", "qwen3_5_moe-a", "rwkv6-g"];

#[test]
fn what_a_directory_cannot_express_is_an_error() {
    let temporary = tempfile::tempdir().expect("a directory");
    for name in REFUSED {
        let gguf = Gguf::open(folder(&format!("gguf/{name}.gguf"))).expect("a file");
        let to = temporary.path().join(name);
        let error = write_directory(&gguf, &to, None, &mut |_, _| ()).expect_err(name).to_string();
        assert!(error.contains(&format!("{name}.gguf: ")) && error.contains("cannot express this model"), "{error}");
        assert!(!to.exists(), "{name}");
    }
}

#[test]
fn what_is_not_written_is_an_error_with_its_name() {
    for name in ["gpt2-a", "qwen3_5_text-a", "kimi_linear-a", "rwkv7-a"] {
        let kind = name.rsplit_once('-').expect("a letter").0;
        let error = Contents::of_directory(&at(&folder(name)), name).err().expect(name).to_string();
        assert!(error.contains(&format!("`{kind}` cannot be written as GGUF")), "{error}");
        assert!(error.contains("llama, mistral") && !error.contains("nomic-bert"), "{error}");
    }
}

/// Tensors whose values are rounded once on the way there, and once on the way back.
fn is_rounded(name: &str) -> bool {
    name.ends_with("A_log") || name.contains("norm")
}

/// The numbers of a tensor.
fn numbers(tensor: &safetensors::tensor::TensorView<'_>) -> Vec<f64> {
    use half::{bf16, f16};
    let data = tensor.data();
    match tensor.dtype() {
        safetensors::Dtype::BF16 => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect(),
        safetensors::Dtype::F16 => data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()).collect(),
        _ => data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
    }
}

#[test]
fn tensors_come_back_bit_for_bit() {
    let temporary = tempfile::tempdir().expect("a directory");
    // Falcon-H1's factors become part of its weights, and blocks become floats.
    for name in NAMES.iter().filter(|name| !name.starts_with("falcon_h1") && !name.contains("mxfp4")) {
        let file = temporary.path().join(format!("{name}.gguf"));
        write_gguf(&folder(name), &file);
        let back = temporary.path().join(name);
        write_directory(&Gguf::open(&file).expect("a file"), &back, None, &mut |_, _| ()).expect("written");
        let [was, is] = [folder(name), back].map(|at| std::fs::read(at.join("model.safetensors")).expect("a file"));
        let [was, is] = [&was, &is].map(|bytes| SafeTensors::deserialize(bytes).expect("safetensors"));
        let one_is_added = ["gemma", "qwen3_next"].iter().any(|start| name.starts_with(start));
        // Layers that predict further tokens are left out.
        let all = was.names().iter().filter(|tensor| !tensor.starts_with("mtp.")).count();
        assert_eq!(is.names().len(), all, "{name}");
        for (tensor, is) in is.iter() {
            let was = was.tensor(tensor).unwrap_or_else(|e| panic!("{name}: {tensor}: {e}"));
            assert_eq!(is.shape(), was.shape(), "{name}: {tensor}");
            let rounded = is_rounded(tensor) && (one_is_added || tensor.ends_with("A_log"));
            if !rounded {
                assert_eq!((is.dtype(), is.data()), (was.dtype(), was.data()), "{name}: {tensor}");
                continue;
            }
            for (is, was) in numbers(&is).into_iter().zip(numbers(&was)) {
                // Of 1 + w or −exp(x) half a unit in the last place is lost, which is more of a small w or x.
                assert!((is - was).abs() <= 1.2e-7 * was.abs().max(1.0), "{name}: {tensor}: {is} {was}");
            }
        }
    }
}

/// The numbers of a tensor of floats.
fn floats(tensor: &longreach_gguf::Tensor<'_>) -> Vec<f64> {
    use half::bf16;
    let data = tensor.data();
    match tensor.tensor_type() {
        TensorType::F32 => data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        TensorType::BF16 => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn files_are_those_of_llama_cpp() {
    let temporary = tempfile::tempdir().expect("a directory");
    for name in CONVERTED {
        let file = temporary.path().join(format!("{name}.gguf"));
        write_gguf(&folder(name), &file);
        let [ours, theirs] = [file, folder(&format!("gguf/{name}.gguf"))].map(|file| Gguf::open(file).expect("a file"));
        // Layers that predict further tokens are left out.
        let further = |tensor: &str| *name == "qwen3_next-a" && tensor.starts_with("blk.3.");
        let all: Vec<_> = theirs.tensors().filter(|tensor| !further(tensor.name())).collect();
        assert_eq!(ours.tensors().len(), all.len(), "{name}");
        for tensor in all {
            let what = format!("{name}: {}", tensor.name());
            let found = ours.tensor(tensor.name()).unwrap_or_else(|| panic!("{what} is missing"));
            assert_eq!(found.shape(), tensor.shape(), "{what}");
            // Blocks may have other scales with the same values, which the logits show.
            if tensor.tensor_type() == TensorType::MXFP4 {
                assert_eq!(found.tensor_type(), TensorType::MXFP4, "{what}");
                continue;
            }
            // Theirs has the rows of queries and keys in pairs although there are no positions.
            if name.starts_with("nemotron_h") && (what.contains("attn_q") || what.contains("attn_k")) {
                continue;
            }
            // Exponentials and products of several factors are rounded here once, there several times.
            let differs = |(a, b): (f64, f64)| (a - b).abs() > 4e-7 * b.abs();
            let first = floats(&found).into_iter().zip(floats(&tensor)).find(|pair| differs(*pair));
            assert_eq!(first, None, "{what}");
        }
        for value in theirs.metadata().iter() {
            // llama.cpp writes an unlimited context for hybrids, and another rotary width for a model without positions.
            let key = value.key();
            let of_them = ["general.name", "general.size_label", "general.file_type"].contains(&key)
                || key.ends_with("context_length")
                || key == "nemotron_h.rope.dimension_count"
                || *name == "qwen3_next-a" && (key.ends_with("block_count") || key.contains("nextn"));
            if !of_them {
                let found = ours.metadata().value(key).map(|found| format!("{found:?}"));
                assert_eq!(found, Some(format!("{value:?}")), "{name}: {key}");
            }
        }
    }
}

#[test]
fn a_file_comes_back_from_a_directory() {
    let temporary = tempfile::tempdir().expect("a directory");
    for name in ["gemma2-g", "gemma3_text-g", "gpt_oss-g", "lfm2_moe-g", "mamba2-g", "qwen3_moe-g", "nemotron_h-g"] {
        let (directory, file) = (temporary.path().join(name), temporary.path().join(format!("{name}.gguf")));
        let was = Gguf::open(folder(&format!("gguf/{name}.gguf"))).expect("a golden");
        write_directory(&was, &directory, None, &mut |_, _| ()).expect("written");
        write_gguf(&directory, &file);
        let is = Gguf::open(&file).expect("a file");
        assert_eq!(is.tensors().len(), was.tensors().len(), "{name}");
        for tensor in was.tensors() {
            let found = is.tensor(tensor.name()).expect("the same tensors");
            let differs = |(a, b): (f64, f64)| (a - b).abs() > 4e-7 * b.abs();
            let first = floats(&found).into_iter().zip(floats(&tensor)).find(|pair| differs(*pair));
            assert_eq!((found.shape(), first), (tensor.shape(), None), "{name}: {}", tensor.name());
        }
    }
}

#[test]
fn importances_are_mean_squares_of_inputs() {
    let at = at(&folder("mixtral-a"));
    let (model, observed) = Observed::load(&at).expect("a model");
    let ids: Vec<u32> = (0..20).map(|i| i * 7 % 67).collect();
    let _ = model.decoder.forward(&ids, &mut model.decoder.start(1), None);
    let temporary = tempfile::tempdir().expect("a directory");
    let file = temporary.path().join("importance.gguf");
    observed.write(&file, "ids", 1, 20).expect("written");
    let gguf = Gguf::open(&file).expect("a file");
    let of = |name: &str| floats(&gguf.tensor(name).unwrap_or_else(|| panic!("{name} is missing")));
    // What the first queries, keys and values are computed from is the normed embedding.
    let bytes = std::fs::read(at.directory.join("model.safetensors")).expect("a file");
    let weights = SafeTensors::deserialize(&bytes).expect("safetensors");
    let weight = |name: &str| numbers(&weights.tensor(name).expect("a weight"));
    let (table, norm) = (weight("model.embed_tokens.weight"), weight("model.layers.0.input_layernorm.weight"));
    let width = norm.len();
    let mut want = vec![0.0; width];
    for id in &ids {
        let x = &table[*id as usize * width..][..width];
        let scale = (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-5).powf(-0.5);
        want.iter_mut().zip(x).zip(&norm).for_each(|((want, x), w)| *want += (x * scale * w).powi(2));
    }
    for part in ["attn_q", "attn_k", "attn_v"] {
        let found = of(&format!("blk.0.{part}.weight.in_sum2"));
        let error = found.iter().zip(&want).map(|(a, b)| (a - b).abs() / b.abs().max(1e-3)).fold(0.0, f64::max);
        assert!(found.len() == width && error < 1e-4, "{part}: {error}");
        assert_eq!(of(&format!("blk.0.{part}.weight.counts")), [20.0]);
    }
    // Each token goes to two of four experts.
    let counts = of("blk.1.ffn_down_exps.weight.counts");
    assert_eq!((counts.len(), counts.iter().sum::<f64>()), (4, 40.0));
    let read = importances(&file).expect("importances");
    let of_all = &read["blk.0.attn_q.weight"];
    assert!(of_all.iter().zip(&want).all(|(mean, sum)| (f64::from(*mean) - sum / 20.0).abs() < 1e-4 * sum));
    assert_eq!(read["blk.1.ffn_down_exps.weight"].len(), 4 * 20, "for each expert those of its 20 channels");
}
