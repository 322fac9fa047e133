//! How a command fails: one line on stderr, exit status 2.

use std::fmt::Display;

/// The message of a command that failed.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(message: impl Display) -> Self {
        Self(message.to_string())
    }

    pub(crate) fn report(self) -> u8 {
        // Messages of libraries may span lines; the report never does.
        let line = self.0.split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
        eprintln!("longreach: {line}");
        2
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}
