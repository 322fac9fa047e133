//! A causal mixer that is read in both directions.
//!
//! $$ y = f(x) + R\, g(R x) $$
//!
//! `R` reverses the tokens of each sequence; `f` and `g` are two mixers, or the same one twice. Every token then sees the whole
//! sequence at the cost of two causal readings, linear in the length if the mixer's is. Zhu et al. 2024 (Vision Mamba), §3.3, has
//! weights for each direction; Schiff et al. 2024 (Caduceus), §3.1, has one set for both.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use longreach_burn as ops;
use ndarray::{Array2, s};

use crate::mixers::{KvSource, Mixer, MixerConfig, Shared};
use crate::padding::Tokens;
use crate::{Builder, Error};

/// A mixer for both directions.
#[derive(Clone, Debug, PartialEq)]
pub struct BidirectionalConfig {
    /// The mixer of a direction.
    pub mixer: MixerConfig,
    /// Whether both directions have the same weights.
    pub tied: bool,
}

/// Which tokens of a batch `[B, T, d]` belong together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequences<'a> {
    /// Which tokens are not padding, `[B, T]`; all of them if absent.
    pub keep: Option<&'a Array2<bool>>,
    /// The bounds of sequences that are packed in one row without padding: 0, the end of the first, …, the number of tokens.
    pub packed: Option<&'a [usize]>,
}

/// A causal mixer that is read in both directions.
#[derive(Module, Debug)]
pub struct Bidirectional {
    forwards: Mixer,
    /// `None` if both directions have the same weights.
    backwards: Option<Mixer>,
}

/// What the layers of a stack pass on, for either direction.
pub(crate) struct Directions([Shared; 2]);

impl Directions {
    /// Of a batch before its first layer.
    pub(crate) fn of(sequences: &Sequences<'_>) -> Self {
        let packed = sequences.packed.map(ops::Packed::new).unwrap_or_default();
        let shared = |keep: Option<Array2<bool>>| Shared {
            padding: keep.and_then(|keep| Tokens::of_rows(&keep)),
            packed: packed.clone(),
            ..Shared::default()
        };
        let turned = sequences.keep.map(|keep| keep.slice(s![.., ..;-1]).to_owned());
        Self([shared(sequences.keep.cloned()), shared(turned)])
    }
}

/// Reverses the tokens of each sequence of `x: [B, T, d]`.
fn reversed(x: Tensor<3>, packed: Option<&[usize]>) -> Tensor<3> {
    let Some(bounds) = packed else { return x.flip([1]) };
    let at: Vec<i32> = bounds.windows(2).flat_map(|w| (w[0]..w[1]).rev()).map(|i| i as i32).collect();
    let at = Tensor::<1, Int>::from_data(&at[..], &x.device());
    x.select(1, at)
}

impl Bidirectional {
    /// Builds the mixers under the builder's scope: `forwards` and `backwards`, or `both`. Errors if a weight is missing or has
    /// another shape, or the mixer reads what another layer computed.
    pub fn new(b: &mut Builder, c: &BidirectionalConfig) -> Result<Self, Error> {
        if let MixerConfig::Attention(attention) = &c.mixer
            && attention.source != KvSource::Own
        {
            return Err(b.error("attention that uses the keys of another layer cannot be read in both directions"));
        }
        let mut mixer = |name: &str| b.scope(name, |b| Mixer::new(b, &c.mixer));
        Ok(match c.tied {
            true => Self { forwards: mixer("both")?, backwards: None },
            false => Self { forwards: mixer("forwards")?, backwards: Some(mixer("backwards")?) },
        })
    }

    /// The mixers of both directions, which may be the same one.
    pub fn mixers(&self) -> [&Mixer; 2] {
        [&self.forwards, self.backwards.as_ref().unwrap_or(&self.forwards)]
    }

    /// The sum of both readings, `[B, T, d]` → `[B, T, d]`; zeros at padding. Packed sequences do not see one another.
    ///
    /// Panics if the mask has another shape, or bounds do not cover the tokens of one row in order.
    pub fn forward(&self, x: Tensor<3>, sequences: &Sequences<'_>) -> Tensor<3> {
        self.read(x, &mut Directions::of(sequences), sequences)
    }

    /// As [`Bidirectional::forward`], within a stack of layers.
    pub(crate) fn read(&self, x: Tensor<3>, directions: &mut Directions, sequences: &Sequences<'_>) -> Tensor<3> {
        let [b, t, _] = x.dims();
        check([b, t], sequences);
        let (packed, device) = (sequences.packed, x.device());
        let texts = packed.map_or(b, |bounds| bounds.len() - 1);
        let [there, back] = self.mixers();
        let [forwards, backwards] = &mut directions.0;
        let seen = there.forward(x.clone(), &mut there.start(texts, &device), forwards);
        let behind = back.forward(reversed(x, packed), &mut back.start(texts, &device), backwards);
        ops::add(seen, reversed(behind, packed))
    }
}

/// Panics unless the sequences are those of a batch of this size.
pub(crate) fn check([b, t]: [usize; 2], sequences: &Sequences<'_>) {
    if let Some(keep) = sequences.keep {
        assert_eq!(keep.dim(), (b, t), "the mask of {b} rows of {t} tokens");
    }
    if let Some(bounds) = sequences.packed {
        let covers = bounds.first() == Some(&0) && bounds.last() == Some(&t) && bounds.windows(2).all(|w| w[0] < w[1]);
        assert!(covers && b == 1 && sequences.keep.is_none(), "bounds {bounds:?} of {b} rows of {t} tokens");
    }
}
