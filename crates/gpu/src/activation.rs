//! Activation functions, alone or as a gate, and their gradients.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe"
)]

use cubecl::prelude::*;
use longreach_simd::activation::Activation;

use crate::device::Device;
use crate::error::{Error, shape};
use crate::launch::{buffer, elementwise, launch};
use crate::softmax::narrowed;
use crate::tile::load::{Store, read};
use crate::tile::row::UNITS;
use crate::view::View;

/// What the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Function {
    Gelu,
    GeluTanh,
    Relu,
    Relu2,
    Silu,
    Tanh,
}

impl From<Activation> for Function {
    fn from(of: Activation) -> Self {
        match of {
            Activation::Gelu => Self::Gelu,
            Activation::GeluTanh => Self::GeluTanh,
            Activation::Relu => Self::Relu,
            Activation::Relu2 => Self::Relu2,
            Activation::Silu => Self::Silu,
            Activation::Tanh => Self::Tanh,
        }
    }
}

/// `f(x)`, of the shape and type of `x`.
pub fn forward(device: &Device, x: &View, f: Activation) -> Result<View, Error> {
    device.facts().check("activation", "x", x.dtype())?;
    run(device, [x, x, x], f, Form::Plain)
}

/// `f(a) ⊙ b`, as in SwiGLU (Shazeer 2020). Errors if shapes or types differ.
pub fn gated(device: &Device, a: &View, b: &View, f: Activation) -> Result<View, Error> {
    shape("activation", "b", a.shape(), b.shape())?;
    a.same_type("activation", "b", b)?;
    device.facts().check("activation", "a", a.dtype())?;
    run(device, [a, b, a], f, Form::Gated)
}

/// The gradient of [`forward`], `f'(x) ⊙ dy`.
pub fn backward(device: &Device, x: &View, f: Activation, d: &View) -> Result<View, Error> {
    shape("activation", "dy", x.shape(), d.shape())?;
    x.same_type("activation", "dy", d)?;
    run(device, [x, x, d], f, Form::Slope)
}

/// The gradients of [`gated`] with respect to `a` and `b`.
pub fn gated_backward(device: &Device, a: &View, b: &View, f: Activation, d: &View) -> Result<[View; 2], Error> {
    for (name, other) in [("b", b), ("dy", d)] {
        shape("activation", name, a.shape(), other.shape())?;
        a.same_type("activation", name, other)?;
    }
    Ok([run(device, [a, b, d], f, Form::GatedSlope)?, run(device, [a, d, d], f, Form::Gated)?])
}

/// What is computed of `a`, `b` and `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    /// `f(a)`
    Plain,
    /// `f(a) b`
    Gated,
    /// `f'(a) d`
    Slope,
    /// `f'(a) b d`
    GatedSlope,
}

fn run(device: &Device, [a, b, d]: [&View; 3], f: Activation, form: Form) -> Result<View, Error> {
    let out = View::empty(device, a.shape(), a.written(device));
    if !out.is_empty() {
        let (elem, store) = a.stored(device);
        launch!(
            "units beyond the last element return, and the inputs have the shape of the output",
            activation_kernel on device,
            elementwise(device, out.len()),
            CubeDim::new_1d(UNITS),
            buffer(device, a),
            buffer(device, b),
            buffer(device, d),
            buffer(device, &out),
            f.into(),
            form,
            store,
            elem,
            out.stored(device).0,
        );
    }
    narrowed(device, out, a.dtype())
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn activation_kernel<E: Numeric, O: Numeric>(
    a: &[E],
    b: &[E],
    d: &[E],
    out: &mut [O],
    #[comptime] f: Function,
    #[comptime] form: Form,
    #[comptime] store: Store,
    #[define(E)] _elem: ElemType,
    #[define(O)] _out: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < out.len() {
        let x = read::<E>(a, at, store);
        let mut value = 1.0f32;
        if comptime!(form == Form::Gated || form == Form::GatedSlope) {
            value = read::<E>(b, at, store);
        }
        if comptime!(form == Form::Plain || form == Form::Gated) {
            value *= function(x, f);
        } else {
            value *= slope(x, f) * read::<E>(d, at, store);
        }
        out[at] = O::cast_from(value);
    }
}

