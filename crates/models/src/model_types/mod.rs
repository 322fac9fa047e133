//! The supported model types, a file each, and the two lists of them.

use crate::description::context;
use crate::encoder::Task;
use crate::{Architecture, Description, EncoderArchitecture, EncoderDescription, Error, Fields};

mod bailing_hybrid;
mod bamba;
mod bert;
mod big_bird;
mod delta_net;
mod distilbert;
mod falcon_h1;
pub(crate) mod falcon_mamba;
mod gated_deltanet;
mod gemma2;
mod gemma3;
mod gemma4;
mod gla;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granitemoehybrid;
mod hgrn2;
mod jamba;
mod kda;
mod kimi_linear;
mod lfm2;
mod lfm3;
mod linear_attn;
mod llama;
mod longformer;
mod longreach;
mod mamba;
mod mamba2;
pub(crate) mod mamba_ssm;
mod minicpm;
mod minicpm_sala;
mod minimax;
mod mistral;
mod mixtral;
mod modernbert;
mod nemotron_h;
mod nomic_bert;
mod nystromformer;
mod olmo;
mod olmo_hybrid;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
mod qwen3_next;
mod recurrent_gemma;
mod reformer;
mod retnet;
mod roberta;
mod rwkv;
mod rwkv6;
mod rwkv7;
mod smollm3;
mod transfo_xl;
mod zamba2;

/// All supported decoder model types.
pub const MODELS: &[Architecture] = &[
    llama::ARCHITECTURE,
    mistral::ARCHITECTURE,
    qwen2::ARCHITECTURE,
    qwen3::ARCHITECTURE,
    smollm3::ARCHITECTURE,
    phi3::ARCHITECTURE,
    gpt_neox::ARCHITECTURE,
    olmo::OLMO2,
    olmo::OLMO3,
    gemma2::ARCHITECTURE,
    gemma3::TEXT,
    gemma3::ARCHITECTURE,
    gemma4::TEXT,
    gemma4::ARCHITECTURE,
    mixtral::ARCHITECTURE,
    qwen3_moe::ARCHITECTURE,
    gpt_oss::ARCHITECTURE,
    jamba::ARCHITECTURE,
    bamba::ARCHITECTURE,
    falcon_h1::ARCHITECTURE,
    granitemoehybrid::ARCHITECTURE,
    nemotron_h::ARCHITECTURE,
    zamba2::ARCHITECTURE,
    recurrent_gemma::ARCHITECTURE,
    minicpm::ARCHITECTURE,
    minicpm_sala::ARCHITECTURE,
    minimax::ARCHITECTURE,
    lfm2::ARCHITECTURE,
    lfm2::MOE,
    lfm3::ARCHITECTURE,
    qwen3_next::ARCHITECTURE,
    qwen3_5::TEXT,
    qwen3_5::ARCHITECTURE,
    qwen3_5::MOE_TEXT,
    qwen3_5::MOE,
    olmo_hybrid::ARCHITECTURE,
    kimi_linear::ARCHITECTURE,
    bailing_hybrid::ARCHITECTURE,
    mamba::ARCHITECTURE,
    mamba2::ARCHITECTURE,
    falcon_mamba::ARCHITECTURE,
    rwkv::ARCHITECTURE,
    rwkv6::ARCHITECTURE,
    rwkv7::ARCHITECTURE,
    retnet::ARCHITECTURE,
    linear_attn::ARCHITECTURE,
    gla::ARCHITECTURE,
    hgrn2::ARCHITECTURE,
    delta_net::ARCHITECTURE,
    gated_deltanet::ARCHITECTURE,
    kda::ARCHITECTURE,
    transfo_xl::ARCHITECTURE,
    gpt2::ARCHITECTURE,
    longreach::ARCHITECTURE,
];

pub(crate) use longreach::mixer;

/// All supported encoder model types.
pub const ENCODERS: &[EncoderArchitecture] = &[
    bert::ARCHITECTURE,
    roberta::ARCHITECTURE,
    roberta::XLM,
    distilbert::ARCHITECTURE,
    nomic_bert::ARCHITECTURE,
    modernbert::ARCHITECTURE,
    longformer::ARCHITECTURE,
    big_bird::ARCHITECTURE,
    nystromformer::ARCHITECTURE,
    reformer::ARCHITECTURE,
    gpt2::SCORING,
];

/// The encoder type of a configuration; `None` if it is not an encoder. A type that is also a decoder counts as an
/// encoder if its head is not a language-model head.
pub(crate) fn encoder(fields: &Fields) -> Result<Option<&'static EncoderArchitecture>, Error> {
    let found = fields.text("model_type")?;
    let known = ENCODERS.iter().find(|known| Some(known.model_type) == found);
    let writes = MODELS.iter().any(|model| Some(model.model_type) == found);
    let scores = matches!(Task::of(fields), Some(Task::Sequence | Task::Token | Task::Question));
    Ok(known.filter(|_| scores || !writes))
}

impl Description {
    /// Parses `fields` according to their `model_type`. Errors if the type is unknown or a field is invalid.
    pub fn of(fields: &Fields) -> Result<Self, Error> {
        let Some(found) = fields.text("model_type")? else {
            if mamba_ssm::is(fields) {
                return mamba_ssm::describe(fields);
            }
            return Err(fields.error(format!("field `model_type` is missing; supported are {}", known())));
        };
        if encoder(fields)?.is_some() {
            let message = format!(
                "model_type `{found}` with this head is an encoder: it embeds, classifies, fills masks and answers questions, but cannot generate text"
            );
            return Err(fields.error(message));
        }
        let Some(model) = MODELS.iter().find(|m| m.model_type == found) else {
            return Err(Error::UnknownModel { file: fields.file().into(), found: found.into(), known: known() });
        };
        let description = (model.describe)(fields)?;
        let context = context(fields, &description.decoder);
        Ok(Self { context, ..description })
    }
}

impl EncoderDescription {
    /// Parses `fields` according to their `model_type`; `None` if it is not an encoder. Errors if a field is invalid.
    pub fn of(fields: &Fields) -> Result<Option<Self>, Error> {
        match encoder(fields)? {
            Some(known) => (known.describe)(fields).map(Some),
            None => Ok(None),
        }
    }
}

/// The supported model types, decoders first, then encoders.
pub(crate) fn known() -> String {
    let mut types: Vec<&str> = MODELS.iter().map(|m| m.model_type).collect();
    types.extend(ENCODERS.iter().map(|m| m.model_type).filter(|encoder| !types.contains(encoder)).collect::<Vec<_>>());
    types.join(", ")
}
