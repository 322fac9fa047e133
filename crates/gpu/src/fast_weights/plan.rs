//! What the kernel of the recurrence is compiled for: sizes, layouts, the rule, and how the state is divided.

use super::rule::Rule;
use crate::error::{Error, most};
use crate::tile::Limits;

/// Where the gate has its axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum GateAxis {
    /// There is no gate.
    None,
    /// One number a token and head.
    Token,
    /// A number for each row of the state.
    Inner,
    /// A number for each column of the state.
    Outer,
}

/// A compiled recurrence. Inner vectors are `[tokens, heads or groups, I]`, outer ones and outputs `[tokens, heads, J]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Plan {
    /// Heads of the state.
    pub(crate) heads: usize,
    /// `I`, rows of the state.
    pub(crate) inner: usize,
    /// `J`, its columns.
    pub(crate) outer: usize,
    /// Inner vectors a token.
    pub(crate) inners: usize,
    /// Outer vectors a token.
    pub(crate) outers: usize,
    /// Heads or groups of each inner vector.
    pub(crate) inner_heads: [usize; 4],
    /// Heads or groups of each outer vector.
    pub(crate) outer_heads: [usize; 2],
    /// The axis of the gate.
    pub(crate) gate: GateAxis,
    /// Gates between tokens; 0 for gates that all tokens share.
    pub(crate) gate_stride: usize,
    /// Skips between tokens; 0 for those that all tokens share.
    pub(crate) skip_stride: usize,
    /// Whether tokens are read from the last to the first.
    pub(crate) reverse: bool,
    /// Whether states are stored as `[J, I]`.
    pub(crate) swapped: bool,
    /// Whether a state is given; otherwise it is zero.
    pub(crate) has_first: bool,
    /// Whether states are those of slots, updated in place.
    pub(crate) has_slots: bool,
    /// Whether the state after the last token is written.
    pub(crate) has_last: bool,
    /// The operations of a token.
    pub(crate) rule: Rule,
    /// Rows that a unit owns, a multiple of 4.
    pub(crate) rows: usize,
    /// Units that share a column.
    pub(crate) parts: usize,
    /// Columns of a cube.
    pub(crate) columns: usize,
    /// Tokens that are read into shared memory together.
    pub(crate) tokens: usize,
}

/// The most rows that a unit owns: they are registers.
const ROWS: usize = 64;
/// The most tokens in shared memory.
const TOKENS: usize = 16;

impl Plan {
    /// Divides the state: the last four fields. An error for a state of more rows than the units of a cube can own.
    pub(crate) fn divided(mut self, op: &'static str, limits: &Limits) -> Result<Self, Error> {
        self.columns = if self.outer > 32 { 64 } else { 32 };
        self.parts = self.inner.div_ceil(ROWS).max(1);
        if self.parts > 4 {
            self.columns = 32;
        }
        most(op, "the rows of a state", ROWS * (limits.units / 32).min(8), self.inner)?;
        self.rows = self.inner.div_ceil(self.parts).next_multiple_of(4).max(4);
        // The least shared memory that WebGPU permits holds at least a token of four vectors of the most rows.
        let numbers = Limits::LEAST.shared / 4 - 8 - self.sum_numbers();
        self.tokens = 1;
        self.tokens = (numbers / (self.row_numbers() + self.column_numbers() + self.gate_numbers())).clamp(1, TOKENS);
        Ok(self)
    }

    /// Units of a cube.
    pub(crate) fn units(&self) -> usize {
        self.columns * self.parts
    }

    /// Slices of the columns.
    pub(crate) fn slices(&self) -> usize {
        self.outer.div_ceil(self.columns)
    }

    /// Numbers of the inner vectors in shared memory.
    pub(crate) fn row_numbers(&self) -> usize {
        (self.inners * self.tokens * self.rows * self.parts).max(1)
    }

    /// Numbers of the outer vectors in shared memory.
    pub(crate) fn column_numbers(&self) -> usize {
        (self.outers * self.tokens * self.columns).max(1)
    }

    /// Gates in shared memory.
    pub(crate) fn gate_numbers(&self) -> usize {
        if self.gate == GateAxis::Inner { self.tokens * self.rows * self.parts } else { 1 }
    }

    /// Partial sums in shared memory.
    pub(crate) fn sum_numbers(&self) -> usize {
        if self.parts > 1 { self.rule.reads() * self.parts * self.columns } else { 1 }
    }
}
