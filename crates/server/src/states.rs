//! States by name: what was read once, to go on from. `/v1/states`

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::StatusCode;
use longreach_engine::scheduler::From;
use longreach_engine::{Engine, Error, Message, Sampler, Sampling, Session};
use serde_json::{Map, Value, json};

use crate::ids::fresh;
use crate::refusal::Refusal;
use crate::served::{Served, now};

/// The most states of a tenant.
const MOST: usize = 256;
/// The longest name in bytes.
pub(crate) const LONGEST_NAME: usize = 256;

/// What is known of the text that a state has read.
pub(crate) enum Text {
    /// Its tokens; and the state at the last multiple of the model's cut, from which a longer text is read as if from its beginning.
    Known { ids: Vec<u32>, cut: Option<Box<Session>>, messages: Option<(Vec<Message>, Map<String, Value>)> },
    /// Nothing, of a state that came as a file.
    Unknown,
}

/// A state with an id.
pub(crate) struct Named {
    pub(crate) id: String,
    name: Option<String>,
    tenant: Option<blake3::Hash>,
    pub(crate) served: Arc<Served>,
    pub(crate) text: Text,
    /// The state at the end.
    session: Session,
    created: u64,
    bytes: usize,
}

impl Named {
    pub(crate) fn new(
        served: Arc<Served>,
        tenant: Option<blake3::Hash>,
        name: Option<String>,
        session: Session,
        text: Text,
    ) -> Self {
        let more = match &text {
            // Cached keys are shared with the state at the end.
            Text::Known { ids, cut, .. } => {
                4 * ids.len() + cut.as_ref().map_or(0, |cut| cut.state().without_rows().bytes())
            }
            Text::Unknown => 0,
        };
        let bytes = session.state_bytes() + more;
        Self { id: fresh("state-"), name, tenant, served, text, session, created: now(), bytes }
    }

    /// Its tokens that are not in the prompts that go on from it.
    pub(crate) fn before(&self) -> usize {
        match self.text {
            Text::Known { .. } => 0,
            Text::Unknown => self.session.tokens() as usize,
        }
    }

    /// The tokens that prompts that go on from it begin with.
    pub(crate) fn ids(&self) -> &[u32] {
        match &self.text {
            Text::Known { ids, .. } => ids,
            Text::Unknown => &[],
        }
    }

    /// Where the reading of a prompt begins. It has [`Named::ids`] before it, unless the chat template writes the messages of the state in another way when
    /// others follow: it is then read from its beginning, or from the states that were kept on the way.
    pub(crate) fn from(&self, prompt: &[u32]) -> From {
        match &self.text {
            Text::Unknown => From::Behind(Box::new(self.session.clone())),
            Text::Known { ids, .. } if prompt == ids => From::Within(Box::new(self.session.clone())),
            Text::Known { ids, cut: Some(cut), .. }
                if prompt.starts_with(&ids[..ids.len().min(cut.tokens() as usize)]) =>
            {
                From::Within(cut.clone())
            }
            Text::Known { .. } => From::Start,
        }
    }

    /// What is told about it.
    pub(crate) fn described(&self) -> Value {
        json!({"id": self.id, "object": "state", "model": self.served.id, "fingerprint": self.session.engine().fingerprint(),
            "tokens": self.session.tokens(), "bytes": self.bytes, "name": self.name, "created": self.created})
    }

    /// Its file.
    pub(crate) fn content(&self) -> Result<Vec<u8>, Refusal> {
        let mut file = Vec::new();
        self.session.save_to(&mut file, &Sampler::new(Sampling::greedy())?)?;
        Ok(file)
    }
}

/// The states of all tenants.
pub(crate) struct States {
    /// The most bytes of all.
    most: u64,
    list: Mutex<Vec<Arc<Named>>>,
    reading: AtomicUsize,
}

/// Those of a tenant.
#[derive(Clone)]
pub(crate) struct Mine {
    pub(crate) states: Arc<States>,
    pub(crate) tenant: Option<blake3::Hash>,
}

