//! Timing for the benches: medians with their spread, and the machine's roofs measured in the same run.

use std::time::Instant;

/// Seconds of several runs.
#[derive(Clone, Debug)]
pub struct Times(Vec<f64>);

impl Times {
    /// Runs `f` once to warm up, then `runs` times.
    pub fn of(runs: usize, mut f: impl FnMut()) -> Self {
        f();
        let one = || {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        };
        let mut times: Vec<f64> = std::iter::repeat_with(one).take(runs.max(1)).collect();
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    /// The least and the most.
    pub fn spread(&self) -> (f64, f64) {
        (self.0[0], self.0[self.0.len() - 1])
    }
}

/// Bytes a second that all threads together read from memory.
pub fn read_bandwidth(threads: usize) -> f64 {
    let data = vec![1.0f32; 64 << 20];
    let part = data.len() / threads;
    let times = Times::of(7, || {
        std::thread::scope(|scope| {
            for chunk in data.chunks(part) {
                scope.spawn(move || {
                    let mut sums = [0.0f32; 64];
                    for c in chunk.chunks_exact(64) {
                        sums.iter_mut().zip(c).for_each(|(s, c)| *s += c);
                    }
                    std::hint::black_box(sums);
                });
            }
        });
    });
    (data.len() * 4) as f64 / times.median()
}
