//! Who may ask: the names of the server, the origins of pages, and keys.

use std::net::IpAddr;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};

use crate::body::Answer;
use crate::endpoint::Endpoint;
use crate::refusal::Refusal;
use crate::service::State;

impl State {
    /// Whether an origin is among those whose pages may use the server.
    pub(crate) fn is_named(&self, origin: &HeaderValue) -> bool {
        self.settings.origins.iter().any(|named| named.as_bytes() == origin.as_bytes())
    }

    /// On a loopback address, the name that the server is called by must be one of this machine: a page of another site that was made to resolve to this
    /// address (DNS rebinding) calls it by its own.
    pub(crate) fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if !self.settings.host.is_loopback() {
            return Ok(());
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let own = |name: &str| {
            name.eq_ignore_ascii_case("localhost")
                || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        if own(name) || self.settings.hosts.iter().any(|named| named.eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        let name: String = name.chars().take(100).collect();
        let message =
            format!("the host `{name}` is not allowed: call this server localhost, or start it with --allow-host");
        Err(Refusal { close: true, ..Refusal::new(StatusCode::FORBIDDEN, "host_not_allowed", message) })
    }

    /// A page of another site may not post.
    pub(crate) fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
        let text = origin.to_str().unwrap_or("");
        let own = ["http://", "https://"].iter().any(|scheme| text.strip_prefix(scheme) == Some(host));
        if own || self.is_named(origin) {
            return Ok(());
        }
        let text: String = text.chars().take(100).collect();
        let message =
            format!("the origin `{text}` is not allowed: start the server with --cors-origin to let its pages in");
        Err(Refusal { close: true, ..Refusal::new(StatusCode::FORBIDDEN, "origin_not_allowed", message) })
    }

    /// The hash of the key that was shown; `None` if none is needed.
    pub(crate) fn check_key(&self, headers: &HeaderMap) -> Result<Option<blake3::Hash>, Refusal> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text(header::AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
        });
        let key = bearer.or_else(|| text(HeaderName::from_static("x-api-key")));
        let hash = key.map(|key| blake3::hash(key.as_bytes()));
        // Hashes are compared in constant time, and all of them.
        let known = hash.is_some_and(|hash| self.keys.iter().fold(false, |found, known| found | (*known == hash)));
        if known {
            return Ok(hash);
        }
        let message = match hash {
            Some(_) => "the API key is not known",
            None => "an API key is needed: send it as `Authorization: Bearer KEY`",
        };
        Err(Refusal { close: true, ..Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message) })
    }

    /// The answer to a browser that asks whether a page may ask.
    pub(crate) fn preflight(&self, request: &Request<Incoming>, endpoint: Endpoint) -> Response<Answer> {
        let mut response = Response::new(Answer::Whole(None));
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ALLOW, HeaderValue::from_static(endpoint.methods()));
        if request.headers().get(header::ORIGIN).is_some_and(|origin| self.is_named(origin)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(endpoint.methods()));
            let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
            let usual = HeaderValue::from_static("authorization, content-type, x-api-key");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(usual));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
        response
    }
}
