//! Named f64 tensors that can be sliced along sequences and tokens.

use std::ops::Range;

/// The leading axes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[B, T, …]`
    Token,
    /// `[B, T, …]`, without a gradient
    Constant,
    /// `[S, …]`: the state
    State,
    /// Shared by all tokens: a parameter
    Shared,
}

impl Kind {
    fn by_token(self) -> bool {
        matches!(self, Self::Token | Self::Constant)
    }
}

/// A named tensor, row-major.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name in the mechanism's inputs.
    pub name: &'static str,
    /// Its leading axes.
    pub kind: Kind,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, exactly representable in f32.
    pub data: Vec<f64>,
}

impl Tensor {
    /// Uniform numbers in `low .. high`, from a generator seeded by `seed` and the name.
    pub fn random(name: &'static str, kind: Kind, shape: &[usize], range: Range<f64>, seed: u64) -> Self {
        let seed = name.bytes().fold(seed, |s, b| s.wrapping_mul(31).wrapping_add(b as u64));
        let n = shape.iter().product();
        let data = numbers(n, seed).into_iter().map(|x| (range.start + (range.end - range.start) * x) as f32 as f64);
        Self { name, kind, shape: shape.to_vec(), data: data.collect() }
    }

    /// The elements as f32.
    pub fn f32(&self) -> Vec<f32> {
        self.data.iter().map(|x| *x as f32).collect()
    }

    fn per(&self, axes: usize) -> usize {
        self.shape[axes..].iter().product()
    }

    /// The tokens `range` of every sequence.
    pub fn tokens(&self, range: Range<usize>) -> Self {
        if !self.kind.by_token() {
            return self.clone();
        }
        let (t, per) = (self.shape[1], self.per(2));
        let data = (0..self.shape[0])
            .flat_map(|b| &self.data[(b * t + range.start) * per..(b * t + range.end) * per])
            .copied()
            .collect();
        let mut shape = self.shape.clone();
        shape[1] = range.len();
        Self { data, shape, ..self.clone() }
    }

    /// The sequence `b` alone.
    pub fn sequence(&self, b: usize) -> Self {
        if self.kind == Kind::Shared {
            return self.clone();
        }
        let per = self.per(1);
        let mut shape = self.shape.clone();
        shape[0] = 1;
        Self { data: self.data[b * per..(b + 1) * per].to_vec(), shape, ..self.clone() }
    }

    /// Concatenates the tokens `0 .. lengths[b]` of each sequence `b` into a batch of one; states are not changed.
    pub fn pack(&self, lengths: &[usize]) -> Self {
        if !self.kind.by_token() {
            return self.clone();
        }
        let data = lengths.iter().enumerate().flat_map(|(b, n)| self.sequence(b).tokens(0..*n).data).collect();
        let mut shape = self.shape.clone();
        (shape[0], shape[1]) = (1, lengths.iter().sum());
        Self { data, shape, ..self.clone() }
    }
}

/// `n` numbers in `[0, 1)` from a fixed generator (SplitMix64).
pub fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        })
        .collect()
}
