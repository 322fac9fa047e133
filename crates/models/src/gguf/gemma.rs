//! Gemma 2 and Gemma 3, whose norms are stored with 1 added.

use serde_json::{Value, json};

use super::Read;
use super::keys::Keys;
use super::names::{ATTENTION, FEED_FORWARD, around, of_layers, of_part};
use crate::{Error, Rewrite};

const LAYERS: &str = "model.layers";

/// The norms of a layer, before and after each of its branches.
pub(super) const NORMS: [(&str, &str); 4] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

fn tensors() -> Vec<Rewrite> {
    [
        around(["model.embed_tokens", "model.norm", "lm_head"]),
        of_layers(LAYERS, &NORMS),
        of_part(LAYERS, "self_attn", &ATTENTION),
        of_part(LAYERS, "mlp", &FEED_FORWARD),
    ]
    .concat()
}

/// The layers of windows, which `default` marks if the file does not.
pub(super) fn kinds(keys: &Keys<'_>, default: impl Fn(u64) -> bool) -> Result<Value, Error> {
    let layers = keys.layers()?;
    let slides = keys.marks("attention.sliding_window_pattern", layers, |layer, n| (layer + 1) % n != 0)?;
    let slides = slides.unwrap_or_else(|| (0..layers).map(default).collect());
    let kind = |slides: bool| if slides { "sliding_attention" } else { "full_attention" };
    Ok(json!(slides.into_iter().map(kind).collect::<Vec<_>>()))
}

/// `gemma2`
pub(super) fn gemma2(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("gemma2")?;
    let (hidden, heads) = (keys.size("embedding_length")?, fields["num_attention_heads"].as_u64().unwrap_or(1));
    let width = keys.some("attention.key_length")?.unwrap_or(256);
    // The scale is not stored. Only the largest model, with 46 layers, has another than that of the width of a head.
    let scalar = if keys.layers()? == 46 { hidden / heads.max(1) } else { width };
    fields.insert("query_pre_attn_scalar".into(), json!(scalar));
    fields.insert("sliding_window".into(), json!(keys.some("attention.sliding_window")?.unwrap_or(4096)));
    fields.insert("layer_types".into(), kinds(keys, |layer| layer % 2 == 0)?);
    for (name, key) in
        [("attn_logit_softcapping", "attn_logit_softcapping"), ("final_logit_softcapping", "final_logit_softcapping")]
    {
        fields.insert(name.into(), keys.number(key)?.map_or(Value::Null, Value::from));
    }
    Ok(Read { whole_norms: true, ..Read::new(fields, tensors()) })
}

/// `gemma3`
pub(super) fn gemma3(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("gemma3_text")?;
    let (hidden, heads) = (keys.size("embedding_length")?, fields["num_attention_heads"].as_u64().unwrap_or(1));
    let width = keys.some("attention.key_length")?.unwrap_or(256);
    // As above: the largest has 62 layers.
    let scalar = if keys.layers()? == 62 { hidden / heads.max(1) } else { width };
    fields.insert("query_pre_attn_scalar".into(), json!(scalar));
    let window = keys.some("attention.sliding_window")?;
    fields.insert("sliding_window".into(), window.map_or(Value::Null, Value::from));
    fields.insert("layer_types".into(), kinds(keys, |layer| (layer + 1) % 6 != 0)?);
    fields.insert(
        "final_logit_softcapping".into(),
        keys.number("final_logit_softcapping")?.map_or(Value::Null, Value::from),
    );
    let full = fields["rope_parameters"].clone();
    let near = keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let sliding = json!({ "rope_type": "default", "rope_theta": near });
    fields.insert("rope_parameters".into(), json!({ "full_attention": full, "sliding_attention": sliding }));
    Ok(Read { whole_norms: true, ..Read::new(fields, tensors()) })
}
