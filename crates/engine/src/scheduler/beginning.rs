//! Where the reading of a prompt begins: behind a state that is given, kept, or being read by another request.

use super::plan::Ticket;
use super::reading::Reading;
use super::request::{From, Pin, Request, Reuse};
use super::worker::Worker;
use crate::{Engine, Session, Texts};

/// What the reading of a prompt begins with.
pub(super) struct Beginning {
    pub(super) session: Session,
    pub(super) texts: Option<Texts>,
    pub(super) halts: Vec<usize>,
    /// The tokens of the state that are not in the prompt.
    pub(super) before: usize,
}

impl Worker {
    /// Where the reading of a prompt begins: behind the deepest state that is known of it.
    pub(super) fn beginning(&self, engine: &Engine, request: &mut Request) -> Beginning {
        let given = match std::mem::replace(&mut request.from, From::Start) {
            From::Behind(session) => {
                request.reuse = Reuse::None;
                let before = session.tokens() as usize;
                return Beginning { session: *session, texts: None, halts: Vec::new(), before };
            }
            From::Within(session) => Some(*session),
            From::Start => None,
        };
        // A prompt whose tokens are scored is read from its beginning.
        let scores = request.prompt_logprobs.is_some();
        let texts = (request.reuse == Reuse::Kept && !scores).then(|| self.texts(engine, request)).flatten();
        let (prompt, cut) = (&request.prompt, engine.model.decoder.cut());
        let below = cut.below(prompt.len());
        // A pinned state must be found in the cache too. A state after the last multiple of the cut would hide the one at it.
        let upto = match request.pin {
            Pin::Yes if below < prompt.len() => below + usize::from(below + 1 < prompt.len()),
            _ => prompt.len(),
        };
        let found =
            texts.as_ref().filter(|_| upto > 0).map(|texts| texts.find(&prompt[..upto], &request.ends_of_messages));
        let (mut session, mut halts) = match found {
            Some(found) => (found.session, found.halts),
            None => (engine.session(), Vec::new()),
        };
        if request.pin == Pin::Yes {
            halts.retain(|halt| *halt < below);
            halts.extend([below, prompt.len()]);
        }
        if let Some(given) = given.filter(|given| !scores && given.tokens() > session.tokens()) {
            session = given;
        }
        Beginning { session, texts, halts, before: 0 }
    }

    /// The kept states of a request's tenant.
    fn texts(&self, engine: &Engine, request: &Request) -> Option<Texts> {
        let name = (request.tenant != 0).then(|| request.tenant.to_string());
        Some(self.cache.as_ref()?.texts(engine, name.as_deref(), &request.salt))
    }

    /// A prompt of the same tenant that is being read, begins like this one beyond `at`, and has not gone beyond that beginning; with its length.
    pub(super) fn leader(&self, reading: &Reading, at: usize) -> Option<(Ticket, usize)> {
        let prompt = &reading.request.prompt;
        let candidate = |(ticket, other): (&Ticket, &Reading)| {
            let alike = other.request.model == reading.request.model
                && other.request.tenant == reading.request.tenant
                && other.request.salt == reading.request.salt
                && other.request.reuse == Reuse::Kept;
            let read = self.plan.at(*ticket).filter(|_| alike && other.session.is_some())?;
            let theirs = &other.request.prompt;
            let shared = prompt.iter().zip(theirs).take_while(|(a, b)| a == b).count();
            // The logits after the last token go with the state of the same prompt alone.
            let cut = self.models[reading.request.model].model.decoder.cut();
            let shared = if shared == prompt.len() && shared == theirs.len() { shared } else { cut.below(shared) };
            let behind = shared < prompt.len() || shared == theirs.len();
            (behind && shared > at && read < shared).then_some((*ticket, shared))
        };
        self.reading.iter().filter_map(candidate).max_by_key(|(ticket, shared)| (*shared, std::cmp::Reverse(*ticket)))
    }
}
