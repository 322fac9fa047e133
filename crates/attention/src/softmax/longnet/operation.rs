//! The mechanism as an operation with named tensors.

use crate::operation::{PACKED, choice, parameter};
use crate::softmax::operation::{Attention, CAUSAL, KEEP, SCALE, SOFTCAP};
use crate::{Form, Mechanism};

static OP: Attention = Attention {
    parameters: &[
        parameter("segments", "", "a list: tokens of a segment, for each branch"),
        parameter("dilations", "", "a list: every how manyth of them is kept, for each branch"),
        CAUSAL,
        parameter(
            "gradient",
            "\"exact\"",
            "of the mixture's weights; `detached` takes them for constants, as torchscale does",
        )
        .one_of(&[choice("\"exact\""), choice("\"detached\"")]),
    ],
    common: &[SCALE, SOFTCAP, PACKED],
    options: &[KEEP],
};

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "longnet",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk],
    cost: "O(T H D Σ w / r)",
    state: "2 S G D",
    paper: "Ding et al. 2023, LongNet",
    note: "torchscale takes the weights of the mixture for constants in the gradient, which is `gradient` \"detached\"; places behind a last short segment are no keys here, and zeros there",
    example: r#"{"segments": [64, 256, 1024], "dilations": [1, 2, 4], "causal": true}"#,
    operation: &OP,
};
