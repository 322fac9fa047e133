//! A conversation with a model: messages, and the session that has read them.

use serde_json::{Map, Value};

use crate::{Cancel, ChatTemplate, Engine, Error, Message, Sampler, Session};

/// A conversation. Its state is kept after every turn, so that going back reads nothing again.
pub struct Conversation {
    engine: Engine,
    template: ChatTemplate,
    /// Variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    messages: Vec<Message>,
    /// The session after some prefixes of the conversation, the longest last. Sessions share what they have in common.
    kept: Vec<Kept>,
    cancel: Cancel,
}

/// The most sessions that are kept: two for each of the last turns.
const MOST_KEPT: usize = 32;

/// A session and the tokens that it has read.
#[derive(Clone)]
struct Kept {
    ids: Vec<u32>,
    session: Session,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The model ended it.
    Stopped,
    /// It reached the maximum number of tokens.
    Full,
    /// The text reached the longest length of the model ([`Engine::longest`]).
    NoRoom,
    /// It was cancelled.
    Cancelled,
}

/// A model's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Its text, which is also the last message of the conversation.
    pub text: String,
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
        engine.tokenizer()?;
        Ok(Self {
            engine: engine.clone(),
            template,
            variables: Map::new(),
            messages: Vec::new(),
            kept: Vec::new(),
            cancel: Cancel::default(),
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

    /// Appends a message without answering it: a system message, or an earlier conversation.
    pub fn add(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Removes the last message of the user and what follows it, and returns its text; `None` if there is none.
    pub fn undo(&mut self) -> Option<String> {
        let at = self.messages.iter().rposition(|message| message.role == "user")?;
        self.messages.drain(at..).next().map(|message| message.content)
    }

    /// The tokens of the conversation up to the beginning of the next answer. Errors if the template refuses the
    /// messages.
    fn prompt(&self) -> Result<Vec<u32>, Error> {
        let text = self.template.render(&self.messages, true, &self.variables)?;
        self.engine.tokenizer()?.encode(&text)
    }

    /// The longest kept session whose tokens begin `ids`, or all of them. Sessions of other conversations are dropped.
    fn resume(&mut self, ids: &[u32]) -> Kept {
        self.kept.retain(|kept| ids.starts_with(&kept.ids));
        self.kept.last().cloned().unwrap_or_else(|| Kept { ids: Vec::new(), session: self.engine.session() })
    }

    fn keep(&mut self, kept: Kept) {
        if self.kept.len() == MOST_KEPT {
            self.kept.remove(0);
        }
        self.kept.push(kept);
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
        tell: impl FnMut(&str),
    ) -> Result<Reply, Error> {
        let before = self.messages.len();
        self.messages.push(Message::new("user", text));
        let answer = self.answer(sampler, most, tell);
        match &answer {
            Ok(answer) => self.messages.push(Message::new("assistant", answer.text.clone())),
            Err(_) => self.messages.truncate(before),
        }
        answer
    }

    fn answer(&mut self, sampler: &mut Sampler, most: usize, tell: impl FnMut(&str)) -> Result<Reply, Error> {
        let ids = self.prompt()?;
        let Kept { ids: known, mut session } = self.resume(&ids);
        session.set_cancel(self.cancel.clone());
        let read = ids.len() - known.len();
        session.read(&ids[known.len()..])?;
        self.keep(Kept { ids: ids.clone(), session: session.clone() });
        let (written, answer) = session.answer(sampler, most, tell)?;
        let all = [ids, written].concat();
        self.keep(Kept { ids: all, session });
        Ok(Reply { read, ..answer })
    }
}

impl Session {
    /// Generates an answer of at most `most` tokens, up to an end-of-text token; returns its tokens, with that one, and the
    /// answer. `tell` is called with each piece of text as it is generated. Errors as [`Session::next_token`] does.
    pub fn answer(
        &mut self,
        sampler: &mut Sampler,
        most: usize,
        mut tell: impl FnMut(&str),
    ) -> Result<(Vec<u32>, Reply), Error> {
        let mut answer = Reply { text: String::new(), ended: Ended::Full, read: 0, written: 0 };
        let mut ids = Vec::new();
        let mut writer = self.writer()?;
        while answer.written < most {
            if self.is_cancelled() {
                answer.ended = Ended::Cancelled;
                break;
            }
            if self.room() == Some(0) {
                answer.ended = Ended::NoRoom;
                break;
            }
            let id = self.next_token(sampler)?;
            ids.push(id);
            answer.written += 1;
            if self.engine.model.description.eos.contains(&id) {
                answer.ended = Ended::Stopped;
                break;
            }
            let text = writer.text(id)?;
            if !text.is_empty() {
                tell(&text);
                answer.text.push_str(&text);
            }
        }
        let rest = writer.rest()?;
        if !rest.is_empty() {
            tell(&rest);
            answer.text.push_str(&rest);
        }
        Ok((ids, answer))
    }
}
