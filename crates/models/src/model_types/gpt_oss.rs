//! `gpt_oss`: attention with learned sinks, with windows in every other layer, and mixtures of experts whose matrices may be
//! stored in 4 bits. OpenAI 2025.

use longreach_nn::mixers::{AttentionConfig, Reach};
use longreach_nn::{Bias, Clamp, ExpertsConfig, GatedFeedForwardConfig, OperationConfig, RouterConfig};
use serde_json::json;

use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields, Rewrite, Step};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "gpt_oss", mechanism: "window", paper: "OpenAI 2025", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults {
        vocabulary: 201_088,
        hidden: 2880,
        layers: 36,
        heads: 64,
        groups: Some(8),
        head_dim: Some(64),
        inner: 2880,
        norm_eps: 1e-5,
        theta: 150_000.0,
        longest: 131_072,
        eos: 200_002,
        ..LLAMA
    };
    let mut fields = f.clone();
    if f.get("rope_scaling").is_none() {
        let scaling = json!({
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": false,
            "original_max_position_embeddings": 4096,
        });
        fields.set_default("rope_parameters", scaling);
    }
    let (f, model) = (&fields, Reader::new(&fields, defaults)?);
    let bias = f.flag("attention_bias", true)?;
    let window = model.window(Some(128))?;
    let attention = AttentionConfig {
        rotary: Some(model.rotary("full_attention")?),
        learned_sinks: true,
        bias,
        out_bias: bias,
        ..model.attention()?
    };
    let named = if f.given("num_experts") { "num_experts" } else { "num_local_experts" };
    let count = f.size(named, 128)?;
    let number = |name: &str, default: f64| f.number(name, default).map(|x| x as f32);
    let expert = GatedFeedForwardConfig {
        clamp: Some(Clamp { alpha: number("swiglu_alpha", 1.702)?, limit: number("swiglu_limit", 7.0)? }),
        bias: Bias::Yes,
        ..model.feed_forward()?
    };
    let router = RouterConfig { bias: Bias::Yes, ..RouterConfig::softmax("router", true) };
    let experts = ExpertsConfig::new([count, f.size("num_experts_per_tok", 4)?], router, expert);
    let experts = OperationConfig::Experts(experts);
    let block = |sliding: bool| {
        let reach = if sliding { window } else { Reach::Full };
        model.block(AttentionConfig { reach, ..attention.clone() }, "mlp", experts.clone())
    };
    let blocks = model.sliding(|i| i % 2 == 0)?.into_iter().map(block).collect();
    Ok(Description { rewrites: rewrites(count).into(), ..model.describe("gpt_oss", blocks)? })
}

/// The experts' matrices, stored transposed, `[experts, inputs, outputs]`, or, in 4 bits, as `[experts, outputs, inputs]`.
/// Rows of gate and up projection alternate.
fn rewrites(count: usize) -> Vec<Rewrite> {
    let at = "model.layers.*.mlp.experts";
    let nth = Step::Nth(count);
    let one =
        |ours: &str, file: &str, steps: &[Step]| Rewrite::new(format!("{at}.*.{ours}"), format!("{at}.{file}"), steps);
    let mut all = vec![
        one("down_proj.weight", "down_proj", &[nth.clone(), Step::Transposed]),
        one("down_proj.weight", "down_proj_blocks", std::slice::from_ref(&nth)),
        one("down_proj.bias", "down_proj_bias", std::slice::from_ref(&nth)),
    ];
    for (first, name) in ["gate_proj", "up_proj"].into_iter().enumerate() {
        let every = Step::Every { first, of: 2 };
        let [weight, bias] = ["weight", "bias"].map(|kind| format!("{name}.{kind}"));
        all.push(one(&weight, "gate_up_proj", &[nth.clone(), Step::Transposed, every.clone()]));
        all.push(one(&weight, "gate_up_proj_blocks", &[nth.clone(), every.clone()]));
        all.push(one(&bias, "gate_up_proj_bias", &[nth.clone(), every]));
    }
    all
}
