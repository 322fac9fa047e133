//! `chat` at a terminal: a pseudo-terminal types, and reads what is shown.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::chat::{TEMPLATE, model};
use crate::{stdout, text};

struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    keys: Box<dyn Write + Send>,
    /// All that was shown.
    shown: Arc<Mutex<Vec<u8>>>,
    /// Up to here it was waited for.
    at: usize,
    _master: Box<dyn MasterPty + Send>,
}

/// The longest that a test waits for a text.
const PATIENCE: Duration = Duration::from_secs(120);

impl Terminal {
    /// Starts `chat`, with the user's states in a folder, and waits for its prompt.
    fn chat(args: &[&str], states: &Path) -> Self {
        let size = PtySize { rows: 40, cols: 200, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).expect("a pseudo-terminal");
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_longreach"));
        command.arg("chat");
        command.args(args);
        command.env("TERM", "xterm");
        command.env("XDG_STATE_HOME", states);
        command.env("HOME", states);
        command.env_remove("LONGREACH_ISA");
        let child = pair.slave.spawn_command(command).expect("the program starts");
        drop(pair.slave);
        let mut from = pair.master.try_clone_reader().expect("a reader");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // The end of a pseudo-terminal is an error on Linux.
            while let Ok(n @ 1..) = from.read(&mut piece) {
                all.lock().expect("no panic").extend_from_slice(&piece[..n]);
            }
        });
        let keys = pair.master.take_writer().expect("a writer");
        let mut terminal = Self { child, keys, shown, at: 0, _master: pair.master };
        terminal.wait("Ctrl-D ends the conversation");
        terminal.wait("> ");
        terminal
    }

    fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).and_then(|()| self.keys.flush()).expect("the terminal is open");
    }

    /// Waits until a text is shown behind what was waited for before, and returns what is shown before it.
    #[track_caller]
    fn wait(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let shown = self.shown.lock().expect("no panic").clone();
            let new = &shown[self.at..];
            if let Some(found) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.at += found + text.len();
                return String::from_utf8_lossy(&new[..found]).into_owned();
            }
            assert!(begun.elapsed() < PATIENCE, "no {text:?} in {:?}", String::from_utf8_lossy(new));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Types a message or a command and waits for what it shows and for the next prompt; returns what is shown before.
    #[track_caller]
    fn ask(&mut self, keys: &str, answer: &str) -> String {
        self.type_keys(keys);
        let before = self.wait(answer);
        self.wait("> ");
        before
    }

    /// Ends the program with Ctrl-D.
    fn end(mut self) {
        self.type_keys("\x04");
        assert!(self.child.wait().expect("it ends").success());
    }

    /// The messages, by `/save`.
    fn messages(&mut self, folder: &Path) -> Vec<(String, String)> {
        let file = folder.join("messages.json");
        self.ask(&format!("/save {}\r", text(&file)), "saved");
        let json: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(file).expect("saved")).expect("JSON");
        let of = |message: &serde_json::Value, field: &str| message[field].as_str().expect("a text").to_owned();
        let messages = json.as_array().expect("a list").iter();
        messages.map(|message| (of(message, "role"), of(message, "content"))).collect()
    }

    fn asked(&mut self, folder: &Path) -> Vec<String> {
        self.messages(folder).into_iter().filter(|(role, _)| role == "user").map(|(_, content)| content).collect()
    }
}

const CUT: &str = "(the answer was cut after 6 tokens";

