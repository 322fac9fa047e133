//! The random rotations of Reformer's hash functions. They reproduce `torch.randn` from a seed exactly, so that
//! buckets equal those of Hugging Face's models with a `hash_seed`.

use ndarray::{Array4, ArrayD, Axis, Slice};
use rand_mt::Mt;

/// Rotations `[H, D, rounds, n / 2]` for each factor `n` of the number of buckets.
pub(super) fn rotations(seed: u64, [heads, width, rounds]: [usize; 3], buckets: &[usize]) -> Vec<ArrayD<f32>> {
    let columns: usize = buckets.iter().map(|n| n / 2).sum();
    let all = normal(seed, heads * width * rounds * columns);
    let all = Array4::from_shape_vec((heads, width, rounds, columns), all).expect("the data has this shape");
    let mut from = 0;
    let part = |n: &usize| {
        let to = from + n / 2;
        let part = all.slice_axis(Axis(3), Slice::from(from..to)).to_owned().into_dyn();
        from = to;
        part
    };
    buckets.iter().map(part).collect()
}

/// `n` standard normal numbers by the Box–Muller transform (1958): in blocks of sixteen, or in pairs if `n` is less
/// than sixteen.
fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut random = Mt::new(seed as u32);
    if n < 16 {
        let mut uniform = || {
            let high = u64::from(random.next_u32());
            let bits = (high << 32 | u64::from(random.next_u32())) & ((1 << 53) - 1);
            bits as f64 / (1u64 << 53) as f64
        };
        let mut out = Vec::with_capacity(n + 1);
        while out.len() < n {
            let (turn, length) = (std::f64::consts::TAU * uniform(), uniform());
            let radius = (-2.0 * (-length).ln_1p()).sqrt();
            out.extend([(radius * turn.cos()) as f32, (radius * turn.sin()) as f32]);
        }
        out.truncate(n);
        return out;
    }
    let mut uniform = || (random.next_u32() & 0xff_ffff) as f32 / (1 << 24) as f32;
    let mut out: Vec<f32> = (0..n).map(|_| uniform()).collect();
    let pairs = |group: &mut [f32]| {
        for j in 0..8 {
            let (radius, turn) = ((-2.0 * (1.0 - group[j]).ln()).sqrt(), std::f32::consts::TAU * group[j + 8]);
            (group[j], group[j + 8]) = (radius * turn.cos(), radius * turn.sin());
        }
    };
    out.chunks_exact_mut(16).for_each(pairs);
    if !n.is_multiple_of(16) {
        // The last sixteen numbers are redrawn and overwrite the existing ones.
        let last = &mut out[n - 16..];
        last.iter_mut().for_each(|x| *x = uniform());
        pairs(last);
    }
    out
}
