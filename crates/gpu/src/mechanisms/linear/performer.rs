//! Performer (FAVOR+): random features whose products are the softmax kernel on average.
//!
//! The products with the random rows and their gradients are sums of a formula, not tiles: each reads `K` numbers of a
//! token for each row.

use longreach_attention::Sequences;
pub use longreach_attention::linear::performer::Kernel;

use super::features::{Call, Floor};
use crate::convert::{narrowed_to, widened};
use crate::device::Device;
use crate::error::{Error, shape};
use crate::formula::{Access, Formula, Sizes, formula, sum_of_tokens};
use crate::view::View;

const OP: &str = "performer";

/// The inputs, as in [`longreach_attention::linear::performer`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, G, K]`
    pub q: &'a View,
    /// `[B, T, G, K]`
    pub k: &'a View,
    /// `[B, T, H, V]`
    pub v: &'a View,
    /// The random rows, `[M, K]`
    pub w: &'a View,
    /// The kernel.
    pub kernel: Kernel,
    /// `ε`
    pub epsilon: f64,
    /// Whether attention is causal.
    pub causal: bool,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, G, K]`
    pub q: View,
    /// `[B, T, G, K]`
    pub k: View,
    /// `[B, T, H, V]`
    pub v: View,
    /// `[M, K]`
    pub w: View,
    /// To the state before the first token
    pub state: View,
}

/// The sizes of a map of rows.
#[derive(Clone, Copy, Debug)]
struct Dims {
    rows: usize,
    k: usize,
    m: usize,
    features: usize,
    /// `K^{-1/4}`
    by: f32,
    root: f32,
}

impl Inputs<'_> {
    fn call(&self) -> Call<'_> {
        let floor = Some(Floor::Add(0.0));
        Call { op: OP, floor, causal: self.causal, scale: 1.0, sequences: self.sequences }
    }

    fn dims(&self, x: &View) -> Result<Dims, Error> {
        let k = x.shape().last().copied().unwrap_or(0);
        let m = self.w.shape().first().copied().unwrap_or(0);
        shape(OP, "w", &[m, k], self.w.shape())?;
        let features = self.kernel.features(m);
        let root = if self.kernel == Kernel::Relu { 1.0 } else { (features as f32).powf(-0.5) };
        Ok(Dims { rows: x.len() / k.max(1), k, m, features, by: (k as f32).powf(-0.25), root })
    }

    /// The features of rows in f32, and `w` in f32.
    fn apply(&self, device: &Device, name: &'static str, x: &View) -> Result<View, Error> {
        let Dims { rows, k, m, features, by, root } = self.dims(x)?;
        let (x, w) = (&widened(OP, device, name, x)?, &widened(OP, device, "w", self.w)?);
        let channel = Access::rows(0, 1, k).as_terms();
        let product = channel.get() * Access { channel: k, term: 1, ..Access::one(1) }.get() * by;
        let products = formula(OP, device, &[x, w], &product, Sizes::new(rows, 1, m).summed(k), &[rows, m])?;
        let square = channel.get() * channel.get() * (by * by / 2.0);
        let halves = formula(OP, device, &[x], &square, Sizes::new(rows, 1, 1).summed(k), &[rows])?;
        let product = || Access::rows(0, 1, m).get();
        let signed = Formula::below(m, product(), Formula::from(0.0) - product());
        let epsilon = self.epsilon as f32;
        let of = match self.kernel {
            Kernel::Relu => product().max(0.0) + epsilon,
            _ => ((signed - Access::heads(1, 1).get()).exp() + epsilon) * root,
        };
        let shape = [&x.shape()[..x.shape().len().saturating_sub(1)], &[features]].concat();
        formula(OP, device, &[&products, &halves], &of, Sizes::new(rows, 1, features), &shape)
    }

    /// The gradients to rows and to `w`, given the features and the gradient to them.
    fn slope(&self, device: &Device, name: &'static str, x: &View, f: &View, d: &View) -> Result<[View; 2], Error> {
        let Dims { rows, k, m, features, by, root } = self.dims(x)?;
        let (wide, w) = (&widened(OP, device, name, x)?, &widened(OP, device, "w", self.w)?);
        let epsilon = self.epsilon as f32;
        let row = |n| Access { modulus: m.max(1), ..Access::rows(n, 1, features) };
        let exponent = |f: Access, d: Access| (f.get() - root * epsilon) * d.get();
        let upper = |n| Access { offset: m, ..row(n) };
        let of_product = match self.kernel {
            Kernel::Relu => (row(0).get() - epsilon).positive(row(1).get(), 0.0),
            Kernel::Softmax => exponent(row(0), row(1)),
            Kernel::Hyperbolic => exponent(row(0), row(1)) - exponent(upper(0), upper(1)),
        };
        let products = formula(OP, device, &[f, d], &of_product, Sizes::new(rows, 1, m), &[rows, m])?;
        let all = match self.kernel {
            Kernel::Relu => Formula::from(0.0),
            _ => exponent(Access::rows(0, 1, features).as_terms(), Access::rows(1, 1, features).as_terms()),
        };
        let halves = formula(OP, device, &[f, d], &all, Sizes::new(rows, 1, 1).summed(features), &[rows])?;
        // To the scaled rows x', then to the rows.
        let of = Access::rows(0, 1, m).as_terms().get() * Access { channel: 1, term: k, ..Access::one(1) }.get();
        let through = formula(OP, device, &[&products, w], &of, Sizes::new(rows, 1, k).summed(m), &[rows, k])?;
        let of = (Access::rows(0, 1, k).get() - Access::heads(1, 1).get() * Access::rows(2, 1, k).get() * by) * by;
        let dx = formula(OP, device, &[&through, &halves, wide], &of, Sizes::new(rows, 1, k), x.shape())?;
        // To each random row, first of blocks of tokens.
        const BLOCK: usize = 64;
        let left = Access { token: BLOCK * m, term: m, channel: 1, divide: k.max(1), ..Access::one(0) };
        let right = Access { token: BLOCK * k, term: k, channel: 1, modulus: k.max(1), ..Access::one(1) };
        let blocks = Sizes { terms: BLOCK, all: rows, ..Sizes::new(rows.div_ceil(BLOCK), 1, m * k) };
        let of = Access { modulus: m.max(1), ..left }.get() * right.get() * by;
        let partial = formula(OP, device, &[&products, wide], &of, blocks, &[blocks.tokens, m * k])?;
        let dw = sum_of_tokens(OP, device, &partial, blocks.tokens, m * k, &[m, k])?;
        Ok([narrowed_to(OP, device, &dx, x.dtype())?, dw])
    }
}

/// Returns the outputs, `[B, T, H, V]`, and the states after the last tokens.
pub fn forward(device: &Device, x: &Inputs<'_>, state: &View) -> Result<(View, View), Error> {
    let (q, k) = (x.apply(device, "q", x.q)?, x.apply(device, "k", x.k)?);
    x.call().forward(device, [&q, &k], x.v, state)
}

/// Returns the gradients: those of the scan, then through the division and the features.
pub fn backward(device: &Device, x: &Inputs<'_>, state: &View, d_o: &View, d_state: &View) -> Result<Gradient, Error> {
    let (q, k) = (x.apply(device, "q", x.q)?, x.apply(device, "k", x.k)?);
    let [dq, dk, v, state] = x.call().backward(device, [&q, &k], x.v, state, [d_o, d_state])?;
    let [q, of_q] = x.slope(device, "q", x.q, &q, &dq)?;
    let [k, of_k] = x.slope(device, "k", x.k, &k, &dk)?;
    let number = |n| Access { token: 1, ..Access::one(n) }.get();
    let w = formula(OP, device, &[&of_q, &of_k], &(number(0) + number(1)), Sizes::new(of_q.len(), 1, 1), of_q.shape())?;
    Ok(Gradient { q, k, v, w: narrowed_to(OP, device, &w, x.w.dtype())?, state })
}
