//! Attention with fewer keys: Linformer and Nyström attention.

use burn::tensor::Tensor;
use longreach_attention::lowrank::nystrom::{Padding, Start};
use longreach_attention::lowrank::{linformer as linformer_kernel, nystrom as nystrom_kernel};
use longreach_attention::softmax::{Cotangent, Output};
use longreach_simd::Cx;
use ndarray::Array2;

use crate::bridge::{Call, Inputs, Operator, Plain};
use crate::softmax::Kept;

/// The inputs of [`linformer()`].
#[derive(Clone, Debug)]
pub struct Linformer {
    /// `[B, T, H, D]`
    pub q: Tensor<4>,
    /// `[B, S, G, D]`
    pub k: Tensor<4>,
    /// `[B, S, G, E]`
    pub v: Tensor<4>,
    /// The projection of the keys, `[L, R]` with `L` at least `S`
    pub e: Tensor<2>,
    /// The projection of the values, `[L, R]`; that of the keys if `None`
    pub f: Option<Tensor<2>>,
    /// The factor of the scores.
    pub scale: f32,
}

/// The output, `[B, T, H, E]`: [`longreach_attention::lowrank::linformer`].
pub fn linformer(x: Linformer) -> Tensor<4> {
    let call = Call::new().with(x.q).with(x.k).with(x.v).with(x.e);
    let own = x.f.is_some();
    let call = match x.f {
        Some(f) => call.with(f),
        None => call,
    };
    call.run(Projected { own, scale: x.scale, kept: Kept::default() }).output()
}

#[derive(Debug)]
struct Projected {
    own: bool,
    scale: f32,
    kept: Kept<Output>,
}

impl Projected {
    fn inputs<'a>(&self, x: &'a Inputs) -> linformer_kernel::Inputs<'a> {
        let f = self.own.then(|| x.view(4));
        linformer_kernel::Inputs { q: x.view(0), k: x.view(1), v: x.view(2), e: x.view(3), f, scale: self.scale }
    }
}

impl Operator for Projected {
    fn name(&self) -> &str {
        "linformer"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let output = linformer_kernel::chunk(&self.inputs(inputs), cx).unwrap_or_else(|e| panic!("{e}"));
        self.kept.pass(output, |output| vec![Plain::array(output.out)])
    }

    fn will_be_differentiated(&self, _: &[bool]) {
        self.kept.want();
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let x = self.inputs(inputs);
        let output = self.kept.get(|| linformer_kernel::chunk(&x, cx).unwrap_or_else(|e| panic!("{e}")));
        let d = Cotangent { out: d_out[0].view(), lse: None };
        let g = linformer_kernel::backward(&x, output.view(), &d, cx).unwrap_or_else(|e| panic!("{e}"));
        let mut gradients = vec![Plain::array(g.q), Plain::array(g.k), Plain::array(g.v), Plain::array(g.e)];
        gradients.extend(g.f.map(Plain::array));
        gradients
    }
}

/// The inputs of [`nystrom()`].
#[derive(Clone, Debug)]
pub struct Nystrom {
    /// `[B, T, H, D]`
    pub q: Tensor<4>,
    /// `[B, T, H, D]`
    pub k: Tensor<4>,
    /// `[B, T, H, E]`
    pub v: Tensor<4>,
    /// A convolution filter over the values per head, `[H, width]`
    pub conv: Option<Tensor<2>>,
    /// The arguments that are not tensors.
    pub options: NystromOptions,
}

/// The arguments of [`nystrom()`] that are not tensors.
#[derive(Clone, Debug)]
pub struct NystromOptions {
    /// Which tokens are not padding, `[B, T]`
    pub keep: Option<Array2<bool>>,
    /// The number of landmarks.
    pub landmarks: usize,
    /// The number of iterations of the pseudo-inverse.
    pub iterations: usize,
    /// The scope of the maximal column sum.
    pub start: Start,
    /// How landmarks treat padding.
    pub padding: Padding,
    /// The factor of the scores.
    pub scale: f32,
}

/// The output, `[B, T, H, E]`: [`longreach_attention::lowrank::nystrom`].
pub fn nystrom(x: Nystrom) -> Tensor<4> {
    let call = Call::new().with(x.q).with(x.k).with(x.v);
    let conv = x.conv.is_some();
    let call = match x.conv {
        Some(filters) => call.with(filters),
        None => call,
    };
    call.run(Landmarks { conv, options: x.options }).output()
}

#[derive(Debug)]
struct Landmarks {
    conv: bool,
    options: NystromOptions,
}

impl Landmarks {
    fn inputs<'a>(&'a self, x: &'a Inputs) -> nystrom_kernel::Inputs<'a> {
        let NystromOptions { keep, landmarks, iterations, start, padding, scale } = &self.options;
        nystrom_kernel::Inputs {
            q: x.view(0),
            k: x.view(1),
            v: x.view(2),
            conv: self.conv.then(|| x.view(3)),
            keep: keep.as_ref().map(|keep| keep.view()),
            landmarks: *landmarks,
            iterations: *iterations,
            start: *start,
            padding: *padding,
            scale: *scale,
        }
    }
}

impl Operator for Landmarks {
    fn name(&self) -> &str {
        "nystrom"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        vec![Plain::array(nystrom_kernel::chunk(&self.inputs(inputs), cx).unwrap_or_else(|e| panic!("{e}")))]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let g = nystrom_kernel::backward(&self.inputs(inputs), d_out[0].view(), cx).unwrap_or_else(|e| panic!("{e}"));
        let mut gradients = vec![Plain::array(g.q), Plain::array(g.k), Plain::array(g.v)];
        gradients.extend(g.conv.map(Plain::array));
        gradients
    }
}
