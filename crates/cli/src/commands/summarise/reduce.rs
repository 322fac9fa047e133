//! Map-reduce with a language model: summaries of pieces, merged level by level.

use std::path::PathBuf;

use longreach_engine::{Cancel, Ended, Engine, Sampler, Sampling};
use longreach_models::check_writable;
use longreach_search::split::pieces;
use serde_json::json;

use super::Args;
use super::work::Work;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::progress;
use crate::prompts::{Prompt, tokens};
use crate::texts::{self, Text};

/// Tokens of a piece if not said otherwise.
const PIECE: usize = 2048;
/// The instruction for a piece, and for summaries of consecutive pieces.
const SUMMARISE: &str = "Summarise the text above in about {words} words.";
const MERGE: &str =
    "These are summaries of consecutive parts of a text. Write one summary of the whole text in about {words} words.";

/// What all pieces share.
struct Job {
    engine: Engine,
    sampling: Sampling,
    /// The most tokens of an answer.
    most: usize,
    /// The most tokens of a piece.
    piece: usize,
    /// The instructions for a piece of the texts and for summaries.
    instructions: [String; 2],
    interrupt: Interrupt,
}

/// What a level is made of.
enum Part {
    /// A text to summarise.
    Text(String),
    /// A summary that fits with no other.
    Done(String),
}

/// The summary; `None` if the work was interrupted.
pub(super) fn run(args: &Args, texts: &[Text]) -> Result<Option<String>, Failure> {
    args.sampling.check()?;
    let file = work_file(args);
    check_writable(&file, &texts::paths(&args.input))?;
    let engine = args.model.load_for(&args.context)?;
    if engine.chat_template().is_err() {
        eprintln!("note: {} has no chat template: a model that was not trained to answer may do anything", engine.name);
    }
    let job = Job::new(args, engine)?;
    let first = job.divided(texts)?;
    let mut work = Work::open(&file, job.hash(&first))?;
    let first: Vec<Part> = first.into_iter().map(Part::Text).collect();
    if work.waiting() > 0 {
        eprintln!("continuing with {} finished pieces of {}", work.waiting(), file.display());
    }
    let mut levels = vec![match job.level(0, &first, &mut work)? {
        Some(level) => level,
        None => return Ok(interrupted(&file)),
    }];
    while let Some(last) = levels.last().filter(|last| last.len() > 1) {
        let groups = job.grouped(last)?;
        match job.level(levels.len(), &groups, &mut work)? {
            Some(level) => levels.push(level),
            None => return Ok(interrupted(&file)),
        }
    }
    let summary = levels.last().and_then(|last| last.first()).cloned().unwrap_or_default();
    work.done()?;
    Ok(Some(match args.json {
        true => format!("{}\n", json!({"summary": summary, "levels": levels})),
        false => format!("{summary}\n"),
    }))
}

fn interrupted(file: &std::path::Path) -> Option<String> {
    eprintln!("interrupted; run the same command again to continue from {}", file.display());
    None
}

/// The file of finished pieces.
fn work_file(args: &Args) -> PathBuf {
    if let Some(file) = &args.work {
        return file.clone();
    }
    let (name, end) = match (&args.out, args.input.first()) {
        (Some(out), _) => (Some(out.clone().into_os_string()), ".partial"),
        (None, first) => {
            let path = first.filter(|name| *name != "-").map(PathBuf::from);
            (path.and_then(|path| path.canonicalize().ok()?.file_name().map(ToOwned::to_owned)), ".summary.partial")
        }
    };
    let mut name = name.unwrap_or_else(|| "standard-input".into());
    name.push(end);
    name.into()
}

impl Job {
    fn new(args: &Args, engine: Engine) -> Result<Self, Failure> {
        let words = args.words as usize;
        let sampling = args.sampling.options(&engine)?;
        // A word has fewer than two tokens in most languages; models overrun what is asked for.
        let most = args.sampling.tokens.unwrap_or(2 * words + 32);
        let said = |instruction: &str| instruction.replace("{words}", &words.to_string());
        let instructions =
            [said(args.prompt.as_deref().unwrap_or(SUMMARISE)), said(args.prompt.as_deref().unwrap_or(MERGE))];
        let mut around = 0;
        for instruction in &instructions {
            around = around.max(prompt(&engine, "", instruction)?.len());
        }
        // Tokens of a piece may differ from those of its sentences by one each at their borders.
        let room = engine.longest().map_or(usize::MAX, |longest| longest.saturating_sub(most + around + 16));
        if room < 16 {
            return Err(Failure::new(format!(
                "the model reads {} tokens, which leaves no room for a piece beside its summary of up to {most} tokens: ask for fewer --words",
                engine.longest().unwrap_or(0)
            )));
        }
        let piece = args.piece.map_or(PIECE, |n| n as usize);
        if args.piece.is_some() && piece > room {
            return Err(Failure::new(format!(
                "--piece {piece}: the model has room for {room} tokens beside the instruction and a summary of up to {most} tokens"
            )));
        }
        let interrupt = Interrupt::watched()?;
        Ok(Self { engine, sampling, most, piece: piece.min(room), instructions, interrupt })
    }

