//! Encoders in GGUF files: BERT and its relatives, Nomic's BERT, ModernBERT.

use longreach_gguf::Gguf;
use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::names::{both, of_layers};
use super::{ARCHITECTURES, Architecture, Read};
use crate::encoder::EncoderDescription;
use crate::{Checkpoint, Error, Fields, Rewrite, Rewrites};

/// The architectures of encoders that are read.
const ENCODERS: &[Architecture] = &[
    Architecture { name: "bert", types: &[], read: bert },
    Architecture { name: "nomic-bert", types: &[], read: nomic_bert },
    Architecture { name: "modern-bert", types: &[], read: modern_bert },
];

/// Their names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ENCODERS.iter().map(|architecture| architecture.name)
}

/// How a file says that the vectors of tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolingType {
    /// Not at all, or the file does not say.
    None,
    /// Their mean.
    Mean,
    /// The first.
    First,
    /// The last.
    Last,
    /// The score of a pair of texts.
    Rank,
}

/// The architecture of an encoder; `None` if the file's is another.
fn found(gguf: &Gguf) -> Result<Option<&'static Architecture>, Error> {
    let name: Option<&str> = gguf.metadata().get("general.architecture")?;
    Ok(ENCODERS.iter().find(|architecture| Some(architecture.name) == name))
}

/// Whether a file's architecture is one of encoders. Errors if the metadata are invalid.
pub(crate) fn is_encoder(gguf: &Gguf) -> Result<bool, Error> {
    Ok(found(gguf)?.is_some())
}

/// The pooling of a file's encoder. Errors if the number that stands for it is unknown.
pub fn pooling(gguf: &Gguf) -> Result<PoolingType, Error> {
    let Some(architecture) = found(gguf)? else { return Ok(PoolingType::None) };
    let keys = Keys { metadata: gguf.metadata(), tensors: gguf, architecture: architecture.name };
    Ok(match keys.some("pooling_type")? {
        None | Some(0) => PoolingType::None,
        Some(1) => PoolingType::Mean,
        Some(2) => PoolingType::First,
        Some(3) => PoolingType::Last,
        Some(4) => PoolingType::Rank,
        Some(other) => return Err(keys.error("pooling_type", format!("want 0 to 4, found {other}"))),
    })
}

/// The encoder in a file: its description, the fields of its configuration and the same as JSON, and its tensors. Errors if
/// its architecture is not one of encoders, or a key is missing or wrong.
pub(crate) fn encoder(gguf: &Gguf) -> Result<(EncoderDescription, Fields, String, Checkpoint), Error> {
    let file = gguf.metadata().file();
    let Some(architecture) = found(gguf)? else {
        let name: &str = gguf.metadata().require("general.architecture")?;
        let known = names().collect::<Vec<_>>().join(", ");
        let message = if ARCHITECTURES.iter().any(|architecture| architecture.name == name) {
            format!("architecture `{name}` is no encoder but a language model; encoders in GGUF files are {known}")
        } else {
            format!("architecture `{name}` is not supported in GGUF files; encoders are {known}")
        };
        return Err(Error::Config { file: file.into(), message });
    };
    let keys = Keys { metadata: gguf.metadata(), tensors: gguf, architecture: architecture.name };
    if keys.flag("attention.causal")? == Some(true) {
        return Err(keys.error("attention.causal", "want false, found true"));
    }
    let Read { fields, rewrites, .. } = (architecture.read)(&keys)?;
    let config = Value::Object(fields).to_string();
    let fields = Fields::parse(file, &config)?;
    let description = EncoderDescription::of(&fields)?;
    let description = description.ok_or_else(|| fields.error("field `model_type`: not an encoder"))?;
    let layers = keys.layers()? as usize;
    let checkpoint = Checkpoint::of_gguf(gguf, layers, &[])?;
    Ok((EncoderDescription { rewrites: Rewrites::from(rewrites), ..description }, fields, config, checkpoint))
}

/// The fields that all have.
fn fields(keys: &Keys<'_>, model_type: &str) -> Result<Map<String, Value>, Error> {
    let mut fields = keys.common(model_type)?;
    let eps = keys.number("attention.layer_norm_epsilon")?.unwrap_or(1e-12);
    let pad: Option<u64> = keys.metadata.get("tokenizer.ggml.padding_token_id")?;
    for (name, value) in [
        ("num_attention_heads", json!(keys.size("attention.head_count")?)),
        ("intermediate_size", json!(keys.size("feed_forward_length")?)),
        ("layer_norm_eps", json!(eps)),
        ("pad_token_id", json!(pad.unwrap_or(0))),
        ("architectures", json!(["Model"])),
    ] {
        fields.insert(name.into(), value);
    }
    Ok(fields)
}

/// The rows of a table.
fn rows(keys: &Keys<'_>, name: &str) -> Option<usize> {
    keys.shape(name)?.first().copied()
}

