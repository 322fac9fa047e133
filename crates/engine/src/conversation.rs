//! A conversation with a model: messages, and the session that has read them.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Map, Value};

use crate::output::{Output, Watched};
use crate::state::With;
use crate::thinking::tags;
use crate::{Cancel, ChatTemplate, Ended, Engine, Error, Message, Piece, Sampler, Session, Speculation, Stops, Texts};

/// A conversation. Its state is kept after every turn, so that going back reads nothing again.
pub struct Conversation {
    engine: Engine,
    template: ChatTemplate,
    /// Variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// Strings before which an answer ends.
    pub stops: Vec<String>,
    /// What proposes tokens.
    pub speculation: Speculation,
    messages: Vec<Message>,
    /// The tags between which the model thinks.
    tags: Option<[&'static str; 2]>,
    /// The session after some prefixes of the conversation, the longest last. Sessions share what they have in common.
    kept: Vec<Session>,
    cancel: Cancel,
    /// Where states are kept beyond this conversation.
    texts: Option<Texts>,
}

/// The most sessions that are kept: two for each of the last turns.
const MOST_KEPT: usize = 32;

/// A model's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Its text, which is also the last message of the conversation.
    pub text: String,
    /// What the model thought before it, without the tags.
    pub thinking: String,
    /// Why it ended.
    pub ended: Ended,
    /// The number of tokens that were read for it, without those read before.
    pub read: usize,
    /// The number of tokens that were generated.
    pub written: usize,
}

impl Conversation {
    /// An empty conversation. Errors if the model has no chat template or no tokenizer.
    pub fn new(engine: &Engine) -> Result<Self, Error> {
        let template = engine.chat_template()?.clone();
        let tags = tags(&template, engine.tokenizer()?);
        Ok(Self {
            engine: engine.clone(),
            template,
            variables: Map::new(),
            stops: engine.model.generation.stops.clone(),
            speculation: Speculation::none(),
            messages: Vec::new(),
            tags,
            kept: Vec::new(),
            cancel: Cancel::default(),
            texts: None,
        })
    }

    /// The messages so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Lets `cancel` end an answer, from any thread.
    pub fn set_cancel(&mut self, cancel: Cancel) {
        self.cancel = cancel;
    }

    /// Reads every prompt behind the deepest state that is kept in a cache, and keeps states of it there. An answer is then read
    /// once more, as a part of the next prompt, so that its state is one of the text and found by other conversations.
    pub fn set_texts(&mut self, texts: Texts) {
        self.texts = Some(texts);
    }

