//! The random generators of Python and numpy, which reproduce their layouts exactly.

use rand_mt::Mt;

/// Python's `random` after `random.seed(seed)`.
pub(super) struct Python(Mt);

impl Python {
    pub(super) fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        Self(if high == 0 { Mt::new_with_key([low]) } else { Mt::new_with_key([low, high]) })
    }

    /// A number below `n`, which is not zero.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let r = (self.0.next_u32() >> (32 - bits)) as usize;
            if r < n {
                return r;
            }
        }
    }

    /// `random.sample(range(n), k)`
    pub(super) fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut pool_pays = 21;
        if k > 5 {
            let mut power = 1;
            while power < k * 3 {
                power *= 4;
            }
            pool_pays += power;
        }
        if n <= pool_pays {
            let mut pool: Vec<usize> = (0..n).collect();
            return (0..k)
                .map(|i| {
                    let j = self.below(n - i);
                    let taken = pool[j];
                    pool[j] = pool[n - i - 1];
                    taken
                })
                .collect();
        }
        let mut taken = Vec::with_capacity(k);
        while taken.len() < k {
            let j = self.below(n);
            if !taken.contains(&j) {
                taken.push(j);
            }
        }
        taken
    }
}

/// numpy's `np.random` after `np.random.seed(seed)`.
pub(super) struct Numpy(Mt);

impl Numpy {
    pub(super) fn new(seed: u32) -> Self {
        Self(Mt::new(seed))
    }

    /// `np.random.permutation(x)`
    pub(super) fn permutation(&mut self, mut x: Vec<usize>) -> Vec<usize> {
        for i in (1..x.len()).rev() {
            let mask = (i + 1).next_power_of_two() - 1;
            let j = loop {
                let j = self.0.next_u32() as usize & mask;
                if j <= i {
                    break j;
                }
            };
            x.swap(i, j);
        }
        x
    }
}
