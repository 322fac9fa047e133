//! `lfm3`: gated short convolutions of seven taps, attention with windows and without, gates of its heads, and norms before
//! and after each operation. Liquid AI 2026.

use longreach_attention::rotary::{Rotary, Scaling};
use longreach_nn::OperationConfig;
use longreach_nn::mixers::{AttentionConfig, MixerConfig, OutputGate, Reach};

use crate::families::hybrid::{as_many, kinds};
use crate::families::lfm::{LFM, attention, block, convolution, describe, feed_forward, fields};
use crate::families::llama::{Defaults, Reader};
use crate::{Architecture, Description, Error, Fields, Rewrite};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "lfm3", mechanism: "short_conv", paper: "Liquid AI 2026", describe: of };

#[derive(Clone, Copy)]
enum Kind {
    Full,
    Sliding,
    Conv,
}

fn of(f: &Fields) -> Result<Description, Error> {
    let fields = fields(f);
    let defaults = Defaults {
        vocabulary: 128_000,
        hidden: 2048,
        layers: 24,
        heads: 16,
        groups: Some(4),
        head_dim: Some(128),
        inner: 7680,
        eos: 124_900,
        ..LFM
    };
    let (f, model) = (&fields, Reader::new(&fields, defaults)?);
    let bias = f.flag("attention_bias", false)?;
    let gate = f.flag("use_attention_gate", true)?.then_some(OutputGate::Head);
    let plain = AttentionConfig { gate, bias, out_bias: bias, ..attention(&model)? };
    let default = |theta, scaling| Rotary { width: plain.head_dim, theta, interleaved: false, scaling };
    let (far, near) = match f.get("rope_parameters") {
        Some(_) => (model.rotary("full_attention")?, model.rotary("sliding_attention")?),
        None => {
            let proportional = Scaling::Proportional { factor: 1.0, partial_rotary_factor: 0.5 };
            (default(1e6, proportional), default(1e4, Scaling::Default))
        }
    };
    let window = model.window(Some(256))?;
    let names = [("full_attention", Kind::Full), ("sliding_attention", Kind::Sliding), ("conv", Kind::Conv)];
    let kinds = match kinds(f, "layer_types", &names)? {
        Some(kinds) => kinds,
        None => {
            let kind = |i: usize| match i % 4 {
                2 => Kind::Full,
                0 if i > 0 => Kind::Sliding,
                _ => Kind::Conv,
            };
            (0..model.layers).map(kind).collect()
        }
    };
    as_many(f, "layer_types", &kinds, model.layers)?;
    let conv = convolution(&model, 7)?;
    let attention = |rotary: &Rotary, reach: Reach| {
        MixerConfig::Attention(AttentionConfig { rotary: Some(rotary.clone()), reach, ..plain.clone() })
    };
    let operation = OperationConfig::Gated(feed_forward(f.size("intermediate_size", defaults.inner)?));
    let sandwich = f.flag("use_sandwich_norm", true)?;
    let blocks = kinds.into_iter().map(|kind| {
        let mixer = match kind {
            Kind::Full => attention(&far, Reach::Full),
            Kind::Sliding => attention(&near, window),
            Kind::Conv => conv.clone(),
        };
        block(model.rms(), mixer, operation.clone(), sandwich)
    });
    let description = describe(&model, "lfm3", blocks.collect())?;
    // transformers has another name for the gate in memory, which it may write.
    let gate = |name: &str| format!("model.layers.*.self_attn.{name}.weight");
    let rewrites = vec![
        Rewrite::new(gate("gate_proj"), gate("gate_proj"), []),
        Rewrite::new(gate("gate_proj"), gate("g_proj"), []),
    ];
    Ok(Description { rewrites: rewrites.into(), ..description })
}
