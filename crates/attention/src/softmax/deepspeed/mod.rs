//! The block layouts of DeepSpeed, read from the `sparse_attention` block of its configuration as it stands.
//!
//! Every rule is that of its `SparsityConfig` classes, to the block, random ones included: they follow Python's generator from a given seed.
//! Where attention is `unidirectional` DeepSpeed hides the future by whole blocks only and leaves the rest to the caller's mask; here
//! tokens behind the query are hidden as well, unless [`Hidden::Blocks`] is asked for.
//! O(visited blocks × b² H D) time. Rajbhandari et al. 2020, DeepSpeed sparse attention; Child et al. 2019; Zaheer et al. 2020; Beltagy et al. 2020.

use serde::Deserialize;

use super::{Layout, Sizes};
use crate::{Error, error};

mod naive;
mod pattern;
mod read;

pub use read::without_comments;

const OP: &str = "deepspeed";

/// Whether a block of queries sees the blocks behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Not those.
    Unidirectional,
    /// All.
    Bidirectional,
}

/// What of the future `unidirectional` attention hides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hidden {
    /// All tokens behind the query.
    #[default]
    Tokens,
    /// Whole blocks behind the query's own, as DeepSpeed without a mask: of its own block a query sees all tokens.
    Blocks,
}

/// A configuration. Fields are named and mean what they do in DeepSpeed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are DeepSpeed's, documented there and below by what they do")]
pub enum Config {
    /// All blocks.
    Dense {
        #[serde(default = "sixteen")]
        block: usize,
        #[serde(default)]
        different_layout_per_head: bool,
    },
    /// Stretches of local blocks, whose last ones all see.
    Fixed {
        #[serde(default = "sixteen")]
        block: usize,
        #[serde(default)]
        different_layout_per_head: bool,
        #[serde(default = "four")]
        num_local_blocks: usize,
        #[serde(default = "one")]
        num_global_blocks: usize,
        #[serde(default = "both")]
        attention: Direction,
        #[serde(default)]
        horizontal_global_attention: bool,
        #[serde(default = "one")]
        num_different_global_patterns: usize,
    },
    /// Stretches of given lengths, given global blocks, and random ones.
    Variable {
        #[serde(default = "sixteen")]
        block: usize,
        #[serde(default)]
        different_layout_per_head: bool,
        #[serde(default)]
        num_random_blocks: usize,
        #[serde(default = "one_stretch")]
        local_window_blocks: Vec<usize>,
        #[serde(default = "first")]
        global_block_indices: Vec<usize>,
        #[serde(default)]
        global_block_end_indices: Option<Vec<usize>>,
        #[serde(default = "both")]
        attention: Direction,
        #[serde(default)]
        horizontal_global_attention: bool,
    },
    /// A sliding window, global blocks at the beginning, and random ones.
    BigBird {
        #[serde(default = "sixteen")]
        block: usize,
        #[serde(default)]
        different_layout_per_head: bool,
        /// 0 as in its configuration files; the class itself has 1.
        #[serde(default)]
        num_random_blocks: usize,
        #[serde(default = "three")]
        num_sliding_window_blocks: usize,
        #[serde(default = "one")]
        num_global_blocks: usize,
        #[serde(default = "both")]
        attention: Direction,
    },
    /// A sliding window and given global blocks.
    BsLongformer {
        #[serde(default = "sixteen")]
        block: usize,
        #[serde(default)]
        different_layout_per_head: bool,
        #[serde(default = "three")]
        num_sliding_window_blocks: usize,
        #[serde(default = "first")]
        global_block_indices: Vec<usize>,
        #[serde(default)]
        global_block_end_indices: Option<Vec<usize>>,
        #[serde(default = "both")]
        attention: Direction,
    },
    /// A sliding window alone. DeepSpeed has no mode for it; this one is called `localslidingwindow`.
    LocalSlidingWindow {
        #[serde(default = "sixteen")]
        block: usize,
        #[serde(default = "three")]
        num_sliding_window_blocks: usize,
        #[serde(default = "past")]
        attention: Direction,
    },
}

fn one() -> usize {
    1
}

fn three() -> usize {
    3
}

fn four() -> usize {
    4
}

fn sixteen() -> usize {
    16
}

fn first() -> Vec<usize> {
    vec![0]
}

fn one_stretch() -> Vec<usize> {
    vec![4]
}

fn both() -> Direction {
    Direction::Bidirectional
}

fn past() -> Direction {
    Direction::Unidirectional
}

impl Config {
    /// The layout of `heads` heads over a sequence, whose length `block` must divide. `seed` is what `random.seed` was given.
    pub fn layout(&self, of: &Sizes, seed: u64) -> Result<Layout, Error> {
        self.check()?;
        let tokens = of.keys.max(of.queries.end);
        let block = self.block();
        error::parameter(
            OP,
            "tokens",
            tokens.is_multiple_of(block),
            tokens,
            format!("a multiple of the block of {block}"),
        )?;
        self.blocks(of.heads, tokens / block, seed)
    }
}
