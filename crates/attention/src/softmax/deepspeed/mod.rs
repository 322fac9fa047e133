//! DeepSpeed's block layouts, from the `sparse_attention` block of its configuration file.
//!
//! The rules are exactly those of its `SparsityConfig` classes, including random blocks, which follow Python's
//! generator from a given seed. With `unidirectional` attention DeepSpeed masks the future by whole blocks only and
//! leaves the rest to the caller's mask; here all future tokens are masked, unless [`Hidden::Blocks`] is set. O(visited
//! blocks × b² H D) time. Rajbhandari et al. 2020, DeepSpeed sparse attention; Child et al. 2019; Zaheer et al. 2020;
//! Beltagy et al. 2020.

use serde::Deserialize;

use super::{Layout, Sizes};
use crate::{Error, error};

mod naive;
pub(crate) mod operation;
mod pattern;
mod read;

pub use read::without_comments;

const OP: &str = "deepspeed";

/// Whether a block of queries attends to later blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Causal, by blocks.
    Unidirectional,
    /// To all blocks.
    Bidirectional,
}

/// What `unidirectional` attention masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hidden {
    /// All future tokens.
    #[default]
    Tokens,
    /// Later blocks only, as DeepSpeed without a mask: a query attends to all of its own block.
    Blocks,
}

/// A configuration. Fields are named and defined as in DeepSpeed.
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
    /// Local windows of blocks, with the last blocks of each as global blocks.
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
    /// Local windows of given sizes, given global blocks, and random ones.
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
    /// A sliding window, global blocks at the start, and random ones.
    BigBird {
        #[serde(default = "sixteen")]
        block: usize,
        #[serde(default)]
        different_layout_per_head: bool,
        /// 0 as in its configuration files; the class's default is 1.
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
    /// Only a sliding window. DeepSpeed has no mode for this class; the mode here is `localslidingwindow`.
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
    /// The layout of `heads` heads over a sequence whose length is a multiple of `block`. `seed` is the argument of
    /// `random.seed`. Errors on inconsistent fields or sizes.
    pub fn layout(&self, of: &Sizes, seed: u64) -> Result<Layout, Error> {
        self.check()?;
        of.within(OP)?;
        let tokens = of.keys;
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
