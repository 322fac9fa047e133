//! Answers from documents: the field `documents` of a chat.

use std::sync::Arc;

use longreach_engine::{Engine, Message};
use serde_json::{Value, json};

use super::request::MOST_FOUND;
use super::search::{Found, found, passages};
use super::{File, Own, Store};
use crate::fields::{Fields, wrong};
use crate::jobs::Jobs;
use crate::refusal::Refusal;

/// Passages that an answer is given from, unless a request says otherwise.
const PASSAGES: usize = 8;
/// Tokens that are left for what a template writes.
const SPARE: usize = 64;

/// How documents are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Whole if the model has room for them.
    Auto,
    /// All of their text, before the conversation.
    Whole,
    /// The passages that match the last message best.
    Passages,
}

/// The documents of a request.
pub(crate) struct Documents {
    stores: Vec<Arc<Store>>,
    files: Vec<Arc<File>>,
    how: How,
    most: usize,
}

/// What an answer was given from.
pub(crate) struct Sources {
    /// What the answer says about each.
    pub(crate) told: Vec<Value>,
    /// Of documents that are read whole: the message that begins with them, and the bytes of its content up to the question.
    pub(crate) whole: Option<(usize, usize)>,
}

impl Documents {
    /// Reads the field.
    pub(crate) fn read(f: &Fields<'_>, own: &Own) -> Result<Option<Self>, Refusal> {
        let Some(documents) = f.object("documents")? else { return Ok(None) };
        documents.unknown(&["vector_store_ids", "file_ids", "read", "max_num_results"], false)?;
        if f.get("state").is_some() {
            return Err(Refusal::unsupported("documents", "`documents`: not with `state`"));
        }
        let ids = |name: &str| -> Result<Vec<(String, String)>, Refusal> {
            let list = documents.list(name)?.map_or(&[][..], Vec::as_slice);
            let one = |(i, id): (usize, &Value)| {
                let path = format!("{}[{i}]", documents.path(name));
                let id = id.as_str().ok_or_else(|| wrong(&path, "a string", id))?;
                Ok((id.to_owned(), path))
            };
            list.iter().enumerate().map(one).collect()
        };
        let stores =
            ids("vector_store_ids")?.iter().map(|(id, path)| own.store(id, path)).collect::<Result<Vec<_>, _>>()?;
        let files = ids("file_ids")?.iter().map(|(id, path)| own.file(id, path)).collect::<Result<Vec<_>, _>>()?;
        if stores.is_empty() == files.is_empty() {
            let message = "`documents`: want either `vector_store_ids` or `file_ids`";
            return Err(Refusal::value("documents", message));
        }
        let encoder = |store: &Arc<Store>| store.encoder.as_ref().map(|encoder| encoder.id.clone());
        if stores.iter().any(|store| encoder(store) != encoder(&stores[0])) {
            let message = "`documents.vector_store_ids`: the stores have vectors of different encoders";
            return Err(Refusal::value("documents.vector_store_ids", message));
        }
        let how = match documents.text("read")? {
            None | Some("auto") => How::Auto,
            Some("whole") => How::Whole,
            Some("passages") => How::Passages,
            Some(other) => {
                let other: String = other.chars().take(40).collect();
                let message = format!("`documents.read`: want auto, whole or passages, found {other}");
                return Err(Refusal::value("documents.read", message));
            }
        };
        let most = documents.whole("max_num_results", 1..=MOST_FOUND)?.map_or(PASSAGES, |n| n as usize);
        Ok(Some(Self { stores, files, how, most }))
    }

    /// All files.
    fn all(&self) -> impl Iterator<Item = &Arc<File>> {
        self.files.iter().chain(self.stores.iter().flat_map(|store| &store.files))
    }

    /// Puts them into a conversation, whose answer may have `most` tokens.
    pub(crate) fn put(
        &self,
        engine: &Engine,
        messages: &mut [Message],
        most: usize,
        jobs: &Jobs,
    ) -> Result<Sources, Refusal> {
        let user = |message: &Message| message.role == "user";
        let (first, last) = (messages.iter().position(user), messages.iter().rposition(user));
        let (Some(first), Some(last)) = (first, last) else {
            return Err(Refusal::value("documents", "`documents`: the conversation has no message of the user"));
        };
        let templated = engine.chat_template().is_ok();
        if self.how != How::Passages {
            let mut head = String::new();
            for file in self.all() {
                head += &format!("File: {}\n\n{}\n\n", file.name, file.text.trim());
            }
            if self.how == How::Whole || fits(engine, &head, messages, most)? {
                let content = &messages[first].content;
                let question = match templated {
                    true => format!("Answer from the text above: {content}"),
                    false => format!("Question: {content}\nAnswer:"),
                };
                let whole = Some((first, head.len()));
                messages[first].content = head + &question;
                let told = |(i, file): (usize, &Arc<File>)| json!({"number": i + 1, "file_id": file.id, "filename": file.name});
                return Ok(Sources { told: self.all().enumerate().map(told).collect(), whole });
            }
        }
        let question = messages[last].content.clone();
        let found = tokio::runtime::Handle::current().block_on(self.found(&question, jobs))?;
        let mut content = String::from("Passages:\n\n");
        for (i, found) in found.iter().enumerate() {
            content += &format!("[{}] {}\n\n", i + 1, found.passage.text());
        }
        content += &match templated {
            true => format!(
                "Answer from these passages, and name those that you use by their numbers, such as [1]: {question}"
            ),
            false => format!("Question: {question}\nAnswer:"),
        };
        messages[last].content = content;
        let told = |(i, found): (usize, &Found)| {
            let (passage, [first, last]) = (&found.passage, found.passage.lines());
            json!({"number": i + 1, "file_id": passage.file.id, "filename": passage.file.name, "start": passage.bytes.start,
                "end": passage.bytes.end, "first_line": first, "last_line": last, "score": found.score, "text": passage.text()})
        };
        Ok(Sources { told: found.iter().enumerate().map(told).collect(), whole: None })
    }

    /// The passages that match a question.
    async fn found(&self, question: &str, jobs: &Jobs) -> Result<Vec<Found>, Refusal> {
        if !self.stores.is_empty() {
            return found(&self.stores, question, self.most, jobs).await;
        }
        let read = passages(self.files.clone(), None, jobs).await?;
        let store = Store::new(None, None, None).with(self.files.clone(), read);
        found(&[Arc::new(store)], question, self.most, jobs).await
    }
}

/// Whether the model has room for all documents, the conversation and an answer.
fn fits(engine: &Engine, head: &str, messages: &[Message], most: usize) -> Result<bool, Refusal> {
    let Some(longest) = engine.longest() else { return Ok(true) };
    let tokenizer = engine.tokenizer()?;
    let mut tokens = tokenizer.encode(head)?.len() + most + SPARE;
    for message in messages {
        tokens += tokenizer.encode(&message.content)?.len() + SPARE / 4;
    }
    Ok(tokens <= longest)
}
