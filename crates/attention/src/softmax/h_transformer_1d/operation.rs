//! The mechanism as an operation with named tensors.

use crate::operation::parameter;
use crate::softmax::operation::{Attention, CAUSAL, KEEP, SCALE, SOFTCAP};
use crate::{Form, Mechanism};

static OP: Attention = Attention {
    parameters: &[parameter("block", "16", "cells of a block at every level: an even number"), CAUSAL],
    common: &[SCALE, SOFTCAP],
    options: &[KEEP],
};

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "h_transformer_1d",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk],
    cost: "O(T b H D)",
    state: "2 S G D",
    paper: "Zhu and Soricut 2021, H-Transformer-1D",
    note: "the rules are those of the authors' code, without its biases; where the future is hidden the query of a cell is its first token's, as there",
    example: r#"{"block": 16, "causal": true}"#,
    operation: &OP,
};
