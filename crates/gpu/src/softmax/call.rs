//! What the kernels of softmax attention are given.

use std::sync::Arc;

use cubecl::prelude::*;
use longreach_attention::softmax::{Pattern, Sizes};

use super::{Lists, Within};
use crate::device::Device;
use crate::error::{Error, shape};
use crate::tile::Plan;
use crate::tile::load::Store;
use crate::view::{DType, View, Words};

const OP: &str = "softmax";

/// Queries, keys and values, and the options of scores. `q k v` have one type; the options are f32.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// `[B, T, H, D]`
    pub q: View,
    /// `[B, S, G, D]`, head `h` reads group `h / (H / G)`; more keys than the pattern has are the free places of a cache.
    pub k: View,
    /// `[B, S, G, E]`
    pub v: View,
    /// `s`, often `D^{-1/2}`
    pub scale: f32,
    /// `c` of the soft-cap `c tanh(x / c)`
    pub softcap: Option<f32>,
    /// Added to the scores, `[B or 1, H or 1, T, S]`, where `S` is that of the pattern
    pub bias: Option<View>,
    /// Slopes `m`, `[H]`: `m |i − j|` is subtracted from the scores
    pub alibi: Option<View>,
    /// One logit per head that takes part in the softmax but has no value, `[H]`
    pub sinks: Option<View>,
    /// The logarithm of how often each key counts, `[B, S]`, where `S` is that of the pattern
    pub weights: Option<View>,
}

/// A pattern over the sizes of a call, as lists on a device. It serves all calls of these sizes and widths: layers share
/// one.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The sizes.
    pub of: Sizes,
    /// How tiles are divided.
    pub plan: Plan,
    /// The lists.
    pub lists: Arc<Lists>,
    pub(super) words: Words,
}

impl Listed {
    /// Lists a pattern for heads of these widths. Errors as [`Lists::of`], and for widths over [`Plan::WIDTH`].
    pub fn new(
        device: &Device,
        pattern: &dyn Pattern,
        of: &Sizes,
        within: Within<'_>,
        widths: (usize, usize),
    ) -> Result<Self, Error> {
        Self::sum(device, &[pattern], of, within, widths)
    }

    /// As [`Listed::new`] for several patterns, see [`Lists::sum`].
    pub fn sum(
        device: &Device,
        patterns: &[&dyn Pattern],
        of: &Sizes,
        within: Within<'_>,
        widths: (usize, usize),
    ) -> Result<Self, Error> {
        let plan = Plan::softmax(OP, &device.facts().limits, widths.0, widths.1)?;
        let lists = Lists::sum(patterns, of, within, &plan)?;
        let words = Words::upload(device, &lists.words);
        Ok(Self { of: of.clone(), plan, lists: Arc::new(lists), words })
    }
}

/// The sizes of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dims {
    pub(super) b: usize,
    pub(super) t: usize,
    /// Keys of the pattern, and places of keys in the buffers.
    pub(super) s: usize,
    pub(super) room: usize,
    pub(super) h: usize,
    pub(super) g: usize,
    pub(super) d: usize,
    pub(super) e: usize,
}

impl Inputs {
    /// Attention with scale `D^{-1/2}` and no options.
    pub fn new(q: View, k: View, v: View) -> Self {
        let scale = (q.shape().last().copied().unwrap_or(1) as f32).powf(-0.5);
        Self { q, k, v, scale, softcap: None, bias: None, alibi: None, sinks: None, weights: None }
    }

