//! Delta rules: the state is a matrix per head, and what a key reads is erased before its value is written.
//!
//! $$ S_t = \mathrm{Diag}(e^{g_t}) S_{t-1} + b_t (S_{t-1}^\top a_t)^\top + k_t v_t^\top $$
//!
//! With `a = e^g ⊙ k` and `b = −β k` these are the delta rules. All members use the matrix-state kernel of
//! `fast_weights`.

pub mod delta_rule;
pub mod dplr;
pub mod gated_delta;
pub mod kda;
pub mod rwkv7;
