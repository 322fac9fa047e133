//! Positions within the cache: once the cache is full, a query's distance to the sinks is that in the cache.

use longreach_simd::Cx;
use ndarray::ArrayView4;

use super::Streaming;
use super::pattern::Beyond;
use crate::softmax::window::Window;
use crate::softmax::{self, Cotangent, Gradient, Inputs, Output, OutputView, merge};
use crate::{Error, error};

/// The inputs of [`chunk`]. Rotary scores depend on the distance alone: for recent keys it is that in the text, for a
/// sink that within the cache, from the position [`Streaming::place`] returns.
#[derive(Clone, Copy, Debug)]
pub struct Rolling<'a> {
    /// The recent keys, and queries, all rotated to their positions in the text.
    pub near: Inputs<'a>,
    /// The queries rotated to their positions in the cache, `[B, T, H, D]`
    pub far: ArrayView4<'a, f32>,
    /// The first `n` keys, up to `sinks`, `[B, n, G, D]`
    pub k: ArrayView4<'a, f32>,
    /// `[B, n, G, E]`
    pub v: ArrayView4<'a, f32>,
    /// The position of the first query in the text.
    pub position: usize,
}

/// The gradients with respect to the inputs of [`chunk`].
#[derive(Clone, Debug)]
pub struct Gradients {
    /// With respect to the queries rotated in the text and the recent keys.
    pub near: Gradient,
    /// With respect to the queries rotated in the cache and the sinks.
    pub far: Gradient,
}

impl Streaming {
    /// The position in the cache of the query at position `i` of the text.
    pub fn place(&self, i: usize) -> usize {
        i.min(self.sinks.saturating_add(self.recent) - 1)
    }
}

const OP: &str = "streaming";

fn parts<'a>(x: &Rolling<'a>, of: &Streaming) -> Result<(Window, Inputs<'a>, Beyond), Error> {
    error::parameter(OP, "recent", of.recent > 0, of.recent, "at least 1")?;
    error::shape(OP, "far", x.near.q.shape(), x.far.shape())?;
    let plain = x.near.bias.is_none() && x.near.alibi.is_none() && x.near.sinks.is_none() && x.near.weights.is_none();
    let plain = plain && x.near.keep.is_none() && matches!(x.near.sequences, crate::Sequences::Batch);
    error::parameter(OP, "bias, alibi, learned sinks, weights, padding or packed sequences", plain, "given", "none")?;
    let softcap = x.near.softcap;
    let far = Inputs { offset: x.position, softcap, ..Inputs::scaled(x.far, x.k, x.v, x.near.scale) };
    Ok((Window::causal(of.recent)?, far, Beyond { recent: of.recent }))
}

/// Attention of all queries over the recent keys and the sinks before them. Errors on wrong shapes.
pub fn chunk(x: &Rolling<'_>, of: &Streaming, cx: &Cx) -> Result<Output, Error> {
    let (window, far, beyond) = parts(x, of)?;
    let few = x.far.dim().1 < 8;
    let run = if few { softmax::step } else { softmax::chunk };
    merge(OP, vec![run(&x.near, &window, cx)?, run(&far, &beyond, cx)?], cx)
}

/// The gradient, from what [`chunk`] returned.
pub fn backward(
    x: &Rolling<'_>,
    of: &Streaming,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradients, Error> {
    let (window, far, beyond) = parts(x, of)?;
    Ok(Gradients {
        near: softmax::backward(&x.near, &window, output, d, cx)?,
        far: softmax::backward(&far, &beyond, output, d, cx)?,
    })
}
