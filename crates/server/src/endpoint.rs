//! The endpoints and their paths.

use hyper::Method;

use crate::page;
use crate::settings::Settings;

/// The endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Page(&'static str),
    Health,
    Version,
    Metrics,
    Models,
    Model,
    Completions,
    Chat,
    Embeddings,
    Rerank,
    Tokenize,
    Detokenize,
    OpenApi,
    /// The states of a tenant, one of them, and its file.
    States,
    State,
    Content,
    /// The files of a tenant, one of them, and its text.
    Files,
    File,
    FileContent,
    /// The vector stores of a tenant, one of them, its files, one of them, and searching it.
    Stores,
    Store,
    StoreFiles,
    StoreFile,
    StoreSearch,
}

impl Endpoint {
    /// The endpoint of a path; with it, what follows in the path.
    pub(crate) fn of(path: &str, settings: &Settings) -> Option<(Self, String)> {
        let whole = |endpoint| Some((endpoint, String::new()));
        if let Some(asset) = page::ASSETS.iter().find(|asset| asset.path == path && settings.page) {
            return whole(Endpoint::Page(asset.path));
        }
        match path {
            "/health" | "/v1/health" => whole(Endpoint::Health),
            "/version" => whole(Endpoint::Version),
            "/metrics" => whole(Endpoint::Metrics),
            "/v1/models" | "/v1/models/" => whole(Endpoint::Models),
            "/v1/completions" => whole(Endpoint::Completions),
            "/v1/chat/completions" => whole(Endpoint::Chat),
            "/v1/embeddings" => whole(Endpoint::Embeddings),
            "/v1/rerank" | "/v2/rerank" | "/rerank" => whole(Endpoint::Rerank),
            "/tokenize" => whole(Endpoint::Tokenize),
            "/detokenize" => whole(Endpoint::Detokenize),
            "/openapi.json" => whole(Endpoint::OpenApi),
            "/v1/states" | "/v1/states/" => whole(Endpoint::States),
            "/v1/files" | "/v1/files/" => whole(Endpoint::Files),
            "/v1/vector_stores" | "/v1/vector_stores/" => whole(Endpoint::Stores),
            _ if path.starts_with("/v1/files/") || path.starts_with("/v1/vector_stores/") => documents(path),
            _ => match (path.strip_prefix("/v1/models/"), path.strip_prefix("/v1/states/")) {
                (Some(id), _) => Some((Endpoint::Model, unescaped(id))),
                (None, Some(id)) => Some(match id.strip_suffix("/content") {
                    Some(id) => (Endpoint::Content, unescaped(id)),
                    None => (Endpoint::State, unescaped(id)),
                }),
                (None, None) => None,
            },
        }
    }

    /// Its name in the metrics and the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Endpoint::Page(_) => "page",
            Endpoint::Health => "health",
            Endpoint::Version => "version",
            Endpoint::Metrics => "metrics",
            Endpoint::Models | Endpoint::Model => "models",
            Endpoint::Completions => "completions",
            Endpoint::Chat => "chat",
            Endpoint::Embeddings => "embeddings",
            Endpoint::Rerank => "rerank",
            Endpoint::Tokenize => "tokenize",
            Endpoint::Detokenize => "detokenize",
            Endpoint::OpenApi => "openapi",
            Endpoint::States | Endpoint::State | Endpoint::Content => "states",
            Endpoint::Files | Endpoint::File | Endpoint::FileContent => "files",
            Endpoint::Stores | Endpoint::Store | Endpoint::StoreFiles | Endpoint::StoreFile | Endpoint::StoreSearch => {
                "vector_stores"
            }
        }
    }

    /// The methods that it takes.
    pub(crate) fn methods(self) -> &'static str {
        use Endpoint::{
            Chat, Completions, Detokenize, Embeddings, File, Files, Rerank, State, States, Store, StoreFile,
            StoreFiles, StoreSearch, Stores, Tokenize,
        };
        match self {
            Completions | Chat | Embeddings | Rerank | Tokenize | Detokenize | StoreSearch => "POST, OPTIONS",
            States | Files | Stores | StoreFiles => "GET, HEAD, POST, OPTIONS",
            State | File | Store | StoreFile => "GET, HEAD, DELETE, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    /// Whether it takes a method.
    pub(crate) fn takes(self, method: &Method) -> bool {
        self.methods().split(", ").any(|known| known == method.as_str())
    }

    /// Whether it is answered without a key.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Endpoint::Page(_) | Endpoint::Health)
    }
}

/// The endpoint of a path below `/v1/files/` or `/v1/vector_stores/`; of a file in a store, both ids with a slash between them.
fn documents(path: &str) -> Option<(Endpoint, String)> {
    let parts: Vec<&str> = path.split('/').skip(2).collect();
    let (endpoint, rest) = match parts[..] {
        ["files", id] => (Endpoint::File, id.to_owned()),
        ["files", id, "content"] => (Endpoint::FileContent, id.to_owned()),
        ["vector_stores", id] => (Endpoint::Store, id.to_owned()),
        ["vector_stores", id, "search"] => (Endpoint::StoreSearch, id.to_owned()),
        ["vector_stores", id, "files"] => (Endpoint::StoreFiles, id.to_owned()),
        ["vector_stores", id, "files", file] => (Endpoint::StoreFile, format!("{id}/{file}")),
        _ => return None,
    };
    Some((endpoint, unescaped(&rest)))
}

/// A path without its percent escapes; bytes that are no text are replaced.
pub(crate) fn unescaped(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let hex = |bytes: &[u8]| u8::from_str_radix(std::str::from_utf8(bytes.get(..2)?).ok()?, 16).ok();
        match hex(more).filter(|_| *first == b'%') {
            Some(byte) => (rest, _) = (&more[2..], bytes.push(byte)),
            None => (rest, _) = (more, bytes.push(*first)),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
