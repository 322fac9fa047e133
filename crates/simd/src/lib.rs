//! The CPU under longreach: instruction sets chosen at run time, lane mathematics, matrix products and a thread team.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`activation`] | gelu, relu, silu, tanh, alone or as a gate, with their derivatives |
//! | `count` | with the feature of that name, how many operations a computation takes: for tests of its cost |
//! | [`file`](mod@file) | [`Mapped`](file::Mapped): files mapped into memory |
//! | [`isa`] | [`Isa`]: which vector instructions to use, and [`Isa::run`], which runs a [`Kernel`] compiled for them |
//! | [`lanes`] | [`Lanes`]: the vector operations a kernel is written in, once for all instruction sets |
//! | [`math`] | exp, softplus, sigmoid, silu on lanes and slices: right at ±100, with their derivatives |
//! | [`memory`] | large zeroed buffers on large pages |
//! | [`product`] | matrix products: `x wᵀ` for one or many rows, with weights in f32, bf16 or 8-bit integers, and the general tile product |
//! | [`norm`] | RMS and layer norm of rows and their gradients |
//! | [`split`] | cutting outputs into disjoint parts |
//! | [`team`] | [`Team`]: threads that spin, then park, and the scratch memory they own |
//!
//! This is the only crate of the workspace that contains `unsafe`. [`Cx`] carries the two choices every kernel needs.

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

pub use isa::{Isa, Kernel};
pub use lanes::Lanes;
pub use team::Team;

/// What a kernel needs from its caller: the instruction set and the threads.
///
/// Results do not depend on the number of threads: work is cut by the size of the problem alone.
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

    /// As [`Cx::new`], with an instruction set of the caller's choice.
    pub fn with_isa(isa: Isa, threads: usize) -> Self {
        Self { isa, team: Team::new(threads) }
    }
}
