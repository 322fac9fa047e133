//! How the tokens of a call form sequences, held by value: an operator keeps it for its backward pass.

use std::sync::Arc;

use longreach_attention::Sequences;

/// Whether each row of a batch is a sequence, or the batch has one row in which sequences are packed one behind the
/// other. Each sequence has its own state in either case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed(Option<Arc<[usize]>>);

impl Packed {
    /// Each row of the batch is a sequence.
    pub const ROWS: Self = Self(None);

    /// Sequences packed in one row: sequence `i` is the tokens `bounds[i] .. bounds[i + 1]`, so that `bounds` begins with 0
    /// and ends with the number of tokens.
    pub fn new(bounds: impl Into<Arc<[usize]>>) -> Self {
        Self(Some(bounds.into()))
    }

    /// The bounds of the sequences; `None` if each row is one.
    pub fn bounds(&self) -> Option<&[usize]> {
        self.0.as_deref()
    }

    /// As the kernels take it.
    pub(crate) fn sequences(&self) -> Sequences<'_> {
        self.bounds().map_or(Sequences::Batch, Sequences::Packed)
    }
}
