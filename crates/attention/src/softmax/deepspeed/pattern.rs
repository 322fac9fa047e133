//! Layouts from the rules.

use std::ops::Range;

use super::naive::{fixed_globals, given_globals, stretch, variable_stretch, window};
use super::{Config, Direction, OP};
use crate::softmax::Layout;
use crate::softmax::random::Python;
use crate::{Error, error};

impl Config {
    /// Block size in tokens.
    pub fn block(&self) -> usize {
        match *self {
            Config::Dense { block, .. }
            | Config::Fixed { block, .. }
            | Config::Variable { block, .. }
            | Config::BigBird { block, .. }
            | Config::BsLongformer { block, .. }
            | Config::LocalSlidingWindow { block, .. } => block,
        }
    }

    fn direction(&self) -> Direction {
        match *self {
            Config::Dense { .. } => Direction::Bidirectional,
            Config::Fixed { attention, .. }
            | Config::Variable { attention, .. }
            | Config::BigBird { attention, .. }
            | Config::BsLongformer { attention, .. }
            | Config::LocalSlidingWindow { attention, .. } => attention,
        }
    }

    fn by_head(&self) -> bool {
        match *self {
            Config::Fixed { different_layout_per_head, .. }
            | Config::Variable { different_layout_per_head, .. }
            | Config::BigBird { different_layout_per_head, .. }
            | Config::BsLongformer { different_layout_per_head, .. } => different_layout_per_head,
            Config::Dense { .. } | Config::LocalSlidingWindow { .. } => false,
        }
    }

    /// An error if fields are inconsistent.
    pub(super) fn check(&self) -> Result<(), Error> {
        error::parameter(OP, "block", self.block() > 0, self.block(), "at least 1")?;
        let horizontal = |on: bool| {
            let both = !on || self.direction() == Direction::Bidirectional;
            error::parameter(OP, "horizontal_global_attention", both, on, "false where attention is unidirectional")
        };
        let ranges = |starts: &[usize], ends: &Option<Vec<usize>>| {
            let Some(ends) = ends else { return Ok(()) };
            let fits = starts.len() == ends.len() && starts.iter().zip(ends).all(|(start, end)| start < end);
            let want = format!("an end behind each of the starts {starts:?}");
            error::parameter(OP, "global_block_end_indices", fits, ends, want)
        };
        match self {
            Config::Dense { .. } => Ok(()),
            Config::Fixed {
                num_local_blocks: local,
                num_global_blocks: global,
                horizontal_global_attention,
                num_different_global_patterns: patterns,
                different_layout_per_head,
                ..
            } => {
                error::parameter(OP, "num_local_blocks", *local > 0, local, "at least 1")?;
                let divides = *global > 0 && local % global == 0;
                error::parameter(
                    OP,
                    "num_global_blocks",
                    divides,
                    global,
                    format!("a divisor of num_local_blocks, {local}"),
                )?;
                horizontal(*horizontal_global_attention)?;
                let most = if *different_layout_per_head { local / global } else { 1 };
                let fits = (1..=most).contains(patterns);
                let want = format!("from 1 to {most} (more than 1 needs different_layout_per_head)");
                error::parameter(OP, "num_different_global_patterns", fits, patterns, want)
            }
            Config::Variable {
                local_window_blocks: local,
                global_block_indices,
                global_block_end_indices,
                horizontal_global_attention,
                ..
            } => {
                let sizes = !local.is_empty() && local.iter().all(|size| *size > 0);
                error::parameter(OP, "local_window_blocks", sizes, local, "some sizes of at least 1")?;
                ranges(global_block_indices, global_block_end_indices)?;
                horizontal(*horizontal_global_attention)
            }
            Config::BsLongformer { global_block_indices, global_block_end_indices, .. } => {
                ranges(global_block_indices, global_block_end_indices)
            }
            Config::BigBird { .. } | Config::LocalSlidingWindow { .. } => Ok(()),
        }
    }

