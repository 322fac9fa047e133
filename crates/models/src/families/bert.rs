//! BERT and the models related to it: names, defaults and heads.

use longreach_attention::softmax::deepspeed;
use longreach_nn::mixers::{AttentionConfig, AttentionNames};
use longreach_nn::{
    Activation, Bias, EncoderBlockConfig, EncoderConfig, EncoderNames, HeadConfig, NormConfig, Order, Over, Positions,
    Sees,
};

use crate::description::activation;
use crate::encoder::{Dense, Heads, Task, feed_forward};
use crate::{Error, Fields};

const NAMES: AttentionNames =
    AttentionNames { q: "self.query", k: "self.key", v: "self.value", out: "output.dense", ..AttentionNames::LLAMA };

/// The names of BERT's parts, with another body prefix.
pub(crate) const fn names(body: &'static str) -> EncoderNames {
    EncoderNames {
        body,
        embedding: "embeddings.word_embeddings",
        positions: "embeddings.position_embeddings",
        types: "embeddings.token_type_embeddings",
        embedding_norm: "embeddings.LayerNorm",
        layers: "encoder.layer",
        attention: "attention",
        norm: "attention.output.LayerNorm",
        feed_forward: "",
        second_norm: "output.LayerNorm",
        last_norm: "",
    }
}

/// The defaults that differ between the related models.
pub(crate) struct Defaults {
    pub(crate) body: &'static str,
    pub(crate) vocabulary: usize,
    pub(crate) activation: Activation,
    pub(crate) positions: usize,
    pub(crate) eps: f64,
}

/// The encoder of a model related to BERT; `positions` receives the number of position rows, `sees` the index of the
/// block.
pub(crate) fn encoder(
    f: &Fields,
    d: &Defaults,
    positions: impl Fn(usize) -> Positions,
    bias: bool,
    sees: impl Fn(usize) -> Result<Sees, Error>,
) -> Result<EncoderConfig, Error> {
    if let Some(kind) = f.text("position_embedding_type")?
        && kind != "absolute"
    {
        return Err(f.error(format!("field `position_embedding_type`: want \"absolute\", found \"{kind}\"")));
    }
    if f.flag("is_decoder", false)? || f.flag("add_cross_attention", false)? {
        return Err(f.error("fields `is_decoder` and `add_cross_attention`: want false, only encoders are supported"));
    }
    let hidden = f.size("hidden_size", 768)?;
    let heads = f.size("num_attention_heads", 12)?;
    if hidden % heads != 0 {
        return Err(f.error(format!("field `num_attention_heads`: {heads} do not divide `hidden_size` {hidden}")));
    }
    let attention = AttentionConfig { bias, out_bias: true, names: NAMES, ..AttentionConfig::new(hidden, heads) };
    let act = activation(f, "hidden_act", d.activation)?;
    let positions = positions(f.size("max_position_embeddings", d.positions)?);
    let sparse = sparse(f, positions.rows.saturating_sub(positions.first))?;
    let block = |i| {
        let sees = match &sparse {
            Some((layout, longest)) => Sees::Sparse(layout.clone(), *longest),
            None => sees(i)?,
        };
        Ok(EncoderBlockConfig { attention: attention.clone(), sees })
    };
    Ok(EncoderConfig {
        vocabulary: f.size("vocab_size", d.vocabulary)?,
        hidden,
        blocks: (0..f.layers("num_hidden_layers", 12)?).map(block).collect::<Result<_, Error>>()?,
        positions: Some(positions),
        types: Some(f.size("type_vocab_size", 2)?),
        scale: None,
        norm: NormConfig::Layer(f.number("layer_norm_eps", d.eps)?, Bias::Yes),
        order: Order::Behind,
        first_unnormed: false,
        last_norm: false,
        feed_forward: feed_forward(f, 3072, act, ["intermediate.dense", "output.dense"])?,
        names: names(d.body),
    })
}

/// A block layout of DeepSpeed for texts of up to `longest` tokens, if the configuration has a `sparse_attention`
/// field, as written by `longreach sparsify`.
pub(crate) fn sparse(f: &Fields, longest: usize) -> Result<Option<(deepspeed::Config, usize)>, Error> {
    let Some(layout) = f.get("sparse_attention") else { return Ok(None) };
    let layout = deepspeed::Config::parse(&layout.to_string());
    Ok(Some((layout.map_err(|e| f.error(format!("field `sparse_attention`: {e}")))?, longest)))
}

/// The names of the output layer of BERT's language-model head.
pub(crate) const DECODER: &str = "cls.predictions.decoder";
pub(crate) const DECODER_BIAS: &[&str] = &["cls.predictions.decoder.bias", "cls.predictions.bias"];

/// The hidden layer and the norm of that head.
pub(crate) fn transform(act: Activation, norm: NormConfig) -> (Option<Dense>, Option<(&'static str, NormConfig)>) {
    let dense = ("cls.predictions.transform.dense", Bias::Yes, act);
    (Some(dense), Some(("cls.predictions.transform.LayerNorm", norm)))
}

/// RoBERTa's position rows: padding has row `pad`, and texts start at row `pad + 1`.
pub(crate) fn roberta_positions(pad: u32) -> impl Fn(usize) -> Positions {
    move |rows| Positions { rows, first: pad as usize + 1, skip: Some(pad) }
}

/// The task heads of RoBERTa and related models.
pub(crate) fn roberta_head(heads: &Heads, encoder: &EncoderConfig) -> Option<(Task, HeadConfig)> {
    let task = heads.task()?;
    let head = match task {
        Task::MaskedLm => {
            let dense = Some(("lm_head.dense", Bias::Yes, Activation::Gelu));
            let norm = Some(("lm_head.layer_norm", encoder.norm));
            heads.words(dense, norm, "lm_head.decoder", &["lm_head.decoder.bias", "lm_head.bias"])
        }
        Task::Sequence => {
            let dense = Some(("classifier.dense", Bias::Yes, Activation::Tanh));
            heads.labelled(Over::First, dense, ["classifier.out_proj", "classifier.out_proj.bias"])
        }
        Task::Token => heads.labelled(Over::Tokens, None, ["classifier", "classifier.bias"]),
        Task::Question => heads.ends("qa_outputs", &["qa_outputs.bias"]),
    };
    Some((task, head))
}
