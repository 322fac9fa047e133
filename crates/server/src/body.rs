//! Bodies: reading those of requests within their limits, and those of answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::{Request, StatusCode};

use crate::documents::form::boundary;
use crate::events::Events;
use crate::pace::Answering;
use crate::refusal::Refusal;

/// The body of an answer, and the request that is answered until all of it is sent.
pub(crate) struct Sent {
    pub(crate) answer: Answer,
    pub(crate) _answering: Answering,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.get_mut().answer).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}

/// The body of an answer.
pub(crate) enum Answer {
    /// All of it.
    Whole(Option<Bytes>),
    /// Server-sent events.
    Events(Box<Events>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Answer::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Answer::Events(events) => events.poll(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Answer::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Answer::Events(_) => SizeHint::default(),
        }
    }
}

/// The bodies in memory at a time: as many of the longest.
const BODIES: u64 = 8;

/// The bytes of a body, which count among those of all bodies while they are kept.
pub(crate) struct Kept {
    pub(crate) bytes: Bytes,
    /// Whether it is a file and no JSON.
    pub(crate) is_file: bool,
    /// The boundary of a form.
    pub(crate) boundary: Option<String>,
    _held: Held,
}

/// How many bytes of all bodies are one body's.
struct Held {
    all: Arc<AtomicU64>,
    own: u64,
}

impl Held {
    /// Adds bytes; false if all bodies together would have more than `most`.
    fn add(&mut self, bytes: u64, most: u64) -> bool {
        let room = |all: u64| all.checked_add(bytes).filter(|all| *all <= most);
        let added = self.all.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_ok();
        self.own += if added { bytes } else { 0 };
        added
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::AcqRel);
    }
}

/// What a body may be besides JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing.
    Json,
    /// A file.
    File,
    /// A form instead of it.
    Form,
}

/// The content types of bodies.
const JSON: &str = "application/json";
const FILE: &str = "application/octet-stream";

/// Reads the body of a request, of at most `most` bytes. What is too long by its own account is refused before a byte is read; a body has 30 seconds, and
/// one more for each 256 KiB.
pub(crate) async fn read(
    request: Request<Incoming>,
    takes: Takes,
    most: u64,
    bodies: &Arc<AtomicU64>,
) -> Result<Kept, Refusal> {
    let closing = |refusal: Refusal| Refusal { close: true, ..refusal };
    let too_large = |found: String| {
        let message = format!("the body has {found} bytes: at most {most} are taken (--max-body)");
        closing(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message))
    };
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let name = kind.split(';').next().unwrap_or("").trim();
    let is_file = takes == Takes::File && name.eq_ignore_ascii_case(FILE);
    let boundary = boundary(kind).filter(|_| takes == Takes::Form);
    let is_json = takes != Takes::Form && name.eq_ignore_ascii_case(JSON);
    if !is_file && !is_json && boundary.is_none() {
        let found: String = if name.is_empty() { "none".into() } else { name.chars().take(100).collect() };
        let message = format!(
            "the content type: want {}, found {found}",
            match takes {
                Takes::Json => JSON,
                Takes::File => "application/json or application/octet-stream",
                Takes::Form => "multipart/form-data with a boundary",
            }
        );
        return Err(closing(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)));
    }
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = length.filter(|length| *length > most) {
        return Err(too_large(length.to_string()));
    }
    let start = tokio::time::Instant::now();
    let mut body = request.into_body();
    let mut all = BytesMut::new();
    let mut held = Held { all: bodies.clone(), own: 0 };
    loop {
        let allowed = Duration::from_secs(30 + all.len() as u64 / (256 << 10));
        let frame = tokio::time::timeout_at(start + allowed, body.frame()).await;
        let late =
            |_| closing(Refusal::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body came too slowly"));
        let Some(frame) = frame.map_err(late)? else {
            return Ok(Kept { bytes: all.freeze(), is_file, boundary, _held: held });
        };
        let bad = |e: hyper::Error| {
            closing(Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body cannot be read: {e}")))
        };
        let Ok(data) = frame.map_err(bad)?.into_data() else { continue };
        if all.len() as u64 + data.len() as u64 > most {
            return Err(too_large(format!("more than {most}")));
        }
        if !held.add(data.len() as u64, most.saturating_mul(BODIES)) {
            let message = "too many long requests are being read: try again later";
            return Err(closing(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message)));
        }
        all.extend_from_slice(&data);
    }
}
