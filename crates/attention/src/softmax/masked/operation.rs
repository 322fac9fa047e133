//! The mechanism as an operation with named tensors.

use crate::operation::{Argument, parameter};
use crate::softmax::operation::{ALL, Attention, OPTIONS};
use crate::{Form, Mechanism};

/// The options of the family, and the mask.
const OPTIONS_AND_MASK: [Argument; 6] = {
    let [bias, alibi, sinks, weights, keep] = OPTIONS;
    [MASK, bias, alibi, sinks, weights, keep]
};

const MASK: Argument = Argument::optional(
    "mask",
    &["B or 1", "H or 1", "T", "S"],
    "which pairs are seen; 0 is not; where it is absent, `start` and `indices` must be given",
)
.flags()
.sampled();

static OP: Attention = Attention {
    parameters: &[
        parameter(
            "start",
            "null",
            "compressed rows, in place of `mask`: query i sees indices[start[i] .. start[i + 1]]; needs `indices`",
        ),
        parameter("indices", "null", "the keys of all rows, concatenated; needs `start`"),
    ],
    options: &OPTIONS_AND_MASK,
    ..ALL
};

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "masked",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk],
    cost: "O(kept pairs D)",
    state: "2 S G D",
    paper: "any boolean mask",
    note: "",
    example: "{}",
    operation: &OP,
};
