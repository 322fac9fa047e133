//! The delta rule.

use longreach_attention::Sequences;

use crate::fast_weights::{self, Erase, Gate, MatrixState, Reads};
use crate::view::View;

pub use crate::fast_weights::{Gradient, backward, forward, step};

/// The inputs, as in [`longreach_attention::delta::delta_rule`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, G, K]`
    pub q: &'a View,
    /// `[B, T, G, K]`
    pub k: &'a View,
    /// `[B, T, H, V]`
    pub v: &'a View,
    /// The strength of the correction, `[B, T, H]`
    pub beta: &'a View,
    /// `s`
    pub scale: f32,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

impl MatrixState for Inputs<'_> {
    fn kernel(&self) -> fast_weights::Inputs<'_> {
        fast_weights::Inputs {
            op: "delta_rule",
            q: self.q,
            k: self.k,
            v: self.v,
            gate: Gate::None,
            erase: Erase::Own(self.beta),
            strength: None,
            skip: None,
            bonus: None,
            reads: Reads::Past,
            scale: self.scale,
            sequences: self.sequences,
        }
    }
}
