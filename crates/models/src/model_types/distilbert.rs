//! `distilbert`: BERT with half the layers and no type embeddings. Sanh et al. 2019.

use longreach_nn::mixers::{AttentionConfig, AttentionNames};
use longreach_nn::{
    Activation, Bias, BodyConfig, EncoderBlockConfig, EncoderConfig, EncoderNames, FeedForwardConfig, Layout,
    NormConfig, Order, Over, Positions, Sees,
};

use crate::description::activation;
use crate::encoder::{EncoderArchitecture, EncoderDescription, GlobalByDefault, Heads, Task};
use crate::{Error, Fields, Rewrites};

pub(crate) const ARCHITECTURE: EncoderArchitecture =
    EncoderArchitecture { model_type: "distilbert", mechanism: "dense", paper: "Sanh et al. 2019", describe };

const NAMES: EncoderNames = EncoderNames {
    body: "distilbert",
    embedding: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    types: "",
    embedding_norm: "embeddings.LayerNorm",
    layers: "transformer.layer",
    attention: "attention",
    norm: "sa_layer_norm",
    feed_forward: "ffn",
    second_norm: "output_layer_norm",
    last_norm: "",
};

fn describe(f: &Fields) -> Result<EncoderDescription, Error> {
    let aliased = |name: &str, alias: &str, default| f.size(if f.given(name) { name } else { alias }, default);
    let (hidden, heads) = (aliased("dim", "hidden_size", 768)?, aliased("n_heads", "num_attention_heads", 12)?);
    if hidden % heads != 0 {
        return Err(f.error(format!("field `n_heads`: {heads} do not divide `dim` {hidden}")));
    }
    let names = AttentionNames { q: "q_lin", k: "k_lin", v: "v_lin", out: "out_lin", ..AttentionNames::LLAMA };
    let attention = AttentionConfig { bias: true, out_bias: true, names, ..AttentionConfig::new(hidden, heads) };
    let act = activation(f, "activation", Activation::Gelu)?;
    let layers = f.layers(if f.given("n_layers") { "n_layers" } else { "num_hidden_layers" }, 6)?;
    let encoder = EncoderConfig {
        vocabulary: f.size("vocab_size", 30_522)?,
        hidden,
        blocks: vec![EncoderBlockConfig { attention, sees: Sees::All }; layers],
        positions: Some(Positions { rows: f.size("max_position_embeddings", 512)?, first: 0, skip: None }),
        types: None,
        scale: None,
        norm: NormConfig::Layer(1e-12, Bias::Yes),
        order: Order::Behind,
        first_unnormed: false,
        last_norm: false,
        feed_forward: FeedForwardConfig {
            inner: f.size("hidden_dim", 3072)?,
            activation: act,
            gated: false,
            bias: Bias::Yes,
            names: ["lin1", "lin2"],
            layout: Layout::Same,
        },
        names: NAMES,
    };
    let heads = Heads::of(f, hidden, encoder.vocabulary)?;
    let head = match heads.task() {
        None => None,
        Some(task) => Some((
            task,
            match task {
                Task::MaskedLm => {
                    let dense = Some(("vocab_transform", Bias::Yes, act));
                    let norm = Some(("vocab_layer_norm", encoder.norm));
                    heads.words(dense, norm, "vocab_projector", &["vocab_projector.bias"])
                }
                Task::Sequence => {
                    let dense = Some(("pre_classifier", Bias::Yes, Activation::Relu));
                    heads.labelled(Over::First, dense, ["classifier", "classifier.bias"])
                }
                Task::Token => heads.labelled(Over::Tokens, None, ["classifier", "classifier.bias"]),
                Task::Question => heads.ends("qa_outputs", &["qa_outputs.bias"]),
            },
        )),
    };
    Ok(EncoderDescription {
        model_type: "distilbert",
        longest: encoder.positions.map(|p| p.longest()),
        pooler: None,
        pad: f.id("pad_token_id", 0)?,
        separator: None,
        questions: false,
        rewrites: Rewrites::default(),
        global: GlobalByDefault::None,
        head,
        labels: heads.labels(),
        body: BodyConfig::Blocks(encoder),
    })
}
