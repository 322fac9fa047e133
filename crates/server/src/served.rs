//! The models that are served, and their names.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use longreach_engine::{Engine, Sampling, TextEncoder};
use longreach_models::Task;
use serde_json::{Value, json};

use crate::refusal::Refusal;
use crate::structure::Grammars;

/// A loaded model.
pub enum Loaded {
    /// A decoder, which writes.
    Decoder(Engine),
    /// An encoder, which embeds or ranks.
    Encoder(Box<TextEncoder>),
}

/// A model and the names it is served by.
pub struct Model {
    /// Its id; the other names are aliases.
    pub names: Vec<String>,
    /// The model.
    pub loaded: Loaded,
}

/// What a model is for.
#[derive(Clone)]
pub(crate) enum Purpose {
    /// Writes: the engine, and its number in the scheduler.
    Write { engine: Engine, at: usize },
    /// Makes a vector of a text.
    Embed(Arc<TextEncoder>),
    /// Scores texts for a query.
    Rank(Arc<TextEncoder>),
}

impl Purpose {
    fn name(&self) -> &'static str {
        match self {
            Purpose::Write { .. } => "write",
            Purpose::Embed(_) => "embed",
            Purpose::Rank(_) => "rank",
        }
    }

    /// The endpoints for it.
    fn endpoints(&self) -> &'static str {
        match self {
            Purpose::Write { .. } => "/v1/chat/completions and /v1/completions",
            Purpose::Embed(_) => "/v1/embeddings",
            Purpose::Rank(_) => "/v1/rerank",
        }
    }
}

/// A model that is served.
pub(crate) struct Served {
    pub(crate) id: String,
    aliases: Vec<String>,
    pub(crate) purpose: Purpose,
    /// The hash of the model.
    fingerprint: String,
    /// The hash of the model and of the arithmetic, as answers have it.
    pub(crate) system: String,
}

/// The models, the first of each purpose first.
pub(crate) struct Models {
    list: Vec<Arc<Served>>,
    created: u64,
    pub(crate) grammars: Grammars,
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The sampling that a model's publisher recommends, and OpenAI's where nothing is said: temperature 1 and all tokens.
pub(crate) fn sampling(engine: &Engine) -> Sampling {
    let generation = &engine.model.generation;
    let said = generation.temperature.is_some() || generation.top_p.is_some() || generation.top_k.is_some();
    match generation.sample.is_none() && !said {
        true => Sampling { temperature: 1.0, top_p: 1.0, min_p: 0.0, ..Sampling::of_model(generation) },
        false => Sampling::of_model(generation),
    }
}

impl Models {
    /// Sorts models by their purpose; also returns the decoders in the order of the scheduler.
    pub(crate) fn new(models: Vec<Model>) -> (Self, Vec<Engine>) {
        let mut engines = Vec::new();
        let list = models.into_iter().map(|Model { mut names, loaded }| {
            let (purpose, fingerprint) = match loaded {
                Loaded::Decoder(engine) => {
                    engines.push(engine.clone());
                    let fingerprint = engine.fingerprint();
                    (Purpose::Write { engine, at: engines.len() - 1 }, fingerprint)
                }
                Loaded::Encoder(encoder) => {
                    let head = encoder.model.description.head.as_ref().map(|(task, _)| *task);
                    let (ranks, fingerprint) =
                        (encoder.is_late() || head == Some(Task::Sequence), encoder.fingerprint());
                    let encoder: Arc<TextEncoder> = Arc::from(encoder);
                    (if ranks { Purpose::Rank(encoder) } else { Purpose::Embed(encoder) }, fingerprint)
                }
            };
            let arithmetic = format!("{} {} {fingerprint}", env!("CARGO_PKG_VERSION"), longreach_burn::context().isa);
            let system = format!("fp_{}", &blake3::hash(arithmetic.as_bytes()).to_hex()[..16]);
            let id = if names.is_empty() { "model".into() } else { names.remove(0) };
            Arc::new(Served { id, aliases: names, purpose, fingerprint, system })
        });
        (Self { list: list.collect(), created: now(), grammars: Grammars::new() }, engines)
    }

