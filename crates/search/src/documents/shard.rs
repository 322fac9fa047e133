//! Parts of an input for several machines: every n-th document.

use std::fmt;
use std::str::FromStr;

/// Every `of`-th document, beginning with number `index`, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    of: u64,
}

impl Shard {
    /// Whether the document at a place of the input, counted from 0, is one of them.
    pub fn holds(self, place: u64) -> bool {
        place % self.of == self.index
    }

    /// The place in the input of the `n`-th document of the shard, both counted from 0.
    pub fn place(self, n: u64) -> u64 {
        n.saturating_mul(self.of).saturating_add(self.index)
    }

    /// Its number, counted from 0.
    pub fn index(self) -> u64 {
        self.index
    }

    /// The number of all shards.
    pub fn of(self) -> u64 {
        self.of
    }
}

/// As `3/16`: the third of sixteen.
impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("want a shard and their number, such as 3/16, found `{text}`");
        let (number, of) = text.split_once('/').ok_or_else(wrong)?;
        let (number, of) = (number.parse::<u64>().map_err(|_| wrong())?, of.parse::<u64>().map_err(|_| wrong())?);
        if number == 0 || number > of {
            return Err(format!("shards are counted from 1 to their number, found `{text}`"));
        }
        Ok(Self { index: number - 1, of })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.of)
    }
}
