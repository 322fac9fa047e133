//! Models of the Hugging Face Hub, through the cache of its own library.
//!
//! The variables `HF_HOME`, `HF_HUB_CACHE` (and its older name `HUGGINGFACE_HUB_CACHE`), `XDG_CACHE_HOME`,
//! `HF_ENDPOINT`, `HF_TOKEN` (and `HUGGING_FACE_HUB_TOKEN`, `HF_TOKEN_PATH` and the token in the cache),
//! `HF_HUB_OFFLINE` and `TRANSFORMERS_OFFLINE` have the same meaning as in `huggingface_hub`. Cached files are used
//! without a network request.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo};

use crate::Error;

/// Whether downloads show a progress bar on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A progress bar is shown.
    Shown,
    /// No progress bar is shown.
    Hidden,
}

/// How often an interrupted download is resumed.
const RETRIES: usize = 5;

/// Optional files next to the weights.
const BESIDE: [&str; 5] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// Tokenizer files that may exist instead of `tokenizer.json`.
const VOCABULARIES: [&str; 7] = [
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "rwkv_vocab_v20230424.txt",
];

/// Whether `name` has the form of a Hub id: `owner/name`, or only `name` for the oldest models.
pub(crate) fn is_id(name: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && p.len() <= 96
            && !p.starts_with(['.', '-'])
            && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    match name.split_once('/') {
        Some((owner, name)) => part(owner) && part(name),
        None => part(name),
    }
}

/// A non-empty environment variable.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a boolean environment variable is set, by the values that `huggingface_hub` accepts.
fn switch(name: &str) -> bool {
    variable(name).is_some_and(|value| ["1", "on", "yes", "true"].contains(&&value.to_lowercase()[..]))
}

/// A path in an environment variable, with `~` expanded.
fn directory(name: &str) -> Option<PathBuf> {
    let value = variable(name)?;
    match value.strip_prefix("~/").and_then(|rest| Some(Path::new(&variable("HOME")?).join(rest))) {
        Some(path) => Some(path),
        None => Some(value.into()),
    }
}

/// The data directory of the Hub's library.
fn home() -> Option<PathBuf> {
    directory("HF_HOME").or_else(|| Some(directory("XDG_CACHE_HOME")?.join("huggingface")))
}

/// The cache of models.
fn cache() -> Cache {
    let named = directory("HF_HUB_CACHE").or_else(|| directory("HUGGINGFACE_HUB_CACHE"));
    named.or_else(|| Some(home()?.join("hub"))).map_or_else(Cache::from_env, Cache::new)
}

/// The access token for the Hub, if there is one.
fn token(cache: &Cache) -> Option<String> {
    let of_file = || {
        let file = directory("HF_TOKEN_PATH").or_else(|| Some(home()?.join("token")))?;
        let text = std::fs::read_to_string(file).ok()?;
        Some(text.trim().to_owned()).filter(|token| !token.is_empty())
    };
    variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")).or_else(of_file).or_else(|| cache.token())
}

/// Fetches a model if needed, and returns its snapshot directory, which contains the configuration, the tokenizer and
/// the weights.
pub(crate) fn fetch(id: &str, progress: Progress) -> Result<PathBuf, Error> {
    let cache = cache();
    let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(|name| switch(name));
    let online = if offline.is_some() {
        None
    } else {
        let token = token(&cache);
        let mut builder = ApiBuilder::from_cache(cache.clone())
            .with_progress(progress == Progress::Shown)
            .with_retries(RETRIES)
            .with_token(token);
        if let Some(endpoint) = variable("HF_ENDPOINT") {
            builder = builder.with_endpoint(endpoint);
        }
        let api: Api = builder.build().map_err(|e| said(id, "the Hub", &e))?;
        Some(Box::new(api.model(id.into())))
    };
    let files = Files {
        id,
        cache: cache.repo(Repo::model(id.into())),
        root: cache.path().clone(),
        online,
        offline,
        down: OnceCell::new(),
    };
    let modules = files.optional("modules.json")?;
    let listed = modules.as_deref().map(listed).transpose()?.unwrap_or_default();
    // The encoder of a sentence-transformers model may be in a subdirectory.
    let encoder = listed.iter().find(|(_, kind)| kind.ends_with("Transformer")).map_or("", |(path, _)| &path[..]);
    let within = |name: &str| if encoder.is_empty() { name.to_owned() } else { format!("{encoder}/{name}") };
    let directory = match (&modules, files.optional(&within("config.json"))?) {
        (Some(modules), Some(_)) => modules.parent().unwrap_or(modules).to_owned(),
        (None, Some(config)) => config.parent().unwrap_or(&config).to_owned(),
        (_, None) => {
            // The repository of an adapter has no `config.json`, and the error explains this.
            let adapter = files.optional("adapter_config.json")?;
            let config = match adapter {
                Some(adapter) => adapter,
                None => files.get(&within("config.json"))?,
            };
            return Ok(config.parent().unwrap_or(&config).to_owned());
        }
    };
    for name in BESIDE {
        files.optional(&within(name))?;
    }
    if !directory.join(within("tokenizer.json")).exists() {
        for name in VOCABULARIES {
            files.optional(&within(name))?;
        }
    }
    if modules.is_some() {
        for name in ["config_sentence_transformers.json", "sentence_bert_config.json", "sentence_roberta_config.json"] {
            files.optional(name)?;
            if !encoder.is_empty() {
                files.optional(&within(name))?;
            }
        }
        for (path, kind) in listed.iter().filter(|(path, _)| !path.is_empty() && path != encoder) {
            files.optional(&format!("{path}/config.json"))?;
            let weights = ["Dense", "LayerNorm"].iter().any(|end| kind.ends_with(end));
            if weights && files.optional(&format!("{path}/model.safetensors"))?.is_none() {
                files.optional(&format!("{path}/pytorch_model.bin"))?;
            }
        }
    } else {
        // Stanford's ColBERT stores its treatment of queries and documents in this file.
        files.optional("artifact.metadata")?;
    }
    files.weights(&within)?;
    Ok(directory)
}

