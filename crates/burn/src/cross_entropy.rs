//! Fused linear cross-entropy: the head and the loss of a language model, computed in blocks of rows.
//!
//! The logits `[T, V]` of a long text are the largest tensor of training. Here only one block of them exists at a
//! time: its loss and gradients are computed before the next block overwrites it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Tensor;
use longreach_simd::Cx;
use longreach_simd::norm::Rows;
use longreach_simd::product::{Accumulate, Matrix, Sizes, Weights, linear, matmul};

use crate::bridge::{Call, Inputs, Operator, Plain};

/// Rows per block of logits.
const BLOCK: usize = 256;

/// The mean of `−ln softmax(x Wᵀ)[target]` over the rows that have a target.
///
/// `x: [R, D]`, `weight: [V, D]` in f32, `targets`: `R` ids below `V`, or negative for rows to ignore → `[1]`. With
/// autodiff, the gradient is computed together with the loss. Panics if the number of targets is not `R`.
pub fn linear_cross_entropy(x: Tensor<2>, weight: Tensor<2>, targets: &[i64]) -> Tensor<1> {
    let keep = x.is_autodiff() || weight.is_autodiff();
    let of_weights = AtomicBool::new(true);
    let op = CrossEntropy { targets: targets.to_vec(), keep, of_weights, gradients: Mutex::new(None) };
    Call::new().with(x).with(weight).run(op).output()
}

#[derive(Debug)]
struct CrossEntropy {
    targets: Vec<i64>,
    /// Whether a backward pass will follow.
    keep: bool,
    /// Whether the gradient of the weights will be used.
    of_weights: AtomicBool,
    /// The gradients of `x` and of the weights, for a loss whose own gradient is 1.
    gradients: Mutex<Option<(Vec<f32>, Vec<f32>)>>,
}

impl Operator for CrossEntropy {
    fn name(&self) -> &str {
        "linear_cross_entropy"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        inputs.make_rows(0);
        let x = inputs.rows(0);
        let Weights::F32(w) = inputs.weights(1) else { panic!("the loss is computed with f32 weights") };
        let vocab = inputs.shape(1)[0];
        let d = x.width;
        assert_eq!(x.count, self.targets.len(), "want one target per row");
        let counted = self.targets.iter().filter(|t| **t >= 0).count().max(1);
        let mut logits = vec![0.0; BLOCK.min(x.count) * vocab];
        let of_weights = self.keep && self.of_weights.load(Ordering::Relaxed);
        let mut dx = vec![0.0; if self.keep { x.count * d } else { 0 }];
        let mut dw = vec![0.0; if of_weights { vocab * d } else { 0 }];
        let mut loss = 0.0f64;
        for from in (0..x.count).step_by(BLOCK) {
            let m = BLOCK.min(x.count - from);
            let rows = Rows { data: &x.data[from * x.stride..], count: m, ..x };
            let logits = &mut logits[..m * vocab];
            linear(cx, rows, Weights::F32(w), None, logits);
            let mut losses = vec![0.0; m];
            let tasks = logits.chunks_mut(vocab).zip(&self.targets[from..]).zip(&mut losses);
            cx.team.for_each(tasks, |((row, target), loss)| *loss = softmax_loss(cx, row, *target, counted));
            loss += losses.iter().sum::<f64>();
            if self.keep {
                let size = Sizes { m, n: d, k: vocab };
                let out = &mut dx[from * d..(from + m) * d];
                matmul(cx, size, Matrix::rows(logits, vocab), Matrix::rows(w, d), Accumulate::Replace, out, d);
            }
            if of_weights {
                let size = Sizes { m: vocab, n: d, k: m };
                let rows = Matrix::rows(rows.data, rows.stride);
                matmul(cx, size, Matrix::rows(logits, vocab).t(), rows, Accumulate::Add, &mut dw, d);
            }
        }
        if self.keep {
            *self.gradients.lock().unwrap_or_else(|e| e.into_inner()) = Some((dx, dw));
        }
        vec![Plain::new([1], vec![(loss / counted as f64) as f32])]
    }

    fn will_be_differentiated(&self, wanted: &[bool]) {
        self.of_weights.store(wanted[1], Ordering::Relaxed);
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], _: &Cx) -> Vec<Plain> {
        let kept = self.gradients.lock().unwrap_or_else(|e| e.into_inner()).take();
        let (mut dx, mut dw) = kept.expect("autodiff stores the gradient and requests it once");
        let by = d_out[0].data[0];
        if by != 1.0 {
            dx.iter_mut().chain(&mut dw).for_each(|d| *d *= by);
        }
        let dw = if dw.is_empty() { Plain::new([0], dw) } else { Plain::new(inputs.shape(1), dw) };
        vec![Plain::new(inputs.shape(0), dx), dw]
    }
}

/// The loss of one row, whose logits are replaced by their gradient.
fn softmax_loss(cx: &Cx, row: &mut [f32], target: i64, counted: usize) -> f64 {
    let Ok(target) = usize::try_from(target) else {
        row.fill(0.0);
        return 0.0;
    };
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let chosen = row[target] - most;
    row.iter_mut().for_each(|x| *x -= most);
    longreach_simd::math::exp_slice(cx, row);
    let sum: f64 = row.chunks(64).map(|part| part.iter().sum::<f32>() as f64).sum();
    let by = (1.0 / (sum * counted as f64)) as f32;
    row.iter_mut().for_each(|p| *p *= by);
    row[target] -= 1.0 / counted as f32;
    sum.ln() - chosen as f64
}