    /// Checks shapes and types.
    pub(super) fn check(&self, device: &Device, of: &Sizes) -> Result<Dims, Error> {
        let (b, t, s, h) = (of.batch, of.queries.len(), of.keys, of.heads);
        let axis = |x: &View, at: usize| x.shape().get(at).copied().unwrap_or(0);
        let (d, e) = (axis(&self.q, 3), axis(&self.v, 3));
        let (room, g) = (axis(&self.k, 1), axis(&self.k, 2));
        shape(OP, "q", &[b, t, h, d], self.q.shape())?;
        shape(OP, "k", &[b, room.max(s), g, d], self.k.shape())?;
        shape(OP, "v", &[b, room, g, e], self.v.shape())?;
        if g == 0 || h % g != 0 {
            return Err(longreach_attention::Error::Groups { op: OP, heads: h, groups: g }.into());
        }
        for (name, x) in [("q", &self.q), ("k", &self.k), ("v", &self.v)] {
            device.facts().check(OP, name, x.dtype())?;
            if x.dtype() != self.q.dtype() {
                return Err(Error::Type { op: OP, input: name, want: "the type of `q`", found: x.dtype().name() });
            }
            // Kernels index by 32 bits on most devices.
            crate::error::most(OP, "the number of elements of an input", i32::MAX as usize, x.len())?;
        }
        let one = |n: usize, of: usize| if n == 1 { 1 } else { of };
        if let Some(bias) = &self.bias {
            shape(OP, "bias", &[one(axis(bias, 0), b), one(axis(bias, 1), h), t, s], bias.shape())?;
            crate::error::most(OP, "the number of elements of `bias`", i32::MAX as usize, bias.len())?;
        }
        for (name, option, want) in
            [("alibi", &self.alibi, &[h][..]), ("sinks", &self.sinks, &[h]), ("weights", &self.weights, &[b, s])]
        {
            if let Some(x) = option {
                shape(OP, name, want, x.shape())?;
            }
        }
        let options =
            [("bias", &self.bias), ("alibi", &self.alibi), ("sinks", &self.sinks), ("weights", &self.weights)];
        for (name, option) in options {
            if let Some(x) = option.as_ref().filter(|x| x.dtype() != DType::F32) {
                return Err(Error::Type { op: OP, input: name, want: "f32", found: x.dtype().name() });
            }
        }
        Ok(Dims { b, t, s, room, h, g, d, e })
    }
}

/// The sizes of a call, as kernels read them.
#[derive(CubeLaunch, CubeType)]
pub(super) struct Scalars {
    /// Queries, keys of the pattern, and places of keys.
    pub(super) t: u32,
    pub(super) s: u32,
    pub(super) room: u32,
    pub(super) h: u32,
    pub(super) g: u32,
    /// The position of the first query.
    pub(super) offset: u32,
    pub(super) tiles: u32,
    pub(super) cells: u32,
    pub(super) plane_b: u32,
    pub(super) plane_h: u32,
    pub(super) bias_b: u32,
    pub(super) bias_h: u32,
    /// Offsets of the lists.
    pub(super) order: u32,
    pub(super) start: u32,
    pub(super) column: u32,
    pub(super) entry: u32,
    pub(super) item: u32,
    pub(super) bits: u32,
    /// Parts of a list that different cubes take.
    pub(super) splits: u32,
    pub(super) scale: f32,
    pub(super) softcap: f32,
    /// −∞, which shaders cannot write as a constant.
    pub(super) none: f32,
}

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct With {
    pub(super) plan: Plan,
    pub(super) width: usize,
    pub(super) value_width: usize,
    pub(super) store: Store,
    /// Heads of a token that are rows of one tile.
    pub(super) stack: usize,
    /// Whether lists are divided among cubes, whose results are merged.
    pub(super) split: bool,
    pub(super) softcap: bool,
    pub(super) bias: bool,
    pub(super) alibi: bool,
    pub(super) sinks: bool,
    pub(super) weights: bool,
}

impl Inputs {
    pub(super) fn scalars(&self, dims: &Dims, listed: &Listed, splits: usize) -> ScalarsLaunch {
        let lists = &listed.lists;
        let bias = self.bias.as_ref().map_or((1, 1), |bias| (bias.shape()[0], bias.shape()[1]));
        let n = |n: usize| n as u32;
        ScalarsLaunch::new(
            n(dims.t),
            n(dims.s),
            n(dims.room),
            n(dims.h),
            n(dims.g),
            n(listed.of.queries.start),
            n(lists.tiles),
            n(lists.cells),
            n(lists.planes.0),
            n(lists.planes.1),
            n(bias.0),
            n(bias.1),
            n(lists.order),
            n(lists.start),
            n(lists.column),
            n(lists.entry),
            n(lists.item),
            n(lists.bits),
            n(splits),
            self.scale,
            self.softcap.unwrap_or(1.0),
            f32::NEG_INFINITY,
        )
    }

    pub(super) fn with(&self, dims: &Dims, plan: Plan, store: Store) -> With {
        With {
            plan,
            width: dims.d,
            value_width: dims.e,
            store,
            stack: 1,
            split: false,
            softcap: self.softcap.is_some(),
            bias: self.bias.is_some(),
            alibi: self.alibi.is_some(),
            sinks: self.sinks.is_some(),
            weights: self.weights.is_some(),
        }
    }
}
