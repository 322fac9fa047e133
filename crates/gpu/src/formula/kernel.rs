//! The kernel: a unit computes a number.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::too_many_arguments,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe; kernels take buffers one by one"
)]

use cubecl::prelude::*;

use super::{Access, Formula, One, Two};

/// What the kernel is compiled for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Compiled {
    /// The formula.
    pub(crate) of: Formula,
    /// `H`
    pub(crate) heads: usize,
    /// Channels.
    pub(crate) width: usize,
    /// Whether terms are summed.
    pub(crate) sums: bool,
}

#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn formula(
    inputs: Sequence<Box<[f32]>>,
    out: &mut [f32],
    count: u32,
    terms: u32,
    all: u32,
    #[comptime] compiled: Compiled,
) {
    let at = (CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize) * 256 + UNIT_POS as usize;
    if at < count as usize {
        let channel = at % comptime!(compiled.width);
        let head = at / comptime!(compiled.width) % comptime!(compiled.heads);
        let token = at / comptime!(compiled.width * compiled.heads);
        let heads = comptime!(compiled.heads);
        if comptime!(compiled.sums) {
            let first = token * terms as usize;
            // In blocks, so that the rounding of long sums grows with their number and not with that of the terms.
            let mut sum = 0.0f32;
            let mut block = 0.0f32;
            for j in 0..min(terms as usize, all as usize - first) {
                block += value(&inputs, token, head, channel, j, heads, comptime!(compiled.of.clone()));
                if j % 16 == 15 {
                    sum += block;
                    block = 0.0f32;
                }
            }
            sum += block;
            out[at] = sum;
        } else {
            out[at] = value(&inputs, token, head, channel, 0, heads, comptime!(compiled.of.clone()));
        }
    }
}

/// The value of a formula.
#[cube]
fn value(
    inputs: &Sequence<Box<[f32]>>,
    t: usize,
    h: usize,
    i: usize,
    j: usize,
    #[comptime] heads: usize,
    #[comptime] of: Formula,
) -> f32 {
    if comptime!(matches!(of, Formula::Get(_))) {
        let x = comptime!(access(&of));
        let mut at = t * comptime!(x.token) + j * comptime!(x.term) + comptime!(x.offset);
        if comptime!(x.head > 0) {
            at += h * comptime!(x.heads) / heads * comptime!(x.head);
        }
        if comptime!(x.channel > 0) {
            let mut channel = i;
            if comptime!(x.shift > 0) {
                channel -= comptime!(x.shift);
            }
            if comptime!(x.divide > 1) {
                channel /= comptime!(x.divide);
            }
            if comptime!(x.modulus < usize::MAX) {
                channel %= comptime!(x.modulus);
            }
            at += channel * comptime!(x.channel);
        }
        inputs[comptime!(x.input)][at]
    } else if comptime!(matches!(of, Formula::Number(_))) {
        comptime!(number(&of)).runtime()
    } else if comptime!(matches!(of, Formula::Below(..))) {
        if i < comptime!(channel_of(&of)) {
            value(inputs, t, h, i, j, heads, comptime!(part(&of, 0)))
        } else {
            value(inputs, t, h, i, j, heads, comptime!(part(&of, 1)))
        }
    } else if comptime!(matches!(of, Formula::Positive(..))) {
        let x = value(inputs, t, h, i, j, heads, comptime!(part(&of, 0)));
        let then = value(inputs, t, h, i, j, heads, comptime!(part(&of, 1)));
        let other = value(inputs, t, h, i, j, heads, comptime!(part(&of, 2)));
        select(x > 0.0f32, then, other)
    } else if comptime!(matches!(of, Formula::Two(..))) {
        let x = value(inputs, t, h, i, j, heads, comptime!(part(&of, 0)));
        let y = value(inputs, t, h, i, j, heads, comptime!(part(&of, 1)));
        two(x, y, comptime!(two_of(&of)))
    } else {
        let x = value(inputs, t, h, i, j, heads, comptime!(part(&of, 0)));
        one(x, comptime!(one_of(&of)))
    }
}

fn access(of: &Formula) -> Access {
    if let Formula::Get(x) = of { *x } else { Access::one(0) }
}

fn number(of: &Formula) -> f32 {
    if let Formula::Number(bits) = of { f32::from_bits(*bits) } else { 0.0 }
}

fn channel_of(of: &Formula) -> usize {
    if let Formula::Below(channel, ..) = of { *channel } else { 0 }
}

fn two_of(of: &Formula) -> Two {
    if let Formula::Two(two, ..) = of { *two } else { Two::Add }
}

fn one_of(of: &Formula) -> One {
    if let Formula::One(one, _) = of { *one } else { One::Exp }
}

/// Part `n` of a formula.
fn part(of: &Formula, n: usize) -> Formula {
    let parts: [Option<&Formula>; 3] = match of {
        Formula::Get(_) | Formula::Number(_) => [None; 3],
        Formula::One(_, x) => [Some(x), None, None],
        Formula::Below(_, x, y) | Formula::Two(_, x, y) => [Some(x), Some(y), None],
        Formula::Positive(x, y, z) => [Some(x), Some(y), Some(z)],
    };
    parts[n].cloned().unwrap_or(Formula::Number(0))
}

#[cube]
fn two(x: f32, y: f32, #[comptime] of: Two) -> f32 {
    if comptime!(of == Two::Add) {
        x + y
    } else if comptime!(of == Two::Sub) {
        x - y
    } else if comptime!(of == Two::Mul) {
        x * y
    } else if comptime!(of == Two::Div) {
        x / y
    } else if comptime!(of == Two::Max) {
        max(x, y)
    } else {
        min(x, y)
    }
}

#[cube]
fn one(x: f32, #[comptime] of: One) -> f32 {
    if comptime!(of == One::Exp) {
        x.exp()
    } else if comptime!(of == One::ExpM1) {
        exp_m1(x)
    } else if comptime!(of == One::Softplus) {
        softplus(x)
    } else if comptime!(of == One::Sigmoid) {
        sigmoid(x)
    } else if comptime!(of == One::Sin) {
        x.sin()
    } else {
        x.cos()
    }
}

/// `1 / (1 + e⁻ˣ)`
#[cube]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0f32 / (1.0f32 + (0.0f32 - x).exp())
}

/// `ln (1 + eˣ)`: `max(x, 0) + ln (1 + e^{-|x|})`, whose logarithm is a series where its argument is near 1.
#[cube]
pub(crate) fn softplus(x: f32) -> f32 {
    let small = (0.0f32 - x.abs()).exp();
    // 2 artanh(s / (2 + s)) = ln (1 + s)
    let z = small / (2.0f32 + small);
    let z2 = z * z;
    let series = 2.0f32
        * z
        * (1.0f32
            + z2 * (0.33333334f32
                + z2 * (0.2f32
                    + z2 * (0.14285715f32 + z2 * (0.11111111f32 + z2 * (0.09090909f32 + z2 * 0.07692308f32))))));
    max(x, 0.0f32) + series
}

/// `eˣ − 1`, by its series near 0.
#[cube]
pub(crate) fn exp_m1(x: f32) -> f32 {
    let series = x
        * (1.0f32
            + x * (0.5f32 + x * (0.16666667f32 + x * (0.041666668f32 + x * (0.008333334f32 + x * 0.0013888889f32)))));
    select(x.abs() < 0.25f32, series, x.exp() - 1.0f32)
}

/// Writes a number to one of several buffers.
#[cube]
pub(crate) fn put(to: &mut [f32], at: usize, value: f32) {
    to[at] = value;
}
