//! The endpoints and their paths.

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
            _ => path.strip_prefix("/v1/models/").map(|id| (Endpoint::Model, unescaped(id))),
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
        }
    }

    /// Whether it is asked by POST.
    pub(crate) fn posts(self) -> bool {
        use Endpoint::{Chat, Completions, Detokenize, Embeddings, Rerank, Tokenize};
        matches!(self, Completions | Chat | Embeddings | Rerank | Tokenize | Detokenize)
    }

    pub(crate) fn methods(self) -> &'static str {
        if self.posts() { "POST, OPTIONS" } else { "GET, HEAD, OPTIONS" }
    }

    /// Whether it is answered without a key.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Endpoint::Page(_) | Endpoint::Health)
    }
}

/// A path without its percent escapes; bytes that are no text are replaced.
fn unescaped(path: &str) -> String {
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
