//! Pooling of token vectors into a text vector, as in sentence-transformers.

/// A pooling of token vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The vector of the first token.
    Cls,
    /// The maximum of each channel.
    Max,
    /// The mean.
    Mean,
    /// The sum divided by the square root of the number of tokens.
    MeanSqrtLen,
    /// The mean weighted by position, counted from 1.
    WeightedMean,
    /// The vector of the last token.
    LastToken,
}

impl Pooling {
    /// All poolings with their names in sentence-transformers.
    pub const ALL: [(&'static str, Pooling); 6] = [
        ("cls", Pooling::Cls),
        ("max", Pooling::Max),
        ("mean", Pooling::Mean),
        ("mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
        ("weightedmean", Pooling::WeightedMean),
        ("lasttoken", Pooling::LastToken),
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, pooling)| *pooling)
    }

    /// The name in sentence-transformers.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// Pools the rows `[tokens, d]` of a text from token `skip` on, and appends the vector to `out`.
    pub(crate) fn append(self, rows: &[f32], d: usize, skip: usize, out: &mut Vec<f32>) {
        let tokens = rows.len() / d;
        // An empty text after a prompt pools the prompt.
        let skip = if skip < tokens { skip } else { 0 };
        let rows = &rows[skip * d..];
        let n = tokens - skip;
        let sum = |weight: &dyn Fn(usize) -> f64| {
            let mut sum = vec![0.0f64; d];
            for (t, row) in rows.chunks_exact(d).enumerate() {
                let w = weight(t);
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += w * f64::from(*x));
            }
            sum
        };
        let divided = |sum: Vec<f64>, by: f64, out: &mut Vec<f32>| out.extend(sum.into_iter().map(|x| (x / by) as f32));
        match self {
            Pooling::Cls => out.extend_from_slice(&rows[..d]),
            Pooling::LastToken => out.extend_from_slice(&rows[(n - 1) * d..]),
            Pooling::Mean => divided(sum(&|_| 1.0), n as f64, out),
            Pooling::MeanSqrtLen => divided(sum(&|_| 1.0), (n as f64).sqrt(), out),
            Pooling::WeightedMean => {
                let weight = |t: usize| (skip + t + 1) as f64;
                divided(sum(&weight), (0..n).map(weight).sum(), out);
            }
            Pooling::Max => {
                let from = out.len();
                out.extend_from_slice(&rows[..d]);
                for row in rows.chunks_exact(d).skip(1) {
                    out[from..].iter_mut().zip(row).for_each(|(most, x)| *most = most.max(*x));
                }
            }
        }
    }
}
