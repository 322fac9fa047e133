//! Writing the model of a GGUF file as a directory of Hugging Face's form.

use std::collections::HashMap;
use std::path::Path;

use longreach_gguf::tokenizer::{self, Special, Tokenizer, Vocabulary};
use longreach_gguf::{Gguf, Metadata, TensorType};
use safetensors::Dtype;
use safetensors::tensor::{Metadata as Header, TensorInfo};
use serde_json::{Map, Value, json};

use super::alike::alike;
use super::contents::restored;
use super::folds::Folds;
use super::parts::Parts;
use super::tensors::{Rewritten, Tensors, Whole, floats};
use super::{Described, described, quantise::numbers, read};
use crate::{Checkpoint, Description, Error, write_atomically};

/// Types of floats of the tensors in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floats {
    /// 32 bits.
    F32,
    /// 16 bits, of which 5 are the exponent.
    F16,
    /// 16 bits, of which 8 are the exponent.
    Bf16,
}

impl Floats {
    fn tensor_type(self) -> TensorType {
        match self {
            Self::F32 => TensorType::F32,
            Self::F16 => TensorType::F16,
            Self::Bf16 => TensorType::BF16,
        }
    }

    /// The name in `config.json`.
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// Writes the model of a GGUF file to a directory: `config.json`, `generation_config.json`, `model.safetensors`, and its
/// tokenizer and chat template if it has them. `progress` hears the bytes written, and all bytes.
///
/// Matrices get the type `floats`, or that of most of them if `None`; blocks become f32 then. Other tensors get the same type
/// where that loses nothing, and f32 elsewhere. Returns notes for the user. Errors if the architecture is not read, a
/// `config.json` cannot say what the metadata do, a tensor is missing, or a file cannot be written.
pub fn write_directory(
    gguf: &Gguf,
    to: &Path,
    floats: Option<Floats>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<String>, Error> {
    let Described { description, fields, config, joined, .. } = described(gguf.metadata(), gguf)?;
    let directory = Description::of(&fields)?;
    alike(&description.decoder, &directory.decoder).map_err(|difference| {
        fields.error(format!(
            "a directory of the type `{}` cannot express this model: {difference}",
            directory.model_type
        ))
    })?;
    let from = restored(read(gguf.metadata(), gguf)?, &Parts::of(&description.decoder));
    let of = &description.decoder;
    let checkpoint = Checkpoint::of_gguf(gguf, of.blocks.len(), &joined)?;
    let checkpoint = checkpoint.named_as(&of.names.body, &of.embedding()).rewritten(from);
    // The names are those of the model type.
    let names = directory.rewrites;
    // The files of this model type on the Hub have a tensor for each matrix of an expert.
    let names = if description.model_type == "qwen3_next" { names.apart() } else { names };
    let tensors = Rewritten::new(checkpoint, of, &names, Folds::none(of))?;
    let floats = floats.unwrap_or_else(|| stored(&tensors));
    let found = tokenizer::read(gguf)?;
    std::fs::create_dir_all(to).map_err(|e| Error::io(to, e))?;
    safetensors(&tensors, floats, &to.join("model.safetensors"), progress)?;
    if let Some(found) = &found {
        write_tokenizer(found, to)?;
    }
    let special = found.as_ref().map(|found| &found.special);
    let config: Map<String, Value> = serde_json::from_str(&config).unwrap_or_default();
    let generation = generation(gguf.metadata(), &config, special)?;
    write_json(&to.join("generation_config.json"), &Value::Object(generation))?;
    // Last, so that a directory that was not completed has none.
    let mut config = completed(config, description.model_type, floats);
    // The defaults of some model types are beyond the vocabularies of others.
    config.insert("pad_token_id".into(), json!(special.and_then(|special| special.padding)));
    write_json(&to.join("config.json"), &Value::Object(config))?;
    let mut notes: Vec<String> = crate::model::unused(&tensors.checkpoint.unused()).into_iter().collect();
    if matches!(found, Some(Tokenizer { vocabulary: Vocabulary::World(_), .. })) {
        notes.push("RWKV's vocabulary has no tokenizer.json, and is left out".into());
    }
    Ok(notes)
}

/// The type of most weights.
fn stored(tensors: &Rewritten) -> Floats {
    let mut weights = HashMap::<TensorType, usize>::new();
    for whole in tensors.list().iter().filter(|whole| whole.shape.len() > 1) {
        *weights.entry(whole.kind).or_default() += whole.elements();
    }
    match weights.into_iter().max_by_key(|(_, n)| *n) {
        Some((TensorType::F16, _)) => Floats::F16,
        Some((TensorType::BF16, _)) => Floats::Bf16,
        _ => Floats::F32,
    }
}

/// The fields that the model does not need, but other programs do.
fn completed(mut config: Map<String, Value>, model_type: &str, floats: Floats) -> Map<String, Value> {
    let class = match model_type {
        "llama" => "LlamaForCausalLM",
        "mistral" => "MistralForCausalLM",
        "mixtral" => "MixtralForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        "qwen3_moe" => "Qwen3MoeForCausalLM",
        "qwen3_next" => "Qwen3NextForCausalLM",
        "phi3" => "Phi3ForCausalLM",
        "smollm3" => "SmolLM3ForCausalLM",
        "olmo2" => "Olmo2ForCausalLM",
        "olmo3" => "Olmo3ForCausalLM",
        "gpt_oss" => "GptOssForCausalLM",
        "gemma2" => "Gemma2ForCausalLM",
        "gemma3_text" => "Gemma3ForCausalLM",
        "gemma4_text" => "Gemma4ForCausalLM",
        "minicpm" => "MiniCPMForCausalLM",
        "minimax" => "MiniMaxForCausalLM",
        "kimi_linear" => "KimiLinearForCausalLM",
        "mamba" => "MambaForCausalLM",
        "falcon_mamba" => "FalconMambaForCausalLM",
        "mamba2" => "Mamba2ForCausalLM",
        "jamba" => "JambaForCausalLM",
        "falcon_h1" => "FalconH1ForCausalLM",
        "granitemoehybrid" => "GraniteMoeHybridForCausalLM",
        "nemotron_h" => "NemotronHForCausalLM",
        "lfm2" => "Lfm2ForCausalLM",
        "lfm2_moe" => "Lfm2MoeForCausalLM",
        _ => "",
    };
    if !class.is_empty() {
        config.insert("architectures".into(), json!([class]));
    }
    config.insert("dtype".into(), json!(floats.name()));
    config
}

/// The fields of `generation_config.json`: the tokens at the ends of a text, and advice on sampling.
fn generation(
    metadata: &Metadata,
    config: &Map<String, Value>,
    special: Option<&Special>,
) -> Result<Map<String, Value>, Error> {
    let mut fields = Map::new();
    let bos = special.and_then(|special| special.bos).map(Value::from);
    if let Some(bos) = bos.or_else(|| config.get("bos_token_id").cloned()) {
        fields.insert("bos_token_id".into(), bos);
    }
    let ends = special.map(|special| json!(special.ends)).or_else(|| config.get("eos_token_id").cloned());
    fields.insert("eos_token_id".into(), ends.unwrap_or(Value::Null));
    if let Some(padding) = special.and_then(|special| special.padding) {
        fields.insert("pad_token_id".into(), json!(padding));
    }
    let number = |name: &str| metadata.get::<f64>(&format!("general.sampling.{name}"));
    let advice =
        [("temperature", "temp"), ("top_p", "top_p"), ("min_p", "min_p"), ("repetition_penalty", "penalty_repeat")];
    for (name, key) in advice {
        if let Some(x) = number(key)? {
            fields.insert(name.into(), json!((x as f32).to_string().parse::<f64>().unwrap_or(x)));
            fields.insert("do_sample".into(), json!(true));
        }
    }
    if let Some(k) = metadata.get::<u64>("general.sampling.top_k")? {
        fields.insert("top_k".into(), json!(k));
    }
    Ok(fields)
}

/// Writes `tokenizer.json`, `tokenizer_config.json` and the chat templates.
fn write_tokenizer(found: &Tokenizer, to: &Path) -> Result<(), Error> {
    let Vocabulary::Json(text) = &found.vocabulary else { return Ok(()) };
    write_text(&to.join("tokenizer.json"), text)?;
    let parsed: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let named = [
        ("bos_token", found.special.bos),
        ("eos_token", found.special.eos),
        ("unk_token", found.special.unknown),
        ("pad_token", found.special.padding),
        ("sep_token", found.special.separator),
        ("mask_token", found.special.mask),
    ];
    let mut settings = Map::from_iter([("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"))]);
    for (name, id) in named {
        if let Some(token) = id.and_then(|id| token(&parsed, id)) {
            settings.insert(name.into(), json!(token));
        }
    }
    settings.insert("add_bos_token".into(), json!(found.around.bos));
    settings.insert("add_eos_token".into(), json!(found.around.eos));
    if !found.chat_templates.is_empty() {
        let list = found.chat_templates.iter().map(|(name, text)| json!({"name": name, "template": text}));
        let default = found.chat_template.iter().map(|text| json!({"name": "default", "template": text}));
        settings.insert("chat_template".into(), default.chain(list).collect());
    } else if let Some(template) = &found.chat_template {
        write_text(&to.join("chat_template.jinja"), template)?;
    }
    write_json(&to.join("tokenizer_config.json"), &Value::Object(settings))
}

/// The text of a token in a `tokenizer.json`.
fn token(tokenizer: &Value, id: u32) -> Option<String> {
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
    let mut added = added.filter(|token| token["id"].as_u64() == Some(u64::from(id)));
    if let Some(token) = added.next() {
        return token["content"].as_str().map(str::to_owned);
    }
    let mut words = tokenizer["model"]["vocab"].as_object()?.iter();
    words.find(|(_, found)| found.as_u64() == Some(u64::from(id))).map(|(text, _)| text.clone())
}

fn write_json(file: &Path, value: &Value) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| Error::io(file, e.into()))?;
    text.push('\n');
    write_text(file, &text)
}

