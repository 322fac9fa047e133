//! `transfo-xl`: Transformer-XL with adaptive embedding and softmax, as in transformers up to 4.46. Dai et al. 2019.
//!
//! Its logits are log-probabilities. The initial memory consists of zeros, which are attended to like any other row.
//! Without `same_length`, a query attends to the whole memory and to all earlier tokens of its own segment, so that
//! results depend on how a text is split.

use longreach_nn::mixers::{MixerConfig, TransformerXlConfig};
use longreach_nn::{
    Activation, AdaptiveConfig, Bias, BlockConfig, BranchConfig, DecoderConfig, DecoderNames, FeedForwardConfig,
    Layout, NormConfig, OperationConfig, WordsConfig,
};

use crate::description::eos;
use crate::{Architecture, Description, Error, Fields, Rewrites};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "transfo-xl", mechanism: "transformer_xl", paper: "Dai et al. 2019", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    for (name, default, most) in [("attn_type", 0.0, 0.0), ("sample_softmax", -1.0, 0.0)] {
        let found = f.number(name, default)?;
        if found > most || (name == "attn_type" && found != 0.0) {
            return Err(f.error(format!("field `{name}`: {found} is not supported, want {default}")));
        }
    }
    let aliased = |name: &str, alias: &str, default| f.size(if f.given(name) { name } else { alias }, default);
    let vocabulary = aliased("vocab_size", "n_token", 267_735)?;
    let hidden = aliased("d_model", "hidden_size", 1024)?;
    let layers = f.layers(if f.given("n_layer") { "n_layer" } else { "num_hidden_layers" }, 18)?;
    let heads = aliased("n_head", "num_attention_heads", 16)?;
    let norm = NormConfig::Layer(f.number("layer_norm_epsilon", 1e-5)?, Bias::Yes);
    let first = f.flag("pre_lnorm", false)?;
    let cutoffs: Vec<usize> = match f.get("cutoffs") {
        None => vec![20_000, 40_000, 200_000],
        Some(list) if list.as_array().is_some_and(Vec::is_empty) => Vec::new(),
        Some(_) => f.ids("cutoffs")?.into_iter().map(|id| id as usize).collect(),
    };
    let shared = f.flag("proj_share_all_but_first", true)?;
    let usual = || (0..=cutoffs.len()).map(|i| i > 0 && shared).collect();
    let clamp = f.number("clamp_len", 1000.0)?;
    let mixer = MixerConfig::TransformerXl(TransformerXlConfig {
        hidden,
        heads,
        head_dim: f.size("d_head", 64)?,
        memory: f.count("mem_len", 1600)?,
        clamp: (clamp > 0.0).then_some(clamp as usize),
        same_length: f.flag("same_length", true)?,
        zeros: true,
        norm: first.then_some(norm),
    });
    let feed_forward = OperationConfig::FeedForward(FeedForwardConfig {
        inner: f.size("d_inner", 4096)?,
        activation: Activation::Relu,
        gated: false,
        layout: Layout::Same,
        bias: Bias::Yes,
        names: ["CoreNet.0", "CoreNet.3"],
    });
    let (mixer, feed_forward) = (BranchConfig::mixer("dec_attn", mixer), BranchConfig::new("pos_ff", feed_forward));
    // With pre-norm, the mixer has a norm of its own, which includes the memory.
    let branches = match first {
        true => vec![mixer, feed_forward.before("pos_ff.layer_norm", norm)],
        false => vec![mixer.of_sum("dec_attn.layer_norm", norm), feed_forward.of_sum("pos_ff.layer_norm", norm)],
    };
    let blocks = vec![BlockConfig::new(branches); layers];
    let words = WordsConfig::Adaptive(AdaptiveConfig {
        embedded: f.size("d_embed", 1024)?,
        divisor: f.size("div_val", 4)?,
        tied: f.flag("tie_word_embeddings", true)?,
        tied_projections: f.flags("tie_projs")?.unwrap_or_else(usual),
        scale: (hidden as f32).sqrt(),
        cutoffs,
    });
    Ok(Description {
        model_type: "transfo-xl",
        decoder: DecoderConfig {
            words,
            ..DecoderConfig::new(
                [vocabulary, hidden],
                blocks,
                DecoderNames::new(["transformer", "word_emb", "layers", "crit"]),
            )
        },
        eos: eos(f, 0)?,
        rewrites: Rewrites::default(),
        context: None,
    })
}
