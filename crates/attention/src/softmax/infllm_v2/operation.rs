//! The mechanism as an operation with named tensors.

use crate::operation::parameter;
use crate::softmax::operation::{ALL, Attention};
use crate::{Form, Mechanism};

static OP: Attention = Attention {
    parameters: &[
        parameter("kernel", "32", "keys of a summary"),
        parameter("stride", "16", "keys between summaries"),
        parameter("block", "64", "keys of a block; a multiple of the stride"),
        parameter("init_blocks", "1", "how many of the first blocks are forced"),
        parameter("window", "2048", "how many of the latest keys are forced, by whole blocks"),
        parameter("top", "64", "how many blocks are chosen beside the window's"),
        parameter("dense_below", "8192", "queries that see fewer keys, their own included, attend to all of them"),
    ],
    ..ALL
};

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "infllm_v2",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk, Form::Step],
    cost: "O(T k b H D + T² H D / stride)",
    state: "(2 + 1 / stride) S G D",
    paper: "Zhao et al. 2025, InfLLM-V2",
    note: "",
    example: r#"{"window": 512, "top": 16, "dense_below": 0}"#,
    operation: &OP,
};
