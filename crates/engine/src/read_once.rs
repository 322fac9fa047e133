//! A long text that is read once, and whose state is kept in a file for the next time.

use std::path::Path;

use crate::session::CHUNK;
use crate::state::With;
use crate::{Engine, Error, Sampler, Sampling, Session};

/// How the state after a text was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The text was read.
    Read,
    /// The file had the state after this text; nothing was read.
    Resumed,
    /// The file had the state after another text. The text was read, and the file replaced.
    Replaced,
}

impl Engine {
    /// The session after the tokens `ids`: restored from `file` if that has their state, and otherwise read and saved there. Both continue with the same bits.
    /// `progress` is called with the number of tokens read.
    ///
    /// An error if `ids` is empty or cannot be read, or if the file cannot be written, is not a state, or belongs to another model.
    pub fn read_or_resume(
        &self,
        ids: &[u32],
        file: &Path,
        progress: impl FnMut(u64),
    ) -> Result<(Session, Start), Error> {
        let mut hasher = blake3::Hasher::new();
        ids.iter().for_each(|id| {
            hasher.update(&id.to_le_bytes());
        });
        let hash = hasher.finalize().to_hex().to_string();
        let mut start = Start::Read;
        if file.exists() {
            let resumed = self.resume(file)?;
            if resumed.source.as_ref() == Some(&hash) && resumed.session.tokens() == ids.len() as u64 {
                return Ok((resumed.session, Start::Resumed));
            }
            start = Start::Replaced;
        }
        let mut session = self.session();
        session.read_showing(ids, progress)?;
        session.save_with(
            file,
            &Sampler::new(Sampling::greedy())?,
            &With { source: Some(&hash), ..With::default() },
        )?;
        Ok((session, start))
    }
}

impl Session {
    /// As [`Session::read`]; `progress` is called with the number of tokens read, after each [`CHUNK`] of them.
    pub fn read_showing(&mut self, ids: &[u32], mut progress: impl FnMut(u64)) -> Result<(), Error> {
        self.check_room(ids.len())?;
        let mut done = 0;
        for chunk in ids.chunks(CHUNK) {
            self.read(chunk)?;
            done += chunk.len() as u64;
            progress(done);
        }
        Ok(())
    }
}
