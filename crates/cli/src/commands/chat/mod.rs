//! `longreach chat`

use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use longreach_engine::{Cancel, Conversation, Ended, Engine, Error, Message, Piece, Reply, Sampler};

use crate::failure::Failure;
use crate::kept::{CacheArgs, Kept};
use crate::model::{ContextArgs, ModelArgs};
use crate::sampling::SamplingArgs;
use crate::speculation::{self, SpeculationArgs};

mod input;
mod terminal;

use input::{COMMANDS, Input};
use terminal::{Line, Lines};

/// Talk to a model that was trained for conversations
///
/// The model needs a chat template (`longreach list` has the model types; most instruct models of the Hub have one). A line is a message; end it with a
/// backslash to continue it on the next, or paste several lines. Ctrl-C stops an answer, and Ctrl-D ends the program. What a model thinks before it answers is
/// shown dim and left out of later turns. The state of the model is kept after every turn: earlier turns are not read again, and /undo reads nothing. Lines
/// are kept in `longreach/chat_history` in the user's folder of program states. Input from a pipe is one message, and standard output then has the answer alone.
#[derive(clap::Args)]
#[command(after_long_help = long_help())]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    context: ContextArgs,
    /// System message, which says how the model should answer
    #[arg(long, short, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    speculation: SpeculationArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Keep no history of the lines
    #[arg(long)]
    no_history: bool,
    /// Print the number of tokens and the speed after each answer
    #[arg(long, short)]
    verbose: bool,
}

/// Bytes of states in memory with a directory of states.
const KEPT_BYTES: usize = 512 << 20;

struct Chat {
    conversation: Conversation,
    kept: Option<Kept>,
    system: Option<String>,
    sampler: Sampler,
    most: usize,
    verbose: bool,
    /// The flag that ends the answer under way, for Ctrl-C.
    under_way: Arc<Mutex<Option<Cancel>>>,
}

/// The commands and examples at the end of the help.
fn long_help() -> String {
    let commands: String = COMMANDS.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "\
Commands:
{commands}
Examples:
  longreach chat --model HuggingFaceTB/SmolLM2-135M-Instruct
  longreach chat --model Qwen/Qwen3-0.6B --system \"Answer in one sentence.\" --temperature 0
  longreach chat --model Qwen/Qwen3-0.6B --cache-dir ~/.cache/longreach/states
  cat report.txt | longreach chat --model google/gemma-3-1b-it --system \"Summarise the text.\" --speculate lookup"
    )
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    // Validate the options before the model is loaded, which can take minutes.
    args.sampling.check()?;
    let engine = args.model.load_for(&args.context)?;
    let mut chat = Chat::new(&args, &engine)?;
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
        chat.answer(text.trim_end())?;
        chat.close();
        return Ok(());
    }
    eprintln!("/help lists the commands, Ctrl-D ends the conversation");
    let mut lines = Lines::open(!args.no_history)?;
    loop {
        let line = match lines.next()? {
            Line::Text(line) => line,
            Line::Interrupted => {
                eprintln!("(Ctrl-D or /exit ends the program)");
                continue;
            }
            Line::End => {
                chat.close();
                return Ok(());
            }
        };
        if line.trim().is_empty() {
            continue;
        }
        match chat.take(Input::parse(&line)) {
            Ok(true) => {}
            Ok(false) => {
                chat.close();
                return Ok(());
            }
            // A mistake ends no conversation.
            Err(failure) => {
                failure.report();
            }
        }
    }
}

impl Chat {
    fn new(args: &Args, engine: &Engine) -> Result<Self, Failure> {
        let mut conversation = Conversation::new(engine)?;
        conversation.stops = args.sampling.stops(engine);
        conversation.speculation = args.speculation.speculation(engine)?;
        let kept = args.cache.open(engine, KEPT_BYTES)?;
        if let Some(kept) = &kept {
            conversation.set_texts(kept.texts.clone());
        }
        let mut chat = Self {
            conversation,
            kept,
            system: args.system.clone(),
            sampler: Sampler::new(args.sampling.options(engine)?)?,
            most: args.sampling.most(engine),
            verbose: args.verbose,
            under_way: Arc::default(),
        };
        chat.begin();
        Ok(chat)
    }

    /// Waits until the states are written.
    fn close(&self) {
        if let Some(kept) = &self.kept {
            kept.close();
        }
    }

    /// Begins a conversation with its system message.
    fn begin(&mut self) {
        self.conversation.clear();
        if let Some(system) = &self.system {
            self.conversation.add(Message::new("system", system));
        }
    }

