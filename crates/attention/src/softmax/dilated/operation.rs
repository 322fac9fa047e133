//! The mechanism as an operation with named tensors.

use crate::operation::parameter;
use crate::softmax::operation::{ALL, Attention};
use crate::{Form, Mechanism};

static OP: Attention = Attention {
    parameters: &[
        parameter("left", "", "how far back a query sees, in steps of the dilation"),
        parameter("right", "0", "how far ahead it sees, in steps of the dilation"),
        parameter("dilation", "", "a list: the distance of the keys it sees, one for all heads or one for each"),
    ],
    ..ALL
};

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "dilated",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk, Form::Step],
    cost: "O(T W H D)",
    state: "2 W δ G D",
    paper: "Beltagy et al. 2020, Longformer, section 3.1",
    note: "",
    example: r#"{"left": 16, "right": 16, "dilation": [8]}"#,
    operation: &OP,
};
