//! The mechanism as an operation with named tensors.

use crate::operation::{choice, parameter};
use crate::softmax::operation::{ALL, Attention};
use crate::{Form, Mechanism};

static OP: Attention = Attention {
    parameters: &[
        parameter("block", "64", "tokens of a block"),
        parameter("random_blocks", "3", "random blocks a row of blocks"),
        parameter(
            "seed",
            "null",
            "the number of the layer in training; null outside, where all random blocks are block 0",
        )
        .such_as(&[choice("1")]),
        parameter("max_length", "4096", "the longest sequence of the model; the draw depends on it"),
    ],
    ..ALL
};

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "bigbird",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk, Form::Step],
    cost: "O(T (5 + r) b H D)",
    state: "2 S G D",
    paper: "Zaheer et al. 2020, BigBird",
    note: "",
    example: r#"{"block": 64, "random_blocks": 3, "seed": 0, "max_length": 4096}"#,
    operation: &OP,
};
