//! `bert`: Devlin et al. 2019, as stored by Hugging Face.

use longreach_nn::{Activation, BodyConfig, Over, Positions, Sees};

use crate::encoder::{EncoderArchitecture, EncoderDescription, GlobalByDefault, Heads, Task};
use crate::families::bert::{DECODER, DECODER_BIAS, Defaults, encoder, transform};
use crate::{Error, Fields, Rewrites};

pub(crate) const ARCHITECTURE: EncoderArchitecture =
    EncoderArchitecture { model_type: "bert", mechanism: "dense", paper: "Devlin et al. 2019", describe };

fn describe(f: &Fields) -> Result<EncoderDescription, Error> {
    let defaults =
        Defaults { body: "bert", vocabulary: 30_522, activation: Activation::Gelu, positions: 512, eps: 1e-12 };
    let encoder = encoder(f, &defaults, |rows| Positions { rows, first: 0, skip: None }, true, |_| Ok(Sees::All))?;
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
                Task::Sequence => heads.labelled(Over::Pooled, None, ["classifier", "classifier.bias"]),
                Task::Token => heads.labelled(Over::Tokens, None, ["classifier", "classifier.bias"]),
                Task::Question => heads.ends("qa_outputs", &["qa_outputs.bias"]),
            },
        )),
    };
    Ok(EncoderDescription {
        model_type: "bert",
        longest: encoder.positions.map(|p| p.longest()),
        pooler: Some(("pooler.dense", Activation::Tanh)),
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
