//! The page: its files in the binary.

use bytes::Bytes;
use hyper::Response;
use hyper::header::{self, HeaderValue};

use crate::body::Answer;

/// A file of the page.
pub(crate) struct Asset {
    pub(crate) path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

/// The type of the modules of the script.
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// `page/worker.js` has the same list, without itself.
pub(crate) const ASSETS: [Asset; 14] = [
    Asset { path: "/", kind: "text/html; charset=utf-8", bytes: include_bytes!("page/index.html") },
    Asset { path: "/page.css", kind: "text/css; charset=utf-8", bytes: include_bytes!("page/page.css") },
    Asset { path: "/icon.svg", kind: "image/svg+xml", bytes: include_bytes!("page/icon.svg") },
    Asset { path: "/page.js", kind: SCRIPT, bytes: include_bytes!("page/page.js") },
    Asset { path: "/dom.js", kind: SCRIPT, bytes: include_bytes!("page/dom.js") },
    Asset { path: "/conversations.js", kind: SCRIPT, bytes: include_bytes!("page/conversations.js") },
    Asset { path: "/requests.js", kind: SCRIPT, bytes: include_bytes!("page/requests.js") },
    Asset { path: "/markdown.js", kind: SCRIPT, bytes: include_bytes!("page/markdown.js") },
    Asset { path: "/chat.js", kind: SCRIPT, bytes: include_bytes!("page/chat.js") },
    Asset { path: "/documents.js", kind: SCRIPT, bytes: include_bytes!("page/documents.js") },
    Asset { path: "/search.js", kind: SCRIPT, bytes: include_bytes!("page/search.js") },
    Asset { path: "/status.js", kind: SCRIPT, bytes: include_bytes!("page/status.js") },
    Asset { path: "/views.js", kind: SCRIPT, bytes: include_bytes!("page/views.js") },
    Asset { path: "/worker.js", kind: SCRIPT, bytes: include_bytes!("page/worker.js") },
];

/// What the page may load: its own files, and nothing from elsewhere.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The answer with a file.
pub(crate) fn answer(path: &str) -> Response<Answer> {
    let asset = ASSETS.iter().find(|asset| asset.path == path);
    let bytes = asset.map_or(&[][..], |asset| asset.bytes);
    let mut response = Response::new(Answer::Whole(Some(Bytes::from_static(bytes))));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.map_or("text/plain", |asset| asset.kind)));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