    /// The layout over `n` blocks.
    pub(super) fn blocks(&self, heads: usize, n: usize, seed: u64) -> Result<Layout, Error> {
        let past = self.direction() == Direction::Unidirectional;
        let at_most = |name, found: usize| {
            error::parameter(OP, name, found <= n, found, format!("at most the {n} blocks there are"))
        };
        match *self {
            Config::Variable { num_random_blocks: random, .. } => at_most("num_random_blocks", random)?,
            Config::BigBird { num_random_blocks: random, num_sliding_window_blocks, num_global_blocks, .. } => {
                // The first row has only one block to draw from.
                let most = if past { random.min(1) } else { random };
                error::parameter(
                    OP,
                    "num_random_blocks",
                    random == most,
                    random,
                    "at most 1 where attention is unidirectional",
                )?;
                at_most("num_random_blocks", random)?;
                at_most("num_sliding_window_blocks", num_sliding_window_blocks)?;
                at_most("num_global_blocks", num_global_blocks)?;
            }
            Config::BsLongformer { num_sliding_window_blocks: window, .. }
            | Config::LocalSlidingWindow { num_sliding_window_blocks: window, .. } => {
                at_most("num_sliding_window_blocks", window)?;
            }
            Config::Dense { .. } | Config::Fixed { .. } => {}
        }
        let mut python = Python::new(seed);
        let heads = if self.by_head() { heads } else { 1 };
        Layout::new(OP, self.block(), n, heads, (past, false), |h, r, row| {
            let local = |stretch: Range<usize>| stretch.start..if past { r + 1 } else { stretch.end };
            match self {
                Config::Dense { .. } => row.extend(0..n),
                Config::Fixed {
                    num_local_blocks,
                    num_global_blocks,
                    horizontal_global_attention,
                    num_different_global_patterns,
                    ..
                } => {
                    row.extend(local(stretch(r, n, 0, *num_local_blocks)));
                    let first = num_local_blocks - (1 + h % num_different_global_patterns) * num_global_blocks;
                    let globals = fixed_globals(n, *num_local_blocks, *num_global_blocks, first);
                    add_globals(row, r, n, &globals, past, *horizontal_global_attention);
                }
                Config::Variable {
                    num_random_blocks,
                    local_window_blocks,
                    global_block_indices,
                    global_block_end_indices,
                    horizontal_global_attention,
                    ..
                } => {
                    row.extend(python.sample(n, *num_random_blocks));
                    row.extend(local(variable_stretch(r, n, local_window_blocks)));
                    let globals = given_globals(n, global_block_indices, global_block_end_indices.as_deref());
                    add_globals(row, r, n, &globals, past, *horizontal_global_attention);
                }
                Config::BigBird { num_random_blocks, num_sliding_window_blocks, num_global_blocks, .. } => {
                    row.extend(python.sample(if past { r + 1 } else { n }, *num_random_blocks));
                    row.extend(window(r, n, *num_sliding_window_blocks));
                    add_globals(row, r, n, std::slice::from_ref(&(0..*num_global_blocks)), false, true);
                    row.retain(|c| !past || *c <= r);
                }
                Config::BsLongformer {
                    num_sliding_window_blocks,
                    global_block_indices,
                    global_block_end_indices,
                    ..
                } => {
                    row.extend(window(r, n, *num_sliding_window_blocks));
                    let globals = given_globals(n, global_block_indices, global_block_end_indices.as_deref());
                    add_globals(row, r, n, &globals, false, true);
                    row.retain(|c| !past || *c <= r);
                }
                Config::LocalSlidingWindow { num_sliding_window_blocks, .. } => {
                    row.extend(window(r, n, *num_sliding_window_blocks));
                    row.retain(|c| !past || *c <= r);
                }
            }
        })
    }
}

/// Adds the columns of global blocks (in causal layouts only for rows from their own on) and their rows, if `rows`.
fn add_globals(row: &mut Vec<usize>, r: usize, n: usize, globals: &[Range<usize>], past: bool, rows: bool) {
    for global in globals {
        if rows && global.contains(&r) {
            row.extend(0..n);
        }
        if !past || global.start <= r {
            row.extend(global.clone());
        }
    }
}
