//! RMS norm, plain and gated, and layer norm, optionally of a sum.

use burn::tensor::Tensor;
use longreach_simd::Cx;
use longreach_simd::norm::{Layer, Rms, Rows, layer, layer_backward, rms, rms_backward};

use crate::bridge::{Call, Inputs, Operator, Plain};

/// The RMS norm of every row of `x: [.., D]`, times `weight: [D]` if given. Zhang and Sennrich, 2019.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Option<Tensor<1>>, eps: f32) -> Tensor<D> {
    let group = x.dims()[D - 1];
    let weighted = weight.is_some();
    let call = Call::new().with(x);
    let call = match weight {
        Some(weight) => call.with(weight),
        None => call,
    };
    call.run(Norm { eps, group, weighted, gated: false }).output()
}

/// The RMS norm of `x ⊙ silu(z)` in groups of `group` channels, times `weight: [D]`. Dao and Gu, 2024, §7.1.
pub fn rms_norm_gated<const D: usize>(
    x: Tensor<D>,
    z: Tensor<D>,
    weight: Tensor<1>,
    group: usize,
    eps: f32,
) -> Tensor<D> {
    let call = Call::new().with(x).with(weight).with(z);
    call.run(Norm { eps, group, weighted: true, gated: true }).output()
}

/// The layer norm of every row of `x: [.., D]`, or of `x + r`. Ba et al., 2016.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    r: Option<Tensor<D>>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    eps: f32,
) -> Tensor<D> {
    let op = LayerNorm { eps, sum: r.is_some(), bias: bias.is_some() };
    let mut call = Call::new().with(x).with(weight);
    if let Some(bias) = bias {
        call = call.with(bias);
    }
    if let Some(r) = r {
        call = call.with(r);
    }
    call.run(op).output()
}

#[derive(Debug)]
pub(crate) struct LayerNorm {
    pub(crate) eps: f32,
    /// Whether a second input is added before the norm.
    pub(crate) sum: bool,
    pub(crate) bias: bool,
}

impl Operator for LayerNorm {
    fn name(&self) -> &str {
        "layer_norm"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let other = 2 + usize::from(self.bias);
        inputs.make_rows(0);
        if self.sum {
            inputs.make_rows(other);
        }
        let mut out = Plain::unwritten(inputs.shape(0));
        let (weight, bias) = (inputs.contiguous(1), self.bias.then(|| inputs.contiguous(2)));
        let norm = Layer { weight: &weight, bias: bias.as_deref(), eps: self.eps };
        layer(cx, norm, inputs.rows(0), self.sum.then(|| inputs.rows(other)), &mut out.data);
        vec![out]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let shape = inputs.shape(0);
        let width = shape.last().copied().unwrap_or(0);
        let (weight, bias) = (inputs.contiguous(1), self.bias.then(|| inputs.contiguous(2)));
        let x = inputs.contiguous(0);
        let r = self.sum.then(|| inputs.contiguous(2 + usize::from(self.bias)));
        let norm = Layer { weight: &weight, bias: bias.as_deref(), eps: self.eps };
        let other = r.as_deref().map(|r| Rows::contiguous(r, width));
        let g = layer_backward(cx, norm, Rows::contiguous(&x, width), other, &d_out[0].data);
        let mut gradients = vec![Plain::new(shape.clone(), g.x.clone()), Plain::new([width], g.weight)];
        if self.bias {
            gradients.push(Plain::new([width], g.bias));
        }
        if self.sum {
            gradients.push(Plain::new(shape, g.x));
        }
        gradients
    }
}

#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) eps: f32,
    pub(crate) group: usize,
    pub(crate) weighted: bool,
    pub(crate) gated: bool,
}

impl Norm {
    fn parts<'a>(&self, inputs: &'a Inputs) -> (Option<std::borrow::Cow<'a, [f32]>>, Option<Rows<'a>>) {
        (self.weighted.then(|| inputs.contiguous(1)), self.gated.then(|| inputs.rows(2)))
    }
}

impl Operator for Norm {
    fn name(&self) -> &str {
        if self.gated { "rms_norm_gated" } else { "rms_norm" }
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        inputs.make_rows(0);
        if self.gated {
            inputs.make_rows(2);
        }
        let mut out = Plain::unwritten(inputs.shape(0));
        let (weight, gate) = self.parts(inputs);
        let norm = Rms { weight: weight.as_deref(), eps: self.eps, group: self.group };
        rms(cx, norm, inputs.rows(0), gate, &mut out.data);
        vec![out]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let shape = inputs.shape(0);
        let width = shape.last().copied().unwrap_or(0);
        let weight = self.weighted.then(|| inputs.contiguous(1));
        let x = inputs.contiguous(0);
        let z = self.gated.then(|| inputs.contiguous(2));
        let norm = Rms { weight: weight.as_deref(), eps: self.eps, group: self.group };
        let gate = z.as_deref().map(|z| Rows::contiguous(z, width));
        let g = rms_backward(cx, norm, Rows::contiguous(&x, width), gate, &d_out[0].data);
        let mut gradients = vec![Plain::new(shape.clone(), g.x)];
        if self.weighted {
            gradients.push(Plain::new([width], g.weight));
        }
        if self.gated {
            gradients.push(Plain::new(shape, g.gate));
        }
        gradients
    }
}
