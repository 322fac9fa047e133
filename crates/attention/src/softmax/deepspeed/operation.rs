//! The mechanism as an operation with named tensors.

use crate::operation::{Parameter, choice, parameter};
use crate::softmax::operation::{ALL, Attention};
use crate::{Form, Mechanism};

const FIXED: &str = r#"{"mode": "fixed"}"#;
const PAST: &str = r#"{"mode": "fixed", "attention": "unidirectional"}"#;
const VARIABLE: &str = r#"{"mode": "variable"}"#;
const DRAWN: &str = r#"{"mode": "variable", "num_random_blocks": 1}"#;
const BIG: &str = r#"{"mode": "bigbird"}"#;
const LONG: &str = r#"{"mode": "bslongformer"}"#;
const SLIDING: &str = r#"{"mode": "localslidingwindow"}"#;

static OP: Attention = Attention {
    parameters: &[
        parameter(
            "mode",
            "\"fixed\"",
            "the layout; `localslidingwindow` is of the class, DeepSpeed's files have no name for it",
        )
        .one_of(&[
            choice("\"dense\""),
            choice("\"fixed\""),
            choice("\"variable\""),
            choice("\"bigbird\""),
            choice("\"bslongformer\""),
            choice("\"localslidingwindow\""),
        ]),
        parameter("block", "16", "tokens of a block"),
        parameter("attention", "null", "what is seen; all if null, but for `localslidingwindow`; not of `dense`")
            .one_of(&[choice("\"bidirectional\"").with(FIXED), choice("\"unidirectional\"").with(FIXED)]),
        parameter(
            "hidden",
            "\"tokens\"",
            "of `unidirectional`: every token behind the query, or whole blocks only, as DeepSpeed without a mask",
        )
        .one_of(&[choice("\"tokens\"").with(PAST), choice("\"blocks\"").with(PAST)]),
        parameter("different_layout_per_head", "false", "a layout for each head; not of `localslidingwindow`")
            .one_of(&[choice("false").with(DRAWN), choice("true").with(DRAWN)]),
        parameter("num_local_blocks", "null", "of `fixed`: blocks of a stretch; 4 if null")
            .such_as(&[choice("2").with(FIXED)]),
        parameter("num_global_blocks", "null", "of `fixed`, of each stretch, and `bigbird`, the first ones; 1 if null")
            .such_as(&[choice("2").with(FIXED), choice("2").with(BIG)]),
        parameter(
            "num_different_global_patterns",
            "null",
            "of `fixed`, with a layout per head: as many heads differ; 1 if null",
        )
        .such_as(&[choice("2").with(r#"{"mode": "fixed", "different_layout_per_head": true}"#)]),
        parameter(
            "horizontal_global_attention",
            "null",
            "of `fixed` and `variable`: global blocks see all; false if null",
        )
        .one_of(&[choice("false").with(FIXED), choice("true").with(FIXED), choice("true").with(VARIABLE)]),
        parameter(
            "num_random_blocks",
            "null",
            "of `variable` and `bigbird`: random blocks a row; 0 if null, where the class of `bigbird` has 1",
        )
        .such_as(&[choice("1").with(VARIABLE), choice("1").with(BIG)]),
        parameter("local_window_blocks", "null", "of `variable`: a list, blocks of each stretch; [4] if null")
            .such_as(&[choice("[1, 2]").with(VARIABLE)]),
        parameter(
            "global_block_indices",
            "null",
            "of `variable` and `bslongformer`: a list, where global blocks begin; [0] if null",
        )
        .such_as(&[choice("[1, 3]").with(VARIABLE), choice("[1, 3]").with(LONG)]),
        parameter(
            "global_block_end_indices",
            "null",
            "of `variable` and `bslongformer`: a list, where each ends; one block each if null",
        )
        .such_as(&[choice("[2, 5]").with(r#"{"mode": "variable", "global_block_indices": [1, 3]}"#)]),
        parameter(
            "num_sliding_window_blocks",
            "null",
            "of `bigbird`, `bslongformer` and `localslidingwindow`: blocks of the window; 3 if null",
        )
        .such_as(&[choice("5").with(BIG), choice("5").with(LONG), choice("5").with(SLIDING)]),
        parameter("seed", "0", "of Python's generator, for random blocks"),
        parameter("enabled", "true", "false is `dense`").one_of(&[choice("true"), choice("false")]),
        parameter("sparsity_structure", "null", "`mode` in another spelling")
            .such_as(&[choice("\"bigbird\"").with("{\"mode\": null}")]),
        parameter("block_size", "null", "`block` in another spelling")
            .such_as(&[choice("32").with("{\"block\": null}")]),
        parameter(
            "local_window_size",
            "null",
            "tokens of a stretch or of the window, in place of their number of blocks; not of `dense`",
        )
        .such_as(&[
            choice("32").with(FIXED),
            choice("32").with(VARIABLE),
            choice("80").with(LONG),
            choice("80").with(BIG),
        ]),
        parameter(
            "random_blocks",
            "null",
            "`num_random_blocks` in another spelling; true is 1, and false, which every mode takes, 0",
        )
        .such_as(&[choice("true").with(BIG), choice("2").with(VARIABLE)]),
        Parameter {
            of_file: true,
            ..parameter(
                "sparse_attention",
                "null",
                "all of these in one object, as in a ds_config.json, whose other fields may stand beside it",
            )
            .such_as(&[choice(r#"{"mode": "fixed", "block": 32}"#)])
        },
    ],
    ..ALL
};

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "deepspeed",
    family: "softmax",
    forms: &[Form::Naive, Form::Chunk, Form::Step],
    cost: "O(blocks b² H D)",
    state: "2 S G D",
    paper: "Rajbhandari et al. 2020, DeepSpeed sparse attention",
    note: "where attention is `unidirectional`, DeepSpeed hides whole blocks and leaves the rest to a mask, which is `hidden` \"blocks\"; here every token behind the query is hidden",
    example: r#"{"mode": "bslongformer", "block": 16, "num_sliding_window_blocks": 5}"#,
    operation: &OP,
};
