//! The passages that match a question, and a prompt with them.

use std::ffi::OsString;
use std::ops::Range;

use longreach_engine::{Engine, Session, TextEncoder};
use longreach_models::Progress;
use longreach_search::rank::{best, similarities};
use longreach_search::{bm25, split};

use super::read as read_tokens;
use crate::failure::Failure;
use crate::machine::device;
use crate::progress;
use crate::prompts::{Prompt, tokens};
use crate::texts::Text;

/// How passages are found.
#[derive(clap::Args)]
pub(crate) struct PassageArgs {
    /// Find passages by the vectors of this encoder: a directory, weights file or Hub id (sentence-transformers, or PyLate for ColBERT)
    #[arg(long, value_name = "MODEL")]
    encoder: Option<OsString>,
    /// Answer from the N best passages, even if the texts fit into the context [default: 8, or what the context of the model has room for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    passages: Option<u32>,
    /// Longest passage in tokens of the model
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..))]
    passage: u32,
}

impl PassageArgs {
    /// Whether passages are to be found however long the texts are.
    pub(crate) fn wanted(&self) -> bool {
        self.encoder.is_some() || self.passages.is_some()
    }
}

/// Passages of an answer if not said otherwise.
const PASSAGES: usize = 8;

/// A passage that was found.
pub(crate) struct Found {
    /// The number of its text.
    pub(crate) text: usize,
    pub(crate) bytes: Range<usize>,
    pub(crate) score: f32,
}

/// The session after the best passages and the question, and the passages. An error if the model has no room for one.
pub(crate) fn read(
    args: &PassageArgs,
    engine: &Engine,
    texts: &[Text],
    question: &str,
    most: usize,
) -> Result<(Session, Vec<Found>), Failure> {
    let mut found = ranked(args, engine, texts, question)?;
    found.truncate(args.passages.map_or(PASSAGES, |n| n as usize));
    loop {
        let prompt = prompt(engine, texts, &found, question)?;
        let Some(longest) = engine.longest().filter(|longest| prompt.len() + most > *longest) else {
            return Ok((read_tokens(engine, &prompt.ids())?, found));
        };
        // The last ones match least.
        if found.len() <= 1 {
            return Err(Failure::new(format!(
                "a passage and the question have {} tokens and the answer {most} (-n), but the model reads {longest}: ask for shorter passages (--passage) or a shorter answer",
                prompt.len()
            )));
        }
        found.pop();
    }
}

/// All passages, the best first; those that do not match are left out.
fn ranked(args: &PassageArgs, engine: &Engine, texts: &[Text], question: &str) -> Result<Vec<Found>, Failure> {
    let mut all: Vec<(usize, Range<usize>)> = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let mut failed = None;
        let pieces = split::pieces(&text.text, args.passage as usize, |part| match tokens(engine, part) {
            Ok(ids) => ids.len(),
            Err(e) => {
                failed.get_or_insert(e);
                0
            }
        });
        failed.map_or(Ok(()), Err)?;
        all.extend(pieces.into_iter().map(|bytes| (i, bytes)));
    }
    let passages: Vec<&str> = all.iter().map(|(i, bytes)| &texts[*i].text[bytes.clone()]).collect();
    let scores = match &args.encoder {
        Some(name) => {
            let encoder = TextEncoder::load_on(name, None, &device(), Progress::Shown)?;
            encoder.notes().iter().for_each(|note| eprintln!("note: {note}"));
            let bar = progress::things("finding passages", "passages", passages.len() as u64)?;
            let cx = &*longreach_burn::context();
            let scores = similarities(cx, &encoder, &passages, question, |n| bar.set_position(n as u64));
            bar.finish_and_clear();
            scores?
        }
        None => {
            let scores = bm25::scores(&passages, question);
            if scores.iter().any(|score| *score > 0.0) {
                scores.into_iter().map(|score| if score > 0.0 { score } else { f32::NEG_INFINITY }).collect()
            } else {
                eprintln!("note: no passage shares a word with the question; the first ones are read");
                scores
            }
        }
    };
    let order = best(&scores, scores.len());
    Ok(order.into_iter().map(|i| Found { text: all[i].0, bytes: all[i].1.clone(), score: scores[i] }).collect())
}

fn prompt(engine: &Engine, texts: &[Text], found: &[Found], question: &str) -> Result<Prompt, Failure> {
    let mut message = String::from("Passages:\n\n");
    for (i, found) in found.iter().enumerate() {
        let text = &texts[found.text];
        message.push_str(&format!("[{}] {}\n\n", i + 1, text.text[found.bytes.clone()].trim()));
    }
    let question = question.trim();
    message.push_str(&if engine.chat_template().is_ok() {
        format!("Answer from these passages, and name those that you use by their numbers, such as [1]: {question}")
    } else {
        format!("Question: {question}\nAnswer:")
    });
    Prompt::new(engine, "", &message)
}
