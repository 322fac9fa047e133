//! Formulas of each token, head and channel: activations, gates, feature maps, sums of products. A kernel is compiled for
//! a formula.
//!
//! $$ y_{thi} = \sum_j f(t, h, i, j) $$
//!
//! An [`Access`] says which number of an input belongs to `(t, h, i, j)`; without terms the sum has one, `j = 0`.

use std::ops;
use std::sync::Arc;

use crate::device::Device;
use crate::error::Error;
use crate::launch::{buffer, cubes, launch};
use crate::view::{DType, View};

pub(crate) mod kernel;

/// How an input is read: the number at
/// `offset + t · token + (h · heads / H) · head + ((i − shift) / divide % modulus) · channel + j · term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    /// The index of the input.
    pub(crate) input: usize,
    /// Where its first number is.
    pub(crate) offset: usize,
    /// Numbers between tokens.
    pub(crate) token: usize,
    /// Heads or groups of heads that it has.
    pub(crate) heads: usize,
    /// Numbers between these.
    pub(crate) head: usize,
    /// Subtracted from the channel.
    pub(crate) shift: usize,
    /// By which the channel is divided.
    pub(crate) divide: usize,
    /// Beyond which the channel begins again.
    pub(crate) modulus: usize,
    /// Numbers between channels.
    pub(crate) channel: usize,
    /// Numbers between terms.
    pub(crate) term: usize,
}

impl Access {
    /// A number that all tokens, heads and channels share.
    pub(crate) fn one(input: usize) -> Self {
        let (divide, modulus) = (1, usize::MAX);
        Self { input, offset: 0, token: 0, heads: 1, head: 0, shift: 0, divide, modulus, channel: 0, term: 0 }
    }

    /// `[tokens, heads, width]`
    pub(crate) fn rows(input: usize, heads: usize, width: usize) -> Self {
        Self { token: heads * width, heads, head: width, channel: 1, modulus: width.max(1), ..Self::one(input) }
    }

    /// `[tokens, heads]`
    pub(crate) fn heads(input: usize, heads: usize) -> Self {
        Self { token: heads, heads, head: 1, ..Self::one(input) }
    }

    /// The same for all tokens: `[heads, width]` or `[heads]`.
    pub(crate) fn shared(self) -> Self {
        Self { token: 0, ..self }
    }

    /// Reads the terms of a sum where it read channels.
    pub(crate) fn as_terms(self) -> Self {
        Self { term: self.channel, channel: 0, ..self }
    }

    /// Always reads this channel.
    pub(crate) fn at(self, channel: usize) -> Self {
        Self { offset: self.offset + channel * self.channel, channel: 0, ..self }
    }

    /// As a formula.
    pub(crate) fn get(self) -> Formula {
        Formula::Get(self)
    }
}

/// A formula; made of its parts by operators.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Formula {
    /// A number of an input.
    Get(Access),
    /// A constant, by its bits.
    Number(u32),
    /// The first formula for channels below a number, the second for others.
    Below(usize, Arc<Formula>, Arc<Formula>),
    /// The second formula where the first is above 0, the third elsewhere.
    Positive(Arc<Formula>, Arc<Formula>, Arc<Formula>),
    /// An operation on two formulas.
    Two(Two, Arc<Formula>, Arc<Formula>),
    /// A function of a formula.
    One(One, Arc<Formula>),
}

/// An operation on two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Two {
    /// `a + b`
    Add,
    /// `a − b`
    Sub,
    /// `a b`
    Mul,
    /// `a / b`
    Div,
    /// The larger.
    Max,
    /// The smaller.
    Min,
}

/// A function of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum One {
    /// `eˣ`
    Exp,
    /// `eˣ − 1`, exact near 0
    ExpM1,
    /// `ln (1 + eˣ)`
    Softplus,
    /// `1 / (1 + e⁻ˣ)`
    Sigmoid,
    /// The sine.
    Sin,
    /// The cosine.
    Cos,
}

impl Formula {
    fn one(self, of: One) -> Self {
        Self::One(of, Arc::new(self))
    }

    fn two(self, of: Two, other: Self) -> Self {
        Self::Two(of, Arc::new(self), Arc::new(other))
    }

    /// `eˣ`
    pub(crate) fn exp(self) -> Self {
        self.one(One::Exp)
    }

    /// `eˣ − 1`
    pub(crate) fn exp_m1(self) -> Self {
        self.one(One::ExpM1)
    }

    /// `ln (1 + eˣ)`
    pub(crate) fn softplus(self) -> Self {
        self.one(One::Softplus)
    }

    /// `1 / (1 + e⁻ˣ)`
    pub(crate) fn sigmoid(self) -> Self {
        self.one(One::Sigmoid)
    }

    /// The sine.
    pub(crate) fn sin(self) -> Self {
        self.one(One::Sin)
    }

    /// The cosine.
    pub(crate) fn cos(self) -> Self {
        self.one(One::Cos)
    }

    /// The larger of two numbers.
    pub(crate) fn max(self, other: impl Into<Self>) -> Self {
        self.two(Two::Max, other.into())
    }

    /// The smaller of two numbers.
    pub(crate) fn min(self, other: impl Into<Self>) -> Self {
        self.two(Two::Min, other.into())
    }

    /// `then` where this is above 0, `other` elsewhere.
    pub(crate) fn positive(self, then: impl Into<Self>, other: impl Into<Self>) -> Self {
        Self::Positive(Arc::new(self), Arc::new(then.into()), Arc::new(other.into()))
    }

    /// `then` for channels below `channel`, `other` for the rest.
    pub(crate) fn below(channel: usize, then: impl Into<Self>, other: impl Into<Self>) -> Self {
        Self::Below(channel, Arc::new(then.into()), Arc::new(other.into()))
    }
}

