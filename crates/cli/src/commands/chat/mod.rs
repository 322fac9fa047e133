//! `longreach chat`

use std::io::{BufRead, IsTerminal, Read, Write};
use std::sync::{Arc, Mutex};

use longreach_engine::{Cancel, Conversation, Ended, Engine, Message, Sampler, Sampling};

use crate::failure::Failure;
use crate::model::ModelArgs;
use crate::sampling::SamplingArgs;

/// Talk to a model that was trained for conversations
///
/// The model needs a chat template (`longreach list` has the model types; most instruct models of the Hub have one). Each line is a message; end a line with
/// a backslash to continue it on the next. Ctrl-C stops an answer and, at the prompt, ends the program. The state of the model is kept after every turn:
/// earlier turns are not read again, and /undo reads nothing. Input from a pipe is one message.
#[derive(clap::Args)]
#[command(after_long_help = "\
Commands:
  /undo            take the last message and its answer back
  /retry           answer the last message again
  /clear           start anew, with the same system message
  /save FILE       save the messages as JSON
  /load FILE       continue a saved conversation
  /help            list these commands
  /exit            end the program, as does Ctrl-D

Examples:
  longreach chat --model HuggingFaceTB/SmolLM2-135M-Instruct
  longreach chat --model Qwen/Qwen3-0.6B --system \"Answer in one sentence.\" --temperature 0
  cat report.txt | longreach chat --model google/gemma-3-1b-it --system \"Summarise the text.\"")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// System message, which says how the model should answer
    #[arg(long, short, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

const HELP: &str = "\
/undo            take the last message and its answer back
/retry           answer the last message again
/clear           start anew, with the same system message
/save FILE       save the messages as JSON
/load FILE       continue a saved conversation
/exit            end the program, as does Ctrl-D";

/// What a line asks for.
enum Input {
    Message(String),
    Undo,
    Retry,
    Clear,
    Save(String),
    Load(String),
    Help,
    Exit,
    Unknown(String),
}

impl Input {
    fn parse(line: &str) -> Self {
        let line = line.trim_end();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match (word, rest) {
            ("/undo", "") => Input::Undo,
            ("/retry", "") => Input::Retry,
            ("/clear", "") => Input::Clear,
            ("/help" | "/?", "") => Input::Help,
            ("/exit" | "/quit", "") => Input::Exit,
            ("/save", file) if !file.is_empty() => Input::Save(file.into()),
            ("/load", file) if !file.is_empty() => Input::Load(file.into()),
            (word, _) if word.starts_with('/') => Input::Unknown(word.into()),
            _ => Input::Message(line.into()),
        }
    }
}

struct Chat {
    conversation: Conversation,
    sampler: Sampler,
    most: usize,
    /// The flag that ends the answer under way, for Ctrl-C.
    under_way: Arc<Mutex<Option<Cancel>>>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    // Validate the options before the model is loaded, which can take minutes.
    Sampler::new(args.sampling.options(Sampling::default()))?;
    let engine = args.model.load()?;
    let sampler = Sampler::new(args.sampling.options(Sampling::of_model(&engine.model.generation)))?;
    let mut chat = Chat {
        conversation: begin(&engine, args.system.as_deref())?,
        sampler,
        most: args.sampling.most(&engine),
        under_way: Arc::default(),
    };
    let under_way = chat.under_way.clone();
    ctrlc::set_handler(move || match under_way.lock().ok().and_then(|mut answer| answer.take()) {
        Some(answer) => answer.cancel(),
        None => std::process::exit(130),
    })?;
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let mut text = String::new();
        stdin.lock().read_to_string(&mut text).map_err(|e| Failure::new(format!("standard input: {e}")))?;
        if text.trim().is_empty() {
            return Err(Failure::new("standard input is empty: want a message"));
        }
        return chat.answer(text.trim_end());
    }
    eprintln!("/help lists the commands, Ctrl-D ends the conversation");
    while let Some(line) = line(&mut stdin.lock())? {
        if line.trim().is_empty() {
            continue;
        }
        match chat.take(&engine, args.system.as_deref(), Input::parse(&line)) {
            Ok(true) => {}
            Ok(false) => break,
            // A mistake ends no conversation.
            Err(failure) => {
                failure.report();
            }
        }
    }
    Ok(())
}

