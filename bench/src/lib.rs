//! Timing for the benchmarks: medians with their spread, and the machine's limits measured in the same run.

use std::time::Instant;

use longreach_simd::{Cx, memory};

/// The seconds of several runs.
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

    /// Runs `f` and `g` alternately, once each to warm up and then `runs` times, so that other load on the machine
    /// slows both.
    pub fn in_turn(runs: usize, mut f: impl FnMut(), mut g: impl FnMut()) -> (Self, Self) {
        let (mut of_f, mut of_g) = (Vec::new(), Vec::new());
        for i in 0..runs + 1 {
            let start = Instant::now();
            f();
            let between = Instant::now();
            g();
            if i > 0 {
                of_f.push((between - start).as_secs_f64());
                of_g.push(between.elapsed().as_secs_f64());
            }
        }
        of_f.sort_by(f64::total_cmp);
        of_g.sort_by(f64::total_cmp);
        (Self(of_f), Self(of_g))
    }

    /// The quartiles.
    pub fn quartiles(&self) -> (f64, f64) {
        (self.0[self.0.len() / 4], self.0[self.0.len() * 3 / 4])
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    /// The minimum and the maximum.
    pub fn spread(&self) -> (f64, f64) {
        (self.0[0], self.0[self.0.len() - 1])
    }
}

/// A buffer to read: its read bandwidth is the upper limit of everything that reads as many bytes.
#[derive(Debug)]
pub struct Memory(Vec<f32>);

impl Memory {
    /// A buffer of `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        Self(vec![1.0; bytes / 4])
    }

    /// Reads the buffer once on all threads, with the vector width of the kernels.
    pub fn read(&self, cx: &Cx) {
        memory::read(cx, &self.0);
    }
}