    /// All models.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|served| served.id.as_str())
    }

    /// The decoders: the one of this name, or all.
    pub(crate) fn decoders(&self, name: Option<&str>) -> Result<Vec<(Arc<Served>, Engine)>, Refusal> {
        let writes = |purpose: &Purpose| matches!(purpose, Purpose::Write { .. });
        let list = match name {
            Some(name) => vec![self.find(Some(name), writes)?],
            None => self.list.clone(),
        };
        let engine = |served: Arc<Served>| match &served.purpose {
            Purpose::Write { engine, .. } => Some((served.clone(), engine.clone())),
            _ => None,
        };
        Ok(list.into_iter().filter_map(engine).collect())
    }

    fn named(&self, name: &str) -> Option<&Arc<Served>> {
        self.list.iter().find(|served| served.id == name || served.aliases.iter().any(|alias| alias == name))
    }

    /// The model of a request: by its name, or the first that is right for the purpose.
    pub(crate) fn find(&self, name: Option<&str>, right: impl Fn(&Purpose) -> bool) -> Result<Arc<Served>, Refusal> {
        let what = || {
            let message = match self.list.first() {
                Some(other) => {
                    format!("no model is served for this endpoint: {} has {}", other.id, other.purpose.endpoints())
                }
                None => "no model is served".into(),
            };
            Refusal::field("model_not_for_task", "model", message)
        };
        let Some(name) = name else {
            return self.list.iter().find(|served| right(&served.purpose)).cloned().ok_or_else(what);
        };
        let found = self.named(name).ok_or_else(|| unknown(name, self))?;
        if right(&found.purpose) {
            return Ok(found.clone());
        }
        let message = format!("the model `{name}` is for {}", found.purpose.endpoints());
        Err(Refusal::field("model_not_for_task", "model", message))
    }

    /// `GET /v1/models`
    pub(crate) fn listed(&self) -> Value {
        let data: Vec<Value> = self.list.iter().map(|served| self.described(served)).collect();
        json!({"object": "list", "data": data})
    }

    /// `GET /v1/models/{id}`
    pub(crate) fn one(&self, name: &str) -> Result<Value, Refusal> {
        self.named(name).map(|served| self.described(served)).ok_or_else(|| unknown(name, self))
    }

    fn described(&self, served: &Served) -> Value {
        let about = match &served.purpose {
            Purpose::Write { engine, .. } => {
                let s = sampling(engine);
                json!({
                    "dtype": engine.model.dtype.name(),
                    "parameters": engine.model.parameters(),
                    "vocabulary": engine.model.decoder.vocabulary(),
                    "max_input": engine.longest(),
                    "state_bytes": engine.session().state_bytes(),
                    "chat_template": if engine.chat_template().is_ok() { "model" } else { "plain" },
                    "defaults": {"temperature": s.temperature, "top_p": s.top_p, "top_k": s.top_k, "min_p": s.min_p,
                        "repetition_penalty": s.repetition_penalty},
                })
            }
            Purpose::Embed(encoder) | Purpose::Rank(encoder) => {
                let limit = Some(encoder.limit()).filter(|limit| *limit < usize::MAX);
                json!({"dtype": encoder.model.dtype.name(), "max_input": limit, "dimensions": encoder.width()})
            }
        };
        let mut about = about;
        about["task"] = served.purpose.name().into();
        about["fingerprint"] = served.fingerprint.as_str().into();
        json!({"id": served.id, "object": "model", "created": self.created, "owned_by": "longreach", "longreach": about})
    }
}

fn unknown(name: &str, models: &Models) -> Refusal {
    let known = models.ids().collect::<Vec<_>>().join(", ");
    let name: String = name.chars().take(200).collect();
    let message = format!("there is no model `{name}`: served are {known}");
    Refusal { param: Some("model".into()), ..Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message) }
}
