//! Models on the Hugging Face Hub, through its cache: `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are honoured.

use std::path::PathBuf;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo};

use crate::Error;

/// Whether downloads show a progress bar on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// They do.
    Shown,
    /// They do not.
    Hidden,
}

/// How often a broken download is taken up again where it broke.
const RETRIES: usize = 5;

/// Whether `name` has the form of an id: `owner/name`.
pub(crate) fn is_id(name: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && p.len() <= 96
            && !p.starts_with(['.', '-'])
            && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    name.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

/// The snapshot directory of a model, with its configuration, tokenizer and weights in it.
pub(crate) fn fetch(id: &str, progress: Progress) -> Result<PathBuf, Error> {
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !matches!(v.as_str(), "" | "0" | "false" | "FALSE"));
    let files = if offline {
        Files::Offline(Cache::from_env().repo(Repo::model(id.into())))
    } else {
        let mut builder = ApiBuilder::from_env().with_progress(progress == Progress::Shown).with_retries(RETRIES);
        if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|t| !t.is_empty()) {
            builder = builder.with_token(Some(token));
        }
        let api: Api = builder.build().map_err(|e| said(id, "the Hub", &e))?;
        Files::Online(Box::new(api.model(id.into())))
    };
    let config = files.get(id, "config.json")?;
    let directory = config.parent().unwrap_or(&config).to_owned();
    for optional in [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ] {
        files.optional(id, optional)?;
    }
    if !directory.join("tokenizer.json").exists() {
        for optional in [
            "vocab.txt",
            "vocab.json",
            "merges.txt",
            "sentencepiece.bpe.model",
            "spiece.model",
            "tokenizer.model",
            "rwkv_vocab_v20230424.txt",
        ] {
            files.optional(id, optional)?;
        }
    }
    if let Some(modules) = files.optional(id, "modules.json")? {
        modules_of(&files, id, &modules)?;
    }
    if files.optional(id, "model.safetensors")?.is_none() {
        let Some(index) = files.optional(id, "model.safetensors.index.json")? else {
            if files.optional(id, "pytorch_model.bin")?.is_some() {
                return Ok(directory);
            }
            let reason = "the repository has neither safetensors weights nor a pytorch_model.bin".into();
            return Err(Error::NotFound { name: id.into(), reason });
        };
        let text = std::fs::read_to_string(&index).map_err(|e| Error::io(&index, e))?;
        let fields = crate::Fields::parse(index.display().to_string(), &text)?;
        let map = fields.get("weight_map").and_then(|m| m.as_object()).cloned().unwrap_or_default();
        let mut shards: Vec<String> = map.values().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        shards.sort();
        shards.dedup();
        for shard in shards {
            files.get(id, &shard)?;
        }
    }
    Ok(directory)
}

/// What sentence-transformers and PyLate have beside the encoder.
fn modules_of(files: &Files, id: &str, modules: &std::path::Path) -> Result<(), Error> {
    for name in ["config_sentence_transformers.json", "sentence_bert_config.json"] {
        files.optional(id, name)?;
    }
    let text = std::fs::read_to_string(modules).map_err(|e| Error::io(modules, e))?;
    let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    for module in &list {
        let (path, kind) = (module["path"].as_str().unwrap_or(""), module["type"].as_str().unwrap_or(""));
        let plain = std::path::Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if path.is_empty() || !plain || path.contains('\\') {
            continue;
        }
        files.optional(id, &format!("{path}/config.json"))?;
        if kind.ends_with("Dense") && files.optional(id, &format!("{path}/model.safetensors"))?.is_none() {
            files.optional(id, &format!("{path}/pytorch_model.bin"))?;
        }
    }
    Ok(())
}

enum Files {
    Online(Box<ApiRepo>),
    Offline(hf_hub::CacheRepo),
}

impl Files {
    fn get(&self, id: &str, name: &str) -> Result<PathBuf, Error> {
        match self {
            Files::Online(repo) => repo.get(name).map_err(|e| said(id, name, &e)),
            Files::Offline(cache) => cache.get(name).ok_or_else(|| Error::NotFound {
                name: id.into(),
                reason: format!("`{name}` is not in the cache, and HF_HUB_OFFLINE is set"),
            }),
        }
    }

    /// The file, or nothing if the repository does not have it.
    fn optional(&self, id: &str, name: &str) -> Result<Option<PathBuf>, Error> {
        match self {
            Files::Online(repo) => match repo.get(name) {
                Ok(path) => Ok(Some(path)),
                Err(e) if status(&e) == Some(404) => Ok(None),
                Err(e) => Err(said(id, name, &e)),
            },
            Files::Offline(cache) => Ok(cache.get(name)),
        }
    }
}

/// The HTTP status an error stands for, if it is one.
fn status(error: &ApiError) -> Option<u16> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(e) = cause {
        let text = e.to_string();
        if let Some(code) = text.split("status: ").nth(1).and_then(|s| s.get(..3)).and_then(|s| s.parse().ok()) {
            return Some(code);
        }
        cause = e.source();
    }
    None
}

fn said(id: &str, what: &str, error: &ApiError) -> Error {
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "the Hub".into());
    let reason = match status(error) {
        Some(401 | 403) => format!("{endpoint} refuses `{what}` (is the model gated? set HF_TOKEN)"),
        Some(404) => format!("{endpoint} has no such model or file (`{what}`)"),
        _ => format!("`{what}` could not be fetched from {endpoint}: {error}"),
    };
    Error::NotFound { name: id.into(), reason }
}
