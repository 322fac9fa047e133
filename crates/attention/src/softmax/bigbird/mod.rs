//! BigBird: a window of three blocks, the first and the last block, and random blocks.
//!
//! Of `n` blocks, the first and the last see everything; block `i` sees `i − 1`, `i`, `i + 1`, the first, the last, and `r` random ones. The second
//! and the last but one see the first three, or the last three, and the block at the other end.
//! O(T (5 + r) b H D) time. Zaheer et al. 2020, §2 and appendix D.
//!
//! The rules are Hugging Face's to the block: outside training all "random" blocks are block 0, whose keys so count `1 + r` times (their
//! checkpoints are used that way); in training they are drawn from numpy's generator, seeded with the number of the layer, and a block drawn
//! that is seen already counts once more.

use serde::Deserialize;

use super::{Layout, Sizes};
use crate::{Error, error};

mod naive;
mod pattern;

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BigBird {
    /// Tokens of a block.
    pub block: usize,
    /// `r`
    pub random_blocks: usize,
    /// In training, the number of the layer; outside, nothing.
    pub seed: Option<u32>,
    /// The longest sequence of the model: for three lengths the draw depends on it.
    pub max_length: usize,
}

impl Default for BigBird {
    fn default() -> Self {
        Self { block: 64, random_blocks: 3, seed: None, max_length: 4096 }
    }
}

const OP: &str = "bigbird";
/// The longest sequence a model may name: the draw for all of it is made.
const LONGEST: usize = 1 << 24;

impl BigBird {
    /// The layout over a sequence: at least 4 blocks. The last may be there in part.
    pub fn layout(&self, of: &Sizes) -> Result<Layout, Error> {
        error::parameter(OP, "block", self.block > 0, self.block, "at least 1")?;
        of.within(OP)?;
        let blocks = of.keys.div_ceil(self.block);
        error::parameter(
            OP,
            "tokens",
            blocks >= 4,
            of.keys,
            format!("at least {}: 4 blocks", self.block.saturating_mul(3).saturating_add(1)),
        )?;
        let few = self.random_blocks <= blocks;
        error::parameter(
            OP,
            "random_blocks",
            few,
            self.random_blocks,
            format!("at most the {blocks} blocks there are"),
        )?;
        let short = self.max_length <= LONGEST;
        error::parameter(OP, "max_length", short, self.max_length, format!("at most {LONGEST}"))?;
        let random = self.random(of.heads, blocks)?;
        let heads = if self.seed.is_some() { of.heads } else { 1 };
        Layout::new(OP, self.block, blocks, heads, (false, true), |h, i, row| {
            row.extend(naive::fixed(i, blocks));
            if i > 0 && i < blocks - 1 {
                row.extend(&random[h][i - 1]);
            }
        })
    }
}
