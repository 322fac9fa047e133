//! Log-probabilities of tokens, from logits.
//!
//! $$ \log p_i = x_i - \max_j x_j - \log \sum_j e^{x_j - \max_j x_j} $$

/// A token with its log-probability, and the most probable tokens in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprob {
    /// The token.
    pub id: u32,
    /// Its log-probability in nats, of the logits as the model gives them: before biases, penalties and temperature.
    pub logprob: f64,
    /// The most probable tokens with theirs, most probable first; ties go to the lower id.
    pub top: Vec<(u32, f64)>,
}

impl Logprob {
    /// The log-probability of `id` and of the `top` most probable tokens under `logits`, `[vocabulary]`. Computed in f64; O(vocabulary) time. A token outside
    /// of the vocabulary has −∞.
    pub fn of(logits: &[f32], id: u32, top: usize) -> Self {
        let most = f64::from(logits.iter().fold(f32::NEG_INFINITY, |most, x| most.max(*x)));
        let total: f64 = logits.iter().map(|x| (f64::from(*x) - most).exp()).sum();
        let log = |x: f32| f64::from(x) - most - total.ln();
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let first = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let top = top.min(order.len());
        if top > 0 && top < order.len() {
            order.select_nth_unstable_by(top - 1, first);
        }
        order.truncate(top);
        order.sort_unstable_by(first);
        let top = order.into_iter().map(|id| (id, log(logits[id as usize]))).collect();
        Self { id, logprob: logits.get(id as usize).map_or(f64::NEG_INFINITY, |x| log(*x)), top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_the_best_come_first() {
        let logits = [0.5, 3.0, f32::NEG_INFINITY, 3.0, -40.0];
        let all = Logprob::of(&logits, 0, 9);
        assert_eq!(all.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 0, 4, 2]);
        let sum: f64 = all.top.iter().map(|(_, log)| log.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        assert_eq!(all.logprob, all.top[2].1);
        assert_eq!(all.top[4].1, f64::NEG_INFINITY);
        assert_eq!(Logprob::of(&logits, 7, 0), Logprob { id: 7, logprob: f64::NEG_INFINITY, top: Vec::new() });
        assert_eq!(Logprob::of(&logits, 1, 2).top, all.top[..2]);
    }
}
