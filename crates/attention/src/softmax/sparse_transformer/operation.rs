//! The mechanism as an operation with named tensors.

use crate::operation::{choice, parameter};
use crate::softmax::operation::{ALL, Attention};
use crate::{Form, Mechanism};

static OP: Attention =
    Attention {
        parameters: &[
            parameter("kind", "", "every `stride`th key back, or the last keys of every stretch")
                .one_of(&[choice("\"strided\""), choice("\"fixed\"")]),
            parameter("stride", "", "how long a stretch is"),
            parameter("columns", "1", "for `fixed`: how many keys of a stretch all later ones see"),
            parameter(
                "positions",
                "1",
                "for `fixed`: how many places in a stretch there are for them, which heads take in turn",
            ),
            parameter("which", "\"merged\"", "both patterns in every head, one of them alone, or heads in turn")
                .one_of(&[choice("\"merged\""), choice("\"near\""), choice("\"far\""), choice("\"alternating\"")]),
        ],
        ..ALL
    };

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "sparse_transformer",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk, Form::Step],
    cost: "O(T √T H D)",
    state: "2 S G D",
    paper: "Child et al. 2019, Sparse Transformers",
    note: "",
    example: r#"{"kind": "fixed", "stride": 128, "columns": 32}"#,
    operation: &OP,
};
