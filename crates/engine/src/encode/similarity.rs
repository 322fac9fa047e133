//! Similarity of two vectors, with the names and signs of sentence-transformers: a higher score means more similar texts.

use std::str::FromStr;

/// A similarity function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Similarity {
    /// Cosine similarity.
    Cosine,
    /// The dot product.
    Dot,
    /// The negative Euclidean distance.
    Euclidean,
    /// The negative Manhattan distance.
    Manhattan,
}

impl Similarity {
    /// All similarity functions with their names in sentence-transformers (`similarity_fn_name`).
    pub const ALL: [(&'static str, Similarity); 4] = [
        ("cosine", Similarity::Cosine),
        ("dot", Similarity::Dot),
        ("euclidean", Similarity::Euclidean),
        ("manhattan", Similarity::Manhattan),
    ];

    /// The name in sentence-transformers.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// The score of two vectors of equal width, summed in f64. The cosine with a zero vector is 0.
    pub fn score(self, a: &[f32], b: &[f32]) -> f32 {
        let sum = |f: fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum::<f64>();
        let length = |x: &[f32]| x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt().max(1e-12);
        let score = match self {
            Similarity::Cosine => sum(|a, b| a * b) / (length(a) * length(b)),
            Similarity::Dot => sum(|a, b| a * b),
            Similarity::Euclidean => -sum(|a, b| (a - b) * (a - b)).sqrt(),
            Similarity::Manhattan => -sum(|a, b| (a - b).abs()),
        };
        score as f32
    }
}

impl FromStr for Similarity {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, similarity)| *similarity).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            format!("want {names}, found `{name}`")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Similarity;

    #[test]
    fn scores_are_those_of_sentence_transformers() {
        // sentence_transformers.util: pairwise_cos_sim, pairwise_dot_score, pairwise_euclidean_sim, pairwise_manhattan_sim.
        let (a, b) = ([1.0, 2.0, -2.0], [3.0, 0.0, 4.0]);
        for (name, want) in [("cosine", -1.0 / 3.0), ("dot", -5.0), ("euclidean", -44f32.sqrt()), ("manhattan", -10.0)]
        {
            let similarity: Similarity = name.parse().expect("a known name");
            assert_eq!(similarity.name(), name);
            assert!((similarity.score(&a, &b) - want).abs() < 1e-6, "{name}: {}", similarity.score(&a, &b));
        }
        assert_eq!(Similarity::Cosine.score(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
        let error = "MaxSim".parse::<Similarity>().expect_err("not one of them");
        assert_eq!(error, "want cosine, dot, euclidean, manhattan, found `MaxSim`");
    }
}
