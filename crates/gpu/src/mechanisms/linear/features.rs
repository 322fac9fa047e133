//! Attention with a feature map: the scan without a gate over features, and the division by the sum of the weights, which
//! is one more column of the values.

use longreach_attention::Sequences;

use crate::convert::{narrowed_to, widened};
use crate::device::Device;
use crate::error::{Error, shape};
use crate::fast_weights::{self, Erase, Gate, Reads};
use crate::formula::{Access, Formula, Sizes, formula};
use crate::view::View;

/// How the denominator is kept from zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Floor {
    /// Adds a number.
    Add(f32),
    /// Bounds it from below.
    AtLeast(f32),
}

impl Floor {
    fn of(self, z: Formula) -> Formula {
        match self {
            Self::Add(floor) => z + floor,
            Self::AtLeast(floor) => z.max(floor),
        }
    }

    /// Its slope.
    fn slope(self, z: Formula) -> Formula {
        match self {
            Self::Add(_) => 1.0.into(),
            Self::AtLeast(floor) => (z - floor).positive(1.0, 0.0),
        }
    }
}

/// How an output is computed from features.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) op: &'static str,
    /// With a denominator, its floor.
    pub(super) floor: Option<Floor>,
    pub(super) causal: bool,
    pub(super) scale: f32,
    pub(super) sequences: Sequences<'a>,
}

/// The widths of a call.
#[derive(Clone, Copy, Debug)]
struct Widths {
    tokens: usize,
    h: usize,
    v: usize,
}

impl Call<'_> {
    fn widths(&self, v: &View) -> Result<Widths, Error> {
        let &[b, t, h, v] = v.shape() else {
            return Err(Error::Shape { op: self.op, input: "v", want: vec![0; 4], found: v.shape().to_vec() });
        };
        Ok(Widths { tokens: b * t, h, v })
    }

    /// The values in f32, with a column of ones for a denominator.
    fn values(&self, device: &Device, v: &View) -> Result<View, Error> {
        let Widths { tokens, h, v: width } = self.widths(v)?;
        let wide = widened(self.op, device, "v", v)?;
        if self.floor.is_none() || wide.is_empty() {
            let shape = [&v.shape()[..3], &[width + usize::from(self.floor.is_some())]].concat();
            return if wide.is_empty() { Ok(View::empty(device, &shape, wide.dtype())) } else { Ok(wide) };
        }
        let of = Formula::below(width, Access::rows(0, h, width).get(), 1.0);
        let shape = [&v.shape()[..3], &[width + 1]].concat();
        formula(self.op, device, &[&wide], &of, Sizes::new(tokens, h, width + 1), &shape)
    }

    fn kernel<'s>(&'s self, [q, k]: [&'s View; 2], v: &'s View) -> fast_weights::Inputs<'s> {
        fast_weights::Inputs {
            op: self.op,
            q,
            k,
            v,
            gate: Gate::None,
            erase: Erase::None,
            strength: None,
            skip: None,
            bonus: None,
            reads: if self.causal { Reads::Past } else { Reads::All },
            scale: self.scale,
            sequences: self.sequences,
        }
    }

    /// Returns the outputs and the state, given features in f32.
    pub(super) fn forward(
        &self,
        device: &Device,
        features: [&View; 2],
        v: &View,
        state: &View,
    ) -> Result<(View, View), Error> {
        let values = self.values(device, v)?;
        let (sums, last) = fast_weights::forward(device, &self.kernel(features, &values), state)?;
        let out = match self.floor {
            None => sums,
            Some(floor) => {
                let Widths { tokens, h, v: width } = self.widths(v)?;
                let row = Access { modulus: width.max(1), ..Access::rows(0, h, width + 1) };
                let of = row.get() / floor.of(Access::rows(0, h, width + 1).at(width).get());
                formula(self.op, device, &[&sums], &of, Sizes::new(tokens, h, width), v.shape())?
            }
        };
        Ok((narrowed_to(self.op, device, &out, v.dtype())?, last))
    }

    /// Returns the gradients to the features, in f32, to the values, and to the state before the first token.
    pub(super) fn backward(
        &self,
        device: &Device,
        features: [&View; 2],
        v: &View,
        state: &View,
        [d_o, d_state]: [&View; 2],
    ) -> Result<[View; 4], Error> {
        shape(self.op, "do", v.shape(), d_o.shape())?;
        let Widths { tokens, h, v: width } = self.widths(v)?;
        let values = self.values(device, v)?;
        let call = self.kernel(features, &values);
        let d_o = widened(self.op, device, "do", d_o)?;
        let Some(floor) = self.floor else {
            let d = fast_weights::backward(device, &call, state, &d_o, d_state)?;
            return Ok([d.q, d.k, narrowed_to(self.op, device, &d.v, v.dtype())?, d.state]);
        };
        let (sums, _) = fast_weights::forward(device, &call, state)?;
        let (of_d, of_sums) = (Access::rows(0, h, width), Access::rows(1, h, width + 1));
        let sizes = Sizes::new(tokens, h, 1).summed(width);
        let terms = Access { modulus: width.max(1), ..of_sums }.as_terms().get();
        let products = formula(self.op, device, &[&d_o, &sums], &(of_d.as_terms().get() * terms), sizes, &[tokens, h])?;
        let z = || of_sums.at(width).get();
        let last =
            (Formula::from(0.0) - Access::heads(2, h).get()) * floor.slope(z()) / (floor.of(z()) * floor.of(z()));
        let of = Formula::below(width, of_d.get() / floor.of(z()), last);
        let inputs = [&d_o, &sums, &products];
        let d_sums = formula(self.op, device, &inputs, &of, Sizes::new(tokens, h, width + 1), values.shape())?;
        let d = fast_weights::backward(device, &call, state, &d_sums, d_state)?;
        let row = Access { modulus: width.max(1), ..Access::rows(0, h, width + 1) };
        let dv = formula(self.op, device, &[&d.v], &row.get(), Sizes::new(tokens, h, width), v.shape())?;
        Ok([d.q, d.k, narrowed_to(self.op, device, &dv, v.dtype())?, d.state])
    }
}
