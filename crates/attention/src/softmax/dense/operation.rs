//! The mechanism as an operation with named tensors.

use crate::softmax::operation::{ALL, Attention, CAUSAL};
use crate::{Form, Mechanism};

static OP: Attention = Attention { parameters: &[CAUSAL], ..ALL };

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "dense",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk, Form::Step],
    cost: "O(T S H D)",
    state: "2 S G D",
    paper: "Vaswani et al. 2017, Attention is all you need",
    note: "",
    example: r#"{"causal": true}"#,
    operation: &OP,
};
