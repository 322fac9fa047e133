//! Falcon-H1's factors of what enters and leaves its layers, which GGUF files have in the weights.

use std::collections::HashMap;

use longreach_nn::mixers::MixerConfig;
use longreach_nn::{BranchConfig, DecoderConfig, OperationConfig};

use crate::{Error, Fields};

/// Factors of the rows of a tensor: numbers of rows, each with its factor. The last also has all rows after it.
pub(super) type Rows = Vec<(usize, f64)>;

/// The factors of tensors by name, and the model whose weights are multiplied by them.
pub(super) struct Folds {
    pub(super) decoder: DecoderConfig,
    pub(super) of: HashMap<String, Rows>,
}

impl Folds {
    /// No factors.
    pub(super) fn none(decoder: &DecoderConfig) -> Self {
        Self { decoder: decoder.clone(), of: HashMap::new() }
    }

    /// The factors of Falcon-H1. Errors if the head is the embedding table, and both have different factors.
    pub(super) fn falcon(f: &Fields, decoder: &DecoderConfig) -> Result<Self, Error> {
        let mut all = Self::none(decoder);
        let names = decoder.names.clone();
        let embedding = f.number("embedding_multiplier", 1.0)?;
        let head = f.number("lm_head_multiplier", 1.0)?;
        let tied = matches!(decoder.words, longreach_nn::WordsConfig::Table { tied: true });
        if tied && embedding != head {
            return Err(f.error(format!(
                "fields `embedding_multiplier` {embedding} and `lm_head_multiplier` {head}: a table that is also the output layer cannot be multiplied by both"
            )));
        }
        all.add(format!("{}.{}.weight", names.body, names.embedding), embedding);
        all.add(format!("{}.weight", names.head), head);
        (all.decoder.embedding_scale, all.decoder.logits_scale) = (1.0, 1.0);
        let key = f.number("key_multiplier", 1.0)?;
        let mut blocks = std::mem::take(&mut all.decoder.blocks);
        for (i, block) in blocks.iter_mut().enumerate() {
            let at = format!("{}.{}.{i}", names.body, names.blocks);
            block.branches.iter_mut().for_each(|branch| all.branch(&at, key, branch));
        }
        all.decoder.blocks = blocks;
        Ok(all)
    }

    fn add(&mut self, name: String, by: f64) {
        self.rows(name, vec![(0, by)]);
    }

    fn rows(&mut self, name: String, rows: Rows) {
        if rows.iter().any(|(_, by)| *by != 1.0) {
            self.of.insert(name, rows);
        }
    }

    /// Moves the factors of a branch into its weights. A factor of the input is one of the weights alone, and one of the
    /// output is one of the weights and the bias.
    fn branch(&mut self, at: &str, key: f64, branch: &mut BranchConfig) {
        let at = if branch.name.is_empty() { at.to_owned() } else { format!("{at}.{}", branch.name) };
        let [input, output] =
            [&mut branch.input_scale, &mut branch.scale].map(|x| f64::from(std::mem::replace(x, 1.0)));
        let both = |all: &mut Self, part: &str, input: f64, output: f64| {
            all.add(format!("{at}.{part}.weight"), input * output);
            all.add(format!("{at}.{part}.bias"), output);
        };
        match &mut branch.operation {
            OperationConfig::Parallel(list) => list.iter_mut().for_each(|branch| self.branch(&at, key, branch)),
            OperationConfig::Mixer(MixerConfig::Attention(attention)) => {
                both(self, "q_proj", input, 1.0);
                both(self, "k_proj", input, key);
                both(self, "v_proj", input, 1.0);
                both(self, "o_proj", 1.0, output);
                attention.scale = None;
            }
            OperationConfig::Mixer(MixerConfig::Mamba2(mamba)) => {
                let inner = mamba.heads * mamba.head_dim;
                let rows = [inner, inner, mamba.groups * mamba.state, mamba.groups * mamba.state, mamba.heads];
                let factors = std::mem::replace(&mut mamba.multipliers, [1.0; 5]);
                let parts = |input: f64| {
                    rows.into_iter().zip(factors).map(|(rows, by)| (rows, input * f64::from(by))).collect::<Rows>()
                };
                self.rows(format!("{at}.in_proj.weight"), parts(input));
                self.rows(format!("{at}.in_proj.bias"), parts(1.0));
                both(self, "out_proj", 1.0, output);
            }
            OperationConfig::Gated(feed_forward) => {
                let gate = f64::from(std::mem::replace(&mut feed_forward.gate_scale, 1.0));
                both(self, "gate_proj", input, gate);
                both(self, "up_proj", input, 1.0);
                both(self, "down_proj", 1.0, output);
            }
            _ => {}
        }
    }
}

/// Multiplies a tensor of this many rows by its factors.
pub(super) fn multiply(numbers: &mut [f32], rows: usize, factors: &Rows) {
    let width = (numbers.len() / rows.max(1)).max(1);
    let (mut chunks, mut last) = (numbers.chunks_mut(width), 1.0);
    for (rows, by) in factors {
        last = *by;
        chunks.by_ref().take(*rows).flatten().for_each(|x| *x = (f64::from(*x) * by) as f32);
    }
    chunks.flatten().for_each(|x| *x = (f64::from(*x) * last) as f32);
}
