//! The mechanism as an operation with named tensors.

use crate::operation::parameter;
use crate::softmax::operation::{ALL, Attention};
use crate::{Form, Mechanism};

static OP: Attention = Attention {
    parameters: &[parameter("left", "", "how far back a query sees"), parameter("right", "0", "how far ahead it sees")],
    ..ALL
};

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "window",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk, Form::Step],
    cost: "O(T W H D)",
    state: "2 W G D",
    paper: "Beltagy et al. 2020, Longformer, section 3.1",
    note: "",
    example: r#"{"left": 128, "right": 128}"#,
    operation: &OP,
};
