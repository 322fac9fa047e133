//! The list of mechanisms, declared once: tests, benches, `longreach list` and the README's table walk it.

use crate::operation::Operation;
use crate::softmax::{self, operation as attention};
use crate::{delta, diagonal, linear, rotary, short_conv};

/// A way to compute a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// The definition, in f64.
    Naive,
    /// Parallel over chunks of tokens.
    Chunk,
    /// Token by token with the state in registers.
    Recurrent,
    /// The gradient.
    Backward,
    /// One token, state in and out.
    Step,
    /// Which keys a query sees: the family's kernel runs it, forward, backward and for few queries against a cache.
    Pattern,
}

impl Form {
    /// The name of the form's file and function.
    pub fn name(self) -> &'static str {
        match self {
            Form::Naive => "naive",
            Form::Chunk => "chunk",
            Form::Recurrent => "recurrent",
            Form::Backward => "backward",
            Form::Step => "step",
            Form::Pattern => "pattern",
        }
    }
}

/// An entry of [`MECHANISMS`].
#[derive(Clone, Copy)]
pub struct Mechanism {
    /// Its name, the last part of its path.
    pub name: &'static str,
    /// The family's folder; empty for what stands alone.
    pub family: &'static str,
    /// The forms there are.
    pub forms: &'static [Form],
    /// Time for `T` tokens.
    pub cost: &'static str,
    /// Numbers of state a sequence keeps.
    pub state: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// It, called by name on tensors by name: see [`operation::named`](crate::operation::named).
    pub(crate) operation: &'static dyn Operation,
}