/// A conversation with its system message.
fn begin(engine: &Engine, system: Option<&str>) -> Result<Conversation, Failure> {
    let mut conversation = Conversation::new(engine)?;
    if let Some(system) = system {
        conversation.add(Message::new("system", system));
    }
    Ok(conversation)
}

/// Reads a message; lines that end with a backslash are continued. `None` at the end of the input.
fn line(input: &mut impl BufRead) -> Result<Option<String>, Failure> {
    let mut text = String::new();
    loop {
        eprint!("{} ", if text.is_empty() { ">" } else { "…" });
        let _ = std::io::stderr().flush();
        let mut line = String::new();
        let n = input.read_line(&mut line).map_err(|e| Failure::new(format!("standard input: {e}")))?;
        if n == 0 {
            return Ok((!text.is_empty()).then_some(text));
        }
        let line = line.trim_end_matches(['\n', '\r']);
        match line.strip_suffix('\\') {
            Some(line) => {
                text.push_str(line);
                text.push('\n');
            }
            None => {
                text.push_str(line);
                return Ok(Some(text));
            }
        }
    }
}

impl Chat {
    /// Does what was asked for; false ends the program.
    fn take(&mut self, engine: &Engine, system: Option<&str>, input: Input) -> Result<bool, Failure> {
        match input {
            Input::Message(text) => self.answer(&text)?,
            Input::Undo => match self.conversation.undo() {
                Some(text) => eprintln!("taken back: {text}"),
                None => eprintln!("there is no message to take back"),
            },
            Input::Retry => match self.conversation.undo() {
                Some(text) => self.answer(&text)?,
                None => eprintln!("there is no message to answer"),
            },
            Input::Clear => self.conversation = begin(engine, system)?,
            Input::Save(file) => {
                let json = serde_json::to_string_pretty(self.conversation.messages()).map_err(Failure::new)?;
                longreach_models::write_atomically(file.as_ref(), |out| out.write_all(json.as_bytes()))?;
                eprintln!("saved {} messages", self.conversation.messages().len());
            }
            Input::Load(file) => {
                let json = std::fs::read_to_string(&file).map_err(|e| Failure::new(format!("{file}: {e}")))?;
                let messages: Vec<Message> = serde_json::from_str(&json)
                    .map_err(|e| Failure::new(format!("{file}: want a list of messages: {e}")))?;
                eprintln!("loaded {} messages", messages.len());
                let mut conversation = begin(engine, None)?;
                messages.into_iter().for_each(|message| conversation.add(message));
                self.conversation = conversation;
            }
            Input::Help => eprintln!("{HELP}"),
            Input::Exit => return Ok(false),
            Input::Unknown(word) => eprintln!("there is no command {word}: /help lists the commands"),
        }
        Ok(true)
    }

    /// Streams the answer to a message to standard output.
    fn answer(&mut self, text: &str) -> Result<(), Failure> {
        let cancel = Cancel::default();
        self.conversation.set_cancel(cancel.clone());
        if let Ok(mut under_way) = self.under_way.lock() {
            *under_way = Some(cancel.clone());
        }
        let mut out = std::io::stdout().lock();
        let mut failed = None;
        let reply = self.conversation.ask(text, &mut self.sampler, self.most, |piece| {
            if let Err(e) = out.write_all(piece.as_bytes()).and_then(|()| out.flush()) {
                failed.get_or_insert(e);
                cancel.cancel();
            }
        });
        if let Ok(mut under_way) = self.under_way.lock() {
            *under_way = None;
        }
        match failed {
            Some(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Some(e) => return Err(Failure::new(format!("standard output: {e}"))),
            None => {}
        }
        let reply = reply?;
        let _ = writeln!(out);
        match reply.ended {
            Ended::Full => {
                eprintln!("(the answer was cut after {} tokens: -n sets how many there may be)", reply.written)
            }
            Ended::Cancelled => eprintln!("(stopped)"),
            Ended::Stopped => {}
        }
        Ok(())
    }
}