fn write_text(file: &Path, text: &str) -> Result<(), Error> {
    write_atomically(file, |out| out.write_all(text.as_bytes()))
}

/// Writes the tensors to a safetensors file, one at a time.
fn safetensors(
    tensors: &Rewritten,
    floats: Floats,
    file: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let list = tensors.list();
    let types: Vec<TensorType> =
        (0..list.len()).map(|i| type_of(tensors, i, floats.tensor_type())).collect::<Result<_, Error>>()?;
    // Larger elements first, so that all are aligned.
    let mut order: Vec<usize> = (0..list.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(types[*i].block_bytes()));
    let (mut all, mut infos) = (0, Vec::new());
    for (whole, kind) in order.iter().map(|i| (&list[*i], &types[*i])) {
        let end = all + whole.elements() * kind.block_bytes();
        let dtype = match kind {
            TensorType::F16 => Dtype::F16,
            TensorType::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        };
        infos.push((whole.name.clone(), TensorInfo { dtype, shape: whole.shape.clone(), data_offsets: (all, end) }));
        all = end;
    }
    let wrong = |message: String| Error::Checkpoint { file: file.display().to_string(), message };
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Header::new(Some(format), infos).map_err(|e| wrong(e.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| wrong(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut failed = None;
    write_atomically(file, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        let mut done = 0;
        for i in order {
            let bytes = converted(tensors, i, types[i]).map_err(|e| {
                let shown = e.to_string();
                failed = Some(e);
                std::io::Error::other(shown)
            })?;
            out.write_all(&bytes)?;
            tensors.release(i);
            done += bytes.len() as u64;
            progress(done, all as u64);
        }
        Ok(())
    })
    .map_err(|e| failed.take().unwrap_or(e))
}

/// The type in which a tensor is written: the wanted one for matrices, and for others if nothing is lost.
fn type_of(tensors: &Rewritten, i: usize, wanted: TensorType) -> Result<TensorType, Error> {
    let whole = &tensors.list()[i];
    if whole.shape.len() > 1 && whole.name.ends_with(".weight") || whole.kind == wanted {
        return Ok(wanted);
    }
    let [exact, narrow] = [TensorType::F32, wanted].map(|kind| converted(tensors, i, kind));
    let narrow = numbers_of(whole, wanted, &narrow?)?;
    let same = floats(&narrow, TensorType::F32).as_deref() == Some(&exact?);
    Ok(if same { wanted } else { TensorType::F32 })
}

/// The elements of a tensor in a type of floats.
fn converted(tensors: &Rewritten, i: usize, kind: TensorType) -> Result<bytes::Bytes, Error> {
    let (whole, data) = (&tensors.list()[i], tensors.data(i)?);
    if whole.kind == kind {
        return Ok(data);
    }
    let numbers = numbers_of(whole, whole.kind, &data)?;
    Ok(floats(&numbers, kind).unwrap_or_default().into())
}

fn numbers_of(whole: &Whole, kind: TensorType, data: &[u8]) -> Result<Vec<f32>, Error> {
    numbers(kind, data, 0, 1, whole.elements())
        .map_err(|message| Error::Checkpoint { file: whole.name.clone(), message })
}
