//! `y = x Wᵀ + b` with weights in f32 or bf16; bf16 weights are not widened in memory.

use std::sync::Arc;

use burn::tensor::Tensor;
use longreach_simd::Cx;
use longreach_simd::product::{Accumulate, Matrix, Order, Quantised, Sizes, Weights, linear_in as product, matmul};

use crate::bridge::{Call, Inputs, Operator, Plain};

/// `x: [.., in]`, `weight: [out, in]` in f32 or bf16, `bias: [out]` → `[.., out]`. Panics if the widths do not agree.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let call = Call::new().with(x).with(weight);
    match bias {
        Some(bias) => call.with(bias).run(Linear).output(),
        None => call.run(Linear).output(),
    }
}

/// The order in which a product adds up. For sequences `[B, T, .., in]` it depends on the number of tokens, so that the
/// outputs of a sequence depend neither on the others nor, for few tokens, on how many are read at once.
fn order(shape: &[usize]) -> Order {
    Order::of_rows(if shape.len() > 2 { shape[1] } else { shape[..shape.len() - 1].iter().product() })
}

/// As [`linear`] with quantised weights; the rows of `x` are rounded to 8 bits. The gradient of `x` is that of a product
/// with the weights in f32, as if nothing were rounded; the weights have none.
pub fn linear_quantised<const D: usize>(x: Tensor<D>, weight: &Arc<Quantised>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let call = Call::new().with(x);
    let op = QuantisedLinear { weight: weight.clone() };
    match bias {
        Some(bias) => call.with(bias).run(op).output(),
        None => call.run(op).output(),
    }
}

#[derive(Debug)]
struct QuantisedLinear {
    weight: Arc<Quantised>,
}

impl Operator for QuantisedLinear {
    fn name(&self) -> &str {
        "linear_quantised"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        inputs.make_rows(0);
        let mut shape = inputs.shape(0);
        shape.last_mut().into_iter().for_each(|width| *width = self.weight.shape()[0]);
        let bias = (inputs.len() > 1).then(|| inputs.contiguous(1));
        let mut y = Plain::unwritten(shape);
        product(cx, order(&inputs.shape(0)), inputs.rows(0), self.weight.weights(), bias.as_deref(), &mut y.data);
        vec![y]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let dy = &d_out[0].data;
        let [n, k] = self.weight.shape();
        let w = self.weight.dequantise(cx);
        let mut dx = Plain::unwritten(inputs.shape(0));
        let size = Sizes { m: dy.len() / n.max(1), n: k, k: n };
        matmul(cx, size, Matrix::rows(dy, n), Matrix::rows(&w, k), Accumulate::Replace, &mut dx.data, k);
        let mut gradients = vec![dx];
        if inputs.len() > 1 {
            gradients.push(of_bias(dy, n));
        }
        gradients
    }
}

#[derive(Debug)]
pub(crate) struct Linear;

impl Operator for Linear {
    fn name(&self) -> &str {
        "linear"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        inputs.make_rows(0);
        let mut shape = inputs.shape(0);
        let out = inputs.shape(1)[0];
        shape.last_mut().into_iter().for_each(|width| *width = out);
        let bias = (inputs.len() > 2).then(|| inputs.contiguous(2));
        let mut y = Plain::unwritten(shape);
        product(cx, order(&inputs.shape(0)), inputs.rows(0), inputs.weights(1), bias.as_deref(), &mut y.data);
        vec![y]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        self.backward_to(inputs, d_out, &[true; 3], cx)
    }

    fn backward_to(&self, inputs: &Inputs, d_out: &[Plain], wanted: &[bool], cx: &Cx) -> Vec<Plain> {
        let dy = &d_out[0].data;
        let (n, k) = (inputs.shape(1)[0], inputs.shape(1)[1]);
        let rows = dy.len() / n.max(1);
        let none = || Plain::new([0], Vec::new());
        let mut gradients = vec![none(), none()];
        if wanted[0] {
            let widened: Vec<f32>;
            let w = match inputs.weights(1) {
                Weights::F32(w) => w,
                Weights::Bf16(w) => {
                    widened = w.iter().map(|w| w.to_f32()).collect();
                    &widened
                }
                Weights::Int8(_) | Weights::Blocks(_) => unreachable!("a tensor is f32 or bf16"),
            };
            let mut dx = Plain::unwritten(inputs.shape(0));
            let size = Sizes { m: rows, n: k, k: n };
            matmul(cx, size, Matrix::rows(dy, n), Matrix::rows(w, k), Accumulate::Replace, &mut dx.data, k);
            gradients[0] = dx;
        }
        if wanted[1] {
            let x = inputs.contiguous(0);
            let mut dw = Plain::unwritten([n, k]);
            let size = Sizes { m: n, n: k, k: rows };
            matmul(cx, size, Matrix::rows(dy, n).t(), Matrix::rows(&x, k), Accumulate::Replace, &mut dw.data, k);
            gradients[1] = dw;
        }
        if inputs.len() > 2 {
            gradients.push(if wanted[2] { of_bias(dy, n) } else { none() });
        }
        gradients
    }
}

/// The gradient of a bias of `n` outputs: the sum of the rows of `dy`.
fn of_bias(dy: &[f32], n: usize) -> Plain {
    let mut db = vec![0.0; n];
    for row in dy.chunks(n.max(1)) {
        db.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
    }
    Plain::new([n], db)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::flex;

    #[test]
    fn a_gradient_that_is_not_wanted_is_not_computed() {
        let numbers = |n: usize, by: usize| (0..n).map(|i| ((i * by) % 7) as f32 - 3.0).collect::<Vec<_>>();
        let tensors =
            [Plain::new([4, 3], numbers(12, 5)), Plain::new([2, 3], numbers(6, 3)), Plain::new([2], numbers(2, 2))];
        let inputs = Inputs::new(tensors.into_iter().map(flex).collect());
        let dy = [Plain::new([4, 2], numbers(8, 4))];
        let cx = crate::context();
        let all = Linear.backward(&inputs, &dy, &cx);
        for wanted in [[true, false, false], [false, true, false], [true, false, true]] {
            let some = Linear.backward_to(&inputs, &dy, &wanted, &cx);
            for ((some, all), wanted) in some.iter().zip(&all).zip(wanted) {
                assert!(if wanted { some == all } else { some.data.is_empty() });
            }
        }
    }
}
