//! `gemma4_text`, and the text model of `gemma4`: windows in five of six layers, wider heads in the others, keys and values
//! that layers share, embeddings for each layer, and mixtures of experts beside the feed-forward layers. Gemma Team 2026.

use longreach_nn::mixers::{AttentionConfig, KvSource, MixerConfig, QkNorm, Reach};
use longreach_nn::{
    Activation, BlockConfig, BranchConfig, DecoderConfig, ExpertsConfig, GatedFeedForwardConfig, NamedNorm,
    OperationConfig, PerLayerConfig, PerLayerGateConfig, RouterConfig,
};
use serde_json::{Value, json};

use crate::description::activation;
use crate::families::composite::text_config;
use crate::families::experts::stacked;
use crate::families::gemma::cap;
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields, Rewrite, Rewrites};

/// The text model alone.
pub(crate) const TEXT: Architecture = Architecture {
    model_type: "gemma4_text",
    mechanism: "window",
    paper: "Gemma Team 2026",
    describe: |f| describe(f, "gemma4_text"),
};

/// A model of text and other media, of which the text model is used.
pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "gemma4", mechanism: "window", paper: "Gemma Team 2026", describe: composite };

const DEFAULTS: Defaults = Defaults {
    vocabulary: 262_144,
    hidden: 2304,
    layers: 30,
    heads: 8,
    groups: Some(4),
    head_dim: Some(256),
    inner: 9216,
    longest: 131_072,
    tied: true,
    eos: 1,
    ..LLAMA
};

/// The text model of a composite one. Whether its embeddings are tied stands outside, whatever it says itself.
fn composite(f: &Fields) -> Result<Description, Error> {
    let mut text = text_config(f)?;
    text.set("tie_word_embeddings", json!(f.flag("tie_word_embeddings", true)?));
    describe(&text, "gemma4")
}

/// The two kinds of layers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sliding,
    Full,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Sliding => "sliding_attention",
            Kind::Full => "full_attention",
        }
    }
}

fn describe(f: &Fields, model_type: &'static str) -> Result<Description, Error> {
    if let Some("all") = f.text("use_bidirectional_attention")? {
        let message = "field `use_bidirectional_attention`: attention in both directions is that of an encoder: it cannot generate text, and embedding with it is not supported";
        return Err(f.error(message));
    }
    let mut fields = f.clone();
    let rotary = json!({
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "proportional", "rope_theta": 1_000_000.0, "partial_rotary_factor": 0.25},
    });
    fields.set_default("rope_parameters", rotary);
    let f = &fields;
    let model = Reader::new(f, DEFAULTS)?;
    let kinds = kinds(&model)?;
    let sources = sources(&model, &kinds)?;
    let [near, far] = [attention(&model, &kinds, Kind::Sliding)?, attention(&model, &kinds, Kind::Full)?];
    let layer = Layer {
        act: activation(f, "hidden_activation", Activation::GeluTanh)?,
        inner: f.size("intermediate_size", DEFAULTS.inner)?,
        wide: f.flag("use_double_wide_mlp", false)?,
        width: f.count("hidden_size_per_layer_input", 256)?,
        experts: experts(&model)?,
        model: &model,
    };
    let block = |(i, source): (usize, KvSource)| {
        let attention = if kinds[i] == Kind::Full { &far } else { &near };
        layer.block(i, AttentionConfig { source, ..attention.clone() })
    };
    let without_keys = |(i, source): (usize, &KvSource)| matches!(source, KvSource::Layer(_)).then_some(i);
    let unread = sources.iter().enumerate().filter_map(without_keys);
    let unread = unread.flat_map(|i| {
        ["k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias", "k_norm.weight"]
            .map(|name| format!("layers.{i}.self_attn.{name}"))
    });
    let unread: Vec<String> = unread.collect();
    let blocks = sources.iter().copied().enumerate().map(block).collect();
    let Description { decoder, eos, .. } = model.describe(model_type, blocks)?;
    let per_layer = match layer.width {
        0 => None,
        width => {
            let vocabulary = f.size("vocab_size_per_layer_input", 262_144)?;
            Some(PerLayerConfig { vocabulary, width, norm_eps: model.norm_eps })
        }
    };
    let decoder = DecoderConfig {
        embedding_scale: (decoder.hidden as f32).sqrt(),
        logits_cap: cap(f, "final_logit_softcapping", None)?,
        per_layer,
        ..decoder
    };
    let rewrites = match &layer.experts {
        Some((experts, expert)) => stored(experts.count, expert),
        None => Vec::new(),
    };
    let rewrites = Rewrites::from(rewrites).leaving(unread);
    Ok(Description { rewrites, ..Description::new(model_type, decoder, eos) })
}