/// The place of a state that is being read, among the states of its tenant.
pub(crate) struct Place(Mine);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.states.reading.fetch_sub(1, Ordering::AcqRel);
    }
}

fn full(message: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "states_full", message)
}

impl States {
    pub(crate) fn new(most: u64) -> Self {
        Self { most, list: Mutex::default(), reading: AtomicUsize::new(0) }
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Arc<Named>>> {
        // The list is whole whenever the lock is released.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mine {
    fn of<'a>(&'a self, list: &'a [Arc<Named>]) -> impl DoubleEndedIterator<Item = &'a Arc<Named>> {
        list.iter().filter(|named| named.tenant == self.tenant)
    }

    /// A place for a state that will be read; an error if there is none.
    pub(crate) fn place(&self) -> Result<Place, Refusal> {
        let list = self.states.locked();
        let reading = self.states.reading.fetch_add(1, Ordering::AcqRel);
        let place = Place(self.clone());
        match self.of(&list).count() + reading {
            n if n >= MOST => Err(full(format!("{n} states are kept or being read, which is the most: delete one"))),
            _ => Ok(place),
        }
    }

    /// Keeps a state; an error if all states together would have too many bytes.
    pub(crate) fn keep(&self, named: Named) -> Result<Arc<Named>, Refusal> {
        let mut list = self.states.locked();
        let held: u64 = list.iter().map(|named| named.bytes as u64).sum();
        if held.saturating_add(named.bytes as u64) > self.states.most {
            return Err(full(format!(
                "a state of {} bytes: the states that are kept may have {} (--states-ram), delete one",
                named.bytes, self.states.most
            )));
        }
        let named = Arc::new(named);
        list.push(named.clone());
        Ok(named)
    }

    /// `GET /v1/states`, the newest first.
    pub(crate) fn listed(&self) -> Value {
        let list = self.states.locked();
        json!({"object": "list", "data": self.of(&list).rev().map(|named| named.described()).collect::<Vec<_>>()})
    }

    /// A state by its id. Another tenant's is not there.
    pub(crate) fn find(&self, id: &str) -> Result<Arc<Named>, Refusal> {
        let list = self.states.locked();
        self.of(&list).find(|named| named.id == id).cloned().ok_or_else(|| unknown(id))
    }

    /// `DELETE /v1/states/{id}`. Requests that go on from it are not disturbed.
    pub(crate) fn delete(&self, id: &str) -> Result<Value, Refusal> {
        let mut list = self.states.locked();
        let at = list.iter().position(|named| named.tenant == self.tenant && named.id == id);
        list.remove(at.ok_or_else(|| unknown(id))?);
        Ok(json!({"id": id, "object": "state", "deleted": true}))
    }

    /// Takes a file.
    pub(crate) fn take(
        &self,
        file: &[u8],
        candidates: &[(Arc<Served>, Engine)],
        name: Option<String>,
    ) -> Result<Arc<Named>, Refusal> {
        let _place = self.place()?;
        let mut mismatch = None;
        for (served, engine) in candidates {
            match engine.resume_from(file, "the body".as_ref()) {
                Ok(resumed) => {
                    let named = Named::new(served.clone(), self.tenant, name, resumed.session, Text::Unknown);
                    return self.keep(named);
                }
                Err(error @ Error::OtherModel { .. }) => mismatch = Some(error.to_string()),
                Err(error) => return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid_value", error.to_string())),
            }
        }
        let message = mismatch.unwrap_or_else(|| "no model is served that reads".into());
        Err(Refusal::new(StatusCode::CONFLICT, "state_mismatch", message))
    }
}

fn unknown(id: &str) -> Refusal {
    let id: String = id.chars().take(100).collect();
    let message = format!("there is no state `{id}`: states are gone when the server ends");
    Refusal { param: Some("state".into()), ..Refusal::new(StatusCode::NOT_FOUND, "state_not_found", message) }
}
