//! Rotary positions: pairs of channels of each head are turned by an angle of their token (Su et al. 2021, eq. 34).
//!
//! `x: [B, T, H, D]` · `cos sin: [B or 1, T, r/2]` f32, times the magnitude; the first `r` channels turn. The angles are
//! computed by the host, in f64, as the CPU's are.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe"
)]

use cubecl::prelude::*;

use crate::device::Device;
use crate::error::{Error, most, shape};
use crate::launch::{buffer, elementwise, launch};
use crate::softmax::narrowed;
use crate::tile::load::{Store, read};
use crate::tile::row::UNITS;
use crate::view::View;

/// The cosines and sines of the tokens, and which channels are pairs.
#[derive(Clone, Debug)]
pub struct Angles {
    /// `[B or 1, T, r/2]`, f32
    pub cos: View,
    /// As `cos`
    pub sin: View,
    /// Whether pairs are neighbouring channels, instead of channels of the two halves.
    pub interleaved: bool,
}

/// The rotated heads, of the shape and type of `x`. Errors on shapes and types that do not fit.
pub fn forward(device: &Device, x: &View, angles: &Angles) -> Result<View, Error> {
    run(device, x, angles, false)
}

/// The gradient, which is turned back.
pub fn backward(device: &Device, d: &View, angles: &Angles) -> Result<View, Error> {
    run(device, d, angles, true)
}

fn run(device: &Device, x: &View, angles: &Angles, back: bool) -> Result<View, Error> {
    let [b, t, h, d] = x.shape()[..] else {
        return Err(Error::Shape { op: "rotary", input: "x", want: vec![0; 4], found: x.shape().to_vec() });
    };
    let batch = if angles.cos.shape().first() == Some(&1) { 1 } else { b };
    let half = angles.cos.shape().last().copied().unwrap_or(0);
    for (name, of) in [("cos", &angles.cos), ("sin", &angles.sin)] {
        shape("rotary", name, &[batch, t, half], of.shape())?;
        of.is_f32("rotary", name)?;
    }
    most("rotary", "the number of channels that turn", d, 2 * half)?;
    device.facts().check("rotary", "x", x.dtype())?;
    let (elem, store) = x.stored(device);
    let out = View::empty(device, x.shape(), x.written(device));
    if !out.is_empty() {
        launch!(
            "units beyond the last element return, and angles are there for each token",
            rotary_kernel on device,
            elementwise(device, out.len()),
            CubeDim::new_1d(UNITS),
            buffer(device, x),
            buffer(device, &angles.cos),
            buffer(device, &angles.sin),
            buffer(device, &out),
            // Tokens that have angles of their own.
            (batch * t) as u32,
            h as u32,
            d as u32,
            half as u32,
            angles.interleaved,
            back,
            store,
            elem,
            out.stored(device).0,
        );
    }
    narrowed(device, out, x.dtype())
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn rotary_kernel<E: Numeric, O: Numeric>(
    x: &[E],
    cos: &[f32],
    sin: &[f32],
    out: &mut [O],
    tokens: u32,
    heads: u32,
    width: u32,
    half: u32,
    #[comptime] interleaved: bool,
    #[comptime] back: bool,
    #[comptime] store: Store,
    #[define(E)] _elem: ElemType,
    #[define(O)] _out: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < out.len() {
        let channel = at % width as usize;
        let half = half as usize;
        let token = at / (width as usize * heads as usize) % tokens as usize;
        let mut value = read::<E>(x, at, store);
        if channel < 2 * half {
            // The other channel of the pair, the index of the pair, and whether this channel is the pair's second.
            let mut second = channel >= half;
            let mut pair = channel % half;
            let mut other = select(second, at - half, at + half);
            if comptime!(interleaved) {
                second = channel % 2 == 1;
                pair = channel / 2;
                other = select(second, at - 1, at + 1);
            }
            let mut s = sin[token * half + pair];
            if comptime!(back) {
                s = -s;
            }
            value = value * cos[token * half + pair] + select(second, s, -s) * read::<E>(x, other, store);
        }
        out[at] = O::cast_from(value);
    }
}
