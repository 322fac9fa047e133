//! What the models of MiniCPM share: the factors of embeddings, branches and logits, rotary positions, and sparse attention
//! with InfLLM v2.
//!
//! $$ x_0 = s_e E[t], \qquad x \leftarrow x + \frac{s_d}{\sqrt L} f(\mathrm{norm}(x)), \qquad y = W \frac{x}{d / d_b} $$

use longreach_attention::rotary::{Rotary, Scaling};
use longreach_attention::softmax::infllm_v2::InfLlmV2;
use longreach_nn::mixers::{Blocks, Reach};
use longreach_nn::{BlockConfig, BranchConfig, DecoderConfig, OperationConfig};

use super::llama::Reader;
use crate::{Description, Error, Fields};

/// The factor of each branch, from `scale_depth`; 1 if that is null.
fn branches(f: &Fields, layers: usize) -> Result<f32, Error> {
    let root = (layers as f64).sqrt();
    let default = if f.given("scale_depth") { root } else { 1.4 };
    Ok((f.number("scale_depth", default)? / root) as f32)
}

/// A pre-norm block of a mixer and the gated feed-forward layer, with the factor of both.
pub(crate) fn block(model: &Reader<'_>, mixer: BranchConfig) -> Result<BlockConfig, Error> {
    let scale = branches(model.f, model.layers)?;
    let feed_forward = BranchConfig::new("mlp", OperationConfig::Gated(model.feed_forward()?));
    let scaled = |branch: BranchConfig, norm: &str| BranchConfig { scale, ..branch.before(norm, model.rms()) };
    Ok(BlockConfig::new(vec![scaled(mixer, "input_layernorm"), scaled(feed_forward, "post_attention_layernorm")]))
}

/// The model of these blocks.
pub(crate) fn describe(
    model: &Reader<'_>,
    model_type: &'static str,
    blocks: Vec<BlockConfig>,
) -> Result<Description, Error> {
    let f = model.f;
    let Description { decoder, eos, .. } = model.describe(model_type, blocks)?;
    let default = if f.given("dim_model_base") { model.hidden } else { 256 };
    let base = f.number("dim_model_base", default as f64)?;
    if base <= 0.0 {
        return Err(f.error(format!("field `dim_model_base`: want a number above 0, found {base}")));
    }
    let decoder = DecoderConfig {
        embedding_scale: f.number("scale_emb", 12.0)? as f32,
        logits_scale: (base / model.hidden as f64) as f32,
        ..decoder
    };
    Ok(Description::new(model_type, decoder, eos))
}

/// The rotary positions.
///
/// Of LongRoPE, the long factors are those of every text if `max_position_embeddings` exceeds the original number. So it is
/// in the authors' code, which makes a table of cosines for `max_position_embeddings` first, and it makes the positions of a
/// text independent of its length. transformers has a port that takes the short factors as long as a text is short.
pub(crate) fn rotary(model: &Reader<'_>) -> Result<Rotary, Error> {
    let mut rotary = model.rotary("full_attention")?;
    let longest = model.f.size("max_position_embeddings", model.defaults.longest)?;
    if let Scaling::LongRope { short_factor, long_factor, original_max_position_embeddings: original, .. } =
        &mut rotary.scaling
        && longest > *original
    {
        short_factor.clone_from(long_factor);
    }
    Ok(rotary)
}

/// The reach of attention: full, or, if there is a `sparse_config`, that of InfLLM v2.
///
/// A negative `dense_len` means that every query is sparse.
pub(crate) fn reach(f: &Fields) -> Result<Reach, Error> {
    let found = f.objects("sparse_config")?;
    let [sparse] = &found[..] else {
        return if found.is_empty() { Ok(Reach::Full) } else { Err(f.error("field `sparse_config`: want one object")) };
    };
    let of = InfLlmV2::default();
    let dense = match sparse.get("dense_len").and_then(serde_json::Value::as_i64) {
        Some(..0) => 0,
        _ => sparse.count("dense_len", of.dense_below)?,
    };
    let sizes = InfLlmV2 {
        kernel: sparse.size("kernel_size", of.kernel)?,
        stride: sparse.size("kernel_stride", of.stride)?,
        block: sparse.size("block_size", of.block)?,
        init_blocks: sparse.count("init_blocks", of.init_blocks)?,
        window: sparse.count("window_size", of.window)?,
        top: sparse.size("topk", of.top)?,
        dense_below: dense,
    };
    let wrong = |name: &str, want: String, found: usize| {
        Err(f.error(format!("field `sparse_config.{name}`: want {want}, found {found}")))
    };
    let InfLlmV2 { kernel, stride, block, init_blocks, top, .. } = sizes;
    if kernel < stride {
        return wrong("kernel_size", format!("at least kernel_stride, {stride}"), kernel);
    }
    if !block.is_multiple_of(stride) {
        return wrong("block_size", format!("a multiple of kernel_stride, {stride}"), block);
    }
    if top <= init_blocks {
        let want = format!("more than init_blocks, {init_blocks}, which are among them with the query's own");
        return wrong("topk", want, top);
    }
    Ok(Reach::Blocks(Blocks { sizes, unrotated: sparse.flag("use_nope", false)? }))
}
