//! `nystromformer`: BERT with Nyström attention. Xiong et al. 2021.
//!
//! Each text is read separately and without padding. Hugging Face requires texts padded to `segment_means_seq_len`,
//! and its landmarks include the padding.

use longreach_attention::lowrank::nystrom::Start;
use longreach_nn::{Activation, Bias, BodyConfig, NystromConfig, Over, Positions, Sees};

use crate::encoder::{EncoderArchitecture, EncoderDescription, GlobalByDefault, Heads, Task};
use crate::families::bert::{DECODER, DECODER_BIAS, Defaults, encoder, transform};
use crate::{Error, Fields, Rewrites};

pub(crate) const ARCHITECTURE: EncoderArchitecture =
    EncoderArchitecture { model_type: "nystromformer", mechanism: "nystrom", paper: "Xiong et al. 2021", describe };

fn describe(f: &Fields) -> Result<EncoderDescription, Error> {
    let defaults = Defaults {
        body: "nystromformer",
        vocabulary: 30_000,
        activation: Activation::GeluTanh,
        positions: 510,
        eps: 1e-5,
    };
    let conv = f.some_size("conv_kernel_size")?;
    let conv = if f.given("conv_kernel_size") { conv } else { Some(65) };
    if let Some(even) = conv.filter(|width| width % 2 == 0) {
        return Err(f.error(format!("field `conv_kernel_size`: want an odd number, found {even}")));
    }
    let landmarks = f.size("num_landmarks", 64)?;
    // As many landmarks as tokens of the padded text: Hugging Face then computes exact attention.
    let exact = landmarks == f.size("segment_means_seq_len", 64)?;
    let landmarks = if exact { usize::MAX } else { landmarks };
    let sees = Sees::Nystrom(NystromConfig { landmarks, conv, start: Start::Original });
    let rows = |rows| Positions { rows: rows + 2, first: 2, skip: None };
    let encoder = encoder(f, &defaults, rows, true, |_| Ok(sees.clone()))?;
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
                Task::Question => heads.ends("qa_outputs", &["qa_outputs.bias"]),
            },
        )),
    };
    Ok(EncoderDescription {
        model_type: "nystromformer",
        longest: encoder.positions.map(|p| p.longest()),
        pooler: None,
        pad: f.id("pad_token_id", 1)?,
        separator: None,
        questions: false,
        rewrites: Rewrites::default(),
        global: GlobalByDefault::None,
        head,
        labels: heads.labels(),
        body: BodyConfig::Blocks(encoder),
    })
}
