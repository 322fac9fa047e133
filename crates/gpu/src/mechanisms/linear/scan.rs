//! The scan with scalar gates.

use longreach_attention::Sequences;

use crate::fast_weights::{self, Erase, Gate, MatrixState, Reads};
use crate::view::View;

pub use crate::fast_weights::{Gradient, backward, forward, step};

/// The inputs, as in [`longreach_attention::linear::scan`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, G, K]`
    pub q: &'a View,
    /// `[B, T, G, K]`
    pub k: &'a View,
    /// `[B, T, H, V]`
    pub v: &'a View,
    /// The gate's logarithm, `[B, T, H]`
    pub g: Option<&'a View>,
    /// With which a token is written, `[B, T, H]`
    pub beta: Option<&'a View>,
    /// The share of the value that bypasses the state, `[H]`
    pub skip: Option<&'a View>,
    /// `s`
    pub scale: f32,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

impl MatrixState for Inputs<'_> {
    fn kernel(&self) -> fast_weights::Inputs<'_> {
        fast_weights::Inputs {
            op: "scan",
            q: self.q,
            k: self.k,
            v: self.v,
            gate: self.g.map_or(Gate::None, Gate::Token),
            erase: Erase::None,
            strength: self.beta,
            skip: self.skip,
            bonus: None,
            reads: Reads::Past,
            scale: self.scale,
            sequences: self.sequences,
        }
    }
}
