//! `longreach ask`

use std::ffi::OsString;
use std::path::PathBuf;

use longreach_engine::{Engine, Reply, Sampler, Session, Start};
use longreach_models::check_writable;
use serde_json::json;

use crate::failure::Failure;
use crate::model::{ContextArgs, ModelArgs};
use crate::progress;
use crate::prompts::{Prompt, answer};
use crate::sampling::SamplingArgs;
use crate::texts::{self, Text, TextArgs};

mod passages;

use passages::{Found, PassageArgs};

/// Ask a question about files and folders
///
/// If the texts fit into the context of the model, it reads them whole, before the question: --cache keeps the state after them, and further questions start from
/// it without reading. Models without a longest text, such as recurrent ones, read anything whole. Otherwise, or with --encoder or --passages, the passages that
/// match the question best are found first, by the vectors of an encoder or by the words they share with the question (BM25). The answer is given from those, and
/// the list under it says where they are. The model should have a chat template.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach ask --model HuggingFaceTB/SmolLM2-1.7B-Instruct --input report.txt \"Who signed it?\"
  longreach ask --model state-spaces/mamba-130m-hf --input book.txt --cache book.state \"Who is the narrator?\"
  longreach ask --model Qwen/Qwen3-0.6B --encoder lightonai/GTE-ModernColBERT-v1 --input docs/ \"How is a state saved?\"")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    context: ContextArgs,
    /// Question about the texts
    question: String,
    /// Texts: a file, a folder, a table (.jsonl, .json, .csv, .tsv, .parquet) or - for standard input; may be given several times
    #[arg(long, short, value_name = "FILE|FOLDER|-", required = true)]
    input: Vec<OsString>,
    #[command(flatten)]
    texts: TextArgs,
    /// Keep the state after the texts in this file, and start from it if it is there
    ///
    /// Both give the same answer. A state of other texts is replaced; a state of another model is an error. The file has the size of the model's state
    /// (`longreach info` prints it).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["encoder", "passages"])]
    cache: Option<PathBuf>,
    #[command(flatten)]
    passages: PassageArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print the answer and its passages as a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if args.question.trim().is_empty() {
        return Err(Failure::new("the question is empty"));
    }
    args.sampling.check()?;
    if let Some(cache) = &args.cache {
        check_writable(cache, &texts::paths(&args.input))?;
    }
    let texts = texts::read(&args.input, &args.texts)?;
    let engine = args.model.load_for(&args.context)?;
    let mut sampler = Sampler::new(args.sampling.options(&engine)?)?;
    let most = args.sampling.most(&engine);
    if engine.chat_template().is_err() {
        eprintln!("note: {} has no chat template: a model that was not trained to answer may do anything", engine.name);
    }
    let (mut session, found) = match whole(&args, &engine, &texts, most)? {
        Some(session) => (session, Vec::new()),
        None => passages::read(&args.passages, &engine, &texts, &args.question, most)?,
    };
    if let Some(reply) = answer(&mut session, &mut sampler, most, args.json)? {
        if args.json {
            println!("{}", object(&args.question, &reply, &texts, &found));
        } else if !found.is_empty() {
            println!();
            for (number, found) in found.iter().enumerate() {
                println!("[{}] {}", number + 1, texts[found.text].place(&found.bytes));
            }
        }
    }
    Ok(())
}

/// The session after all texts and the question; `None` if passages are wanted or needed.
fn whole(args: &Args, engine: &Engine, texts: &[Text], most: usize) -> Result<Option<Session>, Failure> {
    if args.passages.wanted() {
        return Ok(None);
    }
    let several = texts.len() > 1;
    let mut head = String::new();
    for text in texts {
        if several {
            head.push_str(&format!("File: {}\n\n", text.name));
        }
        head.push_str(text.text.trim());
        head.push_str("\n\n");
    }
    let tail = format!("Answer from the text above: {}", args.question.trim());
    let tail =
        if engine.chat_template().is_ok() { tail } else { format!("Question: {}\nAnswer:", args.question.trim()) };
    let prompt = Prompt::new(engine, &head, &tail)?;
    if let Some(longest) = engine.longest().filter(|longest| prompt.len() + most > *longest) {
        let found = prompt.len();
        if args.cache.is_some() {
            return Err(Failure::new(format!(
                "--cache: the texts have {found} tokens with the question and the answer {most} (-n), but the model reads {longest}: omit --cache to answer from passages, or keep a window of the texts (--window)"
            )));
        }
        eprintln!(
            "note: the texts have {found} tokens with the question, and the answer may have {most}, but the model reads {longest}: it answers from passages"
        );
        return Ok(None);
    }
    let mut session = match &args.cache {
        Some(file) if !prompt.head.is_empty() => {
            let bar = progress::things("reading", "tokens", prompt.head.len() as u64)?;
            let read = engine.read_or_resume(&prompt.head, file, |n| bar.set_position(n));
            bar.finish_and_clear();
            let (session, start) = read?;
            match start {
                Start::Read => {}
                Start::Resumed => eprintln!("note: the texts are not read again: {} has their state", file.display()),
                Start::Replaced => {
                    eprintln!("note: {}: the state was that of other texts; it was replaced", file.display());
                }
            }
            session
        }
        _ => read(engine, &prompt.head)?,
    };
    session.read(&prompt.tail)?;
    Ok(Some(session))
}

/// A session that has read tokens, with a progress bar.
fn read(engine: &Engine, ids: &[u32]) -> Result<Session, Failure> {
    let mut session = engine.session();
    let bar = progress::things("reading", "tokens", ids.len() as u64)?;
    let result = session.read_showing(ids, |n| bar.set_position(n));
    bar.finish_and_clear();
    result?;
    Ok(session)
}

fn object(question: &str, reply: &Reply, texts: &[Text], found: &[Found]) -> serde_json::Value {
    let passages = found.iter().enumerate().map(|(i, found)| {
        let text = &texts[found.text];
        let (first, last) = text.lines(&found.bytes);
        json!({
            "number": i + 1, "file": text.name, "first_line": first, "last_line": last, "place": text.place(&found.bytes),
            "start": found.bytes.start, "end": found.bytes.end, "score": found.score, "text": &text.text[found.bytes.clone()],
            "cited": reply.text.contains(&format!("[{}]", i + 1)),
        })
    });
    json!({
        "question": question, "answer": reply.text.trim(), "tokens": reply.written, "passages": passages.collect::<Vec<_>>(),
    })
}
