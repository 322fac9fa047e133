//! Efficient attention and state-space mechanisms on plain arrays.
//!
//! A mechanism is a folder; its forms are files: `naive` (the definition, in f64), `chunk` or `recurrent` (prefill and
//! training), `backward` (its gradient), `step` (one token, for decoding). [`MECHANISMS`] lists them all.
//!
//! # Glossary
//!
//! | letter | meaning | shape |
//! | --- | --- | --- |
//! | `B T` | sequences in a batch, tokens in a sequence | |
//! | `D` | channels | |
//! | `H G` | heads, groups of heads that share `q` and `k` (or `C` and `B`) | |
//! | `K V` | width of a key and of a value | |
//! | `N P` | the same in the state-space papers: state size and head width | |
//! | `W` | taps of the short convolution | |
//! | `S` | sequences that have a state: `B`, or the packed sequences in one row | |
//! | `q k v` | query, key, value | `[B, T, G or H, K or V]` |
//! | `g` | logarithm of a gate, ≤ 0 | `[B, T, H]` |
//! | `a b c d` | the matrices A, B, C, D of a state-space model | |
//! | `dt` | its step size, before or after softplus | `[B, T, D or H]` |
//! | `z` | the gate of the output, before silu | `[B, T, D]` |
//! | `state` | the recurrent state of a sequence, f32 | `[S, …]` |
//!
//! # Contract
//!
//! The caller owns the state: every function that takes `state` reads the state before the first token and overwrites it
//! with that after the last. Arrays are `ndarray` views whose last axis is contiguous. Results do not depend on the number
//! of threads. Shapes are checked on entry; kernels do not fail.

mod error;
mod mechanisms;
mod one_token;
mod sequences;

pub mod delta;
pub mod diagonal;
pub mod fast_weights;
pub mod linear;
pub mod lowrank;
pub mod memory;
pub mod operation;
pub mod rotary;
pub mod short_conv;
pub mod softmax;

pub use error::Error;
pub use mechanisms::{Form, MECHANISMS, Mechanism};
pub use sequences::Sequences;