/// Every mechanism of this crate.
pub const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "mamba",
        family: "diagonal",
        forms: &[Form::Naive, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T D N)",
        state: "N D",
        paper: "Gu and Dao 2023, Mamba",
        operation: &diagonal::mamba::operation::Op,
    },
    Mechanism {
        name: "rwkv4",
        family: "diagonal",
        forms: &[Form::Naive, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T D)",
        state: "3 D",
        paper: "Peng et al. 2023, RWKV",
        operation: &diagonal::rwkv4::operation::Op,
    },
    Mechanism {
        name: "rg_lru",
        family: "diagonal",
        forms: &[Form::Naive, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T D)",
        state: "D",
        paper: "De et al. 2024, Griffin",
        operation: &diagonal::rg_lru::operation::Op,
    },
    Mechanism {
        name: "scan",
        family: "linear",
        forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "H K V",
        paper: "Dao and Gu 2024, Mamba-2, section 6",
        operation: &linear::scan::operation::Op,
    },
    Mechanism {
        name: "mamba2",
        family: "linear",
        forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H N P)",
        state: "H N P",
        paper: "Dao and Gu 2024, Mamba-2",
        operation: &linear::mamba2::operation::Op,
    },
    Mechanism {
        name: "linear_attention",
        family: "linear",
        forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H F V)",
        state: "H F (V + 1)",
        paper: "Katharopoulos et al. 2020; Arora et al. 2024, Based",
        operation: &linear::linear_attention::operation::Op,
    },
    Mechanism {
        name: "performer",
        family: "linear",
        forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H F (K + V))",
        state: "H F (V + 1)",
        paper: "Choromanski et al. 2021, FAVOR+",
        operation: &linear::performer::operation::Op,
    },
    Mechanism {
        name: "cosformer",
        family: "linear",
        forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "2 H K (V + 1)",
        paper: "Qin et al. 2022, cosFormer",
        operation: &linear::cosformer::operation::Op,
    },
    Mechanism {
        name: "retention",
        family: "linear",
        forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "H K V",
        paper: "Sun et al. 2023, RetNet",
        operation: &linear::retention::operation::Op,
    },
    Mechanism {
        name: "lightning",
        family: "linear",
        forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "H K V",
        paper: "MiniMax 2025, MiniMax-01",
        operation: &linear::retention::operation::Op,
    },
    Mechanism {
        name: "gla",
        family: "linear",
        forms: &[Form::Naive, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "H K V",
        paper: "Yang et al. 2024, GLA",
        operation: &linear::gla::operation::Op,
    },
    Mechanism {
        name: "hgrn2",
        family: "linear",
        forms: &[Form::Naive, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "H K V",
        paper: "Qin et al. 2024, HGRN2",
        operation: &linear::hgrn2::operation::Op,
    },
    Mechanism {
        name: "rwkv5",
        family: "linear",
        forms: &[Form::Naive, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "H K V",
        paper: "Peng et al. 2024, Eagle and Finch",
        operation: &linear::rwkv5::operation::Op,
    },
    Mechanism {
        name: "rwkv6",
        family: "linear",
        forms: &[Form::Naive, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "H K V",
        paper: "Peng et al. 2024, Eagle and Finch",
        operation: &linear::rwkv6::operation::Op,
    },
    Mechanism {
        name: "delta_rule",
        family: "delta",
        forms: &[Form::Naive, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "H K V",
        paper: "Schlag et al. 2021; Yang et al. 2024, DeltaNet",
        operation: &delta::delta_rule::operation::Op,
    },
    Mechanism {
        name: "gated_delta",
        family: "delta",
        forms: &[Form::Naive, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "H K V",
        paper: "Yang et al. 2024, Gated DeltaNet",
        operation: &delta::gated_delta::operation::Op,
    },
    Mechanism {
        name: "kda",
        family: "delta",
        forms: &[Form::Naive, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "H K V",
        paper: "Kimi team 2025, Kimi Linear",
        operation: &delta::kda::operation::Op,
    },
    Mechanism {
        name: "dplr",
        family: "delta",
        forms: &[Form::Naive, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "H K V",
        paper: "Peng et al. 2025, RWKV-7, eq. 17",
        operation: &delta::dplr::operation::Op,
    },
    Mechanism {
        name: "rwkv7",
        family: "delta",
        forms: &[Form::Naive, Form::Recurrent, Form::Backward, Form::Step],
        cost: "O(T H K V)",
        state: "H K V",
        paper: "Peng et al. 2025, RWKV-7",
        operation: &delta::rwkv7::operation::Op,
    },
    Mechanism {
        name: "dense",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(T S H D)",
        state: "2 S G D",
        paper: "Vaswani et al. 2017, Attention is all you need",
        operation: &attention::DENSE,
    },
    Mechanism {
        name: "masked",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(kept pairs D)",
        state: "2 S G D",
        paper: "any boolean mask",
        operation: &attention::MASKED,
    },
    Mechanism {
        name: "window",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(T W H D)",
        state: "2 W G D",
        paper: "Beltagy et al. 2020, Longformer, section 3.1",
        operation: &attention::WINDOW,
    },
    Mechanism {
        name: "dilated",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(T W H D)",
        state: "2 W δ G D",
        paper: "Beltagy et al. 2020, Longformer, section 3.1",
        operation: &attention::DILATED,
    },
    Mechanism {
        name: "longformer",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(T (W + globals) H D)",
        state: "2 S G D",
        paper: "Beltagy et al. 2020, Longformer",
        operation: &softmax::longformer::operation::Op,
    },
    Mechanism {
        name: "bigbird",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(T (5 + r) b H D)",
        state: "2 S G D",
        paper: "Zaheer et al. 2020, BigBird",
        operation: &attention::BIGBIRD,
    },
    Mechanism {
        name: "sparse_transformer",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(T √T H D)",
        state: "2 S G D",
        paper: "Child et al. 2019, Sparse Transformers",
        operation: &attention::SPARSE_TRANSFORMER,
    },
    Mechanism {
        name: "deepspeed",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(blocks b² H D)",
        state: "2 S G D",
        paper: "Rajbhandari et al. 2020, DeepSpeed sparse attention",
        operation: &attention::DEEPSPEED,
    },
    Mechanism {
        name: "streaming",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(T (s + r) H D)",
        state: "2 (s + r) G D",
        paper: "Xiao et al. 2024, StreamingLLM",
        operation: &attention::STREAMING,
    },
    Mechanism {
        name: "longnet",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(T H D Σ w / r)",
        state: "2 S G D",
        paper: "Ding et al. 2023, LongNet",
        operation: &attention::LONGNET,
    },
    Mechanism {
        name: "lsh",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(rounds T chunk H D)",
        state: "2 S H D",
        paper: "Kitaev et al. 2020, Reformer",
        operation: &softmax::lsh::operation::Op,
    },
    Mechanism {
        name: "moba",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(T k b H D + T² H D / b)",
        state: "2 S G D",
        paper: "Lu et al. 2025, MoBA",
        operation: &attention::MOBA,
    },
    Mechanism {
        name: "infllm_v2",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(T k b H D + T² H D / stride)",
        state: "2 S G D",
        paper: "Zhao et al. 2025, InfLLM-V2",
        operation: &attention::INFLLM_V2,
    },
    Mechanism {
        name: "hierarchical",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(T b log(T / b) H D)",
        state: "2 S G D",
        paper: "Zhu and Soricut 2021, H-Transformer-1D",
        operation: &attention::HIERARCHICAL,
    },
    Mechanism {
        name: "nsa",
        family: "softmax",
        forms: &[Form::Naive, Form::Pattern],
        cost: "O(T (T / b + k b + w) H D)",
        state: "2 S G D",
        paper: "Yuan et al. 2025, Native sparse attention",
        operation: &softmax::nsa::operation::Op,
    },
    Mechanism {
        name: "rotary",
        family: "",
        forms: &[Form::Naive, Form::Chunk, Form::Backward],
        cost: "O(T H D)",
        state: "0",
        paper: "Su et al. 2021, RoFormer",
        operation: &rotary::operation::Op,
    },
    Mechanism {
        name: "short_conv",
        family: "",
        forms: &[Form::Naive, Form::Chunk, Form::Backward, Form::Step],
        cost: "O(T D W)",
        state: "(W - 1) D",
        paper: "Fu et al. 2022, H3",
        operation: &short_conv::operation::Op,
    },
];
