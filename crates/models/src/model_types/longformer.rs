//! `longformer`: RoBERTa with sliding windows, and global tokens with projections of their own. Beltagy et al. 2020.
//!
//! Texts of any length are supported without padding them to a multiple of the window.

use longreach_nn::{Activation, BodyConfig, Sees};

use crate::encoder::{EncoderArchitecture, EncoderDescription, GlobalByDefault, Heads, Task};
use crate::families::bert::{Defaults, encoder};
use crate::families::bert::{roberta_head, roberta_positions};
use crate::{Error, Fields, Rewrites};

pub(crate) const ARCHITECTURE: EncoderArchitecture =
    EncoderArchitecture { model_type: "longformer", mechanism: "longformer", paper: "Beltagy et al. 2020", describe };

/// The window of each layer, counting both sides. The field is one number for all layers, or a list with one per
/// layer.
fn windows(f: &Fields) -> Result<Vec<usize>, Error> {
    let layers = f.layers("num_hidden_layers", 12)?;
    let wrong = |found: &str| {
        f.error(format!(
            "field `attention_window`: want an even number, or one for each of {layers} layers, found {found}"
        ))
    };
    let given = match f.get("attention_window") {
        None => vec![512; layers],
        Some(one) if one.is_number() => vec![f.size("attention_window", 512)?; layers],
        Some(list) => {
            let list = list.as_array().ok_or_else(|| wrong(&list.to_string()))?;
            let numbers = list.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok()));
            numbers.collect::<Option<Vec<_>>>().ok_or_else(|| wrong("other values"))?
        }
    };
    if given.len() != layers || given.iter().any(|w| *w == 0 || w % 2 != 0) {
        return Err(wrong(&format!("{given:?}")));
    }
    Ok(given)
}

fn describe(f: &Fields) -> Result<EncoderDescription, Error> {
    let defaults =
        Defaults { body: "longformer", vocabulary: 30_522, activation: Activation::Gelu, positions: 512, eps: 1e-12 };
    let (pad, windows) = (f.id("pad_token_id", 1)?, windows(f)?);
    let encoder = encoder(f, &defaults, roberta_positions(pad), true, |i| Ok(Sees::Longformer(windows[i] / 2)))?;
    let heads = Heads::of(f, encoder.hidden, encoder.vocabulary)?;
    Ok(EncoderDescription {
        model_type: "longformer",
        longest: encoder.positions.map(|p| p.longest()),
        pooler: Some(("pooler.dense", Activation::Tanh)),
        pad,
        separator: Some(f.id("sep_token_id", 2)?),
        questions: false,
        rewrites: Rewrites::default(),
        global: match heads.task() {
            Some(Task::Sequence) => GlobalByDefault::First,
            Some(Task::Question) => GlobalByDefault::Question,
            _ => GlobalByDefault::None,
        },
        head: roberta_head(&heads, &encoder),
        labels: heads.labels(),
        body: BodyConfig::Blocks(encoder),
    })
}