/// Experts as they are stored: those of a layer in two tensors.
fn stored(count: usize, expert: &GatedFeedForwardConfig) -> Vec<Rewrite> {
    stacked("model.layers.*", "experts", count, expert, ["experts.gate_up_proj", "experts.down_proj"])
}

/// The kind of each layer. The last one is full, whatever is written.
fn kinds(model: &Reader<'_>) -> Result<Vec<Kind>, Error> {
    let sliding = model.sliding(|i| (i + 1) % 6 != 0)?;
    let last = sliding.len().saturating_sub(1);
    let kind = |(i, sliding): (usize, bool)| if sliding && i < last { Kind::Sliding } else { Kind::Full };
    Ok(sliding.into_iter().enumerate().map(kind).collect())
}

/// Where the keys and values of each layer come from: the last `num_kv_shared_layers` use those of the last layer before
/// them that has their kind.
fn sources(model: &Reader<'_>, kinds: &[Kind]) -> Result<Vec<KvSource>, Error> {
    let f = model.f;
    let shared = f.count("num_kv_shared_layers", 0)?;
    let Some(first) = kinds.len().checked_sub(shared) else {
        return Err(f.error(format!("field `num_kv_shared_layers`: {shared} of {} layers", kinds.len())));
    };
    let mut sources = vec![KvSource::Own; kinds.len()];
    for i in first..kinds.len() {
        let Some(of) = (0..first).rev().find(|of| kinds[*of] == kinds[i]) else {
            let kind = kinds[i].name();
            let message =
                format!("field `num_kv_shared_layers`: no layer of {kind} is before the {shared} last layers");
            return Err(f.error(message));
        };
        (sources[of], sources[i]) = (KvSource::Shared(of), KvSource::Layer(of));
    }
    Ok(sources)
}

/// Attention in layers of this kind, with keys of their own.
fn attention(model: &Reader<'_>, kinds: &[Kind], kind: Kind) -> Result<AttentionConfig, Error> {
    let f = model.f;
    let same = kind == Kind::Full && f.flag("attention_k_eq_v", false)?;
    let mut fields = f.clone();
    match f.get("per_layer_config") {
        Some(layers) => {
            for (name, value) in of_layers(f, layers, kinds, kind)? {
                fields.set(&name, value);
            }
        }
        None if kind == Kind::Full => {
            fields.set("head_dim", json!(f.size("global_head_dim", 512)?));
            if let (true, Some(groups)) = (same, f.some_size("num_global_key_value_heads")?) {
                fields.set("num_key_value_heads", json!(groups));
            }
        }
        None => {}
    }
    let model = Reader::new(&fields, model.defaults)?;
    Ok(AttentionConfig {
        rotary: Some(model.rotary(kind.name())?),
        reach: if kind == Kind::Sliding { model.window(Some(512))? } else { Reach::Full },
        scale: Some(1.0),
        qk_norm: Some(QkNorm::Head(model.rms())),
        values_are_keys: same,
        value_norm: Some(model.norm_eps),
        ..model.attention()?
    })
}

