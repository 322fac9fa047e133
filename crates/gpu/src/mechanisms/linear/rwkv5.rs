//! RWKV-5: a decay per key channel that all tokens share, and a bonus.

use longreach_attention::Sequences;

use crate::fast_weights::{self, Erase, Gate, MatrixState, Reads};
use crate::view::View;

pub use crate::fast_weights::{Gradient, backward, forward, step};

/// The inputs, as in [`longreach_attention::linear::rwkv5`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, G, K]`
    pub q: &'a View,
    /// `[B, T, G, K]`
    pub k: &'a View,
    /// `[B, T, H, V]`
    pub v: &'a View,
    /// The gate's logarithm, `[H, K]`
    pub g: &'a View,
    /// The bonus, `[H, K]`
    pub u: &'a View,
    /// `s`
    pub scale: f32,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

impl MatrixState for Inputs<'_> {
    fn kernel(&self) -> fast_weights::Inputs<'_> {
        fast_weights::Inputs {
            op: "rwkv5",
            q: self.q,
            k: self.k,
            v: self.v,
            gate: Gate::Key(self.g),
            erase: Erase::None,
            strength: None,
            skip: None,
            bonus: Some(self.u),
            reads: Reads::Past,
            scale: self.scale,
            sequences: self.sequences,
        }
    }
}
