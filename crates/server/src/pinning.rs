//! `POST /v1/states`: reading a text whose state is kept.

use std::sync::Arc;

use bytes::Bytes;
use longreach_engine::scheduler::{Event, Pin, Request, Scheduler};
use longreach_engine::{Cancel, Message, Session};
use serde_json::{Map, Value, json};

use crate::chat;
use crate::events::{Mail, mail};
use crate::fields::{Fields, parse};
use crate::refusal::Refusal;
use crate::schema;
use crate::served::{Models, Purpose, Served};
use crate::settings::Settings;
use crate::states::{LONGEST_NAME, Mine, Named, Place, Text};
use crate::tell::Tell;

/// A request that was read.
pub(crate) struct Work {
    served: Arc<Served>,
    at: usize,
    ids: Vec<u32>,
    messages: Option<(Vec<Message>, Map<String, Value>)>,
    name: Option<String>,
    pub(crate) streams: bool,
    pub(crate) ignored: Vec<String>,
    mine: Mine,
    place: Place,
}

/// Reads a request.
pub(crate) fn prepare(body: &[u8], models: &Models, settings: &Settings, mine: &Mine) -> Result<Work, Refusal> {
    let map = parse(body)?;
    let f = Fields::new(&map);
    let ignored = f.unknown(&schema::names(&[schema::STATES]), settings.lenient)?;
    let served = models.find(f.text("model")?, |purpose| matches!(purpose, Purpose::Write { .. }))?;
    let Purpose::Write { engine, at } = served.purpose.clone() else { return Err(Refusal::internal()) };
    let name = f.text("name")?;
    if let Some(long) = name.filter(|name| name.len() > LONGEST_NAME) {
        return Err(Refusal::value("name", format!("`name`: at most {LONGEST_NAME} bytes, found {}", long.len())));
    }
    let name = name.map(str::to_owned);
    let streams = f.flag("stream")?.unwrap_or(false);
    let variables = f.object("chat_template_kwargs")?.is_some();
    if variables && f.get("messages").is_none() {
        return Err(Refusal::value("chat_template_kwargs", "`chat_template_kwargs`: only with `messages`"));
    }
    let (ids, messages) = match (f.get("messages"), f.get("prompt")) {
        (Some(_), Some(_)) => {
            return Err(Refusal::value("messages", "`messages` and `prompt`: want one of them"));
        }
        (Some(_), None) => {
            let (messages, more) = (crate::messages::messages(&f, &engine)?, chat::variables(&f, &engine)?);
            let ids = chat::encoded(&engine, &messages, &more, chat::End::Closed)?.0;
            (ids, Some((messages, more)))
        }
        (None, Some(_)) => {
            let mut prompts = crate::completions::prompts(&f, &engine, None)?;
            if prompts.len() != 1 {
                return Err(Refusal::value("prompt", format!("`prompt`: want one text, found {}", prompts.len())));
            }
            (prompts.remove(0), None)
        }
        (None, None) => {
            return Err(Refusal::field("missing_required", "prompt", "`prompt` or `messages` is missing"));
        }
    };
    crate::completions::within(&engine, &ids)?;
    let param = if messages.is_some() { "messages" } else { "prompt" };
    settings.check_input(ids.len(), param)?;
    if let Some(longest) = engine.longest().filter(|longest| ids.len() > *longest) {
        let message = format!("the text has {} tokens, but the model reads at most {longest}", ids.len());
        return Err(Refusal::field("context_length_exceeded", param, message));
    }
    Ok(Work { served, at, ids, messages, name, streams, ignored, place: mine.place()?, mine: mine.clone() })
}

impl Work {
    /// Hands it to the scheduler.
    pub(crate) fn submit(self, scheduler: &Scheduler, tenant: u64) -> Result<(Mail, Box<dyn Tell>), Refusal> {
        let cancel = Cancel::default();
        let (sink, mail) = mail(cancel.clone());
        let request = Request {
            tenant,
            most: 0,
            pin: Pin::Yes,
            cancel,
            ..scheduler.request(self.at, self.ids.clone(), move |event| sink.send(0, event))
        };
        scheduler.submit(request)?;
        Ok((mail, Box::new(Told { work: Some(self), read: 0, sessions: Vec::new(), kept: None })))
    }
}

/// Tells how far it is, and keeps the state at the end.
struct Told {
    work: Option<Work>,
    read: usize,
    sessions: Vec<Session>,
    kept: Option<Value>,
}

impl Told {
    fn progress(&self) -> Vec<Value> {
        let work = self.work.as_ref().filter(|work| work.streams);
        work.map(|work| json!({"object": "state.progress", "read": self.read, "of": work.ids.len()}))
            .into_iter()
            .collect()
    }
}

impl Tell for Told {
    fn tell(&mut self, _: usize, event: Event) -> Result<Vec<Value>, Refusal> {
        match event {
            Event::Started { cached: read } | Event::Read { tokens: read } => {
                self.read = read;
                return Ok(self.progress());
            }
            Event::State(session) => self.sessions.push(*session),
            Event::Failed(failure) => return Err(failure.into()),
            Event::Done => {
                let (Some(work), Some(end)) = (self.work.take(), self.sessions.pop()) else {
                    return Err(Refusal::internal());
                };
                let Work { served, ids, messages, name, streams, mine, place, .. } = work;
                let at_cut = end.tokens().is_multiple_of(end.engine().model.decoder.cut().tokens as u64);
                let cut = self.sessions.pop().or_else(|| at_cut.then(|| end.clone())).map(Box::new);
                let named = Named::new(served, mine.tenant, name, end, Text::Known { ids, cut, messages });
                // From here on it counts as one that is kept.
                drop(place);
                let kept = mine.keep(named)?.described();
                self.kept = Some(kept.clone());
                return Ok(if streams { vec![kept] } else { Vec::new() });
            }
            _ => {}
        }
        Ok(Vec::new())
    }

    fn is_done(&self) -> bool {
        self.kept.is_some()
    }

    fn comment(&self) -> Bytes {
        Bytes::from_static(b": ping\n\n")
    }

    fn last_chunk(&self) -> Option<Value> {
        None
    }

    fn whole(self: Box<Self>) -> Value {
        self.kept.unwrap_or_default()
    }
}