/// `bert`: BERT, RoBERTa, XLM-RoBERTa, whose files lack the positions of padding, and DistilBERT, which has no types.
fn bert(keys: &Keys<'_>) -> Result<Read, Error> {
    let types = rows(keys, "token_types.weight");
    let mut fields = fields(keys, if types.is_some() { "bert" } else { "distilbert" })?;
    fields.insert("type_vocab_size".into(), json!(types));
    fields.insert("hidden_dim".into(), fields["intermediate_size"].clone());
    if let Some(rows) = rows(keys, "position_embd.weight") {
        fields.insert("max_position_embeddings".into(), json!(rows));
    }
    let around = |body: &str| {
        [
            ("word_embeddings", "token_embd"),
            ("position_embeddings", "position_embd"),
            ("token_type_embeddings", "token_types"),
            ("LayerNorm", "token_embd_norm"),
        ]
        .into_iter()
        .flat_map(|(ours, file)| both(&format!("{body}.embeddings.{ours}"), file))
        .collect::<Vec<_>>()
    };
    let of_bert = [
        ("attention.self.query", "attn_q"),
        ("attention.self.key", "attn_k"),
        ("attention.self.value", "attn_v"),
        ("attention.output.dense", "attn_output"),
        ("attention.output.LayerNorm", "attn_output_norm"),
        ("intermediate.dense", "ffn_up"),
        ("output.dense", "ffn_down"),
        ("output.LayerNorm", "layer_output_norm"),
    ];
    let of_distilled = [
        ("attention.q_lin", "attn_q"),
        ("attention.k_lin", "attn_k"),
        ("attention.v_lin", "attn_v"),
        ("attention.out_lin", "attn_output"),
        ("sa_layer_norm", "attn_output_norm"),
        ("ffn.lin1", "ffn_up"),
        ("ffn.lin2", "ffn_down"),
        ("output_layer_norm", "layer_output_norm"),
    ];
    let rewrites = match types {
        Some(_) => [around("bert"), of_layers("bert.encoder.layer", &of_bert)].concat(),
        None => [around("distilbert"), of_layers("distilbert.transformer.layer", &of_distilled)].concat(),
    };
    Ok(Read::new(fields, rewrites))
}

/// `nomic-bert`
fn nomic_bert(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = fields(keys, "nomic_bert")?;
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    fields.insert("rope_parameters".into(), json!({ "rope_theta": theta }));
    fields.insert("type_vocab_size".into(), json!(rows(keys, "token_types.weight").unwrap_or(0)));
    let names = [
        ("attn.Wqkv", "attn_qkv"),
        ("attn.out_proj", "attn_output"),
        ("norm1", "attn_output_norm"),
        ("mlp.fc2", "ffn_down"),
        ("norm2", "layer_output_norm"),
    ];
    let halves = ["blk.*.ffn_gate.weight".to_owned(), "blk.*.ffn_up.weight".to_owned()];
    let mut rewrites = vec![Rewrite::joined("nomic_bert.encoder.layers.*.mlp.fc1.weight", &halves, [])];
    rewrites.extend(both("nomic_bert.embeddings.word_embeddings", "token_embd"));
    rewrites.extend(both("nomic_bert.embeddings.token_type_embeddings", "token_types"));
    rewrites.extend(both("nomic_bert.emb_ln", "token_embd_norm"));
    rewrites.extend(of_layers("nomic_bert.encoder.layers", &names));
    Ok(Read::new(fields, rewrites))
}

/// `modern-bert`
fn modern_bert(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = fields(keys, "modernbert")?;
    let layers = keys.layers()?;
    let whole = keys.marks("attention.sliding_window_pattern", layers, |layer, n| layer % n != 0)?;
    let slides = whole.unwrap_or_else(|| (0..layers).map(|i| i % 3 != 0).collect());
    let kind = |slides: bool| if slides { "sliding_attention" } else { "full_attention" };
    let eps = fields["layer_norm_eps"].clone();
    for (name, value) in [
        ("norm_eps", eps),
        ("norm_bias", json!(keys.shape("output_norm.bias").is_some())),
        ("attention_bias", json!(keys.shape("blk.0.attn_qkv.bias").is_some())),
        ("mlp_bias", json!(keys.shape("blk.0.ffn_up.bias").is_some())),
        ("local_attention", json!(keys.size("attention.sliding_window")?)),
        ("layer_types", json!(slides.into_iter().map(kind).collect::<Vec<_>>())),
        ("global_rope_theta", json!(keys.number("rope.freq_base")?.unwrap_or(160_000.0))),
        ("local_rope_theta", json!(keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0))),
        ("hidden_activation", json!(keys.text("hidden_activation")?.unwrap_or("gelu"))),
    ] {
        fields.insert(name.into(), value);
    }
    let names = [
        ("attn_norm", "attn_norm"),
        ("attn.Wqkv", "attn_qkv"),
        ("attn.Wo", "attn_output"),
        ("mlp_norm", "ffn_norm"),
        ("mlp.Wi", "ffn_up"),
        ("mlp.Wo", "ffn_down"),
    ];
    let mut rewrites = both("model.embeddings.tok_embeddings", "token_embd");
    rewrites.extend(both("model.embeddings.norm", "token_embd_norm"));
    rewrites.extend(both("model.final_norm", "output_norm"));
    rewrites.extend(of_layers("model.layers", &names));
    Ok(Read::new(fields, rewrites))
}
