//! How a command fails: one line on stderr, exit status 2.

use std::fmt::Display;

/// The message of a command that failed.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(message: impl Display) -> Self {
        Self(message.to_string())
    }

    /// A failure of all processes of a job, of which the first one says what it is.
    pub(crate) fn of_all(rank: usize, message: impl Display) -> Self {
        if rank == 0 {
            return Self::new(message);
        }
        // The first process that ends ends the job: it must not be one that says nothing.
        std::thread::sleep(std::time::Duration::from_secs(1));
        Self(String::new())
    }

    pub(crate) fn report(self) -> u8 {
        if self.0.is_empty() {
            return 2;
        }
        // Messages of libraries may span lines; the report never does.
        let line = self.0.split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
        match crate::ranks::job() {
            Some(ranks) => eprintln!("longreach: rank {}: {line}", ranks.rank()),
            None => eprintln!("longreach: {line}"),
        }
        2
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}
