//! Random inputs for tests and measurements.

use ndarray::{ArrayD, IxDyn};

use super::{Kind, Named, Tensors};

/// The sizes of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `B`
    pub batch: usize,
    /// `T`, also the number of keys
    pub tokens: usize,
    /// `H`
    pub heads: usize,
    /// Channels of a head
    pub width: usize,
    /// The seed of the random numbers.
    pub seed: u64,
}

impl Default for Sample {
    fn default() -> Self {
        Self { batch: 1, tokens: 128, heads: 4, width: 64, seed: 0 }
    }
}

impl Sample {
    /// The size of an axis. `D` is the width of a head or, with `channels`, of all heads together.
    fn size(&self, axis: &str, channels: bool) -> usize {
        match axis {
            "B" | "B or 1" => self.batch,
            "T" | "S" | "S or more" => self.tokens,
            "H" | "G" | "H or 1" => self.heads,
            "D" if channels => self.heads * self.width,
            "N" if channels => 16,
            "W" => 4,
            // Half the number of buckets of a hash, and its rounds.
            "n/2" => (self.tokens / 64).max(1),
            "rounds" => 2,
            "taps" => 3,
            "N / ratio" => self.width / 4,
            digits => digits.parse().unwrap_or(self.width),
        }
    }
}

impl Named {
    /// Random inputs of the given sizes; the same on every machine.
    pub fn sample(&self, of: &Sample) -> Tensors {
        self.sample_with(of, &[])
    }

    /// As [`Named::sample`], with the optional inputs named in `more`. A state in such a sample does not have the right
    /// shape: take it from the outputs of a call.
    pub fn sample_with(&self, of: &Sample, more: &[&str]) -> Tensors {
        let inputs = self.signature().inputs;
        let channels = inputs.iter().all(|input| !input.axes.contains(&"H") || !input.axes.contains(&"D"));
        let mut tensors = Tensors::new();
        for (n, input) in inputs.iter().enumerate() {
            if !(input.sampled || input.needed || more.contains(&input.name)) {
                continue;
            }
            let (low, high) = input.range;
            let shape: Vec<usize> = input.axes.iter().map(|axis| of.size(axis, channels)).collect();
            let mut state = of.seed ^ ((n as u64 + 1) << 32);
            let whole = |x: f32| if input.kind == Kind::Number { x } else { x.floor() };
            let next = |_| whole(low + (high - low) * uniform(&mut state));
            tensors.insert(input.name.into(), ArrayD::from_shape_fn(IxDyn(&shape), next));
        }
        tensors
    }
}

/// A number in `[0, 1)` from the 64-bit SplitMix generator of Steele et al. 2014.
fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}
