//! Dropout of hidden states while a model is trained. Srivastava et al. 2014.
//!
//! $$ y_i = \frac{m_i}{1 - p}\, x_i, \quad m_i = 0 \text{ with probability } p, \text{ else } 1 $$
//!
//! The numbers that are dropped are a function of the seed, the tokens that are read, and the place in the model: a block that
//! is run again drops the same ones, and so does a training that is resumed.

use burn::tensor::Tensor;

/// Which hidden states are dropped where gradients are recorded: those of the embeddings, and what each branch of a block adds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// `p`: the part that is dropped, at least 0 and below 1.
    pub rate: f64,
    /// What the choice depends on; another one for each step.
    pub seed: u64,
}

/// The draws of one forward pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drops {
    rate: f64,
    seed: u64,
    /// The number of draws so far.
    place: u64,
}

/// A step of SplitMix64. Steele et al. 2014.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Dropout {
    /// The draws of a pass over these tokens; `None` if nothing is dropped.
    pub(crate) fn over(self, ids: &[u32]) -> Option<Drops> {
        let seed = ids.iter().fold(mixed(self.seed), |hash, id| mixed(hash ^ u64::from(*id)));
        (self.rate > 0.0).then_some(Drops { rate: self.rate, seed, place: 0 })
    }
}

impl Drops {
    /// The draws after `more` others.
    pub(crate) fn after(self, more: u64) -> Self {
        Self { place: self.place + more, ..self }
    }

    /// Drops some of `x` and scales the others.
    pub(crate) fn drop(&mut self, x: Tensor<3>) -> Tensor<3> {
        let seed = mixed(self.seed ^ mixed(self.place));
        self.place += 1;
        let (shape, kept) = (x.dims(), (1.0 / (1.0 - self.rate)) as f32);
        let below = (self.rate * 2f64.powi(64)) as u64;
        let mask: Vec<f32> = (0..shape.iter().product::<usize>() as u64)
            .map(|i| if mixed(seed.wrapping_add(i)) < below { 0.0 } else { kept })
            .collect();
        let mask = Tensor::<1>::from_data(&mask[..], &x.device()).reshape(shape);
        x * mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_dropped_and_the_mean_stays() {
        let ones = || Tensor::<3>::ones([2, 300, 100], &longreach_burn::cpu());
        let read = |ids: &[u32], seed: u64| {
            let mut drops = Dropout { rate: 0.3, seed }.over(ids).expect("draws");
            let [first, second] = [0, 1].map(|_| drops.drop(ones()).into_data().iter::<f32>().collect::<Vec<_>>());
            assert_ne!(first, second, "each place has draws of its own");
            first
        };
        let dropped = read(&[1, 2, 3], 5);
        let zeros = dropped.iter().filter(|x| **x == 0.0).count() as f64 / dropped.len() as f64;
        let mean = dropped.iter().map(|x| f64::from(*x)).sum::<f64>() / dropped.len() as f64;
        // Four standard deviations of 60,000 draws.
        assert!((zeros - 0.3).abs() < 0.008 && (mean - 1.0).abs() < 0.011, "{zeros} {mean}");
        assert_eq!(dropped, read(&[1, 2, 3], 5));
        assert_ne!(dropped, read(&[1, 2, 4], 5));
        assert_ne!(dropped, read(&[1, 2, 3], 6));
        assert!(Dropout { rate: 0.0, seed: 1 }.over(&[1]).is_none());
    }
}
