//! The mechanism as an operation with named tensors.

use crate::operation::{PACKED, parameter};
use crate::softmax::operation::{Attention, CAUSAL, KEEP, OFFSET, OPTIONS, SCALE, SOFTCAP};
use crate::{Form, Mechanism};

static OP: Attention = Attention {
    parameters: &[parameter("block", "64", "tokens of a block: a multiple of 16"), CAUSAL],
    common: &[SCALE, OFFSET, SOFTCAP, PACKED],
    options: &[OPTIONS[2], KEEP],
};

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "hierarchical",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk],
    cost: "O(T b log(T / b) H D)",
    state: "2 S G D",
    paper: "after Zhu and Soricut 2021; queries are not pooled",
    note: "queries are not pooled and levels share one softmax: this is no H-Transformer-1D, which is `h_transformer_1d`",
    example: r#"{"block": 64, "causal": true}"#,
    operation: &OP,
};
