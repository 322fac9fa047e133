//! Test support: the laws that every mechanism obeys, one table of tolerances, and golden files.
//!
//! A mechanism implements [`Subject`] once and is tested against every law that its forms allow ([`laws`]). Nothing
//! here depends on the code under test.

mod allocations;
pub mod fuzz;
pub mod goldens;
pub mod laws;
mod mixers;
mod tensor;
pub mod tolerance;

pub use allocations::{Allocated, Counting, allocated, peak};
pub use mixers::MIXERS;
pub use tensor::{Kind, Tensor, numbers};

/// What a mechanism returns: its output `[B, T, …]` and the state after the last token `[S, …]`, flattened.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The output.
    pub out: Vec<f64>,
    /// The state.
    pub state: Vec<f64>,
}

/// A mechanism under test: functions of named tensors, the last of which is the state.
pub trait Subject {
    /// Instruction set and threads.
    type Cx;
    /// Random inputs of `batch` sequences of `tokens` tokens. Sizes include partial vectors for every vector width.
    fn sample(&self, batch: usize, tokens: usize, seed: u64) -> Vec<Tensor>;
    /// The definition, in f64. `packed` are the boundaries of packed sequences in a batch of one.
    fn naive(&self, inputs: &[Tensor], packed: Option<&[usize]>) -> Output;
    /// The names of the forms that take any number of tokens.
    fn forms(&self) -> &'static [&'static str];
    /// Runs a form by name, or `step` on inputs of one token.
    fn run(&self, form: &str, inputs: &[Tensor], packed: Option<&[usize]>, cx: &Self::Cx) -> Output;
    /// The gradients with respect to every input, in order, given those of output and final state; empty for a
    /// [`Kind::Constant`].
    fn gradient(&self, inputs: &[Tensor], packed: Option<&[usize]>, d: &Output, cx: &Self::Cx) -> Vec<Vec<f64>>;
}
