//! A request from its header to its answer: who may ask, which endpoint it is, and what every answer has.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use longreach_engine::StateCache;
use longreach_engine::scheduler::Scheduler;
use serde_json::{Value, json};

use crate::body::{self, Answer, Kept, Takes};
use crate::documents::request as filed;
use crate::documents::{Documents, Own};
use crate::endpoint::{Endpoint, unescaped};
use crate::events::Events;
use crate::events::Mail;
use crate::generate::{Work, whole};
use crate::ids::fresh;
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::served::Models;
use crate::settings::{Log, Settings};
use crate::states::{Mine, States};
use crate::tell::Tell;
use crate::{chat, completions, embeddings, page, pinning, rerank, schema, tokens};

/// What answers requests once the models are there.
pub(crate) struct Ready {
    pub(crate) models: Models,
    pub(crate) scheduler: Scheduler,
    pub(crate) cache: Option<StateCache>,
}

/// What all connections share.
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) ready: OnceLock<Ready>,
    pub(crate) draining: AtomicBool,
    pub(crate) metrics: Arc<Metrics>,
    /// Requests under way, streams included.
    pub(crate) open: AtomicUsize,
    /// The bytes of all bodies that are being read.
    bodies: Arc<AtomicU64>,
    /// Hashes of the keys.
    pub(crate) keys: Vec<blake3::Hash>,
    states: Arc<States>,
    documents: Arc<Documents>,
}

/// An answer before its common headers.
type Answered = Result<Response<Answer>, Refusal>;

fn of_bytes(status: StatusCode, kind: &'static str, bytes: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Some(bytes.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn of_json(status: StatusCode, value: &Value) -> Response<Answer> {
    of_bytes(status, "application/json", value.to_string())
}