    /// A hash of what the answers depend on.
    fn hash(&self, pieces: &[String]) -> String {
        let mut hasher = blake3::Hasher::new();
        let options = format!("{:?} {} {}", self.sampling, self.most, self.piece);
        let model = self.engine.fingerprint();
        let parts = [&model, &options].into_iter().chain(&self.instructions).chain(pieces);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The pieces of the texts.
    fn divided(&self, texts: &[Text]) -> Result<Vec<String>, Failure> {
        let mut all = Vec::new();
        for text in texts {
            let mut failed = None;
            let of_text = pieces(&text.text, self.piece, |part| match tokens(&self.engine, part) {
                Ok(ids) => ids.len(),
                Err(e) => {
                    failed.get_or_insert(e);
                    0
                }
            });
            failed.map_or(Ok(()), Err)?;
            all.extend(of_text.into_iter().map(|bytes| text.text[bytes].to_owned()));
        }
        Ok(all)
    }

    /// Consecutive summaries that fit into a piece together. An error if no two do.
    fn grouped(&self, summaries: &[String]) -> Result<Vec<Part>, Failure> {
        let mut groups: Vec<(String, usize, usize)> = Vec::new();
        for summary in summaries {
            let n = tokens(&self.engine, &format!("{summary}\n\n"))?.len();
            match groups.last_mut() {
                Some((text, size, members)) if *size + n <= self.piece => {
                    text.push_str("\n\n");
                    text.push_str(summary);
                    (*size, *members) = (*size + n, *members + 1);
                }
                _ => groups.push((summary.clone(), n, 1)),
            }
        }
        if groups.len() > 1 && groups.iter().all(|(.., members)| *members == 1) {
            return Err(Failure::new(format!(
                "two summaries of up to {} tokens do not fit into a piece of {}: ask for fewer --words, or longer pieces (--piece)",
                self.most, self.piece
            )));
        }
        let part = |(text, _, members)| if members == 1 { Part::Done(text) } else { Part::Text(text) };
        Ok(groups.into_iter().map(part).collect())
    }

    /// The answers to all parts of a level; `None` if it was interrupted.
    fn level(&self, level: usize, parts: &[Part], work: &mut Work) -> Result<Option<Vec<String>>, Failure> {
        let what = if level == 0 { "summarising".to_owned() } else { format!("merging, level {level}") };
        let bar = progress::things(&what, "pieces", parts.len() as u64)?;
        let mut answers = Vec::new();
        for part in parts {
            let answer = match part {
                Part::Done(summary) => summary.clone(),
                Part::Text(text) => {
                    let Some(answer) = self.worked(level, text, work)? else {
                        bar.finish_and_clear();
                        return Ok(None);
                    };
                    answer
                }
            };
            answers.push(answer);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Some(answers))
    }

    /// The answer to one text, which an earlier run may have saved; `None` if it was interrupted.
    fn worked(&self, level: usize, text: &str, work: &mut Work) -> Result<Option<String>, Failure> {
        if let Some(answer) = work.take() {
            return Ok(Some(answer));
        }
        let Some(answer) = self.answer(level, text, work.next())? else { return Ok(None) };
        work.add(&answer)?;
        Ok(Some(answer))
    }

    /// The answer to one text, with random numbers of its own; `None` if it was interrupted.
    fn answer(&self, level: usize, text: &str, number: usize) -> Result<Option<String>, Failure> {
        let prompt = prompt(&self.engine, text, &self.instructions[level.min(1)])?;
        let mut sampler =
            Sampler::new(Sampling { seed: self.sampling.seed.wrapping_add(number as u64), ..self.sampling.clone() })?;
        let mut session = self.engine.session();
        let cancel = Cancel::default();
        session.set_cancel(cancel.clone());
        let stop = || {
            if self.interrupt.asked() {
                cancel.cancel();
            }
        };
        stop();
        match session.read_showing(&prompt.ids(), |_| stop()) {
            Err(longreach_engine::Error::Cancelled) => return Ok(None),
            other => other?,
        }
        let (_, reply) = session.answer(&mut sampler, self.most, |_| stop())?;
        if reply.ended == Ended::Cancelled || self.interrupt.asked() {
            return Ok(None);
        }
        let said = reply.text.trim();
        // Of a summary that was cut, the sentence that it was cut in is left out.
        let cut = reply.ended != Ended::Stopped;
        let end = said.rfind(['.', '!', '?', '。']).filter(|end| cut && *end > said.len() / 2);
        Ok(Some(end.map_or(said, |end| &said[..end + said[end..].chars().next().map_or(0, char::len_utf8)]).to_owned()))
    }
}

/// A text and an instruction behind it.
fn prompt(engine: &Engine, text: &str, instruction: &str) -> Result<Prompt, Failure> {
    let tail = if engine.chat_template().is_ok() {
        format!("\n\n{instruction}")
    } else {
        format!("\n\n{instruction}\n\nSummary:")
    };
    Prompt::new(engine, text.trim(), &tail)
}
