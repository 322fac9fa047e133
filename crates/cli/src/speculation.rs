//! Options of speculative decoding, which `generate` and `chat` share.

use std::ffi::OsString;

use clap::ValueEnum;
use longreach_engine::{Engine, Speculation};

use crate::failure::Failure;
use crate::model::load;

#[derive(clap::Args)]
pub(crate) struct SpeculationArgs {
    /// Propose tokens and read several at once, which changes nothing of the text
    ///
    /// A proposal is kept if the model samples the same token. This is faster where many are kept: lookup proposes what followed the last tokens earlier in the
    /// text, which helps with texts that repeat or quote themselves, such as code and summaries.
    #[arg(long, value_enum, value_name = "HOW", conflicts_with = "draft")]
    speculate: Option<How>,
    /// Propose the tokens of a smaller model with the same vocabulary: a directory, weights file or Hub id
    ///
    /// As with --speculate, the text is the same, token by token.
    #[arg(long, value_name = "MODEL")]
    draft: Option<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    /// What followed the last tokens earlier in the text
    Lookup,
}

impl SpeculationArgs {
    /// What proposes tokens to a model; loads the draft model.
    pub(crate) fn speculation(&self, engine: &Engine) -> Result<Speculation, Failure> {
        Ok(match (&self.speculate, &self.draft) {
            (_, Some(draft)) => Speculation::draft(engine, &load(Some(draft), None)?)?,
            (Some(How::Lookup), None) => Speculation::lookup(engine)?,
            (None, None) => Speculation::none(),
        })
    }
}

/// How many proposals were kept, as a part of a line of numbers; empty without speculation. `before` are the numbers of proposed
/// and accepted tokens that do not count.
pub(crate) fn report(speculation: &Speculation, before: [u64; 2]) -> String {
    if !speculation.is_on() {
        return String::new();
    }
    let [proposed, accepted] = [speculation.proposed - before[0], speculation.accepted - before[1]];
    format!(", accepted {accepted} of {proposed} proposed tokens")
}
