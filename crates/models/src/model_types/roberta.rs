//! `roberta` and `xlm-roberta`: BERT with positions that start after that of the padding token. Liu et al. 2019;
//! Conneau et al. 2020.

use longreach_nn::{Activation, BodyConfig, Sees};

use crate::encoder::{EncoderArchitecture, EncoderDescription, GlobalByDefault, Heads};
use crate::families::bert::{Defaults, encoder, roberta_head, roberta_positions};
use crate::{Error, Fields, Rewrites};

pub(crate) const ARCHITECTURE: EncoderArchitecture =
    EncoderArchitecture { model_type: "roberta", mechanism: "dense", paper: "Liu et al. 2019", describe };

pub(crate) const XLM: EncoderArchitecture = EncoderArchitecture {
    model_type: "xlm-roberta",
    mechanism: "dense",
    paper: "Conneau et al. 2020",
    describe: |f| Ok(EncoderDescription { model_type: "xlm-roberta", ..describe(f)? }),
};

fn describe(f: &Fields) -> Result<EncoderDescription, Error> {
    let defaults =
        Defaults { body: "roberta", vocabulary: 50_265, activation: Activation::Gelu, positions: 512, eps: 1e-12 };
    let pad = f.id("pad_token_id", 1)?;
    let encoder = encoder(f, &defaults, roberta_positions(pad), true, |_| Ok(Sees::All))?;
    let heads = Heads::of(f, encoder.hidden, encoder.vocabulary)?;
    Ok(EncoderDescription {
        model_type: "roberta",
        longest: encoder.positions.map(|p| p.longest()),
        pooler: Some(("pooler.dense", Activation::Tanh)),
        pad,
        separator: Some(f.id("eos_token_id", 2)?),
        questions: false,
        rewrites: Rewrites::default(),
        global: GlobalByDefault::None,
        head: roberta_head(&heads, &encoder),
        labels: heads.labels(),
        body: BodyConfig::Blocks(encoder),
    })
}