/// The paths and types of the modules of sentence-transformers and PyLate, within the repository.
fn listed(modules: &Path) -> Result<Vec<(String, String)>, Error> {
    let text = std::fs::read_to_string(modules).map_err(|e| Error::io(modules, e))?;
    let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    let entry = |module: &serde_json::Value| {
        let (path, kind) = (module["path"].as_str().unwrap_or(""), module["type"].as_str().unwrap_or(""));
        let path = path.trim_start_matches("./").trim_end_matches('/');
        let plain = Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        (plain && !path.contains('\\')).then(|| (path.to_owned(), kind.to_owned()))
    };
    Ok(list.iter().filter_map(entry).collect())
}

/// The files of a repository, cached or on the Hub.
struct Files<'a> {
    id: &'a str,
    cache: CacheRepo,
    root: PathBuf,
    online: Option<Box<ApiRepo>>,
    /// The environment variable that forbids network requests, if one is set.
    offline: Option<&'static str>,
    /// Why the Hub could not be reached; once set, no further requests are made.
    down: OnceCell<String>,
}

impl Files<'_> {
    fn get(&self, name: &str) -> Result<PathBuf, Error> {
        let lacking = |reason: String| Error::NotFound { name: self.id.into(), reason };
        match self.find(name)? {
            Some(path) => Ok(path),
            None => Err(lacking(match self.offline {
                Some(variable) => format!(
                    "there is no such directory, and as a Hub model its `{name}` is not in the cache ({}) while {variable} is set",
                    self.root.display()
                ),
                None => match self.down.get() {
                    Some(why) => format!(
                        "there is no such directory, and as a Hub model its `{name}` is not in the cache ({}) while {} cannot be reached: {why}",
                        self.root.display(),
                        endpoint()
                    ),
                    None => {
                        format!("there is no such directory, and {} has no such model or file (`{name}`)", endpoint())
                    }
                },
            })),
        }
    }

    /// A file; `None` if the repository does not contain it or if this cannot be determined.
    fn optional(&self, name: &str) -> Result<Option<PathBuf>, Error> {
        self.find(name)
    }

    fn find(&self, name: &str) -> Result<Option<PathBuf>, Error> {
        if let Some(path) = self.cache.get(name) {
            return Ok(Some(path));
        }
        let Some(online) = self.online.as_ref().filter(|_| self.down.get().is_none() && !self.known_absent(name))
        else {
            return Ok(None);
        };
        match online.get(name) {
            Ok(path) => Ok(Some(path)),
            Err(e) => match status(&e) {
                Some(404) => Ok(None),
                // The Hub answered with an error.
                Some(_) => Err(said(self.id, name, &e)),
                // A cached model is used as it is.
                None if matches!(e, ApiError::RequestError(_)) => {
                    let _ = self.down.set(e.to_string());
                    Ok(None)
                }
                None => Err(said(self.id, name, &e)),
            },
        }
    }

    /// Whether the cache records that the repository does not contain a file.
    fn known_absent(&self, name: &str) -> bool {
        let Some(any) = ["config.json", "modules.json"].into_iter().find_map(|file| self.cache.get(file)) else {
            return false;
        };
        let commit = any.parent().and_then(Path::file_name);
        let repository = any.ancestors().nth(3);
        matches!((repository, commit), (Some(at), Some(commit)) if at.join(".no_exist").join(commit).join(name).exists())
    }

    /// Fetches the weights in one of the forms that [`Checkpoint::open`](crate::Checkpoint::open) supports.
    fn weights(&self, within: &dyn Fn(&str) -> String) -> Result<(), Error> {
        for (whole, index) in [
            ("model.safetensors", "model.safetensors.index.json"),
            ("pytorch_model.bin", "pytorch_model.bin.index.json"),
        ] {
            if self.optional(&within(whole))?.is_some() {
                return Ok(());
            }
            let Some(index) = self.optional(&within(index))? else { continue };
            let text = std::fs::read_to_string(&index).map_err(|e| Error::io(&index, e))?;
            let fields = crate::Fields::parse(index.display().to_string(), &text)?;
            let map = fields.get("weight_map").and_then(|m| m.as_object()).cloned().unwrap_or_default();
            let mut shards: Vec<String> = map.values().filter_map(|v| v.as_str().map(str::to_owned)).collect();
            shards.sort();
            shards.dedup();
            for shard in shards {
                self.get(&within(&shard))?;
            }
            return Ok(());
        }
        if self.offline.is_some() || self.down.get().is_some() {
            return self.get(&within("model.safetensors")).map(|_| ());
        }
        let reason = "the repository has neither safetensors weights nor a pytorch_model.bin".into();
        Err(Error::NotFound { name: self.id.into(), reason })
    }
}

/// The name of the Hub in errors.
fn endpoint() -> String {
    variable("HF_ENDPOINT").unwrap_or_else(|| "the Hub".into())
}

/// The HTTP status of an error, if it has one.
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
    let endpoint = endpoint();
    let reason = match status(error) {
        Some(401 | 403) => format!("{endpoint} refuses `{what}` (is the model gated? set HF_TOKEN)"),
        Some(404) => format!("there is no such directory, and {endpoint} has no such model or file (`{what}`)"),
        _ => format!("`{what}` could not be downloaded from {endpoint}: {error}"),
    };
    Error::NotFound { name: id.into(), reason }
}