    /// Does what was asked for; false ends the program.
    fn take(&mut self, input: Input) -> Result<bool, Failure> {
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
            Input::Clear => self.begin(),
            Input::Save(file) => {
                self.save(file.as_ref())?;
                eprintln!("saved {} messages", self.conversation.messages().len());
            }
            Input::Load(file) => {
                self.load(file.as_ref())?;
                eprintln!("loaded {} messages", self.conversation.messages().len());
            }
            Input::Help => eprintln!("{COMMANDS}"),
            Input::Exit => return Ok(false),
            Input::NoFile(word) => eprintln!("{word} needs a file: {word} FILE"),
            Input::Unknown(word) => eprintln!("there is no command {word}: /help lists the commands"),
        }
        Ok(true)
    }

    /// Saves the conversation with the state of the model, or its messages alone as JSON.
    fn save(&self, file: &Path) -> Result<(), Failure> {
        if file.extension().is_none_or(|extension| extension != "json") {
            return Ok(self.conversation.save(file, &self.sampler)?);
        }
        let json = serde_json::to_string_pretty(self.conversation.messages()).map_err(Failure::new)?;
        Ok(longreach_models::write_atomically(file, |out| out.write_all(json.as_bytes()))?)
    }

    fn load(&mut self, file: &Path) -> Result<(), Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::new(format!("{}: {e}", file.display()));
        // A state begins with the length of its header, which is a multiple of eight; a bracket is 91.
        let mut first = [0];
        let open = std::fs::File::open(file).map_err(|e| failed(&e))?;
        if open.take(1).read(&mut first).map_err(|e| failed(&e))? == 0 || first != *b"[" {
            return Ok(self.conversation.load(file, &mut self.sampler)?);
        }
        let json = std::fs::read_to_string(file).map_err(|e| failed(&e))?;
        let messages: Vec<Message> =
            serde_json::from_str(&json).map_err(|e| failed(&format!("want a list of messages: {e}")))?;
        self.conversation.clear();
        messages.into_iter().for_each(|message| self.conversation.add(message));
        Ok(())
    }

    /// Streams the answer to a message to standard output.
    fn answer(&mut self, text: &str) -> Result<(), Failure> {
        let cancel = Cancel::default();
        self.conversation.set_cancel(cancel.clone());
        if let Ok(mut under_way) = self.under_way.lock() {
            *under_way = Some(cancel.clone());
        }
        let (start, speculation) = (Instant::now(), &self.conversation.speculation);
        let before = [speculation.proposed, speculation.accepted];
        let mut shown = Shown::new();
        let mut failed = None;
        let reply = self.conversation.ask(text, &mut self.sampler, self.most, |piece| {
            if let Err(e) = shown.piece(piece) {
                failed.get_or_insert(e);
                cancel.cancel();
            }
        });
        if let Ok(mut under_way) = self.under_way.lock() {
            *under_way = None;
        }
        let ended = shown.end();
        match failed.or(ended.err()) {
            Some(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Some(e) => return Err(Failure::new(format!("standard output: {e}"))),
            None => {}
        }
        let reply = match reply {
            Err(Error::Cancelled) => {
                eprintln!("(stopped before an answer: the message was not kept)");
                return Ok(());
            }
            reply => reply?,
        };
        match reply.ended {
            Ended::Full => {
                eprintln!("(the answer was cut after {} tokens: -n sets how many there may be)", reply.written)
            }
            Ended::NoRoom => {
                eprintln!(
                    "(the answer was cut: the conversation fills the context of the model; /undo or /clear makes room)"
                )
            }
            Ended::Cancelled => eprintln!("(stopped)"),
            Ended::Stopped => {}
        }
        if self.verbose {
            self.report(&reply, start, before);
        }
        Ok(())
    }

    /// The numbers of an answer; `before` are those of the proposals before it.
    fn report(&self, reply: &Reply, start: Instant, before: [u64; 2]) {
        let seconds = start.elapsed().as_secs_f64();
        let proposals = speculation::report(&self.conversation.speculation, before);
        eprintln!("(read {} tokens and wrote {} in {seconds:.1} s{proposals})", reply.read, reply.written);
    }
}

/// An answer on standard output.
struct Shown {
    out: std::io::StdoutLock<'static>,
    /// Whether thoughts are shown, which is on terminals alone.
    thoughts: bool,
    thinking: bool,
}

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

impl Shown {
    fn new() -> Self {
        let out = std::io::stdout().lock();
        let thoughts = out.is_terminal();
        Self { out, thoughts, thinking: false }
    }

    fn piece(&mut self, piece: Piece<'_>) -> std::io::Result<()> {
        let (text, thinking) = match piece {
            Piece::Thinking(_) if !self.thoughts => return Ok(()),
            Piece::Thinking(text) => (text, true),
            Piece::Text(text) => (text, false),
        };
        if thinking != self.thinking {
            self.thinking = thinking;
            // The answer begins below the thoughts.
            self.out.write_all(if thinking { DIM } else { "\x1b[0m\n\n" }.as_bytes())?;
        }
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Ends the line.
    fn end(mut self) -> std::io::Result<()> {
        if self.thinking {
            self.out.write_all(PLAIN.as_bytes())?;
        }
        self.out.write_all(b"\n")?;
        self.out.flush()
    }
}
