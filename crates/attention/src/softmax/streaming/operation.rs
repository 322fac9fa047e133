//! The mechanism as an operation with named tensors.

use crate::operation::parameter;
use crate::softmax::operation::{ALL, Attention};
use crate::{Form, Mechanism};

static OP: Attention = Attention {
    parameters: &[
        parameter("sinks", "4", "how many of the first tokens every query sees"),
        parameter("recent", "", "how many of the latest tokens it sees, its own among them"),
    ],
    ..ALL
};

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "streaming",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk, Form::Step],
    cost: "O(T (s + r) H D)",
    state: "2 (s + r) G D",
    paper: "Xiao et al. 2024, StreamingLLM",
    note: "",
    example: r#"{"sinks": 4, "recent": 256}"#,
    operation: &OP,
};