#[test]
fn lines_are_edited_continued_and_pasted() {
    let folder = tempfile::tempdir().expect("a directory");
    let model = model(folder.path(), TEMPLATE);
    let options = ["--model", text(&model), "-n", "6", "--temperature", "0"];
    let mut chat = Terminal::chat(&options, folder.path());
    // Backspaces take a word back.
    let shown = chat.ask("What is a tree\x7f\x7f\x7f\x7ftrait?\r", CUT);
    let prompt = "user: What is a trait?\nassistant:";
    let whole = stdout(&[&["generate", "--prompt", prompt], &options[..]].concat());
    let answer = whole.trim_end().replace('\n', "\r\n");
    assert!(!answer.is_empty() && shown.contains(&answer), "{shown:?}: want {answer:?}");
    chat.ask("One \\\rtwo\r", CUT);
    chat.ask("\x1b[200~three\nfour\x1b[201~\r", CUT);
    let asked = chat.asked(folder.path());
    assert_eq!(asked, ["What is a trait?", "One \ntwo", "three\nfour"]);
    chat.ask("/undo\r", "taken back: three");
    chat.ask("/retry\r", CUT);
    assert_eq!(chat.asked(folder.path()), ["What is a trait?", "One \ntwo"]);
    chat.ask("/he\t\r", "take the last message and its answer back");
    chat.ask("/sing\r", "there is no command /sing");
    chat.ask("/save\r", "/save needs a file");
    // Ctrl-C at the prompt drops the line.
    chat.ask("half a line\x03", "(Ctrl-D or /exit ends the program)");
    chat.ask("/clear\r", "/clear");
    assert_eq!(chat.asked(folder.path()), [""; 0]);
    chat.type_keys("/exit\r");
    assert!(chat.child.wait().expect("it ends").success());
}

#[test]
fn an_interrupted_answer_ends_and_the_conversation_goes_on() {
    let folder = tempfile::tempdir().expect("a directory");
    let model = model(folder.path(), TEMPLATE);
    let options = ["--model", text(&model), "-n", "1000000", "--temperature", "1.5", "--logit-bias", "0=-inf"];
    let mut chat = Terminal::chat(&options, folder.path());
    chat.type_keys("What is a trait?\r");
    chat.wait("\n");
    // Some of the answer is there.
    let begun = Instant::now();
    while chat.shown.lock().expect("no panic").len() < chat.at + 8 {
        assert!(begun.elapsed() < PATIENCE, "no answer");
        std::thread::sleep(Duration::from_millis(5));
    }
    chat.ask("\x03", "(stopped)");
    let messages = chat.messages(folder.path());
    assert!(messages.len() == 2 && !messages[1].1.is_empty(), "{messages:?}");
    chat.end();
}

#[test]
fn a_saved_conversation_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().expect("a directory");
    let model = model(folder.path(), TEMPLATE);
    let state = folder.path().join("talk.state");
    let options = ["--model", text(&model), "-n", "6", "--temperature", "0.9", "--seed", "3", "--no-history"];
    let mut first = Terminal::chat(&options, folder.path());
    first.ask("What is a trait?\r", CUT);
    first.ask(&format!("/save {}\r", text(&state)), "saved 2 messages");
    first.ask("And a lifetime?\r", CUT);
    let mut second = Terminal::chat(&options, folder.path());
    second.ask(&format!("/load {}\r", text(&state)), "loaded 2 messages");
    second.ask("And a lifetime?\r", CUT);
    let want = first.messages(folder.path());
    assert_eq!(second.messages(folder.path()), want);
    assert_eq!(want.len(), 4);
    second.ask("/load /nonexistent\r", "longreach: /nonexistent: ");
    assert_eq!(second.messages(folder.path()), want);
    first.end();
    second.end();
    assert!(!folder.path().join("longreach").exists(), "a history was kept");
}

#[test]
fn lines_are_kept_for_the_next_conversation() {
    let folder = tempfile::tempdir().expect("a directory");
    let model = model(folder.path(), TEMPLATE);
    let options = ["--model", text(&model), "-n", "6", "--temperature", "0"];
    let mut first = Terminal::chat(&options, folder.path());
    first.ask("What is a trait?\r", CUT);
    first.end();
    let mut second = Terminal::chat(&options, folder.path());
    // The arrow up is the last line.
    second.ask("\x1b[A\r", CUT);
    assert_eq!(second.asked(folder.path()), ["What is a trait?"]);
    second.end();
}

#[test]
fn thoughts_are_dim_and_left_out_of_later_turns() {
    let folder = tempfile::tempdir().expect("a directory");
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: <think>{# </think> #}";
    let model = model(folder.path(), template);
    let options = ["--model", text(&model), "-n", "6", "--temperature", "0"];
    let mut chat = Terminal::chat(&options, folder.path());
    let shown = chat.ask("What is a trait?\r", CUT);
    let (_, thought) = shown.split_once("\x1b[2m").expect("dim text");
    assert!(thought.contains("\x1b[0m"), "{shown:?}");
    let messages = chat.messages(folder.path());
    assert_eq!(messages[1], ("assistant".to_owned(), String::new()));
    chat.end();
}
