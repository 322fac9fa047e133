//! `nomic_bert`: BERT with rotary positions, gated feed-forward layers and hardly any biases. Nussbaum et al. 2024.

use longreach_attention::rotary::{Rotary, Scaling};
use longreach_nn::mixers::{AttentionConfig, AttentionNames, Fused};
use longreach_nn::{
    Activation, Bias, BodyConfig, EncoderBlockConfig, EncoderConfig, EncoderNames, FeedForwardConfig, Layout,
    NormConfig, Order, Over, Sees,
};
use serde_json::json;

use crate::description::activation;
use crate::encoder::{EncoderArchitecture, EncoderDescription, GlobalByDefault, Heads, Task};
use crate::families::bert::{DECODER, DECODER_BIAS};
use crate::{Error, Fields, Rewrite};

pub(crate) const ARCHITECTURE: EncoderArchitecture =
    EncoderArchitecture { model_type: "nomic_bert", mechanism: "dense", paper: "Nussbaum et al. 2024", describe };

const NAMES: EncoderNames = EncoderNames {
    body: "nomic_bert",
    embedding: "embeddings.word_embeddings",
    positions: "",
    types: "embeddings.token_type_embeddings",
    embedding_norm: "emb_ln",
    layers: "encoder.layers",
    attention: "attn",
    norm: "norm1",
    feed_forward: "mlp",
    second_norm: "norm2",
    last_norm: "",
};

/// The fields of the authors' own configuration, and their names in transformers.
const OLDER: [(&str, &str); 8] = [
    ("n_embd", "hidden_size"),
    ("n_head", "num_attention_heads"),
    ("n_inner", "intermediate_size"),
    ("n_layer", "num_hidden_layers"),
    ("layer_norm_epsilon", "layer_norm_eps"),
    ("max_trained_positions", "max_position_embeddings"),
    ("n_positions", "max_position_embeddings"),
    ("activation_function", "hidden_act"),
];

/// The fields under their names in transformers. Errors on options that no published model has.
fn renamed(f: &Fields) -> Result<Fields, Error> {
    let mut fields = f.clone();
    for (older, name) in OLDER {
        if let Some(value) = f.get(older).filter(|value| !value.is_null()) {
            let value = if value.as_str() == Some("swiglu") { json!("silu") } else { value.clone() };
            fields.set_default(name, value);
        }
    }
    if f.given("rotary_emb_base") {
        fields.set_default("rope_parameters", json!({ "rope_theta": f.number("rotary_emb_base", 1000.0)? }));
    }
    let flags = ["prenorm", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "rotary_emb_interleaved", "use_rms_norm"];
    for name in flags.into_iter().chain(["parallel_block", "causal"]) {
        if f.flag(name, false)? {
            return Err(f.error(format!("field `{name}`: want false, found true")));
        }
    }
    let part = f.number("rotary_emb_fraction", 1.0)?;
    if part != 1.0 {
        return Err(f.error(format!("field `rotary_emb_fraction`: want 1, found {part}")));
    }
    if f.count("moe_every_n_layers", 0)? > 0 {
        return Err(f.error("field `moe_every_n_layers`: mixtures of experts are not supported in this encoder"));
    }
    Ok(fields)
}

/// θ of the positions. Errors on scaled positions.
fn theta(f: &Fields) -> Result<f64, Error> {
    let Some(rope) = f.objects("rope_parameters")?.into_iter().next() else { return Ok(1000.0) };
    match rope.text("rope_type")? {
        None | Some("default") => rope.number("rope_theta", 1000.0),
        Some(other) => Err(f.error(format!("field `rope_parameters`: want rope_type \"default\", found \"{other}\""))),
    }
}

fn describe(f: &Fields) -> Result<EncoderDescription, Error> {
    let f = &renamed(f)?;
    let (hidden, heads) = (f.size("hidden_size", 768)?, f.size("num_attention_heads", 12)?);
    let head_dim = match f.some_size("head_dim")? {
        Some(width) => width,
        None if hidden % heads == 0 => hidden / heads,
        None => {
            return Err(f.error(format!("field `num_attention_heads`: {heads} do not divide `hidden_size` {hidden}")));
        }
    };
    if head_dim % 2 != 0 {
        return Err(f.error(format!("heads of {head_dim} channels: want an even number for rotary positions")));
    }
    let theta = theta(f)?;
    let attention = AttentionConfig {
        head_dim,
        rotary: Some(Rotary { width: head_dim, theta, interleaved: false, scaling: Scaling::Default }),
        names: AttentionNames { q: "Wqkv", out: "out_proj", ..AttentionNames::LLAMA },
        fused: Fused::Parts,
        ..AttentionConfig::new(hidden, heads)
    };
    let act = activation(f, "hidden_act", Activation::Silu)?;
    let encoder = EncoderConfig {
        vocabulary: f.size("vocab_size", 30_528)?,
        hidden,
        blocks: vec![EncoderBlockConfig { attention, sees: Sees::All }; f.layers("num_hidden_layers", 12)?],
        positions: None,
        types: Some(f.count("type_vocab_size", 2)?).filter(|types| *types > 0),
        scale: None,
        norm: NormConfig::Layer(f.number("layer_norm_eps", 1e-12)?, Bias::Yes),
        order: Order::Behind,
        first_unnormed: false,
        last_norm: false,
        feed_forward: FeedForwardConfig {
            inner: f.size("intermediate_size", 3072)?,
            activation: act,
            gated: true,
            bias: Bias::No,
            names: ["fc1", "fc2"],
            layout: Layout::Same,
        },
        names: NAMES,
    };
    let heads = Heads::of(f, hidden, encoder.vocabulary)?;
    let head = match heads.task() {
        None => None,
        Some(task @ Task::MaskedLm) => {
            let dense = Some(("cls.predictions.transform.dense", Bias::Yes, act));
            let norm = Some(("cls.predictions.transform.layer_norm", encoder.norm));
            Some((task, heads.words(dense, norm, DECODER, DECODER_BIAS)))
        }
        Some(task @ Task::Sequence) => {
            Some((task, heads.labelled(Over::Pooled, None, ["classifier", "classifier.bias"])))
        }
        Some(task @ Task::Token) => Some((task, heads.labelled(Over::Tokens, None, ["classifier", "classifier.bias"]))),
        Some(Task::Question) => {
            return Err(f.error("field `architectures`: a head that answers questions is not known of this model"));
        }
    };
    let mlp = |name: &str| format!("nomic_bert.encoder.layers.*.mlp.{name}.weight");
    Ok(EncoderDescription {
        model_type: "nomic_bert",
        // The half of the hidden layer that the activation is applied to comes first.
        rewrites: vec![Rewrite::joined(mlp("fc1"), &["fc12", "fc11"].map(mlp), [])].into(),
        longest: Some(f.size("max_position_embeddings", 2048)?),
        pooler: Some(("pooler.dense", Activation::Tanh)),
        pad: f.id("pad_token_id", 0)?,
        separator: None,
        questions: false,
        global: GlobalByDefault::None,
        head,
        labels: heads.labels(),
        body: BodyConfig::Blocks(encoder),
    })
}