/// `√(2/π)`
const ROOT: f32 = 0.797_884_6;

/// `1 / (1 + e^{-x})`, without an overflow.
#[cube]
pub(crate) fn sigmoid(x: f32) -> f32 {
    let e = f32::exp(-f32::abs(x));
    select(x >= 0.0f32, 1.0f32, e) / (1.0f32 + e)
}

/// The hyperbolic tangent, without the overflow that drivers' may have.
#[cube]
fn tanh(x: f32) -> f32 {
    let e = f32::exp(-2.0f32 * f32::abs(x));
    let value = (1.0f32 - e) / (1.0f32 + e);
    // The quotient loses digits where the tangent is nearly linear.
    let square = x * x;
    let near = x * (1.0f32 + square * (-0.333_333_34f32 + square * (0.133_333_34f32 - square * 0.053_968_254f32)));
    select(square < 0.01f32, near, select(x < 0.0f32, -value, value))
}

/// The normal distribution function: half of `erfc(|x|/√2)`, or one minus it. Press et al., Numerical Recipes, §6.2.
#[cube]
fn normal(x: f32) -> f32 {
    let a = f32::abs(x) * 0.707_106_77f32;
    let t = 1.0f32 / (1.0f32 + 0.5f32 * a);
    let mut p = 0.170_872_77f32;
    p = p * t - 0.822_152_23f32;
    p = p * t + 1.488_515_9f32;
    p = p * t - 1.135_204f32;
    p = p * t + 0.278_868_07f32;
    p = p * t - 0.186_288_06f32;
    p = p * t + 0.096_784_18f32;
    p = p * t + 0.374_091_96f32;
    p = p * t + 1.000_023_7f32;
    p = p * t - 1.265_512_2f32;
    let tail = 0.5f32 * t * f32::exp(p - a * a);
    select(x < 0.0f32, tail, 1.0f32 - tail)
}

#[cube]
fn function(x: f32, #[comptime] f: Function) -> f32 {
    match comptime!(f) {
        Function::Gelu => x * normal(x),
        Function::GeluTanh => {
            let inside = ROOT * x * (1.0f32 + 0.044_715f32 * x * x);
            0.5f32 * x * (1.0f32 + tanh(inside))
        }
        Function::Relu => select(x > 0.0f32, x, 0.0f32),
        Function::Relu2 => select(x > 0.0f32, x * x, 0.0f32),
        Function::Silu => x * sigmoid(x),
        Function::Tanh => tanh(x),
    }
}

#[cube]
fn slope(x: f32, #[comptime] f: Function) -> f32 {
    match comptime!(f) {
        // `1/√(2π)`, the density's factor.
        Function::Gelu => normal(x) + x * 0.398_942_3f32 * f32::exp(-0.5f32 * x * x),
        Function::GeluTanh => {
            let bent = tanh(ROOT * x * (1.0f32 + 0.044_715f32 * x * x));
            let inner = ROOT * (1.0f32 + 0.134_145f32 * x * x);
            0.5f32 * (1.0f32 + bent) + 0.5f32 * x * (1.0f32 - bent * bent) * inner
        }
        Function::Relu => select(x > 0.0f32, 1.0f32, 0.0f32),
        Function::Relu2 => select(x > 0.0f32, 2.0f32 * x, 0.0f32),
        Function::Silu => {
            let s = sigmoid(x);
            s * (1.0f32 + x * (1.0f32 - s))
        }
        Function::Tanh => {
            let bent = tanh(x);
            1.0f32 - bent * bent
        }
    }
}
