//! `roberta` and `xlm-roberta`: BERT with positions that start after that of the padding token. Liu et al. 2019;
//! Conneau et al. 2020.

use longreach_nn::{Activation, Bias, BodyConfig, EncoderConfig, HeadConfig, Over, Positions, Sees};

use crate::bert::{Defaults, encoder};
use crate::encoder::{EncoderArchitecture, EncoderDescription, GlobalByDefault, Heads, Task};
use crate::{Error, Fields};

pub(crate) const ARCHITECTURE: EncoderArchitecture =
    EncoderArchitecture { model_type: "roberta", mechanism: "dense", paper: "Liu et al. 2019", describe };

pub(crate) const XLM: EncoderArchitecture = EncoderArchitecture {
    model_type: "xlm-roberta",
    mechanism: "dense",
    paper: "Conneau et al. 2020",
    describe: |f| Ok(EncoderDescription { model_type: "xlm-roberta", ..describe(f)? }),
};

/// RoBERTa's position rows: padding has row `pad`, and texts start at row `pad + 1`.
pub(crate) fn behind(pad: u32) -> impl Fn(usize) -> Positions {
    move |rows| Positions { rows, first: pad as usize + 1, skip: Some(pad) }
}

/// The task heads of RoBERTa and related models.
pub(crate) fn head(heads: &Heads, encoder: &EncoderConfig) -> Option<(Task, HeadConfig)> {
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

fn describe(f: &Fields) -> Result<EncoderDescription, Error> {
    let defaults =
        Defaults { body: "roberta", vocabulary: 50_265, activation: Activation::Gelu, positions: 512, eps: 1e-12 };
    let pad = f.id("pad_token_id", 1)?;
    let encoder = encoder(f, &defaults, behind(pad), true, |_| Ok(Sees::All))?;
    let heads = Heads::of(f, encoder.hidden, encoder.vocabulary)?;
    Ok(EncoderDescription {
        model_type: "roberta",
        longest: encoder.positions.map(|p| p.longest()),
        pooler: Some(("pooler.dense", Activation::Tanh)),
        pad,
        separator: Some(f.id("eos_token_id", 2)?),
        questions: false,
        global: GlobalByDefault::None,
        head: head(&heads, &encoder),
        labels: heads.labels(),
        body: BodyConfig::Blocks(encoder),
    })
}
