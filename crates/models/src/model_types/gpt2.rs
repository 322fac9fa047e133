//! `gpt2`: learned positions, pre-norm, linear weights stored as `[in, out]`. Radford et al. 2019.

use longreach_nn::mixers::{AttentionConfig, AttentionNames, Fused, MixerConfig};
use longreach_nn::{
    Activation, Bias, BlockConfig, BodyConfig, BranchConfig, DecoderConfig, DecoderNames, FeedForwardConfig, Layout,
    NamedNorm, NormConfig, OperationConfig, Over, WordsConfig,
};

use crate::description::activation;
use crate::description::eos;
use crate::encoder::{EncoderArchitecture, EncoderDescription, GlobalByDefault, Heads, Task};
use crate::families::bert::sparse;
use crate::{Architecture, Description, Error, Fields, Rewrites};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "gpt2", mechanism: "dense", paper: "Radford et al. 2019", describe };

/// The same body with a head for sequence classification, token classification or question answering.
pub(crate) const SCORING: EncoderArchitecture =
    EncoderArchitecture { model_type: "gpt2", mechanism: "dense", paper: "Radford et al. 2019", describe: scoring };

fn describe(f: &Fields) -> Result<Description, Error> {
    let aliased = |name: &str, alias: &str, default| f.size(if f.given(name) { name } else { alias }, default);
    let hidden = aliased("n_embd", "hidden_size", 768)?;
    let heads = aliased("n_head", "num_attention_heads", 12)?;
    if hidden % heads != 0 {
        return Err(f.error(format!("field `n_head`: {heads} do not divide `n_embd` {hidden}")));
    }
    let norm = NormConfig::Layer(f.number("layer_norm_epsilon", 1e-5)?, Bias::Yes);
    let names = AttentionNames { q: "c_attn", out: "c_proj", ..AttentionNames::LLAMA };
    let scaled = f.flag("scale_attn_weights", true)?;
    let by_layer = f.flag("scale_attn_by_inverse_layer_idx", false)?;
    let feed_forward = FeedForwardConfig {
        inner: f.size("n_inner", 4 * hidden)?,
        activation: activation(f, "activation_function", Activation::GeluTanh)?,
        gated: false,
        bias: Bias::Yes,
        names: ["c_fc", "c_proj"],
        layout: Layout::Transposed,
    };
    let positions = aliased("n_positions", "max_position_embeddings", 1024)?;
    let sparse = sparse(f, positions)?;
    let block = |i: usize| {
        let width = if scaled { (hidden / heads) as f32 } else { 1.0 };
        let depth = if by_layer { (i + 1) as f32 } else { 1.0 };
        let mixer = MixerConfig::Attention(AttentionConfig {
            bias: true,
            out_bias: true,
            scale: Some(width.powf(-0.5) / depth),
            names,
            fused: Fused::Parts,
            layout: Layout::Transposed,
            sparse: sparse.clone(),
            ..AttentionConfig::new(hidden, heads)
        });
        BlockConfig::new(vec![
            BranchConfig::mixer("attn", mixer).before("ln_1", norm),
            BranchConfig::new("mlp", OperationConfig::FeedForward(feed_forward)).before("ln_2", norm),
        ])
    };
    let layers = f.layers(if f.given("n_layer") { "n_layer" } else { "num_hidden_layers" }, 12)?;
    let size = [f.size("vocab_size", 50_257)?, hidden];
    let names = DecoderNames::new(["transformer", "wte", "h", "lm_head"]);
    Ok(Description {
        model_type: "gpt2",
        decoder: DecoderConfig {
            last_norm: Some(NamedNorm::new("ln_f", norm)),
            words: WordsConfig::Table { tied: f.flag("tie_word_embeddings", true)? },
            positions: Some(("wpe".into(), positions)),
            ..DecoderConfig::new(size, (0..layers).map(block).collect(), names)
        },
        eos: eos(f, 50_256)?,
        rewrites: Rewrites::default(),
        context: None,
    })
}

fn scoring(f: &Fields) -> Result<EncoderDescription, Error> {
    let Description { decoder, eos, .. } = describe(f)?;
    // The language-model head is not in the file.
    let decoder = DecoderConfig { words: WordsConfig::Table { tied: true }, ..decoder };
    let heads = Heads::of(f, decoder.hidden, decoder.vocabulary)?;
    let head = match heads.task() {
        Some(Task::Sequence) => Some((Task::Sequence, heads.labelled(Over::Last, None, ["score", ""]))),
        Some(Task::Token) => Some((Task::Token, heads.labelled(Over::Tokens, None, ["classifier", "classifier.bias"]))),
        Some(Task::Question) => Some((Task::Question, heads.ends("qa_outputs", &["qa_outputs.bias"]))),
        Some(Task::MaskedLm) | None => None,
    };
    Ok(EncoderDescription {
        model_type: "gpt2",
        pooler: None,
        head,
        labels: heads.labels(),
        longest: decoder.positions.as_ref().map(|(_, rows)| *rows),
        pad: f.id("pad_token_id", eos.first().copied().unwrap_or(0))?,
        separator: None,
        global: GlobalByDefault::None,
        questions: false,
        rewrites: Rewrites::default(),
        body: BodyConfig::Decoder(decoder),
    })
}
