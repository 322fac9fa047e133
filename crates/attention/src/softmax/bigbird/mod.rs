//! BigBird: a window of three blocks, the first and the last block, and random blocks.
//!
//! Of `n` blocks, the first and the last attend to all; block `i` attends to `i − 1`, `i`, `i + 1`, the first, the
//! last, and `r` random ones. The second and the last but one attend to the first three or the last three, and to the
//! block at the other end. O(T (5 + r) b H D) time. Zaheer et al. 2020, §2 and appendix D.
//!
//! The rules are exactly Hugging Face's. Outside training all "random" blocks are block 0, whose keys then count
//! `1 + r` times (their checkpoints are used that way); in training they are drawn from numpy's generator, seeded with
//! the layer's index, and a drawn block that is already attended to counts once more.

use serde::Deserialize;

use super::{Layout, Sizes};
use crate::{Error, error};

mod naive;
pub(crate) mod operation;
mod pattern;

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BigBird {
    /// Block size in tokens.
    pub block: usize,
    /// `r`
    pub random_blocks: usize,
    /// The layer's index in training; `None` outside training.
    pub seed: Option<u32>,
    /// The model's maximum sequence length, on which the draw depends for three lengths.
    pub max_length: usize,
}

impl Default for BigBird {
    fn default() -> Self {
        Self { block: 64, random_blocks: 3, seed: None, max_length: 4096 }
    }
}

const OP: &str = "bigbird";
/// The largest permitted `max_length`: blocks are drawn for all of it.
const LONGEST: usize = 1 << 24;

impl BigBird {
    /// The layout over a sequence of at least 4 blocks; the last may be partial. An error if it is too short.
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
