//! The gradient, in two passes without atomics: keys and values by cells, queries by tiles. Scores are computed again from
//! the log-sum-exp.
//!
//! $$ \delta_i = do_i^\top o_i - d\mathrm{lse}_i, \quad dy_{ij} = p_{ij} (do_i^\top v_j - \delta_i), \quad
//!    dv_j = \sum_i p_{ij} do_i, \quad dk_j = s \sum_i dy_{ij} q_i, \quad dq_i = s \sum_j dy_{ij} k_j $$
//!
//! FlashAttention-2 (Dao 2023), Algorithm 2, whose queries' gradients are added by atomics; here they are computed by a
//! second walk, so that two runs agree to the bit.

use cubecl::prelude::*;

use super::Output;
use super::call::{Inputs, Listed};
use super::merge::narrowed;
use crate::device::Device;
use crate::error::{Error, shape};
use crate::launch::{buffer, cubes, launch, words};
use crate::tile::load::Store;
use crate::view::{DType, View};

mod keys;
mod pair;
mod queries;
mod small;

const OP: &str = "softmax backward";

/// The gradient of the outputs.
#[derive(Clone, Debug)]
pub struct Cotangent {
    /// `[B, T, H, E]`, of the type of the inputs
    pub out: View,
    /// `[B, T, H]`, f32; zero if absent
    pub lse: Option<View>,
}

/// The gradients of the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, H, D]`, of the type of the inputs
    pub q: View,
    /// `[B, S, G, D]`, of the type of the inputs; zero at places beyond the keys of the pattern
    pub k: View,
    /// `[B, S, G, E]`, likewise
    pub v: View,
    /// `[H]`, f32
    pub sinks: Option<View>,
    /// As the bias, f32
    pub bias: Option<View>,
}

/// The gradient of [`super::forward`], given its output. Errors on shapes and types that do not fit.
pub fn backward(device: &Device, x: &Inputs, listed: &Listed, o: &Output, d: &Cotangent) -> Result<Gradient, Error> {
    let dims = x.check(device, &listed.of)?;
    let (outputs, rows) = ([dims.b, dims.t, dims.h, dims.e], [dims.b, dims.t, dims.h]);
    shape(OP, "do", &outputs, d.out.shape())?;
    shape(OP, "o", &outputs, o.out.shape())?;
    shape(OP, "lse", &rows, o.lse.shape())?;
    for (input, view) in [("do", &d.out), ("o", &o.out)] {
        if view.dtype() != x.q.dtype() {
            return Err(Error::Type { op: OP, input, want: "the type of `q`", found: view.dtype().name() });
        }
    }
    if let Some(lse) = &d.lse {
        shape(OP, "dlse", &rows, lse.shape())?;
    }
    for (input, view) in [("lse", Some(&o.lse)), ("dlse", d.lse.as_ref())] {
        if let Some(view) = view.filter(|view| view.dtype() != DType::F32) {
            return Err(Error::Type { op: OP, input, want: "f32", found: view.dtype().name() });
        }
    }
    let (elem, store) = x.q.stored(device);
    let dtype = if store == Store::Native { x.q.dtype() } else { DType::F32 };
    let gradient = |of: &View| View::empty(device, of.shape(), dtype);
    let (dq, dk, dv) = (gradient(&x.q), gradient(&x.k), gradient(&x.v));
    let delta = small::delta(device, &o.out, d)?;
    let with = x.with(&dims, listed.plan, store);
    let none = View::empty(device, &[1], DType::F32);
    let option = |option: &Option<View>| buffer(device, option.as_ref().unwrap_or(&none));
    let dbias = x.bias.as_ref().map(|_| small::zeros(device, &[dims.b, dims.h, dims.t, dims.s]));
    let units = CubeDim::new_1d(listed.plan.units() as u32);
    if !dq.is_empty() {
        launch!(
            "the grid is that of the forward pass; rows, keys and columns are compared with their sizes before each access",
            queries::queries_kernel on device,
            cubes(OP, device, [listed.lists.tiles, dims.h, dims.b])?,
            units,
            buffer(device, &x.q),
            buffer(device, &x.k),
            buffer(device, &x.v),
            buffer(device, &d.out),
            words(&listed.words),
            option(&x.bias),
            option(&x.alibi),
            option(&x.weights),
            buffer(device, &o.lse),
            buffer(device, &delta),
            buffer(device, &dq),
            option(&dbias),
            x.scalars(&dims, listed, 1),
            with,
            elem,
            dq.stored(device).0,
        );
    }
    if !dk.is_empty() {
        launch!(
            "cells, groups and batch are the grid; rows, keys and columns are compared with their sizes before each access",
            keys::keys_kernel on device,
            cubes(OP, device, [dims.room.div_ceil(listed.plan.keys), dims.g, dims.b])?,
            units,
            buffer(device, &x.q),
            buffer(device, &x.k),
            buffer(device, &x.v),
            buffer(device, &d.out),
            words(&listed.words),
            option(&x.bias),
            option(&x.alibi),
            option(&x.weights),
            buffer(device, &o.lse),
            buffer(device, &delta),
            buffer(device, &dk),
            buffer(device, &dv),
            x.scalars(&dims, listed, 1),
            with,
            elem,
            dk.stored(device).0,
        );
    }
    let sinks = x.sinks.as_ref().map(|sinks| small::sinks(device, sinks, &o.lse, &delta)).transpose()?;
    let bias = match (&x.bias, dbias) {
        (Some(bias), Some(all)) => Some(small::reduced(device, &all, bias.shape())?),
        _ => None,
    };
    let narrow = |x: View, of: &View| narrowed(device, x, of.dtype());
    Ok(Gradient { q: narrow(dq, &x.q)?, k: narrow(dk, &x.k)?, v: narrow(dv, &x.v)?, sinks, bias })
}
