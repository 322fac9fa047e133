//! Lines from a terminal: editing, history, messages of several lines.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, Config, Context, Editor, Helper};

use super::input;
use crate::failure::Failure;

/// Lines that are kept of earlier conversations.
const HISTORY: usize = 1000;

/// A message, or why there is none.
pub(super) enum Line {
    Text(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D.
    End,
}

/// The lines that a user edits.
pub(super) struct Lines {
    editor: Editor<Continued, FileHistory>,
    /// The file of the history; `None` if none is kept.
    file: Option<PathBuf>,
}

impl Lines {
    /// Opens the terminal; with `history`, lines of earlier conversations are read from the user's folder of program states, and
    /// new ones are added to it.
    pub(super) fn open(history: bool) -> Result<Self, Failure> {
        let config = Config::builder().behavior(Behavior::PreferTerm).bracketed_paste(true);
        let config = config.max_history_size(HISTORY)?.history_ignore_dups(true)?.build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Continued));
        let mut file = if history { file() } else { None };
        if let Some(known) = &file
            && let Err(error) = load(&mut editor, known)
        {
            eprintln!("note: no history is kept: {}: {error}", known.display());
            file = None;
        }
        Ok(Self { editor, file })
    }

    /// Reads a message. A line that ends with a backslash is continued on the next, and what is pasted stays together.
    pub(super) fn next(&mut self) -> Result<Line, Failure> {
        let text = match self.editor.readline("> ") {
            Ok(text) => text,
            Err(ReadlineError::Eof) => return Ok(Line::End),
            Err(ReadlineError::Interrupted) => return Ok(Line::Interrupted),
            Err(error) => return Err(error.into()),
        };
        if self.editor.add_history_entry(&*text)?
            && let Some(file) = &self.file
            && let Err(error) = self.editor.append_history(file)
        {
            eprintln!("note: no history is kept: {}: {error}", file.display());
            self.file = None;
        }
        Ok(Line::Text(text.replace("\\\n", "\n")))
    }
}

/// Reads a history, and makes the folder of one that is not there yet.
fn load(editor: &mut Editor<Continued, FileHistory>, file: &Path) -> rustyline::Result<()> {
    if file.exists() {
        return editor.load_history(file);
    }
    file.parent().map_or(Ok(()), |folder| Ok(std::fs::create_dir_all(folder)?))
}

/// The file of the history, in the user's folder of program states.
fn file() -> Option<PathBuf> {
    let folder = dirs::state_dir().or_else(dirs::data_local_dir)?;
    Some(folder.join("longreach").join("chat_history"))
}

/// Continues lines that end with a backslash, and completes the names of commands.
struct Continued;

impl Helper for Continued {}

impl Highlighter for Continued {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Borrowed(hint)
    }
}

impl Hinter for Continued {
    type Hint = String;
}

impl Validator for Continued {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let open = context.input().ends_with('\\');
        Ok(if open { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Continued {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let begun = line.get(..at).filter(|begun| begun.starts_with('/')).unwrap_or("\n");
        let names = input::names().filter(|name| name.starts_with(begun));
        Ok((0, names.map(str::to_owned).collect()))
    }
}
