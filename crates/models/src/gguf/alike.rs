//! Whether two descriptions are of the same model, so that a file that cannot express a model is not written.

use longreach_attention::rotary::Rotary;
use longreach_nn::mixers::MixerConfig;
use longreach_nn::{DecoderConfig, OperationConfig};

use super::entries::frequencies;
use super::{each_attention, each_branch};

/// Two numbers that differ by more are not the same number rounded to f32.
const ROUNDING: f64 = 1e-6;

/// Errors if the models differ, with the first difference: what the first has, and what the second has. Numbers that are equal
/// in f32 are equal, as are positions of the same frequencies. What matters only before training is ignored.
pub(super) fn alike(want: &DecoderConfig, found: &DecoderConfig) -> Result<(), String> {
    let ((want, want_positions), (found, found_positions)) = (plain(want), plain(found));
    let [want, found] = [want, found].map(|decoder| format!("{decoder:?}"));
    let words = |text: &str| text.split_inclusive([' ', '(', ')', '[', ']']).map(str::to_owned).collect::<Vec<_>>();
    let [want, found] = [want, found].map(|text| words(&text));
    let same = |a: &str, b: &str| {
        let number = |text: &str| text.trim_end_matches([' ', ',', ')', ']', '}']).parse::<f64>().ok();
        a == b || matches!((number(a), number(b)), (Some(a), Some(b)) if close(a, b))
    };
    let shorter = want.len().min(found.len());
    let at = (0..shorter).find(|i| !same(&want[*i], &found[*i]));
    if let Some(at) = at.or((want.len() != found.len()).then_some(shorter)) {
        let around = |words: &[String]| words[at.saturating_sub(2)..(at + 4).min(words.len())].concat();
        return Err(format!("it has `{}`, which would become `{}`", around(&want), around(&found)));
    }
    let pairs = want_positions.iter().zip(&found_positions);
    let mut layers = pairs.enumerate();
    match layers.find(|(_, (want, found))| !same_positions(want.as_ref(), found.as_ref())) {
        Some((layer, (want, found))) => {
            Err(format!("the positions of attention {layer} are {want:?}, which would become {found:?}"))
        }
        None => Ok(()),
    }
}

fn close(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= ROUNDING * a.abs().max(b.abs())
}

/// The decoder without positions, with what is left out filled in; and the positions.
fn plain(decoder: &DecoderConfig) -> (DecoderConfig, Vec<Option<Rotary>>) {
    let (mut decoder, mut positions) = (decoder.clone(), Vec::new());
    each_attention(&mut decoder, |attention| {
        attention.scale.get_or_insert((attention.head_dim as f32).powf(-0.5));
        positions.push(attention.rotary.take());
    });
    each_branch(&mut decoder, |branch| match &mut branch.operation {
        OperationConfig::Mixer(MixerConfig::Mamba(of)) => of.step = (0.0, 0.0),
        OperationConfig::Mixer(MixerConfig::Mamba2(of)) => of.step = (0.0, 0.0),
        _ => {}
    });
    (decoder, positions)
}

fn same_positions(want: Option<&Rotary>, found: Option<&Rotary>) -> bool {
    let (Some(want), Some(found)) = (want, found) else { return want.is_none() && found.is_none() };
    // Some scalings differ between short and long sequences.
    let lengths = [1, 1 << 24];
    let same = |length| match (frequencies(want, length), frequencies(found, length)) {
        (Some(want), Some(found)) => {
            let mut pairs = want.inverse.iter().zip(&found.inverse);
            close(want.factor, found.factor) && pairs.all(|(want, found)| close(*want, *found))
        }
        _ => false,
    };
    want.width == found.width && want.interleaved == found.interleaved && lengths.into_iter().all(same)
}
