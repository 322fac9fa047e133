//! Lightning attention (MiniMax): retention with decays that also depend on the layer.
//!
//! $$ S_t = e^{-s_h} S_{t-1} + k_t v_t^\top, \qquad o_t = s\,S_t^\top q_t, \qquad
//!    s_h = 2^{-8(h+1)/H} \left(1 - \frac{\ell}{L - 1 + \epsilon} + \epsilon\right) $$
//!
//! The forms are those of retention, with these [`decays`]. MiniMax has no scale. State `[S, H, K, V]` f32 ·
//! O(T H K V) time. Qin et al. 2024 (Lightning Attention-2); MiniMax 2025 (MiniMax-01), with the slopes of its code.

use super::retention;
use crate::{Form, Mechanism};

mod backward;
mod chunk;
mod naive;
mod recurrent;
mod step;

pub use super::retention::{Gradient, Inputs};
pub use backward::backward;
pub use chunk::chunk;
pub use naive::naive;
pub use recurrent::recurrent;
pub use step::step;

/// `−s_h` of layer `layer` of `layers`, `[H]`; `ε` is `10⁻⁵`.
pub fn decays(heads: usize, layer: usize, layers: usize) -> Vec<f64> {
    let of_layer = 1.0 - layer as f64 / (layers as f64 - 1.0 + 1e-5) + 1e-5;
    (0..heads).map(|h| -(-8.0 * (h as f64 + 1.0) / heads as f64).exp2() * of_layer).collect()
}

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "lightning",
    family: "linear",
    forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Step],
    cost: "O(T H K V)",
    state: "H K V",
    paper: "MiniMax 2025, MiniMax-01",
    note: "MiniMax has no scale: give `scale` 1; flash-linear-attention has 1 / √K, as here",
    example: "{}",
    operation: &retention::operation::Op,
};
