//! The time that ranks take, from the number of operations, the bytes on the wire, and what the machines do in a second.
//!
//! In the pipeline of a recurrent model a rank begins a layer once the state of the chunk before has come. With `τ` seconds for a layer of a
//! chunk, `h = τ + latency + s / (L w)` until the next rank can begin that layer, and `c` chunks of `L` layers over `N` ranks,
//!
//! $$ t = \left( \lceil c / N \rceil - 1 \right) \max(L \tau, N h) + (N - 1) h + L \tau. $$
//!
//! In a ring, `N − 1` of `N` steps take as long as their arithmetic or as the keys on the wire, whichever is longer.

/// What one machine does in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Tokens that it reads by itself, in chunks.
    pub tokens: f64,
    /// Floating-point operations of attention.
    pub operations: f64,
    /// Bytes that it sends to another.
    pub bytes: f64,
    /// Seconds until a message arrives, however short it is.
    pub latency: f64,
}

/// A text that a model reads in the pipeline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Tokens of the text.
    pub tokens: f64,
    /// Tokens of a chunk.
    pub chunk: f64,
    /// Layers of the model.
    pub layers: f64,
    /// Bytes of the state of all layers.
    pub state: f64,
}

impl Reading {
    /// Seconds on `n` ranks.
    pub fn seconds(&self, of: &Machine, n: f64) -> f64 {
        let chunks = (self.tokens / self.chunk).ceil();
        let layer = self.chunk / of.tokens / self.layers;
        if n <= 1.0 {
            return chunks * layer * self.layers;
        }
        // The state of a layer travels while the next layer is computed; a rank begins a layer at the earliest when it has come.
        let hop = layer + of.latency + self.state / self.layers / of.bytes;
        // A round is over when a rank is through with its chunk, or when the state has gone once around.
        let round = (layer * self.layers).max(n * hop);
        ((chunks / n).ceil() - 1.0) * round + (n.min(chunks) - 1.0) * hop + layer * self.layers
    }

    /// The share of the ranks' time in which they compute.
    pub fn efficiency(&self, of: &Machine, n: f64) -> f64 {
        self.seconds(of, 1.0) / (n * self.seconds(of, n))
    }
}

/// Causal attention of a layer over a whole text, in a ring with the zigzag layout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ring {
    /// Tokens of the text.
    pub tokens: f64,
    /// Heads of the queries.
    pub heads: f64,
    /// Groups of heads, which share keys.
    pub groups: f64,
    /// Width of a key and of a value.
    pub width: f64,
}

impl Ring {
    /// Seconds on `n` ranks, where keys travel while those before are computed with.
    pub fn seconds(&self, of: &Machine, n: f64) -> f64 {
        // Two products of two operations, for half of all pairs.
        let work = 2.0 * self.tokens * self.tokens * self.heads * self.width / of.operations / n;
        if n <= 1.0 {
            return work;
        }
        let hop = of.latency + 8.0 * self.tokens / n * self.groups * self.width / of.bytes;
        (n - 1.0) * (work / n).max(hop) + work / n
    }

    /// The share of the ranks' time in which they compute.
    pub fn efficiency(&self, of: &Machine, n: f64) -> f64 {
        self.seconds(of, 1.0) / (n * self.seconds(of, n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { tokens: 300.0, operations: 1e11, bytes: 1.25e8, latency: 1e-4 };

    #[test]
    fn one_rank_has_no_loss_and_more_ranks_are_never_better_than_their_number() {
        let reading = Reading { tokens: 1e6, chunk: 4096.0, layers: 24.0, state: 18.9e6 };
        let ring = Ring { tokens: 1e6, heads: 32.0, groups: 8.0, width: 128.0 };
        assert!((reading.efficiency(&MACHINE, 1.0) - 1.0).abs() < 1e-12);
        for n in [2.0, 8.0, 64.0, 1024.0] {
            for efficiency in [reading.efficiency(&MACHINE, n), ring.efficiency(&MACHINE, n)] {
                assert!(efficiency > 0.0 && efficiency <= 1.0 + 1e-12, "{n}: {efficiency}");
            }
        }
    }

    /// A million tokens in chunks of 4,096 over eight ranks of a model of 24 layers lose little to the start of the pipeline.
    #[test]
    fn long_texts_hide_the_start_of_the_pipeline() {
        let reading = Reading { tokens: 4096.0 * 248.0, chunk: 4096.0, layers: 24.0, state: 18.9e6 };
        assert!(reading.efficiency(&MACHINE, 8.0) > 0.98, "{}", reading.efficiency(&MACHINE, 8.0));
        let slow = Machine { bytes: 1e4, ..MACHINE };
        assert!(reading.efficiency(&slow, 8.0) < 0.5, "a wire that is slower than the arithmetic");
    }
}