/// The sizes of heads that `per_layer_config` gives to the layers of this kind, which must be the same for all of them.
fn of_layers(f: &Fields, layers: &Value, kinds: &[Kind], kind: Kind) -> Result<Vec<(String, Value)>, Error> {
    let wrong = || f.error(format!("field `per_layer_config`: want an object of objects by layer, found {layers}"));
    let mut own = vec![None; kinds.len()];
    for (layer, sizes) in layers.as_object().ok_or_else(wrong)? {
        let layer: usize = layer.parse().map_err(|_| wrong())?;
        *own.get_mut(layer).ok_or_else(wrong)? = Some(sizes.as_object().ok_or_else(wrong)?);
    }
    let mut found = Vec::new();
    for name in ["head_dim", "num_key_value_heads"] {
        let of_kind = (0..kinds.len()).filter(|i| kinds[*i] == kind);
        let mut values: Vec<Option<&Value>> = of_kind.map(|i| own[i].and_then(|sizes| sizes.get(name))).collect();
        values.dedup();
        match values[..] {
            [] | [None] => {}
            [Some(value)] => found.push((name.to_owned(), value.clone())),
            _ => {
                let kind = kind.name();
                return Err(f.error(format!("field `per_layer_config`: layers of {kind} differ in `{name}`")));
            }
        }
    }
    Ok(found)
}

/// The mixture of experts in every layer, if there is one, and its expert.
fn experts(model: &Reader<'_>) -> Result<Option<(ExpertsConfig, GatedFeedForwardConfig)>, Error> {
    let f = model.f;
    if !f.flag("enable_moe_block", false)? {
        return Ok(None);
    }
    let size = |name: &str| {
        f.some_size(name)?
            .ok_or_else(|| f.error(format!("field `{name}` is missing, which a mixture of experts needs")))
    };
    let act = activation(f, "hidden_activation", Activation::GeluTanh)?;
    let inner = size("moe_intermediate_size")?;
    let expert = GatedFeedForwardConfig { activation: act, ..GatedFeedForwardConfig::silu(inner) };
    let router = RouterConfig {
        norm: Some((model.norm_eps, "router.scale".into())),
        expert_scales: Some("router.per_expert_scale".into()),
        ..RouterConfig::softmax("router.proj", true)
    };
    let experts = ExpertsConfig {
        norm: Some(NamedNorm::new("pre_feedforward_layernorm_2", model.rms())),
        ..ExpertsConfig::new([size("num_experts")?, size("top_k_experts")?], router, expert.clone())
    };
    Ok(Some((experts, expert)))
}

/// What the layers have in common.
struct Layer<'a> {
    model: &'a Reader<'a>,
    act: Activation,
    inner: usize,
    /// Whether layers without keys of their own have wider feed-forward layers.
    wide: bool,
    /// Width of the embeddings for each layer, or 0.
    width: usize,
    experts: Option<(ExpertsConfig, GatedFeedForwardConfig)>,
}

impl Layer<'_> {
    fn block(&self, i: usize, attention: AttentionConfig) -> BlockConfig {
        let norm = self.model.rms();
        let inner =
            if self.wide && matches!(attention.source, KvSource::Layer(_)) { 2 * self.inner } else { self.inner };
        let dense = GatedFeedForwardConfig { activation: self.act, ..GatedFeedForwardConfig::silu(inner) };
        let dense = BranchConfig::new("mlp", OperationConfig::Gated(dense)).before("pre_feedforward_layernorm", norm);
        let feed_forward = match &self.experts {
            None => dense,
            Some((experts, _)) => {
                let dense = dense.after("post_feedforward_layernorm_1", norm);
                let sparse = BranchConfig::new("", OperationConfig::Experts(experts.clone()));
                let sparse = sparse.after("post_feedforward_layernorm_2", norm);
                BranchConfig::new("", OperationConfig::Parallel(vec![dense, sparse]))
            }
        };
        let attention = BranchConfig::mixer("self_attn", MixerConfig::Attention(attention));
        let mut branches = vec![
            attention.before("input_layernorm", norm).after("post_attention_layernorm", norm),
            feed_forward.after("post_feedforward_layernorm", norm),
        ];
        if self.width > 0 {
            let gate = PerLayerGateConfig { width: self.width, layer: i, activation: self.act };
            let gate = BranchConfig::new("", OperationConfig::PerLayer(gate));
            branches.push(gate.after("post_per_layer_input_norm", norm));
        }
        BlockConfig { scalar: Some("layer_scalar".into()), ..BlockConfig::new(branches) }
    }
}
