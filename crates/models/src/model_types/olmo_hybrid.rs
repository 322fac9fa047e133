//! `olmo_hybrid`: the gated delta rule with norms before, and attention in every fourth layer with norms after it. Ai2
//! 2026.

use longreach_nn::mixers::{AttentionConfig, GatedDeltaConfig, MixerConfig, QkNorm};
use longreach_nn::{BlockConfig, BranchConfig, OperationConfig};

use crate::families::delta::gated_delta;
use crate::families::hybrid::{as_many, kinds};
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields, Rewrite, Step};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "olmo_hybrid", mechanism: "gated_delta", paper: "Ai2 2026", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults { vocabulary: 100_352, hidden: 3840, heads: 30, longest: 65_536, eos: 100_257, ..LLAMA };
    let model = Reader::new(f, defaults)?;
    let heads = f.size("num_attention_heads", 30)?;
    let groups = f.size("linear_num_key_heads", heads)?;
    let key = f.size("linear_key_head_dim", (0.75 * model.hidden as f64 / groups as f64) as usize)?;
    let delta = GatedDeltaConfig {
        up_to_two: f.flag("linear_allow_neg_eigval", true)?,
        // The ε of the gated norm is fixed.
        ..gated_delta(f, model.hidden, [heads, heads, key, 2 * key], 1e-5)?
    };
    // A base of null means no positions; an absent one has a default.
    let rotated = match f.objects("rope_parameters")?.first() {
        Some(parameters) => parameters.get("rope_theta").is_some(),
        None => f.get("rope_theta").is_some() || !f.given("rope_theta"),
    };
    let attention = AttentionConfig {
        rotary: if rotated { Some(model.rotary("full_attention")?) } else { None },
        qk_norm: Some(QkNorm::Whole(model.rms())),
        ..model.attention()?
    };
    let feed_forward = OperationConfig::Gated(model.feed_forward()?);
    let attends = match kinds(f, "layer_types", &[("full_attention", true), ("linear_attention", false)])? {
        Some(kinds) => kinds,
        // Every fourth layer, and the last one if there is no fourth.
        None => (1..=model.layers).map(|i| i % 4 == 0 || model.layers < 4 && i == model.layers).collect(),
    };
    as_many(f, "layer_types", &attends, model.layers)?;
    let block = |attends: bool| {
        BlockConfig::new(if attends {
            vec![
                model.mixer(attention.clone()).after("post_attention_layernorm", model.rms()),
                BranchConfig::new("mlp", feed_forward.clone()).after("post_feedforward_layernorm", model.rms()),
            ]
        } else {
            vec![
                BranchConfig::mixer("linear_attn", MixerConfig::GatedDelta(delta.clone()))
                    .before("input_layernorm", model.rms()),
                BranchConfig::new("mlp", feed_forward.clone()).before("post_attention_layernorm", model.rms()),
            ]
        })
    };
    let description = model.describe("olmo_hybrid", attends.into_iter().map(block).collect())?;
    Ok(Description { rewrites: rewrites(&delta).into(), ..description })
}

/// Names on the Hub, and convolutions, which transformers saves as three parts of equal size whatever the sizes of
/// queries, keys and values.
fn rewrites(c: &GatedDeltaConfig) -> Vec<Rewrite> {
    let at = "model.layers.*";
    let (key, value) = (c.heads.groups * c.heads.key, c.heads.heads * c.heads.value);
    let conv = |name: &str| format!("{at}.linear_attn.{name}_conv1d.weight");
    let parts = ["q", "k", "v"].map(conv);
    let all = 2 * key + value;
    let rows = [0..key, key..2 * key, 2 * key..all];
    let convs = parts.iter().zip(rows).map(|(ours, rows)| Rewrite::joined(ours, &parts, [Step::Rows(rows, all)]));
    let mut rewrites: Vec<Rewrite> = convs.collect();
    let norms = [("input_layernorm", "attention_layer_norm"), ("post_attention_layernorm", "feedforward_layer_norm")];
    for (ours, file) in norms {
        rewrites.push(Rewrite::new(format!("{at}.{ours}.weight"), format!("{at}.{file}.weight"), []));
    }
    rewrites
}
