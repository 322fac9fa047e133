//! The gradient to the gate, without the states of tokens.
//!
//! The product of a row of the state with its gradient, `m = Σ_j S_ij P_ij`, changes only by what a token reads and
//! writes. From the end of a segment, where both are known, with `m` before the decay of a token as its gradient:
//!
//! $$ dg_t = m_t + q_t dq_t - k_t dk_t - b_t db_t, \qquad m_{t-1} = dg_t + a_t da_t $$
//!
//! for each channel, or summed over them. Where the state is read before it is written, `q dq` comes with `m_{t-1}`.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::too_many_arguments,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe; kernels take buffers one by one"
)]

use cubecl::prelude::*;

use super::backward::Heads;
use super::{Flat, GateAxis};
use crate::error::Error;
use crate::formula::{Access, Formula, Sizes, formula, sum_of_tokens};
use crate::launch::{buffer, cubes, launch, words};
use crate::view::{DType, View};

/// The gradient to the gate, of its shape.
pub(super) fn gate(flat: &Flat<'_>, heads: &Heads, of: &View) -> Result<View, Error> {
    let (op, device, tokens) = (flat.x.op, flat.device, flat.tokens());
    let (h, k, v, g) = (flat.dims.h, flat.dims.k, flat.dims.v, flat.dims.g);
    let by_key = flat.axis == GateAxis::Inner;
    let width = if by_key { k } else { 1 };
    let product = |x: &View, groups: usize, d: &View| -> Result<View, Error> {
        let pair = [Access::rows(0, groups, k), Access::rows(1, h, k)];
        if by_key {
            flat.formula(&[x, d], &(pair[0].get() * pair[1].get()), k)
        } else {
            flat.sums(&[x, d], &(pair[0].as_terms().get() * pair[1].as_terms().get()), k)
        }
    };
    let of_queries = product(&flat.q, g, &heads.q)?;
    let mut minus = vec![product(&flat.k, g, &heads.k)?];
    if let Some(erased) = &heads.erased {
        minus.push(product(&flat.k, g, erased)?);
    }
    let mut after = None;
    if let (Some([a, b]), Some(da), Some(db)) = (&flat.erase, &heads.a, &heads.b) {
        minus.push(product(b, h, db)?);
        after = Some(product(a, h, da)?);
    }
    let exclusive = flat.x.bonus.is_some();
    let mut inputs: Vec<&View> = minus.iter().collect();
    let row = |n| Access::rows(n, h, width).get();
    let zero = Formula::from(0.0);
    let mut before = (0..minus.len()).fold(zero, |sum, n| sum - row(n));
    if exclusive {
        after = Some(of_queries);
    } else {
        inputs.push(&of_queries);
        before = before + row(minus.len());
    }
    let before = flat.formula(&inputs, &before, width)?;
    let segments = flat.cut.segment_count();
    let (token, head) = (h * k * v, k * v);
    let (channel, terms) = if by_key { (v, v) } else { (0, k * v) };
    let cell = |n| Access { token, heads: h, head, channel, term: 1, modulus: width, ..Access::one(n) }.get();
    let sizes = Sizes::new(segments, h, width).summed(terms);
    let [end, d_end] = &heads.ends;
    let base = formula(op, device, &[end, d_end], &(cell(0) * cell(1)), sizes, &[segments, h * width])?;
    let out = View::empty(device, &[tokens, h * width], DType::F32);
    if !out.is_empty() {
        launch!(
            "a unit has one column of the tokens of a segment",
            sums_from_end on device,
            cubes(op, device, [(h * width).div_ceil(64), segments, 1])?,
            CubeDim::new_1d(64),
            buffer(device, &before),
            after.iter().map(|x| buffer(device, x)).collect(),
            buffer(device, &base),
            words(&flat.cut.segments),
            buffer(device, &out),
            h * width,
            after.is_some(),
        );
    }
    if of.len() == tokens * h * width && of.shape().first() == Some(&tokens) {
        return Ok(out);
    }
    sum_of_tokens(op, device, &out, tokens, h * width, of.shape())
}

/// Sums from the end of each segment.
#[cube(launch_unchecked, create_dummy_kernel)]
fn sums_from_end(
    before: &[f32],
    after: Sequence<Box<[f32]>>,
    base: &[f32],
    bounds: &[u32],
    out: &mut [f32],
    #[comptime] width: usize,
    #[comptime] has_after: bool,
) {
    let at = CUBE_POS_X as usize * 64 + UNIT_POS as usize;
    let n = CUBE_POS_Y as usize;
    if at < width {
        let end = bounds[n + 1] as usize;
        let mut sum = base[n * width + at];
        for step in 0..end - bounds[n] as usize {
            let token = (end - 1 - step) * width + at;
            sum += before[token];
            out[token] = sum;
            if comptime!(has_after) {
                sum += after[0][token];
            }
        }
    }
}
