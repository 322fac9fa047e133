//! The CPU layer of longreach: run-time instruction-set dispatch, vectorised math, matrix products and a thread pool.
//!
//! | module | contents |
//! | --- | --- |
//! | [`activation`] | gelu, relu, silu and tanh, alone or as a gate, with their derivatives |
//! | [`cache`] | software prefetch, and when to use non-temporal stores |
//! | `count` | counts vector operations, for tests of a kernel's cost; only with the feature `count` |
//! | [`file`](mod@file) | [`Mapped`](file::Mapped): memory-mapped files |
//! | [`isa`] | [`Isa`]: an instruction set, and [`Isa::run`], which runs a [`Kernel`] compiled for it |
//! | [`lanes`] | [`Lanes`]: the vector operations kernels are written with, once for all instruction sets |
//! | [`math`] | exp, softplus, sigmoid and silu on vectors and slices, with their derivatives; exact over the whole range |
//! | [`memory`] | large buffers on huge pages, zeroed or uninitialised |
//! | [`product`] | matrix products: `x wᵀ` for one or many rows, with weights in f32, bf16, 8-bit integers or the blocks of GGUF files, and the general tile product |
//! | [`norm`] | RMS norm and layer norm of rows, with their gradients |
//! | [`split`] | splits outputs into disjoint parts |
//! | [`team`] | [`Team`]: threads that spin before they park, and their scratch buffers |
//!
//! This is the only crate of the workspace that contains `unsafe`. [`Cx`] holds what every kernel takes: an instruction
//! set and a thread team.

pub mod activation;
pub mod cache;
#[cfg(feature = "count")]
pub mod count;
pub mod file;
pub mod isa;
pub mod lanes;
pub mod math;
pub mod memory;
pub mod norm;
pub mod product;
pub mod split;
pub mod team;
#[cfg_attr(not(any(target_arch = "x86_64", test)), allow(dead_code, reason = "no instructions to use it with"))]
mod tile;

pub use isa::{Isa, Kernel};
pub use lanes::Lanes;
pub use team::{Team, after_fork};

/// What a kernel needs from its caller: the instruction set and the threads.
///
/// Results do not depend on the number of threads: how a reduction is split depends on the problem's size alone.
///
/// ```
/// let cx = longreach_simd::Cx::new(2);
/// let mut x = vec![0.0f32, 1.0, -1.0];
/// longreach_simd::math::silu(&cx, &mut x);
/// assert!((x[1] - 0.731_058_6).abs() < 1e-6);
/// ```
#[derive(Debug)]
pub struct Cx {
    /// Which vector instructions kernels use.
    pub isa: Isa,
    /// The threads that share the work.
    pub team: Team,
}

impl Cx {
    /// The best instruction set of this machine and `threads` threads (at least one).
    pub fn new(threads: usize) -> Self {
        Self { isa: Isa::detect(), team: Team::new(threads) }
    }

    /// As [`Cx::new`], with the given instruction set.
    pub fn with_isa(isa: Isa, threads: usize) -> Self {
        Self { isa, team: Team::new(threads) }
    }
}
