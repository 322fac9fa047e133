//! The mechanism as an operation with named tensors.

use crate::operation::parameter;
use crate::softmax::operation::{ALL, Attention};
use crate::{Form, Mechanism};

static OP: Attention = Attention {
    parameters: &[
        parameter("block", "", "keys of a block"),
        parameter("top", "", "how many blocks a query sees, its own among them"),
    ],
    ..ALL
};

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "moba",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk, Form::Step],
    cost: "O(T k b H D + T² H D / b)",
    state: "2 S G D",
    paper: "Lu et al. 2025, MoBA",
    note: "",
    example: r#"{"block": 512, "top": 3}"#,
    operation: &OP,
};