    /// Appends a message without answering it: a system message, or an earlier conversation.
    pub fn add(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Removes all messages. What was read of them is known until the next answer, should it begin in the same way.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// Removes the last message of the user and what follows it, and returns its text; `None` if there is none.
    pub fn undo(&mut self) -> Option<String> {
        let at = self.messages.iter().rposition(|message| message.role == "user")?;
        self.messages.drain(at..).next().map(|message| message.content)
    }

    /// Saves the messages with the state of the model after the last answer and the position of the sampler: restored, the
    /// conversation goes on with bit-identical logits. An error before the first answer, or if the file cannot be written.
    pub fn save(&self, file: &Path, sampler: &Sampler) -> Result<(), Error> {
        let session = self.current()?.ok_or(Error::NotAnswered)?;
        session.save_with(file, sampler, &With { messages: Some(&self.messages), ..With::default() })
    }

    /// Replaces the conversation by one that [`Conversation::save`] saved, and takes the sampler to where it was. Errors as
    /// [`Engine::resume`] does, and if the state is not that of a conversation; the conversation is then as before.
    pub fn load(&mut self, file: &Path, sampler: &mut Sampler) -> Result<(), Error> {
        let resumed = self.engine.resume(file)?;
        let (Some(messages), Some(_)) = (resumed.messages, &resumed.session.text) else {
            let message = "the state of a text, not of a conversation: `generate --load-state` continues it".into();
            return Err(Error::State { path: file.to_owned(), message });
        };
        sampler.resume(resumed.seed, resumed.position);
        (self.messages, self.kept) = (messages, vec![resumed.session]);
        Ok(())
    }

    /// The session that has read the most of the messages, if there is any.
    fn current(&self) -> Result<Option<&Session>, Error> {
        let text = self.template.render(&self.messages, false, &self.variables)?;
        let ids = self.engine.tokenizer()?.encode(&text)?;
        let common = |session: &&Session| ids.iter().zip(session.text()).take_while(|(a, b)| a == b).count();
        Ok(self.kept.iter().rev().max_by_key(|session| (common(session), std::cmp::Reverse(session.text().len()))))
    }

    /// The text of the conversation up to the beginning of the next answer, and its tokens. Errors if the template refuses
    /// the messages.
    fn prompt(&self) -> Result<(String, Vec<u32>), Error> {
        let text = self.template.render(&self.messages, true, &self.variables)?;
        let ids = self.engine.tokenizer()?.encode(&text)?;
        Ok((text, ids))
    }

    /// The longest kept session whose tokens begin `ids`, or all of them. Sessions of other conversations are dropped.
    fn resume(&mut self, ids: &[u32]) -> Session {
        self.kept.retain(|session| ids.starts_with(session.text()));
        self.kept.last().cloned().unwrap_or_else(|| {
            let mut session = self.engine.session();
            session.keep_text();
            session
        })
    }

    /// Reads a prompt through the cache; returns the number of tokens that were read.
    fn read_kept(&mut self, texts: &Texts, ids: &[u32]) -> Result<(Session, usize), Error> {
        // The messages before the last, of which the next prompt may have another.
        let mut ends = Vec::new();
        if let Some((_, before)) = self.messages.split_last().filter(|(_, before)| !before.is_empty())
            && let Ok(text) = self.template.render(before, false, &self.variables)
        {
            let earlier = self.engine.tokenizer()?.encode(&text)?;
            ends.push(ids.iter().zip(&earlier).take_while(|(a, b)| a == b).count());
        }
        let (mut session, reused) = texts.read_until(ids, &ends, &self.cancel, |_| {})?;
        session.keep_text_of(ids);
        self.kept.clear();
        Ok((session, ids.len() - reused.tokens))
    }

    fn keep(&mut self, session: Session) {
        if self.kept.len() == MOST_KEPT {
            self.kept.remove(0);
        }
        self.kept.push(session);
    }

    /// Appends the user's message and the model's answer of at most `most` tokens. `tell` is called with each piece of
    /// text as it is generated.
    ///
    /// If it is cancelled, the answer so far is kept. On an error the conversation is as before.
    pub fn ask(
        &mut self,
        text: impl Into<String>,
        sampler: &mut Sampler,
        most: usize,
        tell: impl FnMut(Piece<'_>),
    ) -> Result<Reply, Error> {
        let before = self.messages.len();
        self.messages.push(Message::new("user", text));
        let answer = self.answer(sampler, most, tell);
        match &answer {
            Ok(answer) => {
                let thinking = Some(&answer.thinking).filter(|thinking| !thinking.trim().is_empty());
                let message = Message::new("assistant", answer.text.clone());
                self.messages.push(Message { reasoning_content: thinking.cloned(), ..message });
            }
            Err(_) => self.messages.truncate(before),
        }
        answer
    }

    fn answer(&mut self, sampler: &mut Sampler, most: usize, mut tell: impl FnMut(Piece<'_>)) -> Result<Reply, Error> {
        let (prompt, ids) = self.prompt()?;
        let (mut session, read) = match self.texts.clone() {
            Some(texts) => self.read_kept(&texts, &ids)?,
            None => {
                let mut session = self.resume(&ids);
                session.set_cancel(self.cancel.clone());
                let read = ids.len() - session.text().len();
                session.read(&ids[ids.len() - read..])?;
                (session, read)
            }
        };
        self.keep(session.clone());
        let inside = self.tags.is_some_and(|[open, _]| prompt.trim_end().ends_with(open));
        let (ends, stops) = (self.engine.model.description.eos.clone(), self.stops.clone());
        let watched = Watched { ends, stops, keeps_stop: false, tags: self.tags, inside, shown: Vec::new() };
        let mut output = Output::new(&self.engine, session.writer()?, watched);
        let ended = session.generate(sampler, most, &mut self.speculation, |id| output.push(id, &mut tell))?;
        output.finish(&mut tell)?;
        let Output { written, thinking, .. } = output;
        self.keep(session);
        Ok(Reply { text: thinking.text, thinking: thinking.thought, ended, read, written })
    }
}

impl Session {
    /// Generates an answer of at most `most` tokens, up to an end-of-text token or a stop string of the model; returns its tokens, with that one, and the
    /// answer. `tell` is called with each piece of text as it is generated. Errors as [`Session::generate`] does.
    pub fn answer(
        &mut self,
        sampler: &mut Sampler,
        most: usize,
        mut tell: impl FnMut(&str),
    ) -> Result<(Vec<u32>, Reply), Error> {
        let engine = self.engine.clone();
        let mut writer = self.writer()?;
        let mut stops = Stops::new(engine.model.generation.stops.clone());
        let (mut ids, mut text) = (Vec::new(), String::new());
        let mut put = |piece: &str| {
            if !piece.is_empty() {
                tell(piece);
                text.push_str(piece);
            }
        };
        let ended = self.generate(sampler, most, &mut Speculation::none(), |id| {
            ids.push(id);
            if engine.model.description.eos.contains(&id) {
                return Ok(ControlFlow::Break(()));
            }
            put(&stops.push(&writer.text(id)?));
            Ok::<_, Error>(if stops.found() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        let rest = if stops.found() { String::new() } else { stops.push(&writer.rest()?) + &stops.rest() };
        put(&rest);
        let written = ids.len();
        Ok((ids, Reply { text, thinking: String::new(), ended, read: 0, written }))
    }
}
