//! The list of mechanisms, each declared in its folder: tests, benches, `longreach list` and the table of
//! `docs/mechanisms.md` walk it.

use crate::operation::Operation;
use crate::{delta, diagonal, linear, lowrank, memory, rotary, short_conv, softmax};

/// A way to compute a mechanism, under the name that users give. Every mechanism has a gradient as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// The definition, in f64.
    Naive,
    /// All tokens at once, in chunks.
    Chunk,
    /// The recurrent form, token by token in one call.
    Recurrent,
    /// One token a call, for decoding; a state is updated in place.
    Step,
}

impl Form {
    /// All forms.
    pub const ALL: [Form; 4] = [Form::Naive, Form::Chunk, Form::Recurrent, Form::Step];

    /// The name of the form and its function.
    pub fn name(self) -> &'static str {
        match self {
            Form::Naive => "naive",
            Form::Chunk => "chunk",
            Form::Recurrent => "recurrent",
            Form::Step => "step",
        }
    }
}

/// An entry of [`MECHANISMS`].
#[derive(Clone, Copy)]
pub struct Mechanism {
    /// The name, the last part of the module path.
    pub name: &'static str,
    /// The folder of the family; empty for mechanisms without one.
    pub family: &'static str,
    /// The available forms, the definition first.
    pub forms: &'static [Form],
    /// Time for `T` tokens.
    pub cost: &'static str,
    /// The number of elements of the state per sequence.
    pub state: &'static str,
    /// The publication.
    pub paper: &'static str,
    /// Differences from the libraries that it is compared with; empty if there are none.
    pub note: &'static str,
    /// Example parameters, as JSON.
    pub example: &'static str,
    /// The mechanism as an operation on named tensors: see [`operation::named`](crate::operation::named).
    pub(crate) operation: &'static dyn Operation,
}

/// Every mechanism of this crate.
pub const MECHANISMS: &[Mechanism] = &[
    diagonal::mamba::operation::MECHANISM,
    diagonal::rwkv4::operation::MECHANISM,
    diagonal::rg_lru::operation::MECHANISM,
    linear::scan::operation::MECHANISM,
    linear::mamba2::operation::MECHANISM,
    linear::linear_attention::operation::MECHANISM,
    linear::performer::operation::MECHANISM,
    linear::cosformer::operation::MECHANISM,
    linear::retention::operation::MECHANISM,
    linear::lightning::MECHANISM,
    linear::gla::operation::MECHANISM,
    linear::hgrn2::operation::MECHANISM,
    linear::rwkv5::operation::MECHANISM,
    linear::rwkv6::operation::MECHANISM,
    delta::delta_rule::operation::MECHANISM,
    delta::gated_delta::operation::MECHANISM,
    delta::kda::operation::MECHANISM,
    delta::dplr::operation::MECHANISM,
    delta::rwkv7::operation::MECHANISM,
    softmax::dense::operation::MECHANISM,
    softmax::masked::operation::MECHANISM,
    softmax::window::operation::MECHANISM,
    softmax::dilated::operation::MECHANISM,
    softmax::longformer::operation::MECHANISM,
    softmax::bigbird::operation::MECHANISM,
    softmax::sparse_transformer::operation::MECHANISM,
    softmax::deepspeed::operation::MECHANISM,
    softmax::streaming::operation::MECHANISM,
    softmax::longnet::operation::MECHANISM,
    softmax::lsh::operation::MECHANISM,
    softmax::moba::operation::MECHANISM,
    softmax::infllm_v2::operation::MECHANISM,
    softmax::hierarchical::operation::MECHANISM,
    softmax::h_transformer_1d::operation::MECHANISM,
    softmax::nsa::operation::MECHANISM,
    lowrank::linformer::operation::MECHANISM,
    lowrank::nystrom::operation::MECHANISM,
    memory::transformer_xl::operation::MECHANISM,
    memory::compressive::operation::MECHANISM,
    memory::infini::operation::MECHANISM,
    memory::hmt::operation::MECHANISM,
    rotary::operation::MECHANISM,
    short_conv::operation::MECHANISM,
];