impl From<f32> for Formula {
    fn from(number: f32) -> Self {
        Self::Number(number.to_bits())
    }
}

macro_rules! operators {
    ($($trait:ident $name:ident $of:expr;)*) => {$(
        impl<F: Into<Formula>> ops::$trait<F> for Formula {
            type Output = Self;
            fn $name(self, other: F) -> Self {
                self.two($of, other.into())
            }
        }
    )*};
}

operators! {
    Add add Two::Add;
    Sub sub Two::Sub;
    Mul mul Two::Mul;
    Div div Two::Div;
}

/// The sizes of a result, and the terms of its sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Tokens, or blocks of them.
    pub(crate) tokens: usize,
    /// `H`
    pub(crate) heads: usize,
    /// Channels.
    pub(crate) width: usize,
    /// Terms of each sum.
    pub(crate) terms: usize,
    /// Terms of all tokens together: sum `t` has the terms `t · terms + j` below it.
    pub(crate) all: usize,
}

impl Sizes {
    /// `[tokens, heads, width]`, without sums.
    pub(crate) fn new(tokens: usize, heads: usize, width: usize) -> Self {
        Self { tokens, heads, width, terms: 1, all: tokens }
    }

    /// With sums of as many terms.
    pub(crate) fn summed(self, terms: usize) -> Self {
        Self { terms, all: self.tokens * terms, ..self }
    }
}

/// Units of a cube.
const UNITS: usize = 256;

/// Computes a formula of inputs in f32, in the shape `shape`, which has as many elements as the sizes say. Accesses that
/// these sizes do not bound within the inputs are an error.
pub(crate) fn formula(
    op: &'static str,
    device: &Device,
    inputs: &[&View],
    of: &Formula,
    sizes: Sizes,
    shape: &[usize],
) -> Result<View, Error> {
    let count = sizes.tokens * sizes.heads * sizes.width;
    let out = View::empty(device, shape, DType::F32);
    debug_assert_eq!(out.len(), count, "{op}: {shape:?}");
    check(op, inputs, of, &sizes)?;
    if count == 0 {
        return Ok(out);
    }
    let groups = count.div_ceil(UNITS);
    let across = groups.min(1 << 15);
    let cubes = cubes(op, device, [across, groups.div_ceil(across), 1])?;
    let compiled = kernel::Compiled { of: of.clone(), heads: sizes.heads, width: sizes.width, sums: sizes.terms != 1 };
    launch!(
        "a unit writes one number below `count`, the length of the result; `check` has bounded what is read",
        kernel::formula on device,
        cubes,
        cubecl::prelude::CubeDim::new_1d(UNITS as u32),
        inputs.iter().map(|x| buffer(device, x)).collect(),
        buffer(device, &out),
        count as u32,
        sizes.terms as u32,
        sizes.all as u32,
        compiled,
    );
    Ok(out)
}

/// Checks that all numbers that a formula reads are in the inputs.
fn check(op: &'static str, inputs: &[&View], of: &Formula, sizes: &Sizes) -> Result<(), Error> {
    let mut rest = vec![of];
    while let Some(of) = rest.pop() {
        match of {
            Formula::Get(x) => {
                let channels = (sizes.width.saturating_sub(1 + x.shift) / x.divide).min(x.modulus - 1);
                // A channel below the shift wraps around, so that only the modulus bounds it.
                let channels = if x.shift > 0 { x.modulus - 1 } else { channels };
                let last = x.offset
                    + sizes.tokens.saturating_sub(1) * x.token
                    + x.heads.saturating_sub(1) * x.head
                    + if x.channel > 0 { channels * x.channel } else { 0 }
                    + sizes.terms.saturating_sub(1) * x.term;
                let last = if sizes.all < sizes.tokens * sizes.terms && x.term > 0 {
                    last.min(
                        x.offset
                            + sizes.all.saturating_sub(1) * x.term
                            + (x.heads.max(1) - 1) * x.head
                            + channels * x.channel,
                    )
                } else {
                    last
                };
                let has = inputs.get(x.input).map_or(0, |x| x.len());
                let empty = sizes.tokens * sizes.heads * sizes.width * sizes.terms == 0;
                if !empty && last >= has {
                    let want = format!("an input {} of more than {last} numbers", x.input);
                    return Err(Error::Parameter { op, parameter: "inputs", want, found: has.to_string() });
                }
            }
            Formula::Number(_) => {}
            Formula::One(_, x) => rest.push(x),
            Formula::Below(_, x, y) | Formula::Two(_, x, y) => rest.extend([&**x, &**y]),
            Formula::Positive(x, y, z) => rest.extend([&**x, &**y, &**z]),
        }
    }
    Ok(())
}

/// The sum of `[tokens, width]` over the tokens, as `shape`: blocks of tokens first, then the blocks.
pub(crate) fn sum_of_tokens(
    op: &'static str,
    device: &Device,
    x: &View,
    tokens: usize,
    width: usize,
    shape: &[usize],
) -> Result<View, Error> {
    const BLOCK: usize = 64;
    let rows = Access { term: width, ..Access::rows(0, 1, width) };
    let blocks = Sizes { terms: BLOCK, all: tokens, ..Sizes::new(tokens.div_ceil(BLOCK), 1, width) };
    let by_block = Access { token: BLOCK * width, ..rows };
    let partial = formula(op, device, &[x], &by_block.get(), blocks, &[blocks.tokens, width])?;
    let all = Access { token: 0, ..rows };
    let sizes = Sizes { terms: blocks.tokens, all: blocks.tokens, ..Sizes::new(1, 1, width) };
    formula(op, device, &[&partial], &all.get(), sizes, shape)
}
