//! `minicpm`: MiniCPM 1, 2 and 4, Llama with scaled embeddings, branches and logits. MiniCPM 4 attends sparsely beyond
//! `dense_len` tokens if its configuration has a `sparse_config`. Hu et al. 2024; MiniCPM Team 2025.

use longreach_nn::mixers::AttentionConfig;

use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::families::minicpm::{block, describe as description, reach, rotary};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "minicpm", mechanism: "infllm_v2", paper: "MiniCPM Team 2025", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults { vocabulary: 73_448, inner: 16_384, longest: 32_768, tied: true, ..LLAMA };
    let model = Reader::new(f, defaults)?;
    if f.get("num_experts").is_some() {
        return Err(f.error("field `num_experts`: mixtures of experts are not supported in MiniCPM"));
    }
    let attention = AttentionConfig { rotary: Some(rotary(&model)?), reach: reach(f)?, ..model.attention()? };
    let block = block(&model, model.mixer(attention))?;
    description(&model, "minicpm", vec![block; model.layers])
}
