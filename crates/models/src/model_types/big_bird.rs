//! `big_bird`: BERT with block-sparse attention, as Hugging Face evaluates it. Zaheer et al. 2020.
//!
//! With `attention_type` `block_sparse`, texts of at most `5 + 2 num_random_blocks` blocks get full attention, as in
//! Hugging Face: see [`Sees::whole`].

use longreach_attention::softmax::bigbird::BigBird;
use longreach_nn::{Activation, Bias, BodyConfig, FeedForwardConfig, HeadConfig, Layout, Over, Positions, Sees};

use crate::encoder::{EncoderArchitecture, EncoderDescription, GlobalByDefault, Heads, Task};
use crate::families::bert::{DECODER, DECODER_BIAS, Defaults, encoder, transform};
use crate::{Error, Fields, Rewrites};

pub(crate) const ARCHITECTURE: EncoderArchitecture =
    EncoderArchitecture { model_type: "big_bird", mechanism: "bigbird", paper: "Zaheer et al. 2020", describe };

fn sees(f: &Fields) -> Result<Sees, Error> {
    match f.text("attention_type")?.unwrap_or("block_sparse") {
        "original_full" => Ok(Sees::All),
        "block_sparse" => {
            let max_length = f.size("max_position_embeddings", 4096)?;
            let (block, random_blocks) = (f.size("block_size", 64)?, f.size("num_random_blocks", 3)?);
            if block > max_length || random_blocks > max_length {
                return Err(f.error(format!(
                    "fields `block_size` {block} and `num_random_blocks` {random_blocks}: want at most `max_position_embeddings` {max_length}"
                )));
            }
            // Only random blocks drawn in training depend on the maximum length.
            Ok(Sees::BigBird(BigBird { block, random_blocks, seed: None, max_length: max_length.min(4096) }))
        }
        other => Err(f.error(format!("field `attention_type`: want block_sparse or original_full, found \"{other}\""))),
    }
}

fn describe(f: &Fields) -> Result<EncoderDescription, Error> {
    let defaults =
        Defaults { body: "bert", vocabulary: 50_358, activation: Activation::GeluTanh, positions: 4096, eps: 1e-12 };
    let (sees, bias) = (sees(f)?, f.flag("use_bias", true)?);
    let mut encoder =
        encoder(f, &defaults, |rows| Positions { rows, first: 0, skip: None }, bias, |_| Ok(sees.clone()))?;
    if f.flag("rescale_embeddings", false)? {
        encoder.scale = Some((encoder.hidden as f32).sqrt());
    }
    let heads = Heads::of(f, encoder.hidden, encoder.vocabulary)?;
    let act = encoder.feed_forward.activation;
    let head = match heads.task() {
        None => None,
        Some(task) => Some((
            task,
            match task {
                Task::MaskedLm => {
                    let (dense, norm) = transform(act, encoder.norm);
                    heads.words(dense, norm, DECODER, DECODER_BIAS)
                }
                Task::Sequence => {
                    let dense = Some(("classifier.dense", Bias::Yes, act));
                    heads.labelled(Over::First, dense, ["classifier.out_proj", "classifier.out_proj.bias"])
                }
                Task::Token => heads.labelled(Over::Tokens, None, ["classifier", "classifier.bias"]),
                Task::Question => {
                    let layer = FeedForwardConfig {
                        inner: encoder.feed_forward.inner,
                        activation: act,
                        gated: false,
                        bias: Bias::Yes,
                        names: ["qa_classifier.intermediate.dense", "qa_classifier.output.dense"],
                        layout: Layout::Same,
                    };
                    let ends = heads.ends("qa_classifier.qa_outputs", &["qa_classifier.qa_outputs.bias"]);
                    HeadConfig { around: Some((layer, "qa_classifier.output.LayerNorm", encoder.norm)), ..ends }
                }
            },
        )),
    };
    Ok(EncoderDescription {
        model_type: "big_bird",
        longest: encoder.positions.map(|p| p.longest()),
        pooler: Some(("pooler", Activation::Tanh)),
        pad: f.id("pad_token_id", 0)?,
        separator: Some(f.id("sep_token_id", 66)?),
        questions: heads.task() == Some(Task::Question),
        rewrites: Rewrites::default(),
        global: GlobalByDefault::None,
        head,
        labels: heads.labels(),
        body: BodyConfig::Blocks(encoder),
    })
}