/// Counts a request while it is under way.
pub(crate) struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl State {
    pub(crate) fn new(settings: Settings) -> Self {
        let keys = settings.keys.iter().map(|key| blake3::hash(key.as_bytes())).collect();
        let metrics = Arc::new(Metrics::new());
        let states = Arc::new(States::new(settings.states));
        let documents = Arc::new(Documents::new(settings.documents));
        Self {
            settings,
            ready: OnceLock::new(),
            draining: AtomicBool::new(false),
            metrics,
            open: AtomicUsize::new(0),
            bodies: Arc::default(),
            keys,
            states,
            documents,
        }
    }

    /// Answers a request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let start = Instant::now();
        let given = request.headers().get("x-client-request-id").and_then(|id| id.to_str().ok());
        let plain = |id: &&str| {
            (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let id = given.filter(plain).map_or_else(|| fresh("req_"), str::to_owned);
        let origin = request.headers().get(header::ORIGIN).cloned().filter(|origin| self.is_named(origin));
        let endpoint = Endpoint::of(request.uri().path(), &self.settings);
        let head = request.method() == Method::HEAD;
        self.open.fetch_add(1, Ordering::AcqRel);
        let open = Open(self.clone());
        let mut tenant = None;
        let answered = self.clone().checked(request, endpoint.clone(), open, &mut tenant).await;
        let mut response = answered.unwrap_or_else(|refusal| refused(&refusal));
        let status = response.status();
        self.finish(&mut response, &id, origin, start);
        if head {
            *response.body_mut() = Answer::Whole(None);
        }
        let name = endpoint.map_or("none", |(endpoint, _)| endpoint.name());
        self.metrics.answered(name, status.as_u16());
        self.log(&id, tenant, name, status, start);
        response
    }

    /// The headers that every answer has.
    fn finish(&self, response: &mut Response<Answer>, id: &str, origin: Option<HeaderValue>, start: Instant) {
        let headers = response.headers_mut();
        let mut put = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        put("x-request-id", id);
        put("openai-processing-ms", &start.elapsed().as_millis().to_string());
        put("x-content-type-options", "nosniff");
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::VARY, HeaderValue::from_static("origin"));
            let shown =
                HeaderValue::from_static("x-request-id, openai-processing-ms, x-ignored-parameters, retry-after");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
        }
    }

    /// A line about a request. Its contents are not in it, and of a key only the beginning of its hash.
    #[allow(clippy::print_stderr, reason = "the log of the command")]
    fn log(&self, id: &str, tenant: Option<blake3::Hash>, name: &str, status: StatusCode, start: Instant) {
        let key = tenant.map_or_else(|| "-".to_owned(), |hash| hash.to_hex()[..6].to_owned());
        let (ms, status) = (start.elapsed().as_millis() as u64, status.as_u16());
        match self.settings.log {
            Log::None => {}
            Log::Text => eprintln!("{id} key={key} {name} {status} {ms} ms"),
            Log::Json => {
                eprintln!("{}", json!({"id": id, "key": key, "endpoint": name, "status": status, "ms": ms}));
            }
        }
    }

    /// Checks who asks for what, and answers.
    async fn checked(
        self: Arc<Self>,
        request: Request<Incoming>,
        endpoint: Option<(Endpoint, String)>,
        open: Open,
        tenant: &mut Option<blake3::Hash>,
    ) -> Answered {
        self.check_host(request.headers())?;
        let Some((endpoint, rest)) = endpoint else {
            let path: String = request.uri().path().chars().take(200).collect();
            let refusal = Refusal::new(StatusCode::NOT_FOUND, "not_found", format!("there is no endpoint {path}"));
            return Err(Refusal { close: true, ..refusal });
        };
        if request.method() == Method::OPTIONS {
            return Ok(self.preflight(&request, endpoint));
        }
        if !endpoint.takes(request.method()) {
            let allow = endpoint.methods();
            let message = format!("{} takes {allow}, found {}", request.uri().path(), request.method());
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
            return Err(Refusal { allow: Some(allow), close: true, ..refusal });
        }
        if !endpoint.is_open() {
            *tenant = self.check_key(request.headers())?;
        }
        let changes = *request.method() == Method::POST || *request.method() == Method::DELETE;
        if changes {
            self.check_origin(request.headers())?;
        }
        if let Endpoint::Page(path) = endpoint {
            return Ok(page::answer(path));
        }
        let version = env!("CARGO_PKG_VERSION");
        if endpoint == Endpoint::Version {
            return Ok(of_json(StatusCode::OK, &json!({"version": version})));
        }
        let Some(ready) = self.ready.get() else {
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "loading", "the models are being loaded"));
        };
        if endpoint == Endpoint::OpenApi {
            return Ok(of_json(StatusCode::OK, &schema::openapi()));
        }
        let mine = Mine { states: self.states.clone(), tenant: *tenant };
        let own = Own { documents: self.documents.clone(), tenant: *tenant };
        if let Some(told) = filed::told(endpoint, changes, &rest, &own)? {
            return Ok(of_json(StatusCode::OK, &told));
        }
        let draining = self.draining.load(Ordering::Acquire);
        match endpoint {
            Endpoint::Health if draining => {
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "the server is shutting down"))
            }
            Endpoint::Health => Ok(of_json(StatusCode::OK, &json!({"status": "ok", "version": version}))),
            Endpoint::Metrics => {
                let text = self.metrics.text(ready.scheduler.numbers(), ready.cache.as_ref().map(StateCache::stats));
                Ok(of_bytes(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text))
            }
            Endpoint::Models => Ok(of_json(StatusCode::OK, &ready.models.listed())),
            Endpoint::Model => ready.models.one(&rest).map(|model| of_json(StatusCode::OK, &model)),
            Endpoint::States if !changes => Ok(of_json(StatusCode::OK, &mine.listed())),
            Endpoint::State if changes => Ok(of_json(StatusCode::OK, &mine.delete(&rest)?)),
            Endpoint::State => Ok(of_json(StatusCode::OK, &mine.find(&rest)?.described())),
            Endpoint::Content => {
                let state = mine.find(&rest)?;
                let file = tokio::task::spawn_blocking(move || state.content()).await;
                Ok(of_bytes(StatusCode::OK, "application/octet-stream", file.map_err(|_| Refusal::internal())??))
            }
            Endpoint::FileContent => {
                let text = own.file(&rest, "file_id")?.text.clone();
                Ok(of_bytes(StatusCode::OK, "text/plain; charset=utf-8", text))
            }
            _ if draining => Err(Refusal { close: true, ..Refusal::shutting_down() }),
            _ => {
                let query = request.uri().query().unwrap_or("").to_owned();
                let takes = match endpoint {
                    Endpoint::States => Takes::File,
                    Endpoint::Files => Takes::Form,
                    _ => Takes::Json,
                };
                let body = body::read(request, takes, self.settings.most_body, &self.bodies).await?;
                self.clone().worked((endpoint, query, rest), body, (mine, own), open).await
            }
        }
    }

    /// Reads a request beside the connections, since parsing, templates and tokenizing take time, and answers it.
    async fn worked(
        self: Arc<Self>,
        (endpoint, query, rest): (Endpoint, String, String),
        body: Kept,
        (mine, own): (Mine, Own),
        open: Open,
    ) -> Answered {
        let state = self.clone();
        let first = |hash: blake3::Hash| u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default());
        let tenant = mine.tenant.map_or(0, first);
        let read = move || {
            let Some(Ready { models, scheduler, .. }) = state.ready.get() else { return Err(Refusal::internal()) };
            let (settings, is_file, kept, body) = (&state.settings, body.is_file, &body, &body.bytes);
            Ok(match endpoint {
                Endpoint::Completions => Read::Write(Box::new(completions::prepare(body, models, settings, &mine)?)),
                Endpoint::Chat => {
                    let jobs = Jobs(scheduler.clone());
                    Read::Write(Box::new(chat::prepare(body, models, settings, (&mine, &own, &jobs))?))
                }
                Endpoint::Embeddings => Read::Embed(embeddings::prepare(body, models, settings)?),
                Endpoint::Rerank => Read::Rank(rerank::prepare(body, models, settings)?),
                Endpoint::States if is_file => Read::Answer(taken(body, &query, models, &mine)?),
                Endpoint::States => Read::State(Box::new(pinning::prepare(body, models, settings, &mine)?)),
                Endpoint::Files => Read::Answer(filed::upload(kept, &own)?),
                Endpoint::Stores => Read::Index(Box::new(filed::create(body, models, settings, &own)?)),
                Endpoint::StoreFiles => Read::Index(Box::new(filed::add(body, &rest, settings, &own)?)),
                Endpoint::StoreSearch => Read::Search(filed::search(body, &rest, settings, &own)?),
                Endpoint::Tokenize => Read::Answer(tokens::tokenize(body, models, settings)?),
                _ => Read::Answer(tokens::detokenize(body, models, settings)?),
            })
        };
        // A fault in it is an internal error, and nobody else's end.
        let read = tokio::task::spawn_blocking(read).await.map_err(|_| Refusal::internal())??;
        let Some(Ready { scheduler, .. }) = self.ready.get() else { return Err(Refusal::internal()) };
        let jobs = Jobs(scheduler.clone());
        let longest = self.settings.longest;
        let late = |_| {
            let message = "the request took longer than --request-timeout allows";
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
        };
        let (value, ignored) = match read {
            Read::Write(work) => {
                let (streams, ignored) = (work.asked.stream.is_some(), work.asked.ignored.clone());
                return self.told(work.submit(scheduler, tenant, self.metrics.clone())?, streams, &ignored, open).await;
            }
            Read::State(work) => {
                let (streams, ignored) = (work.streams, work.ignored.clone());
                return self.told(work.submit(scheduler, tenant)?, streams, &ignored, open).await;
            }
            Read::Embed(mut work) => {
                let ignored = std::mem::take(&mut work.ignored);
                (tokio::time::timeout(longest, work.answer(&jobs)).await.map_err(late)??, ignored)
            }
            Read::Rank(mut work) => {
                let ignored = std::mem::take(&mut work.ignored);
                (tokio::time::timeout(longest, work.answer(&jobs)).await.map_err(late)??, ignored)
            }
            Read::Index(mut work) => {
                let ignored = std::mem::take(&mut work.ignored);
                (tokio::time::timeout(longest, work.answer(&jobs)).await.map_err(late)??, ignored)
            }
            Read::Search(mut work) => {
                let ignored = std::mem::take(&mut work.ignored);
                (tokio::time::timeout(longest, work.answer(&jobs)).await.map_err(late)??, ignored)
            }
            Read::Answer(value) => (value, Vec::new()),
        };
        Ok(with_ignored(of_json(StatusCode::OK, &value), &ignored))
    }

    /// The answer to a request that the scheduler has, at once or as a stream.
    async fn told(
        &self,
        (mail, teller): (Mail, Box<dyn Tell>),
        streams: bool,
        ignored: &[String],
        open: Open,
    ) -> Answered {
        let longest = self.settings.longest;
        if !streams {
            let answer = tokio::time::timeout(longest, whole(mail, teller)).await.map_err(|_| {
                let message = "the request took longer than --request-timeout allows";
                Refusal::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
            })??;
            return Ok(with_ignored(of_json(StatusCode::OK, &answer), ignored));
        }
        let events = Events::new(mail, teller, longest, open);
        let mut response = Response::new(Answer::Events(Box::new(events)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(with_ignored(response, ignored))
    }
}

/// A request that was read.
enum Read {
    Write(Box<Work>),
    State(Box<pinning::Work>),
    Embed(embeddings::Work),
    Rank(rerank::Work),
    Index(Box<filed::Indexing>),
    Search(filed::Search),
    Answer(Value),
}

/// Takes the file of a state; `model` and `name` are in the query.
fn taken(file: &[u8], query: &str, models: &Models, mine: &Mine) -> Result<Value, Refusal> {
    let (mut model, mut name) = (None, None);
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=').map(|(field, value)| (field, unescaped(&value.replace('+', " ")))) {
            Some(("model", value)) => model = Some(value),
            Some(("name", value)) if value.len() <= crate::states::LONGEST_NAME => name = Some(value),
            _ => {
                let part: String = part.chars().take(100).collect();
                let message = format!("the query: want `model` or a short `name`, found `{part}`");
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "unknown_parameter", message));
            }
        }
    }
    Ok(mine.take(file, &models.decoders(model.as_deref())?, name)?.described())
}

/// Names the fields that had no effect.
fn with_ignored(mut response: Response<Answer>, ignored: &[String]) -> Response<Answer> {
    if !ignored.is_empty()
        && let Ok(value) = HeaderValue::from_str(&ignored.join(", "))
    {
        response.headers_mut().insert("x-ignored-parameters", value);
    }
    response
}

/// The answer to a request that was refused.
fn refused(refusal: &Refusal) -> Response<Answer> {
    let mut response = of_json(refusal.status, &refusal.body());
    let headers = response.headers_mut();
    if let Some(allow) = refusal.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    match refusal.status {
        StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    if refusal.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
