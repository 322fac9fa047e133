//! What a line of a conversation asks for.

/// The commands, as `/help` lists them.
pub(super) const COMMANDS: &str = "\
/undo            take the last message and its answer back
/retry           answer the last message again
/clear           start anew, with the same system message
/save FILE       save the conversation with the state of the model, or its messages if the name ends in .json
/load FILE       continue a saved conversation
/help            list these commands
/exit            end the program, as does Ctrl-D";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Message(String),
    Undo,
    Retry,
    Clear,
    Save(String),
    Load(String),
    Help,
    Exit,
    /// A command that needs a file.
    NoFile(String),
    Unknown(String),
}

impl Input {
    pub(super) fn parse(line: &str) -> Self {
        let line = line.trim_end();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match (word, rest) {
            ("/undo", "") => Input::Undo,
            ("/retry", "") => Input::Retry,
            ("/clear", "") => Input::Clear,
            ("/help" | "/?", "") => Input::Help,
            ("/exit" | "/quit" | "/bye", "") => Input::Exit,
            ("/save" | "/load", "") => Input::NoFile(word.into()),
            ("/save", file) => Input::Save(file.into()),
            ("/load", file) => Input::Load(file.into()),
            // A path or a comment is a message.
            (word, _) if word.strip_prefix('/').is_some_and(is_word) => Input::Unknown(word.into()),
            _ => Input::Message(line.into()),
        }
    }
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && word.chars().all(char::is_alphabetic)
}

/// The names of the commands.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.lines().filter_map(|line| line.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_messages() {
        assert_eq!(Input::parse("/save a b.state "), Input::Save("a b.state".into()));
        assert_eq!(Input::parse("/load"), Input::NoFile("/load".into()));
        assert_eq!(Input::parse("/sing"), Input::Unknown("/sing".into()));
        for message in ["/etc/hosts is what?", "// a comment", "undo", "/", "/undo that"] {
            let parsed = Input::parse(message);
            let want =
                if message == "/undo that" { Input::Unknown("/undo".into()) } else { Input::Message(message.into()) };
            assert_eq!(parsed, want);
        }
        for name in names().filter(|name| !["/save", "/load"].contains(name)) {
            assert!(!matches!(Input::parse(name), Input::Unknown(_) | Input::Message(_)), "{name}");
        }
    }
}
