//! `modernbert`: rotary positions, alternating sliding-window and full attention, GeGLU, pre-norm. Warner et al.
//! 2024.

use longreach_attention::rotary::{Rotary, Scaling};
use longreach_nn::mixers::{AttentionConfig, AttentionNames, Fused};
use longreach_nn::{
    Activation, Bias, BodyConfig, EncoderBlockConfig, EncoderConfig, EncoderNames, FeedForwardConfig, HeadConfig,
    Layout, NormConfig, Order, Over, Sees,
};

use crate::description::activation;
use crate::encoder::{EncoderArchitecture, EncoderDescription, GlobalByDefault, Heads, Task};
use crate::{Error, Fields, Rewrites};

pub(crate) const ARCHITECTURE: EncoderArchitecture =
    EncoderArchitecture { model_type: "modernbert", mechanism: "window", paper: "Warner et al. 2024", describe };

const NAMES: EncoderNames = EncoderNames {
    body: "model",
    embedding: "embeddings.tok_embeddings",
    positions: "",
    types: "",
    embedding_norm: "embeddings.norm",
    layers: "layers",
    attention: "attn",
    norm: "attn_norm",
    feed_forward: "mlp",
    second_norm: "mlp_norm",
    last_norm: "final_norm",
};

/// Whether each layer has full attention.
fn whole(f: &Fields, layers: usize) -> Result<Vec<bool>, Error> {
    let Some(types) = f.get("layer_types") else {
        let every = f.size("global_attn_every_n_layers", 3)?;
        return Ok((0..layers).map(|i| i % every == 0).collect());
    };
    let wrong = || {
        f.error(format!(
            "field `layer_types`: want `full_attention` or `sliding_attention` for each of {layers} layers"
        ))
    };
    let one = |v: &serde_json::Value| match v.as_str() {
        Some("full_attention") => Some(true),
        Some("sliding_attention") => Some(false),
        _ => None,
    };
    let list = types.as_array().ok_or_else(wrong)?;
    let list: Vec<bool> = list.iter().map(one).collect::<Option<_>>().ok_or_else(wrong)?;
    if list.len() == layers { Ok(list) } else { Err(wrong()) }
}

/// θ of the layers of one kind: by layer type as in version 5 of transformers, or in a field of its own as in version
/// 4.
fn theta(f: &Fields, kind: &str, old: &str, default: f64) -> Result<f64, Error> {
    let parameters = f.objects("rope_parameters")?;
    let own = match parameters.first() {
        Some(all) if all.given(kind) => all.objects(kind)?.into_iter().next(),
        Some(all) if all.given("rope_theta") => Some(all.clone()),
        _ => None,
    };
    let Some(own) = own else { return f.number(old, default) };
    if let Some(other) = own.text("rope_type")?
        && other != "default"
    {
        return Err(
            f.error(format!("field `rope_parameters`: `rope_type` \"{other}\" is not supported, want \"default\""))
        );
    }
    own.number("rope_theta", default)
}

fn describe(f: &Fields) -> Result<EncoderDescription, Error> {
    let (hidden, heads) = (f.size("hidden_size", 768)?, f.size("num_attention_heads", 12)?);
    if hidden % heads != 0 || (hidden / heads) % 2 != 0 {
        return Err(f.error(format!(
            "field `num_attention_heads`: {heads} do not divide `hidden_size` {hidden} into heads of even width"
        )));
    }
    let head_dim = hidden / heads;
    let norm = NormConfig::Layer(f.number("norm_eps", 1e-5)?, f.flag("norm_bias", false)?.into());
    let names = AttentionNames { q: "Wqkv", out: "Wo", ..AttentionNames::LLAMA };
    let bias = f.flag("attention_bias", false)?;
    let window = f.size("local_attention", 128)? / 2;
    let layers = f.layers("num_hidden_layers", 22)?;
    let thetas = [
        theta(f, "full_attention", "global_rope_theta", 160_000.0)?,
        theta(f, "sliding_attention", "local_rope_theta", 10_000.0)?,
    ];
    let block = |whole: bool| {
        let theta = if whole { thetas[0] } else { thetas[1] };
        let rotary = Some(Rotary { width: head_dim, theta, interleaved: false, scaling: Scaling::Default });
        let attention = AttentionConfig {
            bias,
            out_bias: bias,
            rotary,
            names,
            fused: Fused::Parts,
            ..AttentionConfig::new(hidden, heads)
        };
        EncoderBlockConfig { attention, sees: if whole { Sees::All } else { Sees::Window(window) } }
    };
    let encoder = EncoderConfig {
        vocabulary: f.size("vocab_size", 50_368)?,
        hidden,
        blocks: whole(f, layers)?.into_iter().map(block).collect(),
        positions: None,
        types: None,
        scale: None,
        norm,
        order: Order::Before,
        first_unnormed: true,
        last_norm: true,
        feed_forward: FeedForwardConfig {
            inner: f.size("intermediate_size", 1152)?,
            activation: activation(f, "hidden_activation", Activation::Gelu)?,
            gated: true,
            bias: f.flag("mlp_bias", false)?.into(),
            names: ["Wi", "Wo"],
            layout: Layout::Same,
        },
        names: NAMES,
    };
    let heads = Heads::of(f, hidden, encoder.vocabulary)?;
    let over = match f.text("classifier_pooling")?.unwrap_or("cls") {
        "cls" => Over::First,
        "mean" => Over::Mean,
        other => return Err(f.error(format!("field `classifier_pooling`: want cls or mean, found \"{other}\""))),
    };
    let head = match heads.task() {
        None => None,
        Some(task) => {
            let act = activation(f, "classifier_activation", Activation::Gelu)?;
            let dense = Some(("head.dense", Bias::from(f.flag("classifier_bias", false)?), act));
            let last = Some(("head.norm", norm));
            let head = match task {
                Task::MaskedLm => {
                    let bias: &[&str] = if f.flag("decoder_bias", true)? { &["decoder.bias"] } else { &[] };
                    heads.words(dense, last, "decoder", bias)
                }
                Task::Sequence => heads.labelled(over, dense, ["classifier", "classifier.bias"]),
                Task::Token => heads.labelled(Over::Tokens, dense, ["classifier", "classifier.bias"]),
                Task::Question => HeadConfig {
                    dense: dense.map(|(name, bias, act)| (name, hidden, bias, act)),
                    ..heads.ends("classifier", &["classifier.bias"])
                },
            };
            Some((task, HeadConfig { norm: last, ..head }))
        }
    };
    Ok(EncoderDescription {
        model_type: "modernbert",
        longest: Some(f.size("max_position_embeddings", 8192)?),
        pooler: None,
        pad: f.id("pad_token_id", 50_283)?,
        separator: None,
        questions: false,
        rewrites: Rewrites::default(),
        global: GlobalByDefault::None,
        head,
        labels: heads.labels(),
        body: BodyConfig::Blocks(encoder),
    })
}
